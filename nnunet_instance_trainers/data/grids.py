"""Where the voxels of an image lie, and how far apart two grids are.

nnU-Net's readers give each image's geometry in a dictionary of their own kind. What counts is the array as it was read:
readers that reorient give the same grid for the same image in another orientation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_instance_trainers.errors import UserError

__all__ = ["check_grid", "geometry_difference", "world_coordinates"]

# In voxels, since micrometres and metres are both in use. Headers round the edge of a voxel to three or four digits and
# an origin to two decimals; a voxel's half is a grid of its own.
_EDGE = 2e-3
_ORIGIN = 0.05
_DIRECTION = 2e-3


@dataclass(frozen=True)
class _Grid:
    """A grid by its axes as the header counts them.

    Attributes:
        spacing: (n,) edges of a voxel.
        origin: (n,) of the first voxel; None where the format has none.
        directions: (n, n) unit vectors, one in each column; None likewise.
    """

    spacing: np.ndarray
    origin: np.ndarray | None = None
    directions: np.ndarray | None = None

    @classmethod
    def of(cls, geometry: Mapping[str, Any]) -> _Grid:
        if "sitk_stuff" in geometry:
            own = geometry["sitk_stuff"]
            spacing, n = np.asarray(own["spacing"], float), len(own["spacing"])
            directions = np.reshape(np.asarray(own["direction"], float), (n, n))
            n = min(n, 3)  # of equal channels one is left
            return cls(spacing[:n], np.asarray(own["origin"], float)[:n], directions[:n, :n])
        if "nibabel_stuff" in geometry:
            own = geometry["nibabel_stuff"]
            affine = np.asarray(own.get("reoriented_affine", own["original_affine"]), float)
            spacing = np.linalg.norm(affine[:3, :3], axis=0)
            return cls(spacing, affine[:3, 3], affine[:3, :3] / np.where(spacing > 0, spacing, 1))
        return cls(np.asarray(geometry["spacing"], float)[::-1])

    def flat(self) -> _Grid:
        """Its first two axes."""
        if self.origin is None or self.directions is None:
            return _Grid(self.spacing[:2])
        return _Grid(self.spacing[:2], self.origin[:2], self.directions[:2, :2])


def geometry_difference(own: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """In what two geometries of one reader differ and by how much; empty where they agree.

    Tolerances are relative to the voxel: 0.2 % of its edges, a twentieth of it for the origin, 0.002 for each number of
    a direction. A 2D image and a volume of one slice agree if they do in the plane, since nnU-Net gives both one shape.

    Example:
        >>> geometry_difference({"spacing": (3.0, 1.0, 1.0)}, {"spacing": (3.0, 1.0, 1.01)})
        'spacing: 1 x 1 x 3 against 1.01 x 1 x 3'
    """
    a, b = _Grid.of(own), _Grid.of(other)
    if len(a.spacing) != len(b.spacing):
        a, b = a.flat(), b.flat()
    differences = []
    if not (np.abs(a.spacing - b.spacing) <= _EDGE * np.abs(b.spacing)).all():
        differences.append(f"spacing: {_edges(a.spacing)} against {_edges(b.spacing)}")
    if a.directions is not None and b.directions is not None and not _near(a.directions, b.directions, _DIRECTION):
        differences.append(f"direction: {_numbers(a.directions)} against {_numbers(b.directions)}")
    if a.origin is not None and b.origin is not None and b.directions is not None:
        shift = np.abs(b.directions.T @ (a.origin - b.origin))
        if not (shift <= _ORIGIN * b.spacing).all():
            differences.append(f"origin: {_numbers(a.origin)} against {_numbers(b.origin)}")
    return "; ".join(differences)


def check_grid(
    path: Path,
    case: str,
    image: np.ndarray,
    own: Mapping[str, Any],
    target: np.ndarray,
    geometry: Mapping[str, Any],
    other: str = "its ground truth",
) -> None:
    """Refuse an image (*S) that does not lie on the grid of another one.

    Raises:
        UserError: size, spacing, origin or direction differ; it says which and by how much.
    """
    if image.shape != target.shape:
        raise UserError(
            f"case {case!r}: {path} differs from {other} in size: {_size(image.shape)} against "
            f"{_size(target.shape)} voxels: save it on that grid"
        )
    difference = geometry_difference(own, geometry)
    if difference:
        raise UserError(
            f"case {case!r}: {path} differs from {other} in {difference}: save it on that grid, or copy the header if "
            "only that is wrong"
        )


def world_coordinates(geometry: Mapping[str, Any], places: np.ndarray) -> np.ndarray:
    """Where places in an image lie in the world, in mm: x grows to the patient's right, y to the front, z up (RAS).

    As nibabel has it; SimpleITK's points (LPS) are the same with x and y negated. A format without an origin (PNG,
    TIFF) has no world, and a flat image no third axis: NaN.

    Args:
        geometry: what nnU-Net's reader said.
        places: (n, 3) in voxels, along the axes of the array as it was read; whole numbers are centres of voxels.

    Returns:
        (n, 3) x, y, z.

    Example:
        >>> affine = np.array([[2.0, 0, 0, -10], [0, 2, 0, 5], [0, 0, 3, 0], [0, 0, 0, 1]])
        >>> geometry = {"nibabel_stuff": {"original_affine": affine}, "spacing": (3.0, 2.0, 2.0)}
        >>> world_coordinates(geometry, np.array([[1, 0, 4]])).tolist()
        [[-2.0, 5.0, 3.0]]
    """
    grid = _Grid.of(geometry)
    world = np.full((len(places), 3), np.nan)
    if grid.origin is not None and grid.directions is not None:
        n = len(grid.spacing)
        world[:, :n] = grid.origin + (places[:, ::-1][:, :n] * grid.spacing) @ grid.directions.T
        if "sitk_stuff" in geometry:
            world[:, :2] *= -1
    return world


def _near(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    return bool((np.abs(a - b) <= tolerance).all())


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, reversed(shape)))


def _edges(values: np.ndarray) -> str:
    return " x ".join(f"{value:.6g}" for value in values)


def _numbers(values: np.ndarray) -> str:
    return f"({', '.join(f'{value:.6g}' for value in values.ravel())})"
