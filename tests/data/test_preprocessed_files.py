from __future__ import annotations

import pickle
from pathlib import Path

import blosc2
import numpy as np
import pytest

from nnunet_instance_trainers.data.nnunet_commands import preprocess_command
from nnunet_instance_trainers.data.preprocessed_files import check_preprocessed, check_splits
from nnunet_instance_trainers.errors import UserError

ENDINGS = (".b2nd", "_seg.b2nd", ".pkl")


@pytest.fixture
def preprocessed(tmp_path: Path) -> Path:
    folder = tmp_path / "cases"
    folder.mkdir()
    for case in ("case_a", "case_b"):
        for ending in ENDINGS[:2]:
            blosc2.asarray(np.arange(60).reshape(1, 3, 4, 5), urlpath=str(folder / f"{case}{ending}"))
        (folder / f"{case}.pkl").write_bytes(pickle.dumps({"spacing": [1, 1, 1]}))
    return folder


def test_whole_files_pass(preprocessed: Path) -> None:
    check_preprocessed(preprocessed, ["case_a", "case_b"], "mend")


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("read", [True, False])
def test_a_missing_file_is_named(preprocessed: Path, ending: str, read: bool) -> None:
    path = preprocessed / f"case_b{ending}"
    path.unlink()
    with pytest.raises(UserError, match=f"case 'case_b': {path} is missing: run 'mend'"):
        check_preprocessed(preprocessed, ["case_a", "case_b"], "mend", read=read)
    check_preprocessed(preprocessed, ["case_a"], "mend", read=read)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_that_is_cut_off_is_named(preprocessed: Path, ending: str) -> None:
    path = preprocessed / f"case_b{ending}"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match=f"case 'case_b': {path} is damaged: run 'mend'"):
        check_preprocessed(preprocessed, ["case_a", "case_b"], "mend")


def test_the_command_is_nnunets_own() -> None:
    command = preprocess_command("Dataset027_ACDC", "3d_fullres", "nnUNetPlans")
    assert command == "nnUNetv2_preprocess -d 27 -plans_name nnUNetPlans -c 3d_fullres"


# --- folds ---------------------------------------------------------------------------------------------------


def test_folds_may_name_only_cases_that_are_there(preprocessed: Path) -> None:
    file = preprocessed.parent / "splits_final.json"
    check_splits(preprocessed.parent, preprocessed)  # nnU-Net makes the file itself
    file.write_text('[{"train": ["case_a"], "val": ["case_b"]}]')
    check_splits(preprocessed.parent, preprocessed)
    file.write_text('[{"train": ["case_a", "case_gone"], "val": ["case_b"]}]')
    with pytest.raises(UserError, match=f"{file} names the case 'case_gone', which is not in {preprocessed}: take it"):
        check_splits(preprocessed.parent, preprocessed)


@pytest.mark.parametrize("content", ['[{"train": ["a"]', "3", '["a"]', '[{"train": 3}]'])
def test_a_file_of_folds_that_is_none_is_damaged(preprocessed: Path, content: str) -> None:
    (preprocessed.parent / "splits_final.json").write_text(content)
    with pytest.raises(UserError, match="splits_final.json is damaged"):
        check_splits(preprocessed.parent, preprocessed)
