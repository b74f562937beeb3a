"""Derivatives against finite differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def gradients_are_right(function: Callable[..., Any], values: Tensor | Sequence[Tensor]) -> bool:
    """Whether ``function`` has the derivatives of its finite differences, along random directions.

    A wrong entry shows in a random direction too, and one direction costs two passes instead of two per voxel.
    """
    return torch.autograd.gradcheck(function, values, fast_mode=True)
