"""Ensembles by the volume of objects."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_instance_trainers.cli.arguments import (
    AddCommand,
    add_connectivity,
    add_matching,
    add_processes,
    check_matching,
)
from nnunet_instance_trainers.cli.dataset_names import dataset_name, plans_file, results_folder
from nnunet_instance_trainers.errors import UserError

__all__ = ["add_commands"]


def add_commands(add: AddCommand) -> None:
    fitting = add(
        "fit-ensemble", _fit_ensemble, "choose bins of size and a model for each from cross-validation, or one model"
    )
    fitting.add_argument("-d", required=True, metavar="DATASET", help="dataset id or name")
    fitting.add_argument("-c", required=True, metavar="CONFIGURATION", help="such as 3d_fullres")
    fitting.add_argument(
        "-f", type=int, nargs="+", default=[0, 1, 2, 3, 4], metavar="FOLD", help="folds (default: 0 1 2 3 4)"
    )
    fitting.add_argument("--trainers", required=True, nargs="+", metavar="TRAINER", help="names of trainer classes")
    fitting.add_argument("-o", required=True, type=Path, metavar="FILE", help="file for 'ensemble --config', .json")
    fitting.add_argument("-p", default="nnUNetPlans", metavar="PLANS", help="default: nnUNetPlans")
    fitting.add_argument(
        "--score",
        default="f1",
        metavar="SCORE",
        help="what to maximise: f1, f1_dice (their mean), f1_iou50, pq_iou, pq_dice, rq, sensitivity, precision, "
        "lesion_dice or dice (default: f1)",
    )
    fitting.add_argument("--max-bins", type=int, default=3, metavar="N", help="most bins of a class (default: 3)")
    add_matching(fitting)
    add_processes(fitting)

    ensemble = add("ensemble", _ensemble, "merge predictions of several models: each size of object from one of them")
    member = {"nargs": "+", "action": "append", "metavar": "DIR"}
    ensemble.add_argument(
        "-m",
        "--member-ml",
        **member,
        help="a folder of predictions and the volumes in mL that it gives, DIR:0-0.05 or DIR:0.05-; several folders "
        "before the range are folds that vote; repeat it for each member, where two claim a voxel the earlier wins",
    )
    ensemble.add_argument("--member-mm2", **member, help="the same for 2D images, with areas in mm^2")
    ensemble.add_argument("--config", type=Path, metavar="FILE", help="members and all else as fit-ensemble wrote it")
    ensemble.add_argument(
        "--predictions", nargs="+", default=[], metavar="NAME=DIR", help="with --config: folders; repeat NAME for folds"
    )
    ensemble.add_argument("-o", required=True, type=Path, metavar="OUT", help="folder for the result")
    ensemble.add_argument("--vote", type=int, metavar="N", help="folds that must agree (default: more than half)")
    ensemble.add_argument(
        "--rescue", action="store_true", help="keep objects that two members find, each in the other's range"
    )
    ensemble.add_argument("--gaps", action="store_true", help="some volumes may be in no member's range")
    add_connectivity(ensemble, None)
    ensemble.add_argument("--min-volume-ml", type=float, metavar="ML", help="remove smaller objects from the result")
    ensemble.add_argument("--min-area-mm2", type=float, metavar="MM2", help="the same for 2D images")
    ensemble.add_argument("--instances", action="store_true", help="write instance maps too, to OUT/instances")
    ensemble.add_argument("-djfile", type=Path, metavar="FILE", help="dataset.json (default: in or above DIR)")
    add_processes(ensemble)


def _fit_ensemble(arguments: argparse.Namespace) -> None:
    if arguments.max_bins < 1:
        raise UserError(f"--max-bins must be at least 1, got {arguments.max_bins}")
    check_matching(arguments)
    for flag, values in (("--trainers", arguments.trainers), ("-f", arguments.f)):
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise UserError(f"{flag} has {twice} twice: give each once")
    results_folder()
    dataset = dataset_name(arguments.d)
    plans_file(dataset, arguments.p)
    from nnunet_instance_trainers.ensemble_fitting.count_table import SCORES_TO_FIT
    from nnunet_instance_trainers.ensemble_fitting.cross_validation import Models
    from nnunet_instance_trainers.ensemble_fitting.fit_summary import commands, draw_sizes, format_fit
    from nnunet_instance_trainers.ensemble_fitting.folder_fit import fit_ensemble
    from nnunet_instance_trainers.evaluation.detection import Rule

    if arguments.score not in SCORES_TO_FIT:
        raise UserError(f"--score must be one of {', '.join(SCORES_TO_FIT)}, got {arguments.score!r}")
    fitted = fit_ensemble(
        Models(dataset, arguments.c, arguments.p, tuple(arguments.trainers), tuple(arguments.f)),
        arguments.o,
        instances=arguments.instances,
        rule=Rule(arguments.match, arguments.threshold, arguments.connectivity, arguments.minimum_size),
        score=arguments.score,
        max_bins=arguments.max_bins,
        n_processes=arguments.np,
    )
    figure = arguments.o.with_suffix(".png")
    draw_sizes(fitted, figure)
    print(f"\n{format_fit(fitted)}\n\nwrote {arguments.o} and {figure}; for new images:\n")
    print("\n".join(commands(fitted.models, fitted.plan, arguments.o)))


def _ensemble(arguments: argparse.Namespace) -> None:
    given = [arguments.member_ml, arguments.member_mm2, arguments.config]
    if sum(option is not None for option in given) != 1:
        raise UserError("give members either with -m, or with --member-mm2, or with --config")
    from nnunet_instance_trainers.ensembling.folder_ensemble import ensemble, format_members
    from nnunet_instance_trainers.ensembling.member_options import read_plan

    plan, predictions = read_plan(arguments)
    rows = ensemble(
        plan,
        predictions,
        arguments.o,
        instances=arguments.instances,
        areas=arguments.member_mm2 is not None,
        dataset_json=arguments.djfile,
        n_processes=arguments.np,
    )
    print(f"\n{format_members(rows)}\n\nensemble: {arguments.o}")
    if any(row["lost"] for row in rows):
        print("lost: found by two members, but by each with a size of the other's; --rescue keeps them")
