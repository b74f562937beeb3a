"""Number formats: losses over whole images are summed in single precision or better."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["in_full_precision"]

Function = TypeVar("Function", bound=Callable)


def _widen(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return [_widen(one) for one in value]
    half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value  # type: ignore[attr-defined]


def _autocasts(device: str) -> bool:
    try:
        return torch.is_autocast_enabled(device)
    except TypeError:  # before torch 2.4 it takes no argument and means CUDA
        return torch.is_autocast_cpu_enabled() if device == "cpu" else torch.is_autocast_enabled()


def in_full_precision(function: Function) -> Function:
    """Decorate a function so that half-precision tensors, also in lists, become float32 and autocast is off inside.

    A float16 sum over 128^3 voxels overflows. float32 and float64 stay what they are. Autocast is only
    touched where it is on, since some torch versions raise on MPS even for ``enabled=False``.
    """

    @wraps(function)
    def wrapper(*args, **kwargs):  # type: ignore[no-untyped-def]
        args = tuple(_widen(a) for a in args)
        kwargs = {name: _widen(value) for name, value in kwargs.items()}
        of_scales = (a[0] if isinstance(a, list) and a else a for a in args)
        device = next((a.device.type for a in of_scales if isinstance(a, Tensor)), "cpu")
        if _autocasts(device):
            with torch.autocast(device, enabled=False):
                return function(*args, **kwargs)
        return function(*args, **kwargs)

    return wrapper  # type: ignore[return-value]
