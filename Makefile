# Each target makes .venv and installs what it needs by itself. PYTHON chooses the interpreter:
#   make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: demo demo-cells demo-segmentation phantom test test-all test-backends test-report test-export test-faults \
  test-pythons fuzz bench lint format gpu clean help

help:
	@echo "make demo      synthetic data, training, testing: scores and pictures in a few minutes"
	@echo "make demo-cells, make demo-segmentation   the same for touching cells, and for four classes"
	@echo "make test      the tests (make test-all: the slow ones too)"
	@echo "make test-backends   the tests on JAX and OpenVINO, which it installs"
	@echo "make test-report     report.html in a headless Chromium, where one is installed"
	@echo "make test-export     exported networks in ONNX Runtime, which it installs"
	@echo "make test-faults     kills, full disks, second processes, 1,500 epochs: an hour (KILLS=8 FILES=2 EPOCHS=150: less)"
	@echo "make test-pythons    the quick tests on Python 3.10, 3.12 and 3.13, as far as they are installed"
	@echo "make fuzz MINUTES=5  damaged and malicious files of all kinds"
	@echo "make lint      checks style and format (make format: fixes what can be fixed)"
	@echo "make bench     measures speed and memory against the plain way: benchmarks/results.md, 11 minutes"
	@echo "make gpu       installs TensorFlow with CUDA"
	@echo "make clean     removes .venv, caches and everything that the demo made"

# .venv is made again whenever the list of packages changes.
$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v <= (3, 13) else \
	  "Python 3.10 to 3.13 is needed; %s is %s.%s. Use: make PYTHON=python3.12 ..." % (sys.executable, *v))'
	@$(PYTHON) -m venv --clear $(VENV) || { \
	  echo "No virtual environment could be made. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt ".[dev]"
	@touch $@

demo: phantom
	$(RUN) run_training.py demo/vessels.txt --overwrite
	$(RUN) run_testing.py demo/vessels.txt
	$(RUN) run_training.py demo/membranes.txt --overwrite
	$(RUN) run_testing.py demo/membranes.txt
	@echo "Open in a browser: demo/vessels/report.html and demo/membranes/report.html"

demo-cells demo-segmentation: demo-%: phantom
	$(RUN) run_training.py demo/$*.txt --overwrite
	$(RUN) run_testing.py demo/$*.txt
	@echo "Open in a browser: demo/$*/report.html"

phantom: $(VENV)/installed
	$(RUN) demo/prepare_datasets_phantom.py demo/phantom

# Two processes share the files of tests: each loads TensorFlow, and holds up to 1.5 GB.
PYTEST := $(RUN) -m pytest --numprocesses 2 --dist loadfile

test: $(VENV)/installed
	$(PYTEST) -m "not slow and not faults"

test-all: $(VENV)/installed
	$(PYTEST) -m "not faults"

KILLS ?= 100
FILES ?= all
EPOCHS ?= 1500
test-faults: $(VENV)/installed
	FAULT_KILLS=$(KILLS) FAULT_FILES=$(FILES) FAULT_EPOCHS=$(EPOCHS) \
	  $(RUN) -m pytest -m faults tests/test_faults.py tests/test_long_work.py -s

# Where atheris cannot be installed, hypothesis alone draws the cases.
MINUTES ?= 5
fuzz: $(VENV)/installed
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt ".[fuzz]" \
	  || echo "atheris cannot be installed here."
	$(RUN) -m tests.fuzz --minutes $(MINUTES)

# Each Python gets an environment of its own, .venv-3.10 and so on; status 1 if one of them fails.
PYTHONS ?= 3.10 3.12 3.13
test-pythons:
	@status=0; for version in $(PYTHONS); do \
	  python=$$(for one in python$$version $$HOME/.pyenv/versions/$$version.*/bin/python; do \
	    $$one -c "" 2>/dev/null && echo $$one && break; done); \
	  if [ -z "$$python" ]; then echo "Python $$version: not installed here, not tried."; continue; fi; \
	  if $(MAKE) --no-print-directory test PYTHON=$$python VENV=.venv-$$version; \
	  then echo "Python $$version: passed."; else echo "Python $$version: FAILED."; status=1; fi; \
	done; exit $$status

# Where OpenVINO cannot be installed, its rows are left out.
bench: $(VENV)/installed
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt ".[openvino]" \
	  || echo "OpenVINO cannot be installed here: its rows are left out."
	$(RUN) -m benchmarks.run

test-backends: $(VENV)/installed
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt ".[jax,openvino]"
	$(RUN) -m pytest tests/test_backends.py tests/test_distribute.py

# Debian and Ubuntu: apt install chromium chromium-driver. Without them the tests skip and say so.
test-report: $(VENV)/installed
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt ".[report]"
	$(RUN) -m pytest tests/test_report_browser.py

test-export: $(VENV)/installed
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt ".[export]"
	$(RUN) -m pytest tests/test_export.py

lint: $(VENV)/installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: $(VENV)/installed
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

gpu: $(VENV)/installed
	$(RUN) -m pip install --constraint constraints.txt ".[gpu]"

clean:
	rm -rf demo/phantom demo/vessels demo/membranes demo/cells demo/segmentation
	rm -rf $(VENV) .venv-3.* .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
