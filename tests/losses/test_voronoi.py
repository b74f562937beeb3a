from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from geometry import SHAPES, Box, Disc, paint, random_labels, random_mask, random_probabilities
from losses.plain import FAST_CELLS, PLAIN_CELLS, assert_same, samples_of, scene, scribbles, with_gradient
from torch import Tensor

from nnunet_instance_trainers.instances import Objects, cell_map, label_batch
from nnunet_instance_trainers.losses import bicc_loss, blob_loss, pixel_loss, voronoi_loss

SIDES = ("target", "prediction")
PUBLISHED = {"dice": {"smooth": 0}, "bce": {}}
every_side = pytest.mark.parametrize("side", SIDES)

OPTIONS: list[dict] = [
    {},
    *[{"criterion": c} for c in ("dice", "bce", "balanced_bce+dice", "adaptive_tversky", "generalized_dice", "focal")],
    {"empty_cell": "criterion"},
    {"without_instance": "whole"},
    {"size_power": 0.5},
]


@pytest.mark.parametrize("source", ["", "ignored", "spaced"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: str(list(options.values())))
@every_side
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_plain_loop(shape: tuple[int, ...], side: str, options: dict, source: str) -> None:
    """Value and gradient; found, missed and invented objects, a sample without instances, one without a prediction."""
    z, ids = scene(shape, seed=3, batch=4)
    z[3] = -z[3].abs()
    p, valid = z.sigmoid(), scribbles(shape, batch=4) if source == "ignored" else None
    spacing = {"spacing": (2.5, 1, 1.3)[: len(shape)]} if source == "spaced" else {}
    fast = with_gradient(voronoi_loss, p, ids, side=side, valid=valid, **spacing, **options)
    plain = PLAIN_CELLS[f"voronoi_{side}"]
    slow = with_gradient(lambda p: plain(samples_of(p, ids, valid=valid), **spacing, **options)[0], p)
    assert_same(fast, slow, rtol=1e-9, atol=1e-12)
    assert fast[0] > 0


# --- golden values ---------------------------------------------------------------------------------------------------

_KINDS = ("dice", "bce", "dice_bce")
_SMOOTH = {"": 1e-5, "_s0": 0, "_s1e-5": 1e-5}


def criteria_of(name: str) -> dict:
    parts, smooth = name.removesuffix("_s0").removesuffix("_s1e-5"), 0 if name.endswith("_s0") else 1e-5
    return {part: {"smooth": smooth} if part == "dice" else {} for part in parts.split("_")}


def golden_options(name: str) -> dict | None:
    """The options of a golden value of one side or of BiCC, None for other values."""
    if not name.startswith(("voronoi_", "bicc_")):
        return None
    options: dict = {"without_instance": "whole", "empty_cell": "mass"}
    if name.endswith("_skip"):
        name, options["without_instance"] = name.removesuffix("_skip"), "skip"
    if name.endswith("_emptydice"):
        name, options["empty_cell"] = name.removesuffix("_emptydice"), "criterion"
    kind, which, *rest = name.split("_", 2)
    if kind == "bicc":
        return {**options, "alpha": float(which), "criterion": criteria_of(f"dice_bce_{rest[0]}")}
    return {**options, "side": which, "criterion": criteria_of(rest[0])}


class Golden:
    """One golden case with its stored cells: ``""``, ``"spaced_"``, or ``"ignore_"``."""

    def __init__(self, golden: Path, golden_cells: Path, case: str, variant: str) -> None:
        arrays = np.load(golden / "cases" / f"{case}.npz")
        self.p, self.ids = (torch.from_numpy(arrays[name])[:, 0] for name in ("pred", "instances"))
        self.p = self.p.double()
        self.spacing = {2: (1.5, 1), 3: (2.5, 1, 1)}[self.ids.ndim - 1] if variant == "spaced_" else None
        self.valid = torch.ones_like(self.ids, dtype=torch.bool)
        if variant == "ignore_":
            middle = self.ids.shape[-1] // 2
            self.valid[..., middle - 2 : middle + 2] = False
        self.components = label_batch((self.p > 0.5) & self.valid)
        stored = np.load(golden_cells / f"{case}_cells.npz")
        self.cells = {side: torch.from_numpy(stored[f"{variant}cells_{side}"])[:, 0].long() for side in SIDES}
        self.tied = {
            side: torch.from_numpy(stored[f"{variant}tied_{side}"])[:, 0] for side in SIDES if variant != "ignore_"
        }
        self.gradients = np.load(golden_cells / f"{case}_grads.npz")

    def loss(self, p: Tensor, options: dict, valid: Tensor, cells: dict[str, Tensor]) -> Tensor:
        """A side, or both for BiCC."""
        options = dict(options)
        alpha = options.pop("alpha", None)
        common = {**options, "components": self.components, "valid": valid, "spacing": self.spacing}
        if alpha is None:
            return voronoi_loss(p, self.ids, cells=cells.get(options["side"]), **common)
        if not cells:
            return bicc_loss(p, self.ids, alpha=alpha, **common)
        of_target, of_prediction = (voronoi_loss(p, self.ids, side=side, cells=cells[side], **common) for side in SIDES)
        return (1 - alpha) * of_target + alpha * of_prediction

    def pooled(self, p: Tensor, power: float) -> Tensor:
        """Balanced cross-entropy and Dice of the target's cells, all of the batch in one weighted mean.

        The reference adds 1e-5 to the sizes.
        """
        of_cells = voronoi_loss(
            p, self.ids, criterion="balanced_bce+dice", cells=self.cells["target"], valid=self.valid, reduction="none"
        )
        weights = (Objects(self.ids, valid=self.valid).size.double() + 1e-5) ** power
        return (weights * of_cells).sum() / weights.sum().clamp(min=1e-8)


FEW = ("2d_b2_n5_border", "2d_b1_n0_fp_only", "2d_b1_n3_empty_pred", "2d_b1_diag")
ALL = 15
some_or_all = pytest.mark.parametrize("number", [len(FEW), pytest.param(ALL, marks=pytest.mark.heavy)])


def cases(golden_cells: Path, number: int) -> dict[str, dict]:
    expected = json.loads((golden_cells / "expected.json").read_text())
    assert len(expected) == ALL
    return expected if number == ALL else {case: expected[case] for case in FEW}


VARIANTS = {"": "values", "spaced_": "spaced_values", "ignore_": "ignore_values"}
with_variants = pytest.mark.parametrize("variant", VARIANTS)


@some_or_all
@with_variants
def test_golden_values_on_the_stored_cells(golden: Path, golden_cells: Path, variant: str, number: int) -> None:
    """Values to 1e-12 (adaptive 1e-9), and the derivatives to the prediction."""
    n_values = n_gradients = 0
    for case, all_values in cases(golden_cells, number).items():
        g, values = Golden(golden, golden_cells, case, variant), all_values[VARIANTS[variant]]
        losses = {
            name: partial(g.loss, options=options, valid=g.valid, cells=g.cells)
            for name in values
            if (options := golden_options(name))
        }
        losses |= {
            "balanced_voronoi": partial(g.pooled, power=0.5),
            "balanced_voronoi_equal": partial(g.pooled, power=0),
            "adaptive_voronoi": partial(
                g.loss,
                options={"side": "target", "criterion": {"adaptive_tversky": {}, "bce": {}}},
                valid=g.valid,
                cells=g.cells,
            ),
        }
        for name, loss in losses.items():
            value, gradient = with_gradient(loss, g.p)
            tolerance = 1e-9 if "adaptive" in name else 1e-12
            assert value.item() == pytest.approx(values[name], abs=tolerance, rel=0), (case, name)
            n_values += 1
            stored = f"{variant}{name}"
            if variant != "spaced_" and stored in g.gradients:
                expected = g.gradients[stored][:, 0]
                np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=tolerance, err_msg=f"{case} {stored}")
                n_gradients += 1
    assert n_values >= number * 25
    assert n_gradients >= number * {"": 6, "spaced_": 0, "ignore_": 1}[variant]


