"""The command ``nnunet-instance``. Flags are nnU-Net's own; heavy imports wait until a command needs them."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunet_instance_trainers import __version__
from nnunet_instance_trainers.errors import UserError, one_line_exit

__all__ = ["main"]

_PASSED_THROUGH = {"train": "nnUNetv2_train", "predict": "nnUNetv2_predict"}


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; a user's mistake ends with one line and exit status 1."""
    argv = sys.argv[1:] if argv is None else list(argv)
    with one_line_exit():
        if argv and argv[0] in _PASSED_THROUGH:
            _pass_through(argv[0], argv[1:])  # argparse would take some of nnU-Net's flags for its own
            return
        arguments = _parser().parse_args(argv)
        if getattr(arguments, "np", 1) < 1:
            raise UserError(f"-np must be at least 1, got {arguments.np}")
        arguments.run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnunet-instance", description="Instance-aware trainers, losses and tools for nnU-Net v2."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, run: Any, help_text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help_text, description=help_text)
        command.set_defaults(run=run)
        return command

    add("path", _path, 'print the folder for nnU-Net: export nnUNet_extTrainer="$(nnunet-instance path)"')
    add("link", _link, "let nnU-Net find the trainers without that variable, by one file inside nnunetv2")
    add("unlink", _unlink, "remove that file again")
    add("trainers", _trainers, "list the trainers, a line each")
    add("train", None, "nnUNetv2_train with the trainers found; takes its arguments")
    add("predict", None, "nnUNetv2_predict with the trainers found; takes its arguments")

    configure = add("configure", _configure, "write a copy of a plans file with settings for this package, checked")
    configure.add_argument("-d", required=True, metavar="DATASET", help="dataset id or name")
    configure.add_argument("-p", default="nnUNetPlans", metavar="PLANS", help="plans to copy (default: nnUNetPlans)")
    configure.add_argument("-o", required=True, metavar="NEW_PLANS", help="name of the copy")
    configure.add_argument("-c", nargs="+", metavar="CONFIGURATION", help="configurations to set (default: all)")
    configure.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="a setting and its value in JSON, such as num_epochs=250, weights.blob=0.5 or source=patch",
    )

    precompute = add("precompute", _precompute, "make instance maps of a preprocessed dataset")
    precompute.add_argument("-d", required=True, nargs="+", metavar="DATASET", help="dataset ids or names")
    precompute.add_argument("-c", nargs="+", metavar="CONFIGURATION", help="default: all that are preprocessed")
    precompute.add_argument("-p", default="nnUNetPlans", metavar="PLANS", help="default: nnUNetPlans")
    _add_processes(precompute)

    evaluate = add("evaluate", _evaluate, "score a folder of predictions by objects: found, missed, false, by size")
    evaluate.add_argument("-i", required=True, type=Path, metavar="PRED", help="folder of predictions")
    evaluate.add_argument("-g", required=True, type=Path, metavar="GT", help="folder of ground truth, such as labelsTs")
    evaluate.add_argument("-o", required=True, type=Path, metavar="OUT", help="folder for tables and summary")
    _add_matching(evaluate)
    evaluate.add_argument(
        "--bins",
        type=float,
        nargs="+",
        default=[0.01, 0.05, 0.1, 0.5, 1, 5],
        metavar="ML",
        help="edges of size bins in mL (default: 0.01 0.05 0.1 0.5 1 5)",
    )
    evaluate.add_argument(
        "--froc",
        type=float,
        nargs="?",
        const=0.1,
        metavar="P",
        help="FROC from the probabilities beside the predictions, with candidates from probability P on (default: 0.1)",
    )
    evaluate.add_argument("-djfile", type=Path, metavar="FILE", help="dataset.json (default: beside PRED or GT)")
    evaluate.add_argument("--chill", action="store_true", help="GT may hold cases that were not predicted")
    _add_processes(evaluate)

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
    _add_matching(fitting)
    _add_processes(fitting)

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
    ensemble.add_argument("--min-volume-ml", type=float, metavar="ML", help="remove smaller objects from the result")
    ensemble.add_argument("--min-area-mm2", type=float, metavar="MM2", help="the same for 2D images")
    ensemble.add_argument("--instances", action="store_true", help="write instance maps too, to OUT/instances")
    ensemble.add_argument("-djfile", type=Path, metavar="FILE", help="dataset.json (default: in or above DIR)")
    _add_processes(ensemble)

    compare = add("compare", _compare, "evaluated models side by side: means, intervals, ranks and tests, as CSV")
    compare.add_argument("models", nargs="+", type=Path, metavar="FOLDER", help="what 'evaluate' wrote, one per model")
    compare.add_argument("-o", required=True, type=Path, metavar="OUT", help="folder for the tables")
    _add_pairs(compare)

    report = add("report", _report, "evaluated models in one HTML file with tables, charts and pictures of cases")
    report.add_argument("models", nargs="+", type=Path, metavar="FOLDER", help="what 'evaluate' wrote, one per model")
    report.add_argument("-o", required=True, type=Path, metavar="FILE", help="the HTML file")
    report.add_argument("--images", type=Path, metavar="DIR", help="the cases' images, drawn below their objects")
    _add_pairs(report)

    demo = add("demo", _demo, "train, predict and compare on real images, in minutes on a CPU")
    demo.add_argument("-o", type=Path, default=Path("demo"), metavar="FOLDER", help="where to work (default: demo)")
    demo.add_argument(
        "--data", type=Path, metavar="FOLDER", help="a raw dataset in nnU-Net format instead of the sample"
    )
    demo.add_argument("-device", default="cpu", choices=["cpu", "cuda", "mps"], help="default: cpu")
    return parser


