"""Our values in the loggers that nnU-Net keeps beside its own: Weights & Biases, where ``nnUNet_wandb_enabled`` is set.

nnU-Net's own logger raises on keys that it does not know, so only the others are told, each by the method with which
nnU-Net tells them. What goes wrong there ends no training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isnan
from typing import Any

from nnunetv2.training.logging.nnunet_logger import MetaLogger

__all__ = ["log_epoch", "log_summary"]


def log_epoch(
    logger: MetaLogger, prefix: str, values: Mapping[str, float], epoch: int, say: Callable[[str], None]
) -> None:
    """Log the values of an epoch as ``prefix/name``; nan is left out.

    Args:
        logger: the trainer's.
        prefix: before each name.
        values: by name.
        epoch: their step.
        say: is told of a logger that fails.
    """
    _tell(logger, prefix, values, say, lambda other, key, value: other.log(key, value, epoch))


def log_summary(logger: MetaLogger, prefix: str, values: Mapping[str, float], say: Callable[[str], None]) -> None:
    """Log values that a training has once; as :func:`log_epoch`."""
    _tell(logger, prefix, values, say, lambda other, key, value: other.log_summary(key, value))


def _tell(
    logger: MetaLogger,
    prefix: str,
    values: Mapping[str, float],
    say: Callable[[str], None],
    log: Callable[[Any, str, float], None],
) -> None:
    for other in logger.loggers:
        try:
            for name, value in values.items():
                if not isnan(value):
                    log(other, f"{prefix}/{name}", value)
        except Exception as error:  # each logger raises its own kinds
            say(f"{type(other).__name__} did not take the {prefix}: {type(error).__name__}: {error}")
