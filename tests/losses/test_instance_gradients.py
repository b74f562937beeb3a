"""Gradients that train: the published code of these terms has none, or the wrong sign."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from geometry import Box, paint, random_mask
from gradients import gradients_are_right
from losses.plain import FAST, scene, scribbles, with_gradient
from torch import Tensor

from nnunet_instance_trainers.losses import InstanceProximityLoss, InstanceSegmentationLoss
from nnunet_instance_trainers.losses.functional import instance_proximity_loss, instance_segmentation_loss
from nnunet_instance_trainers.losses.named_terms import TERMS

SHAPE = (20, 18)
CORRECT, MISSED, FALSE = Box((2, 2), (7, 6)), Box((10, 2), (13, 5)), Box((12, 11), (15, 16))
IDS = paint(SHAPE, [CORRECT, MISSED])[None]

SOFT = {"missed": "soft"}
SURROGATE_OF: dict[str, tuple[str, ...]] = {
    "instance_target": ("missed",),
    "instance_prediction": ("false",),
    "missed_rate": ("missed",),
    "false_rate": ("false",),
    "center": ("false",),
    "proximity": ("missed", "false"),
}
every_term = pytest.mark.parametrize("term", FAST)


def loss_of(term: str, **settings) -> partial:  # type: ignore[no-untyped-def, type-arg]
    """The term, with the soft form where there is one."""
    return partial(FAST[term], **(SOFT if term in ("instance_target", "proximity") else {}), **settings)


def tiny(*, missed: float = -1.5, false: float = 1.5, dtype: torch.dtype = torch.float64) -> Tensor:
    """Logits of an image with a correct component, a missed instance and a false component."""
    z = torch.full(SHAPE, -4.0, dtype=dtype)
    for box, value in ((CORRECT, 1.2), (MISSED, missed), (FALSE, false)):
        z[box.mask(SHAPE)] = value
    return z[None]


@pytest.mark.parametrize("from_logits", [False, True])
@every_term
def test_one_step_raises_the_missed_lowers_the_false_and_spares_the_correct(term: str, from_logits: bool) -> None:
    z, loss = tiny(), loss_of(term)
    _, gradient = with_gradient(lambda z: loss(z.sigmoid(), IDS, logits=z if from_logits else None), z)
    change = (z - gradient).sigmoid() - z.sigmoid()
    inside = {name: change[0][box.mask(SHAPE)] for name, box in (("missed", MISSED), ("false", FALSE))}
    if "missed" in SURROGATE_OF[term]:
        assert (inside["missed"] > 1e-6).all()
    if "false" in SURROGATE_OF[term]:
        assert (inside["false"] < -1e-6).all()
    assert (inside["missed"] >= 0).all()
    assert (inside["false"] <= 0).all()
    assert (change[0][CORRECT.mask(SHAPE)] >= 0).all()


def test_a_wrong_cube_fades_and_a_right_one_is_confirmed() -> None:
    _, gradient = with_gradient(lambda z: FAST["center"](z.sigmoid(), IDS, width=3), tiny())
    assert (gradient[0][CORRECT.mask(SHAPE)] < -1e-6).all()
    assert (gradient[0][FALSE.mask(SHAPE)] > 1e-6).all()


@every_term
def test_the_weight_scales_the_surrogate_and_not_the_value(term: str) -> None:
    def run(weight: float) -> tuple[Tensor, Tensor]:
        loss = loss_of(term, surrogate_weight=weight)
        return with_gradient(lambda z: loss(z.sigmoid(), IDS, logits=z), tiny())

    (value, none), (same, half), (also, full) = run(0), run(0.5), run(1)
    assert value == same == also > 0
    torch.testing.assert_close(full - none, 2 * (half - none), rtol=1e-9, atol=1e-12)
    assert (full - none).abs().max() > 1e-4
    default = with_gradient(lambda z: loss_of(term)(z.sigmoid(), IDS, logits=z), tiny())[1]
    torch.testing.assert_close(default - none, 0.1 * (full - none), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("term", ["missed_rate", "false_rate", "center"])
def test_without_surrogates_presence_has_no_gradient(term: str) -> None:
    _, gradient = with_gradient(lambda z: FAST[term](z.sigmoid(), IDS, logits=z, surrogate_weight=0), tiny())
    assert (gradient == 0).all()


@pytest.mark.parametrize("term", ["instance_target", "proximity"])
def test_missed_constant_has_no_gradient_in_a_missed_instance(term: str) -> None:
    missed = MISSED.mask(SHAPE)
    for settings, moves in (({}, False), ({"missed": "constant"}, False), ({"missed": "soft"}, True)):
        loss = partial(FAST[term], surrogate_weight=1.0, **settings)
        _, gradient = with_gradient(lambda z: loss(z.sigmoid(), IDS, logits=z), tiny())  # noqa: B023
        assert bool((gradient[0][missed] != 0).all()) == moves
        assert bool((gradient[0][missed] != 0).any()) == moves


def strength(term: str, z: float, dtype: torch.dtype) -> float:
    """Summed gradient in the object that the term's surrogate is about, at a logit."""
    which = SURROGATE_OF[term][0]
    image, box = tiny(**{which: z}, dtype=dtype), {"missed": MISSED, "false": FALSE}[which]
    loss = loss_of(term, surrogate_weight=1.0)
    _, gradient = with_gradient(lambda x: loss(x.sigmoid(), IDS, logits=x), image)
    return gradient[0][box.mask(SHAPE)].sum().abs().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_term
