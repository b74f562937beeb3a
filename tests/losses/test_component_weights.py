from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from geometry import SHAPES, random_labels, random_mask, random_probabilities
from losses.plain import PLAIN_CELLS, assert_same, samples_of, scene, scribbles, with_gradient

from nnunet_instance_trainers.losses import component_tversky, instance_mil, pixel_loss

OPTIONS: list[dict] = [
    {},
    {"gamma": 0.5, "background_weight": 0.1},
    {"gamma": 2, "size_offset": 0},
    {"without_instance": "whole"},
]


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: str(list(options.values())))
@pytest.mark.parametrize("shape", SHAPES)
def test_component_tversky_equals_the_plain_loop(shape: tuple[int, ...], options: dict, ignored: bool) -> None:
    """Value and gradient; one sample without instances."""
    z, ids = scene(shape, seed=1)
    valid = scribbles(shape) if ignored else None
    fast = with_gradient(component_tversky, z.sigmoid(), ids, valid=valid, **options)
    plain = PLAIN_CELLS["component_tversky"]
    assert_same(fast, with_gradient(lambda p: plain(samples_of(p, ids, valid=valid), **options)[0], z.sigmoid()))
    assert fast[0] > 0


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_instance_mil_equals_the_plain_loop_with_and_without_logits(shape: tuple[int, ...], ignored: bool) -> None:
    z, ids = scene(shape, seed=2)
    valid = scribbles(shape) if ignored else None
    slow = with_gradient(lambda z: PLAIN_CELLS["instance_mil"](samples_of(z.sigmoid(), ids, valid=valid))[0], z)
    for logits in (False, True):
        fast = with_gradient(lambda z: instance_mil(z.sigmoid(), ids, logits=z if logits else None, valid=valid), z)  # noqa: B023
        assert_same(fast, slow)


