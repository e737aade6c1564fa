# The commands of this project. `make demo` and `make test` are all that a newcomer needs; each sets up what it lacks.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
REQUIREMENTS := requirements/dev.txt
TORCH := requirements/torch.txt
CLIENTS := requirements/clients.txt
STAMP := $(VENV)/.installed
TORCH_STAMP := $(VENV)/.torch
CLIENTS_STAMP := $(VENV)/.clients
# Processes that share the tests: one more than there are processors, because tests of agents, brokers and engines mostly wait.
# More than four would each load TensorFlow for little gain.
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || echo 1); echo $$((n < 4 ? n + 1 : 4)))

.PHONY: setup components demo test check fix bench docs golden pins system-packages clean

setup: $(STAMP)

$(STAMP): $(REQUIREMENTS) pyproject.toml
	@PYTHON="$(PYTHON)" sh scripts/setup.sh $(VENV) $(REQUIREMENTS)
	@touch $@

$(TORCH_STAMP): $(TORCH) | $(STAMP)
	@sh scripts/torch.sh $(VENV) $(TORCH)
	@touch $@

$(CLIENTS_STAMP): $(CLIENTS) | $(STAMP)
	@sh scripts/clients.sh $(VENV) $(CLIENTS)
	@touch $@

# What only the tests need: PyTorch, clients and Debian packages, where they can be had.
components: $(TORCH_STAMP) $(CLIENTS_STAMP)
	@sh scripts/system-packages.sh

demo: setup
	@$(BIN)/edgewright demo $(DEMO_ARGS)

test: setup components
	@$(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder $(TEST_ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_architecture.py

fix: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python -P $$script || exit 1; done

docs: setup
	$(BIN)/python -m sphinx -W -q -b html docs build/docs
	@echo "build/docs/index.html"

golden: setup
	EDGEWRIGHT_GOLDEN=write $(BIN)/python -m pytest -q -k golden

# Pins with hashes and no addresses (docs/adr/0002); needs uv. requirements/torch.txt is kept by hand.
pins:
	uv pip compile pyproject.toml --extra dev --extra docs --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-annotate --no-header -q -o requirements/dev.txt
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-annotate --no-header -q -o requirements/device.txt
	uv pip compile requirements/clients.in --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-annotate --no-header -q -o requirements/clients.txt

clean:
	rm -rf build dist docs/_build
