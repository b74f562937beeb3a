from __future__ import annotations

import json
import struct
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from made_up_files import READ, REFUSED, make_up, write
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from skimage import io

from nnunet_instance_trainers.data.label_reading import check_ids, read_image, read_labels
from nnunet_instance_trainers.errors import UserError

LABELS = np.random.default_rng(0).integers(0, 4, (4, 5, 6)).astype(np.uint8)
SHARED = Path(__file__).parents[3] / "shared" / "data"


def refusal(reader: type, path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_labels(reader(), path, "a")
    line = str(caught.value)
    assert "\n" not in line and line.startswith("case 'a': ") and str(path) in line
    return line


# --- a fuzz ------------------------------------------------------------------------------------------------


def look_at(tmp_path: Path, seed: int) -> str:
    """Read a made-up file: as meant, or refused with one line. Returns which."""
    file = make_up(tmp_path, seed)
    try:
        labels, _ = read_labels(file.reader(), file.path, "a", None)
    except UserError as error:
        assert "\n" not in str(error) and str(file.path) in str(error)
        assert file.fault not in READ, (seed, file, str(error))
        return f"{file.fault}: refused"
    assert file.fault not in REFUSED, (seed, file)
    assert labels.shape == file.meant.shape and (labels == file.meant).all(), (seed, file)
    return f"{file.fault}: read as meant"


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_made_up_files_are_read_as_meant_or_refused(tmp_path: Path, first: int) -> None:
    outcomes = [look_at(tmp_path, seed) for seed in range(first, first + 20)]
    assert {word.split(": ")[1] for word in outcomes} == {"refused", "read as meant"}


@pytest.mark.heavy
def test_two_thousand_made_up_files(tmp_path: Path) -> None:
    outcomes = Counter(look_at(tmp_path, seed) for seed in range(2000))
    print(json.dumps(dict(sorted(outcomes.items())), indent=1))
    assert len(outcomes) >= 11


# --- values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value, says", [(0.7, "the value 0.7, which"), (np.nan, "the value nan"), (np.inf, "inf")])
def test_what_is_no_label_is_refused(tmp_path: Path, value: float, says: str) -> None:
    values = LABELS.astype(np.float32)
    values[1, 2, 3] = value
    assert says in refusal(NibabelIO, write(tmp_path / "a.nii.gz", values, NibabelIO))


@pytest.mark.parametrize("distance, refused", [(0.9e-3, False), (1.1e-3, True), (-0.9e-3, False), (-1.1e-3, True)])
def test_a_thousandth_is_rounding(tmp_path: Path, distance: float, refused: bool) -> None:
    path = write(tmp_path / "a.nii.gz", LABELS.astype(np.float32) + np.float32(distance))
    if refused:
        assert "which is no label" in refusal(SimpleITKIO, path)
    else:
        assert (read_labels(SimpleITKIO(), path, "a")[0] == LABELS).all()


@pytest.mark.parametrize("slope", [1 - 1e-6, 1 + 1e-6])
@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO])
def test_ids_under_a_slope_that_is_nearly_one(tmp_path: Path, reader: type, slope: float) -> None:
    ids = LABELS.astype(np.uint16) * 20_000
    path = write(tmp_path / "a.nii", ids, reader, slope=slope)
    assert nibabel.load(path).dataobj.slope == pytest.approx(slope, abs=1e-7)
    assert (read_labels(reader(), path, "a")[0] == ids).all()


@pytest.mark.parametrize(
    "largest, dtype", [(1, np.uint8), (255, np.uint8), (256, np.uint16), (65535, np.uint16), (65536, np.uint32)]
)
def test_labels_are_as_short_as_they_can_be(tmp_path: Path, largest: int, dtype: type) -> None:
    values = np.zeros((3, 4, 5), np.float32)
    values[1, 2, 3] = largest
    labels, _ = read_labels(SimpleITKIO(), write(tmp_path / "a.nii.gz", values), "a", None)
    assert labels.dtype == dtype and (labels == values).all()
    values[2, 2, 2] = -1
    labels, _ = read_labels(SimpleITKIO(), write(tmp_path / "a.nii.gz", values), "a", None)
    assert labels.dtype.kind == "i" and (labels == values).all()


