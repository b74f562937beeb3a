"""Pictures of whole cases: maximum-intensity projections in three views, or the image itself in 2D."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import ndimage

from nnunet_instance_trainers.evaluation.detection import Detection
from nnunet_instance_trainers.evaluation.report.charts import AS_WRITTEN, STATES, panel_columns

__all__ = ["CaseView", "draw_case", "view"]

_CODES = {state: code for code, state in enumerate(STATES, start=1)}  # the higher covers the lower
_MARKERS = {"missed": "o", "false": "x"}
_VIEWS = ("axial", "coronal", "sagittal")
_WIDTH = 8.6


@dataclass(frozen=True)
class CaseView:
    """What a picture needs to know of one model's prediction for one case.

    Attributes:
        codes: (*S) uint8, 0 nothing, then found, missed and false objects in the order of ``STATES``.
        places: for "missed" and "false", the centres (K, D) of these objects in voxels.
        counts: objects by state.
    """

    codes: np.ndarray
    places: dict[str, np.ndarray]
    counts: dict[str, int]


def view(detections: Sequence[Detection]) -> CaseView:
    """Sum up the detections of one case, one per class: components green where they hit, red where not, missed blue."""
    codes = np.zeros(detections[0].instances.shape, np.uint8)
    places: dict[str, list[np.ndarray]] = {state: [] for state in _MARKERS}
    for detection in detections:
        hit = np.append(False, detection.hits)[detection.components]
        missed = np.append(True, detection.found)[detection.instances] == 0
        false = (detection.components > 0) & ~hit
        for state, mask in (("found", hit), ("missed", missed), ("false", false)):
            codes[mask] = np.maximum(codes[mask], _CODES[state])
        places["missed"].append(_centres(detection.instances, ~detection.found))
        places["false"].append(_centres(detection.components, ~detection.hits))
    return CaseView(
        codes,
        {state: np.concatenate(parts) for state, parts in places.items()},
        {
            "found": sum(int(detection.found.sum()) for detection in detections),
            "missed": sum(int((~detection.found).sum()) for detection in detections),
            "false": sum(int((~detection.hits).sum()) for detection in detections),
        },
    )


@AS_WRITTEN
def draw_case(
    views: Mapping[str, CaseView], image: np.ndarray | None, spacing: Sequence[float], titles: Mapping[str, str]
) -> Figure:
    """Draw one case, a row per model and a column per view; 2D images side by side.

    Args:
        views: by model.
        image: (*S) grey values below the objects; None leaves the ground white.
        spacing: of the axes, in the order of the array.
        titles: by model, a line above its row.
    """
    is_flat = next(iter(views.values())).codes.ndim == 2
    figure = _draw_flat(views, image, spacing, titles) if is_flat else _draw_volume(views, image, spacing, titles)
    handles = [
        Line2D([], [], linestyle="", marker="s", color=colour, markersize=8, label=state)
        for state, (colour, _) in STATES.items()
    ]
    for handle, state in zip(handles, STATES):
        if state in _MARKERS:
            handle.set(marker=_MARKERS[state], markerfacecolor="none", markeredgewidth=1.8, markersize=7)
    figure.legend(handles=handles, loc="outside lower right", ncols=3, frameon=False, fontsize=9)
    return figure


def _draw_flat(
    views: Mapping[str, CaseView], image: np.ndarray | None, spacing: Sequence[float], titles: Mapping[str, str]
) -> Figure:
    columns = panel_columns(len(views))
    rows = -(-len(views) // columns)
    height, width = np.multiply(next(iter(views.values())).codes.shape, spacing)
    figure = Figure(figsize=(_WIDTH, rows * (_WIDTH / columns * height / width + 0.85) + 0.45), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in grid[len(views) :]:
        axis.remove()
    for axis, (model, one) in zip(grid, views.items()):
        _panel(axis, one.codes, image, one.places, spacing)
        axis.set_title(titles[model], fontsize=8, loc="left")
    return figure


def _draw_volume(
    views: Mapping[str, CaseView], image: np.ndarray | None, spacing: Sequence[float], titles: Mapping[str, str]
) -> Figure:
    extent = np.multiply(next(iter(views.values())).codes.shape, spacing)
    shapes = [np.delete(extent, axis) for axis in range(3)]
    widths = [shape[1] for shape in shapes]
    height = max(shape[0] for shape in shapes) * _WIDTH / sum(widths)
    figure = Figure(figsize=(_WIDTH, len(views) * (height + 0.4) + 0.35), layout="constrained")
    grid = figure.subplots(len(views), 3, squeeze=False, width_ratios=widths)
    for row, (model, one) in zip(grid, views.items()):
        for along, axis in enumerate(row):
            centres = {state: np.delete(found, along, axis=1) for state, found in one.places.items()}
            below = None if image is None else image.max(along)
            _panel(axis, one.codes.max(along), below, centres, np.delete(spacing, along), upwards=along > 0)
            ink = "#5a5f66" if image is None else "white"
            axis.annotate(
                _VIEWS[along], (0, 1), (4, -4), "axes fraction", "offset points", va="top", fontsize=7, color=ink
            )
            axis.set_anchor("N")
        row[0].set_title(titles[model], fontsize=8, loc="left")
    return figure


def _panel(
    axis: Axes,
    codes: np.ndarray,
    image: np.ndarray | None,
    centres: Mapping[str, np.ndarray],
    spacing: Sequence[float],
    upwards: bool = False,
) -> None:
    origin = "lower" if upwards else "upper"  # the head at the top
    axis.imshow(_colours(codes, image), origin=origin, aspect=spacing[0] / spacing[1], interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_autoscale_on(False)
    for spine in axis.spines.values():
        spine.set_color("#c9cdd2")
    for state, marker in _MARKERS.items():
        places = centres[state]
        size = 34 if len(places) <= 40 else 14 if len(places) <= 200 else 5
        colour = STATES[state][0]
        edge = {"facecolors": "none", "edgecolors": colour} if marker == "o" else {"color": colour}
        axis.scatter(places[:, 1], places[:, 0], s=size, marker=marker, linewidths=1.1 if size > 5 else 0.6, **edge)


def _colours(codes: np.ndarray, image: np.ndarray | None) -> np.ndarray:
    """(H, W, 3): objects filled on white, and outlined with a breath of fill on an image."""
    if image is None:
        ground, fill = np.full((*codes.shape, 3), 1.0), 0.5
    else:
        low, high = np.percentile(image, (0.5, 99.5))
        grey = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
        ground, fill = np.repeat(0.85 * grey[..., None], 3, axis=2), 0.25
    rim = ndimage.minimum_filter(codes, 3) != ndimage.maximum_filter(codes, 3)
    for state, code in _CODES.items():
        for mask, alpha in ((codes == code, fill), ((codes == code) & rim, 1.0)):
            ground[mask] += alpha * (np.array(to_rgb(STATES[state][0])) - ground[mask])
    return ground


def _centres(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    numbers = np.flatnonzero(wanted) + 1
    if not len(numbers):
        return np.zeros((0, ids.ndim))
    return np.array(ndimage.center_of_mass(ids > 0, ids, numbers)).reshape(-1, ids.ndim)
