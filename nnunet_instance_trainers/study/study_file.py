"""STUDY.yaml: which arms are trained on which data with which seeds, and how they are scored; read and checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from nnunet_instance_trainers.configuration.checks import is_number, is_positive_int, is_seed, one_of
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.study.nnunet_folders import dataset_name, folder, labelled_folders

__all__ = ["ALL", "Arm", "Study", "read_study"]

ALL = "all"
"""nnU-Net's fold that trains on all training cases; the one of a study with test folders."""

_NAME = re.compile(r"[A-Za-z0-9]+(?:[-_.]?[A-Za-z0-9]+)*")
_EVALUATION: dict[str, tuple[Callable[[Any], bool], str]] = {
    "match": (one_of("overlap", "iou", "dice", "greedy", "share"), "overlap, iou, dice, greedy or share"),
    "threshold": (lambda v: is_number(v) and 0 < v <= 1, "a number above 0 and at most 1"),
    "connectivity": (one_of(6, 18, 26), "6, 18 or 26"),
    "minimum_ml": (lambda v: is_number(v) and v >= 0, "a number of mL, 0 or more"),
    "bins_ml": (
        lambda v: isinstance(v, list) and bool(v) and all(map(is_number, v)) and v[0] > 0 and v == sorted(set(v)),
        "positive and ascending numbers of mL",
    ),
    "instances": (lambda v: isinstance(v, bool), "true or false"),
}


@dataclass(frozen=True)
class Arm:
    """One of the things that are compared.

    Attributes:
        name: in file names, tables and charts.
        trainer: the name of its class.
        settings: of ``instance_training``, those of all arms included.
    """

    name: str
    trainer: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """A study as its file has it, with full names and paths.

    Attributes:
        file: it was read from.
        dataset: the full name.
        folds: of the cross-validation, or :data:`ALL` alone with test folders.
        test: folders ``images`` and ``labels``, and ``instances`` where there is one; None for cross-validation.
        evaluation: options of ``evaluate``.
        patients: a pattern of the part of a case's name that cases of one patient share; empty where each case is a
            patient.
        output: the result folder.
    """

    file: Path
    dataset: str
    configuration: str
    seeds: tuple[int, ...]
    arms: tuple[Arm, ...]
    reference: str
    folds: tuple[int | str, ...]
    output: Path
    test: dict[str, Path] | None = None
    plans: str = "nnUNetPlans"
    device: str = "cuda"
    threads: int = 1
    memory_gb: float = 8
    hours: float = 24
    partition: str = ""
    gres: str = ""
    evaluation: dict[str, Any] = field(default_factory=dict)
    patients: str = ""
    challenges: tuple[str, ...] = ()
    ensemble: bool = False

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)

    @property
    def raw(self) -> Path:
        return folder("nnUNet_raw") / self.dataset

    @property
    def preprocessed(self) -> Path:
        return folder("nnUNet_preprocessed") / self.dataset

    @property
    def results(self) -> Path:
        return folder("nnUNet_results") / self.dataset

    @property
    def instances(self) -> Path | None:
        """The annotators' maps of the cases that are scored; None where there are none or they shall not be used."""
        folder = self.raw / ("instancesTs" if self.test else "instancesTr")
        return folder if self.evaluation.get("instances", True) and folder.is_dir() else None


