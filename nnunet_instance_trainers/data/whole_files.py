"""Whether an image file is whole.

SimpleITK (2.5) fills what a cut NIfTI or GIPL file lacks with zeros, tifffile takes the pages that are left for all,
and no reader looks at every checksum. So each file is held against its own header and checksums before it is read.
"""

from __future__ import annotations

import bz2
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from itertools import takewhile
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import BinaryIO

import nibabel
import SimpleITK as sitk
import tifffile

from nnunet_instance_trainers.errors import UserError

__all__ = ["check_whole"]

# What names another file as the data.
_META = re.compile(rb"ElementDataFile(?![ \t]*[=:][ \t]*(?:LOCAL|Local|local)[ \t]*\r?\n)")
_META_DATA = re.compile(rb"ElementDataFile[ \t]*[=:][ \t]*(?:LOCAL|Local|local)[ \t]*\r?\n")
_NRRD = re.compile(rb"(?im)^\s*data\s*file\s*:")
_NRRD_ENCODING = re.compile(rb"(?im)^\s*encoding\s*:\s*(\S+)")

_CHUNK = 2**20
_PACKED = 2**14  # at most a thousand times as large unpacked
_GZIP, _ZLIB = 31, 15  # zlib's names for its formats; it checks their checksums
_NIFTI_HEADERS = {348: (nibabel.Nifti1Header, b"n+1"), 540: (nibabel.Nifti2Header, b"n+2")}


class _NotWholeError(Exception):
    """Why a file is not whole."""


def check_whole(path: Path) -> None:
    """Refuse an image file that was cut off or damaged, or whose header says that its voxels are in another file, which
    could be any of this machine's.

    Known are NIfTI, MetaImage, NRRD, GIPL, PNG and TIFF, by their content rather than by their names. JPEG and BMP are
    left to their reader, which refuses them itself; so is what has no checksum and its full length.

    Raises:
        UserError: it is not whole, or cannot be opened.
    """
    try:
        with open(path, "rb") as stream:
            size = path.stat().st_size
            if not size:
                raise _NotWholeError("it is empty")
            _refuse_detached(stream, path)
            _check(stream, path, size)
    except _NotWholeError as error:
        raise UserError(f"{path} is cut off or damaged ({error}): copy it again, or make it again") from None
    except OSError as error:
        raise UserError(f"cannot open {path} ({error.strerror or error}): put it there, or allow it") from None


def _refuse_detached(stream: BinaryIO, path: Path) -> None:
    detached = {".mha": _meta, ".mhd": _meta, ".nrrd": _nrrd, ".nhdr": _nrrd}.get(path.suffix.lower())
    if detached is not None and detached(stream):
        raise UserError(f"{path} is the header of another file: save it in one file")
    stream.seek(0)


def _meta(stream: BinaryIO) -> bool:
    """Look in the whole file: where ITK's parser takes a line for the header's last, odd lines before it decide."""
    with mmap(stream.fileno(), 0, access=ACCESS_READ) as content:
        return _META.search(content) is not None


def _nrrd(stream: BinaryIO) -> bool:
    return _NRRD.search(_nrrd_header(stream)) is not None


def _nrrd_header(stream: BinaryIO) -> bytes:
    """What comes before the first empty line, which is passed."""
    return b"".join(line.replace(b"\r", b"\n") for line in takewhile(bytes.strip, stream))


def _check(stream: BinaryIO, path: Path, size: int) -> None:
    start = stream.read(8)
    stream.seek(0)
    if start.startswith(b"\x1f\x8b"):
        _check_nifti(_inflated(stream, _GZIP))
    elif start[:4] in (struct.pack(f"{order}i", n) for order in "<>" for n in _NIFTI_HEADERS):
        _check_nifti(_blocks(stream))
    elif start == b"\x89PNG\r\n\x1a\n":
        _check_png(stream)
    elif start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        _check_tiff(stream, size)
    elif start.startswith(b"NRRD"):
        encoding = _NRRD_ENCODING.search(_nrrd_header(stream))
        if encoding is None:
            raise _NotWholeError("it ends within its header")
        ways: dict[bytes, Callable[[], Iterator[bytes]]] = {
            b"raw": lambda: _blocks(stream),
            **dict.fromkeys((b"gz", b"gzip"), lambda: _inflated(stream, _GZIP)),
            **dict.fromkeys((b"bz2", b"bzip2"), lambda: _unpacked(stream)),
        }
        way = ways.get(encoding[1].lower())
        if way is not None:
            _check_length(_length(way()), _itk_bytes(path))
    elif path.suffix.lower() in (".mha", ".mhd"):
        _check_meta(stream, path, size)
    elif path.suffix.lower() == ".gipl":
        _check_length(size - 256, _itk_bytes(path))


# --- formats -----------------------------------------------------------------------------------------------


