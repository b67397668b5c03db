# One development loop: `make format lint type test build`. Every target sets up what it needs; set-up runs once.
SHELL := /bin/bash
BIN := .venv/bin
export PIP_ARGS PYTHON

.DEFAULT_GOAL := help
.PHONY: help setup venv format lint type test test-slow build demo demo-full bench

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-10s %s\n", $$1, $$2}'

venv:
	@scripts/setup.sh venv

setup: venv  ## build .venv from constraints.txt and see to the GL library (PYTHON=..., PIP_ARGS=...)
	@scripts/setup.sh gl

format: venv  ## rewrite the code in the project's format and mend what ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: venv  ## check format and lint rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

type: venv  ## check types
	$(BIN)/mypy

test: setup  ## the tests, 8 to 17 minutes on two cores, no GPU, no display
	$(BIN)/pytest -q -n 2 --dist loadfile

test-slow: setup  ## the tests that take minutes to hours
	$(BIN)/pytest -q -m slow

build: venv  ## build the wheel into dist/ and try it in a bare environment
	@scripts/build_wheel.sh

demo: setup  ## lift with four arms, report in outputs/demo/, 8 to 19 minutes on two cores with set-up
	$(BIN)/s2robot compare experiment=demo out=outputs/demo

demo-full: setup  ## lift, pick_cube and pick_cube_small with six arms, report in outputs/demo-full/, hours
	$(BIN)/s2robot compare experiment=demo_full out=outputs/demo-full

bench: setup  ## the benchmarks; REFERENCE=DIR is a checkout of github.com/bfshi/scaling_on_scales for the encoder's
	$(BIN)/python benchmarks/bench_rollout.py
	$(BIN)/s2robot bench encoder $(if $(REFERENCE),reference=$(REFERENCE))
