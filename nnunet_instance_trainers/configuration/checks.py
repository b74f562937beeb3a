"""Checks of single settings: functions of a value that say whether it is allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from sys import float_info
from typing import Any

from nnunet_instance_trainers.losses.named_criteria import resolve
from nnunet_instance_trainers.losses.named_terms import TERMS

__all__ = [
    "is_criterion",
    "is_names",
    "is_number",
    "is_odd",
    "is_positive_int",
    "is_seed",
    "is_warm_up",
    "is_weights",
    "one_of",
]


def is_number(value: object) -> bool:
    """A number of JSON: whole or not, finite, no truth value."""
    # JSON knows whole numbers that are no float, and what is greater than every number or none.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= float_info.max


def is_weights(value: object) -> bool:
    """Weights >= 0 by the names of the pixel loss and the terms."""
    return isinstance(value, Mapping) and all(
        name in ("pixel", *TERMS) and is_number(weight) and weight >= 0 for name, weight in value.items()
    )


def is_warm_up(value: object) -> bool:
    """Whole numbers of epochs by the names of terms."""
    return isinstance(value, Mapping) and all(
        name in TERMS and is_positive_int(epochs) for name, epochs in value.items()
    )


def is_criterion(value: Any) -> bool:
    """What a criterion can be made of."""
    try:
        resolve(value)
    except (TypeError, ValueError):
        return False
    return True


def is_positive_int(value: object) -> bool:
    """A whole number of 1 or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def is_odd(value: object) -> bool:
    """An odd whole number of 1 or more."""
    return is_positive_int(value) and value % 2 == 1  # type: ignore[operator]


def is_seed(value: object) -> bool:
    """A whole number of 0 or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_names(value: object) -> bool:
    """A name or a list of names."""
    return isinstance(value, str) or (
        isinstance(value, (list, tuple)) and bool(value) and all(isinstance(name, str) for name in value)
    )


def one_of(*choices: object) -> Callable[[object], bool]:
    """A check for one of these values and no other."""
    return lambda value: any(value is choice or value == choice for choice in choices)
