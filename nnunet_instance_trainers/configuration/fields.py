"""The settings of a training, one by one: default, allowed values, unit, meaning and check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nnunet_instance_trainers.configuration.checks import (
    is_criterion,
    is_names,
    is_number,
    is_odd,
    is_positive_int,
    is_seed,
    is_warm_up,
    is_weights,
    one_of,
)
from nnunet_instance_trainers.instances.cells import GRIDS
from nnunet_instance_trainers.losses.inverse import WEIGHTED_CRITERIA
from nnunet_instance_trainers.losses.named_criteria import CRITERIA, CriterionSpec
from nnunet_instance_trainers.losses.named_terms import TERMS
from nnunet_instance_trainers.losses.voronoi import EMPTY_CELLS, WITHOUT_INSTANCE

__all__ = ["SettingFields"]


def _setting(default: Any, allowed: str, check: Callable[[Any], bool], unit: str, meaning: str) -> Any:
    metadata = {"allowed": allowed, "check": check, "unit": unit, "meaning": meaning}
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


_CRITERIA = f"a criterion ({', '.join(CRITERIA)}), a sum ('dice+bce'), or {{name: {{parameter: value}}}}"


@dataclass(frozen=True)
class SettingFields:
    """The settings of one training. Field by field: default, allowed values, unit, meaning."""

    weights: Mapping[str, float] = _setting(
        {"pixel": 1.0},
        f"numbers >= 0 for {', '.join(('pixel', *TERMS))}",
        is_weights,
        "factor",
        "Weight of the pixel loss and of each instance term. Names that are left out keep the trainer's "
        "weight, which is 0 for terms that it does not name; what has weight 0 is not computed.",
    )
    pixel_loss: CriterionSpec = _setting(
        "nnunet",
        f"'nnunet', 'nnunet_dice', 'nnunet_ce' or {_CRITERIA}",
        lambda value: value in ("nnunet", "nnunet_dice", "nnunet_ce") or is_criterion(value),
        "",
        "The pixel loss: nnU-Net's own (Dice and cross-entropy), one half of it, or a criterion over the whole image, "
        "mean over samples and foreground classes.",
    )
    scale: str = _setting(
        "published",
        "'published' or 'unit'",
        one_of("published", "unit"),
        "",
        "'unit' divides all weights by that of the pixel loss, so that its gradient step stays nnU-Net's.",
    )
    criterion: CriterionSpec = _setting(
        "dice", _CRITERIA, is_criterion, "", "What the instance terms compare an instance and the prediction with."
    )
    missed: str = _setting(
        "constant",
        "'constant' or 'soft'",
        one_of("constant", "soft"),
        "",
        "What a missed instance gives to instance_target and proximity: nothing but its value, as published, or a "
        "gradient too. 'soft' over-segments unless false_rate has a weight.",
    )
    exclude_other_targets: bool = _setting(
        True,
        "true or false",
        lambda value: isinstance(value, bool),
        "",
        "Whether instance_target leaves out the voxels of other instances, or counts them as false positives.",
    )
    surrogate_weight: float = _setting(
        0.1,
        "a number >= 0",
        lambda value: is_number(value) and value >= 0,
        "factor",
        "Scales the gradient that stands in for the published zero gradient of center, missed_rate and false_rate and "
        "of false components; the value is not changed.",
    )
    center_width: int | list[int] = _setting(
        7,
        "an odd number, or a list of one per axis",
        lambda value: is_odd(value) or (isinstance(value, (list, tuple)) and bool(value) and all(map(is_odd, value))),
        "voxels",
        "Width of the cubes of center, the same at every scale.",
    )
    proximity_form: str = _setting(
        "mean",
        "'mean' or 'mse'",
        one_of("mean", "mse"),
        "",
        "'mse' is the published form; where many components are false it pushes true positives down.",
    )
    components_from: str | None = _setting(
        None,
        "null, 'argmax' or 'threshold'",
        one_of(None, "argmax", "threshold"),
        "",
        "What counts as predicted: what wins the softmax (null with labels), or a probability of at least 0.5 (null "
        "with regions).",
    )
    k_percent: float = _setting(
        50,
        "a number above 0 and up to 100",
        lambda value: is_number(value) and 0 < value <= 100,
        "% of the foreground",
        "The share of the foreground, the worst predicted, that topk_dice looks at.",
    )
    weighted_criterion: str = _setting(
        "bce",
        f"one of {', '.join(WEIGHTED_CRITERIA)}",
        one_of(*WEIGHTED_CRITERIA),
        "",
        "The loss that inverse_weighted weighs.",
    )
    max_weight: float | None = _setting(
        None,
        "null or a number > 0",
        lambda value: value is None or (is_number(value) and value > 0),
        "factor",
        "Cap of the weights of inverse_weighted; null is none, as published.",
    )
    cell_criterion: CriterionSpec = _setting(
        "dice+bce",
        _CRITERIA,
        is_criterion,
        "",
        "What voronoi_target and voronoi_prediction compare a cell and the prediction with.",
    )
    empty_cell: str = _setting(
        "mass",
        "'mass' or 'criterion'",
        one_of(*EMPTY_CELLS),
        "",
        "What voronoi_prediction takes for Dice in the cell of a component without any target voxel: the mean "
        "probability weighed by itself, as published, or Dice, which is 1 there whatever is predicted.",
    )
    without_instance: str = _setting(
        "skip",
        "'skip' or 'whole'",
        one_of(*WITHOUT_INSTANCE),
        "",
        "What a patch without an object gives to voronoi_target, voronoi_prediction and component_tversky: nothing, "
        "or, as published, the loss of the whole patch, which repeats the pixel loss.",
    )
    cell_size_power: float = _setting(
        0.0,
        "a number",
        is_number,
        "power of an object's volume",
        "By what voronoi_target and voronoi_prediction weigh the cells of a patch; 0 weighs all alike.",
    )
    cell_grid: str = _setting(
        "full",
        "'full' or 'half'",
        one_of(*GRIDS),
        "",
        "Where the distances of cells are computed: at every voxel, exact, or in blocks of two voxels along each axis, "
        "which takes an eighth of the work in 3D and gives a few per cent of the voxels to a neighbouring cell.",
    )
    component_gamma: float = _setting(
        1.0,
        "a number >= 0",
        lambda value: is_number(value) and value >= 0,
        "power",
        "How fast the weight of a voxel falls with the size of its instance in component_tversky.",
    )
    size_offset: float = _setting(
        5.0,
        "a number >= 0",
        lambda value: is_number(value) and value >= 0,
        "voxels",
        "What component_tversky adds to the size of every instance.",
    )
    background_weight: float = _setting(
        0.01,
        "a number >= 0",
        lambda value: is_number(value) and value >= 0,
        "factor",
        "The weight of voxels outside instances in component_tversky.",
    )
    warm_up: Mapping[str, int] = _setting(
        {},
        f"whole numbers >= 1 for {', '.join(TERMS)}",
        is_warm_up,
        "epochs",
        "Over how many epochs the weight of a term rises in a straight line from 0; terms that are left out have "
        "theirs from the start.",
    )
    source: str | None = _setting(
        None,
        "null, 'patch' or 'precomputed'",
        one_of(None, "patch", "precomputed"),
        "",
        "Where instance ids come from: components of the augmented patch, or maps made by 'nnunet-instance "
        "precompute'. null takes the maps where there are any.",
    )
    sampling: str | float = _setting(
        "voxel",
        "'voxel', 'instance' or a number from 0 to 1",
        lambda value: value in ("voxel", "instance") or (is_number(value) and 0 <= value <= 1),
        "power of an instance's volume",
        "What is drawn to be the centre of a patch that must show foreground, in training and validation: one of the "
        "class's voxels, as nnU-Net does, or one of its instances, each as likely as another ('instance', the same as "
        "0) or in proportion to a power of its volume. All but 'voxel' need what 'nnunet-instance precompute' makes, "
        "whatever the source.",
    )
    scales: str | int = _setting(
        "all",
        "'all' or a whole number >= 1",
        lambda value: value == "all" or is_positive_int(value),
        "scales of deep supervision, the full one first",
        "Which scales get the instance terms. The pixel loss is always on all of nnU-Net's scales.",
    )
    classes: str | list[str] = _setting(
        "all",
        "'all', a name from the labels of dataset.json or a list of them",
        is_names,
        "",
        "Which classes or regions get the instance terms, and enter the mean of the instance scores.",
    )
    checkpoint_metric: str = _setting(
        "dice",
        "'dice', 'f1' or 'mean'",
        one_of("dice", "f1", "mean"),
        "",
        "What chooses checkpoint_best.pth: nnU-Net's moving average of the pseudo Dice, the same average of the "
        "instance F1, or the mean of both. The last two pass over an epoch without a value.",
    )
    num_epochs: int | None = _setting(
        None,
        "null or a whole number >= 1",
        lambda v: v is None or is_positive_int(v),
        "epochs",
        "null: nnU-Net's 1000.",
    )
    num_iterations_per_epoch: int | None = _setting(
        None,
        "null or a whole number >= 1",
        lambda v: v is None or is_positive_int(v),
        "iterations",
        "null: nnU-Net's 250.",
    )
    num_val_iterations_per_epoch: int | None = _setting(
        None,
        "null or a whole number >= 1",
        lambda v: v is None or is_positive_int(v),
        "iterations",
        "null: nnU-Net's 50.",
    )
    initial_lr: float | None = _setting(
        None, "null or a number > 0", lambda v: v is None or (is_number(v) and v > 0), "", "null: nnU-Net's 0.01."
    )
    seed: int | None = _setting(
        None,
        "null or a whole number >= 0",
        lambda v: v is None or is_seed(v),
        "",
        "Seeds torch, numpy and random before the network is made. With nnUNet_n_proc_DA=0 before the command of a "
        "training on a CPU it can then be repeated (exported, it would break nnU-Net's planning); nnU-Net itself seeds "
        "nothing.",
    )
