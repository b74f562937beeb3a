from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from geometry import SHAPES, Box, Disc, paint, random_labels, random_mask, random_probabilities
from gradients import gradients_are_right
from losses.plain import CRITERIA, assert_same, with_gradient
from torch import Tensor

from nnunet_instance_trainers.losses import number_formats
from nnunet_instance_trainers.losses.functional import blob_loss, pixel_loss
from nnunet_instance_trainers.losses.named_criteria import ASL, Criterion, Dice, Tversky

every_criterion = pytest.mark.parametrize("criterion", CRITERIA)
every_shape = pytest.mark.parametrize("shape", SHAPES)


def plain_losses(p: Tensor, ids: Tensor, criterion: str, valid: Tensor | None = None) -> list[list[Tensor]]:
    """For each sample the loss of each instance on its own domain."""
    valid = torch.ones_like(ids, dtype=torch.bool) if valid is None else valid
    losses: list[list[Tensor]] = []
    for p_b, ids_b, valid_b in zip(p, ids, valid):
        p_b, ids_b = p_b[valid_b], ids_b[valid_b]
        losses.append([])
        for n in ids_b.unique():
            if n > 0:
                domain = (ids_b == 0) | (ids_b == n)
                losses[-1].append(CRITERIA[criterion](p_b[domain], (ids_b == n)[domain].to(p.dtype)))
    return losses


@pytest.mark.parametrize("masked", [False, True])
@every_criterion
@every_shape
def test_equals_the_plain_loop_over_instances(shape: tuple[int, ...], criterion: str, masked: bool) -> None:
    """Value and gradient; three samples of many, no and few instances."""
    ids = random_labels(shape, 6, seed=1, batch=3)
    ids[1] = 0
    ids[2] *= ids[2] < 3
    p = random_probabilities(ids.shape, seed=2)
    valid = random_mask(ids.shape, seed=3) if masked else None

    def plain(p: Tensor) -> Tensor:
        means = [torch.stack(losses).mean() for losses in plain_losses(p, ids, criterion, valid) if losses]
        return torch.stack(means).mean()

    assert_same(with_gradient(blob_loss, p, ids, criterion=criterion, valid=valid), with_gradient(plain, p))


@every_criterion
def test_without_reduction_there_is_one_value_per_instance(criterion: str) -> None:
    """In the order of samples and ids, absent and wholly ignored ids left out."""
    ids = torch.tensor([0, 9, 0, 4, 70_000, 2])[random_labels((16, 13), 5, seed=4, batch=3)]
    p, valid = random_probabilities(ids.shape, seed=5), ids != 4
    expected = [x for losses in plain_losses(p, ids, criterion, valid) for x in losses]
    losses = blob_loss(p, ids, criterion=criterion, valid=valid, reduction="none")
    torch.testing.assert_close(losses, torch.stack(expected))
    assert len(losses) == sum(len(set(x[x != 4].tolist()) - {0}) for x in ids)


def test_hand_number() -> None:
    a, b, invented = Box((1, 1), (5, 6)), Disc((12, 3), 2), Box((8, 8), (10, 13))  # 20, 13 and 10 voxels
    shape = SHAPES[0]
    p = 0.75 * a.mask(shape) + 0.5 * b.mask(shape) + 0.25 * invented.mask(shape)
    p, ids = p[None].double(), paint(shape, [a, b])[None]
    dice = [1 - 2 * 15 / (15 + 2.5 + 20), 1 - 2 * 6.5 / (6.5 + 2.5 + 13)]
    tversky = [1 - 15 / (15 + 0.3 * 2.5 + 0.7 * 5), 1 - 6.5 / (6.5 + 0.3 * 2.5 + 0.7 * 6.5)]
    assert blob_loss(p, ids, reduction="none").tolist() == pytest.approx(dice, abs=1e-6)
    assert blob_loss(p, ids, criterion="tversky").item() == pytest.approx(sum(tversky) / 2, abs=1e-6)
    assert pixel_loss(p, ids).item() == pytest.approx(1 - 2 * 21.5 / (21.5 + 2.5 + 33), abs=1e-6)


