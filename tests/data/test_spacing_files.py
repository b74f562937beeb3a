from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_instance_trainers.data.spacing_files import known_geometry

pytestmark = pytest.mark.nnunet

OWN, OTHER = {"spacing": (1, 1, 1)}, {"spacing": (3, 0.5, 0.5)}


def test_only_a_volume_of_tiff_without_its_spacing_takes_that_of_another_image(tmp_path: Path) -> None:
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

    assert known_geometry(Tiff3DIO(), tmp_path / "a.tif", OWN, OTHER) is OTHER
    assert known_geometry(SimpleITKIO(), tmp_path / "a.nii.gz", OWN, OTHER) is OWN
    (tmp_path / "a.json").touch()
    assert known_geometry(Tiff3DIO(), tmp_path / "a.tif", OWN, OTHER) is OWN
