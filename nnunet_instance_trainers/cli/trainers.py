"""Finding the trainers, and nnU-Net's own commands with the trainers found."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nnunet_instance_trainers.cli.arguments import AddCommand
from nnunet_instance_trainers.cli.dataset_names import dataset_name, plans_file, results_folder, trained_dataset_name
from nnunet_instance_trainers.errors import UserError

__all__ = ["PASSED_THROUGH", "add_commands", "pass_through"]

PASSED_THROUGH = {"train": "nnUNetv2_train", "predict": "nnUNetv2_predict"}


def add_commands(add: AddCommand) -> None:
    add("path", _path, 'print the folder for nnU-Net: export nnUNet_extTrainer="$(nnunet-instance path)"')
    add("link", _link, "let nnU-Net find the trainers without that variable, by one file inside nnunetv2")
    add("unlink", _unlink, "remove that file again")
    trainers = add("trainers", _trainers, "list the trainers, a line each")
    trainers.add_argument(
        "--verbose", action="store_true", help="say too what numbers predicted components on each device here, and why"
    )
    add("train", None, "nnUNetv2_train with the trainers found; takes its arguments")
    add("predict", None, "nnUNetv2_predict with the trainers found; takes its arguments")

    release = add("release", _release, "copy a trained model, so that plain nnU-Net predicts with it; checked")
    release.add_argument("-d", required=True, metavar="DATASET", help="dataset id or name")
    release.add_argument("-c", required=True, metavar="CONFIGURATION", help="such as 3d_fullres")
    release.add_argument("-tr", required=True, metavar="TRAINER", help="the trainer that it was trained with")
    release.add_argument("-p", default="nnUNetPlans", metavar="PLANS", help="default: nnUNetPlans")
    release.add_argument(
        "-f", type=_fold, nargs="+", default=[0, 1, 2, 3, 4], metavar="FOLD", help="folds or all (default: 0 1 2 3 4)"
    )
    release.add_argument(
        "-chk", default="checkpoint_final.pth", metavar="NAME", help="checkpoint (default: checkpoint_final.pth)"
    )
    release.add_argument("-o", required=True, type=Path, metavar="OUT", help="folder of results for the copy")
    release.add_argument("-i", type=Path, metavar="IMAGES", help="images, whose predictions must be equal")
    release.add_argument(
        "-device", default="cpu", choices=["cpu", "cuda", "mps"], help="where IMAGES are predicted (default: cpu)"
    )


def _fold(text: str) -> int | str:
    return text if text == "all" else int(text)


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


def _trainers(arguments: argparse.Namespace) -> None:
    from nnunet_instance_trainers import trainers

    width = max(map(len, trainers.__all__))
    for name in trainers.__all__:
        print(f"{name:{width}}  {(getattr(trainers, name).__doc__ or '').splitlines()[0]}")
    if arguments.verbose:
        _print_labellers()


def _print_labellers() -> None:
    from nnunet_instance_trainers.checking.installation import labellers

    print("\ncomponents of predictions are numbered by")
    for device, way in labellers():
        print(f"  {device:6}  {way}")


def pass_through(command: str, arguments: Sequence[str]) -> None:
    from nnunet_instance_trainers.linking import check_torchvision, set_variable

    if command == "train":
        _check_training_arguments(arguments)
    check_torchvision()
    set_variable()
    sys.argv = [PASSED_THROUGH[command], *arguments]
    if command == "train":
        from nnunetv2.run.run_training import run_training_entry as entry
    else:
        from nnunetv2.inference.predict_from_raw_data import predict_entry_point as entry
    from torch.multiprocessing import ProcessExitedException

    try:
        entry()
    except ProcessExitedException as error:
        if error.exit_code != 1:
            raise
        raise SystemExit(1) from None  # one of several processes ended with a line of its own


def _check_training_arguments(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(add_help=False)
    for positional in ("dataset", "configuration", "fold"):
        parser.add_argument(positional, nargs="?")
    parser.add_argument("-p", default="nnUNetPlans")
    for with_value in ("-tr", "-pretrained_weights", "-num_gpus", "-device"):
        parser.add_argument(with_value)
    known, _ = parser.parse_known_args(arguments)
    if known.dataset is not None and not {"-h", "--help"} & set(arguments):
        plans_file(dataset_name(known.dataset), known.p)


def _release(arguments: argparse.Namespace) -> None:
    folds = list(dict.fromkeys(arguments.f))
    if Path(arguments.chk).name != arguments.chk:
        raise UserError(f"-chk {arguments.chk} is a path: give the name of the file in each fold")
    if arguments.i is not None and not arguments.i.is_dir():
        raise UserError(f"-i {arguments.i} is no folder: give the folder of some images")
    dataset = trained_dataset_name(arguments.d)
    from nnunet_instance_trainers.linking import check_torchvision, set_variable

    check_torchvision()
    set_variable()
    from nnunet_instance_trainers.release import TrainedModel, release

    model = TrainedModel(results_folder(), dataset, arguments.c, arguments.p, arguments.tr, tuple(folds), arguments.chk)
    folders = release(model, arguments.o, images=arguments.i, device=arguments.device)
    print("\nreleased; plain nnU-Net predicts with:\n")
    for folder in folders:
        stage = " -prev_stage_predictions PREVIOUS" if folder != folders[0] else ""
        print(
            f"nnUNetv2_predict_from_modelfolder -i IMAGES -o PREDICTIONS -m {folder} "
            f"-f {' '.join(map(str, folds))}{stage}"
        )
