"""Tables as this package writes them: CSV files, and aligned text for the screen."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_instance_trainers.data.map_store import MEND, write_atomically

__all__ = ["aligned", "write_table"]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as text: the first column to the left, the others to the right.

    Example:
        >>> print(aligned([("class", "f1"), ("liver lesion", "0.5")]))
        class          f1
        liver lesion  0.5
    """
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join(f"{cell:>{width}}" if i else f"{cell:<{width}}" for i, (cell, width) in enumerate(zip(row, widths)))
        for row in rows
    )


def write_table(file: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str], remedy: str = MEND) -> None:
    """A CSV file with a line of names, whole or not at all.

    Nan becomes an empty cell; floats keep nine significant digits, which tell all probabilities of nnU-Net apart.
    Lines end as on Unix, on every system, so that files can be compared.

    Args:
        file: to write.
        rows: by column.
        columns: their order.
        remedy: what to do if the file cannot be written.
    """
    with write_atomically(file, remedy) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)


def _cell(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.9g}"
