"""Probabilities that nnU-Net saves beside its predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nnunet_instance_trainers.data.label_folders import ForegroundClass
from nnunet_instance_trainers.errors import UserError

__all__ = ["read_probabilities"]

_ROUNDING = 1e-3  # nnU-Net may save half precision
_SUM_ROUNDING = 1e-2


def read_probabilities(path: Path, case: str, shape: Sequence[int], classes: Sequence[ForegroundClass]) -> np.ndarray:
    """nnU-Net's probabilities (C, *S), which it saves on the grid of the image as its reader gives it.

    Args:
        path: an ``.npz``.
        case: its name, for messages.
        shape: (*S) of the image.
        classes: all foreground classes or regions of the dataset.

    Raises:
        UserError: they cannot be read, have another shape or number of channels, or are no probabilities: not finite,
            outside 0 to 1, or of labels that exclude each other with another sum than 1.
    """
    again = "predict again with --save_probabilities"
    try:
        with np.load(path) as archive:
            probabilities = archive["probabilities"]
    except Exception:  # a damaged archive raises many kinds
        raise UserError(f"case {case!r}: cannot read probabilities from {path}: {again}") from None
    expected = (max(c.channel for c in classes) + 1, *shape)
    if probabilities.shape != expected or probabilities.dtype.kind != "f":
        raise UserError(
            f"case {case!r}: {path} has probabilities of shape {probabilities.shape} and type {probabilities.dtype}, "
            f"expected {expected} and a float: {again}"
        )
    exclusive = all(c.channel > 0 for c in classes)  # channel 0 is the background's, regions have none
    for plane in np.moveaxis(probabilities, 1, 0):  # the whole at once would take as much memory again
        low, high = float(plane.min()), float(plane.max())
        if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
            wrong = f"values from {low:.4g} to {high:.4g}, and probabilities are finite and from 0 to 1"
        elif exclusive and (worst := float(np.abs(plane.sum(0, dtype=np.float32) - 1).max())) > _SUM_ROUNDING:
            wrong = f"probabilities whose sums differ from 1 by up to {worst:.4g}"
        else:
            continue
        raise UserError(f"case {case!r}: {path} has {wrong}: {again}")
    return probabilities
