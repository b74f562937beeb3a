"""Pictures of whole cases: maximum-intensity projections in three views, or the image itself in 2D."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scipy import ndimage

from nnunet_instance_trainers.evaluation.chart_looks import MARKERS, STATES
from nnunet_instance_trainers.evaluation.detection import Detection

__all__ = ["CaseView", "Frame", "draw_case", "view"]

_CODES = {state: code for code, state in enumerate(STATES, start=1)}  # the higher covers the lower
_LOOKS = {state: (colour, MARKERS.get(state, "")) for state, (colour, _) in STATES.items()}
_VIEWS = ("axial", "coronal", "sagittal")
_WIDTH = 8.6


@dataclass(frozen=True)
class Frame:
    """How an array as its reader gives it is turned for pictures.

    Attributes:
        shape: (*S) of the array.
        order: which of its axes become up, back and left, or down and right where it has one slice.
        flips: which of those run the other way.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    flips: tuple[int, ...] = ()

    @classmethod
    def of(cls, shape: tuple[int, ...], geometry: Mapping[str, Any]) -> Frame:
        """From what nnU-Net's reader says; an array of one slice is flat."""
        order, flips = _orientation(geometry)
        return cls(shape, (1, 2)) if shape[0] == 1 else cls(shape, tuple(order), tuple(flips))

    def edges(self, spacing: Sequence[float]) -> list[float]:
        """Spacings in the picture's order."""
        return [float(spacing[axis]) for axis in self.order]

    def places(self, coordinates: np.ndarray) -> np.ndarray:
        """(K, D) of (K, 3) coordinates in the array."""
        turned = coordinates[:, self.order]
        for axis in self.flips:
            turned[:, axis] = self.shape[self.order[axis]] - 1 - turned[:, axis]
        return turned

    def projections(self, array: np.ndarray) -> tuple[np.ndarray, ...]:
        """The maximum along each axis of the picture; of one slice itself."""
        if len(self.order) == 2:
            return (array[0],)
        turned = np.flip(array.transpose(self.order), self.flips)
        return tuple(turned.max(along) for along in range(3))

    def empty(self) -> tuple[np.ndarray, ...]:
        """Projections of an array of uint8 zeros."""
        shape = [self.shape[axis] for axis in self.order]
        left_out = [()] if len(shape) == 2 else [(along,) for along in range(3)]
        return tuple(np.zeros(np.delete(shape, along), np.uint8) for along in left_out)


@dataclass(frozen=True)
class CaseView:
    """What a picture needs to know of one model's prediction for one case.

    Attributes:
        codes: of each view uint8, 0 nothing, then the states in their order: found, missed and false objects.
        places: for states that are marked, the centres (K, D) of their objects in voxels.
        counts: objects by state.
    """

    codes: tuple[np.ndarray, ...]
    places: dict[str, np.ndarray]
    counts: dict[str, int]


def view(parts: Sequence[tuple[Detection, Sequence[int]]], frame: Frame) -> CaseView:
    """Sum up one case: components green where they hit, red where not, missed instances blue.

    Args:
        parts: of each class the detection in a box, and where the box begins.
        frame: of the whole array.
    """
    codes = frame.empty()
    places: dict[str, list[np.ndarray]] = {state: [] for state in MARKERS}
    for detection, start in parts:
        at = frame.places(np.stack(np.unravel_index(detection.place, detection.shape), 1) + np.asarray(start))
        hit = np.append(False, detection.hits)[detection.component_at]
        missed = np.append(False, ~detection.found)[detection.instance_at]
        false = np.append(False, ~detection.hits)[detection.component_at]
        code = np.max([_CODES[s] * mask for s, mask in (("found", hit), ("missed", missed), ("false", false))], axis=0)
        for along, plane in enumerate(codes):
            seen = at if plane.ndim == at.shape[1] else np.delete(at, along, 1)
            np.maximum.at(plane, tuple(seen.T), code.astype(np.uint8))
        places["missed"].append(_centres(at, detection.instance_at, ~detection.found))
        places["false"].append(_centres(at, detection.component_at, ~detection.hits))
    detections = [detection for detection, _ in parts]
    return CaseView(
        codes,
        {state: np.concatenate(own) for state, own in places.items()},
        {
            "found": sum(int(detection.found.sum()) for detection in detections),
            "missed": sum(int((~detection.found).sum()) for detection in detections),
            "false": sum(int((~detection.hits).sum()) for detection in detections),
        },
    )


