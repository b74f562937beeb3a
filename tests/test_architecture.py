"""The ways of docs/architecture.md lead through files and names that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "nnunet_instance_trainers"
PAGE = (ROOT / "docs" / "architecture.md").read_text()
STEPS = re.findall(r"([\w/]+\.py): (\w+(?:, \w+)*)", PAGE)


def defined(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_every_step_of_a_way_is_where_it_is_drawn() -> None:
    assert len(STEPS) > 25
    missing = [(file, name) for file, names in STEPS for name in set(names.split(", ")) - defined(PACKAGE / file)]
    assert missing == []


def test_every_file_and_room_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`((?:\w+/)*\w+\.(?:py|md))`", PAGE)) | set(re.findall(r"`((?:\w+/)+)`", PAGE))
    roots = (PACKAGE, ROOT, ROOT / "tests")
    assert len(named) > 10
    assert [name for name in sorted(named) if not any((root / name).exists() for root in roots)] == []
