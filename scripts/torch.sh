#!/bin/sh
# Put PyTorch from the pins $2 into $1/torch, for the virtual environment $1, where the package index offers its CPU build; otherwise say
# that the tests of PyTorch models will be skipped. A folder of its own, because what finds PyTorch imports it: each start of skops, say.
set -eu
venv=$1 requirements=$2

echo "installing PyTorch into $venv for the tests of its models (0.8 GB)"
# --no-deps: its dependencies are among the other pins. --no-compile: of 2,600 files, the few that are imported are compiled then.
rm -f "$venv/torch/unavailable"
said=$("$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --require-hashes --upgrade --target "$venv/torch" -r "$requirements" 2>&1) &&
    exit 0
case $said in
*"No matching distribution found"*)
    echo "the package index has no CPU build of PyTorch for this Python: the tests of PyTorch models will be skipped" >&2
    mkdir -p "$venv/torch"
    touch "$venv/torch/unavailable" # for the tests: its absence is known
    ;;
*)
    echo "$said" >&2
    exit 1
    ;;
esac