def _add_pairs(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--pairs", nargs="+", metavar="A:B", help="models to test against each other (default: each against the first)"
    )


def _add_matching(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--instances", type=Path, metavar="DIR", help="annotators' instance maps, so that touching objects stay apart"
    )
    command.add_argument(
        "--match",
        default="overlap",
        choices=["overlap", "iou", "dice"],
        help="an instance is found by any shared voxel, or one-to-one by IoU or Dice (default: overlap)",
    )
    command.add_argument(
        "--threshold", type=float, default=0.5, metavar="T", help="least IoU or Dice of a match (default: 0.5)"
    )


def _add_processes(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-np",
        type=int,
        default=min(8, os.cpu_count() or 1),
        metavar="N",
        help="worker processes (default: %(default)s)",
    )


def _path(_: argparse.Namespace) -> None:
    from nnunet_instance_trainers.linking import discovery_folder

    print(discovery_folder())


def _link(_: argparse.Namespace) -> None:
    from nnunet_instance_trainers.linking import link

    print(f"linked: {link()}")


def _unlink(_: argparse.Namespace) -> None:
    from nnunet_instance_trainers.linking import link_file, unlink

    removed = unlink()
    print(f"removed: {removed}" if removed else f"nothing to remove: no {link_file()}")


def _trainers(_: argparse.Namespace) -> None:
    from nnunet_instance_trainers import trainers

    width = max(map(len, trainers.__all__))
    for name in trainers.__all__:
        print(f"{name:{width}}  {(getattr(trainers, name).__doc__ or '').splitlines()[0]}")


def _pass_through(command: str, arguments: Sequence[str]) -> None:
    from nnunet_instance_trainers.linking import check_torchvision, set_variable

    if command == "train":
        _check_training_arguments(arguments)
    check_torchvision()
    set_variable()
    sys.argv = [_PASSED_THROUGH[command], *arguments]
    if command == "train":
        from nnunetv2.run.run_training import run_training_entry as entry
    else:
        from nnunetv2.inference.predict_from_raw_data import predict_entry_point as entry
    entry()


