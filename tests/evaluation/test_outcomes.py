from __future__ import annotations

import numpy as np
from geometry import random_labels

from nnunet_instance_trainers.evaluation.outcomes import Pairs
from nnunet_instance_trainers.instances import renumber


def test_the_table_without_small_objects_is_that_of_the_images_without_them() -> None:
    for seed in range(5):
        images = [random_labels((9, 8, 7), 8, seed + k, batch=1)[0].numpy() for k in (0, 100)]
        ids = [renumber(image)[0].view(np.int32) for image in images]
        large = [renumber(np.where(np.bincount(own.ravel())[own] >= 6, own, 0))[0].view(np.int32) for own in ids]
        got, expected = Pairs.of(*ids).at_least(6), Pairs.of(*large)
        assert all((vars(got)[name] == own).all() for name, own in vars(expected).items())
        assert len(got.instance_voxels) < ids[0].max() or len(got.component_voxels) < ids[1].max()
