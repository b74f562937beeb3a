"""The losses once more, as plain loops over masks: what the fast path must return, value and gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import floor
from typing import Any

import numpy as np
import torch
from geometry import Box, generator, random_labels
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

from nnunet_instance_trainers.losses import functional

S, TINY = 1e-5, 1e-6

Outcome = tuple[Tensor, bool]
"""A loss over a batch, and whether there was anything to average."""


def with_gradient(loss: Callable[..., Tensor], x: Tensor, *args: Any, **settings: Any) -> tuple[Tensor, Tensor]:
    """loss(x, ...) and its derivative with respect to x."""
    x = x.detach().clone().requires_grad_()
    value = loss(x, *args, **settings)
    return value.detach(), torch.autograd.grad(value, x)[0]


def assert_same(a: tuple[Tensor, ...], b: tuple[Tensor, ...], *, rtol: float = 1e-10, atol: float = 1e-13) -> None:
    for x, y in zip(a, b):
        torch.testing.assert_close(x, y, rtol=rtol, atol=atol)


# --- criteria, from the voxels of one region ---------------------------------------------------------------------


def generalized_dice(p: Tensor, t: Tensor) -> Tensor:
    shared = torch.stack([((1 - p) * (1 - t)).sum(), (p * t).sum()])
    both = torch.stack([(2 - p - t).sum(), (p + t).sum()])
    weights = 1 / torch.stack([(1 - t).sum(), t.sum()]).clamp(min=1) ** 2
    weights = weights / weights.sum()
    return 1 - (2 * (weights * shared).sum() + S) / ((weights * both).sum() + S)


def focal(p: Tensor, t: Tensor, alpha: float | None = 0.75) -> Tensor:
    right = torch.where(t == 1, p, 1 - p)
    weight = 1 if alpha is None else torch.where(t == 1, alpha, 1 - alpha)
    return (weight * (1 - right) ** 2 * -right.log()).mean()


def adaptive_tversky(tp: Tensor, fp: Tensor, fn: Tensor) -> Tensor:
    return 1 - (tp + S) / (tp + 0.3 * (fp + fn) + 0.4 * (fp**2 + fn**2) / (fp + fn).clamp(min=1e-8) + S)


def balanced_bce(inside: Tensor, outside: Tensor) -> Tensor:
    return ((-inside.log()).sum() / (len(inside) + S) + (-(1 - outside).log()).sum() / (len(outside) + S)) / (2 + S)


CRITERIA: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "dice": lambda p, t: 1 - (2 * (p * t).sum() + S) / (p.sum() + t.sum() + S),
    "tversky": lambda p, t: (
        1 - ((p * t).sum() + S) / ((p * t).sum() + 0.3 * (p * (1 - t)).sum() + 0.7 * ((1 - p) * t).sum() + S)
    ),
    "asl": lambda p, t: 1 - (3.25 * (p * t).sum() + S) / (2.25 * t.sum() + p.sum() + S),
    "generalized_dice": generalized_dice,
    "adaptive_tversky": lambda p, t: adaptive_tversky((p * t).sum(), (p * (1 - t)).sum(), ((1 - p) * t).sum()),
    "bce": binary_cross_entropy,
    "balanced_bce": lambda p, t: balanced_bce(p[t == 1], p[t == 0]),
    "focal": focal,
    "dice+bce": lambda p, t: CRITERIA["dice"](p, t) + binary_cross_entropy(p, t),
    "generalized_dice+focal": lambda p, t: generalized_dice(p, t) + focal(p, t, alpha=None),
}


POINTWISE = ("bce", "balanced_bce", "focal")


# --- one sample ---------------------------------------------------------------------------------------------------


@dataclass
class Sample:
    """Probabilities (and logits) of one image, with the masks of its instances and components."""

    p: Tensor
    z: Tensor | None
    valid: Tensor
    instances: list[Tensor]
    components: list[Tensor]

    def is_whole(self, mask: Tensor) -> bool:
        grown = ndimage.binary_dilation(mask.numpy(), np.ones((3,) * mask.ndim))
        return not (torch.from_numpy(grown) & ~self.valid).any()

    def union(self, masks: Sequence[Tensor]) -> Tensor:
        return torch.stack(masks).any(0) if len(masks) else torch.zeros_like(self.valid)

    def log_mean(self, mask: Tensor) -> Tensor:
        return (self.p[mask].mean() + TINY).log() if self.z is None else self.z[mask].sigmoid().mean().log()

    def log_mean_complement(self, mask: Tensor) -> Tensor:
        return (1 - self.p[mask].mean() + TINY).log() if self.z is None else (-self.z[mask]).sigmoid().mean().log()

    def compare(self, criterion: str, part: Tensor, target: Tensor, domain: Tensor) -> Tensor:
        """The criterion on a domain, the prediction being p in one part and 0 elsewhere."""
        q = torch.where(part, self.p, 0)
        return CRITERIA[criterion](q[domain], target[domain].to(q.dtype))

    def target_loss(
        self, n: int, criterion: str = "dice", exclude_other_targets: bool = True, missed: str = "constant",
        surrogate_weight: float = 0.1,
    ) -> Tensor:  # fmt: skip
        own = self.instances[n]
        met = [m for m in self.components if (m & own).any()]
        domain = self.valid & ~(self.union(self.instances) & ~own) if exclude_other_targets else self.valid
        loss = self.compare(criterion, self.union(met), own, domain)
        if missed == "soft" and not met:
            loss = carried(loss, -self.log_mean(own), surrogate_weight)
        return loss

    def prediction_loss(self, m: int, criterion: str = "dice", surrogate_weight: float = 0.1) -> Tensor:
        own = self.components[m]
        met = [n for n in self.instances if (n & own).any()]
        loss = self.compare(criterion, own, self.union(met), self.valid)
        return loss if met else carried(loss, -self.log_mean_complement(own), surrogate_weight)


def carried(value: Tensor, surrogate: Tensor, weight: float) -> Tensor:
    """The value with the gradient of the surrogate, weighed, on top of its own."""
    return value + weight * (surrogate - surrogate.detach())


def components_of(predicted: Tensor) -> list[Tensor]:
    ids, n = ndimage.label(predicted.numpy(), np.ones((3,) * predicted.ndim))
    return [torch.from_numpy(ids == i) for i in range(1, n + 1)]


def samples_of(
    p: Tensor, ids: Tensor, *, logits: Tensor | None = None, predicted: Tensor | None = None,
    threshold: float = 0.5, valid: Tensor | None = None,
) -> list[Sample]:  # fmt: skip
    samples = []
    for b in range(len(p)):
        ok = torch.ones_like(ids[b], dtype=torch.bool) if valid is None else valid[b]
        shown = (p[b].detach() >= threshold if predicted is None else predicted[b]) & ok
        masks = [(ids[b] == i) & ok for i in ids[b].unique() if i > 0]
        masks = [mask for mask in masks if mask.any()]
        z = None if logits is None else logits[b]
        samples.append(Sample(p[b].masked_fill(~ok, 0), z, ok, masks, components_of(shown)))
    return samples


# --- the terms over a batch -----------------------------------------------------------------------------------------


def mean_of(values: list[Tensor], p: Tensor) -> Outcome:
    return (torch.stack(values).mean() if values else p.sum() * 0), bool(values)


def instance_term(samples: list[Sample], *, side: str, **options: Any) -> Outcome:
    if side == "target":
        losses = [s.target_loss(n, **options) for s in samples for n in range(len(s.instances))]
    else:
        losses = [s.prediction_loss(m, **options) for s in samples for m, c in enumerate(s.components) if s.is_whole(c)]
    return mean_of(losses, samples[0].p)


def rate(samples: list[Sample], *, side: str, surrogate_weight: float = 0.1) -> Outcome:
    rates, occurs = [], False
    for s in samples:
        of, others = (s.instances, s.components) if side == "target" else (s.components, s.instances)
        log_chance = s.log_mean if side == "target" else s.log_mean_complement
        counted = [mask for mask in of if s.is_whole(mask)]
        bad = [mask for mask in counted if not (mask & s.union(others)).any()]
        occurs |= bool(counted)
        total = sum((carried(torch.tensor(1.0), -log_chance(mask), surrogate_weight) for mask in bad), s.p.sum() * 0)
        rates.append(total / max(len(counted), 1))
    return mean_of(rates, samples[0].p)[0], occurs


def cube(mask: Tensor, widths: Sequence[int]) -> Tensor:
    centre = [floor(float(x) + 0.5) for x in mask.nonzero().double().mean(0)]
    box = Box(
        tuple(max(c - w // 2, 0) for c, w in zip(centre, widths)), tuple(c + w // 2 + 1 for c, w in zip(centre, widths))
    )
    return box.mask(mask.shape)


def center(samples: list[Sample], *, width: int | Sequence[int] = 7, surrogate_weight: float = 0.1) -> Outcome:
    losses = []
    for s in samples:
        widths = [width] * s.p.ndim if isinstance(width, int) else width
        wanted = s.union([cube(mask, widths) for mask in s.instances])
        cubes = [cube(mask, widths) for mask in s.components]
        drawn = s.union(cubes)
        hits, misses = (drawn & wanted).sum().to(s.p), (drawn & ~wanted).sum().to(s.p)
        on, off = [int((c & wanted).sum()) for c in cubes], [int((c & ~wanted).sum()) for c in cubes]
        for mask, k, j in zip(s.components, on, off):
            hits = carried(hits, s.log_mean(mask), surrogate_weight * k * hits.item() / max(sum(on), 1))
            misses = carried(
                misses, -s.log_mean_complement(mask), surrogate_weight * j * misses.item() / max(sum(off), 1)
            )
        losses.append(
            1 - (2 * hits + S) / (hits + misses + wanted.sum() + S) if (drawn | wanted).any() else s.p.sum() * 0
        )
    return mean_of(losses, samples[0].p)[0], any(s.instances or s.components for s in samples)


def box_of(mask: Tensor) -> tuple[list[float], list[float]]:
    at = mask.nonzero()
    return at.amin(0).tolist(), (at.amax(0) + 1).tolist()


def diou(a: tuple[list[float], list[float]], b: tuple[list[float], list[float]]) -> float:
    shared = float(np.prod([max(min(h, k) - max(i, j), 0) for i, h, j, k in zip(*a, *b)]))
    volumes = [float(np.prod([h - i for i, h in zip(*box)])) for box in (a, b)]
    rho = sum(((i + h - j - k) / 2) ** 2 for i, h, j, k in zip(*a, *b))
    diagonal = sum((max(h, k) - min(i, j)) ** 2 for i, h, j, k in zip(*a, *b))
    return 1 - shared / (sum(volumes) - shared) + rho / diagonal


def proximity(
    samples: list[Sample], *, form: str = "mean", criterion: str = "dice", surrogate_weight: float = 0.1, **options: Any
) -> Outcome:
    losses, occurs = [], False
    for s in samples:
        instances = [n for n, mask in enumerate(s.instances) if s.is_whole(mask)]
        components = [m for m, mask in enumerate(s.components) if s.is_whole(mask)]
        occurs |= bool(instances or components)
        if not instances and not components:
            losses.append(s.p.sum() * 0)
            continue
        middle = [length // 2 for length in s.p.shape]
        stand_in = ([c - 1 for c in middle], [c + 2 for c in middle])
        image = s.compare("dice", s.valid, s.union(s.instances), s.valid)
        common = {"criterion": criterion, "surrogate_weight": surrogate_weight}
        a = [(box_of(s.instances[n]), s.target_loss(n, **common, **options)) for n in instances] or [(stand_in, image)]
        b = [(box_of(s.components[m]), s.prediction_loss(m, **common)) for m in components] or [(stand_in, image)]
        of_a = [min(diou(box, other) for other, _ in b) * loss for box, loss in a]
        of_b = [min(diou(box, other) for other, _ in a) * loss for box, loss in b]
        losses.append(sum(of_a) / len(a) + sum(of_b) / len(b) if form == "mean" else (sum(of_a) - sum(of_b)) ** 2)
    return mean_of(losses, samples[0].p)[0], occurs


def nearest(masks: list[Tensor], spacing: Sequence[float] | None) -> np.ndarray:
    """For each voxel the nearest mask, of equally near ones the first."""
    return np.stack([ndimage.distance_transform_edt(~mask.numpy(), sampling=spacing) for mask in masks]).argmin(0)


def voronoi(
    samples: list[Sample], *, side: str, criterion: str = "dice+bce", empty_cell: str = "mass",
    without_instance: str = "skip", size_power: float = 0, spacing: Sequence[float] | None = None,
) -> Outcome:  # fmt: skip
    means = []
    for s in samples:
        target, masks = s.union(s.instances), s.instances if side == "target" else s.components
        losses, place = [], nearest(masks, spacing) if masks else None
        for n in range(len(masks)):
            cell = torch.from_numpy(place == n) & s.valid
            p, t, losses_here = s.p[cell], target[cell].to(s.p.dtype), []
            for name in criterion.split("+"):
                takes_mass = empty_cell == "mass" and not (target & cell).any() and name not in POINTWISE
                losses_here.append((p.detach() * p).sum() / p.detach().sum() if takes_mass else CRITERIA[name](p, t))
            losses.append(sum(losses_here))
        if masks:
            weights = torch.tensor([float(mask.sum()) ** size_power for mask in masks], dtype=torch.float64)
            means.append((weights * torch.stack(losses)).sum() / weights.sum())
        elif without_instance == "whole" and s.valid.any():
            p, t = s.p[s.valid], target[s.valid].to(s.p.dtype)
            means.append(sum(CRITERIA[name](p, t) for name in criterion.split("+")))
    return mean_of(means, samples[0].p)


def component_tversky(
    samples: list[Sample], *, gamma: float = 1, size_offset: float = 5, background_weight: float = 0.01,
    without_instance: str = "skip",
) -> Outcome:  # fmt: skip
    losses = []
    for s in samples:
        w = torch.full(s.p.shape, background_weight, dtype=torch.float64)
        for mask in s.instances:
            w[mask] = (int(mask.sum()) + size_offset) ** -gamma
        w, t = w * s.valid, s.union(s.instances).double()
        tp, fp, fn = (w * s.p * t).sum(), (w * s.p * (1 - t)).sum(), (w * (1 - s.p) * t).sum()
        if s.instances or without_instance == "whole":
            losses.append(1 - (tp + S) / (tp + 0.3 * fp + 0.7 * fn + S))
    return mean_of(losses, samples[0].p)[0], any(s.instances for s in samples)


def mil(samples: list[Sample]) -> Outcome:
    return mean_of([-s.p[mask].max().log() for s in samples for mask in s.instances], samples[0].p)


PLAIN: dict[str, Callable[..., Outcome]] = {
    "instance_target": partial(instance_term, side="target"),
    "instance_prediction": partial(instance_term, side="prediction"),
    "missed_rate": partial(rate, side="target"),
    "false_rate": partial(rate, side="prediction"),
    "center": center,
    "proximity": proximity,
}

FAST: dict[str, Callable[..., Tensor]] = {
    "instance_target": partial(functional.instance_segmentation_loss, side="target"),
    "instance_prediction": partial(functional.instance_segmentation_loss, side="prediction"),
    "missed_rate": partial(functional.false_instance_loss, side="target"),
    "false_rate": partial(functional.false_instance_loss, side="prediction"),
    "center": functional.instance_center_loss,
    "proximity": functional.instance_proximity_loss,
}


PLAIN_CELLS: dict[str, Callable[..., Outcome]] = {
    "voronoi_target": partial(voronoi, side="target"),
    "voronoi_prediction": partial(voronoi, side="prediction"),
    "component_tversky": component_tversky,
    "instance_mil": mil,
}

FAST_CELLS: dict[str, Callable[..., Tensor]] = {
    "voronoi_target": partial(functional.voronoi_loss, side="target"),
    "voronoi_prediction": partial(functional.voronoi_loss, side="prediction"),
    "component_tversky": functional.component_tversky,
    "instance_mil": functional.instance_mil,
}
"""Those that take no surrogate."""


# --- scenes ---------------------------------------------------------------------------------------------------------


def scene(shape: Sequence[int], seed: int, *, batch: int = 3) -> tuple[Tensor, Tensor]:
    """Logits and ids of found, missed and invented objects; the second sample has no instance."""
    ids = random_labels(shape, 5, seed, batch=batch)
    found = (ids % 3 > 0).roll(1, 1)
    invented = random_labels(shape, 2, seed + 1000, batch=batch) > 0
    if batch > 1:
        ids[1] = 0
    z = 0.2 + 3 * torch.rand(ids.shape, generator=generator(seed), dtype=torch.float64)
    return torch.where(found | invented, z, -z), ids


def scribbles(shape: Sequence[int], *, batch: int = 3) -> Tensor:
    """Valid everywhere but in a line at the border and a short one in the middle."""
    valid = torch.ones(batch, *shape, dtype=torch.bool)
    valid[:, 0], valid[:, shape[0] // 2, : shape[1] // 3] = False, False
    return valid