@some_or_all
@pytest.mark.parametrize("variant", ["", "spaced_"])
def test_own_maps_are_the_golden_ones(golden: Path, golden_cells: Path, variant: str, number: int) -> None:
    """Where nothing is tied, and by the lowest id where two objects are equally near."""
    n_tied = 0
    for case in cases(golden_cells, number):
        g = Golden(golden, golden_cells, case, variant)
        for side, ids in (("target", g.ids), ("prediction", g.components)):
            assert torch.equal(cell_map(ids, spacing=g.spacing).long(), g.cells[side]), (case, side)
            n_tied += int(g.tied[side].sum())
    assert n_tied > {4: 50, 15: 700}[number]


@some_or_all
@pytest.mark.parametrize("variant", ["", "spaced_"])
def test_golden_values_from_end_to_end(golden: Path, golden_cells: Path, variant: str, number: int) -> None:
    """Own components and cells; tied voxels are ignored on the side whose map holds them."""
    n_values = 0
    for case, all_values in cases(golden_cells, number).items():
        g = Golden(golden, golden_cells, case, variant)
        for name, expected in all_values[f"{variant}untied_values"].items():
            options = golden_options(name)
            if options is None or name.startswith("bicc"):
                continue
            side, valid = options["side"], ~g.tied[options["side"]]
            cells = {side: cell_map(g.ids if side == "target" else g.components, spacing=g.spacing)}
            value, gradient = with_gradient(g.loss, g.p, options, valid, cells)
            assert value.item() == pytest.approx(expected, abs=1e-12, rel=0), (case, name)
            n_values += 1
            if f"{variant}untied_{name}" in g.gradients:
                stored = g.gradients[f"{variant}untied_{name}"][:, 0]
                np.testing.assert_allclose(gradient, stored, rtol=1e-9, atol=1e-12, err_msg=f"{case} {name}")
    assert n_values >= number * 15


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["dice", "dice+bce", "balanced_bce"])
@pytest.mark.parametrize("shape", SHAPES)
def test_one_instance_in_every_sample_makes_the_target_side_blob_loss(shape: tuple[int, ...], criterion: str) -> None:
    ids, p = 4 * (random_labels(shape, 3, seed=1) > 0), random_probabilities((2, *shape), seed=2)
    for other in (blob_loss, pixel_loss):
        assert_same(
            with_gradient(voronoi_loss, p, ids, criterion=criterion), with_gradient(other, p, ids, criterion=criterion)
        )


