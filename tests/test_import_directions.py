"""Who may import whom, as CONTRIBUTING.md draws it: every import of the package is held against the drawing."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = "nnunet_instance_trainers"
ROOT = Path(__file__).parents[1]
OVERALL, WITHIN_EVALUATION = re.findall(r"```text\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)


def below(drawing: str) -> dict[str, set[str]]:
    """What each room of a drawing of ``a <- b`` may import: all that it reaches against the arrows."""
    direct: dict[str, set[str]] = {}
    for line in drawing.splitlines():
        chain = [room.strip() for room in line.split("<-")]
        for lower, upper in zip([None, *chain], chain):
            direct.setdefault(upper, set()).update({lower} - {None})
    reached = dict(direct)
    for _ in direct:
        reached = {room: rooms.union(*(reached[lower] for lower in rooms)) for room, rooms in reached.items()}
    return reached


def imported(source: str) -> set[str]:
    """The dotted names below the package that a source imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix(f"{PACKAGE}.") for name in names if name.startswith(f"{PACKAGE}.")}


def against(drawing: str, folder: str) -> list[str]:
    """Imports below a folder of the package that its drawing does not have."""
    allowed, found = below(drawing), []
    root = ROOT / PACKAGE / folder
    prefix = f"{folder}." if folder else ""
    for file in sorted(root.rglob("*.py")):
        room = file.relative_to(root).with_suffix("").parts[0]
        for name in sorted(imported(file.read_text())):
            other = name.removeprefix(prefix).split(".")[0]
            if not name.startswith(prefix) or other in (room, "__version__") or room in ("cli", "__init__"):
                continue
            if other not in allowed.get(room, ()):
                found.append(f"{file.relative_to(ROOT)} imports {name}")
    return found


def rooms(folder: str) -> set[str]:
    return {
        path.stem
        for path in (ROOT / PACKAGE / folder).iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists()) and not path.name.startswith("_")
    }


@pytest.mark.parametrize("drawing, folder", [(OVERALL, ""), (WITHIN_EVALUATION, "evaluation")])
def test_imports_point_the_way_that_is_drawn(drawing: str, folder: str) -> None:
    assert against(drawing, folder) == []


@pytest.mark.parametrize("drawing, folder", [(OVERALL, ""), (WITHIN_EVALUATION, "evaluation")])
def test_every_room_is_drawn_and_none_imports_itself_by_a_detour(drawing: str, folder: str) -> None:
    drawn = below(drawing)
    assert rooms(folder) - {"cli"} <= set(drawn)
    assert [room for room, lower in drawn.items() if room in lower] == []


def test_the_drawing_is_read_as_it_is_written() -> None:
    drawn = below("a <- b <- c\n     b <- d\n")
    assert drawn == {"a": set(), "b": {"a"}, "c": {"a", "b"}, "d": {"a", "b"}}
    late = f"def f():\n    from {PACKAGE}.data import grids\n    import {PACKAGE}.linking\n    import numpy"
    assert imported(late) == {"data.grids", "linking"}


def test_this_test_can_fail() -> None:
    wrong = against("data <- instances", "")
    assert any("losses/center.py imports instances." in line for line in wrong)
