"""The target of binary problems: what losses need of it that does not depend on the network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from nnunet_instance_trainers.instances import Cells, Objects
from nnunet_instance_trainers.instances.cubes import with_neighbours
from nnunet_instance_trainers.instances.labelling import kinds
from nnunet_instance_trainers.instances.voxel_lists import VoxelList

__all__ = ["TargetSide"]


class TargetSide:
    """The target instances of C classes at all scales, listed once.

    Everything is computed when it is first asked for. A training step asks before it starts the network
    (:meth:`~nnunet_instance_trainers.losses.compound.CompoundLoss.target_side`): what a GPU is waited for then is not
    the forward pass.

    Args:
        ids: (B, *S) integer ids for each scale, 0 is background; without ``labels`` (B * C, *S), each class on its own.
        labels: (B, *S) for each scale, which class each voxel belongs to; None where ``ids`` say so.
        classes: the labels of the classes, ascending.
        valid: (B, *S) bool for each scale, False where voxels are ignored; None means that all count.
        spacing: of the voxels at the first scale, one number per axis; None is 1 along each.
        cells: (B * C, *S) for each scale, for each voxel the id of the nearest instance, where that is known.

    Attributes:
        n_classes: C. Samples are numbered through scales, batch elements and classes, in this order.
        ids, labels, classes, valid, spacing: as given.
    """

    def __init__(
        self,
        ids: Sequence[Tensor],
        *,
        labels: Sequence[Tensor] | None = None,
        classes: Sequence[int] = (1,),
        valid: Sequence[Tensor] | None = None,
        spacing: Sequence[float] | None = None,
        cells: Sequence[Tensor] | None = None,
    ) -> None:
        self.spacing, self._given_cells = spacing, cells
        self._cells: dict[str, Cells] = {}
        self.ids, self.labels, self.classes, self.valid = ids, labels, tuple(classes), valid
        self.n_classes = len(self.classes)

    @property
    def n_kinds(self) -> int:
        """Classes in one image of ids."""
        return 1 if self.labels is None else self.n_classes

    @cached_property
    def instances(self) -> Objects:
        masks = [ids > 0 for ids in self.ids]
        if self.labels is not None:
            masks = [mask.logical_and_(_is_one_of(label, self.classes)) for mask, label in zip(masks, self.labels)]
        voxels = VoxelList.where(self.only_valid(masks))
        kind = kinds(voxels.read(self.labels), self.classes) if self.labels is not None and self.n_classes > 1 else None
        return Objects.of_ids(voxels, voxels.read(self.ids), kind, n_kinds=self.n_kinds, valid=self.valid)

    def cells(self, grid: str) -> Cells:
        """The cells of the instances."""
        if grid not in self._cells:
            self._cells[grid] = self.cells_of(self.instances, grid, self._given_cells)
        return self._cells[grid]

    def cells_of(self, objects: Objects, grid: str, given: Sequence[Tensor] | None = None) -> Cells:
        """The cells of any objects."""
        return Cells(objects, valid=self.valid, spacing=self.spacing, grid=grid, cells=given)

    def only_valid(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Masks or labels (B, *S) or (B * C, *S), 0 where voxels are ignored."""
        if self.valid is None:
            return list(images)
        return [
            image.unflatten(0, (len(ok), -1)).mul(ok.unsqueeze(1)).flatten(0, 1)
            for image, ok in zip(images, self.valid)
        ]

    def ids_at(self, components: Objects, predicted: Sequence[Tensor]) -> Tensor:
        """(K,) the ids at the voxels of components, 0 where the target is not of the component's class.

        Predicted are the label images that the components were found in.
        """
        voxels = components.voxels
        ids = voxels.read(self.ids)
        if self.labels is None:
            return ids
        expected = self.classes[0] if self.n_classes == 1 else voxels.read(predicted)
        return ids.masked_fill_(voxels.read(self.labels) != expected, 0)

    @cached_property
    def whole_instances(self) -> Tensor:
        """(N,) bool, whether no ignored voxel touches the instance; else it may go on where nobody annotated."""
        return self.whole(self.instances)

    def whole(self, objects: Objects) -> Tensor:
        """(N,) bool, the same of any objects."""
        if self.valid is None:
            return torch.ones_like(objects.size, dtype=torch.bool)
        n_per_image = [shape[0] // len(ok) for shape, ok in zip(objects.voxels.shapes, self.valid)]
        beside = [
            near.unsqueeze(1).expand(-1, n, *near.shape[1:]) for near, n in zip(self._beside_ignored, n_per_image)
        ]
        touched = objects.voxels.read(beside).long()
        return touched.new_zeros(len(objects)).index_add_(0, objects.member, touched) == 0

    @cached_property
    def _beside_ignored(self) -> list[Tensor]:
        assert self.valid is not None
        return [with_neighbours(~valid) for valid in self.valid]


def _is_one_of(labels: Tensor, classes: tuple[int, ...]) -> Tensor:
    """Where a label image has one of ascending classes."""
    if len(classes) == 1:
        return labels == classes[0]
    if classes == tuple(range(classes[0], classes[-1] + 1)):
        return (labels >= classes[0]).logical_and_(labels <= classes[-1])
    return torch.stack([labels == one for one in classes]).any(0)
