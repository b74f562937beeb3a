"""STUDY.yaml: what it says, and one line for what is wrong with it."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")

from nnunet_instance_trainers.errors import UserError  # noqa: E402
from nnunet_instance_trainers.study.study_file import ALL, read_study  # noqa: E402

EXAMPLE = (files("nnunet_instance_trainers.study") / "example.yaml").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nnU-Net's folders with a raw dataset 27 of a few empty files."""
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    raw = tmp_path / "raw" / "Dataset027_Boxes"
    for file in ("imagesTs/a_0000.png", "imagesTs/b_0000.png", "labelsTs/a.png", "labelsTs/b.png"):
        (raw / file).parent.mkdir(parents=True, exist_ok=True)
        (raw / file).touch()
    (raw / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "box": 1}, "file_ending": ".png"}))
    return tmp_path


def written(folder: Path, **changes) -> Path:
    """A study file with some keys changed; None takes one away."""
    content = {**yaml.safe_load(EXAMPLE), **changes}
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return file


def test_the_example_is_a_study(folder: Path) -> None:
    study = read_study(written(folder))
    assert (study.dataset, study.reference, study.seeds) == ("Dataset027_Boxes", "Baseline", (0, 1, 2))
    assert study.folds == (0, 1, 2, 3, 4)
    assert study.output == folder / "study"
    assert study.arm("BlobUnit").settings == {"num_epochs": 250, "scale": "unit"}


def test_keys_that_the_example_has_in_comments_are_keys_too(folder: Path) -> None:
    text = EXAMPLE.replace("folds:", "# folds:")
    for key in ("test", "partition", "gres", "patients", "challenges", "output"):
        assert f"\n# {key}:" in text
        text = text.replace(f"\n# {key}:", f"\n{key}:")
    file = folder / "study.yaml"
    file.write_text(text)
    study = read_study(file)
    assert (study.folds, study.gres, study.challenges) == ((ALL,), "gpu:1", ("autopet3",))
    assert study.test == {name: study.raw / f"{name}Ts" for name in ("images", "labels")}
    assert study.output == folder / "studies" / "blob"


def test_weights_of_an_arm_are_merged_into_those_of_all(folder: Path) -> None:
    arms = [{"name": "A", "trainer": "T", "settings": {"weights": {"blob": 0.5}}}]
    file = written(folder, arms=arms, reference="A", settings={"weights": {"pixel": 1.0, "blob": 1.0}})
    assert read_study(file).arms[0].settings == {"weights": {"pixel": 1.0, "blob": 0.5}}


ARM = {"name": "A", "trainer": "T"}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"sedes": [0]}, "unknown key 'sedes' in .*study.yaml: allowed are"),
        ({"dataset": 28}, "dataset 28 in .*: no datasets of that id"),
        ({"dataset": "Dataset028_X"}, "dataset 'Dataset028_X' in .*: there is no .*dataset.json"),
        ({"seeds": None}, "lacks 'seeds'"),
        ({"seeds": [0, 0]}, "'seeds' in .* has 0 twice"),
        ({"seeds": 3}, "'seeds' in .* must be a list of whole numbers"),
        ({"arms": [ARM, ARM], "reference": "A"}, "two arms in .* are called 'A'"),
        ({"arms": [ARM], "reference": "B"}, "reference 'B' in .* is no arm: the arms are A"),
        ({"arms": [{"name": "A__B", "trainer": "T"}]}, "needs a name of letters and digits"),
        ({"arms": [{"name": "A"}]}, "needs the name of a trainer"),
        ({"arms": [{**ARM, "weight": 1}]}, "unknown key 'weight' in arm 'A'"),
        ({"arms": [{**ARM, "settings": {"seed": 1}}]}, "has a seed: list seeds under 'seeds'"),
        ({"folds": None}, "must have either 'folds' or 'test'"),
        ({"test": {"images": "imagesTs", "labels": "labelsTs"}}, "must have either 'folds' or 'test'"),
        ({"folds": None, "test": {"images": "imagesTs"}}, "must have 'images' and 'labels'"),
        ({"folds": None, "test": {"images": "imagesTs", "labels": "lables"}}, "no folder of labels"),
        ({"device": "gpu"}, "'device' in .* must be cuda, cpu or mps, got 'gpu'"),
        ({"threads": 0}, "'threads' in .* must be a whole number of 1 or more"),
        ({"plans": "a__b"}, "'plans' in .* must be the name of a plans file"),
        ({"patients": "("}, "'patients' in .* must be a regular expression"),
        ({"evaluation": {"bins_ml": [1, 0.5]}}, "'bins_ml' in 'evaluation' of .* must be positive and ascending"),
        ({"evaluation": {"bin": [1]}}, "unknown key 'bin' in 'evaluation'"),
        ({"challenges": ["nosuch"]}, "nosuch"),
    ],
)
def test_what_is_wrong_is_one_line(folder: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_study(written(folder, **changes))
    assert len(str(caught.value).splitlines()) == 1


def test_a_test_folder_without_a_label_is_named(folder: Path) -> None:
    (folder / "raw" / "Dataset027_Boxes" / "labelsTs" / "b.png").unlink()
    with pytest.raises(UserError, match="case 'b' has no label in .*labelsTs: add it"):
        read_study(written(folder, folds=None, test={"images": "imagesTs", "labels": "labelsTs"}))


@pytest.mark.parametrize("text, message", [("a: [", "is no YAML"), ("3", "has no keys")])
def test_what_is_no_yaml_is_one_line(folder: Path, text: str, message: str) -> None:
    file = folder / "study.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_study(file)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_file_and_a_missing_variable_say_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="cannot read .*none.yaml .*--example"):
        read_study(folder / "none.yaml")
    monkeypatch.delenv("nnUNet_results")
    with pytest.raises(UserError, match="nnUNet_results is not set"):
        read_study(written(folder))