def draw_case(
    one: CaseView,
    image: Sequence[np.ndarray] | None,
    spacing: Sequence[float],
    looks: Mapping[str, tuple[str, str]] = _LOOKS,
) -> Figure:
    """Draw one model's objects in one case, a column per view; a flat image alone.

    Args:
        one: the objects.
        image: of each view the grey values below the objects; None leaves the ground white.
        spacing: of the axes, up, back and left.
        looks: by state, in the order of the codes, its colour and what marks its objects' places, or "".
    """
    flat = len(one.codes) == 1
    axes_of = [(0, 1)] if flat else [tuple(np.delete(range(3), along)) for along in range(3)]
    extents = [(code.shape[0] * spacing[y], code.shape[1] * spacing[x]) for code, (y, x) in zip(one.codes, axes_of)]
    widths = [width for _, width in extents]
    size = 4.2 if flat else _WIDTH
    figure = Figure(figsize=(size, max(height for height, _ in extents) * size / sum(widths)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02)
    grid = figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0]
    for along, axis in enumerate(grid):
        y, x = axes_of[along]
        centres = {state: found[:, [y, x]] for state, found in one.places.items()}
        below = None if image is None else image[along]
        _panel(axis, one.codes[along], below, centres, (spacing[y], spacing[x]), looks, upwards=along > 0)
        if not flat:
            ink = "#5a5f66" if image is None else "white"
            axis.annotate(
                _VIEWS[along], (0, 1), (4, -4), "axes fraction", "offset points", va="top", fontsize=7, color=ink
            )
        axis.set_anchor("N")
    return figure


def _panel(
    axis: Axes,
    codes: np.ndarray,
    image: np.ndarray | None,
    centres: Mapping[str, np.ndarray],
    spacing: Sequence[float],
    looks: Mapping[str, tuple[str, str]],
    upwards: bool,
) -> None:
    origin = "lower" if upwards else "upper"  # the head at the top
    colours = [colour for colour, _ in looks.values()]
    axis.imshow(_colours(codes, image, colours), origin=origin, aspect=spacing[0] / spacing[1], interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_autoscale_on(False)
    for spine in axis.spines.values():
        spine.set_color("#c9cdd2")
    for state, places in centres.items():
        size = 34 if len(places) <= 40 else 14 if len(places) <= 200 else 5
        colour, marker = looks[state]
        edge = {"facecolors": "none", "edgecolors": colour} if marker not in "+x" else {"color": colour}
        axis.scatter(places[:, 1], places[:, 0], s=size, marker=marker, linewidths=1.1 if size > 5 else 0.6, **edge)


def _colours(codes: np.ndarray, image: np.ndarray | None, colours: Sequence[str]) -> np.ndarray:
    """(H, W, 3): objects filled on white, and outlined with a breath of fill on an image."""
    if image is None:
        ground, fill = np.full((*codes.shape, 3), 1.0), 0.5
    else:
        low, high = np.percentile(image, (0.5, 99.5))
        grey = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
        ground, fill = np.repeat(0.85 * grey[..., None], 3, axis=2), 0.25
    rim = ndimage.minimum_filter(codes, 3) != ndimage.maximum_filter(codes, 3)
    for code, colour in enumerate(colours, start=1):
        for mask, alpha in ((codes == code, fill), ((codes == code) & rim, 1.0)):
            ground[mask] += alpha * (np.array(to_rgb(colour)) - ground[mask])
    return ground


def _centres(at: np.ndarray, ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(K, D) mean place of the voxels of each wanted object."""
    n = len(wanted) + 1
    voxels = np.maximum(np.bincount(ids, minlength=n), 1)
    means = np.stack([np.bincount(ids, axis, n) / voxels for axis in at.T], 1)
    return means[1:][wanted]


def _orientation(geometry: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """In which order to take the array's axes and which to flip, so that they lead up, back and to the left."""
    direction = geometry.get("sitk_stuff", {}).get("direction", ())
    matrix = np.reshape(direction, (3, 3)) if len(direction) == 9 else np.eye(3)
    main = np.abs(matrix).argmax(0)  # the patient's axis (left, back, up) along which each of the image's axes runs
    if sorted(main) != [0, 1, 2]:
        return [0, 1, 2], []
    images_axis = [int(np.flatnonzero(main == axis)[0]) for axis in (2, 1, 0)]
    flips = [i for i, (axis, own) in enumerate(zip((2, 1, 0), images_axis)) if matrix[axis, own] < 0]
    return [2 - own for own in images_axis], flips