GOLDEN = {
    "cat_tversky": partial(component_tversky, without_instance="whole"),
    "cat_tversky_skip": component_tversky,
    "cat_tversky_gamma0.5_bg0.1": partial(
        component_tversky, gamma=0.5, background_weight=0.1, without_instance="whole"
    ),
    "mil": instance_mil,
}


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("variant", ["", "ignore_"])
def test_golden_values(golden: Path, golden_cells: Path, variant: str, name: str) -> None:
    """To 1e-12, and the derivatives to the prediction."""
    n_gradients = 0
    for case, values in json.loads((golden_cells / "expected.json").read_text()).items():
        arrays = np.load(golden / "cases" / f"{case}.npz")
        p, ids = torch.from_numpy(arrays["pred"])[:, 0].double(), torch.from_numpy(arrays["instances"])[:, 0]
        valid = torch.ones_like(ids, dtype=torch.bool)
        if variant:
            valid[..., ids.shape[-1] // 2 - 2 : ids.shape[-1] // 2 + 2] = False
        value, gradient = with_gradient(GOLDEN[name], p, ids, valid=valid)
        expected = values["ignore_values" if variant else "values"][name]
        assert value.item() == pytest.approx(expected, abs=1e-12, rel=0), case
        gradients = np.load(golden_cells / f"{case}_grads.npz")
        if not variant and name in gradients and (ids > 0).any():
            np.testing.assert_allclose(gradient, gradients[name][:, 0], rtol=1e-9, atol=1e-12, err_msg=case)
            n_gradients += 1
    assert n_gradients >= (10 if name in ("cat_tversky", "mil") and not variant else 0)


@pytest.mark.parametrize("shape", SHAPES)
def test_equal_weights_give_the_tversky_loss(shape: tuple[int, ...]) -> None:
    ids, p = random_labels(shape, 4, seed=3), random_probabilities((2, *shape), seed=4)
    equal = with_gradient(component_tversky, p, ids, gamma=0, background_weight=1)
    assert_same(equal, with_gradient(pixel_loss, p, ids, criterion="tversky"))


def test_every_instance_weighs_the_same_without_offset() -> None:
    ids = torch.zeros(1, 20, 20, dtype=torch.int64)
    ids[0, :15, :15], ids[0, 18, 18] = 1, 2
    p = torch.full((1, 20, 20), 0.5).double()
    _, gradient = with_gradient(component_tversky, p, ids, size_offset=0)
    assert gradient[ids == 1].sum().item() == pytest.approx(gradient[ids == 2].sum().item())
    _, gradient = with_gradient(component_tversky, p, ids)
    assert gradient[ids == 1].sum() / gradient[ids == 2].sum() == pytest.approx(225 / 230 / (1 / 6), rel=1e-6)


def test_mil_pulls_the_brightest_voxel_however_deep_it_lies() -> None:
    """Published is no gradient below 10^-6."""
    ids = torch.tensor([[1, 1, 1, 0]])
    for top in (-1.0, -40.0):
        z = torch.tensor([[top - 2, top, top - 1, 3.0]]).double()
        _, gradient = with_gradient(lambda z: instance_mil(z.sigmoid(), ids, logits=z), z)
        pull = torch.zeros_like(z)
        pull[0, 1] = top_pull = torch.tensor(top).double().sigmoid().item() - 1
        torch.testing.assert_close(gradient, pull)
        assert top_pull < -0.7
    _, gradient = with_gradient(lambda z: instance_mil(z.sigmoid(), ids), z)
    assert (gradient == 0).all()  # without logits


@pytest.mark.parametrize("loss", [component_tversky, instance_mil])
def test_nothing_to_find_gives_an_attached_zero(loss) -> None:  # type: ignore[no-untyped-def]
    ids, p = random_labels((5, 6), 3, seed=5), random_probabilities((2, 5, 6), seed=6)
    for options in ({"instances": ids * 0}, {"instances": ids, "valid": torch.zeros_like(ids) > 0}):
        value, gradient = with_gradient(loss, p, **options)
        assert value == 0 and (gradient == 0).all()


@pytest.mark.parametrize("loss", [component_tversky, instance_mil])
def test_numbering_and_mirroring_change_nothing(loss) -> None:  # type: ignore[no-untyped-def]
    ids, p = random_labels((7, 6, 9), 6, seed=7), random_probabilities((2, 7, 6, 9), seed=8)
    expected = with_gradient(loss, p, ids)
    assert_same(with_gradient(loss, p, torch.tensor([0, 5, 4_000_000, 17, 3, 2**40, 1])[ids]), expected)
    value, gradient = with_gradient(loss, p.flip(1, 3), ids.flip(1, 3))
    assert_same((value, gradient.flip(1, 3)), expected)


@pytest.mark.parametrize("loss", [component_tversky, instance_mil])
def test_gradcheck(loss) -> None:  # type: ignore[no-untyped-def]
    ids, valid = random_labels((3, 4), 3, seed=9), random_mask((2, 3, 4), seed=10)
    p = random_probabilities((2, 3, 4), seed=11).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: loss(p, ids, valid=valid), p)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", [component_tversky, instance_mil])
def test_half_precision_equals_float32_on_the_same_numbers(loss, dtype: torch.dtype) -> None:  # type: ignore[no-untyped-def]
    ids, half = random_labels((16, 13), 5, seed=12), random_probabilities((2, 16, 13), seed=13).to(dtype)
    assert torch.equal(loss(half, ids), loss(half.float(), ids))


def test_unknown_options_are_refused() -> None:
    p, ids = torch.rand(1, 4, 5), torch.ones(1, 4, 5, dtype=torch.int64)
    with pytest.raises(ValueError, match="without_instance must be 'skip' or 'whole', got 'none'"):
        component_tversky(p, ids, without_instance="none")
    with pytest.raises(ValueError, match=r"one shape \(B, \*S\), got \(1, 4, 5\) and \(1, 5, 4\)"):
        instance_mil(p, ids.mT)
