"""Connected components in plain PyTorch, for images that are on a GPU and should stay there."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["CONNECTIVITIES", "propagate_labels"]

# Along how many axes at once a neighbour may be a step away.
CONNECTIVITIES = {2: {4: 1, 8: 2}, 3: {6: 1, 18: 2, 26: 3}}


def propagate_labels(labels: Tensor, connectivity: int | None = None) -> Tensor:
    """Number the connected components of a batch of label images, on the images' own device.

    Exact for components of any shape: runs of equal labels along the last axis become the nodes of a graph and
    their contacts its edges. Every node takes over the least number beside it, chains of such numbers are cut short
    by pointer jumping, and edges within one number are dropped, until there are no more: a few rounds, also for
    snakes and spirals, where passes of max-pooling need as many as the longest path has voxels.

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
    reach = _reach(labels.ndim - 1, connectivity)
    # With a border of background every voxel has all its neighbours, and no line goes on in the next.
    padded = pad(labels.to(torch.uint8) if labels.dtype == torch.bool else labels, (1, 1) * (labels.ndim - 1))
    flat = padded.reshape(-1)
    voxel = flat.nonzero().squeeze(1)
    label = flat[voxel]
    is_start = flat[voxel - 1] != label
    run = is_start.cumsum(0, dtype=torch.int32) - 1
    first_voxels = voxel[is_start]
    numbers = torch.zeros(flat.shape, dtype=torch.int32, device=flat.device)
    numbers[voxel] = run
    contacts = _contacts(padded, voxel, label, is_start, numbers, reach)
    root = _merge(len(first_voxels), *contacts)
    is_root = root == torch.arange(len(root), dtype=torch.int32, device=root.device)
    ids = is_root.cumsum(0, dtype=torch.int32)
    per_sample = torch.bincount(first_voxels[is_root] // padded.stride(0), minlength=len(labels))
    before = (per_sample.cumsum(0) - per_sample).int()
    numbers[voxel] = ids[root[run]] - before[voxel // padded.stride(0)]
    inner = (slice(None), *(slice(1, -1) for _ in labels.shape[1:]))
    return numbers.view(padded.shape)[inner].contiguous()


def _reach(dim: int, connectivity: int | None) -> int:
    if dim not in CONNECTIVITIES:
        raise ValueError(f"labels must have 2 or 3 spatial axes, got {dim}")
    if connectivity is None:
        return dim
    if connectivity not in CONNECTIVITIES[dim]:
        raise ValueError(f"connectivity must be one of {list(CONNECTIVITIES[dim])} in {dim}D, got {connectivity}")
    return CONNECTIVITIES[dim][connectivity]


def _contacts(
    padded: Tensor, voxel: Tensor, label: Tensor, is_start: Tensor, numbers: Tensor, reach: int
) -> tuple[Tensor, Tensor]:
    """Pairs of runs that touch; each contact once or a few times."""
    flat = padded.reshape(-1)
    pairs = []
    for line in product((-1, 0, 1), repeat=padded.ndim - 2):
        steps = sum(map(abs, line))
        if line >= (0,) * len(line) or steps > reach:
            continue  # the lines after this one see it from their side
        at = voxel + sum(step * stride for step, stride in zip(line, padded.stride()[1:]))
        meets = flat[at] == label
        # Two runs side by side meet in many voxels; one of them is where the later run starts.
        pairs.append((meets & (is_start | (flat[at - 1] != label)), at))
        if steps < reach:
            pairs += [(~meets & (flat[at + step] == label), at + step) for step in (-1, 1)]
    chosen = [(mask.nonzero().squeeze(1), at) for mask, at in pairs]
    own, other = (torch.cat(parts) for parts in zip(*((voxel[i], at[i]) for i, at in chosen)))
    return numbers[own], numbers[other]


def _merge(n: int, a: Tensor, b: Tensor) -> Tensor:
    """For each of n nodes the least node that edges (a, b) connect it with, int32."""
    root = torch.arange(n, dtype=torch.int32, device=a.device)
    while len(a):
        low, high = torch.minimum(a, b), torch.maximum(a, b)
        root.scatter_reduce_(0, high.long(), low, "amin")
        while not torch.equal(further := root[root], root):
            root = further
        a, b = root[low], root[high]
        apart = (a != b).nonzero().squeeze(1)
        a, b = a[apart], b[apart]
    return root
