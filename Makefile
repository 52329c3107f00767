# `make demo` and `make test` are all that a user needs; both make the environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NATIVE := $(wildcard navnode/native/*.cpp navnode/native/*.hpp navnode/native/CMakeLists.txt)

.PHONY: demo model-demo test test-long test-slow coverage coverage-report mutants bench bench-check fuzz build wheel projector-wheel lint docs peers gpu-check train-gpu clean
demo: $(STAMP)
	$(BIN)/navnode demo

# What trains networks runs in processes of its own: engines' and PyTorch's threads crashed in one that had done all of it.
TRAINING := tests/reconstruction/test_training.py tests/reconstruction/test_checkpoints.py
REFINING := tests/reconstruction/test_bodies.py tests/reconstruction/test_refining.py tests/reconstruction/test_exported.py \
  tests/reconstruction/test_lungs.py
# Files of tests run side by side: many wait for sockets and processes. None may depend on how busy the machine is.
JOBS ?= 2
# One that ran out of patience with another process is tried once more, and listed (docs/decisions/0042).
AGAIN := --reruns 1 --only-rerun 'OutOfPatienceError|TimeoutError|NavigatedError' -r R
define tests
	$(TESTED) -m $(1) -n $(JOBS) --dist loadfile $(addprefix --ignore=,$(TRAINING) $(REFINING))
	$(TESTED) -m $(1) $(TRAINING) & training=$$!; $(TESTED) -m $(1) $(REFINING); refining=$$?; wait $$training && exit $$refining
endef
TESTED := OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(AGAIN)
test: $(STAMP)
	$(call tests,"not long and not slow")

# Tests that take seconds each: whole nodes, browsers, real CTs, sweeps. CI runs them after the others.
test-long: $(STAMP)
	$(call tests,"long and not slow")

test-slow: $(STAMP)
	$(BIN)/python -m pytest $(addprefix --ignore=,$(TRAINING) $(REFINING))
	$(BIN)/python -m pytest $(TRAINING)
	$(BIN)/python -m pytest $(REFINING)

# Builds of the native code that measure, or check every access; NAVNODE_NATIVE has navnode load them.
INSTRUMENTED = cmake -S navnode/native -B $(@D) -DCMAKE_CXX_FLAGS="$(1)" >$(@D).log && cmake --build $(@D) --parallel 2 >>$(@D).log || \
  { cat $(@D).log; exit 1; }
build/coverage/native/libnavnode_native.so: $(NATIVE)
	@mkdir -p $(@D)
	@$(call INSTRUMENTED,--coverage -fprofile-update=atomic)
build/sanitized/libnavnode_native.so: $(NATIVE)
	@mkdir -p $(@D)
	@$(call INSTRUMENTED,-g -fno-omit-frame-pointer -fsanitize=address$(comma)undefined -fno-sanitize-recover=all)
comma := ,

# Which lines the fast tests run, in every process: reports in build/coverage; fails if Python has fewer than
# [tool.coverage] in pyproject.toml asks for. Some folders only: make coverage TESTS="tests/igtl tests/loop" COVER_FLAGS=--fail-under=0
TESTS ?=
COVER_FLAGS ?=
COVERED = NAVNODE_NATIVE=$(CURDIR)/$(word 2,$^) OMP_NUM_THREADS=1 $(BIN)/python -m coverage run -m pytest -m "not slow"
coverage: $(VENV)/.quality build/coverage/native/libnavnode_native.so
	@rm -f build/coverage/data*; find build/coverage -name '*.gcda' -delete
	@failed=0; $(if $(TESTS),$(COVERED) -n $(JOBS) --dist loadfile $(TESTS) || failed=1, \
	  $(COVERED) -n $(JOBS) --dist loadfile $(addprefix --ignore=,$(TRAINING) $(REFINING)) || failed=1; \
	  $(COVERED) $(TRAINING) || failed=1; $(COVERED) $(REFINING) || failed=1); \
	$(MAKE) --no-print-directory coverage-report && exit $$failed

# The reports of what `make coverage` has counted.
coverage-report: $(VENV)/.quality
	$(BIN)/python -m coverage combine --keep --quiet
	$(BIN)/python -m coverage html --quiet --fail-under=0
	$(BIN)/gcovr --root navnode/native --object-directory build/coverage/native --gcov-ignore-parse-errors=suspicious_hits.warn \
	  --exclude-directories '.*/CMakeFiles/[0-9.]+' --merge-mode-functions=separate --html-details build/coverage/native.html --txt build/coverage/native.txt build/coverage/native
	cat build/coverage/native.txt
	@$(BIN)/python -m coverage report $(COVER_FLAGS) >build/coverage/python.txt; reported=$$?; cat build/coverage/python.txt; exit $$reported

