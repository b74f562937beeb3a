"""The instance terms by the names that they have in settings, logs and tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from nnunet_instance_trainers.losses import modules
from nnunet_instance_trainers.losses.modules import ClassLoss

__all__ = ["NEED_NO_IDS", "TERMS", "make_term"]

_COMMON = {"criterion": "criterion", "surrogate_weight": "surrogate_weight"}
_SEGMENTATION = {**_COMMON, "exclude_other_targets": "exclude_other_targets", "missed": "missed"}

_CELLS = {
    "criterion": "cell_criterion",
    "without_instance": "without_instance",
    "size_power": "cell_size_power",
    "cell_grid": "cell_grid",
}

TERMS: dict[str, tuple[Callable[..., ClassLoss], dict[str, str]]] = {
    "blob": (modules.BlobLoss, {"criterion": "criterion"}),
    "instance_target": (partial(modules.InstanceSegmentationLoss, side="target"), _SEGMENTATION),
    "instance_prediction": (partial(modules.InstanceSegmentationLoss, side="prediction"), _COMMON),
    "center": (modules.InstanceCenterLoss, {"width": "center_width", "surrogate_weight": "surrogate_weight"}),
    "missed_rate": (partial(modules.FalseInstanceLoss, side="target"), {"surrogate_weight": "surrogate_weight"}),
    "false_rate": (partial(modules.FalseInstanceLoss, side="prediction"), {"surrogate_weight": "surrogate_weight"}),
    "proximity": (modules.InstanceProximityLoss, {**_SEGMENTATION, "form": "proximity_form"}),
    "topk_dice": (modules.TopKDiceLoss, {"k_percent": "k_percent"}),
    "inverse_weighted": (modules.InverseWeightedLoss, {"criterion": "weighted_criterion", "max_weight": "max_weight"}),
    "voronoi_target": (partial(modules.VoronoiLoss, side="target"), _CELLS),
    "voronoi_prediction": (partial(modules.VoronoiLoss, side="prediction"), {**_CELLS, "empty_cell": "empty_cell"}),
    "component_tversky": (
        modules.ComponentTverskyLoss,
        {
            "gamma": "component_gamma",
            "size_offset": "size_offset",
            "background_weight": "background_weight",
            "without_instance": "without_instance",
        },
    ),
    "instance_mil": (modules.InstanceMILLoss, {}),
}
"""For each term its module, and the settings that it takes: argument of the module by name of the setting."""


NEED_NO_IDS = frozenset({"topk_dice"})
"""The terms that look at a class as a whole."""


def make_term(name: str, settings: Mapping[str, Any]) -> ClassLoss:
    """The module of a term, with the settings that it takes.

    Example:
        >>> make_term("center", {"center_width": 5, "surrogate_weight": 0.1}).width
        5
    """
    module, arguments = TERMS[name]
    return module(**{argument: settings[setting] for argument, setting in arguments.items()})
