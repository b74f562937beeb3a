"""The jobs of a study, and what each hangs on: a file that the workflow and every job read.

A job's stamp, the file that says that it is done, has a digest of all that its result depends on in its name. So what
has to be done again is decided by content: a changed arm has other digests, and nobody looks at times of files.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nnunet_instance_trainers.configuration import PLANS_KEY
from nnunet_instance_trainers.data.map_store import digest, write_atomically
from nnunet_instance_trainers.data.text_files import read_json
from nnunet_instance_trainers.study.study_file import ALL, Arm, Study

__all__ = [
    "Training",
    "ground_truth",
    "invalid_stamps",
    "make_plan",
    "plan_preparation",
    "plans_copy",
    "read_plan",
    "same_plans",
    "write_plan",
]

_OWN_KEY = "continue_training"  # nnU-Net writes it into plans when it makes a trainer


@dataclass(frozen=True)
class Training:
    """One training: an arm with a seed in a fold.

    Attributes:
        plans: the name of its copy of the plans.
        takes_settings: whether its trainer reads settings, the seed among them.
    """

    arm: str
    trainer: str
    seed: int
    fold: int | str
    plans: str
    takes_settings: bool

    def folder(self, study: Study) -> Path:
        """nnU-Net's folder of this fold."""
        return study.results / f"{self.trainer}__{self.plans}__{study.configuration}" / f"fold_{self.fold}"

    def predictions(self, study: Study) -> Path:
        """The predictions that are scored."""
        if study.test is None:
            return self.folder(study) / "validation"
        return study.output / "predictions" / self.arm / f"seed{self.seed}"

    def scores(self, study: Study) -> Path:
        """What ``evaluate`` makes of them."""
        return study.output / "scores" / self.arm / f"seed{self.seed}" / f"fold_{self.fold}"

    def challenge(self, study: Study, name: str) -> Path:
        """What ``challenge`` makes of them."""
        return study.output / "challenges" / name / self.arm / f"seed{self.seed}" / f"fold_{self.fold}"


def ground_truth(study: Study) -> Path:
    """The labels that predictions are held against."""
    return study.test["labels"] if study.test else study.preprocessed / "gt_segmentations"


# --- plans -------------------------------------------------------------------------------------------------


def plans_copy(study: Study, base: Mapping[str, Any], arm: Arm, seed: int, takes_settings: bool) -> dict[str, Any]:
    """The base plans with the settings and the seed of one arm, under a name of its own.

    The name has no double underscore, at which nnU-Net splits names of folders.
    """
    plans = deepcopy(dict(base))
    plans.pop(_OWN_KEY, None)
    plans["plans_name"] = f"{study.plans}-{arm.name}-seed{seed}"
    if takes_settings:
        configuration = plans["configurations"][study.configuration]
        configuration[PLANS_KEY] = {**configuration.get(PLANS_KEY, {}), **arm.settings, "seed": seed}
    return plans


