# `make` says what there is. Everything runs in .venv, made from $(PYTHON) on first use.
PYTHON ?= python3
SEEDS  ?= 1000
KILLS  ?= 20
INPUTS ?= 100000
MINUTES ?= 10
IMAGES ?= 500
OF     ?= durable/engine durable/replay durable/runtime
# Most tests wait for something. Each of the three processes starts servers of its own. In the order of the files, for
# those with few tests, which would come last, have the longest.
SIDE_BY_SIDE ?= -n 3 --dist loadfile --no-loadscope-reorder
# ALLOW_SKIP=1: tests that need a server which is not there are skipped, visibly.
export ALLOW_SKIP

BIN   := $(CURDIR)/.venv/bin
STAMP := .venv/installed
RUN   := "$(BIN)/python"
# Their files are below a short path: that of a socket has at most 107 bytes.
TESTS  = dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && $(RUN) -m pytest -q $(SIDE_BY_SIDE) --basetemp="$$dir/t"

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint types servers docs bench simulate crash-points fuzz kill chaos power-cut mutants joins test-all package clean
MAKEFLAGS += --no-print-directory

help:  ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## */\1|/p' Makefile | while IFS='|' read -r name what; do \
		printf '  make %-12s %s\n' "$$name" "$$what"; done

venv: $(STAMP)  ## make .venv and install this checkout in it, editable, with its tools
	@:

demo: venv  ## an order in three steps, then its status and its history
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && cd "$$dir" && \
	unset DURABLE_URL DURABLE_EVENTS_URL DURABLE_WORKSPACE && \
	echo '$$ python samples/order.py' && $(RUN) "$(CURDIR)/samples/order.py" && \
	for view in show history; do echo && echo "\$$ durable $$view order-42" && $(RUN) -m durable $$view order-42 || exit; done

test: lint types servers  ## what must be green before a commit: lint, types, tests (without the slow ones)
	@$(TESTS) -m "not slow"

lint: venv  ## ruff: rules and format
	@$(RUN) -m ruff check -q .
	@$(RUN) -m ruff format -q --check .

types: venv  ## mypy and pyright, both strict, side by side
	@$(RUN) -m mypy --no-error-summary & other=$$!; \
	found=$$($(RUN) -m pyright --pythonpath "$(BIN)/python"); told=$$?; \
	wait $$other && [ $$told = 0 ] || { echo "$$found"; exit 1; }

servers: venv  ## redis-server and rabbitmq-server for the tests, by apt-get when missing
	@$(RUN) -m tests.servers

docs: venv  ## docs/reference.md, made from the docstrings
	@text=$$($(RUN) docs/make_reference.py) && printf '%s\n' "$$text" > docs/reference.md

bench: venv  ## how fast, on this machine
	@$(RUN) tests/benchmarks/run.py

simulate: venv  ## SEEDS=1000 simulated lives of a system whose parts fail
	@$(RUN) -m durable.testing.simulator --seeds $(SEEDS) --jobs 2

crash-points: venv  ## 16 small orchestrations, each with every step of its worker gone wrong, and pairs of steps
	@$(RUN) -m durable.testing.crash_points --pairs --jobs 2

fuzz: venv  ## INPUTS=100000 wrong inputs for each parser
	@$(RUN) -m tests.fuzz --inputs $(INPUTS)

mutants: venv  ## OF="durable/engine ...": small mistakes in these, one at a time: which ones does no test see?
	@$(RUN) -m tests.mutation $(OF)

kill: venv  ## KILLS=20 times kill -9 on a real worker
	@$(RUN) tests/chaos/kill.py --kills $(KILLS)

chaos: servers  ## MINUTES=10, or all: workers and servers killed, frozen, cut off, filled up, under a load
	@$(RUN) tests/chaos/plan.py $(if $(filter all,$(MINUTES)),,--minutes $(MINUTES))

power-cut: venv  ## IMAGES=500 of what a disk may hold of a SQLite store after a power cut
	@$(RUN) tests/chaos/power_cut.py --images $(IMAGES)

joins: servers  ## 200,000 events for 200 triggers, and kill -9 of their worker in the middle
	@$(RUN) tests/chaos/joins.py --place redis
	@$(RUN) tests/chaos/joins.py --place rabbitmq

test-all: lint types servers  ## everything: the slow tests, the simulator, the crash points, the killing, the package
	@$(TESTS)
	@$(MAKE) simulate crash-points kill package

package: venv  ## wheel and sdist in dist/
	@rm -rf build dist
	@said=$$($(RUN) -m build --no-isolation . 2>&1) || { echo "$$said"; exit 1; }
	@rm -rf build
	@ls dist

clean:  ## remove all that was made, .venv too
	@rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .durable *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml setup.cfg
	@command -v "$(PYTHON)" >/dev/null || { echo 'No "$(PYTHON)" on PATH. Give one: make PYTHON=python3.12' >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "Python 3.10 or newer is needed; $(PYTHON) is $$("$(PYTHON)" -V 2>&1). Give one: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) can't make virtual environments. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Making .venv with $$("$(PYTHON)" -V) ..."
	@"$(PYTHON)" -m venv --clear .venv
	@$(RUN) -m pip install -qq --disable-pip-version-check -e '.[dev]'
	@touch $@
