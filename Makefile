# Two commands: `make demo` and `make test`. Both create the environment .venv first, if it is missing or outdated.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCE ?=
DATA ?= $(AEROGAZE_DATA)
STUDENTS ?= skd-32 skd-64 skd-64-motion skd-96-motion skd-128-motion skd-128 stream

.PHONY: demo test stress lint bench quality docs pictures dist env env-locked ros2-env release clean

demo: env
	$(BIN)/aerogaze demo $(if $(SOURCE),--source "$(SOURCE)")

# Three workers keep two cores busy, because many tests wait: for programs, cameras and disks.
WORKERS ?= 3

# On a disk, tests wait for every file that is renamed and every folder that is removed. With 20 GB to spare, their
# temporary files (up to 9 GB, beside 3 GB for each worker) lie in memory. Those of a test that passes are removed at its
# end; TMPDIR=/tmp keeps all on the disk.
IN_MEMORY := $(shell [ -z "$$TMPDIR" ] && ! grep -q ' /dev/shm [^ ]* [^ ]*noexec' /proc/mounts \
  && awk '/^MemAvailable/ { exit $$2 < 20000000 }' /proc/meminfo \
  && df -k /dev/shm | awk 'END { exit $$4 < 12000000 }' && echo yes)

# Containers often set this. Each worker would then compile all modules and rewrite all tests in each run.
unexport PYTHONDONTWRITEBYTECODE

test: lint
	$(if $(IN_MEMORY),TMPDIR=/dev/shm) $(BIN)/pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder \
	  $(if $(IN_MEMORY),-o tmp_path_retention_policy=failed)

# What uses clocks, timeouts, threads or sockets, twenty times beside a busy loop on each core: no outcome may
# depend on the speed of the machine.
TIMES ?= 20
TIMING ?= tests/edge/pipeline tests/edge/sinks tests/edge/sources tests/edge/core tests/edge/hardware \
  tests/edge/profiler tests/edge/diagnostics tests/edge/acceptance tests/edge/cli/test_stop_signals.py \
  tests/edge/cli/test_main.py tests/edge/cli/test_cameras.py tests/jetson/hawkbit tests/jetson/fleet \
  tests/jetson/device tests/jetson/deploy tests/jetson/cli tests/jetson/wheels/test_install_runtime.py \
  tests/export/engines/test_build.py tests/trainer/annotation tests/trainer/cli/test_progress.py \
  tests/trainer/data/test_scene_pool.py tests/trainer/inference/test_pseudo_labels.py \
  tests/trainer/training/test_loop.py tests/gpu tests/bench/test_compare.py tests/bench/test_interval.py \
  tests/bench/test_measurement.py tests/system/test_rtsp.py

stress: env
	loops=; trap 'kill $$loops' EXIT; \
	for core in $$(seq $$(nproc)); do (while :; do :; done) & loops="$$loops $$!"; done; \
	for time in $$(seq $(TIMES)); do \
	  echo "$$time of $(TIMES)"; $(BIN)/pytest --quiet $(TIMING) || exit; \
	done

lint: env
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Speed and memory, in less than ten minutes; THEMES="students engines" measures some. docs/explanation/benchmark.md
THEMES ?=

bench: env
	$(BIN)/python -m tests.bench $(THEMES)

# Students side by side, by docs/explanation/protocol.md; DATA is the folder of the real sequences.
quality: env
	mkdir -p out/quality
	$(BIN)/aerogaze quality $(STUDENTS) --json out/quality/quality.json $(if $(DATA),--data "$(DATA)" --sheets out/quality)

# The documentation site, in out/site. A dead link or a warning is an error. `make test` builds it, too (tests/docs).
docs: env
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --clean
	@echo "read it: $(BIN)/python -m http.server --directory out/site"

# The pictures of the README and of the pages, in docs/images. Needs Chromium.
pictures: env
	$(BIN)/python -m docs.pictures
	$(BIN)/python -m docs.map_pictures
	$(BIN)/python -m docs.world_pictures

# Wheel and source archive of the last commit's time, the same to the byte each time.
dist: env
	rm -rf dist
	$(BIN)/python .ci/dist.py dist
	$(BIN)/twine check --strict dist/*

# The shipped releases, from the shipped students; calibrated on the synthetic world, which may be shipped. Then the scores are fitted there, too.
release: env
	for name in $(STUDENTS); do \
	  $(BIN)/aerogaze export $$name --form stream --calibration-frames 500 --blur 0.01 --out edge/release/shipped/$$name \
	    $(foreach n,$(shell seq -w 00 49),--frames synthetic:9000$(n):256x144:11) || exit; \
	done
	$(BIN)/aerogaze quality $(STUDENTS) --fit --quick

env: $(VENV)/.made

$(VENV)/.made: pyproject.toml constraints.txt jetson/constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14) and f"aerogaze needs Python 3.10 to 3.13, this is {sys.version.split()[0]}: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --upgrade --no-deps --target $(VENV)/stubs tensorrt-stubs
	sed -i 's/\bin: list/in_: list/; s/channel_axis: int)/channel_axis: int = -1)/' $(VENV)/stubs/tensorrt_bindings/tensorrt.pyi # two lines of the stubs are not valid Python
	touch $@

# The environment of locked.txt, byte for byte; torch, whose builds differ by package index, comes first.
env-locked:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement locked.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .

# An environment with ROS 2 (Kilted, Python 3.11) for tests/system/test_ros2.py, of the wheels of PyPI.
ros2-env:
	python3.11 -m venv .venv-ros2
	.venv-ros2/bin/pip install --quiet --disable-pip-version-check ros-rclpy ros-sensor-msgs ros-diagnostic-msgs ros-rmw-fastrtps-cpp ros-rmw-implementation

clean:
	rm -rf $(VENV) .venv-ros2 out build dist *.egg-info