@pytest.mark.parametrize(("alpha", "side"), [(0, "target"), (1, "prediction")])
def test_alpha_at_its_ends_is_one_side(alpha: float, side: str) -> None:
    z, ids = scene(SHAPES[0], seed=5)
    options = {"criterion": PUBLISHED, "empty_cell": "criterion", "without_instance": "whole", "spacing": (2, 1)}
    one = with_gradient(voronoi_loss, z.sigmoid(), ids, side=side, **options)
    assert_same(with_gradient(bicc_loss, z.sigmoid(), ids, alpha=alpha, **options), one)


def test_bicc_is_the_mean_of_both_sides_by_default() -> None:
    z, ids = scene(SHAPES[0], seed=6)
    both = [with_gradient(voronoi_loss, z.sigmoid(), ids, side=side) for side in SIDES]
    assert_same(with_gradient(bicc_loss, z.sigmoid(), ids), tuple((a + b) / 2 for a, b in zip(*both)))


@every_side
def test_numbering_and_mirroring_change_nothing(side: str) -> None:
    """Where no voxel is equally near to two objects."""
    ids = paint((15, 14), [Disc((3, 3), 2), Disc((11, 4), 1), Box((5, 10), (8, 12))])[None]
    p = torch.where((ids > 0).roll(1, 1), 0.8, 0.1) * random_probabilities(ids.shape, seed=7).clamp(min=0.5)
    loss = partial(voronoi_loss, side=side, spacing=(1.37, 1.0), size_power=0.5, threshold=0.3)
    expected = with_gradient(loss, p, ids)
    for names in ([0, 3, 1, 2], [0, 5, 2**40, 17]):
        assert_same(with_gradient(loss, p, torch.tensor(names)[ids]), expected)
    value, gradient = with_gradient(loss, p.flip(1, 2), ids.flip(1, 2))
    assert_same((value, gradient.flip(1, 2)), expected)


