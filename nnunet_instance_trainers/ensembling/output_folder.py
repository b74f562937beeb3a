"""The folder of a command's images: made beside its place and put there when it is whole, so that a killed run can
go on.

While it is made it is called ``.unfinished_OUT`` and holds a record for each case that is done. Its file of settings,
``ensemble.json`` of an ensemble, is written last: a folder that has one is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from tqdm import tqdm

from nnunet_instance_trainers.data.case_workers import over_cases
from nnunet_instance_trainers.data.map_store import UNFINISHED, write_atomically
from nnunet_instance_trainers.errors import UserError, writing

__all__ = ["INSTANCES", "REMEDY", "Output", "check_apart", "digest_states", "most_ids", "write_case"]

INSTANCES = "instances"
_RECORDS = ".records"
_WRITING = ".writing_"
REMEDY = "make room, or give another folder with -o"
_SETTINGS = ".settings.json"  # while the folder is made


@contextmanager
def write_case(folder: Path, case: str, record: Any) -> Iterator[Path]:
    """A folder for the files of a case, which on success are moved to ``folder``, and its record, JSON, written last.

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
        file.write_text(json.dumps(record), encoding="utf-8")


def _move(source: Path, target: Path, last: str | None = None) -> None:
    """Move all files below a folder, each at once; the named one after all others."""
    files = sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file())
    for file in sorted(files, key=lambda path: str(path) == last):
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        os.replace(source / file, target / file)


class Output:
    """The folder of a command's images while it is made.

    Args:
        place: where it belongs.
        settings: what it is made from and how, JSON; work that was begun with others is begun anew.
        command: which of this package's commands makes it; its file of settings has that name.

    Attributes:
        folder: to write to.

    Raises:
        UserError: the place is taken by something that the command did not write, or cannot be written to.
    """

    def __init__(self, place: Path, settings: dict[str, Any], command: str = "ensemble") -> None:
        self._command, self._marker = command, f"{command}.json"
        self.place = place.resolve()
        self.folder = self.place.with_name(f"{UNFINISHED}{self.place.name}")
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
        return (self.folder / self._marker).is_file()

    def make(self, case_function: Callable[[Any, str], Any], job: Any, cases: Sequence[str], n_processes: int) -> Any:
        """The record of every case: of those that an earlier run made, and of the others, made now in few processes.

        Args:
            case_function: makes one case with :func:`write_case` and returns its record.
            job: its first argument.
            cases: all of them.
            n_processes: worker processes.
        """
        files = (self.folder / _RECORDS).glob("[!.]*.json")
        done = {file.name.removesuffix(".json"): json.loads(file.read_text(encoding="utf-8")) for file in files}
        records = {case: done[case] for case in cases if case in done}
        with tqdm(total=len(cases), initial=len(records), desc=self._command, unit="case") as bar:
            for case, record in over_cases(case_function, job, [c for c in cases if c not in records], n_processes):
                records[case] = record
                bar.update()
        return {case: records[case] for case in cases}

    @contextmanager
    def or_nothing(self) -> Iterator[None]:
        """Leave nothing of the work that was begun if it fails; a killed run leaves it."""
        try:
            yield
        except Exception:
            self.discard()
            raise

    def finish(self, copies: dict[str, Path]) -> None:
        """Copy some files by their new names, and put everything in its place.

        Raises:
            UserError: it cannot be written.
        """
        with writing(self.place, REMEDY):
            for name, source in copies.items():
                shutil.copyfile(source, self.folder / name)
            self._write_json(self.folder / self._marker)
            self.publish()

    def publish(self) -> None:
        """Put what is whole in its place; what an earlier run of the command left there is replaced."""
        shutil.rmtree(self.folder / _RECORDS, ignore_errors=True)
        (self.folder / _SETTINGS).unlink(missing_ok=True)
        if not self.place.exists() or not any(self.place.iterdir()):
            if self.place.exists():
                self.place.rmdir()
            self.folder.rename(self.place)
            return
        if (self.place / self._marker).is_file():  # without it an interrupted call has begun to move new files
            shutil.rmtree(self.place / INSTANCES, ignore_errors=True)
            (self.place / self._marker).unlink()
        _move(self.folder, self.place, last=self._marker)
        self.discard()

    def discard(self) -> None:
        """Leave nothing of the work that was begun."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _check(self) -> None:
        if self.place.exists() and not self.place.is_dir():
            raise UserError(f"{self.place} is a file: give a folder with -o")
        if self.place.exists() and any(self.place.iterdir()):
            ours = (self.place / self._marker).is_file() or self.is_whole
            if not ours:
                raise UserError(
                    f"{self.place} holds files that {self._command!r} did not write: give another folder with -o"
                )

    def _begun_with(self) -> Any:
        """The settings of unfinished work; None without any."""
        for file in (self.folder / self._marker, self.folder / _SETTINGS):
            if file.is_file():
                try:
                    return json.loads(file.read_text(encoding="utf-8"))
                except ValueError:
                    return None
        return None

    def _write_json(self, file: Path) -> None:
        with write_atomically(file) as temporary:
            temporary.write_text(json.dumps(self._settings, indent=2), encoding="utf-8")


# --- images ------------------------------------------------------------------------------------------------


def most_ids(reader: type[BaseReaderWriter]) -> int:
    """The largest id that a writer of nnU-Net (2.8.1) stores: all have 16 bits for a label, one of them 8."""
    return 255 if reader.__name__ == "SimpleITKIOWithReorient" else 65535


# --- what it is made from ----------------------------------------------------------------------------------


def check_apart(output: Path, folders: Iterable[Path]) -> None:
    """Refuse an output folder that holds what it is made from.

    Raises:
        UserError: it does.
    """
    place = output.resolve()
    for folder in map(Path.resolve, folders):
        if place == folder or place in folder.parents:
            raise UserError(f"-o {output} holds the predictions in {folder}: give another folder")


def digest_states(files: Iterable[Path]) -> str:
    """A digest of the names, lengths and times of files, missing ones included: does unfinished work still fit them?"""
    stats = [(file, file.stat() if file.is_file() else None) for file in files]
    state = [(file.name, *((stat.st_size, stat.st_mtime_ns) if stat else ())) for file, stat in stats]
    return hashlib.sha256(repr(state).encode()).hexdigest()
