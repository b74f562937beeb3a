"""The loss that a trainer minimises: a pixel loss and instance terms, at every scale of deep supervision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from nnunet_instance_trainers.losses.averaging import class_means
from nnunet_instance_trainers.losses.class_problems import ClassProblems
from nnunet_instance_trainers.losses.modules import ClassLoss
from nnunet_instance_trainers.losses.number_formats import in_full_precision
from nnunet_instance_trainers.losses.target_side import TargetSide

__all__ = ["CompoundLoss"]


class CompoundLoss(nn.Module):
    """weight_pixel * pixel loss + sum over terms of weight_term * term.

    The pixel loss is called exactly as it would be alone, so nnU-Net's own loss keeps all of its behaviour.
    Each term is summed over the scales with ``scale_weights``. All terms share one comparison of all classes and
    scales: the prediction is labelled once, whatever their number.

    Args:
        pixel_loss: called with (output, target); not called at weight 0.
        terms: instance terms by name; their own ``problems`` are not used.
        weights: a weight for ``"pixel"`` and for each term.
        problems: how output and target become binary problems.
        scale_weights: with deep supervision, a weight per scale for the instance terms, as long as the lists
            that :meth:`forward` gets; scales of weight 0 are not computed, one must be above 0. None without
            deep supervision.

    Attributes:
        values: the last value of each part, before weighing and detached, for monitoring.

    Example:
        >>> from nnunet_instance_trainers.losses import BlobLoss, PixelLoss
        >>> loss = CompoundLoss(PixelLoss(), {"blob": BlobLoss()}, {"pixel": 2.0, "blob": 1.0})
        >>> target = torch.ones(1, 1, 4, 4, dtype=torch.long)
        >>> round(loss(torch.zeros(1, 2, 4, 4), target, target).item(), 5)  # 3 * (1 - 2 * 8 / (8 + 16))
        1.0
    """

    def __init__(
        self,
        pixel_loss: nn.Module,
        terms: Mapping[str, ClassLoss],
        weights: Mapping[str, float],
        *,
        problems: ClassProblems | None = None,
        scale_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.pixel_loss = pixel_loss
        self.terms = nn.ModuleDict(terms)
        self.weights = dict(weights)
        self.problems = problems or ClassProblems()
        self.scale_weights = None if scale_weights is None else tuple(scale_weights)
        self.values: dict[str, Tensor] = {}

    def forward(
        self,
        output: Tensor | Sequence[Tensor],
        target: Tensor | Sequence[Tensor],
        instances: Tensor | Sequence[Tensor] | TargetSide | None,
    ) -> Tensor:
        """The loss of one batch; with deep supervision all arguments are lists, the full scale first.

        In the place of ids a :meth:`target_side` will do.
        """
        # The terms come first, so that the backward pass frees the pixel loss's images before it makes theirs.
        of_terms = self._of_terms(output, target, instances) if self.terms else ()
        scales = [output] if isinstance(output, Tensor) else output
        values = {}
        if self.weights["pixel"]:
            pixel = self.pixel_loss(output, target)
            # nnU-Net's cross-entropy is a plain 0 where every voxel is ignored.
            values["pixel"] = pixel if isinstance(pixel, Tensor) else _attached_zero(scales[:1])
        values.update(zip(self.terms, of_terms))
        self.values = {name: value.detach() for name, value in values.items()}
        loss = torch.stack([self.weights[name] * value for name, value in values.items()]).sum()
        if dist.is_available() and dist.is_initialized():
            # DDP stops where a parameter got no gradient, such as that of a scale that nothing looks at.
            loss = loss + _attached_zero(scales)
        return loss

    def target_side(
        self, target: Tensor | Sequence[Tensor], instances: Tensor | Sequence[Tensor] | None, n_channels: int
    ) -> TargetSide:
        """All that the terms need of a target, for :meth:`forward` in the place of instances.

        Made before the network starts, it costs a GPU no wait for the forward pass.
        """
        targets, ids = self._scales(target, instances)
        side = self.problems.target_side(targets, ids, n_channels)
        for term in self.terms.values():
            term.prepare(side)  # type: ignore[operator]
        return side

    def _scales(self, *of_scales: Any) -> list[Any]:
        """Lists of what has a weight above 0; None and a target side stay as they are."""
        if self.scale_weights is None:
            return [[one] if isinstance(one, Tensor) else one for one in of_scales]
        chosen = []
        for scales in of_scales:
            if scales is not None and not isinstance(scales, TargetSide):
                scales = [scale for weight, scale in zip(self.scale_weights, scales, strict=True) if weight != 0]
            chosen.append(scales)
        return chosen

    @in_full_precision
    def _of_terms(self, output: Any, target: Any, instances: Any) -> Tensor:
        """(number of terms,) summed over scales."""
        comparison = self.problems(*self._scales(output, target, instances))
        averages = [term.average(comparison) for term in self.terms.values()]  # type: ignore[operator]
        of_scales = class_means(averages, comparison.n_classes).unbind(1)
        weights = [1.0] if self.scale_weights is None else [weight for weight in self.scale_weights if weight != 0]
        return torch.stack([weight * of_scale for weight, of_scale in zip(weights, of_scales)]).sum(0)


def _attached_zero(scales: Sequence[Tensor]) -> Tensor:
    """0 that is attached to every scale, with a zero gradient."""
    return torch.stack([scale[:0].sum() for scale in scales]).sum()
