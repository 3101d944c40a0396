# `make` lists the commands. Each works alone in a fresh clone with Python >= 3.10 and make.
#
#   PYTHON       the interpreter to build .venv with, where the first one found is not the one you want
#   TORCH_INDEX  another index to take torch from, such as the one with PyTorch's CPU wheels
#   ARGS         more arguments for pytest: make test ARGS="-x -k distillation"
#   BREAKS       words of the breaks to try: make mutate BREAKS="resumption samplers"

VENV   ?= .venv
PYTHON ?= python3 python3.13 python3.12 python3.11 python3.10 python
RUN    := $(VENV)/bin/python
PIP    := $(RUN) -m pip install --disable-pip-version-check
DEMO   := runs/demo

export OMP_WAIT_POLICY := PASSIVE  # before torch starts: spinning threads starve shared cores

.DEFAULT_GOAL := help
.PHONY: help env demo test test-all test-gpu check format bench bad-input mutate docs readme clean

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: $(VENV)/installed  ## make .venv with the tested versions (the other commands do this themselves)

demo: env  ## train the phantom stream with fine-tuning and with LwfSeg, and compare the two
	$(RUN) -m lit_continual fit --config configs/finetune.yaml --trainer.default_root_dir=$(DEMO)/finetune --overwrite
	$(RUN) -m lit_continual fit --config configs/lwfseg.yaml --trainer.default_root_dir=$(DEMO)/lwfseg --overwrite
	$(RUN) -m lit_continual report $(DEMO)/finetune $(DEMO)/lwfseg

test: env  ## run the fast tests
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m "not slow" -n auto --dist worksteal $(ARGS)

test-all: env  ## run every test; real data is found through LIT_CONTINUAL_DATA
	$(RUN) -m pytest $(ARGS)

test-gpu: env  ## run the tests that need a GPU
	$(RUN) -m pytest -m gpu $(ARGS)
	TEST_ACCELERATOR=gpu $(RUN) -m pytest tests/methods/test_contract.py -m "not slow" $(ARGS)
	TEST_ACCELERATOR=gpu $(RUN) -m pytest tests/test_configs.py -k as_it_is $(ARGS)

check: env  ## lint, format and types, without changing a file
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: env  ## mend lint and format
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

bench: export OMP_NUM_THREADS := 1  # threads that share a core count waiting as work
bench: env  ## print step time and memory relative to bare PyTorch
	@failed=; for script in tests/benchmarks/bench_*.py; do \
	  test -e "$$script" || { echo "There is no tests/benchmarks/bench_*.py." >&2; exit 1; }; \
	  echo "== $$script"; $(RUN) "$$script" || failed="$$failed $$script"; done; \
	test -z "$$failed" || { echo "Failed:$$failed" >&2; exit 1; }

bad-input: env  ## count the kinds of bad input that the fast tests try, and what is said of each
	OMP_NUM_THREADS=1 $(RUN) tests/bad_input.py $(ARGS)

mutate: env  ## break the package by hand, one line at a time, and count what the tests find
	$(RUN) tests/mutations.py $(BREAKS)

docs: $(VENV)/installed-docs  ## build the documentation into site/
	$(RUN) -m mkdocs build --strict

readme: env  ## make the README's picture and table from finished runs: RUNS="runs/a runs/b"
	$(RUN) docs/make_readme.py $(RUNS)

clean:  ## remove caches, builds and the demo; .venv and other runs stay
	rm -rf site dist .pytest_cache .mypy_cache .ruff_cache $(DEMO)
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +

# torch first and alone, so that TORCH_INDEX holds for it and for nothing else.
$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(PIP) $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") "$(shell grep '^torch==' constraints.txt)"
	$(PIP) -c constraints.txt -e ".[dev]"
	$(RUN) -m pip uninstall -q -y torchvision  # nnU-Net's timm asks for it and needs it not; with a torch of another build it breaks
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(PIP) -c constraints.txt -e ".[docs]"
	@touch $@

$(VENV)/bin/pip:
	@for python in $(PYTHON); do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then \
	    echo "Making $(VENV) with $$("$$python" -c 'import platform, sys; print(sys.executable, platform.python_version())')"; \
	    "$$python" -m venv $(VENV) && exit 0; \
	    rm -rf $(VENV); \
	    echo "\`$$python -m venv\` failed, see above. On Debian and Ubuntu, install python3-venv and try again." >&2; exit 1; \
	  fi; \
	done; \
	echo "Found no Python 3.10 or newer as: $(PYTHON). Install one, or name it: make env PYTHON=/path/to/python3" >&2; \
	exit 1
