"""What worker processes do in tests; they import it anew, so it lies where the tests' own modules are found."""

from __future__ import annotations

import time
from pathlib import Path


def note(folder: Path, case: str) -> None:
    (folder / case).touch()
    time.sleep(0.02)


def note_and_fail(folder: Path, case: str) -> None:
    note(folder, case)
    raise ValueError("a bug")
