from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import pytest
import torch

from nnunet_instance_trainers.configuration import Settings
from nnunet_instance_trainers.errors import UserError

WHERE = "configuration '2d' of plans 'MyPlans'"

# Per setting: what is allowed, in the words of the message; values to accept; values to refuse.
SETTINGS: dict[str, tuple[str, list[Any], list[Any]]] = {
    "weights": (
        "numbers >= 0 for pixel, blob, instance_target, ",
        [{}, {"blob": 0}, {"pixel": 2, "blob": 0.5}],
        [{"bolb": 1}, {"blob": -1}, {"blob": "1"}, {"blob": None}, {"blob": True}, {"blob": float("nan")}, 1, ["blob"]],
    ),
    "pixel_loss": (
        "'nnunet', 'nnunet_dice', 'nnunet_ce' or a criterion",
        ["nnunet", "nnunet_dice", "nnunet_ce", "dice", "generalized_dice+focal", {"focal": {"gamma": 1}}],
        ["nnUNet", "", None, 1, [], {"focal": {"beta": 1}}, {"focal": {"gamma": -1}}],
    ),
    "scale": ("'published' or 'unit'", ["published", "unit"], ["Unit", "", None, 1]),
    "criterion": (
        "a criterion (dice, tversky, adaptive_tversky, bce, balanced_bce, focal, generalized_dice, asl)",
        ["dice", "dice+bce", {"tversky": {"alpha": 0.2, "beta": 0.8}}, {"asl": {}, "bce": {}}],
        ["dise", "dice+", "nnunet", "", None, 1, [], ["dice"], {}, {"tversky": {"gamma": 1}}, {"dice": None}],
    ),
    "missed": ("'constant' or 'soft'", ["constant", "soft"], ["hard", None, True]),
    "exclude_other_targets": ("true or false", [True, False], [1, 0, None, "true"]),
    "surrogate_weight": ("a number >= 0", [0, 0.1, 1], [-1, "1", None, True, float("inf")]),
    "center_width": (
        "an odd number, or a list of one per axis",
        [1, 7, [3, 7, 7], (5, 5)],
        [0, 2, -7, 7.0, None, True, [], [3, 4], "7"],
    ),
    "proximity_form": ("'mean' or 'mse'", ["mean", "mse"], ["MSE", None]),
    "components_from": ("null, 'argmax' or 'threshold'", [None, "argmax", "threshold"], ["softmax", 0.5]),
    "k_percent": ("a number above 0 and up to 100", [1, 30, 100, 0.5], [0, 101, -1, "50", None, True]),
    "weighted_criterion": ("one of bce, focal, dice, asl", ["bce", "focal", "dice", "asl"], ["tversky", None]),
    "max_weight": ("null or a number > 0", [None, 1, 100.0], [0, -1, "1", True]),
    "cell_criterion": (
        "a criterion (dice, tversky, adaptive_tversky, bce, balanced_bce, focal, generalized_dice, asl)",
        ["dice+bce", "balanced_bce+dice", {"dice": {"smooth": 0}, "bce": {}}],
        ["dise", "nnunet", None, {"balanced_bce": {"alpha": 1}}],
    ),
    "empty_cell": ("'mass' or 'criterion'", ["mass", "criterion"], ["dice", None, True]),
    "without_instance": ("'skip' or 'whole'", ["skip", "whole"], ["zero", None, True]),
    "cell_size_power": ("a number", [0, 0.5, -1], ["0", None, True, float("nan")]),
    "cell_grid": ("'full' or 'half'", ["full", "half"], ["quarter", None, 2]),
    "component_gamma": ("a number >= 0", [0, 1, 0.5], [-1, "1", None, True]),
    "size_offset": ("a number >= 0", [0, 5, 0.5], [-1, "1", None, True]),
    "background_weight": ("a number >= 0", [0, 1, 0.01], [-1, "1", None, True]),
    "warm_up": (
        "whole numbers >= 1 for blob, instance_target, ",
        [{}, {"component_tversky": 50, "blob": 1}],
        [{"pixel": 5}, {"blob": 0}, {"blob": 1.5}, {"bolb": 1}, {"blob": True}, 50, None],
    ),
    "source": ("null, 'patch' or 'precomputed'", [None, "patch", "precomputed"], ["none", "", 0, False, ["patch"]]),
    "sampling": (
        "'voxel', 'instance' or a number from 0 to 1",
        ["voxel", "instance", 0, 0.5, 1],
        ["Voxel", "", None, True, -0.5, 1.5, float("nan"), "0.5", ["voxel"]],
    ),
    "scales": ("'all' or a whole number >= 1", ["all", 1, 3], ["first", 0, -1, 1.0, True, None, [1]]),
    "classes": ("'all', a name", ["all", "a", ["a"], ("b", "a")], [[], [1], None, 1, {"a": 1}]),
    "checkpoint_metric": ("'dice', 'f1' or 'mean'", ["dice", "f1", "mean"], ["Dice", None, "", 1, ["f1"]]),
    "num_epochs": ("null or a whole number >= 1", [None, 1, 250], [0, -1, 2.0, "5", True]),
    "num_iterations_per_epoch": ("null or a whole number >= 1", [None, 1], [0, -1, 2.0, "5", True]),
    "num_val_iterations_per_epoch": ("null or a whole number >= 1", [None, 1], [0, -1, 2.0, "5", True]),
    "initial_lr": ("null or a number > 0", [None, 1, 1e-3], [0, -0.1, "0.01", True, float("nan"), 10**400]),
    "seed": ("null or a whole number >= 0", [None, 0, 7], [-1, 1.0, "0", True]),
}
GOOD = [(name, value) for name, (_, good, _) in SETTINGS.items() for value in good]
BAD = [(name, allowed, value) for name, (allowed, _, bad) in SETTINGS.items() for value in bad]


