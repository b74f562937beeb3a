"""Whether the instance maps of a training are there, whole, and made of the files that are there now."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nnunet_instance_trainers.data.map_store import (
    CaseRecord,
    Manifest,
    digest,
    map_file,
    maps_folder,
    segmentation_file,
    table_file,
)
from nnunet_instance_trainers.data.raw_files import RawFiles
from nnunet_instance_trainers.errors import UserError

__all__ = ["is_current", "verify"]


def verify(
    preprocessed: str | Path,
    cases: Iterable[str],
    channels: Iterable[int],
    files: RawFiles,
    remedy: str,
    preprocess: str,
) -> None:
    """Check that every case has a map that is whole, and made of its segmentation, label and annotators' map.

    Raw files that are not on this machine are not compared: a training needs none of them.

    Args:
        preprocessed: nnU-Net's folder of preprocessed cases.
        cases: the cases of the training.
        channels: the labels or region channels that get the instance terms.
        files: the raw files of the dataset.
        remedy: the command that makes the maps anew.
        preprocess: the command that preprocesses the configuration again.

    Raises:
        UserError: naming the first case that has no map, a damaged one, or one of other files.
    """
    folder = maps_folder(preprocessed)
    manifest = Manifest.read(folder)
    if manifest is None:
        raise UserError(f"no instance maps in {folder}: run '{remedy}'")
    if manifest.origin == "components" and files.annotated is not None:
        raise UserError(
            f"the instance maps in {folder} were made from components, and {files.annotated} is there now: run "
            f"'{remedy}'"
        )
    without = sorted(set(channels) - set(manifest.channels))
    if without:
        raise UserError(f"the instance maps in {folder} were made without class {without[0]}: run '{remedy}'")
    for case in cases:
        record = manifest.cases.get(case)
        problem = _problem(record, folder, segmentation_file(preprocessed, case), case)
        if problem:
            raise UserError(f"case {case!r}: {problem}: run '{remedy}'")
        assert record is not None
        _check_sources(record, files, case, remedy, preprocess)


def _check_sources(record: CaseRecord, files: RawFiles, case: str, remedy: str, preprocess: str) -> None:
    """Compare what the map of a case was made of, the label first, with what is there."""
    now = files.sources(case)
    label, *maps = record.source.split()
    kept = files.kept_label(case)
    if now.pop(kept, label) != label:
        raise UserError(
            f"case {case!r}: its label {kept} is newer than its instance map: run '{preprocess}', then '{remedy}'"
        )
    for file, own in now.items():
        if own not in maps:
            raise UserError(f"case {case!r}: {file} changed after its instance map was made: run '{remedy}'")


def is_current(manifest: Manifest | None, preprocessed: str | Path, case: str, files: RawFiles) -> bool:
    """Whether a case's map need not be made again."""
    if manifest is None or case not in manifest.cases:
        return False
    record, segmentation = manifest.cases[case], segmentation_file(preprocessed, case)
    is_of_sources = record.source.split() == list(files.sources(case).values())
    return is_of_sources and _problem(record, maps_folder(preprocessed), segmentation, case) is None


def _problem(record: CaseRecord | None, folder: Path, segmentation: Path, case: str) -> str | None:
    if record is None or not map_file(folder, case).is_file() or not table_file(folder, case).is_file():
        return "its instance map is missing"
    if not segmentation.is_file():
        return "its preprocessed segmentation is missing"
    if digest(segmentation) != record.segmentation:
        return "its instance map is older than its preprocessed segmentation"
    if digest(map_file(folder, case)) != record.map or digest(table_file(folder, case)) != record.table:
        return "its instance map is damaged"
    return None
