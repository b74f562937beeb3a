"""The folder of an ensemble: made beside its place and put there when it is whole, so that a killed run can go on.

While it is made it is called ``.unfinished_OUT`` and holds a record for each case that is done. Its ``ensemble.json``
is written last: a folder that has one is whole.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunet_instance_trainers.data.map_store import write_atomically
from nnunet_instance_trainers.data.text_files import read_table
from nnunet_instance_trainers.errors import UserError, writing

__all__ = ["INSTANCES", "REMEDY", "Output", "write_case"]

Row = dict[str, Any]

INSTANCES = "instances"
_MARKER = "ensemble.json"
_TABLE = "ensemble.csv"
_RECORDS = ".records"
_WRITING = ".writing_"
REMEDY = "make room, or give another folder with -o"
_SETTINGS = ".settings.json"  # while the folder is made


@contextmanager
def write_case(folder: Path, case: str, rows: Sequence[Row]) -> Iterator[Path]:
    """A folder for the files of a case, which on success are moved to ``folder``, and its rows recorded last.

    So a worker that outlived its killed command never spoils what a later one made.

    Raises:
        UserError: they cannot be written.
    """
    temporary = folder / f"{_WRITING}{os.getpid()}_{case}"
    with writing(folder, REMEDY):
        temporary.mkdir()
        try:
            yield temporary
            _move(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    with write_atomically(folder / _RECORDS / f"{case}.json") as file:
        file.write_text(json.dumps(rows), encoding="utf-8")


def _move(source: Path, target: Path, last: str | None = None) -> None:
    """Move all files below a folder, each at once; the named one after all others."""
    files = sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file())
    for file in sorted(files, key=lambda path: str(path) == last):
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        os.replace(source / file, target / file)


class Output:
    """The folder of an ensemble while it is made.

    Args:
        place: where it belongs.
        settings: what it is made from and how, JSON; work that was begun with others is begun anew.

    Attributes:
        folder: to write to.

    Raises:
        UserError: the place is taken by something that ``ensemble`` did not write, or cannot be written to.
    """

    def __init__(self, place: Path, settings: dict[str, Any]) -> None:
        self.place = place.resolve()
        self.folder = self.place.with_name(f".unfinished_{self.place.name}")
        self._settings: dict[str, Any] = json.loads(json.dumps(settings))
        self._check()
        with writing(self.folder, REMEDY):
            if self._begun_with() != self._settings:
                self.discard()
                (self.folder / _RECORDS).mkdir(parents=True)
                self._write_json(self.folder / _SETTINGS)
            for left in self.folder.glob(f"{_WRITING}*"):
                shutil.rmtree(left)

    @property
    def is_whole(self) -> bool:
        """Whether an earlier run made everything, and was stopped before all of it was in place."""
        return (self.folder / _MARKER).is_file()

    def done(self) -> dict[str, list[Row]]:
        """The rows of the cases that an earlier run made."""
        files = (self.folder / _RECORDS).glob("[!.]*.json")
        return {file.name.removesuffix(".json"): json.loads(file.read_text(encoding="utf-8")) for file in files}

    def finish(self, rows: Sequence[Row], copies: dict[str, Path]) -> None:
        """Write the table, copy some files by their new names, and put everything in its place.

        Raises:
            UserError: it cannot be written.
        """
        with (
            write_atomically(self.folder / _TABLE) as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as stream,
        ):
            writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        with writing(self.place, REMEDY):
            for name, source in copies.items():
                shutil.copyfile(source, self.folder / name)
            self._write_json(self.folder / _MARKER)
            self.publish()

    def publish(self) -> None:
        """Put what is whole in its place; what an earlier ensemble left there is replaced."""
        shutil.rmtree(self.folder / _RECORDS, ignore_errors=True)
        (self.folder / _SETTINGS).unlink(missing_ok=True)
        if not self.place.exists() or not any(self.place.iterdir()):
            if self.place.exists():
                self.place.rmdir()
            self.folder.rename(self.place)
            return
        (self.place / _MARKER).unlink(missing_ok=True)
        if not self._settings["instances"]:
            shutil.rmtree(self.place / INSTANCES, ignore_errors=True)
        _move(self.folder, self.place, last=_MARKER)
        self.discard()

    def read_table(self) -> list[Row]:
        """The rows of what is in its place."""
        return [
            {name: cell if name in ("case", "class") else int(cell) for name, cell in row.items()}
            for row in read_table(self.place / _TABLE, REMEDY)
        ]

    def discard(self) -> None:
        """Leave nothing of the work that was begun."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _check(self) -> None:
        if self.place.exists() and not self.place.is_dir():
            raise UserError(f"{self.place} is a file: give a folder with -o")
        if self.place.exists() and any(self.place.iterdir()):
            ours = (self.place / _MARKER).is_file() or self.is_whole
            if not ours:
                raise UserError(f"{self.place} holds files that 'ensemble' did not write: give another folder with -o")

    def _begun_with(self) -> Any:
        """The settings of unfinished work; None without any."""
        for file in (self.folder / _MARKER, self.folder / _SETTINGS):
            if file.is_file():
                try:
                    return json.loads(file.read_text(encoding="utf-8"))
                except ValueError:
                    return None
        return None

    def _write_json(self, file: Path) -> None:
        with write_atomically(file) as temporary:
            temporary.write_text(json.dumps(self._settings, indent=2), encoding="utf-8")