@every_side
def test_other_cells_are_left_out(side: str) -> None:
    """What is predicted in one cell changes the loss of no other."""
    ids = torch.tensor([[[1, 1, 0, 0, 0, 0, 2, 2]]])
    p = torch.where(ids > 0, 0.9, 0.1).double()
    first, second = voronoi_loss(p, ids, side=side, reduction="none")
    p[0, 0, 5] = 0.4
    again = voronoi_loss(p, ids, side=side, reduction="none")
    assert again[0] == first and again[1] > second


def test_hand_number_with_an_empty_cell() -> None:
    """Two components of two voxels; the right one meets nothing, and its cell holds no target."""
    p, ids = torch.tensor([[[0.9, 0.7, 0.1, 0.2, 0.6, 0.8]]]).double(), torch.tensor([[[1, 1, 0, 0, 0, 0]]])
    found = voronoi_loss(p, ids, side="prediction", criterion={"dice": {"smooth": 0}}, reduction="none")
    # cells of three voxels: 1 - 2 * 1.6 / (1.7 + 2), (0.04 + 0.36 + 0.64) / 1.6
    assert found.tolist() == pytest.approx([1 - 3.2 / 3.7, 1.04 / 1.6])
    _, gradient = with_gradient(voronoi_loss, p, ids, side="prediction", criterion={"dice": {"smooth": 0}})
    assert gradient[0, 0, 3:].tolist() == pytest.approx([0.2 / 1.6 / 2, 0.6 / 1.6 / 2, 0.8 / 1.6 / 2])  # mean of two
    whole = voronoi_loss(p, ids, side="prediction", empty_cell="criterion", criterion="dice", reduction="none")
    assert whole[1].item() == pytest.approx(1, abs=1e-5)


@every_side
def test_samples_without_an_object_are_skipped_or_taken_whole(side: str) -> None:
    ids, p = random_labels(SHAPES[0], 4, seed=8, batch=3), random_probabilities((3, *SHAPES[0]), seed=9)
    p[1], ids[1] = 0.4 * p[1], 0
    apart = [voronoi_loss(p[b : b + 1], ids[b : b + 1], side=side) for b in (0, 2)]
    assert voronoi_loss(p, ids, side=side).item() == pytest.approx(sum(apart).item() / 2)
    whole = pixel_loss(p[1:2], ids[1:2], criterion="dice+bce")
    found = voronoi_loss(p, ids, side=side, without_instance="whole")
    assert found.item() == pytest.approx((sum(apart) + whole).item() / 3)


@pytest.mark.parametrize("without_instance", ["skip", "whole"])
@pytest.mark.parametrize("empty_cell", ["mass", "criterion"])
@every_side
def test_nothing_and_everything_have_finite_gradients(side: str, empty_cell: str, without_instance: str) -> None:
    """Empty and full targets, predictions of exactly 0 and 1, all ignored; nothing to average is an attached 0."""
    options = {"side": side, "criterion": PUBLISHED, "empty_cell": empty_cell, "without_instance": without_instance}
    nothing = torch.zeros(2, 4, 5, dtype=torch.int64)
    for ids in (nothing, nothing + 3, torch.cat([nothing[:1], nothing[1:] + 1])):
        for p in (0.0, 0.3, 1.0):
            value, gradient = with_gradient(voronoi_loss, torch.full((2, 4, 5), p).double(), ids, **options)
            assert value.isfinite() and gradient.isfinite().all(), (p, ids[:, 0, 0])
            p_ = torch.full((2, 4, 5), p).double()
            value, gradient = with_gradient(voronoi_loss, p_, ids, valid=torch.zeros_like(ids) > 0, **options)
            assert value == 0 and (gradient == 0).all()
    if without_instance == "skip":
        value, gradient = with_gradient(voronoi_loss, torch.full((2, 4, 5), 0.3).double(), nothing, **options)
        assert value == 0 and (gradient == 0).all()


