# Two commands do everything on a fresh machine with Python 3.10 or newer.
PYTHON ?= python3
VENV ?= .venv

.PHONY: demo test

demo: $(VENV)/.demo          ## train, predict and compare on real images
	$(VENV)/bin/nnunet-instance demo

test: $(VENV)/.test          ## lint, types, fast tests, tests through nnU-Net
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/pytest -m "not nnunet and not heavy"
	$(VENV)/bin/pytest -m "nnunet and not heavy"

$(VENV)/.%: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet -e ".[$*]"
	touch $@
