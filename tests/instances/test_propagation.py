from __future__ import annotations

import cc3d
import numpy as np
import pytest
import torch

from nnunet_instance_trainers.instances.propagation import CONNECTIVITIES, propagate_labels, propagate_through

CASES = [(dim, connectivity) for dim, all_of_them in CONNECTIVITIES.items() for connectivity in all_of_them]


def assert_equals_cc3d(labels: np.ndarray, connectivity: int) -> None:
    ids = propagate_labels(torch.from_numpy(labels), connectivity)
    assert ids.shape == labels.shape and ids.dtype == torch.int32
    for sample, found in zip(labels, ids.numpy()):
        sample = sample.view(np.uint8) if sample.dtype == bool else sample
        expected, n = cc3d.connected_components(sample, connectivity=connectivity, return_N=True)
        assert found.max() == n
        assert ((found > 0) == (sample > 0)).all()
        # n distinct pairs, so that each component has one id and each id one component
        assert len(np.unique(np.stack((found, expected))[:, sample > 0], axis=1).T) == n


@pytest.mark.parametrize("dim, connectivity", CASES)
@pytest.mark.parametrize("density", [0.05, 0.3, 0.5, 0.8])
def test_equals_cc3d_on_random_masks(dim: int, connectivity: int, density: float) -> None:
    """100 masks for each of the 20 cases, 2,000 in all."""
    rng = np.random.default_rng(connectivity)
    for shape in ((9, 11, 8), (1, 6, 13), (7, 1, 1), (4, 5, 20)):
        assert_equals_cc3d(rng.random((25, *shape[3 - dim :])) < density, connectivity)


@pytest.mark.parametrize("dim, connectivity", CASES)
def test_labels_never_join(dim: int, connectivity: int) -> None:
    rng = np.random.default_rng(1)
    shape = (20, *(9, 8, 11)[3 - dim :])
    assert_equals_cc3d(((rng.random(shape) < 0.7) * rng.integers(1, 4, shape)).astype(np.int16), connectivity)


def snake(size: int, thickness: int) -> np.ndarray:
    """One path back and forth through every other line of every other plane."""
    mask = np.zeros((thickness, size, size), bool)
    mask[::2, ::2] = True
    for plane in range(0, thickness, 2):
        for turn, line in enumerate(range(1, size - 1, 2)):
            mask[plane, line, -1 if turn % 2 == 0 else 0] = True
    for climb, plane in enumerate(range(1, thickness - 1, 2)):
        mask[plane, -1 if climb % 2 == 0 else 0, 0 if climb % 2 else -1] = True
    return mask


def spiral(size: int) -> np.ndarray:
    """A path of one voxel that winds inwards."""
    mask = np.zeros((size, size), bool)
    at, step, turns = np.array([0, -1]), np.array([0, 1]), 0
    length = size
    while length > 0:
        for _ in range(length):
            at = at + step
            mask[tuple(at)] = True
        step, turns = np.array([step[1], -step[0]]), turns + 1
        length = length - (2 if turns > 1 and turns % 2 == 0 else 0) - (1 if turns == 1 else 0)
    return mask


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_a_snake_is_one_component(connectivity: int, axes: tuple[int, ...]) -> None:
    path = snake(41, 5)
    assert path.sum() > 2500
    ids = propagate_labels(torch.from_numpy(path.transpose(axes).copy())[None], connectivity)
    assert ids.max() == 1 and (ids[0].numpy() > 0).sum() == path.sum()
    cut = path.copy()
    cut[2, 20, 20] = False
    assert_equals_cc3d(cut.transpose(axes).copy()[None], connectivity)


@pytest.mark.parametrize("connectivity", [4, 8])
def test_a_spiral_is_one_component_and_its_gap_another(connectivity: int) -> None:
    path = spiral(61)
    assert path.sum() > 1500
    assert_equals_cc3d(np.stack((path, path[::-1], path.T, ~path)), connectivity)
    assert propagate_labels(torch.from_numpy(path)[None], connectivity).max() == 1


def test_ids_start_at_one_in_each_sample_and_follow_first_voxels() -> None:
    masks = torch.tensor([[[0, 1, 0, 1], [1, 0, 0, 0]], [[0, 0, 0, 0], [0, 0, 0, 0]], [[1, 0, 1, 0], [1, 0, 0, 1]]])
    expected = [[[0, 1, 0, 2], [3, 0, 0, 0]], [[0] * 4] * 2, [[1, 0, 2, 0], [1, 0, 0, 3]]]
    assert propagate_labels(masks, 4).tolist() == expected


@pytest.mark.parametrize("shape", [(1, 0, 4), (2, 3, 0, 2), (0, 3, 3)])
def test_empty_images_have_empty_ids(shape: tuple[int, ...]) -> None:
    assert propagate_labels(torch.zeros(shape, dtype=torch.bool)).shape == shape


def test_other_axes_and_connectivities_are_refused() -> None:
    with pytest.raises(ValueError, match="2 or 3 spatial axes, got 1"):
        propagate_labels(torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"one of \[6, 18, 26\] in 3D, got 8"):
        propagate_labels(torch.zeros(1, 2, 2, 2), 8)


def test_several_scales_are_labelled_at_once() -> None:
    """Each as it is alone; components are numbered through all images in a row."""
    rng = np.random.default_rng(3)
    scales = [torch.from_numpy(rng.random(shape) < 0.3) for shape in ((2, 9, 8, 7), (2, 4, 4, 3), (2, 1, 2, 1))]
    voxels, member, numbers = propagate_through(scales)
    alone = [propagate_labels(scale) for scale in scales]
    assert numbers.tolist() == [int(image.max()) for scale in alone for image in scale]
    ids = voxels.read(alone)
    assert torch.equal(member, ids + voxels.spread(numbers.cumsum(0) - numbers) - 1)
