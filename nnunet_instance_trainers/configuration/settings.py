"""The settings of one training: the fields filled from a trainer and its plans, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from nnunet_instance_trainers.configuration.fields import SettingFields
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.losses.named_terms import NEED_NO_IDS, TERMS

__all__ = ["PLANS_KEY", "Settings"]

PLANS_KEY = "instance_training"


@dataclass(frozen=True)
class Settings(SettingFields):
    """The settings of one training; the fields are those of :class:`SettingFields`."""

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

    def weights_in(self, epoch: int) -> dict[str, float]:
        """The effective weights in an epoch, counted from 0, after ``warm_up``."""
        risen = {name: min(epoch / epochs, 1.0) for name, epochs in self.warm_up.items()}
        return {name: weight * risen.get(name, 1.0) for name, weight in self.effective_weights.items()}

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
