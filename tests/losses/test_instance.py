from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from geometry import SHAPES, Box, paint
from losses.plain import FAST, PLAIN, assert_same, samples_of, scene, scribbles, with_gradient
from torch import Tensor

from nnunet_instance_trainers.instances import label_batch
from nnunet_instance_trainers.losses.functional import (
    false_instance_loss,
    instance_center_loss,
    instance_proximity_loss,
    instance_segmentation_loss,
    instance_terms,
    pixel_loss,
)

every_term = pytest.mark.parametrize("term", FAST)

OPTIONS: list[tuple[str, dict]] = [
    *[("instance_target", {"criterion": c}) for c in ("dice", "tversky", "asl", "generalized_dice")],
    *[("instance_prediction", {"criterion": c}) for c in ("dice", "tversky", "asl", "generalized_dice")],
    ("instance_target", {"exclude_other_targets": False}),
    ("instance_target", {"exclude_other_targets": False, "criterion": "generalized_dice"}),
    ("instance_target", {"missed": "soft"}),
    ("instance_target", {"missed": "soft", "surrogate_weight": 0.7}),
    ("instance_target", {"missed": "soft", "surrogate_weight": 0}),
    ("instance_prediction", {"surrogate_weight": 0.7}),
    ("instance_prediction", {"surrogate_weight": 0}),
    *[(rate, {"surrogate_weight": w}) for rate in ("missed_rate", "false_rate") for w in (0.1, 0.7, 0)],
    *[("center", {"surrogate_weight": w}) for w in (0.1, 0.7, 0)],
    ("center", {"width": 3}),
    ("center", {"width": 1}),
    *[("proximity", {"form": form}) for form in ("mean", "mse")],
    ("proximity", {"missed": "soft", "surrogate_weight": 0.7}),
    ("proximity", {"exclude_other_targets": False, "criterion": "tversky"}),
    ("proximity", {"form": "mse", "surrogate_weight": 0, "criterion": "generalized_dice"}),
]


