"""A prediction compared with a target, object by object: what the losses of one class share, computed once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from nnunet_instance_trainers.instances import Objects, OverlapTable, label_batch
from nnunet_instance_trainers.instances.boxes import widen

__all__ = ["Comparison"]

_TINY = 1e-6


class Comparison:
    """Target instances and predicted components of one binary problem, with the sums that losses share.

    Everything is computed when it is first asked for: a blob loss never labels the prediction, and seven
    terms label it once.

    Args:
        probabilities: (B, *S) predicted probabilities in [0, 1].
        instances: (B, *S) integer target ids, 0 is background.
        components: (B, *S) integer ids of predicted components; None labels the predicted voxels.
        threshold: a voxel counts as predicted from this probability on.
        logits: (B, *S) with probabilities = sigmoid(logits). Surrogates then work in log space, where they
            keep their gradient for saturated voxels.
        predicted, lazy_logits: functions that return the predicted voxels (B, *S), instead of the threshold,
            and the logits, called only where something needs them.
        valid: (B, *S) bool, False where voxels are ignored; None means that all count.

    Raises:
        ValueError: shapes differ.
    """

    def __init__(
        self,
        probabilities: Tensor,
        instances: Tensor,
        *,
        components: Tensor | None = None,
        threshold: float = 0.5,
        logits: Tensor | None = None,
        predicted: Callable[[], Tensor] | None = None,
        lazy_logits: Callable[[], Tensor] | None = None,
        valid: Tensor | None = None,
    ) -> None:
        others = {"ids": instances, "components": components, "logits": logits, "valid": valid}
        for name, other in others.items():
            if other is not None and other.shape != probabilities.shape:
                raise ValueError(
                    f"probabilities and {name} must have one shape (B, *S), "
                    f"got {tuple(probabilities.shape)} and {tuple(other.shape)}"
                )
        self.probabilities = probabilities if valid is None else probabilities.masked_fill(~valid, 0)
        self.valid = valid
        self._ids, self._component_ids, self._predicted = instances, components, predicted
        self._threshold = threshold
        self._lazy_logits = lazy_logits if logits is None else lambda: logits

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.probabilities)

    @cached_property
    def instances(self) -> Objects:
        return Objects(self._ids, valid=self.valid)

    @cached_property
    def table(self) -> OverlapTable:
        ids = self._component_ids
        if ids is None:
            predicted = self._predicted() if self._predicted else self.probabilities >= self._threshold
            ids = label_batch(predicted if self.valid is None else predicted & self.valid)
        elif self.valid is not None:
            ids = torch.where(self.valid, ids, 0)
        return OverlapTable(self.instances, Objects(ids), ids)

    @cached_property
    def _logits(self) -> Tensor | None:
        return self._lazy_logits() if self._lazy_logits else None

    @property
    def components(self) -> Objects:
        return self.table.components

    @cached_property
    def instance_mass(self) -> Tensor:
        """(N,) summed probability of each instance."""
        return self.instances.sums(self.probabilities)

    @cached_property
    def component_mass(self) -> Tensor:
        """(M,) summed probability of each component."""
        return self.components.sums(self.probabilities)

    @cached_property
    def pair_mass(self) -> Tensor:
        """(P,) summed probability of what each pair shares."""
        return self.table.sums(self.probabilities)

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
        near = ~self.valid
        for axis in range(1, near.ndim):
            near = widen(near, axis, 1)
        return near

    def _whole(self, objects: Objects) -> Tensor:
        if self.valid is None:
            return torch.ones_like(objects.size, dtype=torch.bool)
        return objects.sums(self._beside_ignored.to(self.probabilities.dtype)) == 0

    @cached_property
    def log_instance_mean(self) -> Tensor:
        """(N,) log of the mean probability in each instance."""
        if self._logits is None:
            return (self.instance_mass / self.instances.size + _TINY).log()
        return _log_mean_sigmoid(self.instances, self.instances.gather(self._logits))

    @cached_property
    def log_component_complement(self) -> Tensor:
        """(M,) log of one minus the mean probability in each component."""
        if self._logits is None:
            return (1 - self.component_mass / self.components.size + _TINY).log()
        return _log_mean_sigmoid(self.components, -self.components.gather(self._logits))


def _log_mean_sigmoid(objects: Objects, logits: Tensor) -> Tensor:
    # A float32 sigmoid keeps its relative precision down to logits of -80, so no log-sum-exp is needed. What lies
    # below counts as -80 but keeps its gradient, which is the softmax of the logits and sums to 1.
    kept = logits + (logits.clamp(min=-80) - logits).detach()
    return (objects.sum_gathered(kept.sigmoid()) / objects.size).log()
