# `make demo` and `make test` do all the set-up on a fresh machine.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
DEMO ?=
TEST ?=
JOBS ?= auto

.PHONY: demo test lint format docs clean

demo: $(VENV)/has-emoji
	$(BIN)/smalti demo $(DEMO)

# one process for each core, a file of tests in one of them; in order, as the slow files come first;
# bytecode is kept for the processes that tests start, and for the next run
test: $(VENV)/has-dev
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(TEST)

lint: $(VENV)/has-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/has-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# the documentation as HTML, with every link checked, in build/docs/site
docs: $(VENV)/has-docs
	$(BIN)/python docs/site/build.py

# one environment: `dev` brings all that `emoji` does
$(VENV)/has-%: pyproject.toml constraints.txt
	@echo "Setting up $(VENV) with smalti[$*]; with PyTorch this takes some minutes, once."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e ".[$*]"
	@touch $@ $(if $(filter dev,$*),$(VENV)/has-emoji)

clean:
	rm -rf $(VENV) demo