@pytest.mark.parametrize("source", ["probabilities", "logits", "ignored", "threshold"])
@pytest.mark.parametrize(("term", "options"), OPTIONS, ids=lambda x: x if isinstance(x, str) else str(list(x.values())))
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_plain_loop(shape: tuple[int, ...], term: str, options: dict, source: str) -> None:
    """Value and gradient; found, missed and invented objects, a sample without instances, one without a prediction."""
    z, ids = scene(shape, seed=3, batch=4)
    z[3] = -z[3].abs()
    settings: dict = {"ignored": {"valid": scribbles(shape, batch=4)}, "threshold": {"threshold": 0.8}}.get(source, {})

    def run(function, z: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return function(z.sigmoid(), ids, logits=z if source != "probabilities" else None, **settings)

    fast = with_gradient(lambda z: run(partial(FAST[term], **options), z), z)
    plain = with_gradient(lambda z: PLAIN[term](run(samples_of, z), **options)[0], z)
    # Boxes and shares of cubes are float32.
    assert_same(fast, plain, rtol=1e-5 if term in ("proximity", "center") else 1e-9, atol=1e-9)
    assert fast[0] > 0 or (term == "false_rate" and source == "ignored")


def test_cubes_may_have_a_width_per_axis() -> None:
    z, ids = scene(SHAPES[1], seed=5)
    width = (1, 3, 5)
    fast = with_gradient(lambda z: instance_center_loss(z.sigmoid(), ids, width=width), z)
    plain = with_gradient(lambda z: PLAIN["center"](samples_of(z.sigmoid(), ids), width=width)[0], z)
    assert_same(fast, plain, rtol=1e-5, atol=1e-11)
    assert fast[0] != instance_center_loss(z.sigmoid(), ids, width=(5, 3, 1))


# --- golden values --------------------------------------------------------------------------------------------------

GOLDEN = {
    "instance_target_keep": partial(FAST["instance_target"], exclude_other_targets=False),
    "instance_target_exclude": FAST["instance_target"],
    "instance_prediction": FAST["instance_prediction"],
    "missed_rate": FAST["missed_rate"],
    "false_rate": FAST["false_rate"],
    "center": FAST["center"],
    "proximity_mse": partial(FAST["proximity"], form="mse"),
    "proximity_mean": FAST["proximity"],
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_values(golden: Path, name: str) -> None:
    expected = json.loads((golden / "expected.json").read_text())
    loss, n_gradients = GOLDEN[name], 0
    for case, values in expected.items():
        arrays = np.load(golden / "cases" / f"{case}.npz")
        p, ids = torch.from_numpy(arrays["pred"])[:, 0], torch.from_numpy(arrays["instances"])[:, 0]
        value, gradient = with_gradient(loss, p.double(), ids, surrogate_weight=0)
        tolerance = {"rel": 1e-5, "abs": 1e-9} if "proximity" in name else {"rel": 0, "abs": 1e-9}
        assert value.item() == pytest.approx(values[name], **tolerance), case
        single = {"rel": 1e-5, "abs": 1e-6} if "proximity" in name else {"rel": 2e-6, "abs": 1e-7}
        assert loss(p, ids).item() == pytest.approx(values[name], **single), case
        if f"grad_{name}" in arrays:
            n_gradients += 1
            np.testing.assert_allclose(gradient, arrays[f"grad_{name}"][:, 0], rtol=0, atol=1e-9, err_msg=case)
    assert len(expected) >= 15
    assert n_gradients >= (9 if name.startswith("instance") else 0)


def test_published_values_of_the_example_pair(golden: Path) -> None:
    nibabel = pytest.importorskip("nibabel", reason="reads the pair")
    output, label = (np.asarray(nibabel.load(golden / "blobs" / f"{name}-0.nii.gz").dataobj) > 0
                     for name in ("output", "label"))  # fmt: skip
    p = torch.from_numpy(output).double()[None]
    ids = label_batch(torch.from_numpy(label)[None])
    found = instance_terms(p, ids, exclude_other_targets=False)
    published = {
        "pixel": 0.4587,
        "instance_target": 0.4786,
        "instance_prediction": 0.6545,
        "false_rate": 0.25,
        "missed_rate": 0.20,
    }
    for name, value in published.items():
        assert found[name].item() == pytest.approx(value, abs=5e-5), name


# --- hand numbers and limits ----------------------------------------------------------------------------------------

A, B, HIT, FALSE = Box((1, 1), (5, 6)), Box((10, 1), (12, 4)), Box((2, 1), (6, 6)), Box((8, 8), (10, 12))


def hand() -> tuple[Tensor, Tensor]:
    """Instance of 20 voxels met at 0.75 in 15 and 5 outside, one of 6 missed at 0.25, an invented 8 at 0.5."""
    shape = SHAPES[0]
    p = 0.75 * HIT.mask(shape) + 0.25 * B.mask(shape) + 0.5 * FALSE.mask(shape)
    return p[None].double(), paint(shape, [A, B])[None]


def test_hand_numbers() -> None:
    p, ids = hand()
    hit, tversky = 1 - 2 * 11.25 / (15 + 20), 1 - 11.25 / (11.25 + 0.3 * 3.75 + 0.7 * 8.75)
    assert A.overlap(HIT) == 15
    found = instance_terms(p, ids)
    assert found["pixel"].item() == pytest.approx(1 - 2 * (11.25 + 1.5) / (15 + 1.5 + 4 + 26), abs=1e-6)
    assert found["instance_target"].item() == pytest.approx((hit + 1) / 2, abs=2e-6)
    assert found["instance_prediction"].item() == pytest.approx((hit + 1) / 2, abs=1e-5)
    assert found["missed_rate"].item() == found["false_rate"].item() == 0.5
    value = instance_segmentation_loss(p, ids, criterion="tversky")
    assert value.item() == pytest.approx((tversky + 1) / 2, abs=2e-6)
    # Boxes of 20 share 15 of 25, centres 1 apart in 5 x 5. The missed one is nearest to the hit: centres (11, 2.5)
    # and (4, 3.5) in 10 x 5; the invented one to instance A: (9, 10) and (3, 3.5) in 9 x 11.
    near, missed, invented = 1 - 15 / 25 + 1 / 50, 1 + 50 / 125, 1 + 78.25 / 202
    assert found["proximity"].item() == pytest.approx((near * hit + missed) / 2 + (near * hit + invented) / 2, abs=1e-5)
    value = instance_proximity_loss(p, ids, form="mse")
    assert value.item() == pytest.approx((missed - invented) ** 2, abs=1e-6)  # the hits cancel


def test_the_mse_form_off_its_balance() -> None:
    p, ids = hand()
    ids[ids == 2] = 0
    hit, near = 1 - 2 * 11.25 / (15 + 20), 1 - 15 / 25 + 1 / 50
    far = 1 + (6**2 + 6.5**2) / (9**2 + 11**2)  # centres (3, 3.5) and (9, 10), around both (1, 1) to (10, 12)
    value = instance_proximity_loss(p, ids, form="mse").item()
    assert value == pytest.approx((near * hit - (near * hit + far)) ** 2, rel=1e-5)


@every_term
def test_a_perfect_prediction_costs_nothing(term: str) -> None:
    ids = paint(SHAPES[0], [A, B])[None]
    assert FAST[term]((ids > 0).double(), ids).item() == pytest.approx(0, abs=1e-6)


def test_one_component_on_one_instance_is_the_criterion() -> None:
    ids = paint(SHAPES[0], [A])[None]
    p = 0.8 * (ids > 0).double()
    for side in ("target", "prediction"):
        assert_same(with_gradient(instance_segmentation_loss, p, ids, side=side),
                    with_gradient(lambda p: pixel_loss(p * (ids > 0), ids), p))  # fmt: skip


def test_a_far_miss_costs_almost_two_and_an_empty_side_is_stood_in_for() -> None:
    """One voxel in a corner against the box of 27 in the middle, weighed by the loss 1 both ways."""
    ids = torch.zeros(1, 41, 41, 41, dtype=torch.int64)
    ids[0, 0, 0, 0] = 1
    rho, diagonal = 3 * (20.5 - 0.5) ** 2, 3 * 22**2
    expected = 2 * (1 + rho / diagonal)
    assert instance_proximity_loss(torch.zeros(1, 41, 41, 41), ids).item() == pytest.approx(expected, rel=1e-4)


# --- bookkeeping ----------------------------------------------------------------------------------------------------


@every_term
def test_numbering_and_mirroring_change_nothing(term: str) -> None:
    """Halves are rounded up, so mirroring wants objects of odd width for cubes and odd axes for the stand-in box."""
    z, ids = scene(SHAPES[1], seed=7)
    if term == "center":
        centres = torch.zeros_like(ids)
        centres[:, 2:5, 1:4, 2:7], centres[:, 6, 5, 8] = 1, 2
        ids, z = centres, torch.where(centres.roll(1, 1) > 0, 2.0, -2.0).double()
    expected = with_gradient(FAST[term], z.sigmoid(), ids)
    for names in ([0, 4, 6, 1, 5, 2], [0, 5, 4_000_000, 17, 3, 2**40]):
        assert_same(with_gradient(FAST[term], z.sigmoid(), torch.tensor(names)[ids]), expected)
    for axes in ([1], [1, 3]) if term == "proximity" else ([1], [2], [1, 3]):
        value, gradient = with_gradient(FAST[term], z.sigmoid().flip(axes), ids.flip(axes))
        assert_same((value, gradient.flip(axes)), expected, rtol=1e-6 if term == "proximity" else 1e-10)


@every_term
def test_components_given_equal_labelling(term: str) -> None:
    z, ids = scene(SHAPES[1], seed=9)
    p = z.sigmoid()
    expected = with_gradient(FAST[term], p, ids, threshold=0.7)
    given = label_batch(p >= 0.7)
    for components in (given, given * 40 + (given > 0)):
        assert_same(with_gradient(FAST[term], p, ids, components=components), expected)
    ones = with_gradient(FAST[term], p, ids, components=(given > 0).int())
    assert torch.equal(ones[1], expected[1]) == (term == "missed_rate")  # ids are taken, not only where they are


@every_term
def test_given_components_are_left_out_where_ignored(term: str) -> None:
    z, ids = scene(SHAPES[0], seed=11)
    valid = scribbles(SHAPES[0])
    p, inside = z.sigmoid(), label_batch((z >= 0) & valid)
    everywhere = torch.where(valid, inside, inside.max() + 1)
    expected = with_gradient(FAST[term], p, ids, valid=valid)
    assert_same(with_gradient(FAST[term], p, ids, components=everywhere, valid=valid), expected)


@pytest.mark.parametrize("masked", [False, True])
def test_all_terms_equal_the_single_functions(masked: bool) -> None:
    z, ids = scene(SHAPES[0], seed=13)
    common = {
        "surrogate_weight": 0.3,
        "threshold": 0.7,
        "logits": None,
        "valid": scribbles(SHAPES[0]) if masked else None,
    }
    segmentation = {"exclude_other_targets": False, "missed": "soft", "criterion": "tversky"}

    def terms(z: Tensor, name: str) -> Tensor:
        settings = {**common, **segmentation, "width": 3, "form": "mse", "logits": z}
        return instance_terms(z.sigmoid(), ids, **settings)[name]

    singles = {
        "instance_target": partial(instance_segmentation_loss, side="target", **segmentation),
        "instance_prediction": partial(instance_segmentation_loss, side="prediction", criterion="tversky"),
        "center": partial(instance_center_loss, width=3),
        "missed_rate": partial(false_instance_loss, side="target"),
        "false_rate": partial(false_instance_loss, side="prediction"),
        "proximity": partial(instance_proximity_loss, form="mse", **segmentation),
    }
    for name, single in singles.items():
        alone = with_gradient(lambda z: single(z.sigmoid(), ids, **{**common, "logits": z}), z)  # noqa: B023
        assert_same(with_gradient(terms, z, name), alone)
    expected = with_gradient(lambda z: pixel_loss(z.sigmoid(), ids, criterion="tversky", valid=common["valid"]), z)
    assert_same(with_gradient(terms, z, "pixel"), expected)
    assert set(instance_terms(z.sigmoid(), ids)) == {*singles, "pixel"}


# --- refusals -------------------------------------------------------------------------------------------------------


@every_term
@pytest.mark.parametrize("name", ["ids", "components", "logits", "valid"])
def test_shapes_that_differ_are_refused(term: str, name: str) -> None:
    p, ids, other = torch.rand(2, 4, 5), torch.zeros(2, 4, 5, dtype=torch.int64), torch.zeros(2, 5, 4)
    says = rf"probabilities and {name} must have one shape \(B, \*S\), got \(2, 4, 5\) and \(2, 5, 4\)"
    with pytest.raises(ValueError, match=says):
        FAST[term](p, other.long()) if name == "ids" else FAST[term](p, ids, **{name: other})


@pytest.mark.parametrize(
    ("loss", "options", "says"),
    [
        (instance_segmentation_loss, {"side": "left"}, "side must be 'target' or 'prediction', got 'left'"),
        (false_instance_loss, {"side": "left"}, "side must be 'target' or 'prediction', got 'left'"),
        (instance_segmentation_loss, {"missed": "hard"}, "missed must be 'constant' or 'soft', got 'hard'"),
        (instance_proximity_loss, {"missed": "hard"}, "missed must be 'constant' or 'soft', got 'hard'"),
        (instance_proximity_loss, {"form": "sum"}, "form must be 'mean' or 'mse', got 'sum'"),
        (instance_segmentation_loss, {"criterion": "bce"}, "take overlap criteria .*got BinaryCrossEntropy"),
        (instance_segmentation_loss, {"criterion": "bce", "side": "prediction"}, "take overlap criteria"),
        (instance_proximity_loss, {"criterion": "dice+focal"}, "take overlap criteria .*got Focal"),
        (instance_terms, {"criterion": "bce"}, "take overlap criteria"),
        (instance_center_loss, {"width": 4}, "width must be an odd number of voxels, or 2 of them, got 4"),
        (instance_center_loss, {"width": -1}, "width must be an odd number"),
        (instance_center_loss, {"width": (3, 3, 3)}, "or 2 of them, got"),
        (instance_center_loss, {"width": (3, 2)}, "width must be an odd number"),
    ],
)
def test_unknown_options_are_refused(loss, options: dict, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=says):
        loss(torch.rand(1, 4, 5), torch.zeros(1, 4, 5, dtype=torch.int64), **options)
    with pytest.raises(TypeError, match="treshold"):
        loss(torch.rand(1, 4, 5), torch.zeros(1, 4, 5, dtype=torch.int64), treshold=0.5)
