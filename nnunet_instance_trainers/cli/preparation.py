"""What comes before a training: settings in the plans, instance maps."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunet_instance_trainers.cli.arguments import AddCommand, add_processes
from nnunet_instance_trainers.cli.dataset_names import dataset_name, plans_file, read_plans_or_dataset
from nnunet_instance_trainers.errors import UserError

__all__ = ["add_commands", "parse_settings"]


def add_commands(add: AddCommand) -> None:
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
    add_processes(precompute)


def _configure(arguments: argparse.Namespace) -> None:
    from nnunet_instance_trainers.configuration import PLANS_KEY, Settings
    from nnunet_instance_trainers.data.map_store import write_atomically

    file = plans_file(dataset_name(arguments.d), arguments.p)
    target = file.with_name(f"{Path(arguments.o).name}.json")
    if arguments.o in ("", arguments.p) or target.stem != arguments.o:
        raise UserError(f"-o {arguments.o!r} is no name for a copy of {arguments.p!r}: give another name, not a path")
    plans, dataset = read_plans_or_dataset(file), read_plans_or_dataset(file.parent / "dataset.json")
    kept = _earlier_settings(read_plans_or_dataset(target), PLANS_KEY) if target.exists() else {}
    if target.exists() and not kept:
        raise UserError(f"{target} exists and was not made by 'configure': give another name with -o")
    for name, settings in kept.items():
        plans["configurations"].setdefault(name, {})[PLANS_KEY] = settings
    # Names of configurations hold no "=", so what -c took of the settings can be told from them.
    pairs = [pair for pair in arguments.c or () if "=" in pair] + arguments.settings
    chosen = [name for name in arguments.c or () if "=" not in name] or list(plans["configurations"])
    unknown = sorted(set(chosen) - set(plans["configurations"]))
    if unknown:
        raise UserError(f"{file} has no configuration {unknown[0]!r}: there are {', '.join(plans['configurations'])}")
    overrides = parse_settings(pairs)
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
    own = sorted({key for name in chosen for key in kept.get(name, {})} - set(overrides))
    earlier = f", which keeps {', '.join(own)}" if own else ""
    print(f"wrote {target}{earlier}; train with -p {arguments.o}")


def _earlier_settings(content: Any, key: str) -> dict[str, Any]:
    """The settings in each configuration of a plans file that 'configure' made; empty where it is none."""
    configurations = content.get("configurations") if isinstance(content, dict) else None
    if not isinstance(configurations, dict):
        return {}
    return {name: plan[key] for name, plan in configurations.items() if key in plan}


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
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
    names = [dataset_name(dataset) for dataset in arguments.d]
    for name in names:
        plans_file(name, arguments.p)
    from nnunet_instance_trainers.data.precompute import precompute

    for name in names:
        precompute(name, arguments.c, arguments.p, arguments.np)
