"""What a fit found, for the screen: estimates, the answer, and the commands for new images; and the figure of sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nnunet_instance_trainers.data.map_store import write_atomically
from nnunet_instance_trainers.data.text_tables import aligned
from nnunet_instance_trainers.ensemble_fitting.choice_counts import Choice, outcome_of
from nnunet_instance_trainers.ensemble_fitting.cross_validation import Models
from nnunet_instance_trainers.ensemble_fitting.folder_fit import Fitted
from nnunet_instance_trainers.ensemble_fitting.score_intervals import Estimate
from nnunet_instance_trainers.ensembling.ensemble_plan import EnsemblePlan
from nnunet_instance_trainers.evaluation.charts import ObjectCounts, objects_by_size
from nnunet_instance_trainers.evaluation.counts import Counts
from nnunet_instance_trainers.evaluation.scoring.folder_scores import BINS_ML
from nnunet_instance_trainers.evaluation.scoring.result_files import bin_names

__all__ = ["commands", "counts_by_size", "draw_sizes", "format_fit"]

_REFUSED = {
    "bins": "an ensemble",
    "more bins": "more than two bins",
    "hysteresis": "hysteresis",
    "minimum volume": "a minimum volume",
}


def format_fit(fitted: Fitted) -> str:
    """The estimates, a line each, and the answer."""
    found = fitted.fit
    rows = [("on cases that were not fitted to", fitted.score, "95 %", "gain", "95 %", "f1_iou50", "volume_ratio")]
    rows += [(estimate.name, *_cells(estimate)) for estimate in found.models]
    for parts, estimate in found.procedures.items():
        rows.append((f"  + {' + '.join(parts)}" if parts else "best single model", *_cells(estimate)))
    rows.append(("this fit, its choice included", *_cells(found.whole)))
    return "\n".join([aligned(rows), "", *_answer(fitted)])


def _cells(estimate: Estimate) -> tuple[str, ...]:
    return (
        f"{estimate.score:.3f}",
        _interval(estimate.interval, ".3f"),
        f"{estimate.gain:+.3f}",
        _interval(estimate.gain_interval, "+.3f"),
        f"{estimate.counts.f1_iou50:.3f}",
        f"{estimate.counts.volume_ratio:.2f}",
    )


def _interval(bounds: tuple[float, float], form: str) -> str:
    low, high = bounds
    return "-" if np.isnan(low) else f"{low:{form}} to {high:{form}}"


def _answer(fitted: Fitted) -> list[str]:
    plan, parts = fitted.plan, fitted.fit.parts
    what = f"an ensemble{', with --rescue' if plan.rescue else ''}"
    if len(plan.models) == 1:
        what = f"one model, {plan.models[0]}"
    more = " and ".join(part for part in parts if "bins" not in part)
    lines = [f"Answer: {what}{f', with {more}' if more else ''}."]
    if not fitted.fit.tells:
        lines = [
            f"Answer: too few cases to tell. With a group of cases set aside {fitted.fit.left} are left; with fewer "
            f"than {fitted.fit.needed} even a gain in every case may be chance. Until then: {what}."
        ]
    if fitted.unsaved:
        missing, first = len(fitted.unsaved), fitted.unsaved[0]
        whole = len(fitted.cases) * len(fitted.models.trainers)
        lines.append(
            f"Hysteresis was not tried: {missing} of {whole} .npz {'is' if missing == 1 else 'are'} missing "
            f"({first.name} in {first.parent}); '--val --npz' of 'train' writes them."
        )
    refused = [_REFUSED[part] for part in fitted.space.parts if part not in parts]
    if "bins" not in parts and "more bins" in fitted.space.parts:
        refused.remove(_REFUSED["more bins"])
    if refused and fitted.fit.tells:
        lines.append(f"Not taken, as no gain on held-out cases exceeds chance: {', '.join(refused)}.")
    for key, name in zip(fitted.keys, fitted.names) if parts else ():
        ranges = ", ".join(
            f"{m.name}:{m.low_ml:g}-{'' if m.high_ml == np.inf else f'{m.high_ml:g}'}" for m in plan.members[key]
        )
        pair, volume = plan.hysteresis.get(key), plan.min_volume_ml.get(key, 0)
        more = f"; p > {pair[0]:g} with a peak above {pair[1]:g}" if pair else ""
        lines.append(f"  {name}: {ranges} mL{more}{f'; at least {volume:g} mL' if volume else ''}")
    return lines


def commands(models: Models, plan: EnsemblePlan, file: Path) -> list[str]:
    """What to type for new images; ``INPUT_FOLDER`` and ``OUTPUT_FOLDER`` are for the user to fill in."""
    lines = ['export nnUNet_extTrainer="$(nnunet-instance path)"']
    probabilities = " --save_probabilities" if any(plan.hysteresis.values()) else ""
    for trainer in plan.models:
        previous, stage = "", models.previous_stage(trainer)
        if stage is not None:
            lines.append(_predict(models, trainer, stage, f"OUTPUT_FOLDER_{trainer}_PREV_STAGE"))
            previous = f" -prev_stage_predictions OUTPUT_FOLDER_{trainer}_PREV_STAGE"
        lines.append(
            _predict(models, trainer, models.configuration, f"OUTPUT_FOLDER_{trainer}") + previous + probabilities
        )
    named = " ".join(f"{trainer}=OUTPUT_FOLDER_{trainer}" for trainer in plan.models)
    return [*lines, f"nnunet-instance ensemble --config {file} --predictions {named} -o OUTPUT_FOLDER"]


def _predict(models: Models, trainer: str, configuration: str, output: str) -> str:
    folds = " ".join(map(str, models.folds))
    return (
        f"nnUNetv2_predict -d {models.dataset} -i INPUT_FOLDER -o {output} -f {folds} -tr {trainer} "
        f"-c {configuration} -p {models.plans}"
    )


def counts_by_size(fitted: Fitted, c: int, edges_ml: Sequence[float]) -> dict[str, list[Counts]]:
    """Counts of a class in bins of size, of each model and of the answer.

    The answer's cases are each scored with the choices that were fitted without them.
    """
    n = len(fitted.models.trainers)
    choices = {name: [Choice((m,))] * len(fitted.cases) for m, name in zip(range(n), fitted.models.trainers)}
    choices["this fit"] = [choices[c] for choices in fitted.fit.held_out]
    return {
        name: [
            sum(column, Counts())
            for column in zip(
                *(
                    outcome_of(case[c], choice, fitted.rule).counts_by_size(np.array(edges_ml))
                    for case, choice in zip(fitted.lists, of_cases)
                )
            )
        ]
        for name, of_cases in choices.items()
    }


def draw_sizes(fitted: Fitted, file: Path, edges_ml: Sequence[float] = BINS_ML) -> None:
    """Found, missed and false objects of all classes by size, a panel per model and for the answer."""
    of_classes = [counts_by_size(fitted, c, edges_ml) for c in range(len(fitted.keys))]
    sizes, notes = {}, {}
    for name in of_classes[0]:
        by_size = [sum(parts, Counts()) for parts in zip(*(own[name] for own in of_classes))]
        numbers = {state: np.array([getattr(one, state) for one in by_size]) for state in ("found", "missed", "false")}
        sizes[name] = ObjectCounts(**numbers)
        total = sum(by_size, Counts())
        notes[name] = f"volume ratio {total.volume_ratio:.2f} \u00b7 F1 at IoU 0.5 {total.f1_iou50:.2f}"
    with write_atomically(file) as temporary:
        objects_by_size(bin_names(edges_ml), sizes, notes).savefig(temporary, dpi=130)
