from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.nnunet

NAME = "Dataset901_Boxes"


def look(folders, configuration="3d_fullres", trainer="nnUNetTrainerBlob", **instance_training):
    """The findings by topic."""
    from nnunet_instance_trainers import trainers
    from nnunet_instance_trainers.checking.training_run import check_training

    base = folders.preprocessed / NAME
    plans = json.loads((base / "nnUNetPlans.json").read_text())
    plans["configurations"]["3d_fullres"]["instance_training"] = instance_training
    dataset = json.loads((base / "dataset.json").read_text())
    findings = check_training(plans, dataset, configuration, getattr(trainers, trainer))
    return {finding.topic: finding for finding in findings}


def made_maps(folders) -> Path:
    from nnunet_instance_trainers.data.precompute import precompute

    precompute(NAME, ["3d_fullres"], "nnUNetPlans", 1)
    return folders.preprocessed / NAME / "nnUNetPlans_3d_fullres_instances"


def problems(found) -> list[str]:
    return [topic for topic, finding in found.items() if finding.level == "problem"]


def test_a_training_in_order_ends_with_its_command(boxes) -> None:
    folders, _ = boxes
    made_maps(folders)
    found = look(folders)
    assert problems(found) == [] and found["preprocessed"].text.startswith("4 cases in ")
    assert "instances in 4 cases (from instancesTr), 0 lost" in found["maps"].text
    assert found["next"].text == f"nnunet-instance train {NAME} 3d_fullres 0 -tr nnUNetTrainerBlob -p nnUNetPlans"
    assert "'blob': 1.0" in found["settings"].text


def test_no_maps_beside_annotators_maps(boxes) -> None:
    folders, _ = boxes
    found = look(folders)
    assert problems(found) == ["maps"] and "none are precomputed" in found["maps"].text
    assert found["maps"].remedy == "run 'nnunet-instance precompute -d 901 -c 3d_fullres -p nnUNetPlans'"
    assert problems(look(folders, source="patch")) == [] == problems(look(folders, trainer="nnUNetTrainerTversky"))
    assert problems(look(folders, source="patch", sampling="instance")) == ["maps"]


def test_stale_maps_name_the_case(boxes) -> None:
    folders, _ = boxes
    made_maps(folders)
    segmentation = folders.preprocessed / NAME / "nnUNetPlans_3d_fullres" / "case_1_seg.b2nd"
    segmentation.write_bytes(segmentation.read_bytes() + b"0")
    found = look(folders)
    assert problems(found) == ["maps"]
    assert found["maps"].text == "case 'case_1': its instance map is older than its preprocessed segmentation"


def test_instances_lost_to_resampling_are_a_warning(boxes) -> None:
    folders, _ = boxes
    file = made_maps(folders) / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["cases"]["case_2"]["lost"] = 3
    file.write_text(json.dumps(manifest))
    found = look(folders)["maps"]
    assert found.level == "warning" and ", 3 lost to resampling" in found.text


def test_the_old_numpy_format_and_missing_data(boxes) -> None:
    folders, _ = boxes
    folder = folders.preprocessed / NAME / "nnUNetPlans_3d_fullres"
    (folder / "case_0.npz").write_bytes(b"")
    found = look(folders)
    assert problems(found) == ["preprocessed"] and "old numpy format" in found["preprocessed"].text
    folder.rename(folder.with_name("away"))
    found = look(folders)
    assert problems(found) == ["preprocessed"] and found["preprocessed"].text == f"{folder} is missing"


def test_a_cascade_without_its_first_stage(boxes) -> None:
    folders, _ = boxes
    made_maps(folders)
    file = folders.preprocessed / NAME / "nnUNetPlans.json"
    plans = json.loads(file.read_text())
    cascade = {"inherits_from": "3d_fullres", "previous_stage": "3d_flat"}
    plans["configurations"]["3d_cascade"] = cascade
    file.write_text(json.dumps(plans))
    found = look(folders, "3d_cascade")
    assert problems(found) == ["previous stage"]
    assert found["previous stage"].remedy.startswith("train '3d_flat' with the same trainer, nnUNetTrainerBlob")
    model = folders.results / NAME / "nnUNetTrainerBlob__nnUNetPlans__3d_flat"
    predicted = model / "predicted_next_stage" / "3d_cascade"
    predicted.mkdir(parents=True)
    for number in range(4):
        (predicted / f"case_{number}.b2nd").write_bytes(b"")
    assert problems(look(folders, "3d_cascade")) == []


def test_settings_with_a_typo_and_unknown_configurations(boxes) -> None:
    folders, _ = boxes
    found = look(folders, wieghts={"blob": 1})
    assert problems(found) == ["settings"] and found["settings"].text.startswith("unknown setting 'wieghts'")
    assert found["next"].text == "mend the problem above, then check again"
    assert "no configuration '3d'" in look(folders, "3d")["settings"].text