def _check_nifti(content: Iterator[bytes]) -> None:
    first = b""
    while len(first) < 540 and (block := next(content, None)) is not None:
        first += block
    length = len(first) + _length(content)
    for order, (n, (header_class, magic)) in ((o, item) for o in "<>" for item in _NIFTI_HEADERS.items()):
        place = slice(344, 347) if n == 348 else slice(4, 7)
        if len(first) >= n and struct.unpack(f"{order}i", first[:4])[0] == n and first[place] == magic:
            header = header_class(first[:n], check=False)
            dimensions = [int(size) for size in header["dim"]]
            voxels = 1
            for axis in dimensions[1 : dimensions[0] + 1]:
                voxels *= max(axis, 1)
            offset = int(header["vox_offset"])
            _check_length(length - offset, voxels * int(header["bitpix"]) // 8)
            return
    if length < 348:
        raise _NotWholeError("it ends within its header")


def _check_meta(stream: BinaryIO, path: Path, size: int) -> None:
    with mmap(stream.fileno(), 0, access=ACCESS_READ) as content:
        last = _META_DATA.search(content)
        if last is None:
            raise _NotWholeError("it ends within its header")
        header, start = content[: last.end()], last.end()
    if re.search(rb"(?im)^\s*BinaryData\s*[=:]\s*F", header):
        return
    stream.seek(start)
    if re.search(rb"(?im)^\s*CompressedData\s*[=:]\s*T", header):
        _check_length(_length(_inflated(stream, _ZLIB)), _itk_bytes(path))
    else:
        _check_length(size - start, _itk_bytes(path))


def _check_png(stream: BinaryIO) -> None:
    stream.seek(8)
    kind = b""
    while kind != b"IEND":
        start = stream.read(8)
        if len(start) < 8:
            raise _NotWholeError("its end is missing")
        length, kind = struct.unpack(">I4s", start)
        content, checksum = stream.read(length), stream.read(4)
        if len(content) < length or len(checksum) < 4:
            raise _NotWholeError("its end is missing")
        if zlib.crc32(content, zlib.crc32(kind)) != struct.unpack(">I", checksum)[0]:
            raise _NotWholeError("a checksum is wrong")


def _check_tiff(stream: BinaryIO, size: int) -> None:
    """Follow the chain of directories to its end, and see that the data of each page lie in the file."""
    order = "<" if stream.read(2) == b"II" else ">"
    big = struct.unpack(f"{order}H", stream.read(2))[0] == 43
    pointer, count, entry = ("Q", "Q", 20) if big else ("I", "H", 12)

    def number(place: int, kind: str) -> int:
        stream.seek(place)
        content = stream.read(struct.calcsize(kind))
        if len(content) < struct.calcsize(kind):
            raise _NotWholeError("a page is missing")
        return int(struct.unpack(order + kind, content)[0])

    place, seen = number(8 if big else 4, pointer), set()
    while place:
        if place in seen:
            raise _NotWholeError("its pages go in a circle")
        seen.add(place)
        place = number(place + struct.calcsize(count) + number(place, count) * entry, pointer)
    stream.seek(0)
    try:
        with tifffile.TiffFile(stream) as tiff:
            ends = [
                start + length for page in tiff.pages for start, length in zip(page.dataoffsets, page.databytecounts)
            ]
    except Exception as error:  # a damaged directory raises many kinds
        raise _NotWholeError(str(error) or type(error).__name__) from None
    if max(ends, default=0) > size:
        raise _NotWholeError(f"it has {size} bytes, and its pages go to {max(ends)}")


# --- bytes -------------------------------------------------------------------------------------------------


def _check_length(found: int, expected: int) -> None:
    if found < expected:
        raise _NotWholeError(f"it has {max(found, 0)} of {expected} bytes of voxels")


def _itk_bytes(path: Path) -> int:
    """How many bytes the voxels of an image should have, by the header as ITK reads it."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        raise _NotWholeError("its header cannot be read") from None
    voxels = reader.GetNumberOfComponents()
    for size in reader.GetSize():
        voxels *= size
    return voxels * sitk.Image([1, 1], reader.GetPixelID()).GetSizeOfPixelComponent()


def _length(content: Iterator[bytes]) -> int:
    return sum(map(len, content))


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    while block := stream.read(_CHUNK):
        yield block


def _inflated(stream: BinaryIO, kind: int) -> Iterator[bytes]:
    """The content of a compressed stream, of all of a gzip file's members."""
    unpacker, rest = zlib.decompressobj(kind), b""
    try:
        while True:
            block = rest or stream.read(_PACKED)
            if not block:
                raise _NotWholeError("its compressed data end too early")
            yield unpacker.decompress(block)
            rest = b""
            if unpacker.eof:
                rest = unpacker.unused_data or stream.read(_PACKED)
                if kind != _GZIP or not rest.startswith(b"\x1f\x8b"):
                    return  # readers pass over what comes behind
                unpacker = zlib.decompressobj(kind)
    except zlib.error as error:
        raise _NotWholeError(str(error).partition(": ")[2] or str(error)) from None


def _unpacked(stream: BinaryIO) -> Iterator[bytes]:
    try:
        with bz2.open(stream) as content:
            yield from _blocks(content)  # type: ignore[arg-type]
    except (EOFError, OSError) as error:
        raise _NotWholeError(str(error)) from None
