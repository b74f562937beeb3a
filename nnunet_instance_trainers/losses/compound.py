"""The loss that a trainer minimises: a pixel loss and instance terms, at every scale of deep supervision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nnunet_instance_trainers.losses.modules import BlobLoss, ClassLoss

__all__ = ["TERMS", "CompoundLoss"]

TERMS: dict[str, type[ClassLoss]] = {"blob": BlobLoss}
"""The instance terms by the name that they have in the setting ``weights``."""


class CompoundLoss(nn.Module):
    """weight_pixel * pixel loss + sum over terms of weight_term * term.

    The pixel loss is called exactly as it would be alone, so nnU-Net's own loss keeps all of its behaviour.
    Each term is summed over the scales with ``scale_weights``.

    Args:
        pixel_loss: called with (output, target).
        terms: instance terms by name, called with (output, target, instances).
        weights: a weight for ``"pixel"`` and for each term.
        scale_weights: with deep supervision, a weight per scale for the instance terms, as long as the lists
            that :meth:`forward` gets; scales of weight 0 are not computed, one must be above 0. None without
            deep supervision.

    Attributes:
        values: the last value of each part, before weighing and detached, for monitoring.

    Example:
        >>> loss = CompoundLoss(nn.CrossEntropyLoss(), {"blob": BlobLoss()}, {"pixel": 2.0, "blob": 1.0})
        >>> target = torch.ones(1, 1, 4, 4, dtype=torch.long)
        >>> loss.pixel_loss = lambda output, target: nn.functional.cross_entropy(output, target[:, 0])
        >>> loss(torch.zeros(1, 2, 4, 4), target, target).item()  # 2 log 2 + (1 - 2 * 8 / (8 + 16))
        1.71962...
    """

    def __init__(
        self,
        pixel_loss: nn.Module,
        terms: Mapping[str, nn.Module],
        weights: Mapping[str, float],
        *,
        scale_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.pixel_loss = pixel_loss
        self.terms = nn.ModuleDict(terms)
        self.weights = dict(weights)
        self.scale_weights = None if scale_weights is None else tuple(scale_weights)
        self.values: dict[str, Tensor] = {}

    def forward(
        self,
        output: Tensor | Sequence[Tensor],
        target: Tensor | Sequence[Tensor],
        instances: Tensor | Sequence[Tensor] | None,
    ) -> Tensor:
        """The loss of one batch; with deep supervision all arguments are lists, the full scale first."""
        pixel = self.pixel_loss(output, target)
        loss = self.weights["pixel"] * pixel
        values = {"pixel": pixel}
        for name, term in self.terms.items():
            values[name] = self._over_scales(term, output, target, instances)
            loss = loss + self.weights[name] * values[name]
        self.values = {name: value.detach() for name, value in values.items()}
        return loss

    def _over_scales(self, term: nn.Module, output, target, instances) -> Tensor:  # type: ignore[no-untyped-def]
        if self.scale_weights is None:
            return term(output, target, instances)
        scales = zip(self.scale_weights, output, target, instances, strict=True)
        return torch.stack([weight * term(*scale) for weight, *scale in scales if weight != 0]).sum()
