"""Surrogates: what carries the gradient of a loss whose value is the mere presence of an object.

The published code of several terms has zero gradient. Here their values are the published ones, and a surrogate
carries the gradient, straight through: -log(mean p) in a missed instance, -log(1 - mean p) in a false component.
Its gradient at the logits sums to at most 1 per object, so huge objects are harmless and the tiniest pull hardest
per voxel. Surrogates need a leash: ``surrogate_weight`` scales their gradient, not the value.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["is_target", "straight_through", "where_bad"]


def straight_through(value: Tensor, surrogate: Tensor, weight: float) -> Tensor:
    """The value in the forward pass, the gradient of ``weight * surrogate`` added to its own in the backward pass."""
    return value + weight * (surrogate - surrogate.detach())


def where_bad(bad: Tensor, losses: Tensor, surrogate: Tensor, weight: float) -> Tensor:
    """The losses, with the surrogate's gradient added for missed instances or false components."""
    return torch.where(bad, straight_through(losses, surrogate, weight), losses)


def is_target(side: str) -> bool:
    if side not in ("target", "prediction"):
        raise ValueError(f"side must be 'target' or 'prediction', got {side!r}")
    return side == "target"
