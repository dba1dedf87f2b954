# Everything a reader needs: 'make course' runs the notebooks, 'make test' runs the tests.
# Works with GNU make 3.81 and later; paths are relative, so the folder may have any name.
PYTHON ?= python3
PROFILE ?= laptop
OUT ?= build
NOTEBOOKS ?=
STAGES ?=
WORKERS ?= 2
FOLDER ?=
RERUN ?=
PIP_FLAGS ?=
PY := .venv/bin/python
STAMP := .venv/installed

.PHONY: help course test bench lab student grade check lint clean distclean
.DEFAULT_GOAL := help

help:
	@echo 'make course  run the notebooks; pages in build/index.html'
	@echo '             PROFILE=smoke|laptop|gpu (laptop)  NOTEBOOKS="03 05" (all)  OUT=folder (build)'
	@echo 'make test    run the tests, a file to each of WORKERS=2 processes'
	@echo 'make bench   measure every stage beside its floor; page in benchmarks/results/bench-cpu.md'
	@echo '             STAGES="pca zoo" (all)  OUT=file.json'
	@echo 'make lab     open the notebooks in JupyterLab'
	@echo 'make student OUT=folder    the notebooks without hints and solutions, to give away'
	@echo 'make grade FOLDER=folder   a class, a folder for each student: a table, and grades.csv'
	@echo '             NOTEBOOKS="03 05" (all)  RERUN=yes (runs the code of the students here)'
	@echo 'make check   what this machine has and lacks'
	@echo 'make lint    style and spelling of package, tests and notebooks'
	@echo 'make clean   remove build/ and caches (make distclean: .venv too)'
	@echo 'The first of these installs everything into .venv; PYTHON=python3.12 picks the Python for it.'

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'Python 3.11 or newer is needed, and "$(PYTHON)" is older or missing: try make $(MAKECMDGOALS) PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo '"$(PYTHON)" cannot make virtual environments: install its venv package (Debian, Ubuntu: python3-venv)' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -e '.[test]'
	@touch $(STAMP)

course: $(STAMP)
	@$(PY) -m dwflow_lite run --profile '$(PROFILE)' --out '$(OUT)' $(if $(strip $(NOTEBOOKS)),--notebooks $(NOTEBOOKS))

test: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

bench: $(STAMP)
	@$(PY) -m benchmarks.bench $(if $(strip $(STAGES)),--stages $(STAGES)) $(if $(filter-out file,$(origin OUT)),--out '$(OUT)')

lab: $(STAMP)
	$(PY) -m jupyterlab notebooks

student: $(STAMP)
	@$(PY) -m dwflow_lite student '$(if $(filter-out file,$(origin OUT)),$(OUT))'

grade: $(STAMP)
	@$(PY) -m dwflow_lite grade '$(FOLDER)' $(if $(strip $(NOTEBOOKS)),--notebooks $(NOTEBOOKS)) $(if $(strip $(RERUN)),--rerun)

check: $(STAMP)
	@$(PY) -m dwflow_lite check

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m codespell_lib

clean:
	rm -rf build .pytest_cache .ruff_cache *.egg-info
	find dwflow_lite tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv
