"""The images of the demo: tiles of a sample image with expert masks, or a raw dataset of the user."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from nnunet_instance_trainers.data.nnunet_commands import dataset_id
from nnunet_instance_trainers.errors import UserError

__all__ = ["copy_dataset", "held_out", "sample_dataset"]

_TILE = 128


def sample_dataset(raw: Path) -> Path:
    """The fluorescence image with expert masks in the stardist wheel, as tiles; a quarter of them is held out."""
    from tifffile import imread, imwrite

    spec = find_spec("stardist")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the demo's sample image comes with stardist: run 'pip install nnunet-instance-trainers[demo]'")
    source = Path(spec.submodule_search_locations[0]) / "data" / "images"
    image, instances = imread(source / "img2d.tif"), imread(source / "mask2d.tif")
    dataset = raw / "Dataset001_Nuclei"
    for name in ("imagesTr", "labelsTr", "instancesTr", "imagesTs", "labelsTs", "instancesTs"):
        (dataset / name).mkdir(parents=True, exist_ok=True)
    rows, columns = (size // _TILE for size in image.shape)
    for row in range(rows):
        for column in range(columns):
            tile = np.s_[row * _TILE : (row + 1) * _TILE, column * _TILE : (column + 1) * _TILE]
            subset = "Ts" if row >= rows // 2 and column >= columns // 2 else "Tr"
            case = f"tile_{row}{column}"
            imwrite(dataset / f"images{subset}" / f"{case}_0000.tif", image[tile])
            imwrite(dataset / f"labels{subset}" / f"{case}.tif", (instances[tile] > 0).astype(np.uint8))
            imwrite(dataset / f"instances{subset}" / f"{case}.tif", instances[tile].astype(np.uint16))
    description = {
        "channel_names": {"0": "fluorescence"},
        "labels": {"background": 0, "nucleus": 1},
        "numTraining": len(list((dataset / "labelsTr").iterdir())),
        "file_ending": ".tif",
        "overwrite_image_reader_writer": "NaturalImage2DIO",
    }
    (dataset / "dataset.json").write_text(json.dumps(description, indent=1))
    return dataset


def copy_dataset(data: Path, raw: Path) -> Path:
    name = data.resolve().name
    if not (data / "dataset.json").is_file() or dataset_id(name) == name:
        raise UserError(
            f"{data} is no raw dataset in nnU-Net format: it needs a dataset.json and a name like Dataset123_Lesions"
        )
    return Path(shutil.copytree(data, raw / name, dirs_exist_ok=True))


def held_out(raw: Path, preprocessed: Path, target: Path) -> tuple[Path, dict[str, Path]]:
    """A folder of held-out images and their labels by case: imagesTs with labelsTs, or fold 0's validation cases."""
    ending = json.loads((raw / "dataset.json").read_text())["file_ending"]
    subset = "Ts" if (raw / "labelsTs").is_dir() else "Tr"
    labels = {path.name[: -len(ending)]: path for path in sorted((raw / f"labels{subset}").glob(f"*{ending}"))}
    if subset == "Ts":
        return raw / "imagesTs", labels
    splits = preprocessed / "splits_final.json"
    if (raw / "splits_final.json").is_file():
        shutil.copy(raw / "splits_final.json", splits)
    if not splits.is_file():
        raise UserError(f"{raw} has neither labelsTs nor splits_final.json: add one, so that something is held out")
    cases = json.loads(splits.read_text())[0]["val"]
    target.mkdir(exist_ok=True)
    for case in cases:
        for image in (raw / "imagesTr").glob(f"{case}_????{ending}"):
            shutil.copy(image, target / image.name)
    return target, {case: labels[case] for case in cases}
