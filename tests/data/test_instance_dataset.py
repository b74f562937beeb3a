"""Maps are read as the training goes on, long after they were checked."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.nnunet

BOXES = "Dataset901_Boxes"


@pytest.fixture
def loaded(boxes):
    """A dataset with maps, and the map of one of its cases."""
    from nnunet_instance_trainers.data.instance_dataset import InstanceDataset
    from nnunet_instance_trainers.data.map_store import map_file, maps_folder
    from nnunet_instance_trainers.data.precompute import precompute

    precompute(BOXES, ["3d_fullres"], "nnUNetPlans", 1)
    folder = boxes[0].preprocessed / BOXES / "nnUNetPlans_3d_fullres"
    return InstanceDataset(str(folder)), map_file(maps_folder(folder), "case_1")


def test_a_case_has_the_ids_of_its_map(loaded):
    import blosc2

    dataset, path = loaded
    _, both, _, _ = dataset.load_case("case_1")
    assert both.shape[0] == 2 and (both.ids[:] == blosc2.open(str(path), mode="r")[:]).all() and both.ids[:].max() > 10


@pytest.mark.parametrize("damage", [*range(20), "missing", "cut", "empty", "another case's"])
def test_a_map_that_was_damaged_since_the_start_is_noticed_and_named(loaded, damage):
    """A fifth of flipped bits changes ids without an error from blosc2."""
    from nnunet_instance_trainers.errors import UserError

    dataset, path = loaded
    dataset.load_case("case_1")
    content = bytearray(path.read_bytes())
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[:-1])
    elif damage == "empty":
        path.touch()
    elif damage == "another case's":
        path.write_bytes(path.with_name("case_0.b2nd").read_bytes())
    elif damage != "missing":
        content[np.random.default_rng(damage).integers(len(content))] ^= 1
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"case 'case_1': {path} went missing or was damaged"):
        dataset.load_case("case_1")
    dataset.load_case("case_0")
