# Three commands do everything on a fresh machine with Python 3.10 or newer.
PYTHON ?= python3
VENV ?= .venv

.PHONY: demo docs test

demo: $(VENV)/.demo          ## train, predict and compare on real images
	$(VENV)/bin/nnunet-instance demo

docs: $(VENV)/.docs          ## the site, in build/site; a dead link or a missing reference fails
	$(VENV)/bin/mkdocs build --strict

test: $(VENV)/.test          ## lint, types, site, fast tests, tests through nnU-Net
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/mkdocs build --strict
	$(VENV)/bin/pytest -n 2 --dist worksteal -m "not nnunet and not heavy"
	$(VENV)/bin/pytest -m "nnunet and not heavy"  # one process: a test writes a link into the installed nnunetv2

$(VENV)/.%: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet -e ".[$*]"
	touch $@