# Small mistakes in what decides, one at a time, and which of them the tests notice (docs/decisions/0041).
mutants: $(VENV)/.quality
	$(BIN)/python -m tests.mutation --count $${COUNT:-60} $(GROUP)

# All parts of the node beside their peers, as a line of the history that the documentation draws; and whether a ratio to a
# peer has fallen since, which CI asks (docs/decisions/0043).
HISTORY := benchmarks/history.jsonl
bench: $(STAMP) peers
	$(BIN)/navnode bench all --history $(HISTORY)
bench-check: $(STAMP) peers
	$(BIN)/navnode bench all --part projector --part wire --against $(HISTORY)

fuzz: $(STAMP)
	NAVNODE_FUZZ_CASES=$${CASES:-1000000} NAVNODE_FUZZ_SEED=$$(date +%s) $(BIN)/python -m pytest -s tests/fuzz

# Trains where a GPU is, on all of them, from the shipped models and a pack of data (docs/gpu.md):
#     make train-gpu PACK=data.pack MINUTES=25 OUT=run
MINUTES ?= 25
OUT ?= run
TORCHRUN ?= $(BIN)/torchrun --nproc-per-node gpu
MODELS := navnode/reconstruction
train-gpu: $(STAMP)
	@test -n "$(PACK)" || { echo "name the data: make train-gpu PACK=FILE (made by navnode train-pack)"; exit 1; }
	$(TORCHRUN) -m navnode train-reader --device cuda --pack $(PACK) --out $(OUT) --from $(MODELS)/reader_model \
	  --hours $$(python3 -c "print(0.4 * $(MINUTES) / 60)")
	$(TORCHRUN) -m navnode train-refiner --device cuda --pack $(PACK) --out $(OUT) --from $(MODELS)/refiner_model \
	  --reader $(OUT)/reader_model --hours $$(python3 -c "print(0.6 * $(MINUTES) / 60)")

# Tries everything that needs a GPU, and writes one report.
gpu-check: $(STAMP)
	$(BIN)/navnode bench gpu --out gpu-check.json $(if $(PACK),--pack $(PACK))

# A drawn knee beside a jig: two X-rays, a model, its report. With a CT of a limb: make model-demo CT=limb.nii.gz
MODEL_DEMO ?= model-demo
model-demo: $(STAMP)
	$(BIN)/navnode bench model --out $(MODEL_DEMO) $(if $(CT),--ct $(CT)) $(or $(OPEN),--open)

build: $(STAMP)

# Packages for others. auditwheel gives them the oldest system that they run on, here the one that they were built on;
# cibuildwheel ([tool.cibuildwheel] in pyproject.toml) builds them in an older one.
AUDITED = set -e; rm -rf build/wheels; $(BIN)/python -m build --outdir build/wheels $(1); mkdir -p dist; \
  PATH="$(BIN):$$PATH" $(BIN)/auditwheel repair --only-plat --wheel-dir dist build/wheels/*.whl; $(BIN)/auditwheel show dist/$(2)-[0-9]*.whl
wheel: $(VENV)/.dev
	@$(call AUDITED,.,navnode)
	@mv build/wheels/*.tar.gz dist/

projector-wheel: $(VENV)/.dev
	@$(call AUDITED,--wheel packages/projector,navnode_projector)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The documentation, into site/: what is wrong with a page or a link fails. Its references are made of the code first.
docs: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -b html -d build/docs docs site
	$(BIN)/python docs/sitepages/check.py site

$(STAMP): pyproject.toml $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "navnode needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V). Try: make PYTHON=python3.12"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || \
	  { echo "python3 -m venv does not work here; on Debian and Ubuntu: sudo apt-get install python3-venv"; exit 1; }
	@command -v $${CXX:-c++} >/dev/null || { echo "a C++ compiler is missing; on Debian and Ubuntu: sudo apt-get install g++"; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

# Programs on the OpenIGTLink C++ library, for the tests and for `navnode bench igtl`.
PEERS := $(patsubst tests/peers/%.cpp,tests/peers/build/%,$(wildcard tests/peers/*.cpp))
peers: $(PEERS)
tests/peers/build/%: tests/peers/%.cpp
	@mkdir -p tests/peers/build
	$${CXX:-c++} -std=c++17 -O2 -I/usr/include/openigtlink $< -o $@ -lOpenIGTLink -lpthread

$(VENV)/.quality: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[quality]'
	@touch $@

$(VENV)/.dev: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

clean:
	rm -rf build dist site docs/reference .venv tests/peers/build
