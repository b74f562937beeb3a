"""Does each side of the instance family train? Overfitting one noisy image of ten discs, Dice as the pixel loss."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nnunet_instance_trainers.evaluation import Counts, detect
from nnunet_instance_trainers.losses import CompoundLoss, FalseInstanceLoss, InstanceSegmentationLoss, PixelLoss
from nnunet_instance_trainers.losses.class_problems import ClassProblems
from nnunet_instance_trainers.losses.modules import ClassLoss

pytestmark = pytest.mark.heavy

SIZE = 128
RADII = (25, 13, 8, 5, 3, 2, 1.5, 1, 1, 1)  # 1961, 529, 197, 81, 29, 13, 9, 5, 5 and 5 pixels
STEPS = 200

MISSED_RATE = partial(FalseInstanceLoss, side="target")
SOFT_INSTANCES = partial(InstanceSegmentationLoss, side="target", missed="soft")
FALSE_RATE = partial(FalseInstanceLoss, side="prediction")
PREDICTED_INSTANCES = partial(InstanceSegmentationLoss, side="prediction")

Term = Callable[[], ClassLoss]

each_seed = pytest.mark.parametrize("seed", [0, 1, 2])


def with_discs(ids: np.ndarray, radii: tuple[float, ...], random: np.random.Generator) -> np.ndarray:
    """The ids with a disc more for each radius, none closer than 3 pixels to another."""
    ids, rows, columns = ids.copy(), *np.indices(ids.shape)
    for n, radius in enumerate(radii, start=ids.max() + 1):
        overlaps = True
        while overlaps:
            row, column = random.integers(int(radius) + 1, SIZE - int(radius) - 1, 2)
            distance = np.hypot(rows - row, columns - column)
            overlaps = ids[distance <= radius + 3].any()
        ids[distance <= radius] = n
    return ids


def noisy_discs(seed: int) -> tuple[Tensor, np.ndarray]:
    """An image (1, 1, SIZE, SIZE), whose noise is as strong as the discs, and the ids of the discs."""
    random = np.random.default_rng(seed)
    ids = with_discs(np.zeros((SIZE, SIZE), dtype=np.int64), RADII, random)
    image = (ids > 0) + random.standard_normal(ids.shape)
    return torch.from_numpy(image).float()[None, None], ids


def overfitted(
    predict: Callable[[], Tensor], parameters: list[Tensor], lr: float, ids: np.ndarray, terms: tuple[Term, ...]
) -> Counts:
    """What Adam makes of the parameters with Dice and the terms, all of weight 1."""
    named = {f"term_{i}": term() for i, term in enumerate(terms)}
    weights = dict.fromkeys(("pixel", *named), 1.0)
    loss = CompoundLoss(PixelLoss(regions=True), named, weights, problems=ClassProblems(regions=True))
    optimiser = torch.optim.Adam(parameters, lr=lr)
    instances = torch.from_numpy(ids)[None, None]
    for _ in range(STEPS):
        optimiser.zero_grad()
        loss(predict(), instances > 0, instances).backward()
        optimiser.step()
    with torch.no_grad():
        return detect(ids, (predict()[0, 0] >= 0).numpy()).counts


def trained_network(seed: int, *terms: Term) -> Counts:
    image, ids = noisy_discs(seed)
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2),
        nn.LeakyReLU(0.01),
        nn.Conv2d(16, 16, 5, padding=2),
        nn.LeakyReLU(0.01),
        nn.Conv2d(16, 1, 1),
    )
    return overfitted(lambda: network(image), [*network.parameters()], 0.01, ids, terms)


@each_seed
def test_dice_alone_leaves_small_objects_unfound(seed: int) -> None:
    counts = trained_network(seed)
    assert counts.missed >= 3
    assert counts.dice > 0.95


@each_seed
@pytest.mark.parametrize("term", [MISSED_RATE, SOFT_INSTANCES], ids=["missed_rate", "soft_instances"])
def test_target_side_finds_all_objects(seed: int, term: Term) -> None:
    counts = trained_network(seed, term)
    assert counts.missed == 0
    assert counts.dice > 0.9


@each_seed
@pytest.mark.parametrize("term", [MISSED_RATE, SOFT_INSTANCES], ids=["missed_rate", "soft_instances"])
def test_false_rate_keeps_target_side_from_inventing_objects(seed: int, term: Term) -> None:
    counts = trained_network(seed, term, FALSE_RATE)
    assert (counts.missed, counts.false) == (0, 0)
    assert counts.dice > 0.9


@each_seed
@pytest.mark.parametrize(
    ("terms", "n_false"),
    [((), 6), ((FALSE_RATE,), 0), ((PREDICTED_INSTANCES,), 0)],
    ids=["dice_alone", "false_rate", "instance_prediction"],
)
def test_prediction_side_removes_saturated_false_objects(seed: int, terms: tuple[Term, ...], n_false: int) -> None:
    """The logits themselves are trained: where they start so high that p is exactly 1, Dice has no gradient left."""
    image, ids = noisy_discs(seed)
    planted = with_discs(ids, (8, 5, 3, 2, 1.5, 1), np.random.default_rng(100 + seed))
    logits = (image + 25 * torch.from_numpy(np.sign(planted) * 2 - 1)).requires_grad_()
    counts = overfitted(lambda: logits, [logits], 0.3, ids, terms)
    assert (counts.missed, counts.false) == (0, n_false)
