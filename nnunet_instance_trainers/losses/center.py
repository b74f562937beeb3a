"""Centre loss (Rachmadi et al. 2023 and 2024, Eq. 4)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from nnunet_instance_trainers.instances import Objects
from nnunet_instance_trainers.instances.cubes import count_around, cube_sizes, draw_cubes
from nnunet_instance_trainers.instances.voxel_lists import joined
from nnunet_instance_trainers.instances.voxels import count
from nnunet_instance_trainers.losses.averaging import Average
from nnunet_instance_trainers.losses.named_criteria import Dice
from nnunet_instance_trainers.losses.number_formats import in_full_precision
from nnunet_instance_trainers.losses.object_comparison import Comparison
from nnunet_instance_trainers.losses.prediction import Probabilities
from nnunet_instance_trainers.losses.surrogates import straight_through

__all__ = ["center_average", "instance_center_loss"]


@in_full_precision
def instance_center_loss(
    probabilities: Tensor,
    instances: Tensor,
    *,
    width: int | Sequence[int] = 7,
    surrogate_weight: float = 0.1,
    threshold: float = 0.5,
    components: Tensor | None = None,
    logits: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    r"""Centre loss: Dice between cubes around the centres of both sides.

    Rachmadi et al. 2023 and 2024, Eq. 4. Every instance and every component becomes a cube around its centre,
    clipped at the border; cubes of one side merge. Mean over samples, 0 where both pictures are empty.

    The centre is the unweighted mean position, rounded half up. Cubes are constants, so the published code has
    zero gradient. Here the cube of a component has the surrogate log(mean p) where it lies on a cube of the
    target and -log(1 - mean p) elsewhere: a component in the right place is confirmed, another one fades.

    Limits: 0 where both sides have the same centres; about 1 where no cubes touch.

    Args:
        probabilities, instances, threshold, components, logits, valid: as for
            :func:`~nnunet_instance_trainers.losses.instance.instance_segmentation_loss`.
        width: odd width of the cubes in voxels, one number or one per axis.
        surrogate_weight: scales the gradient.

    Returns:
        A scalar in [0, 1].

    Raises:
        ValueError: shapes differ; a width that is not odd, or of another number of axes.

    Example:
        >>> p, t = torch.zeros(1, 9, 9), torch.zeros(1, 9, 9, dtype=torch.long)
        >>> p[0, 2, 4], t[0, 4, 4] = 0.9, 1
        >>> round(instance_center_loss(p, t, width=5).item(), 3)  # rows 0-4 and 2-6: 1 - 2 * 15 / 50
        0.4
    """
    prediction = Probabilities(probabilities, threshold=threshold, logits=logits)
    comparison = Comparison(prediction, instances, components=components, valid=valid)
    return center_average(comparison, width=width, surrogate_weight=surrogate_weight).mean()


def center_average(c: Comparison, *, width: int | Sequence[int] = 7, surrogate_weight: float = 0.1) -> Average:
    """:func:`instance_center_loss` before its division by the number of samples."""
    shapes = [(shape[0] * c.n_classes, *shape[1:]) for shape in c.shapes]
    reach, components, centres = _reach(width, len(shapes[0]) - 1), c.components, c.components.centres
    sides = (c.instances.sample, c.instances.centres), (components.sample, centres)
    target, prediction = draw_cubes(shapes, sides, reach)
    both = [a & b for a, b in zip(target, prediction)]
    shared, drawn, wanted = (joined(list(map(count, pictures))) for pictures in (both, prediction, target))
    on = count_around(target, components.sample, centres, reach)
    off = cube_sizes(shapes, components.sample, centres, reach) - on
    # What was labelled is predicted, so its mean p is far from 0 and its logarithm needs no logits.
    confirmed = (c.component_mass / components.size + 1e-12).log()
    right = _carried(components, on, shared, confirmed, surrogate_weight)
    wrong = _carried(components, off, drawn - shared, -c.log_component_complement, surrogate_weight)
    dice = Dice()(right, wrong, wanted, wanted)
    return c.average_samples(dice.to(c.dtype), c.instances.number + components.number)


def _carried(objects: Objects, size: Tensor, merged: Tensor, surrogate: Tensor, weight: float) -> Tensor:
    """(E,) voxels of merged cubes, with the surrogate of each object for its share of them."""
    share = size.to(surrogate.dtype) * (merged / objects.per_sample(size).clamp(min=1))[objects.sample]
    return straight_through(merged.to(surrogate.dtype), objects.per_sample(share * surrogate), weight)


def _reach(width: int | Sequence[int], dim: int) -> list[int]:
    widths = [width] * dim if isinstance(width, int) else list(width)
    if len(widths) != dim or any(w < 1 or w % 2 == 0 for w in widths):
        raise ValueError(f"width must be an odd number of voxels, or {dim} of them, got {width}")
    return [w // 2 for w in widths]
