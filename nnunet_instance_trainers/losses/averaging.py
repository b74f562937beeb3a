"""Means over classes and over processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist

__all__ = ["Average", "class_means"]


@dataclass(frozen=True)
class Average:
    """Means before their division, so that several processes can divide by their common counts.

    There are P of them, one for each class at each scale, scale after scale.

    Attributes:
        total: (P,) sums of what is averaged, attached to the graph even where there is nothing.
        count: (P,) how many there are.
        occurs: (P,) above 0 where the class has something to average. A mean over samples counts samples without
            any object too, but a class without any object in any sample is left out of the mean over classes.
    """

    total: Tensor
    count: Tensor
    occurs: Tensor

    def mean(self) -> Tensor:
        """The only mean, a scalar; 0 (and a zero gradient) where there was nothing to average."""
        return (self.total / self.count.clamp(min=1)).reshape(())


def class_means(terms: Sequence[Average], n_classes: int) -> Tensor:
    """For each term, at each scale, the mean over the classes that have something to average.

    Where ``torch.distributed`` runs, counts are those of all processes and the result is scaled by their
    number, so that the mean of gradients that DDP takes is the gradient of the mean over all samples. Every
    process must call this once per step, also one without any instance; all terms and scales share one all-reduce.

    Args:
        terms: for each term its averages.
        n_classes: how many classes each scale has.

    Returns:
        (number of terms, number of scales); 0 (and a zero gradient) where no class has anything.

    Example:
        >>> two_classes = Average(torch.tensor([3.0, 0.0]), torch.tensor([2, 0]), torch.tensor([2, 0]))
        >>> class_means([two_classes], 2).tolist()
        [[1.5]]
    """
    totals = torch.stack([average.total for average in terms])
    counts = torch.stack([torch.stack((average.count, average.occurs)) for average in terms])
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(counts)
        totals = totals * dist.get_world_size()
    count, occurs = counts.unbind(1)
    means = torch.where(occurs > 0, totals / count.clamp(min=1), totals * 0)
    shape = len(terms), -1, n_classes
    return means.view(shape).sum(2) / (occurs > 0).view(shape).sum(2).clamp(min=1)
