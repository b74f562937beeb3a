"""Tiny and degenerate images, one loss and one setting each, drawn at random: nothing that is not finite."""

from __future__ import annotations

import random
import warnings
from math import prod

import pytest
import torch
from geometry import random_labels, random_mask, random_probabilities
from losses.plain import CRITERIA, FAST, FAST_CELLS, with_gradient
from torch import Tensor

from nnunet_instance_trainers.instances import label_batch
from nnunet_instance_trainers.losses import blob_loss, inverse_weighted_loss, pixel_loss, topk_dice_loss
from nnunet_instance_trainers.losses.class_problems import ClassProblems
from nnunet_instance_trainers.losses.inverse import WEIGHTED_CRITERIA
from nnunet_instance_trainers.losses.named_criteria import ASL, Dice, Focal, GeneralizedDice, Tversky
from nnunet_instance_trainers.losses.named_terms import TERMS, make_term

ANY = {
    **FAST,
    **FAST_CELLS,
    "blob": blob_loss,
    "pixel": pixel_loss,
    "topk": topk_dice_loss,
    "inverse": inverse_weighted_loss,
}
OVERLAP = ["dice", "tversky", "asl", "generalized_dice", ASL(beta=0.1), Tversky(1, 0), Dice(smooth=1),
           GeneralizedDice(smooth=1)]  # fmt: skip
MODULE_OPTIONS = {"surrogate_weight": 0.1, "center_width": 7, "max_weight": None, "component_gamma": 1}
MODULE_OPTIONS |= {"size_offset": 5, "background_weight": 0.01, "cell_size_power": 0.5}
POINTWISE = [Focal(gamma=0, alpha=None), Focal(gamma=1, alpha=None), Focal(gamma=3), *CRITERIA]


def degenerate_ids(rng: random.Random, shape: tuple[int, ...]) -> Tensor:
    kind = rng.choice(["nothing", "everything", "one voxel", "checkerboard", "every voxel its own", "boxes", "boxes"])
    ids = torch.zeros(shape, dtype=torch.int64)
    if kind == "everything":
        ids += 1
    elif kind == "one voxel":
        ids.view(-1)[rng.randrange(ids.numel())] = rng.choice([1, 2**40])
    elif kind == "checkerboard":
        ids += sum(torch.meshgrid(*map(torch.arange, shape), indexing="ij")) % 2
    elif kind == "every voxel its own":
        ids += torch.arange(1, ids.numel() + 1).view(shape)
    elif kind == "boxes" and min(shape[1:]) > 1:
        ids = random_labels(shape[1:], 4, seed=rng.randrange(10**6), batch=shape[0])
    return ids


def degenerate_probabilities(rng: random.Random, shape: tuple[int, ...]) -> Tensor:
    palette = rng.choice([(0.0,), (0.5,), (1.0,), (0.0, 1.0), (0.0, 0.5, 1.0), (1e-30, 1 - 6e-8), (), ()])
    if not palette:
        return random_probabilities(shape, rng.randrange(10**6), dtype=torch.float32)
    return torch.tensor(palette)[torch.tensor(rng.choices(range(len(palette)), k=prod(shape))).view(shape)]


def draw_options(rng: random.Random, term: str, dim: int) -> dict:
    """A value for each option that the term has."""
    if term in ("blob", "pixel"):
        return {"criterion": rng.choice([*OVERLAP, *POINTWISE])}
    if term == "topk":
        return {"k_percent": rng.choice([1, 30, 50, 99.5, 100])}
    if term == "inverse":
        return {"criterion": rng.choice(WEIGHTED_CRITERIA), "max_weight": rng.choice([None, 0.5, 10])}
    if term == "instance_mil":
        return {}
    if term == "component_tversky":
        weights = {"gamma": rng.choice([0, 0.5, 1, 3]), "size_offset": rng.choice([0, 5])}
        return {**weights, "background_weight": rng.choice([0, 0.01, 1]), **draw_cells(rng, term)}
    if term.startswith("voronoi"):
        return {
            "criterion": rng.choice([*OVERLAP, *POINTWISE, "balanced_bce", "adaptive_tversky", Dice(smooth=0)]),
            "spacing": rng.choice([None, (2.5, 1, 0.7)[:dim]]),
            "threshold": rng.choice([0.5, 0.5, 0.2, 0.9]),
            **draw_cells(rng, term),
        }
    options: dict = {
        "surrogate_weight": rng.choice([0, 0.1, 1, 1]),
        "threshold": rng.choice([0.5, 0.5, 0.2, 0.9]),
    }
    if term in ("instance_target", "instance_prediction", "proximity"):
        options |= {"criterion": rng.choice(OVERLAP), "missed": rng.choice(["constant", "soft"])}
        options["exclude_other_targets"] = rng.random() < 0.5
    if term == "center":
        options["width"] = rng.choice([1, 3, 7, 25, (5, 1, 3)[:dim]])
    if term == "proximity":
        options["form"] = rng.choice(["mean", "mse"])
    return options


