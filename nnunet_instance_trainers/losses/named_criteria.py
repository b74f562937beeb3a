"""The criteria by name, and sums of them: several criteria of one region are a tuple, and their losses add.

>>> resolve("dice+bce")
(Dice(smooth=1e-05), BinaryCrossEntropy())
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from math import isfinite

from nnunet_instance_trainers.losses.criterion import Criterion, OverlapCriterion, PointwiseCriterion
from nnunet_instance_trainers.losses.overlap_criteria import ASL, AdaptiveTversky, Dice, GeneralizedDice, Tversky
from nnunet_instance_trainers.losses.pointwise_criteria import BalancedCrossEntropy, BinaryCrossEntropy, Focal

__all__ = [
    "ASL",
    "CRITERIA",
    "AdaptiveTversky",
    "BalancedCrossEntropy",
    "BinaryCrossEntropy",
    "Criterion",
    "CriterionSpec",
    "Dice",
    "Focal",
    "GeneralizedDice",
    "OverlapCriterion",
    "PointwiseCriterion",
    "Tversky",
    "resolve",
]

CriterionSpec = str | Criterion | Sequence[Criterion] | Mapping[str, Mapping[str, float | None]]

CRITERIA: dict[str, type[Criterion]] = {
    "dice": Dice,
    "tversky": Tversky,
    "adaptive_tversky": AdaptiveTversky,
    "bce": BinaryCrossEntropy,
    "balanced_bce": BalancedCrossEntropy,
    "focal": Focal,
    "generalized_dice": GeneralizedDice,
    "asl": ASL,
}

# The pixel loss of the instance-loss and ICI papers weighs both classes of its focal part alike.
_PUBLISHED_SUMS: dict[tuple[str, ...], tuple[Criterion, ...]] = {
    ("focal", "generalized_dice"): (GeneralizedDice(), Focal(alpha=None))
}


def resolve(criterion: CriterionSpec) -> tuple[Criterion, ...]:
    """The criteria that a name, a sum of names, a table of parameters or an object stands for.

    Args:
        criterion: a name of :data:`CRITERIA`; names joined by "+" (in "generalized_dice+focal" focal has no
            alpha, as in the papers that use that sum); a mapping from names to their parameters (the form for
            settings in JSON); a criterion; or a sequence of criteria.

    Returns:
        The criteria whose losses are to be added.

    Raises:
        ValueError: an unknown name or parameter, with the list of what is allowed.

    Example:
        >>> resolve("dice"), resolve({"tversky": {"alpha": 0.2, "beta": 0.8}})
        ((Dice(smooth=1e-05),), (Tversky(alpha=0.2, beta=0.8, smooth=1e-05),))
    """
    if isinstance(criterion, Criterion):
        return (criterion,)
    if isinstance(criterion, str):
        names = [name.strip() for name in criterion.split("+")]
        published = _PUBLISHED_SUMS.get(tuple(sorted(names)))
        return published or tuple(_from_parameters(name, {}) for name in names)
    if isinstance(criterion, Mapping) and criterion:
        return tuple(_from_parameters(name, parameters) for name, parameters in criterion.items())
    if isinstance(criterion, Sequence) and criterion:
        parts = tuple(part for part in criterion if isinstance(part, Criterion))
        if len(parts) == len(criterion):
            return parts
    raise ValueError(
        f"criterion must be one of {', '.join(CRITERIA)}, a sum such as 'dice+bce', or a criterion "
        f"object; got {criterion!r}"
    )


def _from_parameters(name: str, parameters: Mapping[str, float | None]) -> Criterion:
    if name not in CRITERIA:
        raise ValueError(f"unknown criterion {name!r}: allowed are {', '.join(CRITERIA)} and their sums ('dice+bce')")
    known = [field.name for field in fields(CRITERIA[name])]  # type: ignore[arg-type]
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise ValueError(
            f"criterion {name!r} has no parameter {unknown[0]!r}: allowed are {', '.join(known) or 'none'}"
        )
    for parameter, value in parameters.items():
        if not (isinstance(value, (int, float)) and isfinite(value)) and not (name == "focal" and value is None):
            raise ValueError(f"parameter {parameter!r} of criterion {name!r} must be a number, got {value!r}")
    return CRITERIA[name](**parameters)
