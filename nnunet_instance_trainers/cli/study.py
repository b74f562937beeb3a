"""A study of several trainers: trained, scored and compared by one command."""

from __future__ import annotations

import argparse
import os
from importlib.resources import files
from pathlib import Path

from nnunet_instance_trainers.cli.arguments import AddCommand
from nnunet_instance_trainers.errors import UserError

__all__ = ["add_commands"]


def add_commands(add: AddCommand) -> None:
    study = add("study", _study, "train, score and compare arms over seeds and folds, as a file describes it")
    study.add_argument("file", nargs="?", type=Path, metavar="STUDY.yaml", help="the study; --example prints one")
    study.add_argument("--example", action="store_true", help="print a file to start from, with comments")
    study.add_argument(
        "-j",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="cores of this machine to use, or with --executor jobs at once (default: %(default)s)",
    )
    study.add_argument("--gpus", type=int, metavar="N", help="GPUs of this machine to use (default: all)")
    study.add_argument("--dry-run", action="store_true", help="only say what would be done")
    study.add_argument("--executor", default="", metavar="NAME", help="of Snakemake, such as slurm (default: here)")
    study.add_argument(
        "--snakemake",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="OPTION",
        help="all that follows are options of Snakemake, such as --profile cluster",
    )


def _study(arguments: argparse.Namespace) -> None:
    if arguments.example:
        print((files("nnunet_instance_trainers.study") / "example.yaml").read_text(encoding="utf-8"), end="")
        return
    if arguments.file is None:
        raise UserError("STUDY.yaml is missing: 'nnunet-instance study --example' prints one to start from")
    for flag, value in (("-j", arguments.j), ("--gpus", arguments.gpus)):
        if value is not None and value < 1:
            raise UserError(f"{flag} must be at least 1, got {value}")
    from nnunet_instance_trainers.study.workflow import Options, run_study

    options = Options(arguments.j, arguments.gpus, arguments.dry_run, arguments.executor, arguments.snakemake)
    folder = run_study(arguments.file, options)
    if not options.dry_run:
        print(f"report: {folder / 'report.html'}")
