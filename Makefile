# make demo | test | test-fast | lint: everything is installed into .venv beside this file, nothing outside the checkout.

PYTHON ?= python3
TORCH ?= torch==2.13.0

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# A file's tests share fixtures, so they stay on one worker; test/conftest.py has the long files come first. Three workers
# on two cores: many tests wait for other processes.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 --timeout 600
LINT := $(BIN)/ruff check --quiet && $(BIN)/ruff format --check --quiet && $(BIN)/mypy --no-error-summary
# Directories too: their time changes when a file goes away.
PACKAGE := CMakeLists.txt package.xml pyproject.toml setup.cfg setup.py requirements/core.txt README.md LICENSE NOTICE \
	$(shell find action config cosmos_ros data foxglove launch models msg rviz scripts srv -not -name '*.pyc' -not -name __pycache__)

# The environment is complete: what a sourced ROS left in the shell must not mix with it.
unexport AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH LD_LIBRARY_PATH PYTHONPATH RMW_IMPLEMENTATION
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE
# pytest compiles every test anew where it may not keep the result.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo install lint test test-fast clean
.DELETE_ON_ERROR:

demo: install
	$(BIN)/cosmos_ros demo

test: $(VENV)/.test
	$(PYTEST)
	$(LINT)

# For the edit loop: what needs neither other processes nor DDS nor much time.
test-fast: $(VENV)/.test
	$(PYTEST) -m 'not (processes or dds or slow)'

lint: $(VENV)/.test
	$(LINT)

install: $(VENV)/.package

# What is missing is named in one line with its remedy, before anything is downloaded.
$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: sudo apt install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "$$($(PYTHON) --version) is not supported, Python 3.10 to 3.13 is: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "Python's venv module is missing: sudo apt install python3-venv"; exit 1; }
	@for compiler in cc c++; do command -v $$compiler >/dev/null || \
		{ echo "No C++ compiler ($$compiler) to compile the ROS interfaces: sudo apt install build-essential"; exit 1; }; done
	$(PYTHON) -m venv $(VENV)
	@touch $(VENV)/COLCON_IGNORE

# A torch that is already there, whichever build, is kept. Otherwise the CPU build, where the index in use has one;
# PyPI itself only has the build that brings CUDA along.
$(VENV)/.torch: | $(BIN)/python
	@$(BIN)/python -c 'import torch' 2>/dev/null || \
		$(PIP) '$(TORCH)+cpu' 2>/dev/null || \
		{ echo "This index has no CPU build of $(TORCH): taking the one with CUDA (gigabytes); the README names a way"; \
		$(PIP) '$(TORCH)'; }
	@touch $@

$(VENV)/.ros: requirements/ros.txt | $(BIN)/python
	$(PIP) -r requirements/ros.txt
	@touch $@

$(VENV)/.package: $(PACKAGE) $(VENV)/.torch $(VENV)/.ros
	$(PIP) --no-build-isolation .
	@touch $@

$(VENV)/.test: $(wildcard requirements/*.txt) $(VENV)/.package
	$(PIP) -r requirements/test.txt
	@touch $@

clean:
	rm -rf $(VENV) build demo_output *.egg-info
