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
    """A mean of one class before its division, so that several processes can divide by their common count.

    Attributes:
        total: sum of what is averaged, attached to the graph even where it is empty.
        count: how many there are.
        occurs: above 0 where the class has something to average. A mean over samples counts samples without
            any object too, but a class without any object in any sample is left out of the mean over classes.
    """

    total: Tensor
    count: Tensor
    occurs: Tensor

    @classmethod
    def over(cls, values: Tensor, occurs: Tensor | None = None) -> Average:
        """The mean of a vector."""
        count = torch.tensor(len(values), device=values.device)
        return cls(values.sum(), count, count if occurs is None else occurs)

    def mean(self) -> Tensor:
        """The mean; 0 (and a zero gradient) where there was nothing to average."""
        return self.total / self.count.clamp(min=1)


def class_means(terms: Sequence[Sequence[Average]]) -> Tensor:
    """For each term, the mean over the classes that have something to average.

    Where ``torch.distributed`` runs, counts are those of all processes and the result is scaled by their
    number, so that the mean of gradients that DDP takes is the gradient of the mean over all samples. Every
    process must call this once per scale, also one without any instance; all terms share one all-reduce.

    Args:
        terms: for each term, one entry per class.

    Returns:
        (number of terms,); 0 (and a zero gradient) where no class has anything.

    Example:
        >>> two = Average.over(torch.tensor([1.0, 2.0]))
        >>> none = Average.over(torch.zeros(0))
        >>> class_means([[two, none]]).tolist()
        [1.5]
    """
    totals = torch.stack([torch.stack([average.total for average in term]) for term in terms])
    counts = torch.stack(
        [torch.stack([a for average in term for a in (average.count, average.occurs)]) for term in terms]
    )
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(counts)
        totals = totals * dist.get_world_size()
    count, occurs = counts.view(*totals.shape, 2).unbind(-1)
    means = torch.where(occurs > 0, totals / count.clamp(min=1), totals * 0)
    return means.sum(1) / (occurs > 0).sum(1).clamp(min=1)
