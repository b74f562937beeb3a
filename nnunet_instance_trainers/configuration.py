"""Every setting of a training, with its default, unit, meaning and check.

A setting is a class attribute of a trainer, overridden by the dictionary ``instance_training`` in the
configuration of a plans file::

    "configurations": {"3d_fullres": {..., "instance_training": {"weights": {"blob": 0.5}, "num_epochs": 250}}}

nnU-Net carries that dictionary into the results folder and the checkpoint. A configuration that inherits
another one replaces the whole dictionary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from sys import float_info
from typing import Any

from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.losses.criteria import CriterionSpec, resolve
from nnunet_instance_trainers.losses.inverse import WEIGHTED_CRITERIA
from nnunet_instance_trainers.losses.terms import NEED_NO_IDS, TERMS

__all__ = ["PLANS_KEY", "Settings"]

PLANS_KEY = "instance_training"


def _is_number(value: object) -> bool:
    # JSON knows whole numbers that are no float, and what is greater than every number or none.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= float_info.max


def _is_weights(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        name in ("pixel", *TERMS) and _is_number(weight) and weight >= 0 for name, weight in value.items()
    )


def _is_criterion(value: Any) -> bool:
    try:
        resolve(value)
    except (TypeError, ValueError):
        return False
    return True


def _is_positive_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_odd(value: object) -> bool:
    return _is_positive_int(value) and value % 2 == 1  # type: ignore[operator]


def _is_seed(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_names(value: object) -> bool:
    return isinstance(value, str) or (
        isinstance(value, (list, tuple)) and bool(value) and all(isinstance(name, str) for name in value)
    )


def _one_of(*choices: object) -> Callable[[object], bool]:
    return lambda value: any(value is choice or value == choice for choice in choices)


def _setting(default: Any, allowed: str, check: Callable[[Any], bool], unit: str, meaning: str) -> Any:
    metadata = {"allowed": allowed, "check": check, "unit": unit, "meaning": meaning}
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


_CRITERIA = (
    "a criterion (dice, tversky, bce, focal, generalized_dice, asl), a sum ('dice+bce'), or {name: {parameter: value}}"
)


@dataclass(frozen=True)
class Settings:
    """The settings of one training. Field by field: default, allowed values, unit, meaning."""

    weights: Mapping[str, float] = _setting(
        {"pixel": 1.0},
        f"numbers >= 0 for {', '.join(('pixel', *TERMS))}",
        _is_weights,
        "factor",
        "Weight of the pixel loss and of each instance term. Names that are left out keep the trainer's "
        "weight, which is 0 for terms that it does not name; what has weight 0 is not computed.",
    )
    pixel_loss: CriterionSpec = _setting(
        "nnunet",
        f"'nnunet', 'nnunet_dice', 'nnunet_ce' or {_CRITERIA}",
        lambda value: value in ("nnunet", "nnunet_dice", "nnunet_ce") or _is_criterion(value),
        "",
        "The pixel loss: nnU-Net's own (Dice and cross-entropy), one half of it, or a criterion over the whole image, "
        "mean over samples and foreground classes.",
    )
    scale: str = _setting(
        "published",
        "'published' or 'unit'",
        _one_of("published", "unit"),
        "",
        "'unit' divides all weights by that of the pixel loss, so that its gradient step stays nnU-Net's.",
    )
    criterion: CriterionSpec = _setting(
        "dice", _CRITERIA, _is_criterion, "", "What the instance terms compare an instance and the prediction with."
    )
    missed: str = _setting(
        "constant",
        "'constant' or 'soft'",
        _one_of("constant", "soft"),
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
        lambda value: _is_number(value) and value >= 0,
        "factor",
        "Scales the gradient that stands in for the published zero gradient of center, missed_rate and false_rate and "
        "of false components; the value is not changed.",
    )
    center_width: int | list[int] = _setting(
        7,
        "an odd number, or a list of one per axis",
        lambda value: _is_odd(value) or (isinstance(value, (list, tuple)) and bool(value) and all(map(_is_odd, value))),
        "voxels",
        "Width of the cubes of center, the same at every scale.",
    )
    proximity_form: str = _setting(
        "mean",
        "'mean' or 'mse'",
        _one_of("mean", "mse"),
        "",
        "'mse' is the published form; where many components are false it pushes true positives down.",
    )
    components_from: str | None = _setting(
        None,
        "null, 'argmax' or 'threshold'",
        _one_of(None, "argmax", "threshold"),
        "",
        "What counts as predicted: what wins the softmax (null with labels), or a probability of at least 0.5 (null "
        "with regions).",
    )
    k_percent: float = _setting(
        50,
        "a number above 0 and up to 100",
        lambda value: _is_number(value) and 0 < value <= 100,
        "% of the foreground",
        "The share of the foreground, the worst predicted, that topk_dice looks at.",
    )
    weighted_criterion: str = _setting(
        "bce",
        f"one of {', '.join(WEIGHTED_CRITERIA)}",
        _one_of(*WEIGHTED_CRITERIA),
        "",
        "The loss that inverse_weighted weighs.",
    )
    max_weight: float | None = _setting(
        None,
        "null or a number > 0",
        lambda value: value is None or (_is_number(value) and value > 0),
        "factor",
        "Cap of the weights of inverse_weighted; null is none, as published.",
    )
    source: str | None = _setting(
        None,
        "null, 'patch' or 'precomputed'",
        _one_of(None, "patch", "precomputed"),
        "",
        "Where instance ids come from: components of the augmented patch, or maps made by 'nnunet-instance "
        "precompute'. null takes the maps where there are any.",
    )
    sampling: str | float = _setting(
        "voxel",
        "'voxel', 'instance' or a number from 0 to 1",
        lambda value: value in ("voxel", "instance") or (_is_number(value) and 0 <= value <= 1),
        "power of an instance's volume",
        "What is drawn to be the centre of a patch that must show foreground, in training and validation: one of the "
        "class's voxels, as nnU-Net does, or one of its instances, each as likely as another ('instance', the same as "
        "0) or in proportion to a power of its volume. All but 'voxel' need what 'nnunet-instance precompute' makes, "
        "whatever the source.",
    )
    scales: str | int = _setting(
        "all",
        "'all' or a whole number >= 1",
        lambda value: value == "all" or _is_positive_int(value),
        "scales of deep supervision, the full one first",
        "Which scales get the instance terms. The pixel loss is always on all of nnU-Net's scales.",
    )
    classes: str | list[str] = _setting(
        "all",
        "'all', a name from the labels of dataset.json or a list of them",
        _is_names,
        "",
        "Which classes or regions get the instance terms, and enter the mean of the instance scores.",
    )
    checkpoint_metric: str = _setting(
        "dice",
        "'dice', 'f1' or 'mean'",
        _one_of("dice", "f1", "mean"),
        "",
        "What chooses checkpoint_best.pth: nnU-Net's moving average of the pseudo Dice, the same average of the "
        "instance F1, or the mean of both. The last two pass over an epoch without a value.",
    )
    num_epochs: int | None = _setting(
        None,
        "null or a whole number >= 1",
        lambda v: v is None or _is_positive_int(v),
        "epochs",
        "null: nnU-Net's 1000.",
    )
    num_iterations_per_epoch: int | None = _setting(
        None,
        "null or a whole number >= 1",
        lambda v: v is None or _is_positive_int(v),
        "iterations",
        "null: nnU-Net's 250.",
    )
    num_val_iterations_per_epoch: int | None = _setting(
        None,
        "null or a whole number >= 1",
        lambda v: v is None or _is_positive_int(v),
        "iterations",
        "null: nnU-Net's 50.",
    )
    initial_lr: float | None = _setting(
        None, "null or a number > 0", lambda v: v is None or (_is_number(v) and v > 0), "", "null: nnU-Net's 0.01."
    )
    seed: int | None = _setting(
        None,
        "null or a whole number >= 0",
        lambda v: v is None or _is_seed(v),
        "",
        "Seeds torch, numpy and random before the network is made. With nnUNet_n_proc_DA=0 before the command of a "
        "training on a CPU it can then be repeated (exported, it would break nnU-Net's planning); nnU-Net itself seeds "
        "nothing.",
    )

    @classmethod
    def resolve(cls, trainer: type, overrides: Mapping[str, Any], *, where: str) -> Settings:
        """The settings of a trainer class with those of a plans file over them.

        Args:
            trainer: its class attributes that are named like settings replace the defaults.
            overrides: the dictionary ``instance_training`` of the plans.
            where: names the plans and the configuration in error messages.

        Raises:
            UserError: an unknown key or a bad value, with what is allowed.
        """
        names = [setting.name for setting in fields(cls)]
        if not isinstance(overrides, Mapping):
            raise UserError(f"{PLANS_KEY!r} in {where} must be a dictionary, got {overrides!r}")
        unknown = sorted(set(overrides) - set(names))
        if unknown:
            raise UserError(f"unknown setting {unknown[0]!r} in {where}: allowed are {', '.join(names)}")
        own = {name: getattr(trainer, name) for name in names if hasattr(trainer, name)}
        settings = cls()
        for values, place in ((own, f"trainer {trainer.__name__}"), (overrides, where)):
            cls._check(values, place)
            weights = {**settings.weights, **values.get("weights", {})}
            settings = replace(settings, **{**values, "weights": weights})
        return settings

    def check_for_training(self, *, has_regions: bool, dim: int, where: str) -> None:
        """Check what only the trainer, its data and all settings together can tell.

        Raises:
            UserError: settings that exclude each other or do not fit the data.
        """
        if not self.parts:
            raise UserError(f"setting 'weights' in {where} must give something a weight above 0")
        if self.scale == "unit" and not self.weights["pixel"] > 0:
            raise UserError(f"setting 'scale' in {where} can only be 'unit' with a pixel weight above 0")
        if has_regions and self.components_from == "argmax":
            raise UserError(f"setting 'components_from' in {where} cannot be 'argmax' with regions: use 'threshold'")
        if not isinstance(self.center_width, int) and len(self.center_width) != dim:
            raise UserError(f"setting 'center_width' in {where} must be one number or {dim}, got {self.center_width}")

    @classmethod
    def _check(cls, values: Mapping[str, Any], where: str) -> None:
        for setting in fields(cls):
            if setting.name in values and not setting.metadata["check"](values[setting.name]):
                raise UserError(
                    f"setting {setting.name!r} in {where} must be {setting.metadata['allowed']}, "
                    f"got {values[setting.name]!r}"
                )

    @property
    def effective_weights(self) -> dict[str, float]:
        """The weights as the loss uses them, after ``scale``."""
        divisor = self.weights["pixel"] if self.scale == "unit" else 1.0
        return {name: weight / divisor for name, weight in self.weights.items()}

    @property
    def terms(self) -> list[str]:
        """The instance terms that are computed: those of weight above 0."""
        return [name for name in TERMS if self.weights.get(name, 0) > 0]

    @property
    def parts(self) -> list[str]:
        """What is computed: the pixel loss, unless it has weight 0, and the instance terms."""
        return ["pixel", *self.terms] if self.weights["pixel"] > 0 else self.terms

    @property
    def needs_ids(self) -> bool:
        """Whether a term needs instance ids."""
        return bool(set(self.terms) - NEED_NO_IDS)

    @property
    def sampling_power(self) -> float | None:
        """The power of the volume by which instances are drawn, None where voxels are."""
        return {"voxel": None, "instance": 0.0}.get(self.sampling, self.sampling)

    def channels(self, labels: Mapping[str, Any], has_regions: bool) -> list[int]:
        """The output channels of the classes that get the instance terms.

        Args:
            labels: the labels of dataset.json, by name.
            has_regions: whether the labels are regions; their channels then start at 0 instead of 1.

        Raises:
            UserError: a class that dataset.json does not know.
        """
        foreground = [name for name in labels if name not in ("background", "ignore")]
        named = [self.classes] if isinstance(self.classes, str) else list(self.classes)
        chosen = foreground if self.classes == "all" else named
        unknown = sorted(set(chosen) - set(foreground))
        if unknown:
            raise UserError(
                f"setting 'classes' names {unknown[0]!r}: the classes of dataset.json are {', '.join(foreground)}"
            )
        if has_regions:
            return [channel for channel, name in enumerate(foreground) if name in chosen]
        # nnU-Net also takes a list of one label for a label, and digits for a number.
        values = [labels[name] for name in chosen]
        return sorted({int(value[0] if isinstance(value, (list, tuple)) else value) for value in values})