def test_saturated_logits_keep_their_gradient(term: str, dtype: torch.dtype) -> None:
    """Where p is exactly 1 in float32, or 1e-13."""
    sign = -1 if SURROGATE_OF[term][0] == "missed" else 1
    near, far = strength(term, sign * 5.0, dtype), strength(term, sign * 30.0, dtype)
    assert far >= 0.5 * near > 0
    assert strength(term, sign * 70.0, dtype) >= 0.5 * near


@pytest.mark.parametrize("components_from", [None, "threshold"])
@pytest.mark.parametrize("channels", [2, 3])
@pytest.mark.parametrize("regions", [False, True])
def test_modules_hand_logits_on(regions: bool, channels: int, components_from: str | None) -> None:
    """Three classes too, whose logit is computed when it is asked for."""
    for name, box, sign in (("missed_rate", MISSED, -1), ("false_rate", FALSE, 1)):
        module = TERMS[name][0](regions=regions, classes=[1], components_from=components_from, surrogate_weight=1.0)
        sums = []
        for z in (5.0, 30.0):
            image = tiny(**{name.split("_")[0]: sign * z}, dtype=torch.float32)
            output = torch.stack([torch.zeros_like(image), image, *[torch.full_like(image, -9)] * (channels - 2)], 1)
            target = (IDS[:, None] == torch.arange(channels)[:, None, None]) * 0 if regions else (IDS[:, None] > 0) * 1
            ids = IDS[:, None].repeat(1, channels if regions else 1, 1, 1)
            if regions:
                target[:, 1] = IDS > 0
            _, gradient = with_gradient(module, output, target, ids)
            sums.append(gradient[0, 1][box.mask(SHAPE)].sum().item() * sign)
        assert sums[1] >= 0.5 * sums[0] > 0, name


@pytest.mark.parametrize("size", [1, 3, 12])
@pytest.mark.parametrize("term", ["missed_rate", "false_rate"])
def test_the_surrogate_of_an_object_sums_to_at_most_1(term: str, size: int) -> None:
    """Whatever its size and probability; one object, so the rate is its surrogate."""
    box, sign = Box((2, 3), (2 + size, 3 + size)), (-1 if term == "missed_rate" else 1)
    ids = paint(SHAPE, [box])[None] if term == "missed_rate" else torch.zeros(1, *SHAPE, dtype=torch.int64)
    for level in (0.1, 1.0, 4.0, 30.0):
        z = torch.full((1, *SHAPE), -50.0).double()
        z[0][box.mask(SHAPE)] = sign * level * (1 + 0.2 * torch.rand(size * size, dtype=torch.float64))
        _, gradient = with_gradient(lambda z: FAST[term](z.sigmoid(), ids, logits=z, surrogate_weight=1.0), z)
        assert 0.2 < gradient.abs().sum() <= 1 + 1e-9
        assert (gradient[0][~box.mask(SHAPE)] == 0).all()


# --- proximity: forms -----------------------------------------------------------------------------------------------


def pushed_down(form: str, seed: int) -> bool:
    """Whether some true positive has a gradient that lowers it."""
    z, ids = scene(SHAPE, seed)
    _, gradient = with_gradient(lambda z: instance_proximity_loss(z.sigmoid(), ids, form=form), z)
    return bool((gradient[(z >= 0) & (ids > 0)] > 1e-12).any())


def test_the_mean_form_never_pushes_a_true_positive_down_and_mse_does() -> None:
    assert not any(pushed_down("mean", seed) for seed in range(30))
    assert any(pushed_down("mse", seed) for seed in range(30))


def test_many_false_components_turn_the_mse_form_against_the_true_one() -> None:
    """A component that meets two instances, so its voxels count more in A; B > A, so A grows."""
    z = torch.full((1, *SHAPE), -4.0).double()
    first, second = Box((2, 2), (4, 6)), Box((4, 2), (7, 6))
    for box in (first, second, *(Box((r, c), (r + 1, c + 1)) for r in (10, 13, 16) for c in (2, 6, 10, 14))):
        z[0][box.mask(SHAPE)] = 1.0
    ids = paint(SHAPE, [first, second])[None]
    for form, up in (("mean", True), ("mse", False)):
        _, gradient = with_gradient(lambda z: instance_proximity_loss(z.sigmoid(), ids, form=form), z)  # noqa: B023
        step = -gradient[0][ids[0] > 0]
        assert (step > 0).all() if up else (step < 0).all(), form


