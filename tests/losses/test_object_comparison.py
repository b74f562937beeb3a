from __future__ import annotations

import pytest
import torch
from geometry import SHAPES
from losses.plain import samples_of, scene, scribbles
from torch import Tensor

from nnunet_instance_trainers.instances import Objects
from nnunet_instance_trainers.instances.labelling import label_objects
from nnunet_instance_trainers.losses import object_comparison
from nnunet_instance_trainers.losses.object_comparison import Comparison
from nnunet_instance_trainers.losses.prediction import Probabilities

on_shapes = pytest.mark.parametrize("shape", SHAPES)
masked_or_not = pytest.mark.parametrize("masked", [False, True])


def stack(values: list) -> Tensor:  # type: ignore[type-arg]
    return torch.stack([torch.as_tensor(value) for value in values])


@masked_or_not
@on_shapes
def test_objects_and_their_sums_equal_plain_loops(shape: tuple[int, ...], masked: bool) -> None:
    z, ids = scene(shape, seed=51)
    p, valid = z.sigmoid(), scribbles(shape) if masked else None
    c, samples = Comparison(Probabilities(p), ids, valid=valid), samples_of(p, ids, valid=valid)
    assert c.n_samples == len(samples) == 3
    instances = [(s, mask) for s in samples for mask in s.instances]
    components = [(s, mask) for s in samples for mask in s.components]
    assert c.instances.size.tolist() == [int(mask.sum()) for _, mask in instances]
    assert sorted(c.components.size.tolist()) == sorted(int(mask.sum()) for _, mask in components)
    torch.testing.assert_close(c.instance_mass, stack([s.p[mask].sum() for s, mask in instances]))
    torch.testing.assert_close(c.component_mass.sum(), stack([s.p[mask].sum() for s, mask in components]).sum())
    met = stack([sum(s.p[mask & other].sum() for other in s.components) for s, mask in instances])
    torch.testing.assert_close(c.table.over_instances(c.pair_mass), met)
    assert c.missed.tolist() == [not (mask & s.union(s.components)).any() for s, mask in instances]
    assert int(c.false.sum()) == sum(not bool((mask & s.union(s.instances)).any()) for s, mask in components)
    assert c.whole_instances.tolist() == [s.is_whole(mask) for s, mask in instances]
    assert int(c.whole_components.sum()) == sum(s.is_whole(mask) for s, mask in components)
    if masked:
        assert not c.whole_instances.all() and c.whole_instances.any()


@pytest.mark.parametrize("at", [(1, 1), (1, 3), (3, 6), (5, 2)])
def test_an_ignored_voxel_at_any_side_or_corner_breaks_an_object(at: tuple[int, int]) -> None:
    ids = torch.zeros(1, 7, 8, dtype=torch.int64)
    ids[0, 2:5, 2:6] = 1
    valid = torch.ones_like(ids, dtype=torch.bool)
    assert Comparison(Probabilities(ids.float()), ids, valid=valid).whole_instances.tolist() == [True]
    valid[0, at[0], at[1]] = False
    assert Comparison(Probabilities(ids.float()), ids, valid=valid).whole_instances.tolist() == [False]
    assert Comparison(Probabilities(ids.float()), ids, valid=valid).whole_components.tolist() == [False]
    far = torch.ones_like(valid)
    far[0, 0], far[0, :, 7], far[0, 6] = False, False, False
    assert Comparison(Probabilities(ids.float()), ids, valid=far).whole_instances.tolist() == [True]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.75])
def test_a_voxel_is_predicted_from_the_threshold_on(threshold: float) -> None:
    """Labelled in full connectivity; the threshold itself counts."""
    p = torch.tensor([[[threshold, 0, 0], [0, 0.9, 0], [0, 0, threshold - 0.01]]])
    prediction = Probabilities(p, threshold=threshold)
    assert Comparison(prediction, torch.zeros(1, 3, 3).long()).components.size.tolist() == [2]


def test_given_components_come_before_the_threshold() -> None:
    p, ids = torch.rand(2, 5, 6), torch.zeros(2, 5, 6, dtype=torch.int64)
    given = torch.zeros_like(ids)
    given[0, 0, 0] = 7
    c = Comparison(Probabilities(p), ids, components=given)
    assert (c.components.id.tolist(), c.components.size.tolist()) == ([7], [1])


