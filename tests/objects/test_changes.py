"""Every state of change, each alone and all at once."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_instance_trainers.instances import label_components
from nnunet_instance_trainers.objects.changes import STATES, Change, ChangeRule, find_changes

# One line of voxels before and one now: letters stand for voxels of objects.
PAIRS = {
    "new": ("........", "..xxx..."),
    "vanished": ("..xxx...", "........"),
    "growing": ("..xxxx..", "..xxxxx."),
    "shrinking": ("..xxxx..", "..xxx..."),
    "unchanged": ("..xxxxx.", "..xxxx.."),
    "merged": (".xx.x...", ".xxxx..."),
    "split": (".xxxx...", ".xx.x..."),
    "complex": ("xx.xxx..", ".xxx.x.."),
}


def ids(line: str) -> np.ndarray:
    return label_components(np.array([[letter == "x" for letter in line]]))[0]


def changes(before: str, now: str, **rule: float) -> list[Change]:
    pair = ids(before), ids(now)
    sizes = [np.bincount(own.ravel())[1:] for own in pair]
    return find_changes(*pair, *sizes, ChangeRule(**rule))


@pytest.mark.parametrize("state", STATES)
def test_each_state(state: str) -> None:
    (change,) = changes(*PAIRS[state])
    assert change.state == state
    assert [len(change.reference), len(change.current)] == [int(ids(line).max()) for line in PAIRS[state]]


def test_all_states_at_once_and_every_object_in_one_change() -> None:
    before, now = ("".join(lines) for lines in zip(*(PAIRS[state] for state in STATES)))
    got = changes(before, now)
    assert sorted(change.state for change in got) == sorted(STATES)
    for line, side in ((before, "reference"), (now, "current")):
        every = [k for change in got for k in getattr(change, side)]
        assert sorted(every) == list(range(1, int(ids(line).max()) + 1))
    assert [change.current for change in got] == sorted(
        (change.current for change in got), key=lambda own: (not own, own)
    )


def test_a_change_of_exactly_the_share_counts_and_each_share_is_its_own() -> None:
    assert [changes("xxxxx", now + "." * (5 - len(now)))[0].state for now in ("xxxx", "xxx")] == [
        "unchanged",
        "shrinking",
    ]
    assert changes("xxxxx.", "xxxxxx", growth=0.2)[0].state == "growing"
    assert changes("xxxxx.", "xxxxxx", growth=0.21, shrinkage=0.2)[0].state == "unchanged"
    assert changes("xxxxx", "xxxx.", shrinkage=0.2)[0].state == "shrinking"
    assert changes("xxxxx", "xxxx.", growth=0.2, shrinkage=0.21)[0].state == "unchanged"


def test_objects_that_only_touch_do_not_meet() -> None:
    assert [change.state for change in changes("xx..", "..xx")] == ["new", "vanished"]


def test_a_random_pair_against_a_plain_search() -> None:
    """Growing each family object by object until nothing more meets it."""
    rng = np.random.default_rng(0)
    before, now = (label_components(rng.random((16, 16, 8)) < 0.1)[0] for _ in range(2))
    meets = {(a, b) for a, b in zip(before.ravel().tolist(), now.ravel().tolist()) if a and b}
    sizes = [np.bincount(own.ravel())[1:] for own in (before, now)]
    got = find_changes(before, now, *sizes)
    assert {change.state for change in got} >= {"new", "vanished", "merged", "split", "complex"}
    for change in got:
        start = ("current", change.current[0]) if change.current else ("reference", change.reference[0])
        family, waiting = set(), [start]
        while waiting:
            side, k = waiting.pop()
            if (side, k) in family:
                continue
            family.add((side, k))
            waiting += [("current", b) for a, b in meets if side == "reference" and a == k]
            waiting += [("reference", a) for a, b in meets if side == "current" and b == k]
        assert {k for side, k in family if side == "reference"} == set(change.reference)
        assert {k for side, k in family if side == "current"} == set(change.current)