def _check_training_arguments(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(add_help=False)
    for positional in ("dataset", "configuration", "fold"):
        parser.add_argument(positional, nargs="?")
    parser.add_argument("-p", default="nnUNetPlans")
    for with_value in ("-tr", "-pretrained_weights", "-num_gpus", "-device"):
        parser.add_argument(with_value)
    known, _ = parser.parse_known_args(arguments)
    if known.dataset is not None and not {"-h", "--help"} & set(arguments):
        _plans_file(_dataset_name(known.dataset), known.p)


def _configure(arguments: argparse.Namespace) -> None:
    from nnunet_instance_trainers.configuration import PLANS_KEY, Settings
    from nnunet_instance_trainers.data.maps import write_atomically

    file = _plans_file(_dataset_name(arguments.d), arguments.p)
    target = file.with_name(f"{Path(arguments.o).name}.json")
    if arguments.o in ("", arguments.p) or target.stem != arguments.o:
        raise UserError(f"-o {arguments.o!r} is no name for a copy of {arguments.p!r}: give another name, not a path")
    plans, dataset = _read_json(file), _read_json(file.parent / "dataset.json")
    if target.exists() and not _was_configured(_read_json(target), PLANS_KEY):
        raise UserError(f"{target} exists and was not made by 'configure': give another name with -o")
    # Names of configurations hold no "=", so what -c took of the settings can be told from them.
    pairs = [pair for pair in arguments.c or () if "=" in pair] + arguments.settings
    chosen = [name for name in arguments.c or () if "=" not in name] or list(plans["configurations"])
    unknown = sorted(set(chosen) - set(plans["configurations"]))
    if unknown:
        raise UserError(f"{file} has no configuration {unknown[0]!r}: there are {', '.join(plans['configurations'])}")
    overrides = _parse_settings(pairs)
    has_regions = any(isinstance(label, list) and len(label) > 1 for label in dataset["labels"].values())
    for name in chosen:
        earlier = plans["configurations"][name].get(PLANS_KEY, {})
        merged = {**earlier, **overrides}
        if isinstance(overrides.get("weights"), dict):
            merged["weights"] = {**earlier.get("weights", {}), **overrides["weights"]}
        settings = Settings.resolve(object, merged, where=f"configuration {name!r}")
        settings.channels(dataset["labels"], has_regions)
        plans["configurations"][name][PLANS_KEY] = merged
    plans["plans_name"] = arguments.o
    with write_atomically(target) as temporary:
        temporary.write_text(json.dumps(plans, indent=4))
    print(f"wrote {target}; train with -p {arguments.o}")


def _was_configured(content: Any, key: str) -> bool:
    configurations = content.get("configurations") if isinstance(content, dict) else None
    return isinstance(configurations, dict) and any(key in plan for plan in configurations.values())


def _parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """``["num_epochs=5", "weights.blob=0.5"]`` as the nested dictionary that plans hold."""
    if not pairs:
        raise UserError("no settings given: add KEY=VALUE, such as num_epochs=250")
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise UserError(f"settings are KEY=VALUE, got {pair!r}")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text  # so that source=patch needs no quotes
        *parents, last = key.split(".")
        place = settings
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise UserError(f"setting {parent!r} is given as a whole and in parts ({key}): choose one")
        place[last] = value
    return settings


def _precompute(arguments: argparse.Namespace) -> None:
    names = [_dataset_name(dataset) for dataset in arguments.d]
    for name in names:
        _plans_file(name, arguments.p)
    from nnunet_instance_trainers.data.precompute import precompute

    for name in names:
        precompute(name, arguments.c, arguments.p, arguments.np)


def _evaluate(arguments: argparse.Namespace) -> None:
    _check_threshold(arguments.threshold)
    if arguments.froc is not None and not 0 < arguments.froc < 1:
        raise UserError(f"--froc takes a probability above 0 and below 1, got {arguments.froc:g}")
    bins = arguments.bins
    if bins != sorted(set(bins)) or not 0 < bins[0] <= bins[-1] < float("inf"):
        raise UserError(f"--bins must be positive and ascending, got {' '.join(f'{edge:g}' for edge in bins)}")
    from nnunet_instance_trainers.evaluation.folders import evaluate, format_table
    from nnunet_instance_trainers.evaluation.scores import Rule

    evaluation = evaluate(
        arguments.i,
        arguments.g,
        arguments.o,
        instances=arguments.instances,
        rule=Rule(arguments.match, arguments.threshold),
        bins_ml=bins,
        froc_threshold=arguments.froc,
        dataset_json=arguments.djfile,
        subset=arguments.chill,
        n_processes=arguments.np,
    )
    print(f"\n{format_table(evaluation)}\n\ntables: {arguments.o}")


def _compare(arguments: argparse.Namespace) -> None:
    from nnunet_instance_trainers.evaluation.comparison import compare, write_comparison
    from nnunet_instance_trainers.evaluation.models import parse_pairs, read_models

    models = read_models(arguments.models)
    names = [model.name for model in models]
    tables = compare(models, None if arguments.pairs is None else parse_pairs(arguments.pairs, names))
    write_comparison(tables, arguments.o)
    width = max(map(len, names))
    print(f"{'':{width}}    RA    RG    RI  volume ratio  F1 at IoU 0.5")
    for m, name in enumerate(names):
        ranks = "".join(f"{values[m]:6.2f}" for values in tables[0].mean_ranks.values())
        print(f"{name:{width}}{ranks}{tables[0].mean['volume_ratio'][m]:14.2f}{tables[0].mean['f1_iou50'][m]:15.3f}")
    print(f"wrote comparison.csv, ranks.csv and pairs.csv to {arguments.o}")


def _report(arguments: argparse.Namespace) -> None:
    from nnunet_instance_trainers.evaluation.report import write_report

    write_report(arguments.models, arguments.o, arguments.images, arguments.pairs)
    print(f"wrote {arguments.o}")


def _check_threshold(threshold: float) -> None:
    if not 0 < threshold <= 1:
        raise UserError(f"--threshold must be above 0 and at most 1, got {threshold:g}")


def _fit_ensemble(arguments: argparse.Namespace) -> None:
    if arguments.max_bins < 1:
        raise UserError(f"--max-bins must be at least 1, got {arguments.max_bins}")
    _check_threshold(arguments.threshold)
    for flag, values in (("--trainers", arguments.trainers), ("-f", arguments.f)):
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise UserError(f"{flag} has {twice} twice: give each once")
    if not os.environ.get("nnUNet_results"):
        raise UserError(
            "the environment variable nnUNet_results is not set: point it to nnU-Net's folder of trained models"
        )
    dataset = _dataset_name(arguments.d)
    _plans_file(dataset, arguments.p)
    from nnunet_instance_trainers.evaluation.scores import Rule
    from nnunet_instance_trainers.postprocessing.fit import fit_ensemble
    from nnunet_instance_trainers.postprocessing.fit_cases import Models
    from nnunet_instance_trainers.postprocessing.fit_report import commands, draw_sizes, format_fit
    from nnunet_instance_trainers.postprocessing.search import SCORES_TO_FIT

    if arguments.score not in SCORES_TO_FIT:
        raise UserError(f"--score must be one of {', '.join(SCORES_TO_FIT)}, got {arguments.score!r}")
    fitted = fit_ensemble(
        Models(dataset, arguments.c, arguments.p, tuple(arguments.trainers), tuple(arguments.f)),
        arguments.o,
        instances=arguments.instances,
        rule=Rule(arguments.match, arguments.threshold),
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
    from nnunet_instance_trainers.postprocessing.folders import ensemble, format_sources
    from nnunet_instance_trainers.postprocessing.options import read_plan

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
    print(f"\n{format_sources(rows)}\n\nensemble: {arguments.o}")
    if any(row["lost"] for row in rows):
        print("lost: found by two members, but by each with a size of the other's; --rescue keeps them")


def _demo(arguments: argparse.Namespace) -> None:
    from nnunet_instance_trainers.demo import run_demo

    run_demo(arguments.o, arguments.data, arguments.device)


def _dataset_name(dataset: str) -> str:
    """The folder name of a preprocessed dataset given by id or name."""
    folder = os.environ.get("nnUNet_preprocessed")
    if not folder:
        raise UserError(
            "the environment variable nnUNet_preprocessed is not set: point it to nnU-Net's folder of "
            "preprocessed datasets"
        )
    if dataset.startswith("Dataset"):
        return dataset
    if not dataset.isdigit():
        raise UserError(f"a dataset is an id such as 27 or a name such as Dataset027_ACDC, got {dataset!r}")
    names = sorted(path.name for path in Path(folder).glob(f"Dataset{int(dataset):03d}_*") if path.is_dir())
    if len(names) != 1:
        found = f"{len(names)} datasets have the id {dataset}" if names else f"there is no dataset {dataset}"
        raise UserError(f"{found} in {folder}: run 'nnUNetv2_plan_and_preprocess -d {dataset}', or give the full name")
    return names[0]


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        raise UserError(f"cannot read {file}: run 'nnUNetv2_plan_and_preprocess' for this dataset again") from None


def _plans_file(dataset_name: str, plans: str) -> Path:
    file = Path(os.environ["nnUNet_preprocessed"]) / dataset_name / f"{plans}.json"
    if not file.is_file():
        raise UserError(
            f"dataset {dataset_name!r} is not preprocessed with plans {plans!r} (no {file}): run "
            f"'nnUNetv2_plan_and_preprocess -d {dataset_name[7:10].lstrip('0')}'"
        )
    return file


if __name__ == "__main__":
    main()