def read_study(file: Path) -> Study:
    """Read and check the file; trainers and their settings are checked later, by ``check_arms``.

    Raises:
        UserError: the first thing that is wrong with it, in one line.
    """
    content = _read_yaml(file)
    where = str(file)
    allowed = {f.name for f in fields(Study)} - {"file"} | {"settings"}
    _check_keys(content, allowed, where)
    missing = [key for key in ("dataset", "configuration", "seeds", "arms", "reference") if key not in content]
    if missing:
        raise UserError(f"{where} lacks {missing[0]!r}: see 'nnunet-instance study --example'")
    if ("folds" in content) == ("test" in content):
        raise UserError(f"{where} must have either 'folds' or 'test': cross-validation, or the official split")
    seeds = _several(content["seeds"], is_seed, "seeds", "whole numbers of 0 or more", where)
    folds: tuple[int | str, ...] = (ALL,)
    if "folds" in content:
        folds = _several(content["folds"], is_seed, "folds", "numbers of folds", where)
    arms = _arms(content, where)
    if content["reference"] not in [arm.name for arm in arms]:
        raise UserError(
            f"reference {content['reference']!r} in {where} is no arm: the arms are {', '.join(a.name for a in arms)}"
        )
    dataset = dataset_name(content["dataset"], where)
    output = Path(content.get("output") or file.parent / file.stem)
    study = Study(
        file=file.resolve(),
        dataset=dataset,
        seeds=seeds,
        folds=folds,
        arms=arms,
        test=labelled_folders(content["test"], dataset, where) if "test" in content else None,
        evaluation=_evaluation(content.get("evaluation") or {}, where),
        challenges=_challenges(content.get("challenges") or [], where),
        output=(output if output.is_absolute() else file.parent / output).resolve(),
        **_simple(content, where),
    )
    if study.output.is_file():
        raise UserError(f"output {study.output} in {where} is a file: name a folder")
    return study


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError:
        raise UserError("studies need PyYAML: pip install 'nnunet-instance-trainers[study]'") from None
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(
            f"cannot read {file} ({error.strerror}): write one, 'nnunet-instance study --example' prints a start"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is no YAML ({' '.join(str(error).split())}): correct it") from None
    if not isinstance(content, dict):
        raise UserError(f"{file} has no keys: see 'nnunet-instance study --example'")
    return content


def _check_keys(content: Mapping[Any, Any], allowed: Sequence[str] | set[str], where: str) -> None:
    unknown = [key for key in content if key not in allowed]
    if unknown:
        raise UserError(f"unknown key {unknown[0]!r} in {where}: allowed are {', '.join(sorted(allowed))}")


def _several(value: Any, check: Callable[[Any], bool], key: str, allowed: str, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list) or not value or not all(map(check, value)):
        raise UserError(f"{key!r} in {where} must be a list of {allowed}, got {value!r}")
    if len(set(value)) < len(value):
        raise UserError(f"{key!r} in {where} has {next(v for v in value if value.count(v) > 1)!r} twice")
    return tuple(value)


def _arms(content: Mapping[str, Any], where: str) -> tuple[Arm, ...]:
    common, entries = content.get("settings") or {}, content["arms"]
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"'arms' in {where} must be a list of name, trainer and settings, got {entries!r}")
    arms = []
    for entry in entries:
        place = f"arm {entry.get('name')!r} in {where}"
        _check_keys(entry, ("name", "trainer", "settings"), place)
        if not isinstance(entry.get("name"), str) or not _NAME.fullmatch(entry["name"]):
            raise UserError(f"{place} needs a name of letters and digits, with single '-', '_' or '.' between them")
        if not isinstance(entry.get("trainer"), str):
            raise UserError(f"{place} needs the name of a trainer; 'nnunet-instance trainers' lists this package's")
        own = entry.get("settings") or {}
        for settings, of in ((common, where), (own, place)):
            if not isinstance(settings, dict):
                raise UserError(f"'settings' of {of} must be keys and values, got {settings!r}")
            if "seed" in settings:
                raise UserError(f"'settings' of {of} has a seed: list seeds under 'seeds'")
        arms.append(Arm(entry["name"], entry["trainer"], _merged(common, own)))
    names = [arm.name for arm in arms]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"two arms in {where} are called {twice!r}: give each a name of its own")
    return tuple(arms)


def _merged(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """An arm's settings over those of all; weights are merged one by one."""
    merged = {**common, **own}
    if isinstance(common.get("weights"), dict) and isinstance(own.get("weights"), dict):
        merged["weights"] = {**common["weights"], **own["weights"]}
    return merged


def _simple(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values that need no more than a look."""

    def is_text(value: Any) -> bool:
        return isinstance(value, str) and bool(value)

    checks: dict[str, tuple[Callable[[Any], bool], str]] = {
        "configuration": (is_text, "a name such as 3d_fullres"),
        "reference": (is_text, "the name of an arm"),
        "plans": (lambda v: is_text(v) and "__" not in v and Path(v).name == v, "the name of a plans file, no path"),
        "device": (one_of("cuda", "cpu", "mps"), "cuda, cpu or mps"),
        "threads": (is_positive_int, "a whole number of 1 or more"),
        "memory_gb": (lambda v: is_number(v) and v > 0, "a number above 0"),
        "hours": (lambda v: is_number(v) and v > 0, "a number above 0"),
        "partition": (is_text, "a partition's name"),
        "gres": (is_text, "as in gpu:1"),
        "ensemble": (lambda v: isinstance(v, bool), "true or false"),
        "patients": (_is_pattern, "a regular expression"),
    }
    for key, (check, allowed) in checks.items():
        if key in content and not check(content[key]):
            raise UserError(f"{key!r} in {where} must be {allowed}, got {content[key]!r}")
    return {key: content[key] for key in checks if key in content}


def _is_pattern(value: Any) -> bool:
    try:
        re.compile(value)
    except (re.error, TypeError):
        return False
    return bool(value)


def _evaluation(options: Any, where: str) -> dict[str, Any]:
    if not isinstance(options, dict):
        raise UserError(f"'evaluation' in {where} must be keys and values, got {options!r}")
    _check_keys(options, list(_EVALUATION), f"'evaluation' of {where}")
    for key, value in options.items():
        check, allowed = _EVALUATION[key]
        if not check(value):
            raise UserError(f"{key!r} in 'evaluation' of {where} must be {allowed}, got {value!r}")
    return options


def _challenges(names: Any, where: str) -> tuple[str, ...]:
    if not names:
        return ()
    from nnunet_instance_trainers.evaluation.challenges.declarations import find_challenge

    chosen = _several(names, lambda v: isinstance(v, str), "challenges", "names", where)
    for name in chosen:
        find_challenge(name)
    return chosen