@pytest.mark.parametrize("there", [0.0, 0.5, 1.0, float("nan")])
@every_side
def test_ignored_voxels_change_nothing_whatever_is_there(side: str, there: float) -> None:
    ids, p = random_labels(SHAPES[1], 5, seed=10), random_probabilities((2, *SHAPES[1]), seed=11)
    valid = random_mask(p.shape, seed=12)
    expected = with_gradient(voronoi_loss, p, ids, side=side, valid=valid)
    assert (expected[1][~valid] == 0).all()
    other = with_gradient(voronoi_loss, p.masked_fill(~valid, there), ids.where(valid, 3), side=side, valid=valid)
    assert_same(other, expected)


@pytest.mark.parametrize("criterion", ["dice+bce", "balanced_bce", "adaptive_tversky"])
@pytest.mark.parametrize("shape", [(3, 4), (2, 2, 3)])
@every_side
def test_gradcheck(side: str, shape: tuple[int, ...], criterion: str) -> None:
    """Components stay as they are, or small steps could change them; q has another gradient than its own."""
    ids, p = random_labels(shape, 3, seed=13), random_probabilities((2, *shape), seed=14)
    options = {"side": side, "criterion": criterion, "empty_cell": "criterion", "components": label_batch(p > 0.7)}
    loss = partial(voronoi_loss, instances=ids, valid=random_mask(ids.shape, seed=15), size_power=0.5, **options)
    assert torch.autograd.gradcheck(lambda p: loss(p), (0.1 + 0.8 * p).requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_side
def test_half_precision_equals_float32_on_the_same_numbers(side: str, dtype: torch.dtype) -> None:
    ids, half = random_labels(SHAPES[0], 5, seed=16), random_probabilities((2, *SHAPES[0]), seed=17).to(dtype)
    value, gradient = with_gradient(voronoi_loss, half, ids, side=side)
    expected, slope = with_gradient(voronoi_loss, half.float(), ids, side=side)
    assert value.dtype == torch.float32 and torch.equal(value, expected)
    assert torch.equal(gradient, slope.to(dtype))
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(voronoi_loss(half, ids, side=side), expected)


def test_the_half_grid_is_close() -> None:
    z, ids = scene((31, 29), seed=18)
    full, half = (with_gradient(bicc_loss, z.sigmoid(), ids, cell_grid=grid) for grid in ("full", "half"))
    assert 0 < abs(half[0] - full[0]) < 0.1 * full[0]
    assert torch.cosine_similarity(full[1].flatten(), half[1].flatten(), 0) > 0.9


# --- one step of the gradient ----------------------------------------------------------------------------------------

SCENE = paint((24, 24), [Disc((6, 6), 3), Disc((17, 17), 2)])[None]
FALSE = Disc((6, 18), 2).mask((24, 24))[None]


def step(loss, z: Tensor, size: float = 10.0) -> Tensor:  # type: ignore[no-untyped-def]
    """Probabilities after a step down the gradient at the logits."""
    _, gradient = with_gradient(lambda z: loss(z.sigmoid(), SCENE), z)
    return (z - size * gradient).sigmoid()


def test_a_step_of_bicc_lowers_a_false_component_and_lifts_a_missed_instance() -> None:
    z = torch.where((SCENE == 1) | FALSE, 2.0, -3.0).double()  # instance 2 is missed
    before, after = z.sigmoid(), step(partial(bicc_loss, criterion=PUBLISHED), z)
    assert (after[FALSE] < before[FALSE]).all()
    assert (after[SCENE == 2] > before[SCENE == 2]).all()


def test_q_pushes_a_false_component_that_dice_leaves_alone() -> None:
    z, ids = torch.where((SCENE == 1) | FALSE, 2.0, -3.0).double(), SCENE * (SCENE == 1)
    slopes = []
    for empty_cell in ("mass", "criterion"):
        loss = partial(voronoi_loss, side="prediction", criterion="dice", empty_cell=empty_cell)
        slopes.append(with_gradient(lambda z: loss(z.sigmoid(), ids), z)[1][FALSE].sum().item())  # noqa: B023
    assert slopes[0] > 1000 * slopes[1] > 0


def pull(p_missed: float, criterion: str) -> float:
    """The sum of gradients at the logits of the missed instance 2."""
    z = torch.where(SCENE == 1, 2.0, -3.0).double()
    z[SCENE == 2] = torch.tensor(p_missed, dtype=torch.float64).logit()
    _, gradient = with_gradient(lambda z: voronoi_loss(z.sigmoid(), SCENE, criterion=criterion), z)
    return gradient[SCENE == 2].sum().item()


def test_balanced_cells_lift_a_missed_instance_as_hard_however_deep_it_lies() -> None:
    shallow, deep = pull(0.1, "balanced_bce"), pull(1e-6, "balanced_bce")
    assert deep == pytest.approx(-0.25, rel=1e-4)  # 1/2 of a cell, of which there are two
    assert 0.5 < shallow / deep <= 2
    assert abs(pull(1e-6, "dice")) < 1e-3 * abs(pull(0.1, "dice"))  # the pull of Dice dies with the sigmoid


def test_weights_by_size_shift_the_pull_to_large_instances() -> None:
    z = torch.zeros(1, 24, 24, dtype=torch.float64)
    shares = []
    for power in (0, 0.5, 1):
        loss = partial(voronoi_loss, criterion="balanced_bce", size_power=power)
        _, gradient = with_gradient(lambda z: loss(z.sigmoid(), SCENE), z)  # noqa: B023
        shares.append((gradient[SCENE == 2].sum() / gradient[SCENE == 1].sum()).item())
    assert shares == pytest.approx([1, (13 / 29) ** 0.5, 13 / 29], rel=1e-3)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"side": "both"}, "side must be 'target' or 'prediction', got 'both'"),
        ({"empty_cell": "q"}, "empty_cell must be 'mass' or 'criterion', got 'q'"),
        ({"without_instance": "zero"}, "without_instance must be 'skip' or 'whole', got 'zero'"),
        ({"cell_grid": "third"}, "grid must be 'full' or 'half', got 'third'"),
        ({"reduction": "sum"}, "reduction must be 'mean' or 'none', got 'sum'"),
        ({"criterion": "dize"}, "unknown criterion 'dize'"),
        ({"spacing": (1, 1, 1)}, "spacing must be 2 numbers above 0"),
        ({"cells": torch.zeros(1, 5, 4)}, r"probabilities and cells of the target must have one shape .*\(1, 5, 4\)"),
        ({"valid": torch.zeros(1, 5, 4) > 0}, r"probabilities and valid must have one shape"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_what_does_not_fit_is_refused(options: dict, says: str) -> None:
    p, ids = torch.rand(1, 4, 5), torch.tensor([[[1, 0, 0, 0, 2]] * 4])
    with pytest.raises(ValueError, match=says):
        voronoi_loss(p, ids, **options)


@pytest.mark.parametrize("alpha", [-0.1, 1.5])
def test_alpha_is_a_share(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha must be from 0 to 1"):
        bicc_loss(torch.rand(1, 4, 5), torch.ones(1, 4, 5, dtype=torch.int64), alpha=alpha)


def test_all_functions_are_compared_with_plain_loops() -> None:
    assert set(FAST_CELLS) == set(PLAIN_CELLS)
