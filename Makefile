# On a fresh machine with Python (3.10 or newer) and make:  make demo  and  make test  do everything.
PYTHON ?= python3
VENV ?= .venv
DEMO ?= nnssl_demo
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install demo test test-slow coverage matrix lint clean

help:
	@echo "make demo   install into $(VENV) and run the main job on synthetic data (about 12 minutes on two CPU cores)"
	@echo "make test   install and run the tests that are quick"
	@echo "make test-slow   the others: every method from end to end, runs that are killed, thousands of broken inputs"
	@echo "make coverage   the quick tests, and which lines they do not reach"
	@echo "make matrix     the quick tests with other versions of Python, torch and nnU-Net (.ci/matrix)"
	@echo "make lint   ruff and mypy"
	@echo "make clean  remove $(VENV) and the demo's output"

install: $(STAMP)

# The stamp makes a second call free; pip runs again only when the dependencies change.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/nnssl_demo -o $(DEMO) --overwrite

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow" $(PYTEST_ARGS)

test-slow: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadfile -m slow $(PYTEST_ARGS)

coverage: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow" --cov=nnssl --cov=planners --cov=trainers \
		--cov-report=term-missing:skip-covered $(PYTEST_ARGS)

matrix:
	.ci/matrix

# mypy cannot see that planners/ and trainers/ are installed as nnssl.planners and nnssl.trainers; a tree of links can.
TYPES := build/types/nnssl
lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p $(TYPES)
	@ln -sfn $(CURDIR)/nnssl/* $(CURDIR)/planners $(CURDIR)/trainers $(TYPES)/
	cd build/types && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml -p nnssl

clean:
	rm -rf $(VENV) $(DEMO)
