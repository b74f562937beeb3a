from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_instance_trainers.data.spacing_files import known_geometry, known_spacing
from nnunet_instance_trainers.errors import UserError

pytestmark = pytest.mark.nnunet

OWN, OTHER = {"spacing": (1, 1, 1)}, {"spacing": (3, 0.5, 0.5)}


def test_only_a_volume_of_tiff_without_its_spacing_takes_that_of_another_image(tmp_path: Path) -> None:
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

    assert known_geometry(Tiff3DIO(), tmp_path / "a.tif", OWN, OTHER) is OTHER
    assert known_geometry(SimpleITKIO(), tmp_path / "a.nii.gz", OWN, OTHER) is OWN
    (tmp_path / "a.json").touch()
    assert known_geometry(Tiff3DIO(), tmp_path / "a.tif", OWN, OTHER) is OWN


def test_a_spacing_is_known_where_the_format_or_a_file_says_it(tmp_path: Path) -> None:
    from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

    flat, file = {"spacing": (999, 1, 1)}, tmp_path / "a.json"
    assert known_spacing(SimpleITKIO(), tmp_path / "a.nii.gz", OTHER) == (3, 0.5, 0.5)
    assert known_spacing(Tiff3DIO(), tmp_path / "a.tif", OWN) is None
    assert known_spacing(NaturalImage2DIO(), tmp_path / "a.png", flat) is None
    file.write_text('{"shapes": []}')  # of a tool for annotation
    assert known_spacing(NaturalImage2DIO(), tmp_path / "a.png", flat) is None
    file.write_text('{"spacing": [0.5, 2]}')
    assert known_spacing(Tiff3DIO(), tmp_path / "a.tif", OTHER) == (3, 0.5, 0.5)
    assert known_spacing(NaturalImage2DIO(), tmp_path / "a.png", flat) == (2 * 999, 0.5, 2)
    for wrong in (
        '{"spacing": [1]}',
        '{"spacing": [1, 0]}',
        '{"spacing": [1, 2, 3]}',
        '{"spacing": 3}',
        '{"spacing": ["x", 1]}',
    ):
        file.write_text(wrong)
        with pytest.raises(UserError, match="has the spacing .*: give the height of rows and the width of columns"):
            known_spacing(NaturalImage2DIO(), tmp_path / "a.png", flat)
