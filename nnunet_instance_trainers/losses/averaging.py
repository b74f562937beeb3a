"""Means over classes and over processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist

__all__ = ["Average", "mean_over_classes"]


@dataclass(frozen=True)
class Average:
    """A mean before its division, so that several processes can divide by their common count.

    Attributes:
        total: sum of what is averaged, attached to the graph even where it is empty.
        count: how many there are.
    """

    total: Tensor
    count: Tensor

    def mean(self) -> Tensor:
        """The mean; 0 (and a zero gradient) where there was nothing to average."""
        return self.total / self.count.clamp(min=1)


def mean_over_classes(averages: Sequence[Average]) -> Tensor:
    """Mean over the classes that have something to average.

    Where ``torch.distributed`` runs, counts are those of all processes and the result is scaled by their
    number, so that the mean of gradients that DDP takes is the gradient of the mean over all samples. Every
    process must call this once per scale, also one without any instance.

    Args:
        averages: one entry per class, each a sum and a count.

    Returns:
        A scalar; 0 (and a zero gradient) where no class has anything.

    Example:
        >>> two, none = Average(torch.tensor(3.0), torch.tensor(2)), Average(torch.tensor(0.0), torch.tensor(0))
        >>> mean_over_classes([two, none]).item()
        1.5
    """
    totals = torch.stack([average.total for average in averages])
    counts = torch.stack([average.count for average in averages])
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(counts)
        totals = totals * dist.get_world_size()
    return (totals / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)
