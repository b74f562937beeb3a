from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnunet_instance_trainers.data.text_tables import aligned, write_table
from nnunet_instance_trainers.errors import UserError


def test_a_table_has_unix_lines_nine_digits_and_empty_cells_for_nan(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    rows = [{"b": 1 / 3, "a": "x, \u00e9"}, {"a": "y", "b": float("nan")}, {"a": "z", "b": np.float64(2)}]
    write_table(file, rows, ("a", "b"))
    assert file.read_bytes() == 'a,b\n"x, \u00e9",0.333333333\ny,\nz,2\n'.encode()


def test_a_row_with_another_column_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not in fieldnames"):
        write_table(tmp_path / "table.csv", [{"c": 1}], ("a",))
    assert list(tmp_path.iterdir()) == []


def test_the_remedy_is_said_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make room"):
        write_table(tmp_path / "none" / "table.csv", [], ("a",), "make room")


def test_the_first_column_is_left_and_the_others_are_right() -> None:
    assert aligned([("class", "n", "f1"), ("a", "10", "0.123")]) == "class   n     f1\na      10  0.123"
