"""The jobs that score predictions: evaluate, challenge, ensemble."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_instance_trainers.ensemble_fitting.cross_validation import Models
from nnunet_instance_trainers.ensemble_fitting.folder_fit import fit_ensemble
from nnunet_instance_trainers.evaluation.challenges.declarations import find_challenge
from nnunet_instance_trainers.evaluation.challenges.folder_challenge import score_folder
from nnunet_instance_trainers.evaluation.detection import Rule
from nnunet_instance_trainers.evaluation.scoring.folder_scores import BINS_ML
from nnunet_instance_trainers.evaluation.scoring.folder_scores import evaluate as evaluate_folder
from nnunet_instance_trainers.study.job_plan import Training, ground_truth
from nnunet_instance_trainers.study.study_file import Study

__all__ = ["challenge", "ensemble", "evaluate"]


def evaluate(study: Study, plan: Any, job: Any, threads: int) -> dict[str, Any]:
    """``nnunet-instance evaluate`` with the options of the study."""
    training, options = Training(**job["training"]), study.evaluation
    evaluate_folder(
        training.predictions(study),
        ground_truth(study),
        training.scores(study),
        instances=study.instances,
        rule=Rule.of(study.evaluation),
        bins_ml=options.get("bins_ml", BINS_ML),
        dataset_json=study.raw / "dataset.json",
        subset=study.test is None,
        n_processes=threads,
    )
    return {"training": job["training"], "scores": str(training.scores(study))}


def challenge(study: Study, plan: Any, job: Any, threads: int) -> dict[str, Any]:
    """``nnunet-instance challenge``."""
    training, name = Training(**job["training"]), job["challenge"]
    result = score_folder(
        name,
        training.predictions(study),
        ground_truth(study),
        training.challenge(study, name),
        instances=study.instances if find_challenge(name).maps else None,
        dataset_json=study.raw / "dataset.json",
        subset=study.test is None,
        n_processes=threads,
    )
    official = {region: own["official"] for region, own in result.summary["regions"].items()}
    return {"training": job["training"], "challenge": name, "official": official}


def ensemble(study: Study, plan: Any, job: Any, threads: int) -> dict[str, Any]:
    """``nnunet-instance fit-ensemble`` over the arms of one seed, with its estimate on held-out cases."""
    seed = job["seed"]
    trainings = [Training(**own["training"]) for own in plan["jobs"]["predict"].values()]
    folders = {
        (training.arm, training.fold): training.predictions(study) for training in trainings if training.seed == seed
    }
    models = _Arms(
        dataset=study.dataset,
        configuration=study.configuration,
        plans=study.plans,
        trainers=tuple(arm.name for arm in study.arms),
        folds=study.folds,
        truth=ground_truth(study),
        predictions=folders,
    )
    output = study.output / "ensembles" / f"seed{seed}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    fitted = fit_ensemble(
        models, output, instances=study.instances, rule=Rule.of(study.evaluation), n_processes=threads
    )
    return {"seed": seed, "file": str(output), "members": fitted.plan.models, "fit": fitted.plan.fit}


@dataclass(frozen=True)
class _Arms(Models):
    """The arms of one seed in place of trainers, whose predictions lie where the study has put them."""

    truth: Path = Path()
    predictions: dict[tuple[str, int | str], Path] = field(default_factory=dict)

    def validation(self, trainer: str, fold: int | str) -> Path:
        return self.predictions[trainer, fold]

    def previous_stage(self, trainer: str) -> str | None:
        return None

    @property
    def ground_truth(self) -> Path:
        return self.truth
