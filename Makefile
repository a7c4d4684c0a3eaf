# What developers run. `make help` lists it; tools/suite.py and tools/lint.py hold the steps of `test` and `lint`.
PYTHON ?= python3
VENV ?= .venv
FUZZ_SECONDS ?= 60
PYTEST_ARGS ?=
ONLY ?=
ROUNDS ?=
ARGS ?=

BIN := $(VENV)/bin
SOURCES = setup.py $(shell find csrc -name '*.[ch]'; find pybypass -name '*.pyx' -o -name '*.pxd')

.DEFAULT_GOAL := help
.PHONY: help system build dev run packetdrill-so test test-vm asan tsan debug fuzz bench lint clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 10

system: ## as root: install missing Debian packages; else: name them
	@tools/packages.sh

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "pybypass needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

# The development mode: the checkout is the package, compiled in place.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python tools/requirements.py build run progress | xargs $(BIN)/python -m pip install -q
	$(BIN)/python -m pip install -q --no-build-isolation --no-deps -e .
	@touch $@

$(VENV)/.built: $(SOURCES) $(VENV)/.installed
	PB_STRICT=1 $(BIN)/python setup.py -q build_ext --inplace
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.installed
	$(BIN)/python tools/requirements.py test lint | xargs $(BIN)/python -m pip install -q
	@touch $@

build: system ## compile the package in place, in .venv
	@$(MAKE) --no-print-directory $(VENV)/.built

dev: build ## the same, with the tools of test and lint
	@$(MAKE) --no-print-directory $(VENV)/.dev

run: build ## set up, then the main job: TCP over AF_XDP against the kernel (ARGS=...)
	$(BIN)/pybypass lab echo $(ARGS)

packetdrill-so: ## the engine under google/packetdrill's --so_filename: build/libpybypass_packetdrill.so
	$(MAKE) -s -C tools/packetdrill

test: dev ## set up, then all tests: C under ASan and UBSan, fuzz targets, Python, veth, lint
	$(BIN)/python tools/suite.py --fuzz-seconds $(FUZZ_SECONDS) -- $(PYTEST_ARGS)

test-vm: ## as root: the port and RSS tests in a guest with emulated NICs (igb, e1000e, vmxnet3, virtio)
	tools/vmlab/test.sh $(PYTEST_ARGS)

asan: ## the C tests under ASan and UBSan
	$(MAKE) -C tests/c -j2 check

tsan: ## the C tests under TSan
	$(MAKE) -C tests/c -j2 SAN=thread BUILD=../../build/tsan check

debug: dev ## the Python tests on a build that checks every change of a frame's owner
	PB_DEBUG=1 PB_STRICT=1 $(BIN)/python setup.py -q build --build-lib build/debug --build-temp build/debug-temp
	PB_EXPECT_DEBUG=1 PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/build/debug $(BIN)/python tools/suite.py --only pytest -- $(PYTEST_ARGS)

fuzz: dev ## the fuzz targets, 60 s each (FUZZ_SECONDS=)
	$(BIN)/python tools/suite.py --only fuzz --fuzz-seconds $(FUZZ_SECONDS)

bench: dev ## measure ours beside the peers: a table, and build/bench.json (ONLY=row,row ROUNDS=n)
	@tools/packages.sh dpdk-dev liblwip-dev valgrind
	PB_BENCH_ONLY=$(ONLY) $(if $(ROUNDS),PB_BENCH_ROUNDS=$(ROUNDS)) $(BIN)/pytest tests/bench -p no:cacheprovider --benchmark-disable-gc -q $(PYTEST_ARGS)

lint: dev ## ruff, mypy, stubs, clang-format, shellcheck, layers
	$(BIN)/python tools/lint.py

clean: ## remove what was built, .venv too
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks
	rm -rf pybypass/bpf pybypass/include pybypass/*.so pybypass/_*.c
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
