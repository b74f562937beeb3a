"""One set of known objects in every form that ``import`` reads, made by the formats' own writers where they are light.

Cellpose's files are made as its ``io.py`` (4.0) writes them: ``np.save`` of a dictionary, and an image of masks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import tifffile
from skimage.io import imsave

FLAT, VOLUME = (40, 48), (12, 20, 24)
CASES = ("p1_a", "p1_b", "p2_a", "p3_a")


def objects(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Ids (*S) of boxes with twins that touch them, and of one L; ids have gaps."""
    generator = np.random.default_rng(seed)
    ids = np.zeros(shape, np.uint16)
    for number in range(3, 15, 4):
        size = generator.integers(2, 5, len(shape))
        low = [int(generator.integers(1, extent - 2 * s)) for extent, s in zip(shape, size)]
        box = tuple(slice(a, a + s) for a, s in zip(low, size))
        twin = (*box[:-1], slice(low[-1] + size[-1], low[-1] + 2 * size[-1]))
        if not ids[box].any() and not ids[twin].any():
            ids[box], ids[twin] = number, number + 1
    if not ids[..., :5, :1].any():
        ids[..., :5, 0] = ids[..., 0, :1] = 1
    return ids


def all_objects(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {case: objects(shape, seed) for seed, case in enumerate(CASES)}


def voxels(ids: np.ndarray) -> set[bytes]:
    """What the objects of an image are, whatever their numbers."""
    ids = ids.reshape(ids.shape[-3:])
    ids = ids.reshape(ids.shape[1:]) if ids.shape[0] == 1 else ids
    return {(ids == number).tobytes() for number in np.unique(ids[ids > 0])}


def image_of(ids: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 10, ids.shape)
    return (100 * (ids > 0) + 60 + noise).clip(0, 255).astype(np.uint8)


def save_volume(array: np.ndarray, path: Path) -> None:
    """An anisotropic volume that is turned against the axes of the patient."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.9, 0.8, 2.5))
    image.SetOrigin((-31.5, 12.25, 7))
    image.SetDirection((0.8, 0.6, 0, -0.6, 0.8, 0, 0, 0, -1))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def _flat_images(folder: Path, cases: Mapping[str, np.ndarray], ending: str = ".png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for case, ids in cases.items():
        imsave(folder / f"{case}{ending}", image_of(ids), check_contrast=False)


# --- one writer for each form: returns -i and -l -----------------------------------------------------------


def stardist(root: Path, cases: Mapping[str, np.ndarray]) -> list[Path]:
    from csbdeep.io import save_tiff_imagej_compatible  # stardist's own

    _flat_images(root / "images", cases, ".tif")
    (root / "masks").mkdir()
    for case, ids in cases.items():
        save_tiff_imagej_compatible(root / "masks" / f"{case}.tif", ids, axes="YX")
    return [root / "images", root / "masks"]


def cellpose_tif(root: Path, cases: Mapping[str, np.ndarray]) -> list[Path]:
    """All in one folder, with what Cellpose leaves beside the masks."""
    _flat_images(root, cases, ".tif")
    for case, ids in cases.items():
        tifffile.imwrite(root / f"{case}_cp_masks.tif", ids)
        tifffile.imwrite(root / f"{case}_flows.tif", np.zeros((*ids.shape, 3), np.uint8))
        (root / f"{case}_cp_outlines.txt").write_text("1,2,3,4\n")
    return [root]


def cellpose_npy(root: Path, cases: Mapping[str, np.ndarray]) -> list[Path]:
    _flat_images(root, cases)
    for case, ids in cases.items():
        content = {
            "outlines": np.zeros_like(ids),
            "masks": ids,
            "chan_choose": [0, 0],
            "ismanual": np.zeros(3, bool),
            "filename": str(root / f"{case}.png"),
            "flows": [np.zeros((*ids.shape, 3), np.uint8), np.zeros((2, *ids.shape), np.float32), [], None],
            "diameter": np.float64(17.5),
        }
        np.save(root / f"{case}_seg.npy", content)
    return [root]


def imagej_stack(root: Path, cases: Mapping[str, np.ndarray]) -> list[Path]:
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    words = {"axes": "ZYX", "spacing": 2.0, "unit": "um"}
    for case, ids in cases.items():
        tifffile.imwrite(root / "images" / f"{case}.tif", image_of(ids), imagej=True, resolution=(4, 2), metadata=words)
        tifffile.imwrite(root / "labels" / f"{case}.tif", ids, imagej=True)
    return [root / "images", root / "labels"]


def itksnap(root: Path, cases: Mapping[str, np.ndarray]) -> list[Path]:
    for case, ids in cases.items():
        save_volume(image_of(ids), root / "images" / f"{case}.nii.gz")
        save_volume(ids, root / "lesions" / f"{case}.nii.gz")
    return [root / "images", root / "lesions"]


def slicer(root: Path, cases: Mapping[str, np.ndarray]) -> list[Path]:
    """Two channels under nnU-Net's names, labels as NRRD."""
    for case, ids in cases.items():
        for channel in range(2):
            save_volume(image_of(ids) + channel, root / "images" / f"{case}_{channel:04d}.nii.gz")
        save_volume(ids, root / "lesions" / f"{case}-label.nrrd")
    return [root / "images", root / "lesions"]


def masks(root: Path, cases: Mapping[str, np.ndarray]) -> list[Path]:
    """As in the Data Science Bowl 2018: colours with alpha, one PNG for each nucleus."""
    for case, ids in cases.items():
        for folder in ("images", "masks"):
            (root / case / folder).mkdir(parents=True)
        grey = image_of(ids)
        colours = np.dstack([grey, grey, grey, np.full_like(grey, 255)])
        imsave(root / case / "images" / f"{case}.png", colours, check_contrast=False)
        for number in np.unique(ids[ids > 0]):
            mask = (ids == number).astype(np.uint8) * 255
            imsave(root / case / "masks" / f"{number:04d}.png", mask, check_contrast=False)
    return [root]


def outlines(mask: np.ndarray):
    """A mask (H, W) as a polygon of shapely along the edges of its pixels."""
    from shapely import box, unary_union

    return unary_union([box(x, y, x + 1, y + 1) for y, x in np.argwhere(mask)])


def coco(root: Path, cases: Mapping[str, np.ndarray]) -> list[Path]:
    """Polygons, compressed run-length codes and uncompressed ones in turn; two categories; JPEG in a folder."""
    from pycocotools import mask as codes

    _flat_images(root / "images" / "train", cases, ".jpg")
    content: dict = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 7, "name": "odd"}, {"id": 2, "name": "even"}],
    }
    for key, (case, ids) in enumerate(cases.items()):
        entry = {"id": key, "file_name": f"train/{case}.jpg", "height": ids.shape[0], "width": ids.shape[1]}
        content["images"].append(entry)
        for turn, number in enumerate(np.unique(ids[ids > 0])):
            mask = ids == number
            if turn % 3 == 0:
                segmentation = [[float(v) for v in np.array(outlines(mask).exterior.coords)[:-1].ravel()]]
            elif turn % 3 == 1:
                segmentation = codes.encode(np.asfortranarray(mask.astype(np.uint8)))
                segmentation["counts"] = segmentation["counts"].decode()
            else:
                flat = np.append(0, mask.ravel(order="F")).astype(int)
                starts = np.flatnonzero(np.diff(flat))
                counts = np.diff([0, *starts, mask.size])
                segmentation = {"size": list(mask.shape), "counts": counts.tolist()}
            content["annotations"].append(
                {
                    "id": len(content["annotations"]),
                    "image_id": key,
                    "category_id": 7 if number % 2 else 2,
                    "iscrowd": 0,
                    "segmentation": segmentation,
                }
            )
    (root / "instances.json").write_text(json.dumps(content))
    return [root / "images", root / "instances.json"]


