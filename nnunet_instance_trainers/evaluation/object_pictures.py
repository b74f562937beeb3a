"""Pictures of found, missed, false and merged objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nnunet_instance_trainers.evaluation.chart_looks import AS_WRITTEN
from nnunet_instance_trainers.evaluation.detection import Detection

__all__ = ["compare_models", "is_merged"]

# Colours of the papers' figures in hues that colour-blind readers tell apart; symbols are the second cue.
_STATES = {
    "found": ("#2ca02c", None),
    "merged": ("#d65cff", None),
    "missed": ("#3b8cff", "o"),
    "false": ("#ff3b30", "x"),
}


@AS_WRITTEN
def compare_models(
    file: Path,
    images: Mapping[str, np.ndarray],
    detections: Mapping[str, Mapping[str, Sequence[Detection]]],
    note: str,
) -> None:
    """Draw, for some images, the image, the true objects, and what each model made of them.

    A component that holds most of several instances has their number in its middle.

    Args:
        file: where to save; the ending decides the format.
        images: (H, W) or (D, H, W) grey values by case; of a volume the slice with most foreground is drawn.
        detections: for each model by name, for each case, one detection per class.
        note: a sentence below the picture.
    """
    models = list(detections)
    n_rows, n_columns = len(images), 2 + len(models)
    figure = Figure(figsize=(3.0 * n_columns, 3.0 * n_rows + 0.9), layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False)
    for row, (case, image) in zip(axes, images.items()):
        position = _slice(image, detections[models[0]][case])
        grey = image[position]
        low, high = np.percentile(grey, (0.5, 99.5))
        for axis in row:
            axis.imshow(grey, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_autoscale_on(False)
        row[0].set_ylabel(case, fontsize=9)
        for detection in detections[models[0]][case]:
            _outline(row[1], detection.instances[position], "#ffd54a")
        for axis, model in zip(row[2:], models):
            _draw(axis, detections[model][case], position)
    axes[0, 0].set_title("image", fontsize=10)
    axes[0, 1].set_title("truth", fontsize=10)
    for axis, model in zip(axes[0, 2:], models):
        axis.set_title(model, fontsize=10)
    handles = [
        Line2D([], [], color=colour, marker=marker, linewidth=2, markersize=6, markerfacecolor="none", label=state)
        for state, (colour, marker) in _STATES.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    figure.supxlabel(note, fontsize=8)
    figure.savefig(file, dpi=130)


def is_merged(detection: Detection) -> np.ndarray:
    """(M,) bool: the components that hold more than half of each of two or more instances."""
    return _instances_held(detection) > 1


def _instances_held(detection: Detection) -> np.ndarray:
    pairs = detection.pairs
    most = 2 * pairs.shared > pairs.instance_voxels[pairs.instance]
    return np.bincount(pairs.component[most], minlength=len(pairs.component_voxels))


def _slice(image: np.ndarray, detections: Sequence[Detection]) -> tuple[int, ...]:
    if image.ndim == 2:
        return ()
    occupied = sum((detection.instances > 0).sum((1, 2)) for detection in detections)
    return (int(np.argmax(occupied)),)


def _draw(axis: Axes, detections: Sequence[Detection], position: tuple[int, ...]) -> None:
    """Components green where they hit, violet where they merge and red where they hit nothing; missed ones blue."""
    for detection in detections:
        components, instances = detection.components[position], detection.instances[position]
        held = _instances_held(detection)
        states = np.where(held > 1, "merged", np.where(detection.hits, "found", "false"))
        for state in ("found", "merged", "false"):
            _objects(axis, np.where(np.append(False, states == state)[components], components, 0), state)
        _objects(axis, np.where(np.append(True, detection.found)[instances], 0, instances), "missed")
        for component in np.flatnonzero(held > 1) + 1:
            if (components == component).any():
                y, x = np.argwhere(components == component).mean(0)
                colour, _ = _STATES["merged"]
                axis.text(x, y, str(held[component - 1]), color=colour, ha="center", va="center", weight="bold")


def _objects(axis: Axes, ids: np.ndarray, state: str) -> None:
    colour, marker = _STATES[state]
    _outline(axis, ids, colour)
    if marker:
        for object_id in np.unique(ids[ids > 0]):
            y, x = np.argwhere(ids == object_id).mean(0)
            axis.plot(x, y, marker, color=colour, markersize=6, markerfacecolor="none", markeredgewidth=1.4)


def _outline(axis: Axes, ids: np.ndarray, colour: str) -> None:
    """Outline every object by itself, so that touching ones stay apart; a rim closes those at the border."""
    for object_id in np.unique(ids[ids > 0]):
        mask = np.pad(ids == object_id, 1)
        axis.contour(
            np.arange(-1, ids.shape[1] + 1), np.arange(-1, ids.shape[0] + 1), mask, [0.5], colors=colour, linewidths=1.4
        )
