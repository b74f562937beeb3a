"""Every command on the pages is run, here or by a test of its own, or stands in the list of those that are not."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from evaluated import evaluate_masks, write_masks
from page_commands import NOT_RUN, ROOT, RUN_AS_THEY_STAND, RUN_BY_A_TEST_OF_THEIR_OWN, page_commands, words
from shell import run

from nnunet_instance_trainers import cli


def test_the_lists_hold_the_commands_of_the_pages_and_no_others() -> None:
    lists = [RUN_AS_THEY_STAND, RUN_BY_A_TEST_OF_THEIR_OWN.keys(), NOT_RUN.keys()]
    listed = [command for commands in lists for command in commands]
    assert len(listed) == len(set(listed)), "a command is listed twice"
    on_pages = page_commands()
    assert not (missing := on_pages.keys() - set(listed)), f"add to page_commands.py: {missing}"
    assert not (gone := set(listed) - on_pages.keys()), f"no page has it any more: {gone}"


def test_every_test_that_runs_a_command_exists_and_is_no_heavy_one() -> None:
    sources = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    for test in set(RUN_BY_A_TEST_OF_THEIR_OWN.values()):
        (source,) = [text for text in sources if re.search(rf"^def {test}\(", text, re.M)]
        assert "pytestmark = pytest.mark.heavy" not in source


@pytest.mark.parametrize("command", sorted(page_commands()))
def test_the_options_of_a_command_exist(command: str, tmp_path: Path) -> None:
    from nnunet_instance_trainers.cli import _parser

    (tmp_path / "A" / "fold_0").mkdir(parents=True)
    if command.startswith("nnunet-instance "):
        _parser().parse_args(words(command, tmp_path)[1:])


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of the names on the pages: three cases, and models that miss and invent."""
    root = tmp_path_factory.mktemp("place")
    truth = {f"case_{k}": np.zeros((6, 12, 12), np.uint8) for k in range(3)}
    for k, mask in enumerate(truth.values()):
        mask[1:3, 1 + k : 4 + k, 1:4] = mask[1:5, 7:11, 6:11] = 1
    wide = {case: np.maximum(mask, np.roll(mask, 1, -1)) for case, mask in truth.items()}
    few = {case: mask * (np.arange(12) > 5).astype(np.uint8) for case, mask in truth.items()}
    models = {"EVAL_A": truth, "EVAL_B": wide, "EVAL_C": few}
    evaluate_masks(root, truth, models, ".nii.gz")
    for model, name in (("EVAL_A", "blob"), ("EVAL_B", "baseline")):
        shutil.copytree(root / model, root / "scores" / name)
    (root / "nnUNet_raw" / "DatasetXXX").mkdir(parents=True)
    for folder in (Path("imagesTs"), Path("nnUNet_raw", "DatasetXXX", "imagesTs")):
        write_masks(root / folder, wide, ".nii.gz", "_0000")
    write_masks(root / "instancesTs", truth, ".nii.gz")
    for folder in ("OUT", "PREDICTIONS", "EARLIER", "PRED_A", "PRED_B", "DIR", "A/fold_0", "A/fold_1", "A/fold_2"):
        predictions(root / folder, few if folder == "PRED_B" else wide, ".nii.gz")
    plan = json.loads(re.search(r"```json\n(.*?)```", (ROOT / "docs" / "ensembling.md").read_text(), re.S)[1])
    del plan["classes"]["1"]["hysteresis"]  # would need saved probabilities
    (root / "FILE.json").write_text(json.dumps(plan))
    return root


@pytest.fixture
def place(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folders, to work in."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def predictions(folder: Path, masks: dict[str, np.ndarray], ending: str) -> None:
    write_masks(folder, masks, ending)
    dataset = {"labels": {"background": 0, "cell": 1}, "file_ending": ending, "channel_names": {"0": "x"}}
    (folder / "dataset.json").write_text(json.dumps(dataset))
    (folder / "plans.json").write_text(json.dumps({"plans_name": folder.name}))


@pytest.mark.nnunet
@pytest.mark.parametrize("command", sorted(RUN_AS_THEY_STAND))
def test_a_command_runs_as_it_stands(command: str, place: Path) -> None:
    if command.startswith("export"):
        assert Path(run(["bash", "-c", f'{command}; printf %s "$nnUNet_extTrainer"']).stdout).is_dir()
        return
    if " ensemble " in command or " compare " in command:
        shutil.rmtree(place / "OUT")
    if "--member-mm2" in command:
        shutil.rmtree(place / "A")
        flat = {"case_0": np.kron(np.eye(2, dtype=np.uint8), np.ones((9, 9), np.uint8))}
        for folder in ("A", "B"):
            predictions(place / folder, flat, ".png")
    if "-o scores/blob" in command:
        shutil.rmtree(place / "scores" / "blob")
    arguments = words(command, place)[1:]
    cli.main(arguments)
    result = place / arguments[arguments.index("-o") + 1]
    assert result.is_file() or any(result.iterdir())
