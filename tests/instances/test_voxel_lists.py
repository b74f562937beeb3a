from __future__ import annotations

import torch
from geometry import random_mask
from torch import Tensor

from nnunet_instance_trainers.instances.voxel_lists import VoxelList, geometry

SHAPES = [torch.Size((3, 5, 4)), torch.Size((2, 2, 3)), torch.Size((1, 1, 1))]


def masks() -> list[Tensor]:
    found = [random_mask(shape, seed=7, share=0.4) for shape in SHAPES]
    found[0][1] = False
    return found


def plain() -> list[tuple[int, int, int, int]]:
    """Image, its first flat position, row and column of each true voxel."""
    voxels, image, start = [], 0, 0
    for scale in masks():
        for mask in scale:
            voxels += [(image, start, row, column) for row, column in mask.nonzero().tolist()]
            image, start = image + 1, start + mask.numel()
    return voxels


def test_a_list_goes_through_all_scales() -> None:
    voxels = VoxelList.where(masks())
    images = [image for scale in masks() for image in scale]
    assert len(voxels) == len(plain()) > 5 and voxels.n_images == 6
    assert voxels.image.tolist() == [image for image, *_ in plain()]
    assert voxels.numbers.tolist() == [int(image.sum()) for image in images]
    assert [part.tolist() for part in voxels.coordinates] == [[v[2] for v in plain()], [v[3] for v in plain()]]
    assert voxels.flat.tolist() == [start + r * images[i].shape[1] + c for i, start, r, c in plain()]
    values = [torch.rand(shape) for shape in SHAPES]
    assert torch.equal(voxels.read(values), torch.cat([value[mask] for value, mask in zip(values, masks())]))
    rows = torch.arange(12).view(6, 2)
    assert torch.equal(voxels.spread(rows), rows[voxels.image.long()])
    assert [len(part) for part in voxels.split(voxels.image)] == [int(mask.sum()) for mask in masks()]


def test_labels_are_listed_as_masks_are() -> None:
    labels = [mask * 3 for mask in masks()]
    assert torch.equal(VoxelList.where(labels).flat, VoxelList.where(masks()).flat)


def test_a_list_may_be_empty() -> None:
    voxels = VoxelList.where([mask & False for mask in masks()])
    assert len(voxels) == 0 and voxels.numbers.tolist() == [0] * 6
    assert [part.shape for part in voxels.coordinates] == [(0,), (0,)]


def test_the_geometry_of_images() -> None:
    found = geometry(SHAPES, torch.device("cpu"))
    assert found.starts.tolist() == [0, 20, 40, 60, 66, 72] and found.ends.tolist() == [20, 40, 60, 66, 72, 73]
    assert found.strides[2:4].tolist() == [[4, 1], [3, 1]] and found.lengths[-1].tolist() == [1, 1]
