"""All terms of the instance loss (Rachmadi et al. 2024, Eq. 11) from one labelling and one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from nnunet_instance_trainers.losses.blob import pixel_average
from nnunet_instance_trainers.losses.center import center_average
from nnunet_instance_trainers.losses.instance import instance_average
from nnunet_instance_trainers.losses.named_criteria import CriterionSpec
from nnunet_instance_trainers.losses.number_formats import in_full_precision
from nnunet_instance_trainers.losses.object_comparison import Comparison
from nnunet_instance_trainers.losses.prediction import Probabilities
from nnunet_instance_trainers.losses.proximity import proximity_average
from nnunet_instance_trainers.losses.rates import rate_average

__all__ = ["instance_terms"]


@in_full_precision
def instance_terms(
    probabilities: Tensor,
    instances: Tensor,
    *,
    exclude_other_targets: bool = True,
    missed: str = "constant",
    width: int | Sequence[int] = 7,
    form: str = "mean",
    surrogate_weight: float = 0.1,
    criterion: CriterionSpec = "dice",
    threshold: float = 0.5,
    components: Tensor | None = None,
    logits: Tensor | None = None,
    valid: Tensor | None = None,
) -> dict[str, Tensor]:
    """All terms of the instance loss (Rachmadi et al. 2024, Eq. 11) from one labelling and one table.

    Arguments are those of the single terms.

    Returns:
        ``pixel`` (the criterion over the whole image), ``instance_target``, ``instance_prediction``, ``center``,
        ``missed_rate``, ``false_rate`` and ``proximity``; their weighted sum is Eq. 11.

    Raises:
        ValueError: as the single terms.

    Example:
        >>> p, t = torch.tensor([[[0.9, 0.0, 0.0, 0.1]]]), torch.tensor([[[1, 0, 0, 2]]])
        >>> sorted(instance_terms(p, t))[:3]
        ['center', 'false_rate', 'instance_prediction']
    """
    prediction = Probabilities(probabilities, threshold=threshold, logits=logits)
    c = Comparison(prediction, instances, components=components, valid=valid)
    target_side: dict[str, Any] = {"exclude_other_targets": exclude_other_targets, "missed": missed}
    common: dict[str, Any] = {"surrogate_weight": surrogate_weight, "criterion": criterion}
    averages = {
        "pixel": pixel_average(c, criterion=criterion),
        "instance_target": instance_average(c, side="target", **target_side, **common),
        "instance_prediction": instance_average(c, side="prediction", **common),
        "center": center_average(c, width=width, surrogate_weight=surrogate_weight),
        "missed_rate": rate_average(c, side="target", surrogate_weight=surrogate_weight),
        "false_rate": rate_average(c, side="prediction", surrogate_weight=surrogate_weight),
        "proximity": proximity_average(c, form=form, **target_side, **common),
    }
    return {name: average.mean() for name, average in averages.items()}
