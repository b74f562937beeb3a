from __future__ import annotations

import torch

from nnunet_instance_trainers.losses.averaging import Average, class_means


def average(total: float, count: int, occurs: int | None = None) -> Average:
    return Average(torch.tensor(total), torch.tensor(count), torch.tensor(count if occurs is None else occurs))


def test_the_mean_over_classes_leaves_out_empty_ones() -> None:
    a, b, empty = average(3.0, 2), average(0.5, 1), average(0.0, 0)
    assert class_means([[a, empty, b]]).tolist() == [1.0]  # (1.5 + 0.5) / 2
    assert class_means([[empty]]).tolist() == [0]
    assert empty.mean().item() == 0


def test_terms_are_averaged_on_their_own() -> None:
    a, b, empty = average(3.0, 2), average(0.5, 1), average(0.0, 0)
    assert class_means([[a, b], [empty, b], [b, a], [empty, empty]]).tolist() == [1.0, 0.5, 1.0, 0.0]


def test_a_class_that_occurs_nowhere_is_left_out_though_it_counts_samples() -> None:
    there, nowhere = average(3.0, 4, occurs=2), average(0.0, 4, occurs=0)
    assert class_means([[there, nowhere]]).tolist() == [0.75]


def test_what_is_left_out_stays_attached_with_a_zero_gradient() -> None:
    p = torch.ones(3, requires_grad=True)
    nowhere = Average(p.sum(), torch.tensor(3), torch.tensor(0))
    result = class_means([[nowhere]])
    assert result.tolist() == [0]
    assert torch.autograd.grad(result.sum(), p)[0].tolist() == [0, 0, 0]


def test_the_mean_of_a_vector() -> None:
    made = Average.over(torch.tensor([1.0, 2.0]))
    assert (made.mean().item(), made.count.item(), made.occurs.item()) == (1.5, 2, 2)
    assert Average.over(torch.tensor([1.0, 2.0]), torch.tensor(7)).occurs.item() == 7
    assert Average.over(torch.zeros(0)).mean().item() == 0
