"""Measures of every object of an id image.

An object is the body of its voxels, cuboids (in 2D rectangles) with the edges of the spacing. All lengths are those of
that body, so that one voxel has a diameter and objects that touch have no distance. Work is done inside the box of each
object, never over the image once per object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull, cKDTree
from scipy.spatial.distance import pdist
from skimage.measure import find_contours, marching_cubes, mesh_surface_area

__all__ = ["Measures", "measure"]

_FEW = 200  # points whose distances are sooner computed than their convex hull


@dataclass(frozen=True)
class Measures:
    """What is known of n objects, in the order of their ids 1..n; NaN where it takes a spacing that is not known.

    Attributes:
        voxels: (n,) numbers of voxels.
        centre: (n, d) mean voxel index, along the axes of the image.
        first, last: (n, d) the box, both inclusive.
        largest_diameter_mm: (n,) the greatest distance between two points of the object (Feret's diameter), computed
            exactly: between corners of voxels on its convex hull.
        sphericity: (n,) in 3D (36 pi V^2)^(1/3) / A, in 2D 2 (pi A)^(1/2) / P: the surface of a ball, or the perimeter
            of a disc, of the object's size over the object's own. 1 for a ball, less for all else. Size and surface are
            those halfway between centres of voxels inside and outside (marching cubes, in 2D marching squares), as
            PyRadiomics has it; walls of holes count.
        nearest_mm: (n,) the least distance to another of these objects, 0 where they touch; NaN for an only one.
        nearest_id: (n,) the id of that object, the lower one of two; 0 where there is none.
        mean, peak: (n,) of the values over the object; NaN without.
    """

    voxels: np.ndarray
    centre: np.ndarray
    first: np.ndarray
    last: np.ndarray
    largest_diameter_mm: np.ndarray
    sphericity: np.ndarray
    nearest_mm: np.ndarray
    nearest_id: np.ndarray
    mean: np.ndarray
    peak: np.ndarray


def measure(
    ids: np.ndarray, n: int, spacing_mm: Sequence[float] | None = None, values: np.ndarray | None = None
) -> Measures:
    """Measure every object.

    Args:
        ids: (*S) integers, two or three axes, 0 is background and each of 1..n occurs.
        n: how many objects there are.
        spacing_mm: of each axis; None where it is not known.
        values: (*S) such as probabilities.

    Example:
        >>> two = measure(np.array([[1, 1, 0, 0], [0, 0, 0, 2]]), 2, (3.0, 2.0))
        >>> two.largest_diameter_mm.tolist(), two.nearest_mm.tolist()
        ([5.0, 3.605551275463989], [2.0, 2.0])
    """
    at = np.nonzero(ids)
    of = ids[at]

    def sums(weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(of, weights, n + 1)[1:]

    voxels = sums()
    boxes = ndimage.find_objects(ids, n)
    unknown = np.full(n, np.nan)
    mean, peak = unknown, unknown
    if values is not None:
        mean, peak = sums(values[at]) / voxels, np.full(n + 1, -np.inf)
        np.maximum.at(peak, of, values[at])
        peak = peak[1:]
    diameter, sphericity, (nearest, nearest_id) = unknown, unknown, (unknown, np.zeros(n, np.int64))
    if spacing_mm is not None:
        spacing = np.asarray(spacing_mm, float)
        masks = [ids[box] == k for k, box in enumerate(boxes, start=1)]
        corners = [
            (_corners(mask) + [axis.start for axis in box]) * spacing for mask, box in zip(masks, boxes, strict=True)
        ]
        diameter = np.array([_diameter(own) for own in corners])
        sphericity = np.array([_sphericity(mask, spacing) for mask in masks])
        nearest, nearest_id = _nearest(corners)
    return Measures(
        voxels=voxels,
        centre=np.stack([sums(axis) / voxels for axis in at], 1),
        first=np.array([[axis.start for axis in box] for box in boxes]).reshape(n, ids.ndim),
        last=np.array([[axis.stop - 1 for axis in box] for box in boxes]).reshape(n, ids.ndim),
        largest_diameter_mm=diameter,
        sphericity=sphericity,
        nearest_mm=nearest,
        nearest_id=nearest_id,
        mean=mean,
        peak=peak,
    )


def _corners(mask: np.ndarray) -> np.ndarray:
    """(K, d) corners of voxels at the surface of a mask; that of index 0 is before the first voxel."""
    around = np.pad(mask, 1).astype(np.uint8)
    for axis in range(mask.ndim):
        left, right = (np.delete(around, end, axis) for end in (-1, 0))
        around = left + right
    return np.argwhere((around > 0) & (around < 2**mask.ndim))


def _diameter(corners: np.ndarray) -> float:
    """The greatest distance between two of (K, d) points; the farthest two lie on the convex hull."""
    if len(corners) > _FEW:
        corners = corners[ConvexHull(corners).vertices]
    return float(pdist(corners).max())


def _sphericity(mask: np.ndarray, spacing: np.ndarray) -> float:
    padded = np.pad(mask, 1)
    if mask.ndim == 3:
        points, triangles, *_ = marching_cubes(padded.astype(np.float32), 0.5, spacing=tuple(spacing))
        a, b, c = np.moveaxis(points.astype(float)[triangles], 1, 0)
        volume = abs((a * np.cross(b, c)).sum()) / 6
        return float((36 * pi * volume**2) ** (1 / 3) / mesh_surface_area(points, triangles))
    area = perimeter = 0.0
    for contour in find_contours(padded.astype(float), 0.5, fully_connected="high"):
        y, x = (contour * spacing).T
        area += float((x[1:] * y[:-1] - x[:-1] * y[1:]).sum()) / 2  # holes run the other way round
        perimeter += float(np.hypot(np.diff(x), np.diff(y)).sum())
    return 2 * (pi * abs(area)) ** 0.5 / perimeter


def _nearest(corners: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """How far each object is from the nearest other one, and the id of that one.

    Voxels share one grid, so the least distance of two bodies is one between corners. Objects are tried by the distance
    of their boxes, which is never above their own: no farther than the one with the nearest box is, and until no other
    box is nearer than what was found.
    """
    n = len(corners)
    least, which = np.full(n, np.nan), np.zeros(n, np.int64)
    if n < 2:
        return least, which
    low, high = (np.stack([end(own, axis=0) for own in corners]) for end in (np.min, np.max))
    trees: dict[int, cKDTree] = {}
    known: dict[tuple[int, int], float] = {}

    def distance(a: int, b: int) -> float:
        pair = min(a, b), max(a, b)
        if pair not in known:
            few, many = sorted(pair, key=lambda k: len(corners[k]))
            if many not in trees:
                trees[many] = cKDTree(corners[many])
            known[pair] = float(trees[many].query(corners[few])[0].min())
        return known[pair]

    for a in range(n):
        gaps = np.linalg.norm(np.maximum(np.maximum(low - high[a], low[a] - high), 0), axis=1)
        gaps[a] = np.inf
        near = np.flatnonzero(gaps <= distance(a, int(gaps.argmin())))
        best = (np.inf, 0)
        for b in near[np.argsort(gaps[near], kind="stable")].tolist():
            if gaps[b] > best[0]:
                break
            best = min(best, (distance(a, b), b + 1))
        least[a], which[a] = best
    return least, which
