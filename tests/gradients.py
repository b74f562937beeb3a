"""Derivatives against finite differences."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def gradients_are_right(function: Callable[[Tensor], Tensor | tuple[Tensor, ...]], values: Tensor) -> bool:
    """Whether ``function`` has the derivatives of its finite differences, along random directions.

    A wrong entry shows in a random direction too, and one direction costs two passes instead of two per voxel.
    """
    return torch.autograd.gradcheck(function, values, fast_mode=True)
