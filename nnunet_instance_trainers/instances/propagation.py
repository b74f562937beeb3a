"""Connected components in plain PyTorch, for images that are on a GPU and should stay there."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod

import torch
from torch import Tensor

from nnunet_instance_trainers.instances.voxel_lists import VoxelList, geometry
from nnunet_instance_trainers.instances.voxels import positions

__all__ = ["CONNECTIVITIES", "propagate_labels", "propagate_through"]

# Along how many axes at once a neighbour may be a step away.
CONNECTIVITIES = {2: {4: 1, 8: 2}, 3: {6: 1, 18: 2, 26: 3}}

# Rounds of merging, and steps along chains in each, before the host asks whether all is merged.
_ROUNDS, _JUMPS = 3, 4


def propagate_labels(labels: Tensor, connectivity: int | None = None) -> Tensor:
    """Number the connected components of a batch of label images, on the images' own device.

    Exact for components of any shape: runs of equal labels along the last axis become the nodes of a graph and
    their contacts its edges. Every node takes over the least number that it knows of, and passes it on to the node
    whose number it had; chains of such numbers are cut short by pointer jumping, until no edge has two numbers: a few
    rounds, also for snakes and spirals, where passes of max-pooling need as many as the longest path has voxels.

    Args:
        labels: (B, *S) integers or bool, two or three spatial axes, 0 is background. Voxels of different labels never
            join.
        connectivity: 4 or 8 in 2D, 6, 18 or 26 in 3D; None for 8 and 26.

    Returns:
        (B, *S) int32 ids, 0 for the background and from 1 on in each sample, in the order of first voxels.

    Raises:
        ValueError: another number of axes or connectivity.

    Example:
        >>> propagate_labels(torch.tensor([[[1, 0, 0], [0, 1, 0], [0, 0, 2]]])).tolist()
        [[[1, 0, 0], [0, 1, 0], [0, 0, 2]]]
    """
    voxels, member, numbers = propagate_through([labels], connectivity)
    before = numbers.cumsum(0) - numbers
    ids = torch.zeros(labels.numel(), dtype=torch.int32, device=labels.device)
    ids[voxels.places[0].long()] = (member + 1 - voxels.spread(before)).int()
    return ids.view(labels.shape)


def propagate_through(labels: Sequence[Tensor], connectivity: int | None = None) -> tuple[VoxelList, Tensor, Tensor]:
    """The components of the label images (n, *S) of several scales at once.

    Returns:
        Their voxels; (K,) int32 the component of each, numbered from 0 on through all images in a row; and
        (n_images,) how many each image has. Components of an image are in the order of first voxels.
    """
    reach = _reach(labels[0].ndim - 1, connectivity)
    voxels = VoxelList.where(labels)
    flat, voxel, strides = _padded(labels, voxels)
    is_start = flat[voxel - 1] != flat[voxel]
    # The nodes are runs. Their number would have to be waited for, so there are as many as voxels; the rest stay alone.
    run = is_start.cumsum(0, dtype=torch.int32) - 1
    root = _merge(len(voxel), *_contacts(flat, voxels, voxel, is_start, run, strides, reach))
    is_root = root == torch.arange(len(root), dtype=torch.int32, device=root.device)
    member = (is_root.cumsum(0, dtype=torch.int32) - 1)[root[run]]
    first = is_start & is_root[run]  # the first voxel of each component
    of_images = torch.zeros(voxels.n_images, dtype=torch.int64, device=root.device)
    return voxels, member, of_images.index_add_(0, voxels.image, first.long())


def _reach(dim: int, connectivity: int | None) -> int:
    if dim not in CONNECTIVITIES:
        raise ValueError(f"labels must have 2 or 3 spatial axes, got {dim}")
    if connectivity is None:
        return dim
    if connectivity not in CONNECTIVITIES[dim]:
        raise ValueError(f"connectivity must be one of {list(CONNECTIVITIES[dim])} in {dim}D, got {connectivity}")
    return CONNECTIVITIES[dim][connectivity]


def _padded(labels: Sequence[Tensor], voxels: VoxelList) -> tuple[Tensor, Tensor, Tensor]:
    """All images with a border of background, so that every voxel has all its neighbours and no line goes on in the
    next; the places (K,) of the listed voxels in them; and for each image the steps (n, d) along its axes."""
    shapes = [(shape[0], *(length + 2 for length in shape[1:])) for shape in voxels.shapes]
    sizes = list(map(prod, shapes))
    flat = torch.zeros(sum(sizes), dtype=labels[0].dtype, device=labels[0].device)
    for image, shape, part in zip(labels, shapes, flat.split(sizes)):
        part.view(shape)[(slice(None), *(slice(1, -1) for _ in shape[1:]))] = image
    padded = geometry(shapes, flat.device)
    place = voxels.spread(padded.starts + padded.strides.sum(1))
    for position, stride in zip(voxels.coordinates, voxels.spread(padded.strides).unbind(1)):
        place = place.addcmul(position, stride)
    return flat, place, padded.strides


def _contacts(
    flat: Tensor, voxels: VoxelList, voxel: Tensor, is_start: Tensor, run: Tensor, strides: Tensor, reach: int
) -> tuple[Tensor, Tensor]:
    """Pairs of runs that touch; each contact once or a few times. Waits once."""
    axes = strides.shape[1] - 1
    lines = [line for line in product((-1, 0, 1), repeat=axes) if line < (0,) * axes and _moved(line) <= reach]
    lines.sort(key=_moved)  # the lines at or after the own one see it from their side
    n_askew = sum(_moved(line) < reach for line in lines)  # of these the voxels before and after are neighbours too
    along = strides.unbind(1)
    steps = torch.stack([torch.stack([step * stride for step, stride in zip(line, along)]).sum(0) for line in lines], 1)
    at = voxel + voxels.spread(steps).T
    label = flat[voxel]
    meets, before, after = (flat[at + step] == label for step in (0, -1, 1))
    # Two runs side by side meet in many voxels; one of them is where the later run starts.
    chosen = (meets & (is_start | ~before), (before & ~meets)[:n_askew], (after & ~meets)[:n_askew])
    place = positions(torch.cat(chosen)).long()
    number = torch.zeros(flat.shape, dtype=torch.int32, device=flat.device)
    number[voxel] = run
    other = torch.cat((at, at[:n_askew] - 1, at[:n_askew] + 1)).view(-1)[place]
    return run[place % max(len(voxel), 1)], number[other]


def _moved(line: tuple[int, ...]) -> int:
    return sum(map(abs, line))


def _merge(n: int, a: Tensor, b: Tensor) -> Tensor:
    """For each of n nodes the least node that edges (a, b) connect it with, int32. Waits once for a few rounds."""
    root = torch.arange(n, dtype=torch.int32, device=a.device)
    apart = bool(len(a))
    while apart:
        for _ in range(_ROUNDS):
            of_a, of_b = root[a], root[b]
            root.scatter_reduce_(0, torch.maximum(of_a, of_b).long(), torch.minimum(of_a, of_b), "amin")
            for _ in range(_JUMPS):
                root = root[root]
        apart = bool((root[a] != root[b]).any())
    return root
