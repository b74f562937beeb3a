"""A prediction compared with a target, object by object: what the losses of one class share, computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from nnunet_instance_trainers.instances import Cells, Objects, OverlapTable, label_batch
from nnunet_instance_trainers.instances.cubes import with_neighbours
from nnunet_instance_trainers.losses.criteria import Criterion
from nnunet_instance_trainers.losses.prediction import Prediction
from nnunet_instance_trainers.losses.surrogates import is_target

__all__ = ["Comparison"]

_TINY = 1e-6


class Comparison:
    """Target instances and predicted components of one binary problem, with the sums that losses share.

    Everything is computed when it is first asked for: a blob loss never labels the prediction, and seven
    terms label it once.

    Args:
        prediction: what is predicted.
        ids: (B, *S) integer target ids, 0 is background.
        components: (B, *S) integer ids of predicted components; None labels the predicted foreground.
        valid: (B, *S) bool, False where voxels are ignored; None means that all count.
        spacing: of the voxels, one number per axis; None is 1 along each.
        cells: (B, *S) for each voxel the id of the nearest object of the ``"target"`` or the ``"prediction"``, where
            that is known.

    Raises:
        ValueError: shapes differ.
    """

    def __init__(
        self,
        prediction: Prediction,
        ids: Tensor,
        *,
        components: Tensor | None = None,
        valid: Tensor | None = None,
        spacing: Sequence[float] | None = None,
        cells: Mapping[str, Tensor] | None = None,
    ) -> None:
        cells = cells or {}
        given = {"ids": ids, "components": components, "valid": valid}
        given |= {f"cells of the {side}": cells_ for side, cells_ in cells.items()}
        for name, other in given.items():
            if other is not None and other.shape != prediction.shape:
                raise ValueError(
                    f"probabilities and {name} must have one shape (B, *S), "
                    f"got {tuple(prediction.shape)} and {tuple(other.shape)}"
                )
        self.prediction, self.valid = prediction, valid
        self.shape, self.dtype = prediction.shape, prediction.dtype
        self._ids, self._component_ids = ids, components
        self._spacing, self._known_cells = spacing, cells
        self._cells: dict[tuple[bool, str], Cells] = {}
        self._negative: dict[Criterion, Tensor] = {}

    @cached_property
    def probabilities(self) -> Tensor:
        """(B, *S), 0 where voxels are ignored."""
        p = self.prediction.probabilities
        return p if self.valid is None else p.masked_fill(~self.valid, 0)

    @cached_property
    def target(self) -> Objects:
        """The target's instances, for losses that look at no component."""
        return Objects(self._ids, valid=self.valid)

    @cached_property
    def inside(self) -> Tensor:
        """(K,) probabilities at the voxels of ``target``."""
        return self.target.gather(self.probabilities)

    def negative(self, part: Criterion) -> Tensor:
        """(B, *S) what each voxel gives to a criterion where the target is 0."""
        if part not in self._negative:
            self._negative[part] = part.negative(self.probabilities)
        return self._negative[part]

    def cells(self, side: str, grid: str) -> Cells:
        """The cells of the target's instances, or of the predicted components."""
        objects = self.target if is_target(side) else self.predicted
        key = is_target(side), grid
        if key not in self._cells:
            known = self._known_cells.get(side)
            self._cells[key] = Cells(objects, valid=self.valid, spacing=self._spacing, grid=grid, cells=known)
        return self._cells[key]

    @cached_property
    def component_ids(self) -> Tensor:
        """(B, *S) ids of the predicted components."""
        if self._component_ids is not None:
            return self._component_ids
        foreground = self.prediction.foreground
        return label_batch(foreground if self.valid is None else foreground & self.valid)

    @cached_property
    def predicted(self) -> Objects:
        """The predicted components, for losses that look at no overlap."""
        return Objects(self.component_ids, valid=self.valid)

    @cached_property
    def table(self) -> OverlapTable:
        return OverlapTable(self._ids, self.component_ids, valid=self.valid)

    @property
    def instances(self) -> Objects:
        return self.table.instances

    @property
    def components(self) -> Objects:
        return self.table.components

    @cached_property
    def _read(self) -> tuple[Tensor, Tensor | None]:
        """Probabilities and log odds at the table's voxels."""
        return self.prediction.at(self.table.voxel)

    @cached_property
    def instance_mass(self) -> Tensor:
        """(N,) summed probability of each instance."""
        return self.instances.sum_gathered(self._read[0].index_select(0, self.table.of_instances))

    @cached_property
    def component_mass(self) -> Tensor:
        """(M,) summed probability of each component."""
        return self.components.sum_gathered(self._read[0].index_select(0, self.table.of_components))

    @cached_property
    def pair_mass(self) -> Tensor:
        """(P,) summed probability of what each pair shares."""
        return self.table.sum_gathered(self._read[0])

    @cached_property
    def missed(self) -> Tensor:
        """(N,) bool, whether no component meets the instance."""
        return torch.bincount(self.table.instance, minlength=len(self.instances)) == 0

    @cached_property
    def false(self) -> Tensor:
        """(M,) bool, whether the component meets no instance."""
        return torch.bincount(self.table.component, minlength=len(self.components)) == 0

    @cached_property
    def whole_instances(self) -> Tensor:
        """(N,) bool, whether no ignored voxel touches the instance; else it may go on where nobody annotated."""
        return self._whole(self.instances)

    @cached_property
    def whole_components(self) -> Tensor:
        """(M,) bool, the same of components."""
        return self._whole(self.components)

    @cached_property
    def _beside_ignored(self) -> Tensor:
        assert self.valid is not None
        return with_neighbours(~self.valid)

    def _whole(self, objects: Objects) -> Tensor:
        if self.valid is None:
            return torch.ones_like(objects.size, dtype=torch.bool)
        touched = self._beside_ignored.reshape(-1).index_select(0, objects.voxel)
        return torch.bincount(objects.member[touched], minlength=len(objects)) == 0

    @cached_property
    def log_instance_mean(self) -> Tensor:
        """(N,) log of the mean probability in each instance."""
        odds = self._read[1]
        if odds is None:
            return (self.instance_mass / self.instances.size + _TINY).log()
        return _LogMeanSigmoid.apply(odds, self.table.of_instances, self.instances, False)

    @cached_property
    def log_component_complement(self) -> Tensor:
        """(M,) log of one minus the mean probability in each component."""
        odds = self._read[1]
        if odds is None:
            return (1 - self.component_mass / self.components.size + _TINY).log()
        return _LogMeanSigmoid.apply(odds, self.table.of_components, self.components, True)


class _LogMeanSigmoid(Function):
    """(N,) log of the mean sigmoid, or that of the negated, of the logits (K,) at some places over each object."""

    # A float32 sigmoid keeps its relative precision down to logits of -80, so no log-sum-exp is needed. What lies
    # below counts as -80 but keeps its gradient, which is the softmax of the logits and sums to 1.
    @staticmethod
    def forward(ctx: Any, logits: Tensor, place: Tensor, objects: Objects, negated: bool) -> Tensor:
        p = logits.index_select(0, place)
        p = (p.neg_() if negated else p).clamp_(min=-80).sigmoid_()
        sums = objects.sum_gathered(p)
        ctx.save_for_backward(p, sums, place, objects.member)
        ctx.negated, ctx.number = negated, len(logits)
        return (sums / objects.size).log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        p, sums, place, member = ctx.saved_tensors
        share = (p / sums.index_select(0, member)).to(p.dtype)  # first, since 1 / sums may be beyond float32
        share.mul_(1 - p).mul_((-gradient if ctx.negated else gradient).to(p.dtype).index_select(0, member))
        return share.new_zeros(ctx.number).index_add_(0, place, share), None, None, None
