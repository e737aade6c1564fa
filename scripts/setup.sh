#!/bin/sh
# Make the virtual environment $1 from the pinned requirements $2 and put this checkout into it. Needs Python 3.11 to 3.13.
set -eu
venv=$1 requirements=$2

for candidate in "${PYTHON:-python3}" python3.11 python3.12 python3.13; do
    if command -v "$candidate" >/dev/null 2>&1 &&
        "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "${python:-}" ]; then
    echo "edgewright needs Python 3.11, 3.12 or 3.13, but none was found; install one, or name it: make setup PYTHON=/path/to/python" >&2
    exit 2
fi
if [ ! -x "$venv/bin/python" ]; then
    "$python" -m venv "$venv" || {
        echo "the venv module does not work with $python; on Debian and Ubuntu: apt-get install python3-venv" >&2
        exit 2
    }
fi
echo "installing into $venv (a few minutes the first time)"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$requirements"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
