"""Connected components of a batch, on the device that it is on."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_instance_trainers.instances.components import label_components
from nnunet_instance_trainers.instances.objects import Objects
from nnunet_instance_trainers.instances.propagation import propagate_labels, propagate_through
from nnunet_instance_trainers.instances.voxel_lists import VoxelList, joined

__all__ = ["Labeller", "kinds", "label_batch", "label_objects", "labeller"]


@dataclass(frozen=True)
class Labeller:
    """A way to number components.

    Attributes:
        name: what does the work: ``"cc3d"``, ``"CuPy"`` or ``"PyTorch"``.
        reason: why it is used on this device.
        label: (B, *S) labels -> (B, *S) int32 ids on the same device, from 1 on in each sample.
    """

    name: str
    reason: str
    label: Callable[[Tensor], Tensor]

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


def label_batch(labels: Tensor) -> Tensor:
    """Number the connected components of a batch of label images, each sample from 1 on.

    Components touch by face, edge or corner and never cross from one label into another. A GPU that has no memory
    left for it gets its ids from the host.

    Args:
        labels: (B, *S) bool or integers, two or three spatial axes, 0 is background.

    Returns:
        (B, *S) int32 ids on the device of the labels.

    Example:
        >>> label_batch(torch.tensor([[[1, 0, 1]], [[0, 0, 1]]])).tolist()
        [[[1, 0, 2]], [[0, 0, 1]]]
    """
    labels = labels.detach()
    try:
        return labeller(labels.device).label(labels)
    except torch.cuda.OutOfMemoryError:
        return _on_host(labels)


def label_objects(labels: Sequence[Tensor], classes: Sequence[int] = (1,)) -> Objects:
    """The connected components in the label images of one or several scales, as :func:`label_batch` finds them.

    Args:
        labels: (n, *S) bool or integers for each scale, 0 is background.
        classes: the labels that occur, ascending; each is a kind of objects.

    Returns:
        The components, in the order of images. A GPU is waited for a few times, however many scales and classes
        there are.

    Example:
        >>> parts = label_objects([torch.tensor([[[1, 0, 2, 2]]]), torch.tensor([[[2, 2]]])], classes=(1, 2))
        >>> parts.sample.tolist(), parts.size.tolist()  # sample = image * 2 + kind
        ([0, 1, 3], [1, 2, 2])
    """
    labels = [image.detach() for image in labels]
    try:
        voxels, member, numbers = _list_components(labels)
    except torch.cuda.OutOfMemoryError:
        voxels, member, numbers = _through_images(labels, _on_host)
    kind = kinds(voxels.read(labels), classes) if len(classes) > 1 else None
    return Objects.of_members(voxels, member, numbers, int(numbers.sum()), kind, n_kinds=len(classes))


def kinds(labels: Tensor, classes: Sequence[int]) -> Tensor:
    """(K,) int32 the place of each of some labels (K,) in ascending classes, of which each must be one."""
    if tuple(classes) == tuple(range(classes[0], classes[-1] + 1)):
        return labels.int() - classes[0]
    return torch.stack([labels > one for one in classes[:-1]]).sum(0, dtype=torch.int32)


def _list_components(labels: Sequence[Tensor]) -> tuple[VoxelList, Tensor, Tensor]:
    """The voxels of components, the component of each voxel, through images in a row, and how many each image has."""
    label = labeller(labels[0].device).label
    if label is propagate_labels or (label is _with_cupy and labels[0].dtype != torch.bool):
        return propagate_through(labels)
    return _through_images(labels, label)


def _through_images(labels: Sequence[Tensor], label: Callable[[Tensor], Tensor]) -> tuple[VoxelList, Tensor, Tensor]:
    """The same by what labels the images of one scale."""
    voxels, ids = VoxelList.where(labels), [label(image) for image in labels]
    numbers = joined([of_scale.flatten(1).amax(1) for of_scale in ids])
    before = numbers.cumsum(0, dtype=torch.int32) - numbers
    return voxels, voxels.read(ids).add_(voxels.spread(before - 1)), numbers


@cache
def labeller(device: torch.device) -> Labeller:
    """What numbers components on a device, and why: CuPy on CUDA where it works, else PyTorch; cc3d elsewhere."""
    if device.type == "cpu":
        return Labeller("cc3d", "the fastest on a CPU", _on_host)
    if device.type != "cuda":
        return Labeller("cc3d", f"on the host: the ways for GPUs were made for CUDA, this is {device.type}", _on_host)
    try:
        _check_cupy(device)
    except ImportError:
        return Labeller("PyTorch", "on the GPU; CuPy, which may be faster, is not installed", propagate_labels)
    except Exception as error:  # a CuPy for another CUDA fails in many ways, all of them at its first use
        return Labeller("PyTorch", f"on the GPU; CuPy is installed but does not work here: {error}", propagate_labels)
    return Labeller("CuPy", "on the GPU", _with_cupy)


def _on_host(labels: Tensor) -> Tensor:
    ids = torch.empty(labels.shape, dtype=torch.int32)
    for sample, target in zip(_copies(labels), ids.numpy()):
        target[...] = label_components(sample)[0]
    return ids.to(labels.device)


def _copies(labels: Tensor) -> Iterator[np.ndarray]:
    """The samples in the memory of the host; from CUDA the next are on their way while one is labelled."""
    if labels.device.type != "cuda":
        yield from labels.cpu().numpy()
        return
    host = torch.empty(labels.shape, dtype=labels.dtype, pin_memory=True)
    arrivals = []
    for source, target in zip(labels, host):
        target.copy_(source, non_blocking=True)
        arrivals.append(torch.cuda.current_stream(labels.device).record_event())
    for sample, arrival in zip(host.numpy(), arrivals):
        arrival.synchronize()
        yield sample


def _with_cupy(labels: Tensor) -> Tensor:
    """CuPy's components, in memory of PyTorch's allocator and on its stream. Masks only, CuPy joins labels."""
    if labels.dtype != torch.bool:
        return propagate_labels(labels)
    cupy: Any = importlib.import_module("cupy")
    ndimage: Any = importlib.import_module("cupyx.scipy.ndimage")
    stream = torch.cuda.current_stream(labels.device)
    memory = cupy.cuda.PythonFunctionAllocator(
        lambda size, device: torch.cuda.caching_allocator_alloc(size, device, stream),
        lambda pointer, _: torch.cuda.caching_allocator_delete(pointer),
    )
    structure = np.ones((3,) * (labels.ndim - 1), dtype=bool)
    with (
        cupy.cuda.Device(labels.device.index),
        cupy.cuda.ExternalStream(stream.cuda_stream),
        cupy.cuda.using_allocator(memory.malloc),
    ):
        samples = cupy.from_dlpack(labels.contiguous().view(torch.uint8))
        ids = [torch.from_dlpack(ndimage.label(sample, structure)[0]) for sample in samples]
    return torch.stack(ids).int()


def _check_cupy(device: torch.device) -> None:
    """Raise unless CuPy can be used on a device and finds the components that PyTorch finds."""
    random = torch.Generator().manual_seed(0)
    masks = (torch.rand((2, 9, 10, 11), generator=random) < 0.2).to(device)
    if not all(map(_same_components, propagate_labels(masks), _with_cupy(masks))):
        raise ValueError("it finds other components than PyTorch")


def _same_components(first: Tensor, second: Tensor) -> bool:
    n_pairs = len(torch.stack((first, second)).flatten(1).unique(dim=1).T)
    one_to_one = n_pairs == int(first.max()) + 1 == int(second.max()) + 1
    return one_to_one and torch.equal(first > 0, second > 0)
