"""JSON and tables, in UTF-8 wherever the command runs."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunet_instance_trainers.errors import UserError

__all__ = ["read_json", "read_table"]


def read_json(file: Path, remedy: str, *kinds: type) -> Any:
    """What a JSON file holds, with or without the mark at its start that editors of Windows set.

    Args:
        file: to read.
        remedy: what to do if it cannot be read.
        kinds: what it may hold, such as ``list``; an object if none is named.

    Raises:
        UserError: it is missing, no text, no JSON, or holds something else.
    """
    with _reading(file, "JSON", remedy):
        content = json.loads(file.read_text(encoding="utf-8-sig"))
        if not isinstance(content, kinds or dict):
            raise ValueError(f"it holds a {type(content).__name__}")
        return content


def read_table(file: Path, remedy: str) -> list[dict[str, str]]:
    """The rows of a CSV file with a line of names.

    Raises:
        UserError: it is missing, no text, has no rows' names, or a row has more or fewer cells than names.
    """
    with _reading(file, "table", remedy), open(file, newline="", encoding="utf-8-sig") as stream:
        rows = csv.reader(stream, strict=True)
        names = next(rows, [])
        if not names or len(set(names)) < len(names):
            raise ValueError("the line of names is missing")
        return [dict(zip(names, row, strict=True)) for row in rows]


@contextmanager
def _reading(file: Path, what: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read {file} ({error.strerror or error}): {remedy}") from None
    except (ValueError, csv.Error, RecursionError) as error:
        raise UserError(f"{file} is damaged, or no {what} ({error}): {remedy}") from None