def qupath(root: Path, cases: Mapping[str, np.ndarray]) -> list[Path]:
    import geojson
    from shapely.geometry import mapping

    _flat_images(root / "images", cases)
    (root / "objects").mkdir()
    for case, ids in cases.items():
        features = [
            geojson.Feature(
                geometry=mapping(outlines(ids == number)),
                properties={
                    "objectType": "annotation",
                    "classification": {"name": "Tumor" if number % 2 else "Stroma", "color": [200, 0, 0]},
                },
            )
            for number in np.unique(ids[ids > 0])
        ]
        (root / "objects" / f"{case}.png.geojson").write_text(geojson.dumps(geojson.FeatureCollection(features)))
    return [root / "images", root / "objects"]


def nnunet_labels(root: Path, cases: Mapping[str, np.ndarray]) -> list[Path]:
    """A class for each lesion."""
    for case, ids in cases.items():
        save_volume(image_of(ids), root / "imagesTr" / f"{case}_0000.nii.gz")
        save_volume(ids, root / "labelsTr" / f"{case}.nii.gz")
    labels = {"background": 0, **{f"lesion {number}": number for number in range(1, 16)}}
    content = {"channel_names": {"0": "MR"}, "labels": labels, "numTraining": len(cases), "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(content))
    return [root]


FORMS: dict[str, tuple[tuple[int, ...], Callable[[Path, Mapping[str, np.ndarray]], list[Path]]]] = {
    "StarDist": (FLAT, stardist),
    "CellposeTif": (FLAT, cellpose_tif),
    "CellposeNpy": (FLAT, cellpose_npy),
    "ImageJ": (VOLUME, imagej_stack),
    "ITKSNAP": (VOLUME, itksnap),
    "Slicer": (VOLUME, slicer),
    "Masks": (FLAT, masks),
    "COCO": (FLAT, coco),
    "QuPath": (FLAT, qupath),
    "Labels": (VOLUME, nnunet_labels),
}
"""Shape of the images and writer of each form."""
