# Two commands do everything: `make demo` and `make test`. The rest is for people who work on the package.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
# pip writes one line a package; what matters is the closing summary of each target.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
export PIP_ROOT_USER_ACTION = ignore

.PHONY: demo test check test-faults bench lock clean

demo: $(VENV)/.installed-demo
	$(BIN)/python scripts/demo.py

test: $(VENV)/.installed-test
	bash scripts/system_packages.sh
	$(MAKE) --no-print-directory check
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not faults"
	$(BIN)/python scripts/notebook_tests.py

check: $(VENV)/.installed-test
	$(BIN)/ruff format --check mlcycle_nb tests benchmarks scripts
	$(BIN)/ruff check mlcycle_nb tests benchmarks scripts
	$(BIN)/mypy --strict mlcycle_nb
	$(BIN)/lint-imports

test-faults: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q -m faults
	HYPOTHESIS_PROFILE=new $(BIN)/python -m pytest -q -m "hypothesis and not faults"

# The serving figures also need wrk, a system package; without it they are left out, and that is said.
bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks

# Torch first and by itself, so that the processor-only build is kept and no gigabytes of CUDA packages come along.
$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	touch $@

$(VENV)/.installed-demo: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP) --constraint constraints.txt --editable '.[all]'
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed-demo
	$(PIP) --constraint constraints.txt --editable '.[all,test]'
	touch $@

$(VENV)/.installed-bench: $(VENV)/.installed-test
	$(PIP) --constraint constraints.txt --editable '.[all,test,bench]'
	touch $@

# Run in a fresh virtual environment after a change of pyproject.toml.
lock: $(VENV)/.installed-bench
	$(BIN)/python scripts/lock.py > constraints.txt

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis $(VENV)
