"""The result folder of a study: tables, report and provenance, of what is there; and a word about what is not."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nnunet_instance_trainers import __version__
from nnunet_instance_trainers.data.map_store import digest, write_atomically
from nnunet_instance_trainers.data.text_files import read_json
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.evaluation.report.page import write_page
from nnunet_instance_trainers.evaluation.scoring.result_files import Evaluation, read_evaluation
from nnunet_instance_trainers.study.arm_comparison import compare_arms, compare_sizes, rising_with_volume
from nnunet_instance_trainers.study.job_plan import Training
from nnunet_instance_trainers.study.jobs import failure_file
from nnunet_instance_trainers.study.result_tables import (
    markdown,
    size_markdown,
    write_comparison_csv,
    write_latex,
    write_sizes_csv,
)
from nnunet_instance_trainers.study.study_file import Study
from nnunet_instance_trainers.study.study_page import study_page
from nnunet_instance_trainers.study.study_rows import Outcomes, rows_of, write_outcomes

__all__ = ["find_missing", "results"]

_PACKAGES = ("nnunetv2", "torch", "numpy", "scipy", "batchgeneratorsv2", "connected-components-3d", "snakemake")
_VERBS = {
    "train": "training",
    "predict": "prediction",
    "evaluate": "evaluation",
    "challenge": "challenge score",
    "ensemble": "ensemble",
    "prepare": "preparation",
    "results": "results",
}


def results(study: Study, plan: Mapping[str, Any], job: Any, threads: int) -> dict[str, Any]:
    """Compare what was scored, and write ``study.csv``, tables, ``report.html`` and ``provenance.json``."""
    missing = find_missing(study.output, plan)
    evaluations = _evaluations(study, plan)
    if not evaluations:
        raise UserError(f"nothing was scored yet, so there is no report: {'; '.join(missing)}")
    rows = [row for training, evaluation in evaluations for row in rows_of(evaluation, training)]
    outcomes = Outcomes.of(rows, study.reference)
    tables = compare_arms(outcomes, study.reference, study.patients)
    sizes = compare_sizes(outcomes, study.reference, study.patients)
    folder = study.output
    write_outcomes(folder / "study.csv", rows)
    write_comparison_csv(folder / "comparison.csv", tables)
    write_sizes_csv(folder / "sizes.csv", sizes)
    warnings = rising_with_volume(tables[0])
    _write_markdown(folder / "table.md", study, outcomes, tables, sizes, warnings, missing)
    write_latex(folder / "table.tex", tables[0], _caption(study, outcomes))
    stamps = _stamps(folder, plan)
    _write_json(folder / "provenance.json", _provenance(study, plan, evaluations, stamps, missing))
    page = study_page(study, outcomes, tables, sizes, evaluations[0][1].summary["settings"], stamps, warnings, missing)
    write_page(folder / "report.html", page)
    return {"missing": missing, "left_out": outcomes.left_out}


def find_missing(folder: Path, plan: Mapping[str, Any]) -> list[str]:
    """A line for each job that failed, with its reason, and one for those that wait for others."""
    failed, waiting = [], 0
    for kind, jobs in plan["jobs"].items():
        for name, job in jobs.items():
            if kind == "results" or (folder / "jobs" / kind / f"{name}.json").is_file():
                continue
            if all((folder / need).is_file() for need in job["needs"]):
                failed.append(f"{_VERBS[kind]} of {_named(job)}: {_reason(folder, kind, name)}")
            else:
                waiting += 1
    return failed + ([f"{waiting} jobs that need them"] if waiting else [])


def _named(job: Mapping[str, Any]) -> str:
    if "training" in job:
        training = job["training"]
        return f"{training['arm']}, seed{training['seed']}, fold_{training['fold']}"
    return f"seed{job['seed']}" if "seed" in job else "the dataset"


def _reason(folder: Path, kind: str, name: str) -> str:
    note, log = failure_file(folder, kind, name), folder / "logs" / kind / f"{name}.log"
    if note.is_file():
        return note.read_text(encoding="utf-8").strip()
    return f"it did not end, or was killed; see {log}" if log.is_file() else "it has not begun"


def _evaluations(study: Study, plan: Mapping[str, Any]) -> list[tuple[dict[str, Any], Evaluation]]:
    found = []
    for name, job in plan["jobs"]["evaluate"].items():
        if (study.output / "jobs" / "evaluate" / f"{name}.json").is_file():
            training = job["training"]
            found.append((training, read_evaluation(Training(**training).scores(study))))
    return found


def _stamps(folder: Path, plan: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """What the finished jobs of each kind have noted."""
    return {
        kind: [
            read_json(file, "delete it and run the study again")
            for name in jobs
            if (file := folder / "jobs" / kind / f"{name}.json").is_file()
        ]
        for kind, jobs in plan["jobs"].items()
    }


def _caption(study: Study, outcomes: Outcomes) -> str:
    seeds = f"{len(outcomes.seeds)} seed{'s' if len(outcomes.seeds) > 1 else ''}"
    test = "" if len(outcomes.arms) < 2 else f"; marked: differs from {study.reference}, Holm-corrected p < 0.05"
    means = f"means over {len(outcomes.cases)} cases and {seeds}, 95 % intervals"
    return f"{study.dataset}, {study.configuration}: {means}{test}"


def _write_markdown(
    file: Path, study: Study, outcomes: Outcomes, tables: Any, sizes: Any, warnings: list[str], missing: list[str]
) -> None:
    parts = [f"{_caption(study, outcomes)}."]
    parts += [f"Mind the volume: {line}" for line in warnings]
    parts += [f"Missing: {line}." for line in missing] + [f"Not compared: {line}." for line in outcomes.left_out]
    for table in tables:
        parts += [f"**{table.label}**", markdown(table), size_markdown(sizes, table.label)]
    with write_atomically(file) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _provenance(
    study: Study, plan: Mapping[str, Any], evaluations: Any, stamps: Mapping[str, Any], missing: list[str]
) -> dict[str, Any]:
    """What it takes to do the study again, and to tell whether it was the same data."""
    dataset = study.raw / "dataset.json"
    labels = {
        entry["reference_file"]: entry["sha256"]
        for _, evaluation in evaluations
        for entry in evaluation.summary["metric_per_case"]
    }
    return {
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": f"nnunet-instance study {study.file.name}",
        "versions": {"nnunet-instance-trainers": __version__, **{name: _version(name) for name in _PACKAGES}},
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {study.device}, {study.threads} threads",
        "study": plan["study"],
        "dataset_json_sha256": digest(dataset),
        "cases_sha256": labels,
        "evaluation": evaluations[0][1].summary["settings"],
        "plans": {job["training"]["plans"]: job["plans"] for job in plan["jobs"]["train"].values()},
        "trainings": stamps.get("train", []),
        "missing": missing,
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _write_json(file: Path, content: Any) -> None:
    with write_atomically(file) as temporary:
        temporary.write_text(json.dumps(content, indent=1, default=str), encoding="utf-8")