class Trainer:
    """Settings of a trainer, with an attribute that is none."""

    weights = {"pixel": 2.0, "blob": 1.0}
    criterion = "tversky"
    num_epochs = 7
    batch_size = 3


def resolve(overrides: Any, trainer: type = object) -> Settings:
    return Settings.resolve(trainer, overrides, where=WHERE)


def check(overrides: dict, has_regions: bool = False) -> None:
    resolve(overrides).check_for_training(has_regions=has_regions, dim=3, where=WHERE)


def test_the_table_above_knows_every_setting() -> None:
    assert list(SETTINGS) == [setting.name for setting in fields(Settings)]


# --- three layers -----------------------------------------------------------------------------------------


def test_without_a_word_the_defaults_hold() -> None:
    assert resolve({}) == Settings()
    assert resolve({}).weights == {"pixel": 1.0}


def test_a_trainers_attributes_replace_defaults_and_plans_replace_both() -> None:
    of_trainer, of_plans = resolve({}, Trainer), resolve({"num_epochs": 9, "seed": 1}, Trainer)
    assert (Settings().num_epochs, of_trainer.num_epochs, of_plans.num_epochs) == (None, 7, 9)
    assert (Settings().criterion, of_trainer.criterion, of_plans.criterion) == ("dice", "tversky", "tversky")
    assert (Settings().seed, of_trainer.seed, of_plans.seed) == (None, None, 1)


def test_a_subclass_inherits_settings() -> None:
    class Longer(Trainer):
        num_epochs = 70

    assert (resolve({}, Longer).num_epochs, resolve({}, Longer).criterion) == (70, "tversky")