def same_plans(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two plans say the same, but for what nnU-Net notes in them when it makes a trainer."""
    return {**one, _OWN_KEY: None} == {**other, _OWN_KEY: None}


# --- jobs --------------------------------------------------------------------------------------------------


def plan_preparation(study: Study) -> dict[str, Any]:
    """The plan of what comes before all trainings: planning, preprocessing, instance maps and folds."""
    dataset = read_json(study.raw / "dataset.json", "restore it")
    labels = sorted(path.name for path in (study.raw / "labelsTr").glob("*"))
    sampled = any(arm.settings.get("sampling", "voxel") != "voxel" for arm in study.arms)
    carried = any(arm.settings.get("source") == "precomputed" for arm in study.arms)
    maps = sampled or carried or (study.raw / "instancesTr").is_dir()
    job = {"needs": [], "maps": maps, "product": str(study.preprocessed / "dataset.json")}
    name = _digest([dataset, labels, study.dataset, study.plans, study.configuration, maps, study.folds == (ALL,)])
    return _plan(study, {"prepare": {name: job}}, [f"jobs/prepare/{name}.json"])


def make_plan(study: Study, base: Mapping[str, Any], takes_settings: Mapping[str, bool]) -> dict[str, Any]:
    """The plan of everything.

    Args:
        study: what is to be done.
        base: the base plans.
        takes_settings: by arm, whether its trainer does.
    """
    plan = plan_preparation(study)
    prepared, jobs = plan["targets"], plan["jobs"]
    dataset = read_json(study.preprocessed / "dataset.json", "preprocess the dataset again")
    splits = [] if study.test else read_json(study.preprocessed / "splits_final.json", "restore or delete it", list)
    truth = sorted(path.name for path in ground_truth(study).glob("*"))
    images = sorted(path.name for path in study.test["images"].glob("*")) if study.test else []
    jobs.update({kind: {} for kind in ("train", "predict", "evaluate", "challenge", "ensemble", "results")})

    def add(kind: str, name: str, needs: Sequence[str], content: Any, **more: Any) -> str:
        full = f"{name}-{_digest([content, [Path(need).stem for need in needs]])}"
        jobs[kind][full] = {"needs": list(needs), **more}
        return f"jobs/{kind}/{full}.json"

    finished, by_seed = [], {}
    for seed in study.seeds:
        predicted = []
        for arm in study.arms:
            takes = takes_settings[arm.name]
            plans = plans_copy(study, base, arm, seed, takes)
            for fold in study.folds:
                training = Training(arm.name, arm.trainer, seed, fold, plans["plans_name"], takes)
                name, own = f"{arm.name}-seed{seed}-fold_{fold}", {"training": asdict(training)}
                cases = None if fold == ALL else splits[int(fold)]
                trained = add("train", name, prepared, [arm.trainer, plans, dataset, cases], **own)
                checkpoint = training.folder(study) / "checkpoint_final.pth"
                jobs["train"][Path(trained).stem].update(plans=plans, product=str(checkpoint))
                done = add(
                    "predict", name, [trained], [images, study.ensemble], **own, product=training.predictions(study)
                )
                predicted.append(done)
                options = [study.evaluation, study.instances is not None, truth]
                finished.append(add("evaluate", name, [done], options, **own, product=training.scores(study)))
                finished += [
                    add("challenge", f"{challenge}-{name}", [done], options, **own, challenge=challenge)
                    for challenge in study.challenges
                ]
        by_seed[seed] = predicted
    if study.ensemble:
        for seed, predicted in by_seed.items():
            finished.append(add("ensemble", f"seed{seed}", predicted, study.evaluation, seed=seed))
    options = [study.reference, study.patients, [arm.name for arm in study.arms]]
    target = add("results", "results", finished, options, product=study.output / "report.html")
    return {**plan, "targets": [target]}


def _plan(study: Study, jobs: dict[str, Any], targets: list[str]) -> dict[str, Any]:
    content = json.loads(json.dumps(asdict(study), default=str))
    return {"study": content, "python": sys.executable, "jobs": jobs, "targets": targets}


def _digest(content: Any) -> str:
    return digest(json.dumps(content, sort_keys=True, default=str).encode())[:12]


def write_plan(plan: Mapping[str, Any], file: Path) -> None:
    with write_atomically(file) as temporary:
        temporary.write_text(json.dumps(plan, indent=1, default=str), encoding="utf-8")


def read_plan(file: Path) -> tuple[Study, dict[str, Any]]:
    """The study and its plan, as a job reads them."""
    plan = read_json(file, "run 'nnunet-instance study' again")
    content = plan["study"]
    test = content["test"] and {key: Path(folder) for key, folder in content["test"].items()}
    paths = {key: Path(content[key]) for key in ("file", "output")}
    lists = {key: tuple(content[key]) for key in ("seeds", "folds", "challenges")}
    arms = tuple(Arm(**arm) for arm in content["arms"])
    return replace(Study(**content), test=test, arms=arms, **paths, **lists), plan


def invalid_stamps(plan: Mapping[str, Any], folder: Path) -> list[Path]:
    """Stamps of jobs whose result was removed since; a checkpoint is missed only where it is still to predict."""
    gone = []
    for kind, jobs in plan["jobs"].items():
        for name, job in jobs.items():
            stamp = folder / "jobs" / kind / f"{name}.json"
            if not stamp.is_file() or "product" not in job or Path(job["product"]).exists():
                continue
            predicted = kind == "train" and any(
                (folder / "jobs" / "predict" / f"{other}.json").is_file() and Path(later["product"]).exists()
                for other, later in plan["jobs"]["predict"].items()
                if f"jobs/train/{name}.json" in later["needs"]
            )
            if not predicted:
                gone.append(stamp)
    return gone
