"""Maps that were saved cropped to their objects, as 3D Slicer saves segmentations."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnunet_instance_trainers.data.grids import geometry_difference
from nnunet_instance_trainers.importing.images import Image

__all__ = ["uncropped"]

_WHOLE = 0.05  # voxels that an offset may be from a whole number, as far as origins may be apart elsewhere


def uncropped(ids: np.ndarray, geometry: dict[str, Any], image: Image) -> tuple[np.ndarray, dict[str, Any]]:
    """A map on the grid of its image, with the geometry to go with it, where the map is a box of that grid.

    Any other map stays as it is, for the check of grids to judge. Both have been read with SimpleITK.

    Args:
        ids: (*S') of the map.
        geometry: of the map, with origin o' and spacing and directions as the image.
        image: with origin o, directions D and spacing s. The box begins at voxel D^T (o' - o) / s.
    """
    own, other = geometry["sitk_stuff"], image.geometry["sitk_stuff"]
    if ids.shape == image.shape or not len(own["spacing"]) == len(other["spacing"]) == 3:
        return ids, geometry
    if geometry_difference({**geometry, "sitk_stuff": {**own, "origin": other["origin"]}}, image.geometry):
        return ids, geometry
    shift = np.subtract(own["origin"], other["origin"])
    offset = (np.reshape(other["direction"], (3, 3)).T @ shift / other["spacing"])[::-1]
    low = np.rint(offset).astype(int)
    high = low + ids.shape
    if (np.abs(offset - low) > _WHOLE).any() or (low < 0).any() or (high > image.shape).any():
        return ids, geometry
    whole = np.zeros(image.shape, ids.dtype)
    whole[tuple(slice(a, b) for a, b in zip(low, high))] = ids
    return whole, image.geometry