@pytest.mark.parametrize(
    "overrides, expected",
    [({}, (2.0, 1.0)), ({"blob": 0.5}, (2.0, 0.5)), ({"pixel": 3}, (3, 1.0)), ({"pixel": 4, "blob": 0}, (4, 0))],
)
def test_weights_merge_by_name(overrides: dict, expected: tuple[float, float]) -> None:
    weights = resolve({"weights": overrides}, Trainer).weights
    assert (weights["pixel"], weights["blob"]) == expected
    assert Trainer.weights == {"pixel": 2.0, "blob": 1.0}


def test_a_trainers_weights_merge_with_the_defaults() -> None:
    class Short(Trainer):
        weights = {"blob": 1.0}

    assert resolve({}, Short).weights == {"pixel": 1.0, "blob": 1.0}


# --- checks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, value", GOOD)
def test_allowed_values_arrive(name: str, value: Any) -> None:
    arrived = getattr(resolve({name: value}), name)
    assert arrived == ({**Settings().weights, **value} if name == "weights" else value)


@pytest.mark.parametrize("name, allowed, value", BAD)
def test_a_bad_value_is_refused_with_what_is_allowed(name: str, allowed: str, value: Any) -> None:
    with pytest.raises(UserError) as info:
        resolve({"num_epochs": 5, name: value}, Trainer)
    message = str(info.value)
    assert message.startswith(f"setting {name!r} in {WHERE} must be {allowed}")
    assert message.endswith(f"got {value!r}")
    assert "\n" not in message


@pytest.mark.parametrize(
    "name, value",
    [
        ("criterion", {"tversky": {"alpha": "0.3"}}),
        ("criterion", {"dice": {"smooth": None}}),
        ("pixel_loss", {"asl": {"beta": [1.5]}}),
        ("weights", {"blob": float("inf")}),
        ("initial_lr", float("inf")),
    ],
)
def test_values_that_no_training_survives_are_refused(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"setting '{name}'"):
        resolve({name: value})


def test_an_unknown_key_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError) as info:
        resolve({"num_epochs": 5, "num_epoch": 5})
    assert str(info.value) == f"unknown setting 'num_epoch' in {WHERE}: allowed are {', '.join(SETTINGS)}"


@pytest.mark.parametrize("overrides", [[], "blob", 3, None])
def test_what_is_no_dictionary_is_refused(overrides: object) -> None:
    with pytest.raises(
        UserError, match=f"'instance_training' in {WHERE} must be a dictionary, got {re.escape(repr(overrides))}"
    ):
        resolve(overrides)


# --- weights ----------------------------------------------------------------------------------------------


def test_unit_scale_divides_by_the_pixel_weight() -> None:
    weights = {"pixel": 4.0, "blob": 1.0}
    assert resolve({"weights": weights}).effective_weights == weights
    unit = resolve({"weights": weights, "scale": "unit"})
    assert unit.effective_weights == {"pixel": 1.0, "blob": 0.25}
    assert unit.weights == weights


def test_weights_warm_up_in_a_straight_line() -> None:
    weights = {"pixel": 2.0, "blob": 1.0, "component_tversky": 0.1}
    settings = resolve({"weights": weights, "warm_up": {"component_tversky": 50}, "scale": "unit"})
    risen = [settings.weights_in(epoch) for epoch in (0, 10, 50, 999)]
    assert [w["component_tversky"] for w in risen] == pytest.approx([0, 0.01, 0.05, 0.05])
    assert all((w["pixel"], w["blob"]) == (1.0, 0.5) for w in risen)


def test_a_pixel_weight_of_zero_has_no_unit() -> None:
    alone = {"weights": {"pixel": 0, "blob": 1}}
    assert resolve(alone).effective_weights == {"pixel": 0, "blob": 1}
    with pytest.raises(UserError, match=f"'scale' in {WHERE} can only be 'unit' with a pixel weight above 0"):
        check({**alone, "scale": "unit"})


