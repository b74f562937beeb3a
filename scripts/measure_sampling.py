"""What the setting ``sampling`` changes: which objects become the centre of a patch, and what the loader takes for it.

    nnunet-instance precompute -d 27 -c 3d_fullres
    python scripts/measure_sampling.py -d 27 -c 3d_fullres

All samplings run in one process on one preprocessed dataset, their loaders a batch each in turn. Times are those of the
processor, so that other work on the machine counts for little. Shares are means over cases, which the loader draws
all alike.
"""

from __future__ import annotations

import argparse
import os
from contextlib import redirect_stdout
from itertools import pairwise
from statistics import mean
from tempfile import TemporaryDirectory
from time import process_time

os.environ.update(nnUNet_n_proc_DA="0")

import blosc2
import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from tqdm import tqdm

from nnunet_instance_trainers.configuration import PLANS_KEY
from nnunet_instance_trainers.data.map_store import map_file, maps_folder
from nnunet_instance_trainers.trainers import nnUNetTrainerInstanceBaseline

SAMPLINGS = ("voxel", 0.5, "instance")
EDGES = (0, 10, 100, 1000, np.inf)


def loader(arguments: argparse.Namespace, sampling: str | float) -> nnUNetDataLoader:
    """The training loader of the baseline, which has no ids to carry."""
    folder = os.path.join(str(nnUNet_preprocessed), maybe_convert_to_dataset_name(arguments.d))
    plans, dataset = (load_json(os.path.join(folder, name)) for name in (f"{arguments.p}.json", "dataset.json"))
    plans["continue_training"] = False  # as nnUNetv2_train adds it
    plans["configurations"][arguments.c].setdefault(PLANS_KEY, {}).update(sampling=sampling, seed=0)
    trainer = nnUNetTrainerInstanceBaseline(plans, arguments.c, "all", dataset, torch.device("cpu"))
    trainer.initialize()
    return trainer.get_dataloaders()[0].data_loader


def milliseconds_per_patch(loaders: dict, batches: int) -> dict[str | float, list[float]]:
    """Of opening a case and its class locations, and of the whole loader's work; the first batch warms up."""
    times: dict[str | float, list[list[float]]] = {sampling: [[], []] for sampling in loaders}
    for batch in tqdm(range(batches), desc="loading"):
        for sampling, of_sampling in list(loaders.items())[:: 1 if batch % 2 else -1]:
            start = process_time()
            for number in range(20):
                case = of_sampling.indices[number % len(of_sampling.indices)]
                len(of_sampling._data.load_case(case)[3]["class_locations"])
            opened = process_time()
            next(of_sampling)
            measured = (opened - start) / 20, (process_time() - opened) / of_sampling.batch_size
            for part, seconds in zip(times[sampling], measured):
                part += [1000 * seconds] if batch else []
    return {sampling: [mean(part) for part in parts] for sampling, parts in times.items()}


def sizes_of_centres(of_sampling: nnUNetDataLoader, ids: dict[str, np.ndarray], draws: int) -> list[np.ndarray]:
    """For each case the sizes of the objects that are the centres of patches that must show foreground."""
    # A patch of one voxel is the chosen voxel itself, never moved inwards at a border.
    of_sampling.patch_size, of_sampling.need_to_pad = (1,) * 3, np.zeros(3, dtype=int)
    sizes = []
    for case, map_of_case in ids.items():
        size, centres = np.bincount(map_of_case.ravel()), []
        for _ in range(draws):
            data, _, _, properties = of_sampling._data.load_case(case)
            centres.append(of_sampling.get_bbox(data.shape[1:], True, properties["class_locations"])[0])
        sizes.append(size[map_of_case[tuple(np.transpose(centres))]])
    return sizes


def by_size(cases: list[np.ndarray], *, voxels: bool = False) -> str:
    """The mean over cases of the share of sizes in each bin, of objects or of their voxels."""
    shares = []
    for sizes in cases:
        counts = np.histogram(sizes, np.add(EDGES, 0.5), weights=sizes if voxels else None)[0]
        shares.append(counts / counts.sum())
    return "".join(f"{share:>12.1%}" for share in np.mean(shares, 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True, help="dataset id or name of one class, preprocessed and precomputed")
    parser.add_argument("-c", default="3d_fullres", help="configuration")
    parser.add_argument("-p", default="nnUNetPlans", help="plans")
    parser.add_argument("--draws", type=int, default=2000, help="per case")
    parser.add_argument("--batches", type=int, default=31, help="per sampling; the first warms up")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as results, open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        os.environ["nnUNet_results"] = results
        loaders = {sampling: loader(arguments, sampling) for sampling in SAMPLINGS}
    times = milliseconds_per_patch(loaders, arguments.batches)
    stock = loaders["voxel"]
    folder = maps_folder(stock._data.source_folder)
    ids = {case: blosc2.open(str(map_file(folder, case)))[:][0] for case in stock.indices}
    sizes = [np.bincount(of_case.ravel())[1:] for of_case in ids.values()]
    listed = [
        len(np.unique(of_case[tuple(stock._data.load_case(case)[3]["class_locations"][1].T[1:])]))
        for case, of_case in ids.items()
    ]
    number = sum(map(len, sizes))
    print(f"{number} objects in {len(ids)} cases, {number - sum(listed)} of them in none of nnU-Net's lists of voxels")
    names = (f"{low + 1}-{high}" if high < np.inf else f"> {low}" for low, high in pairwise(EDGES))
    print(f"{'size of the object':24}{''.join(f'{name:>12}' for name in names)}{'opening':>13}{'loader':>13}")
    print(f"{'share of the objects':24}{by_size(sizes)}\n{'share of their voxels':24}{by_size(sizes, voxels=True)}")
    for sampling, of_sampling in loaders.items():
        shares = by_size(sizes_of_centres(of_sampling, ids, arguments.draws))
        print(f"{f'centres, {sampling}':24}{shares}{''.join(f'{time:>10.1f} ms' for time in times[sampling])}")


if __name__ == "__main__":
    main()
