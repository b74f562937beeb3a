"""A study run as a Snakemake workflow, again and again until all of it is there."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from nnunet_instance_trainers.data.text_files import read_json
from nnunet_instance_trainers.errors import UserError, writing
from nnunet_instance_trainers.study.job_plan import invalid_stamps, make_plan, plan_preparation, write_plan
from nnunet_instance_trainers.study.locks import hold
from nnunet_instance_trainers.study.study_file import Study, read_study

__all__ = ["Options", "run_study"]

_SNAKEFILE = Path(__file__).with_name("Snakefile")


@dataclass(frozen=True)
class Options:
    """How a study is run.

    Attributes:
        cores: that jobs may take together on this machine; on a cluster how many jobs are there at once.
        gpus: of this machine, each for one training at a time; None for all that torch sees.
        dry_run: only say what would be done.
        executor: of Snakemake, such as slurm; empty for this machine.
        more: options passed to Snakemake as they are.
    """

    cores: int
    gpus: int | None = None
    dry_run: bool = False
    executor: str = ""
    more: Sequence[str] = ()


def run_study(file: Path, options: Options) -> Path:
    """Run what is not done yet of a study, and write its result folder, which is returned.

    Raises:
        UserError: the file is wrong, the study runs already, or jobs failed; what did not is in the result folder.
    """
    study = read_study(file)
    if find_spec("snakemake") is None:
        raise UserError("studies need Snakemake 9: pip install 'nnunet-instance-trainers[study]'")
    takes_settings = _check(study)
    with writing(study.output):
        study.output.mkdir(parents=True, exist_ok=True)
        lock = hold(study.output / ".lock")
    if lock is None:
        raise UserError(f"this study runs already: {study.output / '.lock'} is held; wait for it, or end it")
    with lock:
        gpus = _gpus(study, options)
        preparation = {**plan_preparation(study), "gpus": gpus}
        if not all((study.output / target).is_file() for target in preparation["targets"]) or not _planned(study):
            for target in preparation["targets"]:
                (study.output / target).unlink(missing_ok=True)
            _run(study, preparation, options, lock.fileno())
            if options.dry_run:
                n = len(study.arms) * len(study.seeds) * len(study.folds)
                print(
                    f"then {n} trainings, each predicted and scored: {len(study.arms)} arms x "
                    f"{len(study.seeds)} seeds x {len(study.folds)} folds"
                )
                return study.output
            takes_settings = _check(study)
        base = read_json(study.preprocessed / f"{study.plans}.json", "plan the dataset again")
        plan = {**make_plan(study, base, takes_settings), "gpus": gpus}
        if not options.dry_run:
            for stamp in invalid_stamps(plan, study.output):
                stamp.unlink()
        _run(study, plan, options, lock.fileno())
    return study.output


def _planned(study: Study) -> bool:
    return (study.preprocessed / f"{study.plans}.json").is_file()


def _check(study: Study) -> dict[str, bool]:
    """Check the arms, in a process of its own: this one waits for hours, and without nnU-Net it takes less memory."""
    file = study.preprocessed / f"{study.plans}.json"
    if not file.is_file() and study.plans != "nnUNetPlans":
        raise UserError(
            f"there are no plans {study.plans!r} in {study.preprocessed}: make them with nnU-Net, or leave 'plans' out"
        )
    plans = read_json(file, "plan the dataset again") if file.is_file() else None
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_check_arms, study, plans).result()


def _check_arms(study: Study, plans: dict[str, Any] | None) -> dict[str, bool]:
    from nnunet_instance_trainers.linking import check_torchvision, set_variable

    check_torchvision()
    set_variable()
    with redirect_stdout(io.StringIO()):  # nnU-Net prints where it looks for trainers
        from nnunet_instance_trainers.study.arm_checks import check_arms

        return check_arms(study, plans)


def _gpus(study: Study, options: Options) -> int:
    """How many GPUs of this machine jobs share; 0 where a cluster hands them out, or none are used."""
    if study.device != "cuda" or options.executor:
        return 0
    if options.gpus is not None:
        return options.gpus
    import torch

    return max(torch.cuda.device_count(), 1)


def _run(study: Study, plan: dict[str, Any], options: Options, lock: int) -> None:
    """Call Snakemake, which holds the study's lock too: it outlives this process where that is killed."""
    file = study.output / ("dry_run.json" if options.dry_run else "plan.json")
    write_plan(plan, file)
    try:
        with subprocess.Popen(_command(study, plan, options, file), pass_fds=(lock,)) as process:
            ended = _wait(process)
    finally:
        if options.dry_run:
            file.unlink()
    if ended and not options.dry_run:
        _tell_what_is_missing(study, plan, file)
    if ended:
        raise UserError(f"Snakemake ended with status {ended}: see what it says above")


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Its status; Ctrl-C goes to Snakemake too, which ends its jobs and then itself."""
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def _command(study: Study, plan: dict[str, Any], options: Options, file: Path) -> list[str]:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(_SNAKEFILE), "--directory", str(study.output)]
    command += ["--config", f"plan={file}", "--keep-going", "--rerun-incomplete", "--nolock"]
    # What has to be done again is in the names of the stamps.
    command += ["--rerun-triggers", "input", "--printshellcmds" if options.dry_run else "--quiet=rules"]
    if options.dry_run:
        command.append("--dry-run")
    if options.executor:
        command += ["--executor", options.executor, "--jobs", str(options.cores)]
    else:
        command += ["--cores", str(options.cores)]
        command += ["--resources", f"study_gpus={plan['gpus']}"] if plan["gpus"] else []
    return [*command, *options.more]


def _tell_what_is_missing(study: Study, plan: dict[str, Any], file: Path) -> None:
    """A report of what is there, and a line about what is not."""
    from nnunet_instance_trainers.study.result_folder import find_missing

    missing = find_missing(study.output, plan)
    results = list(plan["jobs"].get("results", ()))
    has_report = False
    if results and any((study.output / "jobs" / "evaluate").glob("*.json")):
        job = [
            sys.executable,
            "-m",
            "nnunet_instance_trainers.study.jobs",
            "results",
            str(file),
            results[0],
            "--partial",
        ]
        has_report = subprocess.run(job, stdout=subprocess.DEVNULL, env=os.environ).returncode == 0
    if missing:
        report = f"; {study.output / 'report.html'} has the rest" if has_report else ""
        raise UserError(f"{'; '.join(missing)}{report}; the same command goes on")
