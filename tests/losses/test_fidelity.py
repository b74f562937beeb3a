"""Differences from published code that docs/fidelity.md names, each as a claim."""

from __future__ import annotations

import pytest
import torch

from nnunet_instance_trainers.instances import Objects, label_batch
from nnunet_instance_trainers.losses.functional import (
    blob_loss,
    false_instance_loss,
    instance_segmentation_loss,
    instance_terms,
)


def test_a_line_of_200_pixels_is_one_component() -> None:
    line = torch.zeros(1, 3, 210, dtype=torch.bool)
    line[0, 1, 5:205] = True
    assert label_batch(line).amax() == 1


def test_a_snake_is_one_component() -> None:
    snake = torch.zeros(1, 41, 41, dtype=torch.bool)
    snake[0, ::4] = True
    snake[0, 1:40:8, 40] = snake[0, 2:40:8, 40] = snake[0, 3:40:8, 40] = True
    snake[0, 5:40:8, 0] = snake[0, 6:40:8, 0] = snake[0, 7:40:8, 0] = True
    assert label_batch(snake).amax() == 1


@pytest.mark.parametrize("n", [50, 51, 200])
def test_all_components_count_not_the_first_fifty(n: int) -> None:
    """One hit among n components: the false rate is (n - 1) / n."""
    p = torch.zeros(1, 2 * n + 1)[:, None]
    p[0, 0, 1::2] = 0.9
    target = torch.zeros_like(p, dtype=torch.long)
    target[0, 0, 2 * n - 1] = 1  # the last one is the hit
    assert false_instance_loss(p, target, side="prediction").item() == pytest.approx((n - 1) / n)
    assert instance_segmentation_loss(p, target, side="prediction").item() == pytest.approx(
        1 - 2 * 0.9 / 1.9 / n, abs=3e-5
    )


def test_ids_beyond_sixteen_bits_keep_their_identity() -> None:
    ids = torch.arange(1, 70_001).reshape(1, 700, 100)
    assert len(Objects(ids)) == 70_000 and (Objects(ids).size == 1).all()


def test_false_positives_are_weighed_by_p_not_by_its_square() -> None:
    p = torch.tensor([[[0.9, 0.6, 0.0]]])
    target = torch.tensor([[[1, 0, 0]]])
    assert instance_segmentation_loss(p, target).item() == pytest.approx(1 - 2 * 0.9 / (1 + 0.9 + 0.6), abs=1e-5)


def test_boxes_are_tight() -> None:
    ids = torch.zeros(1, 9, 9, dtype=torch.long)
    ids[0, 2:5, 3:8] = 1
    low, high = Objects(ids).boxes
    assert (low.tolist(), high.tolist()) == ([[2, 3]], [[5, 8]])


def test_without_a_target_there_is_nothing_to_average() -> None:
    p = torch.rand(1, 8, 8) * 0.4
    terms = instance_terms(p, torch.zeros(1, 8, 8, dtype=torch.long))
    assert all(terms[name] == 0 for name in terms if name != "pixel")


def test_other_instances_are_left_out_of_the_blob_domain() -> None:
    """Whatever p is inside instance 2, the loss of instance 1 stays."""
    target = torch.tensor([[[1, 1, 0, 2, 2]]])
    losses = [blob_loss(torch.tensor([[[0.8, 0.7, 0.1, q, q]]]), target, reduction="none")[0] for q in (0.0, 0.5, 1.0)]
    assert losses[0] == losses[1] == losses[2]