@every_criterion
@every_shape
def test_with_one_instance_per_sample_it_is_the_pixel_loss(shape: tuple[int, ...], criterion: str) -> None:
    ids = random_labels(shape, 6, seed=6, batch=3).clamp(max=1)
    assert ids.flatten(1).any(1).all()
    p = random_probabilities(ids.shape, seed=7)
    ids[1] *= 5
    assert_same(
        with_gradient(blob_loss, p, ids, criterion=criterion), with_gradient(pixel_loss, p, ids, criterion=criterion)
    )


@pytest.mark.parametrize("masked", [False, True])
@every_criterion
def test_the_pixel_loss_is_the_criterion_over_each_image(criterion: str, masked: bool) -> None:
    """Also over an image without foreground."""
    target = random_labels((16, 13), 5, seed=8, batch=3)
    target[1] = 0
    p = random_probabilities(target.shape, seed=9)
    valid = random_mask(target.shape, seed=10) if masked else torch.ones_like(target, dtype=torch.bool)

    def plain(p: Tensor) -> Tensor:
        images = zip(p, target, valid)
        return torch.stack([CRITERIA[criterion](x[ok], (t[ok] > 0).to(x)) for x, t, ok in images]).mean()

    settings = {"criterion": criterion, "valid": valid if masked else None}
    assert_same(with_gradient(pixel_loss, p, target, **settings), with_gradient(plain, p))


@every_criterion
def test_an_image_without_foreground_has_a_pixel_loss(criterion: str) -> None:
    p, target = random_probabilities((1, 5, 6), seed=11), torch.zeros(1, 5, 6, dtype=torch.int64)
    expected = with_gradient(lambda p: CRITERIA[criterion](p.flatten(), target.flatten().to(p)), p)
    assert_same(with_gradient(pixel_loss, p, target, criterion=criterion), expected)


@every_criterion
def test_numbering_changes_nothing(criterion: str) -> None:
    ids, p = random_labels((7, 6, 9), 6, seed=12), random_probabilities((2, 7, 6, 9), seed=13)
    expected = with_gradient(blob_loss, p, ids, criterion=criterion)
    for names in ([0, 4, 6, 1, 5, 2, 3], [0, 5, 4_000_000, 17, 3, 2**40, 1]):
        assert_same(with_gradient(blob_loss, p, torch.tensor(names)[ids], criterion=criterion), expected)


@every_criterion
def test_mirroring_and_turning_change_nothing(criterion: str) -> None:
    ids, p = random_labels((7, 6, 9), 6, seed=14), random_probabilities((2, 7, 6, 9), seed=15)
    value, gradient = with_gradient(blob_loss, p, ids, criterion=criterion)
    for move in (lambda x: x.flip(1), lambda x: x.flip(2), lambda x: x.flip(1, 3), lambda x: x.transpose(1, 3)):
        moved = with_gradient(blob_loss, move(p), move(ids), criterion=criterion)
        assert_same(moved, (value, move(gradient)))


@every_criterion
def test_a_sample_without_instances_is_left_out(criterion: str) -> None:
    ids, p = random_labels((16, 13), 4, seed=16), random_probabilities((3, 16, 13), seed=17)
    value, gradient = with_gradient(blob_loss, p[:2], ids, criterion=criterion)
    ids = torch.cat([ids, torch.zeros(1, 16, 13, dtype=ids.dtype)])
    assert_same(
        with_gradient(blob_loss, p, ids, criterion=criterion), (value, torch.cat([gradient, torch.zeros(1, 16, 13)]))
    )


@every_criterion
def test_nothing_to_find_gives_an_attached_zero(criterion: str) -> None:
    """Where no sample has instances, and where every voxel is ignored; DDP needs the graph."""
    p = random_probabilities((2, 5, 6), seed=18).requires_grad_()
    ids = random_labels((5, 6), 3, seed=19)
    nothing = torch.zeros(2, 5, 6, dtype=torch.bool)
    for loss in (
        blob_loss(p, nothing.long(), criterion=criterion),
        blob_loss(p, ids, criterion=criterion, valid=nothing),
        pixel_loss(p, ids, criterion=criterion, valid=nothing),
    ):
        assert loss.item() == 0
        assert (torch.autograd.grad(loss, p)[0] == 0).all()
    assert blob_loss(p, nothing.long(), criterion=criterion, reduction="none").shape == (0,)


