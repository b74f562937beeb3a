from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from made_up_files import READERS, write
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from nnunet_instance_trainers.data.whole_files import check_whole
from nnunet_instance_trainers.errors import UserError

NOISE = np.random.default_rng(0).integers(0, 2, (6, 7, 8)).astype(np.uint8)
KINDS = [
    (reader, ending, packed) for reader, endings in READERS.items() for ending in endings for packed in (False, True)
]
CHECKED = [kind for kind in KINDS if kind[1] != ".bmp"]


def made(tmp_path: Path, reader: type, ending: str, packed: bool) -> Path:
    flat = reader.__name__ == "NaturalImage2DIO"
    return write(tmp_path / f"a{ending}", NOISE[0] if flat else NOISE, reader, packed=packed)


@pytest.mark.parametrize("reader, ending, packed", KINDS)
def test_whole_files_pass(tmp_path: Path, reader: type, ending: str, packed: bool) -> None:
    check_whole(made(tmp_path, reader, ending, packed))


@pytest.mark.parametrize("left", [0, 0.1, 0.5, 0.9, -1])
@pytest.mark.parametrize("reader, ending, packed", CHECKED)
def test_cut_files_are_refused(tmp_path: Path, reader: type, ending: str, packed: bool, left: float) -> None:
    path = made(tmp_path, reader, ending, packed)
    content = path.read_bytes()
    path.write_bytes(content[:-1] if left == -1 else content[: int(left * len(content))])
    if left == -1 and ending in (".tif", ".tiff"):
        return  # what tifffile writes last may be a byte that nothing needs
    with pytest.raises(UserError, match="is cut off or damaged"):
        check_whole(path)


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd", ".png"])
def test_a_changed_byte_is_found_by_the_checksum(tmp_path: Path, ending: str) -> None:
    reader = next(r for r, endings in READERS.items() if ending in endings)
    path = made(tmp_path, reader, ending, True)
    content = bytearray(path.read_bytes())
    content[-20] ^= 4
    path.write_bytes(content)
    with pytest.raises(UserError, match="is cut off or damaged"):
        check_whole(path)


def test_a_volume_without_its_last_pages_is_refused(tmp_path: Path) -> None:
    """tifffile takes what is left for all."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for plane in NOISE:
            writer.write(plane)
    content = path.read_bytes()
    check_whole(path)
    path.write_bytes(content[: len(content) * 2 // 3])
    assert len(tifffile.imread(path).shape) < 3 or len(tifffile.imread(path)) < len(NOISE)
    with pytest.raises(UserError, match="a page is missing"):
        check_whole(path)


def test_what_other_tools_write_passes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii.gz", NOISE)
    whole = path.read_bytes()
    plain = gzip.decompress(whole)
    path.write_bytes(plain)  # not compressed, in spite of its name
    check_whole(path)
    path.write_bytes(gzip.compress(plain[:100]) + gzip.compress(plain[100:]) + gzip.compress(b""))  # as bgzip does
    check_whole(path)
    path.write_bytes(whole + bytes(512))  # padded
    check_whole(path)
    assert (SimpleITKIO().read_seg(str(path))[0][0] == NOISE).all()
    tifffile.imwrite(tmp_path / "b.tif", NOISE, bigtiff=True, byteorder=">")
    check_whole(tmp_path / "b.tif")
    tifffile.imwrite(tmp_path / "c.tif", NOISE, imagej=True)
    check_whole(tmp_path / "c.tif")
    assert (Tiff3DIO().read_seg(str(tmp_path / "c.tif"))[0][0] == NOISE).all()
    for name, array in (("complex", NOISE.astype(np.complex64)), ("wide", NOISE.astype(np.float64))):
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / f"{name}.mha"), True)
        check_whole(tmp_path / f"{name}.mha")


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot open .*a.nii.gz \\(No such file or directory\\)"):
        check_whole(tmp_path / "a.nii.gz")
