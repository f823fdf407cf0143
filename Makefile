# The front door. `make` lists the targets; CMake (CMakePresets.json) does the work behind them.
SHELL := /bin/bash
JOBS ?= 2
CTEST_JOBS ?= 2
# What runs under ThreadSanitizer: the coordinator, and our own threads elsewhere.
TSAN_TESTS := server_unit_test controller_test controller_threads_test watch_hub_test server_rpc_test \
              metrics_test launcher_fake_test worker_report_session_test
# What the tests of an engine have measured: how long a job stood still.
SHOW_TIMES := code=$$?; grep -h 'KILL → NEXT STEP' build/release/Testing/Temporary/LastTest.log; exit $$code
space := $(subst ,, )

.DEFAULT_GOAL := help
PYTHON_DEPLOY := build/deploy-tools/.installed
.PHONY: help deps deps-test deps-slurm build build-cuda demo test test-full test-deploy test-slurm test-kubernetes test-hosts test-long chaos test-gpu lint format asan tsan fuzz bench bench-service bundle clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## Debian packages and LibTorch, as far as they are missing
	@tools/setup/setup.sh build

deps-test: ## the above, and what tests and lint need
	@tools/setup/setup.sh test

deps-slurm: ## the above, and a Slurm for this machine's tests
	@tools/setup/setup.sh slurm

build: deps ## release build; programs in build/bin
	@tools/build.sh release $(JOBS) programs

build-cuda: deps-test ## the same with libemoe_cuda.so (nvcc from PyPI), and an error where that cannot be built
	@cmake --preset release -D EMOE_CUDA=ON >build/configure-release.log 2>&1 || { tail -n 20 build/configure-release.log >&2; exit 1; }
	@tools/build.sh release $(JOBS) programs

demo: build ## the whole path on this machine: three jobs over gRPC, verified merged checkpoints, a summary
	@demo/run.py

test: deps-test ## the whole CPU suite
	@tools/build.sh release $(JOBS)
	@ctest --test-dir build/release --output-on-failure -j $(CTEST_JOBS) -LE "slurm|kubernetes|hosts|long" $(CTEST_ARGS)

test-slurm: deps-slurm ## the tests that need a real Slurm (label slurm); they skip where EMOE_SHARED has no fixture for one
	@tools/build.sh release $(JOBS) programs
	@ctest --test-dir build/release --output-on-failure -L slurm $(CTEST_ARGS); $(SHOW_TIMES)

test-kubernetes: deps-test ## every misfortune under Kubernetes, against a fake API server (label kubernetes)
	@tools/build.sh release $(JOBS) programs
	@ctest --test-dir build/release --output-on-failure -L kubernetes $(CTEST_ARGS); $(SHOW_TIMES)

test-hosts: deps-test ## ranks on several hosts, made of network namespaces (label hosts); they skip where those are not allowed
	@tools/build.sh release $(JOBS) programs
	@ctest --test-dir build/release --output-on-failure -L hosts $(CTEST_ARGS); $(SHOW_TIMES)

test-long: deps-test ## dashboards under a real Prometheus, full disks, stand-ins of libraries: what takes a minute or more (label long)
	@tools/build.sh release $(JOBS)
	@ctest --test-dir build/release --output-on-failure -L long $(CTEST_ARGS)

test-full: test ## test, then the golden cases in every combination of ranks, packing and micro-batches
	@for which in own shared; do \
	  build/python/bin/python tests/reference/golden.py $$which --full || [ $$? = 77 ] || exit 1; done

test-deploy: deps-test $(PYTHON_DEPLOY) ## what is in deploy/, with kubectl, schemas and linters (from PyPI) that test does without
	@tools/build.sh release $(JOBS) programs
	@PATH="$(CURDIR)/build/deploy-tools/bin:$$PATH" ctest --test-dir build/release --output-on-failure -L deploy $(CTEST_ARGS)

$(PYTHON_DEPLOY): tools/python/requirements-deploy.txt
	@rm -rf $(@D) && python3 -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

chaos: deps-test ## random kills for ten minutes; every job must come out as if nothing had happened
	@tools/build.sh release $(JOBS) programs
	@build/python/bin/python tests/fault/chaos.py $(CHAOS_ARGS)

test-gpu: deps-test ## the tests that need a GPU (label gpu), built with CUDA and NCCL
	@tools/build.sh cuda $(JOBS) nccl_test device_kernels_test cuda_module_test
	@ctest --test-dir build/cuda --output-on-failure -L gpu $(CTEST_ARGS)

lint: deps-test ## format, shell and Python checks, include direction, file sizes, docs; clang-tidy on changed files
	@tools/lint.sh

format: deps-test ## clang-format on all sources
	@git ls-files '*.h' '*.cc' '*.cu' | xargs clang-format -i

asan: deps-test ## unit, integration and reference tests under ASan + UBSan
	@tools/build.sh asan $(JOBS)
	@ctest --test-dir build/asan --output-on-failure -j $(CTEST_JOBS) -L 'unit|integration|reference' $(CTEST_ARGS)

tsan: deps-test ## the coordinator's tests under TSan
	@tools/build.sh tsan $(JOBS) $(TSAN_TESTS)
	@ctest --test-dir build/tsan --output-on-failure -R '^($(subst $(space),|,$(strip $(TSAN_TESTS))))$$' $(CTEST_ARGS)

fuzz: deps-test ## libFuzzer on what strangers write: seven targets, ten minutes each (FUZZ_SECONDS=60: one)
	@tools/build.sh fuzz $(JOBS) fuzz_targets
	@tests/fuzz/run.py --seconds $(or $(FUZZ_SECONDS),600) $(FUZZ_TARGETS)

bench: deps-test ## our step against transformers + PEFT and its own matrix products, experts, memory, ranks, files, plans (10 minutes)
	@tools/build.sh release $(JOBS) programs step_bench ffn_bench kmeans_bench files_bench micro_bench
	@bench/run.py

bench-service: deps-test ## submits, a million queued jobs, a thousand ranks: what the coordinator takes and costs (10 minutes)
	@tools/build.sh release $(JOBS) emoe-coordinator emoe-supervise service_bench
	@build/python/bin/python bench/service.py

bundle: build ## build/emoe-bundle.tar.gz: the programs with their libraries, without LibTorch and CUDA, and tools/gpu_check.sh
	@if [ -e build/bin/libemoe_cuda.so ]; then tools/build.sh release $(JOBS) device_kernels_test nccl_test; fi
	@tools/bundle.sh

clean: ## removes what builds, tests and the demo made; keeps the Python environment
	@if [ -d build ]; then find build -mindepth 1 -maxdepth 1 ! -name python -exec rm -rf {} +; fi