def draw_cells(rng: random.Random, term: str) -> dict:
    without_instance = {"without_instance": rng.choice(["skip", "whole"])}
    if term == "component_tversky":
        return without_instance
    power, grid = rng.choice([0, 0.5, 1]), rng.choice(["full", "half"])
    return {**without_instance, "empty_cell": rng.choice(["mass", "criterion"]), "size_power": power, "cell_grid": grid}


def search(n: int, seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    for i in range(n):
        shape = (rng.choice([1, 2, 3]), *(rng.randint(1, 12) for _ in range(rng.choice([2, 3]))))
        term = rng.choice(list(ANY))
        options = draw_options(rng, term, len(shape) - 1)
        ids, p = degenerate_ids(rng, shape), degenerate_probabilities(rng, shape)
        options["valid"] = rng.choice(
            [
                None,
                None,
                random_mask(shape, i, share=0.7),
                random_mask(shape, i, share=0.97),
                random_mask(shape, i, share=0),
            ]
        )
        case = f"seed {seed}, case {i}: {term} {options} on {ids.tolist()}, {p.tolist()}"
        logits = rng.choice([None, "plain", "saturated"]) if term in FAST else None
        if (term in FAST or term.startswith("voronoi")) and rng.random() < 0.3:
            options["components"] = label_batch(p >= 0.5)
        if logits is None:
            value, gradient = with_gradient(ANY[term], p, ids, **options)
        else:
            z = p.clamp(0.01, 0.99).logit() if logits == "plain" else (p - 0.5) * 200
            value, gradient = with_gradient(lambda z: ANY[term](z.sigmoid(), ids, logits=z, **options), z)  # noqa: B023
        assert value.isfinite() and value > -1e-4, case
        assert gradient.isfinite().all(), case


def draw_output(rng: random.Random, target: Tensor) -> Tensor:
    """Logits (B, C, *S) between noise and a nearly perfect answer, small or huge, in any precision."""
    shape = (target.shape[0], target.shape[1], *target.shape[2:])
    skill, scale = rng.choice([0, 0.5, 0.9, 0.99, 1]), rng.choice([1e-3, 1, 10, 100, 1e4])
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(rng.randrange(10**6)))
    logits = (skill * (2 * target - 1) + (1 - skill) * noise) * scale
    return logits.to(rng.choice([torch.float32, torch.float16, torch.bfloat16, torch.float64]))


def search_outputs(n: int, seed: int) -> None:
    """What a network puts out goes into every module: two classes, or two regions and perhaps ignored voxels."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    for i in range(n):
        shape = (rng.choice([1, 2, 3]), *(rng.randint(1, 12) for _ in range(rng.choice([2, 3]))))
        first, second = degenerate_ids(rng, shape), degenerate_ids(rng, shape)
        ignored = random_mask(shape, i, share=rng.choice([0, 0, 0.3, 1]))
        regions = rng.random() < 0.5
        if regions:
            instances = torch.stack((first, second), 1)
            target = torch.cat((instances > 0, ignored[:, None]), 1)
            truth = target[:, :2].float()
        else:
            labels = torch.where(first > 0, 1, torch.where(second > 0, 2, 0))
            instances = torch.where(first > 0, first * 2, second * 2 + 1).mul(labels > 0)[:, None]
            target = torch.where(ignored, 3, labels)[:, None]
            truth = torch.stack([labels == c for c in range(3)], 1).float()
        term = rng.choice(list(TERMS))
        options = {**MODULE_OPTIONS, "criterion": rng.choice(OVERLAP), "missed": rng.choice(["constant", "soft"])}
        options |= {"proximity_form": rng.choice(["mean", "mean", "mse"]), "k_percent": rng.choice([1, 30, 50, 100])}
        options |= {"weighted_criterion": rng.choice(WEIGHTED_CRITERIA), "exclude_other_targets": rng.random() < 0.5}
        options |= {"cell_criterion": rng.choice(["dice+bce", {"dice": {"smooth": 0}, "bce": {}}, "balanced_bce"])}
        options |= {"empty_cell": rng.choice(["mass", "criterion"]), "cell_grid": rng.choice(["full", "half"])}
        options |= {"without_instance": rng.choice(["skip", "whole"])}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the published form of proximity warns
            module = make_term(term, options)
        module.problems = ClassProblems(regions=regions, ignore_label=None if regions else 3)
        output = draw_output(rng, truth)
        value, gradient = with_gradient(module, output, target, instances)
        case = f"seed {seed}, case {i}: {term} {options}, regions {regions}, {output.tolist()}, {target.tolist()}"
        assert value.isfinite() and gradient.isfinite().all(), case


def test_random_search_of_outputs_finds_nothing_that_is_not_finite() -> None:
    search_outputs(150, seed=501)


@pytest.mark.heavy
def test_long_random_search_of_outputs() -> None:
    search_outputs(10_000, seed=random.randrange(10**6))


def test_random_search_finds_nothing_that_is_not_finite() -> None:
    search(200, seed=501)


@pytest.mark.heavy
def test_long_random_search() -> None:
    search(5000, seed=random.randrange(10**6))
