from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from made_up_files import write
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient

from nnunet_instance_trainers.data.grids import check_grid, geometry_difference, world_coordinates
from nnunet_instance_trainers.data.label_reading import read_labels
from nnunet_instance_trainers.errors import UserError

LABELS = np.random.default_rng(0).integers(0, 4, (4, 5, 6)).astype(np.uint8)
READERS = [SimpleITKIO, NibabelIO, SimpleITKIOWithReorient, NibabelIOWithReorient]
SPACING, ORIGIN = (0.5, 0.7, 3.0), (-120.5, 80.25, 40.0)


def difference(tmp_path: Path, reader: type, unit: float, **other: object) -> str:
    """Of a grid of voxels of some unit against one that differs in something."""
    given = {"spacing": SPACING, "origin": ORIGIN, **other}
    geometries = []
    for k, kind in enumerate(({"spacing": SPACING, "origin": ORIGIN}, given)):
        scaled = {name: tuple(unit * n for n in kind[name]) for name in ("spacing", "origin")}
        turn = {name: value for name, value in kind.items() if name == "direction"}
        file = write(tmp_path / f"{k}.nii.gz", LABELS, reader, **scaled, **turn)
        geometries.append(read_labels(reader(), file, "a")[1])
    return geometry_difference(geometries[1], geometries[0])


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("reader", READERS)
def test_a_grid_is_measured_in_its_voxels(tmp_path: Path, reader: type, unit: float) -> None:
    """Of micrometres as of metres: a rounded header agrees, what is a voxel or a per cent off does not."""
    rng = np.random.default_rng(3)
    assert difference(tmp_path, reader, unit) == ""
    for _ in range(3):
        noise = rng.uniform(-1, 1, 3)
        assert difference(tmp_path, reader, unit, spacing=tuple(SPACING * (1 + 1e-3 * noise))) == ""
        assert difference(tmp_path, reader, unit, origin=tuple(ORIGIN + 0.02 * noise * SPACING)) == ""
    for axis in range(3):
        step = np.eye(3)[axis]
        assert difference(tmp_path, reader, unit, spacing=tuple(SPACING * (1 + 0.01 * step))).startswith("spacing: ")
        for voxels in (-1, 0.5, 1):
            shifted = difference(tmp_path, reader, unit, origin=tuple(ORIGIN + voxels * step * SPACING))
            assert shifted.startswith("origin: ")


def test_doubled_spacing_of_microscopy_is_no_rounding(tmp_path: Path) -> None:
    says = difference(tmp_path, SimpleITKIO, 1e-3, spacing=(1.0, 1.4, 6.0))
    assert says == "spacing: 0.001 x 0.0014 x 0.006 against 0.0005 x 0.0007 x 0.003"


def test_another_direction_is_named(tmp_path: Path) -> None:
    angle = 0.05
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    for reader in (SimpleITKIO, NibabelIO):
        assert difference(tmp_path, reader, 1, direction=turn).startswith("direction: ")
    with pytest.raises(UserError, match="case 'a': .*b.nii.gz differs from its label in direction: "):
        a = write(tmp_path / "a.nii.gz", LABELS)
        b = write(tmp_path / "b.nii.gz", LABELS, direction=turn)
        (first, own), (second, other) = (read_labels(SimpleITKIO(), file, "a") for file in (a, b))
        check_grid(b, "a", second, other, first, own, "its label")


@pytest.mark.parametrize("reader", [SimpleITKIOWithReorient, NibabelIOWithReorient])
def test_readers_that_reorient_read_one_grid_from_any_orientation(tmp_path: Path, reader: type) -> None:
    """What counts is the array that was read."""
    image = nibabel.Nifti1Image(LABELS.T, np.diag([0.5, 0.7, 3.0, 1.0]))
    nibabel.save(image, tmp_path / "a.nii.gz")
    nibabel.save(image.as_reoriented([[1, -1], [2, 1], [0, -1]]), tmp_path / "b.nii.gz")
    (a, own), (b, other) = (read_labels(reader(), tmp_path / f"{name}.nii.gz", "a") for name in "ab")
    assert (a == b).all() and geometry_difference(own, other) == ""
    check_grid(tmp_path / "b.nii.gz", "a", b, other, a, own)


def test_a_slice_is_a_flat_image_of_the_same_grid(tmp_path: Path) -> None:
    for spacing, says in (((0.5, 0.7), ""), ((0.5, 0.8), "spacing: 0.5 x 0.8 against 0.5 x 0.7")):
        flat = write(tmp_path / "flat.nii.gz", LABELS[0], spacing=spacing)
        slice_ = write(tmp_path / "slice.nii.gz", LABELS[:1], spacing=(0.5, 0.7, 3.0))
        (a, own), (b, other) = (read_labels(SimpleITKIO(), file, "a") for file in (flat, slice_))
        assert a.shape == b.shape and geometry_difference(own, other) == says


def test_another_size_is_named(tmp_path: Path) -> None:
    small = LABELS[:, :, 1:]
    with pytest.raises(UserError, match="differs from its ground truth in size: 5 x 5 x 4 against 6 x 5 x 4 voxels"):
        check_grid(tmp_path, "a", small, {"spacing": (1, 1, 1)}, LABELS, {"spacing": (1, 1, 1)})


def test_a_place_in_the_world_is_that_of_both_libraries(tmp_path: Path) -> None:
    """Of every reader, on a turned and flipped grid; those that reorient give other places for the same voxel."""
    angle = 0.4
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, -1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    file = write(tmp_path / "a.nii.gz", LABELS * 0, spacing=SPACING, origin=ORIGIN, direction=turn)
    voxel = (4, 1, 3)  # in the file
    expected = nibabel.load(file).affine @ [*voxel, 1]
    lps = sitk.ReadImage(str(file)).TransformIndexToPhysicalPoint(voxel)
    assert expected[:3] == pytest.approx(np.array([-1, -1, 1]) * lps, abs=1e-4)
    marked = LABELS * 0
    marked[voxel[::-1]] = 1
    write(file, marked, spacing=SPACING, origin=ORIGIN, direction=turn)
    for reader in READERS:
        image, geometry = read_labels(reader(), file, "a")
        assert world_coordinates(geometry, np.argwhere(image))[0] == pytest.approx(expected[:3], abs=1e-4)


def test_a_format_without_an_origin_has_no_world() -> None:
    assert np.isnan(world_coordinates({"spacing": (999, 1, 1)}, np.zeros((2, 3)))).all()
    assert world_coordinates({"spacing": (999, 1, 1)}, np.zeros((0, 3))).shape == (0, 3)