@pytest.mark.parametrize(
    "overrides, has_regions, message",
    [
        ({"weights": {"pixel": 0}}, False, "'weights' in .* must give something a weight above 0"),
        ({"components_from": "argmax"}, True, "'components_from' in .* cannot be 'argmax' with regions"),
        ({"center_width": [3, 3]}, False, "'center_width' in .* must be one number or 3, got"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_refused(overrides: dict, has_regions: bool, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(overrides, has_regions)
    check({"center_width": [3, 5, 5], "components_from": "threshold"}, has_regions)


def test_terms_of_weight_zero_are_left_out() -> None:
    assert resolve({}).terms == []
    assert resolve({"weights": {"blob": 1e-9}}).terms == ["blob"]
    assert resolve({}, Trainer).terms == ["blob"]  # the pixel loss is no instance term
    assert resolve({"weights": {"blob": 0}}, Trainer).terms == []


# --- classes ----------------------------------------------------------------------------------------------

LABELS = {"background": 0, "edema": 2, "core": 1, "cyst": 3, "ignore": 4}
LISTS = {"background": 0, "edema": [2], "core": [1], "cyst": 3}
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "cyst": 3, "ignore": 4}


@pytest.mark.parametrize(
    "labels, has_regions, classes, expected",
    [
        (LABELS, False, "all", [1, 2, 3]),
        (LABELS, False, ["cyst", "core"], [1, 3]),
        (LABELS, False, ["core", "cyst"], [1, 3]),
        (LABELS, False, ("edema",), [2]),
        (LISTS, False, "all", [1, 2, 3]),
        (LISTS, False, ["cyst", "edema"], [2, 3]),
        (REGIONS, True, "all", [0, 1, 2]),
        (REGIONS, True, ["cyst", "whole"], [0, 2]),
        (REGIONS, True, ["whole", "cyst"], [0, 2]),
        (REGIONS, True, ["core"], [1]),
    ],
)
def test_channels_of_labels_and_regions(labels: dict, has_regions: bool, classes: Any, expected: list[int]) -> None:
    assert Settings(classes=classes).channels(labels, has_regions) == expected


@pytest.mark.parametrize("labels, has_regions", [(LABELS, False), (REGIONS, True)])
@pytest.mark.parametrize("name", ["Core", "background", "ignore"])
def test_an_unknown_class_is_refused_with_the_known_ones(labels: dict, has_regions: bool, name: str) -> None:
    first = "edema" if labels is LABELS else "whole"
    with pytest.raises(UserError) as info:
        Settings(classes=["core", name]).channels(labels, has_regions)
    known = f"{first}, core, cyst"
    assert str(info.value) == f"setting 'classes' names {name!r}: the classes of dataset.json are {known}"


def test_a_class_named_twice_counts_once() -> None:
    assert Settings(classes=["cyst", "cyst"]).channels(LABELS, False) == [3]


@pytest.mark.nnunet
def test_label_channels_are_those_of_nnunet() -> None:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    manager = LabelManager(LISTS, None)
    for name, label in (("edema", 2), ("core", 1), ("cyst", 3)):
        (channel,) = Settings(classes=[name]).channels(LISTS, manager.has_regions)
        logits = torch.zeros(manager.num_segmentation_heads, 1, 1)
        logits[channel] = 1
        assert manager.convert_logits_to_segmentation(logits).item() == label


@pytest.mark.nnunet
def test_region_channels_are_those_of_nnunet() -> None:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    manager = LabelManager(REGIONS, [1, 2, 3])
    for name, region in (("whole", (1, 2, 3)), ("core", (2, 3)), ("cyst", 3)):
        (channel,) = Settings(classes=[name]).channels(REGIONS, manager.has_regions)
        assert manager.foreground_regions[channel] == region


@pytest.mark.parametrize("sampling, power", [("voxel", None), ("instance", 0), (0, 0), (0.5, 0.5), (1, 1)])
def test_sampling_is_a_power_of_the_volume_or_nnunets_own(sampling: Any, power: float | None) -> None:
    assert resolve({"sampling": sampling}).sampling_power == power
