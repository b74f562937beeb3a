"""Instance maps on disk: one compressed array and one table per case, and a manifest that vouches for them.

Beside nnU-Net's folder of preprocessed cases, ``<data identifier>``, lies ``<data identifier>_instances``
(inside it nnU-Net would take our files for cases)::

    CASE.b2nd        (K, *S) uint32 ids on the preprocessed grid, K = 1 for labels, one per region for regions
    CASE.npz         for each instance: channel, id, class, voxels, box, and up to 50 of its voxels
    manifest.json    for each case: digests of both files and of the segmentation that they belong to

Files are written under a temporary name and renamed, the manifest last, so whatever the manifest lists is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import blosc2
import msgpack
import numpy as np

from nnunet_instance_trainers.errors import MEND, UserError, writing

__all__ = [
    "CaseRecord",
    "Manifest",
    "decode_map",
    "digest",
    "map_file",
    "maps_folder",
    "remove_unfinished",
    "segmentation_file",
    "table_file",
    "write_atomically",
    "write_map",
]

_FORMAT = 1
UNFINISHED = ".unfinished_"
"""How the name of a file begins while it is written."""


def maps_folder(preprocessed: str | Path) -> Path:
    """The folder of instance maps that belongs to a folder of preprocessed cases."""
    path = Path(preprocessed)
    return path.with_name(f"{path.name}_instances")


def segmentation_file(preprocessed: str | Path, case: str) -> Path:
    return Path(preprocessed) / f"{case}_seg.b2nd"


def map_file(folder: Path, case: str) -> Path:
    return folder / f"{case}.b2nd"


def table_file(folder: Path, case: str) -> Path:
    return folder / f"{case}.npz"


def digest(file: Path | bytes) -> str:
    """A checksum of a file's bytes, read or to be read."""
    return hashlib.sha256(file if isinstance(file, bytes) else file.read_bytes()).hexdigest()


@dataclass(frozen=True)
class CaseRecord:
    """What the manifest says of a case.

    Attributes:
        segmentation, map, table: digests of nnU-Net's segmentation, of the map and of the table.
        source: digest of the raw files that the ids came from.
        found: instances in the original annotation.
        lost: how many of them no longer have a voxel on the preprocessed grid.
        in_pieces: how many of the annotators' ids are in several pieces each.
    """

    segmentation: str
    map: str
    table: str
    source: str
    found: int
    lost: int
    in_pieces: int = 0


@dataclass(frozen=True)
class Manifest:
    """The contents of ``manifest.json``.

    Attributes:
        origin: ``"instancesTr"`` (annotators' maps) or ``"components"``.
        channels: the labels or region channels that have ids.
        per_slice: whether ids were made per slice, for a 2D configuration of 3D data.
        cases: a record per case.
    """

    origin: str
    channels: tuple[int, ...]
    per_slice: bool
    cases: dict[str, CaseRecord]

    @staticmethod
    def file(folder: Path) -> Path:
        return folder / "manifest.json"

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """The manifest of a folder, None where there is none.

        Raises:
            UserError: it cannot be read.
        """
        path = cls.file(folder)
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text())
            if content.pop("format") != _FORMAT:
                raise ValueError("another format")
            cases = {case: CaseRecord(**record) for case, record in content.pop("cases").items()}
            return cls(cases=cases, **{**content, "channels": tuple(content["channels"])})
        except (ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError):
            raise UserError(f"{path} is unreadable: delete it and run 'nnunet-instance precompute' again") from None

    def write(self, folder: Path) -> None:
        text = json.dumps({"format": _FORMAT, **asdict(self)}, indent=1, sort_keys=True)
        with write_atomically(self.file(folder)) as temporary:
            temporary.write_text(text)


@contextmanager
def write_atomically(path: Path, remedy: str = MEND) -> Iterator[Path]:
    """Give a temporary name beside ``path``, which is renamed to ``path`` on success only.

    The temporary name keeps the ending, which writers go by, and is hidden. It is the same in every run, so
    what a killed run left behind is replaced by the next; a link of that name is not followed.

    Raises:
        UserError: the disk is full, or the folder cannot be written to; it ends with ``remedy``.
    """
    temporary = path.with_name(f"{UNFINISHED}{path.name}")
    with writing(path, remedy):
        temporary.unlink(missing_ok=True)
        try:
            yield temporary
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):  # a read-only file system refuses even this
                temporary.unlink()
            raise


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed run left under temporary names; this run need not write the same files."""
    for left in folder.glob(f"{UNFINISHED}*"):
        left.unlink(missing_ok=True)


def write_map(path: Path, ids: np.ndarray, like: blosc2.NDArray) -> None:
    """Write ids (K, *S), in chunks like those of the segmentation that they belong to."""
    array = blosc2.asarray(
        np.ascontiguousarray(ids, dtype=np.uint32),
        chunks=(1, *like.chunks[1:]),
        blocks=(1, *like.blocks[1:]),
        cparams={"codec": blosc2.Codec.ZSTD, "clevel": 5, "nthreads": 1},
    )
    with write_atomically(path) as temporary:
        temporary.write_bytes(array.to_cframe())  # blosc2 itself does not say why a file cannot be written


def decode_map(content: bytes, path: Path) -> blosc2.NDArray:
    """The ids (K, *S) in the bytes of a map, decompressed where they are asked for.

    A file of Blosc2 may hold an expression over other files, or a function, in place of an array. So what it says of
    itself comes first: the names of its layers, in its header. Its type is looked at before a value: bytes taken for
    objects would be addresses, and a type of fewer bytes than are stored would be written beyond its end.

    Raises:
        UserError: it is no plain array; ``path`` names it.
    """
    try:
        header = msgpack.Unpacker(strict_map_key=False)
        header.feed(content[: int.from_bytes(content[12:16], "big")])
        if set(header.unpack()[-1][1]) != {"b2nd"}:
            raise ValueError("no plain array")
        ids = blosc2.ndarray_from_cframe(content, copy=True)  # blosc2 3.6 does not hold the bytes that it looks at
        if ids.dtype != np.uint32 or ids.schunk.typesize != 4:
            raise ValueError("no ids")
    except Exception:  # a damaged file raises many kinds
        raise UserError(
            f"{path} is no map of instances: delete its folder and run 'nnunet-instance precompute' again"
        ) from None
    return ids
