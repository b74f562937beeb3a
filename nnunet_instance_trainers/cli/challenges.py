"""Predictions scored as the organisers of challenges do."""

from __future__ import annotations

import argparse
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_instance_trainers.cli.arguments import AddCommand, add_processes
from nnunet_instance_trainers.errors import UserError

if TYPE_CHECKING:
    from nnunet_instance_trainers.evaluation.challenges.results import Result

__all__ = ["add_commands"]


def add_commands(add: AddCommand) -> None:
    challenge = add("challenge", _challenge, "score a folder of predictions as the organisers of a challenge do")
    challenge.add_argument("name", nargs="?", metavar="NAME", help="of the challenge; --list shows them")
    challenge.add_argument("--list", action="store_true", help="the challenges, what they score, and where")
    challenge.add_argument("-i", type=Path, metavar="PRED", help="folder of predictions")
    challenge.add_argument("-g", type=Path, metavar="GT", help="folder of ground truth, such as labelsTs")
    challenge.add_argument("-o", type=Path, metavar="OUT", help="folder for scores.csv and challenge.json")
    challenge.add_argument(
        "--instances", type=Path, metavar="DIR", help="instance maps of GT in place of components, for cells"
    )
    challenge.add_argument(
        "--predicted-instances", type=Path, metavar="DIR", help="instance maps of PRED in place of components"
    )
    challenge.add_argument("-djfile", type=Path, metavar="FILE", help="dataset.json (default: beside PRED or GT)")
    challenge.add_argument(
        "--chill", action="store_true", help="GT may hold cases that were not predicted; shows what they would cost"
    )
    add_processes(challenge)


def _challenge(arguments: argparse.Namespace) -> None:
    if arguments.list:
        _list()
        return
    lacking = [flag for flag in ("i", "g", "o") if getattr(arguments, flag) is None]
    if arguments.name is None or lacking:
        what = "the challenge's NAME" if arguments.name is None else f"-{lacking[0]}"
        raise UserError(f"{what} is missing: challenge NAME -i PRED -g GT -o OUT, or challenge --list")
    from nnunet_instance_trainers.evaluation.challenges.folder_challenge import score_folder

    result = score_folder(
        arguments.name,
        arguments.i,
        arguments.g,
        arguments.o,
        instances=arguments.instances,
        predicted_instances=arguments.predicted_instances,
        dataset_json=arguments.djfile,
        subset=arguments.chill,
        n_processes=arguments.np,
    )
    print(f"\n{_table(result)}\n\ntables: {arguments.o}")


def _list() -> None:
    from nnunet_instance_trainers.evaluation.challenges.declarations import CHALLENGES

    rows = [(c.name, str(c.year), c.organ, c.scored, c.link) for c in CHALLENGES.values()]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths)).rstrip())


def _table(result: Result) -> str:
    """The official averages of the ranked scores, and whose values they equal."""
    challenge, regions = result.challenge, result.summary["regions"]
    lines = [f"{challenge.title}: equals {challenge.equals}"]
    for region, own in regions.items():
        lines.append(f"{region}:" if len(regions) > 1 else f"{result.summary['n_cases']} cases:")
        lines += [f"  {name:30} {_number(own['official'][name])}" for name in challenge.better]
        for kind, empty in own["empty"].items():
            what = "target and prediction" if kind == "both" else f"only the {kind}"
            costs = ", ".join(f"{name} {_number(empty['official'][name])}" for name in challenge.better)
            lines.append(f"  {len(empty['cases'])} cases where {what} is empty: {costs}")
        if own["missing"]:
            then = own["missing"]["official_if_they_were_empty"]
            costs = ", ".join(f"{name} {_number(then[name])}" for name in challenge.better)
            lines.append(f"  with {len(own['missing']['cases'])} missing cases as empty predictions: {costs}")
    return "\n".join([*lines, *(f"note: {quirk}" for quirk in challenge.quirks)])


def _number(value: float) -> str:
    return "none" if isnan(value) else f"{value:.4f}"
