from __future__ import annotations

import pytest
import torch

from nnunet_instance_trainers.losses.averaging import Average, class_means


def average(total: float, count: int, occurs: int | None = None) -> Average:
    return Average(torch.tensor([total]), torch.tensor([count]), torch.tensor([count if occurs is None else occurs]))


def means(terms: list[list[Average]]) -> torch.Tensor:
    """The means of terms with an average for each class, at one scale."""
    joined = [
        Average(*(torch.cat([getattr(one, f) for one in term]) for f in ("total", "count", "occurs"))) for term in terms
    ]
    return class_means(joined, len(terms[0])).squeeze(1)


def test_the_mean_over_classes_leaves_out_empty_ones() -> None:
    a, b, empty = average(3.0, 2), average(0.5, 1), average(0.0, 0)
    assert means([[a, empty, b]]).tolist() == [1.0]  # (1.5 + 0.5) / 2
    assert means([[empty]]).tolist() == [0]
    assert empty.mean().item() == 0


def test_terms_are_averaged_on_their_own() -> None:
    a, b, empty = average(3.0, 2), average(0.5, 1), average(0.0, 0)
    assert means([[a, b], [empty, b], [b, a], [empty, empty]]).tolist() == [1.0, 0.5, 1.0, 0.0]


def test_a_class_that_occurs_nowhere_is_left_out_though_it_counts_samples() -> None:
    there, nowhere = average(3.0, 4, occurs=2), average(0.0, 4, occurs=0)
    assert means([[there, nowhere]]).tolist() == [0.75]


def test_what_is_left_out_stays_attached_with_a_zero_gradient() -> None:
    p = torch.ones(3, requires_grad=True)
    nowhere = Average(p.sum()[None], torch.tensor([3]), torch.tensor([0]))
    result = means([[nowhere]])
    assert result.tolist() == [0]
    assert torch.autograd.grad(result.sum(), p)[0].tolist() == [0, 0, 0]


def test_scales_are_averaged_on_their_own() -> None:
    """Two scales of two classes, scale after scale; at the second the first class is missing."""
    term = Average(torch.tensor([3.0, 0.5, 0.0, 2.0]), torch.tensor([2, 1, 0, 4]), torch.tensor([2, 1, 0, 4]))
    assert class_means([term, term], 2).tolist() == [[1.0, 0.5]] * 2
    assert class_means([term], 1).tolist() == [[1.5, 0.5, 0.0, 0.5]]


def test_the_mean_of_one_problem_is_a_scalar() -> None:
    assert average(3.0, 2).mean().shape == () and average(3.0, 2).mean().item() == 1.5
    with pytest.raises(RuntimeError, match="shape"):
        Average(*[torch.tensor([1, 2])] * 3).mean()