@pytest.mark.parametrize("huge", [3e9, 2.0**63 + 2.0**50])
def test_huge_ids_keep_their_sign_and_are_refused_as_huge(tmp_path: Path, huge: float) -> None:
    values = np.zeros((3, 4, 5), np.float32)
    values[1, 2, 3] = huge
    path = write(tmp_path / "a.nii.gz", values)
    for dtype in (None, np.int64):
        labels, _ = read_labels(SimpleITKIO(), path, "a", dtype)
        assert labels.min() == 0 and labels[1, 2, 3] == 2**31
        with pytest.raises(UserError, match="ids of 2\\^24 and more"):
            check_ids(labels, path, "a")


# --- channels and axes ---------------------------------------------------------------------------------------


def test_colours_are_refused_and_grey_in_colour_is_read(tmp_path: Path) -> None:
    grey = LABELS[0]
    for name, channels in {
        "colour": (grey, grey, grey + 1),
        "rgb": (grey, grey, grey),
        "opaque": (grey, grey, grey, np.full_like(grey, 255)),
        "red only": (grey, 0 * grey, 0 * grey, np.full_like(grey, 255)),
    }.items():
        io.imsave(tmp_path / f"{name}.png", np.stack(channels, -1), check_contrast=False)
    for name in ("rgb", "opaque"):
        assert (read_labels(NaturalImage2DIO(), tmp_path / f"{name}.png", "a")[0] == grey[None]).all()
    assert "has 3 channels that differ" in refusal(NaturalImage2DIO, tmp_path / "colour.png")
    assert "has 4 channels that differ" in refusal(NaturalImage2DIO, tmp_path / "red only.png")


def test_vectors_are_no_fourth_axis(tmp_path: Path) -> None:
    for shape in ((4, 5, 6, 3), (5, 6, 3)):
        image = sitk.GetImageFromArray(np.zeros(shape, np.uint8), isVector=True)
        sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
        assert "several values in each voxel" in refusal(SimpleITKIO, tmp_path / "a.nrrd")


def test_a_sheared_image_names_the_reader_that_takes_it(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[0, 1] = 0.2
    nibabel.save(nibabel.Nifti1Image(LABELS.T, affine), tmp_path / "a.nii.gz")
    assert '"overwrite_image_reader_writer": "NibabelIO"' in refusal(SimpleITKIO, tmp_path / "a.nii.gz")
    assert (read_labels(NibabelIO(), tmp_path / "a.nii.gz", "a")[0] == LABELS).all()


@pytest.mark.parametrize("edge", [np.nan, np.inf])
def test_a_voxel_has_edges(tmp_path: Path, edge: float) -> None:
    """nibabel does not mind; 0 and negative numbers it mends, and SimpleITK mends all."""
    path = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti1Image(LABELS.T, np.eye(4)), path)
    content = bytearray(path.read_bytes())
    content[84:88] = struct.pack("<f", edge)  # along the second axis
    path.write_bytes(content)
    assert f"says that a voxel has 1 x {edge} x 1 mm: correct" in refusal(NibabelIO, path)


def test_images_may_hold_any_number_but_are_whole(tmp_path: Path) -> None:
    values = LABELS.astype(np.float32) + np.float32(0.3)
    values[0, 0, 0] = np.nan
    path = write(tmp_path / "a_0000.nii.gz", values, NibabelIO)
    image, _ = read_image(NibabelIO(), [path, path], "a")
    assert image.shape == (2, *LABELS.shape) and np.array_equal(image[1], values, equal_nan=True)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="case 'a': .*a_0000.nii.gz is cut off or damaged"):
        read_image(NibabelIO(), [path], "a")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
def test_what_is_right_is_read() -> None:
    """A label and a map of each dataset, as its own reader gives them."""
    for dataset in sorted(SHARED.glob("Dataset*")):
        ending = json.loads((dataset / "dataset.json").read_text())["file_ending"]
        reader = NaturalImage2DIO() if ending == ".png" else SimpleITKIO()
        for folder in ("labelsTr", "instancesTr"):
            file = min((dataset / folder).glob(f"*{ending}"))
            labels, _ = read_labels(reader, file, "a", None)
            assert (labels == reader.read_seg(str(file))[0][0]).all()