# --- gradcheck ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 4)])
@every_term
def test_gradcheck_without_surrogates(term: str, shape: tuple[int, ...], masked: bool) -> None:
    z, ids = scene(shape, seed=31, batch=2)  # logits stay 0.2 away from the threshold
    valid = scribbles(shape, batch=2) if masked else None
    p = z.sigmoid().requires_grad_()
    settings = {"surrogate_weight": 0, "valid": valid}
    assert gradients_are_right(lambda p: FAST[term](p, ids, **settings), p)
    for criterion in ("tversky", "generalized_dice") if "instance" in term else ():
        assert gradients_are_right(lambda p: FAST[term](p, ids, criterion=criterion, **settings), p)  # noqa: B023


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("side", ["target", "prediction"])
def test_gradcheck_of_the_surrogates(side: str, from_logits: bool) -> None:
    """The gradient of a rate is that of the mean of the logarithms, written out."""
    z, ids = tiny(), IDS

    def written_out(z: Tensor) -> Tensor:
        box = (MISSED if side == "target" else FALSE).mask(SHAPE)
        p = z.sigmoid()[0][box].mean()
        chance = p if side == "target" else 1 - p
        return -(chance if from_logits else chance + 1e-6).log() / 2  # one of two is missed, one of two is false

    term = "missed_rate" if side == "target" else "false_rate"
    loss = partial(FAST[term], surrogate_weight=1.0)
    found = with_gradient(lambda z: loss(z.sigmoid(), ids, logits=z if from_logits else None), z)[1]
    torch.testing.assert_close(found, with_gradient(written_out, z)[1], rtol=1e-9, atol=1e-13)
    box = (MISSED if side == "target" else FALSE).mask(SHAPE)
    values = z[0][box].requires_grad_()
    assert gradients_are_right(lambda v: written_out(tiny().masked_scatter(box[None], v)), values)


# --- nothing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("from_logits", [False, True])
@every_term
def test_nothing_to_compare_gives_an_attached_zero(term: str, from_logits: bool) -> None:
    z, nothing = -tiny().abs(), torch.zeros_like(IDS)
    for ids, valid in ((nothing, None), (IDS, nothing.bool())):
        loss = loss_of(term, valid=valid)
        value, gradient = with_gradient(lambda z: loss(z.sigmoid(), ids, logits=z if from_logits else None), z)  # noqa: B023
        assert value == 0
        assert (gradient == 0).all()


@every_term
def test_no_prediction_and_no_target(term: str) -> None:
    unpredicted, untargeted = FAST[term](-tiny().abs().sigmoid() * 0 + 0.1, IDS), FAST[term](tiny().sigmoid(), IDS * 0)
    expected = {
        "instance_target": (1, 0),
        "instance_prediction": (0, 1),
        "missed_rate": (1, 0),
        "false_rate": (0, 1),
        "center": (1, 1),
    }
    if term in expected:
        assert (unpredicted.item(), untargeted.item()) == pytest.approx(expected[term], abs=1e-5)
    else:
        assert unpredicted > 1 and untargeted > 1


@pytest.mark.parametrize("there", [0.0, 1.0, float("nan"), float("inf")])
@every_term
def test_ignored_voxels_change_nothing_whatever_is_there(term: str, there: float) -> None:
    z, ids = scene(SHAPE, seed=33)
    valid = random_mask(z.shape, seed=34, share=0.97)
    expected = with_gradient(FAST[term], z.sigmoid(), ids, valid=valid)
    assert (expected[1][~valid] == 0).all()
    other = with_gradient(FAST[term], z.sigmoid().masked_fill(~valid, there), torch.where(valid, ids, 3), valid=valid)
    for x, y in zip(other, expected):
        assert torch.equal(x, y)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_term
def test_half_precision_and_autocast_equal_float32_on_the_same_logits(term: str, dtype: torch.dtype) -> None:
    z, ids = scene(SHAPE, seed=35)
    half = z.to(dtype)
    expected = FAST[term](half.float().sigmoid().to(dtype).float(), ids, logits=half.float())
    value, gradient = with_gradient(lambda z: FAST[term](half.sigmoid(), ids, logits=z) + 0 * z.sum(), half)
    assert value.item() == pytest.approx(expected.item(), rel=1e-3)
    assert gradient.isfinite().all()
    module = TERMS[term][0](regions=True)
    exact = with_gradient(module, half.float()[:, None], ids[:, None] > 0, ids[:, None])
    with torch.autocast("cpu", dtype=dtype):
        rounded = with_gradient(module, half[:, None], ids[:, None] > 0, ids[:, None])
    assert rounded[0].dtype == torch.float32
    torch.testing.assert_close(rounded[0], exact[0], rtol=1e-3, atol=0)
    torch.testing.assert_close(rounded[1].float(), exact[1], rtol=1e-2, atol=1e-6)


def test_the_defaults_of_modules_are_those_of_functions() -> None:
    z, ids = scene(SHAPE, seed=36)
    for module, loss in (
        (InstanceSegmentationLoss, instance_segmentation_loss),
        (InstanceProximityLoss, instance_proximity_loss),
    ):
        made = with_gradient(module(regions=True), z[:, None], ids[:, None] > 0, ids[:, None])
        expected = with_gradient(lambda z: loss(z.sigmoid(), ids, logits=z), z)  # noqa: B023
        torch.testing.assert_close(made[0], expected[0])
        torch.testing.assert_close(made[1][:, 0], expected[1])
