# Every command of the project. `make` alone lists them.
PYTHON ?= python3
VENV := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup oracle demo test verdicts fuse-kills save-kills nightly lint bench generate lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F '\t' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: ## system packages, .venv, and the control plane (built once into the cache folder)
	@$(PYTHON) tools/bootstrap.py --control-plane

demo: setup ## the main job, end to end, on this machine; leaves nothing running
	@$(VENV)/headrace demo

lint: setup ## ruff, mypy --strict, import contracts
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/mypy
	$(VENV)/lint-imports

oracle: setup
	@$(PYTHON) tools/bootstrap.py --oracle

.PHONY: sanity-tool csi-sanity
# Of the tests only one needs it, and says so when it is not there: a failed build of it fails nothing else.
sanity-tool: setup
	-@$(PYTHON) tools/bootstrap.py --csi-sanity

# By file, the long ones first: tests of one file share what they started.
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder
# Real processes on a busy machine: what fails is run once more, and counted and named as "rerun" in the last lines.
RERUN := --reruns 1 --reruns-delay 2 -rfER
test: lint oracle sanity-tool ## everything that must hold: lint, then all tests
	$(VENV)/python -m pytest $(PARALLEL) $(RERUN)

csi-sanity: setup ## the ecosystem's tests of CSI drivers against ours, with what they skip and why
	@$(PYTHON) tools/bootstrap.py --csi-sanity
	$(VENV)/python -m pytest tests/integration/fuse/test_csi_sanity.py -s $(ARGS)

verdicts: oracle ## CASES=N SEED=S: our scheduler's verdicts against kube-scheduler's own, on generated clusters
	$(VENV)/python -m tests.oracle --cases $(if $(CASES),$(CASES),20000) $(if $(SEED),--seed $(SEED))

fuse-kills: setup ## KILLS=N SEED=S WORKER=1: daemons of a mount ended under use; what its applications notice (as root)
	$(VENV)/python -m tests.kills --kills $(if $(KILLS),$(KILLS),100) $(if $(SEED),--seed $(SEED)) $(if $(WORKER),--worker)

save-kills: setup ## KILLS=N SEED=S: training programs killed while they save; what the next ones resume from (as root)
	$(VENV)/python -m tests.saves --kills $(if $(KILLS),$(KILLS),100) $(if $(SEED),--seed $(SEED))

.PHONY: e2e
# In a network namespace of its own: the cluster's bridge and addresses are in it, and gone with it.
e2e: setup ## pods of a real kubelet, containerd and runc: volumes, jobs, deaths (as root; builds them once)
	@$(PYTHON) tools/bootstrap.py --real-node
	unshare --net -- sh -c 'ip link set lo up && exec $(VENV)/python -m pytest -m real_node --timeout=0 $(ARGS)'

nightly: oracle ## the long campaigns: hours, not minutes
	@$(PYTHON) tools/bootstrap.py --next-apiserver --seaweedfs --real-node
	$(VENV)/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r tools/nightly.txt
	$(VENV)/python -m pytest -m 'nightly or real_node' --timeout=0 $(ARGS)

bench: setup ## NAME=… ARGS='…': python -m benchmarks (without NAME: list them)
	$(VENV)/python -m benchmarks $(if $(NAME),$(NAME),list) $(ARGS)

generate: setup ## CRDs and protobuf code from api/
	$(VENV)/python -m api.generate

COMPILE := $(VENV)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-annotate --no-header
lock: setup ## requirements.lock and requirements-image.lock from pyproject.toml, and the locks in tools/
	$(COMPILE) --extra demo --extra dev pyproject.toml -o requirements.lock
	$(COMPILE) --extra build --constraint requirements.lock pyproject.toml -o requirements-image.lock
	printf 'tensorflow-cpu>=2.21\n' | $(COMPILE) - -o tools/tensorflow.txt
	printf 'cyclonedx-bom>=7\npip-audit>=2.9\n' | $(COMPILE) - -o tools/supply-chain.txt

.PHONY: sbom audit
SUPPLY_CHAIN := $(VENV)/uv run -q --no-project --isolated --python $(VENV)/python --with-requirements tools/supply-chain.txt
sbom: setup ## sbom.json: what the image is made of, CycloneDX
	$(SUPPLY_CHAIN) cyclonedx-py requirements requirements-image.lock --pyproject pyproject.toml --output-reproducible \
	  --of JSON -o sbom.json

AUDIT := pip-audit --require-hashes --disable-pip -r requirements-image.lock -r requirements.lock
audit: setup ## OSV=all.zip: known weaknesses of what is locked; without OSV, which is an export of OSV's PyPI, it asks PyPI
	$(SUPPLY_CHAIN) $(if $(OSV),python tools/offline_osv.py $(OSV)) $(AUDIT)

clean: ## remove .venv and caches of the checkout
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info demo-out
