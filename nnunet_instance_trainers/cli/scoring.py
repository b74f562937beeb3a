"""Predictions scored by objects, and models side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_instance_trainers.cli.arguments import AddCommand, add_matching, add_pairs, add_processes, check_matching
from nnunet_instance_trainers.errors import UserError

__all__ = ["add_commands"]


def add_commands(add: AddCommand) -> None:
    evaluate = add("evaluate", _evaluate, "score a folder of predictions by objects: found, missed, false, by size")
    evaluate.add_argument("-i", required=True, type=Path, metavar="PRED", help="folder of predictions")
    evaluate.add_argument("-g", required=True, type=Path, metavar="GT", help="folder of ground truth, such as labelsTs")
    evaluate.add_argument("-o", required=True, type=Path, metavar="OUT", help="folder for tables and summary")
    add_matching(evaluate)
    evaluate.add_argument(
        "--bins",
        nargs="+",
        default=["0.01", "0.05", "0.1", "0.5", "1", "5"],
        metavar="ML",
        help="edges of size bins in mL, or 'paper' for steps of 0.05 mL up to 1 mL as in the instance-loss paper "
        "(default: 0.01 0.05 0.1 0.5 1 5)",
    )
    evaluate.add_argument(
        "--froc",
        type=float,
        nargs="?",
        const=0.1,
        metavar="P",
        help="FROC from the probabilities beside the predictions, with candidates from probability P on (default: 0.1)",
    )
    evaluate.add_argument(
        "--surfaces",
        type=float,
        nargs="?",
        const=1.0,
        metavar="MM",
        help="distances between surfaces too, and surface Dice at a tolerance of MM, of classes and of found instances "
        "(default: 1)",
    )
    evaluate.add_argument(
        "--instance-classes", nargs="+", metavar="NAME", help="classes that have ids in --instances (default: all)"
    )
    evaluate.add_argument(
        "--overlays",
        action="store_true",
        help="write OUT/overlays too: label images of what was found, missed, hit and false, for viewers",
    )
    evaluate.add_argument("-djfile", type=Path, metavar="FILE", help="dataset.json (default: beside PRED or GT)")
    evaluate.add_argument("--chill", action="store_true", help="GT may hold cases that were not predicted")
    add_processes(evaluate)

    compare = add("compare", _compare, "evaluated models side by side: means, intervals, ranks and tests, as CSV")
    compare.add_argument("models", nargs="+", type=Path, metavar="FOLDER", help="what 'evaluate' wrote, one per model")
    compare.add_argument("-o", required=True, type=Path, metavar="OUT", help="folder for the tables")
    compare.add_argument(
        "--paper",
        action="store_true",
        help="RA, RG and RI by the eight scores of the instance-loss paper: PQ, Dice, volume difference, FDR, FNR, "
        "precision, sensitivity, F1",
    )
    add_pairs(compare)

    report = add("report", _report, "evaluated models in one HTML file with tables, charts and pictures of cases")
    report.add_argument("models", nargs="+", type=Path, metavar="FOLDER", help="what 'evaluate' wrote, one per model")
    report.add_argument("-o", required=True, type=Path, metavar="FILE", help="the HTML file")
    report.add_argument("--images", type=Path, metavar="DIR", help="the cases' images, drawn below their objects")
    add_pairs(report)


def _evaluate(arguments: argparse.Namespace) -> None:
    check_matching(arguments)
    if arguments.froc is not None and not 0 < arguments.froc < 1:
        raise UserError(f"--froc takes a probability above 0 and below 1, got {arguments.froc:g}")
    if arguments.surfaces is not None and not 0 < arguments.surfaces < float("inf"):
        raise UserError(f"--surfaces takes a tolerance above 0 mm, got {arguments.surfaces:g}")
    bins = _bins(arguments.bins)
    if bins != sorted(set(bins)) or not 0 < bins[0] <= bins[-1] < float("inf"):
        raise UserError(f"--bins must be positive and ascending, got {' '.join(f'{edge:g}' for edge in bins)}")
    from nnunet_instance_trainers.evaluation.detection import Rule
    from nnunet_instance_trainers.evaluation.overlays import overlays_folder
    from nnunet_instance_trainers.evaluation.scoring.folder_scores import evaluate, format_table

    with overlays_folder(arguments.o, arguments.overlays) as overlays:
        evaluation = evaluate(
            arguments.i,
            arguments.g,
            arguments.o,
            instances=arguments.instances,
            instance_classes=arguments.instance_classes,
            rule=Rule(arguments.match, arguments.threshold, arguments.connectivity, arguments.minimum_size),
            bins_ml=bins,
            froc_threshold=arguments.froc,
            surfaces_mm=arguments.surfaces,
            overlays=overlays,
            dataset_json=arguments.djfile,
            subset=arguments.chill,
            n_processes=arguments.np,
        )
    print(f"\n{format_table(evaluation)}\n\ntables: {arguments.o}")


def _bins(texts: list[str]) -> list[float]:
    if texts == ["paper"]:
        return [k / 20 for k in range(1, 21)]
    try:
        return [float(text) for text in texts]
    except ValueError:
        raise UserError(f"--bins takes numbers of mL, or 'paper', got {' '.join(texts)}") from None


def _compare(arguments: argparse.Namespace) -> None:
    from nnunet_instance_trainers.evaluation.challenges.challenge_comparison import are_results

    if are_results(arguments.models):
        _compare_results(arguments)
        return
    from nnunet_instance_trainers.evaluation.comparing.compared_scores import PAPER_SCORES, SCORES, scores_of
    from nnunet_instance_trainers.evaluation.comparing.evaluated_models import parse_pairs, read_models
    from nnunet_instance_trainers.evaluation.comparing.model_comparison import compare, write_comparison

    models = read_models(arguments.models)
    names = [model.name for model in models]
    scores = scores_of(models, PAPER_SCORES if arguments.paper else SCORES)
    pairs = None if arguments.pairs is None else parse_pairs(arguments.pairs, arguments.models, names)
    tables = compare(models, pairs, scores=scores)
    write_comparison(tables, arguments.o, scores)
    width = max(map(len, names))
    print(f"{'':{width}}    RA    RG    RI  volume ratio  F1 at IoU 0.5")
    for m, name in enumerate(names):
        ranks = "".join(f"{values[m]:6.2f}" for values in tables[0].mean_ranks.values())
        print(f"{name:{width}}{ranks}{tables[0].mean['volume_ratio'][m]:14.2f}{tables[0].mean['f1_iou50'][m]:15.3f}")
    print(f"wrote comparison.csv, ranks.csv and pairs.csv to {arguments.o}")


def _compare_results(arguments: argparse.Namespace) -> None:
    from nnunet_instance_trainers.evaluation.challenges.challenge_comparison import (
        compare_results,
        read_results,
        write_comparison,
    )
    from nnunet_instance_trainers.evaluation.comparing.evaluated_models import parse_pairs

    results = read_results(arguments.models)
    names, challenge = [result.name for result in results], results[0].challenge
    tables = compare_results(
        results, None if arguments.pairs is None else parse_pairs(arguments.pairs, arguments.models, names)
    )
    write_comparison(tables, challenge, arguments.o)
    width = max(map(len, names))
    for table in tables:
        print(f"{challenge.title}, {table.region}: " + ", ".join(challenge.better))
        for m, name in enumerate(names):
            official = "" if table.official is None else f"   official ranking by {table.official[m]:.3f}"
            print(f"{name:{width}}" + "".join(f"{own[m]:12.4f}" for own in table.mean.values()) + official)
    print(f"wrote comparison.csv, ranks.csv and pairs.csv to {arguments.o}")


def _report(arguments: argparse.Namespace) -> None:
    from nnunet_instance_trainers.evaluation.challenges.challenge_comparison import are_results
    from nnunet_instance_trainers.evaluation.report import write_report
    from nnunet_instance_trainers.evaluation.report.challenge_page import write_challenge_report

    if are_results(arguments.models):
        write_challenge_report(arguments.models, arguments.o, arguments.pairs)
    else:
        write_report(arguments.models, arguments.o, arguments.images, arguments.pairs)
    print(f"wrote {arguments.o}")
