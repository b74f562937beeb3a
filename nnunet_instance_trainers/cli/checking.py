"""Why does it not work: the installation, and a training that is to come."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from typing import TYPE_CHECKING

from nnunet_instance_trainers.cli.arguments import AddCommand
from nnunet_instance_trainers.cli.dataset_names import dataset_name, plans_file, read_plans_or_dataset
from nnunet_instance_trainers.errors import UserError

if TYPE_CHECKING:
    from nnunet_instance_trainers.checking.findings import Finding

__all__ = ["add_commands"]


def add_commands(add: AddCommand) -> None:
    check = add("check", _check, "look at the installation and, with -d and -c, at what a training would meet")
    check.add_argument("-d", metavar="DATASET", help="dataset id or name")
    check.add_argument("-c", metavar="CONFIGURATION", help="such as 3d_fullres")
    check.add_argument("-p", default="nnUNetPlans", metavar="PLANS", help="default: nnUNetPlans")
    check.add_argument(
        "-tr", default="nnUNetTrainerBlob", metavar="TRAINER", help="one of this package (default: nnUNetTrainerBlob)"
    )
    check.add_argument("--json", action="store_true", help="print the findings as JSON")


def _check(arguments: argparse.Namespace) -> None:
    if (arguments.d is None) != (arguments.c is None):
        raise UserError("-d and -c belong together: give both, or none to check the installation only")
    from nnunet_instance_trainers.checking.findings import PROBLEM
    from nnunet_instance_trainers.checking.installation import check_installation

    with redirect_stdout(sys.stderr):  # nnU-Net's search tells what it does
        findings = check_installation()
        if arguments.d is not None:
            findings += _training(arguments)
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        print(*findings, sep="\n")
    if any(finding.level == PROBLEM for finding in findings):
        raise SystemExit(1)


def _training(arguments: argparse.Namespace) -> list[Finding]:
    from nnunet_instance_trainers.checking.findings import Finding

    try:
        file = plans_file(dataset_name(arguments.d), arguments.p)
        plans, dataset = read_plans_or_dataset(file), read_plans_or_dataset(file.parent / "dataset.json")
        if not isinstance(plans.get("configurations"), dict) or "labels" not in dataset:
            raise UserError(
                f"{file} or the dataset.json beside it is not nnU-Net's: run 'nnUNetv2_plan_and_preprocess'"
            )
        from nnunet_instance_trainers import trainers

        if arguments.tr not in trainers.__all__:
            raise UserError(f"this package has no trainer {arguments.tr!r}: there are {', '.join(trainers.__all__)}")
        from nnunet_instance_trainers.checking.training_run import check_training

        return check_training(plans, dataset, arguments.c, getattr(trainers, arguments.tr))
    except UserError as error:
        return [Finding.of_error("training", error)]
