from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_instance_trainers.data.nnunet_commands import dataset_id, plan_command, preprocess_command
from nnunet_instance_trainers.data.raw_files import RawFiles


@pytest.mark.parametrize(
    "name, number",
    [("Dataset027_ACDC", "27"), ("Dataset1014_Nuclei", "1014"), ("Dataset000_Zero", "0"), ("Lesions", "Lesions")],
)
def test_commands_name_the_dataset_as_nnunet_takes_it(name: str, number: str) -> None:
    assert dataset_id(name) == number
    assert plan_command(name) == f"nnUNetv2_plan_and_preprocess -d {number}"
    assert preprocess_command(name, "2d", "P") == f"nnUNetv2_preprocess -d {number} -plans_name P -c 2d"


def test_a_label_lies_where_dataset_json_says_or_else_in_labels_tr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACE", str(tmp_path / "elsewhere"))
    listed = {"b": {"label": "../shared/b.png"}, "c": {"label": "$PLACE/c.png"}, "d": {"label": "gone.png"}}
    files = RawFiles(tmp_path / "gt", tmp_path / "raw", {"file_ending": ".png", "dataset": listed})
    places = {"a": "raw/labelsTr/a.png", "b": "shared/b.png", "c": "elsewhere/c.png"}
    for place in places.values():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    found = {case: files.label(case) for case in "abcd"}
    assert {case: file and file.resolve() for case, file in found.items()} == {
        **{case: tmp_path / place for case, place in places.items()},
        "d": None,
    }
    assert RawFiles(tmp_path / "gt", None, {"file_ending": ".png"}).label("a") is None


def test_sources_are_the_kept_label_and_the_map_as_far_as_they_are_there(tmp_path: Path) -> None:
    files = RawFiles(tmp_path / "gt", tmp_path / "raw", {"file_ending": ".png"})
    assert files.annotated is None and files.sources("a") == {}
    for folder in (files.ground_truth, tmp_path / "raw" / "instancesTr"):
        folder.mkdir(parents=True)
        (folder / "a.png").write_text(folder.name)
    assert list(files.sources("a")) == [files.kept_label("a"), tmp_path / "raw" / "instancesTr" / "a.png"]
    assert len(set(files.sources("a").values())) == 2
