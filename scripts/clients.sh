#!/bin/sh
# Make the environment $1/clients from the pins $2, for the virtual environment $1: independent clients that the tests run.
set -eu
venv=$1 requirements=$2

echo "installing independent clients of the servers into $venv/clients for the tests (0.3 GB)"
[ -x "$venv/clients/bin/python" ] || "$venv/bin/python" -m venv "$venv/clients"
"$venv/clients/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$requirements"