@pytest.mark.parametrize("with_logits", [True, False])
def test_log_means_equal_plain_loops(with_logits: bool) -> None:
    z, ids = scene(SHAPES[0], seed=53)
    c = Comparison(Probabilities(z.sigmoid(), logits=z if with_logits else None), ids, components=ids)
    means = c.instance_mass / c.instances.size
    tiny = 0 if with_logits else 1e-6
    torch.testing.assert_close(c.log_instance_mean, (means + tiny).log(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(c.log_component_complement, (1 - means + tiny).log(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_means_neither_under_nor_overflow(dtype: torch.dtype) -> None:
    ids = torch.tensor([[1, 1, 2, 2]])
    z = torch.tensor([[-70.0, -71, 70, 72]], dtype=dtype)
    c = Comparison(Probabilities(z.sigmoid(), logits=z), ids, components=ids)
    expected = -70 + torch.tensor((1 + torch.e**-1) / 2).log().item()
    assert c.log_instance_mean.tolist() == pytest.approx([expected, 0])
    other = -70 + torch.tensor((1 + torch.e**-2) / 2).log().item()
    assert c.log_component_complement.tolist() == pytest.approx([0, other])


def test_far_beyond_saturation_the_log_means_stay_finite_and_keep_their_gradient() -> None:
    ids = torch.tensor([[1, 1, 2, 2]])
    z = torch.tensor([[-700.0, -900, 700, 900]], requires_grad=True)
    c = Comparison(Probabilities(z.sigmoid(), logits=z), ids, components=ids)
    assert c.log_instance_mean.isfinite().all() and c.log_component_complement.isfinite().all()
    (up,) = torch.autograd.grad(c.log_instance_mean[0], z, retain_graph=True)
    (down,) = torch.autograd.grad(c.log_component_complement[1], z)
    assert up.sum().item() == pytest.approx(1) and down.sum().item() == pytest.approx(-1)


@pytest.mark.parametrize("scale", [2.0**16, 2.0**24])
def test_the_gradient_of_log_means_survives_the_scale_of_mixed_precision(scale: float) -> None:
    """A GradScaler starts at 2^16; 1 / sum of the tiniest probabilities is beyond float32 with it."""
    ids = torch.tensor([[1, 2, 2]])
    z = torch.tensor([[-90.0, -85, -100]], requires_grad=True)
    c = Comparison(Probabilities(z.sigmoid(), logits=z), ids, components=ids)
    (gradient,) = torch.autograd.grad(scale * c.log_instance_mean.sum(), z)
    assert gradient.isfinite().all() and gradient.sum().item() == pytest.approx(2 * scale)


def test_nothing_is_computed_before_it_is_asked_for_nor_twice(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    calls: list[str] = []

    def counting(*arguments) -> Objects:  # type: ignore[no-untyped-def]
        calls.append("label")
        return label_objects(*arguments)

    monkeypatch.setattr(object_comparison, "label_objects", counting)
    z, ids = scene(SHAPES[0], seed=54)

    class Watched(Probabilities):
        @property
        def foreground(self) -> list[Tensor]:
            calls.append("foreground")
            return super().foreground

        def at(self, *sides: Objects) -> list[tuple[Tensor, Tensor | None]]:
            calls.append("read")
            return super().at(*sides)

    c = Comparison(Watched(z.sigmoid(), logits=z), ids)
    c.gather_with_totals(c.probabilities)
    assert calls == []
    for _ in range(2):
        c.missed, c.false, c.components  # noqa: B018
    assert calls == ["foreground", "label"]
    for _ in range(2):
        c.component_mass, c.pair_mass, c.instance_mass, c.log_instance_mean  # noqa: B018
    assert calls == ["foreground", "label", "read"]


def test_ignored_voxels_belong_to_nothing() -> None:
    """Whatever is there; objects that an ignored line cuts fall into two components, but ids keep them one."""
    ids = torch.ones(1, 5, 5, dtype=torch.int64)
    valid = torch.ones_like(ids, dtype=torch.bool)
    valid[0, 2] = False
    p = ids.float().masked_fill(~valid, torch.nan)
    c = Comparison(Probabilities(p), ids, valid=valid)
    assert c.instances.size.tolist() == [20]
    assert c.components.size.tolist() == [10, 10]
    assert c.probabilities[0].isfinite().all()
    assert c.instance_mass.tolist() == [20]


@pytest.mark.parametrize("name", ["ids", "components", "valid"])
def test_shapes_that_differ_are_refused(name: str) -> None:
    p, other = Probabilities(torch.rand(2, 4, 5)), torch.zeros(2, 4, 1)
    settings = {} if name == "ids" else {name: other}
    with pytest.raises(ValueError, match=rf"probabilities and {name} must have one shape \(B, \*S\), got \(2, 4, 5\)"):
        Comparison(p, other.long() if name == "ids" else torch.zeros(2, 4, 5).long(), **settings)