@pytest.mark.parametrize("loss", [blob_loss, pixel_loss])
@pytest.mark.parametrize("criterion", [Dice(smooth=0), Tversky(smooth=0), ASL(smooth=0)], ids=repr)
def test_without_smoothing_a_clean_background_has_a_finite_gradient(criterion: Criterion, loss) -> None:  # type: ignore[no-untyped-def]
    value, gradient = with_gradient(
        loss, torch.tensor([[0.5, 0.9, 0, 0]]), torch.tensor([[1, 1, 0, 0]]), criterion=criterion
    )
    assert 0 < value < 1
    assert gradient.isfinite().all()


@pytest.mark.parametrize("there", [0.0, 0.5, 1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("loss", [blob_loss, pixel_loss])
@every_criterion
def test_ignored_voxels_change_nothing_whatever_is_there(criterion: str, loss, there: float) -> None:  # type: ignore[no-untyped-def]
    ids, p = random_labels((7, 6, 9), 5, seed=20), random_probabilities((2, 7, 6, 9), seed=21)
    valid = random_mask(p.shape, seed=22)
    expected = with_gradient(loss, p, ids, criterion=criterion, valid=valid)
    assert (expected[1][~valid] == 0).all()
    other_ids = torch.where(valid, ids, 3)
    other = with_gradient(loss, p.masked_fill(~valid, there), other_ids, criterion=criterion, valid=valid)
    assert_same(other, expected)


@every_criterion
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 3)])
def test_gradcheck(shape: tuple[int, ...], criterion: str) -> None:
    ids, valid = random_labels(shape, 3, seed=23), random_mask((2, *shape), seed=24)
    p = (0.1 + 0.8 * random_probabilities((2, *shape), seed=25)).requires_grad_()
    for loss in (blob_loss, pixel_loss):
        assert gradients_are_right(lambda p, loss=loss: loss(p, ids, criterion=criterion, valid=valid), p)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", [blob_loss, pixel_loss])
@every_criterion
def test_half_precision_equals_float32_on_the_same_numbers(criterion: str, loss, dtype: torch.dtype) -> None:  # type: ignore[no-untyped-def]
    ids, half = random_labels((16, 13), 5, seed=26), random_probabilities((2, 16, 13), seed=27).to(dtype)
    value, gradient = with_gradient(loss, half, ids, criterion=criterion)
    expected, slope = with_gradient(loss, half.float(), ids, criterion=criterion)
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)
    assert torch.equal(gradient, slope.to(dtype))


def test_a_sum_beyond_the_range_of_float16_does_not_overflow() -> None:
    ids = torch.zeros(1, 300, 300, dtype=torch.int32)
    ids[:, :250] = 1
    assert blob_loss(torch.ones(1, 300, 300, dtype=torch.float16), ids).item() == pytest.approx(1 / 11)  # 1 - 10/11


@pytest.mark.parametrize("loss", [blob_loss, pixel_loss])
def test_autocast_is_off_inside(loss) -> None:  # type: ignore[no-untyped-def]
    seen = []

    class Spy(Dice):
        def positive(self, p: Tensor) -> Tensor:
            seen.append((torch.is_autocast_enabled("cpu"), p.dtype))
            return p

    ids, p = random_labels((16, 13), 5, seed=28), random_probabilities((2, 16, 13), seed=29).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = [loss(p, ids, criterion=Spy()), loss(p.bfloat16(), ids, criterion=Spy())]
        assert torch.is_autocast_enabled("cpu")
    assert seen == [(False, torch.float32)] * 2
    assert [value.dtype for value in values] == [torch.float32] * 2
    assert torch.equal(values[0], loss(p, ids))


