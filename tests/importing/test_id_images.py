from __future__ import annotations

import numpy as np

from nnunet_instance_trainers.importing.id_images import Drawn, Objects, box_of, merge, paint


def drawn(mask: np.ndarray, name: str = "cell") -> Drawn:
    box = box_of(mask)
    return Drawn(name, box, mask[box])


def squares(*places: tuple[slice, ...]) -> list[np.ndarray]:
    masks = []
    for place in places:
        masks.append(np.zeros((8, 9), bool))
        masks[-1][place] = True
    return masks


def test_painting_gives_back_what_does_not_overlap() -> None:
    ids = np.random.default_rng(0).integers(0, 5, (4, 6, 7))
    painted = paint(ids.shape, [drawn(ids == number, str(number)) for number in range(1, 5)])
    assert (painted.ids == ids).all()
    assert painted.classes == {n: str(n) for n in range(1, 5)} and painted.overlapping == 0


def test_the_smallest_is_on_top_and_overlaps_are_counted() -> None:
    large, small, apart, other = squares(np.s_[:6, :6], np.s_[1:3, 1:3], np.s_[7:, :2], np.s_[5:7, 4:8])
    for order in ([small, large, apart, other], [large, other, apart, small]):
        painted = paint((8, 9), [drawn(mask) for mask in order])
        assert painted.overlapping == 3 and painted.without_voxels == 0
        for number, mask in enumerate(order, start=1):
            if mask is not large:
                assert ((painted.ids == number) == mask).all()


def test_what_is_covered_or_empty_has_no_voxel() -> None:
    (one,) = squares(np.s_[2:4, 2:4])
    painted = paint((8, 9), [drawn(one), drawn(one), drawn(np.zeros((8, 9), bool))])
    assert painted.classes == {2: "cell"} and (painted.overlapping, painted.without_voxels) == (2, 2)


def test_merging_keeps_every_object_and_its_class() -> None:
    first, second = np.zeros((2, 5, 6), int)
    first[:2, :2], first[3, 3], second[1:3, 1:4] = 9, 4, 9
    merged = merge([Objects(first, {9: "a", 4: "a"}), Objects(second, {9: "b"}, crowds=3)])
    assert sorted(merged.classes.values()) == ["a", "a", "b"]
    assert merged.overlapping == 2 and merged.crowds == 3
    (b,) = [number for number, name in merged.classes.items() if name == "b"]
    assert np.count_nonzero(merged.ids == b) == 5  # the other object is smaller
    alone = Objects(first, {9: "a", 4: "a"})
    assert merge([alone]) is alone
