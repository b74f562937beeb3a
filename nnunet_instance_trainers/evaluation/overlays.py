"""Label images of what became of each object, with names and colours as ITK-SNAP and 3D Slicer read them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from nnunet_instance_trainers.data.map_store import UNFINISHED
from nnunet_instance_trainers.errors import UserError, writing
from nnunet_instance_trainers.evaluation.detection import Detection

__all__ = ["Overlay", "overlays_folder", "write_names"]

_FOUND, _MISSED, _HIT, _FALSE, _BOTH = range(1, 6)
# As in the figures, in hues that colour-blind readers tell apart.
_STATES = {
    "found": (44, 160, 44),
    "missed": (59, 140, 255),
    "hit": (255, 213, 74),
    "false": (255, 59, 48),
    "found and hit": (160, 230, 160),
}
_ITKSNAP, _SLICER = "itksnap_labels.txt", "slicer_colors.ctbl"


class Overlay:
    """What became of the objects of one case, voxel by voxel.

    Class c (from 0) has the values 5c + 1 to 5c + 5: found (of an instance, where no component lies), missed, hit (of a
    component, where no instance lies), false, and found and hit, where both lie. Where a missed instance or a false
    component shares voxels, the instance is shown. Where classes overlap, as regions do, the later one is shown.

    Args:
        shape: (*S) of the case.
        n_classes: how many there will be.

    Attributes:
        image: (*S) the values.
    """

    def __init__(self, shape: Sequence[int], n_classes: int) -> None:
        self.image = np.zeros(tuple(shape), np.min_scalar_type(len(_STATES) * n_classes))

    def add(self, c: int, box: tuple[slice, ...], detection: Detection) -> None:
        """Paint one class.

        Args:
            c: its index.
            box: the part of the case that was compared.
            detection: what became of its objects there.
        """
        instance = np.append(0, np.where(detection.found, _FOUND, _MISSED))[detection.instance_at]
        component = np.append(0, np.where(detection.hits, _HIT, _FALSE))[detection.component_at]
        state = np.where(instance > 0, instance, component)
        state[(instance == _FOUND) & (component == _HIT)] = _BOTH
        place = np.unravel_index(detection.place[state > 0], detection.shape)
        self.image[box][place] = len(_STATES) * c + state[state > 0]


def write_names(folder: Path, classes: Sequence[str]) -> None:
    """Write names and colours of all values beside overlays: ITK-SNAP's label descriptions and Slicer's color table.

    Args:
        folder: of the overlays.
        classes: in the order in which they were added.
    """
    named = [
        (len(_STATES) * c + number, f"{state} {name}" if len(classes) > 1 else state, colour)
        for c, name in enumerate(classes)
        for number, (state, colour) in enumerate(_STATES.items(), start=1)
    ]
    snap = ["# ITK-SnAP Label Description File", "# IDX  R  G  B  A  VIS MSH  LABEL", '0 0 0 0 0 0 0 "Clear Label"']
    snap += [f'{value} {r} {g} {b} 1 1 1 "{_quoted(name)}"' for value, name, (r, g, b) in named]
    slicer = ["# Color table file", f"# {len(named) + 1} values", "0 Background 0 0 0 0"]
    slicer += [f"{value} {'_'.join(name.split())} {r} {g} {b} 255" for value, name, (r, g, b) in named]
    for file, lines in ((_ITKSNAP, snap), (_SLICER, slicer)):
        with writing(folder):
            (folder / file).write_text("\n".join([*lines, ""]), encoding="utf-8")


def _quoted(name: str) -> str:
    return " ".join(name.replace('"', "'").split())


@contextmanager
def overlays_folder(output: Path, wanted: bool) -> Iterator[Path | None]:
    """A folder for overlays, which on success becomes ``overlays`` in the output in place of an earlier run's.

    Args:
        output: of the evaluation, made by it.
        wanted: whether there shall be any; without, an earlier run's are removed, since they would be of other scores.

    Raises:
        UserError: something else has that name, or the folder cannot be written to.
    """
    place = output / "overlays"
    if wanted and place.exists() and not (place / _SLICER).is_file():
        raise UserError(f"{place} was not written by 'evaluate --overlays': give another folder with -o")
    unfinished = output.resolve().with_name(f"{UNFINISHED}{output.resolve().name}_overlays")
    made = [parent for parent in unfinished.parents if not parent.exists()]
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        if wanted:
            with writing(output):
                unfinished.mkdir(parents=True)
        yield unfinished if wanted else None
        if (place / _SLICER).is_file():
            shutil.rmtree(place)
        if wanted:
            with writing(output):
                unfinished.rename(place)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        for parent in made:
            with suppress(OSError):  # it holds the results
                parent.rmdir()