@pytest.mark.filterwarnings("ignore:torch.is_autocast_cpu_enabled")
def test_autocast_is_found_by_torch_before_2_4_too(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """There is_autocast_enabled takes no argument and means CUDA."""
    with torch.autocast("cpu", dtype=torch.bfloat16), monkeypatch.context() as old:
        old.setattr(torch, "is_autocast_enabled", lambda: False)
        assert number_formats._autocasts("cpu") and not number_formats._autocasts("cuda")
    assert not number_formats._autocasts("cpu")


@pytest.mark.parametrize("size", [10**4, 10**5, 10**6])
@pytest.mark.parametrize("criterion", ["dice", "bce", "generalized_dice"])
def test_a_large_neighbour_costs_a_small_object_no_precision(criterion: str, size: int) -> None:
    """Ten voxels beside up to a million, float32 against float64."""
    ids = torch.zeros(1, 2 * size, dtype=torch.int64)
    ids[0, :size], ids[0, size + 5 : size + 15] = 1, 2
    p = torch.where(ids > 0, 0.9, 1e-5)
    expected = blob_loss(p.double(), ids, criterion=criterion, reduction="none")
    losses = blob_loss(p, ids, criterion=criterion, reduction="none")
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["blob_dice", "blob_tversky_0.3_0.7", "blob_bce"])
def test_golden_values(golden: Path, name: str) -> None:
    criterion = {"blob_dice": "dice", "blob_bce": "bce"}.get(name, {"tversky": {"alpha": 0.3, "beta": 0.7}})
    expected = json.loads((golden / "expected.json").read_text())
    n_gradients = 0
    for case, values in expected.items():
        arrays = np.load(golden / "cases" / f"{case}.npz")
        p, ids = torch.from_numpy(arrays["pred"])[:, 0], torch.from_numpy(arrays["instances"])[:, 0]
        value, gradient = with_gradient(blob_loss, p.double(), ids, criterion=criterion)
        assert value.item() == pytest.approx(values[name], abs=1e-9, rel=0), case
        assert blob_loss(p, ids, criterion=criterion).item() == pytest.approx(values[name], rel=2e-6, abs=0), case
        if f"grad_{name}" in arrays:
            n_gradients += 1
            np.testing.assert_allclose(gradient, arrays[f"grad_{name}"][:, 0], rtol=0, atol=1e-9, err_msg=case)
    assert len(expected) >= 15
    assert n_gradients >= (9 if name == "blob_dice" else 0)


def test_published_pixel_dice_of_the_example_pair(golden: Path) -> None:
    """0.4587, published with the instance losses for a pair of binary masks."""
    nibabel = pytest.importorskip("nibabel", reason="reads the pair")
    output, label = (np.asarray(nibabel.load(golden / "blobs" / f"{name}-0.nii.gz").dataobj) for name in
                     ("output", "label"))  # fmt: skip
    p, target = torch.tensor(output, dtype=torch.float64)[None], torch.tensor(label > 0)[None]
    assert pixel_loss(p, target).item() == pytest.approx(0.4587, abs=5e-5)


@pytest.mark.parametrize("loss", [blob_loss, pixel_loss])
def test_shapes_that_differ_are_refused(loss) -> None:  # type: ignore[no-untyped-def]
    p, ids = torch.rand(2, 4, 5), torch.zeros(2, 5, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"one shape \(B, \*S\), got \(2, 4, 5\) and \(2, 5, 4\)"):
        loss(p, ids)


@pytest.mark.parametrize("shape", [(1, 4, 5), (2, 4, 1), (2, 5, 4)])
@pytest.mark.parametrize("loss", [blob_loss, pixel_loss])
def test_a_mask_of_another_shape_is_refused(loss, shape: tuple[int, ...]) -> None:  # type: ignore[no-untyped-def]
    p, ids = torch.rand(2, 4, 5), torch.zeros(2, 4, 5, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"probabilities and valid must have one shape .*got \(2, 4, 5\) and"):
        loss(p, ids, valid=torch.ones(shape, dtype=torch.bool))


def test_unknown_options_are_refused() -> None:
    p, ids = torch.rand(1, 4, 5), torch.zeros(1, 4, 5, dtype=torch.int64)
    with pytest.raises(ValueError, match="reduction must be 'mean' or 'none', got 'sum'"):
        blob_loss(p, ids, reduction="sum")
    for loss in (blob_loss, pixel_loss):
        with pytest.raises(ValueError, match="unknown criterion 'dize'"):
            loss(p, ids, criterion="dize")
        with pytest.raises(TypeError, match="criterium"):
            loss(p, ids, criterium="dice")
