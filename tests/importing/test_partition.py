from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.importing.partition import choose_test, find_patients, make_folds

PATIENTS = {f"p{patient}_{visit}": f"p{patient}" for patient in range(1, 8) for visit in range(1 + patient % 3)}


def test_patients_are_found_by_group_or_whole_match() -> None:
    assert find_patients(list(PATIENTS), r"^(p\d)_") == PATIENTS == find_patients(list(PATIENTS), r"p\d")
    assert find_patients(["a", "b"], None) == {"a": "a", "b": "b"}
    with pytest.raises(UserError, match="does not match case 'other'"):
        find_patients(["p1_0", "other"], r"p\d")
    with pytest.raises(UserError, match="is no regular expression"):
        find_patients(["a"], "(")


@pytest.mark.nnunet  # scikit-learn takes seconds to import
def test_folds_keep_patients_together_and_show_each_case_once() -> None:
    folds = make_folds(PATIENTS)
    assert len(folds) == 5
    assert sorted(case for fold in folds for case in fold["val"]) == sorted(PATIENTS)
    for fold in folds:
        assert sorted(fold["train"] + fold["val"]) == sorted(PATIENTS)
        assert not {PATIENTS[case] for case in fold["train"]} & {PATIENTS[case] for case in fold["val"]}
    assert len(make_folds({"a": "1", "b": "1", "c": "2"})) == 2
    with pytest.raises(UserError, match="finds 1 patient"):
        make_folds({"a": "1", "b": "1"})


def test_the_test_part_by_names_patterns_list_and_share(tmp_path: Path) -> None:
    assert choose_test(PATIENTS, ["p2_*", "p3_0"]) == {"p2_0", "p2_1", "p2_2", "p3_0"}
    (tmp_path / "list.txt").write_text("p3_0\n\np6_0\r\n")
    assert choose_test(PATIENTS, [str(tmp_path / "list.txt")]) == {"p3_0", "p6_0"}
    drawn = choose_test(PATIENTS, ["0.3"])
    assert drawn == choose_test(dict(reversed(PATIENTS.items())), [".3"])
    chosen = {PATIENTS[case] for case in drawn}
    assert len(chosen) == 2 and drawn == {case for case, patient in PATIENTS.items() if patient in chosen}


@pytest.mark.parametrize(
    "wanted, says",
    [
        (["p9*"], "'p9\\*' fits no case"),
        (["*"], "none is left for training"),
        (["p2_0"], "patient 'p2' would be in both parts"),
    ],
)
def test_parts_that_do_not_work(wanted: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        choose_test(PATIENTS, wanted)
