"""What the documentation says is so."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_settings_page_is_what_the_configuration_says():
    script = runpy.run_path(str(ROOT / "scripts" / "make_settings_page.py"))
    assert script["PAGE"].read_text() == script["page"](), "run python scripts/make_settings_page.py"


def test_the_description_is_the_readme_without_links_that_die_elsewhere():
    script = runpy.run_path(str(ROOT / "scripts" / "make_description.py"))
    assert script["PAGE"].read_text() == script["page"](), "run python scripts/make_description.py"
    assert not re.search(r"\]\((?!https?:)|<img", script["page"]())


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_test_that_the_fidelity_page_names_exists():
    named = set(re.findall(r"`(test_\w+\.py)`", (ROOT / "docs" / "fidelity.md").read_text()))
    assert named and named <= {path.name for path in (ROOT / "tests").rglob("test_*.py")}


def test_every_test_that_the_compatibility_page_names_exists():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "compatibility.md").read_text()))
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 20 and named <= set(re.findall(r"^def (test_\w+)", sources, re.M))


def test_every_term_is_on_the_page_of_losses():
    from nnunet_instance_trainers.losses.named_terms import TERMS

    page = (ROOT / "docs" / "losses.md").read_text()
    assert all(f"`{term}`" in page for term in TERMS)


def test_every_command_that_the_pages_name_exists():
    from nnunet_instance_trainers.cli import _parser

    known = set(_parser()._subparsers._group_actions[0].choices)
    named = {name for page in PAGES for name in re.findall(r"nnunet-instance ([a-z-]+)", page.read_text())}
    assert named and named <= known


def test_the_code_for_plain_pytorch_runs():
    pytest.importorskip("monai")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "pytorch.md").read_text(), re.S)
    assert len(blocks) == 3
    names: dict = {}
    for block in blocks:
        exec(block, names)
    assert all(value.isfinite() for value in names["terms"].values()) and len(names["per_instance"]) > 2
