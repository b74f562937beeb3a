from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from nnunet_instance_trainers import __version__, cli
from nnunet_instance_trainers.cli.preparation import parse_settings
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.linking import VARIABLE, discovery_folder

LABELS = {"background": 0, "lesion": 1, "organ": 2}
PLANS = {
    "dataset_name": "Dataset027_Lesions",
    "plans_name": "nnUNetPlans",
    "configurations": {
        "2d": {"data_identifier": "nnUNetPlans_2d", "batch_size": 12},
        "3d_fullres": {"data_identifier": "nnUNetPlans_3d_fullres", "patch_size": [64, 64, 64]},
    },
}


@pytest.fixture
def preprocessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nnU-Net's folder with dataset 27, and with two datasets 5 that nobody planned."""
    for name in ("Dataset027_Lesions", "Dataset005_One", "Dataset005_Other"):
        (tmp_path / name).mkdir()
    (tmp_path / "Dataset027_Lesions" / "nnUNetPlans.json").write_text(json.dumps(PLANS))
    (tmp_path / "Dataset027_Lesions" / "dataset.json").write_text(json.dumps({"labels": LABELS}))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def exit_line(*arguments: str) -> str:
    """The line with which a command ends; text in SystemExit goes to stderr and means status 1."""
    with pytest.raises(SystemExit) as info:
        cli.main(arguments)
    assert isinstance(info.value.code, str) and "\n" not in info.value.code
    assert info.value.code.startswith("nnunet-instance: error: ")
    return info.value.code.removeprefix("nnunet-instance: error: ")


# --- what is quick ----------------------------------------------------------------------------------------


def loaded_by(*commands: list[str]) -> set[str]:
    """Which of the heavy packages are in memory after some commands in an interpreter of their own."""
    code = (
        "import sys\nfrom nnunet_instance_trainers.cli import main\n"
        f"for command in {list(commands)!r}:\n"
        "    try: main(command)\n"
        "    except SystemExit as end: assert not end.code, end.code\n"
        "print('loaded', *{'torch', 'numpy', 'matplotlib', 'nnunetv2'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_help_and_path_import_nothing_heavy() -> None:
    commands = (
        "path",
        "link",
        "check",
        "configure",
        "precompute",
        "evaluate",
        "compare",
        "report",
        "objects",
        "fit-ensemble",
        "ensemble",
        "demo",
        "release",
    )
    helps = [[command, "--help"] for command in commands]
    assert loaded_by(["--help"], ["--version"], ["path"], *helps) == set()


def test_that_test_can_fail(preprocessed: Path) -> None:
    assert {"torch", "numpy"} <= loaded_by(["configure", "-d", "27", "-o", "New", "seed=1"])


def test_help_names_every_command(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as info:
        cli.main(["--help"])
    assert info.value.code == 0
    listed = re.findall(r"^    ([\w-]+)", capsys.readouterr().out, re.MULTILINE)
    known = {"path", "link", "unlink", "check", "trainers", "train", "predict", "configure", "precompute", "demo"}
    assert known | {"evaluate", "compare", "report", "objects", "fit-ensemble", "ensemble"} <= set(listed)


def test_version(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out.strip() == __version__


def test_path_prints_the_discovery_folder_and_no_more(capsys: pytest.CaptureFixture) -> None:
    cli.main(["path"])
    printed = capsys.readouterr().out
    assert printed == f"{discovery_folder()}\n"
    assert Path(printed.strip()).is_dir()


def test_link_and_unlink_say_what_they_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "link.py"
    monkeypatch.setattr("nnunet_instance_trainers.linking.link_file", lambda: file)
    for command in ("link", "unlink", "unlink"):
        cli.main([command])
    assert capsys.readouterr().out.splitlines() == [
        f"linked: {file}",
        f"removed: {file}",
        f"nothing to remove: no {file}",
    ]


# --- train and predict ------------------------------------------------------------------------------------


@pytest.fixture
def called(preprocessed: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What nnU-Net's commands, replaced here, are called with."""
    calls: list[list[str]] = []
    commands = {
        "nnunetv2.run.run_training": "run_training_entry",
        "nnunetv2.inference.predict_from_raw_data": "predict_entry_point",
    }
    for name, entry in commands.items():
        module = ModuleType(name)
        module.__dict__[entry] = lambda: calls.append([*sys.argv, os.environ[VARIABLE]])
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setattr(sys, "argv", ["nnunet-instance"])
    monkeypatch.setenv(VARIABLE, "mine")
    return calls


@pytest.mark.parametrize(
    "arguments",
    [
        ["27", "3d_fullres", "0"],
        ["Dataset027_Lesions", "2d", "all", "-tr", "nnUNetTrainerBlob", "-p", "nnUNetPlans", "--npz", "-device", "cpu"],
        ["--help"],
        [],
        (["-tr", "nnUNetTrainerBlob", "27", "2d", "0"]),
        (["27", "2d", "0", "-pretrained_weights", "weights.pth"]),
    ],
)
def test_train_hands_all_arguments_to_nnunet(called: list, arguments: list[str]) -> None:
    cli.main(["train", *arguments])
    assert called == [["nnUNetv2_train", *arguments, f"{discovery_folder()}{os.pathsep}mine"]]


def test_predict_hands_all_arguments_to_nnunet(called: list) -> None:
    arguments = ["-i", "in", "-o", "out", "-d", "999", "-c", "2d", "-f", "0", "-p", "none"]
    cli.main(["predict", *arguments])
    assert called == [["nnUNetv2_predict", *arguments, f"{discovery_folder()}{os.pathsep}mine"]]


def test_arguments_come_from_the_command_line(called: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["nnunet-instance", "train", "27", "2d", "0"])
    cli.main()
    assert called[0][:-1] == ["nnUNetv2_train", "27", "2d", "0"]


def test_a_training_with_plans_that_are_not_there_does_not_start(called: list, preprocessed: Path) -> None:
    line = exit_line("train", "27", "2d", "0", "-p", "Other")
    assert line.startswith("dataset 'Dataset027_Lesions' has no plans 'Other', but nnUNetPlans: name one with -p")
    assert called == []


# --- settings in the shell --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pairs, expected",
    [
        (["num_epochs=250", "initial_lr=1e-3"], {"num_epochs": 250, "initial_lr": 0.001}),
        (["seed=null", "a=true"], {"seed": None, "a": True}),
        (["source=patch", 'scale="unit"'], {"source": "patch", "scale": "unit"}),
        (["criterion=dice+bce"], {"criterion": "dice+bce"}),
        (['classes=["a", "b"]'], {"classes": ["a", "b"]}),
        (["weights.blob=0.5", "weights.pixel=2"], {"weights": {"blob": 0.5, "pixel": 2}}),
        (["criterion.tversky.alpha=0.2"], {"criterion": {"tversky": {"alpha": 0.2}}}),
        (['weights={"blob": 0.5}', "weights.pixel=2"], {"weights": {"blob": 0.5, "pixel": 2}}),
        (["seed=1", "seed=2"], {"seed": 2}),
        (["a=b=c", "b="], {"a": "b=c", "b": ""}),
    ],
)
def test_values_are_json_or_else_text(pairs: list[str], expected: dict) -> None:
    assert parse_settings(pairs) == expected


def test_a_setting_without_a_value_is_refused() -> None:
    with pytest.raises(UserError, match="settings are KEY=VALUE, got 'num_epochs'"):
        parse_settings(["seed=1", "num_epochs"])


@pytest.mark.parametrize("pairs", [["weights=3", "weights.blob=1"], ["criterion=dice", "criterion.tversky.alpha=1"]])
def test_a_part_of_what_has_no_parts_is_refused(pairs: list[str]) -> None:
    with pytest.raises(UserError):
        parse_settings(pairs)


# --- configure --------------------------------------------------------------------------------------------


def test_configure_writes_a_copy_with_the_settings(preprocessed: Path, capsys: pytest.CaptureFixture) -> None:
    before = contents(preprocessed)
    cli.main(["configure", "-d", "27", "-o", "Mine", "num_epochs=250", "weights.blob=0.5", 'classes=["lesion"]'])
    after = contents(preprocessed)
    name = "Dataset027_Lesions/Mine.json"
    written = json.loads(after.pop(name))
    assert after == before
    settings = {"num_epochs": 250, "weights": {"blob": 0.5}, "classes": ["lesion"]}
    assert written == {
        **PLANS,
        "plans_name": "Mine",
        "configurations": {
            "2d": {"data_identifier": "nnUNetPlans_2d", "batch_size": 12, "instance_training": settings},
            "3d_fullres": {**PLANS["configurations"]["3d_fullres"], "instance_training": settings},
        },
    }
    assert capsys.readouterr().out == f"wrote {preprocessed / name}; train with -p Mine\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["-d", "Dataset027_Lesions", "-c", "2d", "-o", "Mine", "seed=1"],
        ["seed=1", "-d", "27", "-o", "Mine", "-c", "2d"],
        (["-d", "27", "-o", "Mine", "-c", "2d", "seed=1"]),  # as the usage line has it
    ],
)
def test_configure_sets_the_chosen_configurations_only(preprocessed: Path, arguments: list[str]) -> None:
    cli.main(["configure", *arguments])
    written = json.loads((preprocessed / "Dataset027_Lesions" / "Mine.json").read_text())["configurations"]
    assert written["2d"]["instance_training"] == {"seed": 1}
    assert written["3d_fullres"] == PLANS["configurations"]["3d_fullres"]


def test_configure_keeps_what_the_copy_held(preprocessed: Path, capsys: pytest.CaptureFixture) -> None:
    cli.main(["configure", "-d", "27", "-o", "Mine", "classes=lesion", "num_epochs=5", "-c", "2d"])
    cli.main(["configure", "-d", "27", "-o", "Mine", "num_epochs=7", "sampling=instance"])
    plans = json.loads((preprocessed / "Dataset027_Lesions" / "Mine.json").read_text())["configurations"]
    both = {"num_epochs": 7, "sampling": "instance"}
    assert plans["2d"]["instance_training"] == {"classes": "lesion", **both}
    assert all(plan["instance_training"] == both for name, plan in plans.items() if name != "2d")
    assert "Mine.json, which keeps classes; train with -p Mine" in capsys.readouterr().out


def test_plans_of_another_name_are_offered(preprocessed: Path) -> None:
    folder = preprocessed / "Dataset027_Lesions"
    (folder / "nnUNetPlans.json").rename(folder / "ResEncPlans.json")
    line = exit_line("precompute", "-d", "27")
    assert line.endswith("dataset 'Dataset027_Lesions' has no plans 'nnUNetPlans', but ResEncPlans: name one with -p")


def configured_twice(preprocessed: Path, first: list[str], second: list[str]) -> dict:
    cli.main(["configure", "-d", "27", "-o", "First", *first])
    cli.main(["configure", "-d", "27", "-p", "First", "-o", "Second", *second])
    plans = json.loads((preprocessed / "Dataset027_Lesions" / "Second.json").read_text())
    return plans["configurations"]["2d"]["instance_training"]


def test_a_copy_of_a_copy_keeps_earlier_settings(preprocessed: Path) -> None:
    settings = configured_twice(preprocessed, ["seed=1", "num_epochs=5"], ["num_epochs=7", "source=patch"])
    assert settings == {"seed": 1, "num_epochs": 7, "source": "patch"}


def test_a_copy_of_a_copy_keeps_earlier_weights(preprocessed: Path) -> None:
    settings = configured_twice(preprocessed, ["weights.blob=0.5"], ["weights.pixel=3"])
    assert settings == {"weights": {"blob": 0.5, "pixel": 3}}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["num_epoch=5"], "unknown setting 'num_epoch' in configuration '2d': allowed are weights, "),
        (
            ["seed=1", "num_epochs=0"],
            "setting 'num_epochs' in configuration '2d' must be null or a whole number >= 1, got 0",
        ),
        (["weights.blub=1"], "setting 'weights' in configuration '2d' must be numbers >= 0 for pixel, blob"),
        (['classes=["tumour"]'], "setting 'classes' names 'tumour': the classes of dataset.json are lesion, organ"),
        (["seed"], "settings are KEY=VALUE, got 'seed'"),
        (["seed=1", "-c", "2d", "3d"], "has no configuration '3d': there are 2d, 3d_fullres"),
        (["seed=1", "-p", "Mine"], "-o 'Mine' is no name for a copy of 'Mine'"),
        (["seed=1", "-o", "a/b"], "-o 'a/b' is no name for a copy of 'nnUNetPlans'"),
        (["seed=1", "-o", "Foreign"], "Foreign.json exists and was not made by 'configure'"),
        (["seed=1", "-o", "dataset"], "dataset.json exists and was not made by 'configure'"),
        ([], "no settings given: add KEY=VALUE"),
    ],
)
def test_configure_refuses_and_writes_nothing(preprocessed: Path, arguments: list[str], message: str) -> None:
    folder = preprocessed / "Dataset027_Lesions"
    (folder / "Foreign.json").write_text(json.dumps({**PLANS, "plans_name": "Foreign"}))
    configured = {name: {**plan, "instance_training": {}} for name, plan in PLANS["configurations"].items()}
    (folder / "Mine.json").write_text(json.dumps({**PLANS, "plans_name": "Mine", "configurations": configured}))
    before = contents(preprocessed)
    assert message in exit_line("configure", "-d", "27", "-o", "Mine", *arguments)
    assert contents(preprocessed) == before


def test_a_write_that_fails_leaves_nothing(preprocessed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill_the_disk(path: Path, text: str) -> None:
        path.write_bytes(text.encode()[:10])
        raise OSError(28, "No space left on device")

    before = contents(preprocessed)
    monkeypatch.setattr(Path, "write_text", fill_the_disk)
    assert "Mine.json (No space left on device): make room" in exit_line(
        "configure", "-d", "27", "-o", "Mine", "seed=1"
    )
    assert contents(preprocessed) == before


def test_configure_knows_regions(preprocessed: Path) -> None:
    regions = {"background": 0, "whole": [1, 2], "core": [2]}
    (preprocessed / "Dataset027_Lesions" / "dataset.json").write_text(json.dumps({"labels": regions}))
    assert exit_line("configure", "-d", "27", "-o", "Mine", 'classes=["edge"]').endswith("are whole, core")
    cli.main(["configure", "-d", "27", "-o", "Mine", 'classes=["core"]'])
    assert (preprocessed / "Dataset027_Lesions" / "Mine.json").is_file()


# --- mistakes end with one line ---------------------------------------------------------------------------

COMMANDS: dict[str, Callable[..., list[str]]] = {
    "configure": lambda dataset: ["configure", "-d", dataset, "-o", "Mine", "seed=1"],
    "precompute": lambda dataset: ["precompute", "-d", dataset],
    "train": lambda dataset: ["train", dataset, "2d", "0"],
}
PREPROCESS = "run 'nnUNetv2_plan_and_preprocess -d "
MISTAKES = {
    "no such id": ("28", "there is no dataset 28 in {folder}: " + PREPROCESS + "28'"),
    "ambiguous id": ("5", "2 datasets have the id 5 in {folder}: " + PREPROCESS + "5', or give the full name"),
    "no such name": ("Dataset028_Any", "dataset 'Dataset028_Any' is not preprocessed with plans 'nnUNetPlans'"),
    "not planned": ("Dataset005_One", "dataset 'Dataset005_One' is not preprocessed with plans 'nnUNetPlans'"),
    "neither id nor name": (
        "Lesions",
        "a dataset is an id such as 27 or a name such as Dataset027_ACDC, got 'Lesions'",
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("dataset, message", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_wrong_dataset_is_named(preprocessed: Path, called: list, command: str, dataset: str, message: str) -> None:
    assert exit_line(*COMMANDS[command](dataset)).startswith(message.format(folder=preprocessed))
    assert called == []


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unset_variable_is_named(called: list, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.delenv("nnUNet_preprocessed")
    line = exit_line(*COMMANDS[command]("27"))
    assert line.startswith("the environment variable nnUNet_preprocessed is not set: point it to ")


def test_the_remedy_has_the_datasets_number(preprocessed: Path) -> None:
    assert exit_line("precompute", "-d", "Dataset005_One").endswith(PREPROCESS + "5'")


@pytest.mark.parametrize("dataset", ["28", "5"])
def test_a_mistake_in_a_shell_gives_one_line_and_status_1(preprocessed: Path, dataset: str) -> None:
    command = [sys.executable, "-m", "nnunet_instance_trainers.cli", *COMMANDS["precompute"](dataset)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("nnunet-instance: error: ") and str(preprocessed) in line


# --- check ------------------------------------------------------------------------------------------------


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list:
    """What the look at the installation gives: filled by a test."""
    from nnunet_instance_trainers.checking import installation

    findings: list = []

    def check_installation() -> list:
        print("nnU-Net says something")
        return findings

    monkeypatch.setattr(installation, "check_installation", check_installation)
    return findings


def test_check_prints_a_line_each_and_ends_with_1_on_a_problem(found: list, capsys: pytest.CaptureFixture) -> None:
    from nnunet_instance_trainers.checking.findings import Finding

    found += [Finding("ok", "version", "1"), Finding("warning", "link", "old", "renew it")]
    cli.main(["check"])
    assert capsys.readouterr().out == "ok       version: 1\nwarning  link: old: renew it\n"
    found.append(Finding("problem", "nnUNet_raw", "is not set", "export it"))
    with pytest.raises(SystemExit) as info:
        cli.main(["check", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert info.value.code == 1
    assert printed[-1] == {"level": "problem", "topic": "nnUNet_raw", "text": "is not set", "remedy": "export it"}


@pytest.mark.nnunet
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["-d", "28", "-c", "2d"], "there is no dataset 28"),
        (["-d", "27", "-c", "2d", "-p", "Other"], "has no plans 'Other', but nnUNetPlans"),
        (["-d", "27", "-c", "2d", "-tr", "nnUNetTrainerBlop"], "this package has no trainer 'nnUNetTrainerBlop'"),
    ],
)
def test_check_names_what_is_not_there(
    arguments: list[str], text: str, found: list, preprocessed: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as info:
        cli.main(["check", *arguments])
    (line,) = capsys.readouterr().out.splitlines()
    assert info.value.code == 1 and line.startswith("problem  training: ") and text in line


def test_check_wants_both_dataset_and_configuration() -> None:
    assert exit_line("check", "-d", "27").startswith("-d and -c belong together")


def test_bins_of_the_instance_loss_paper():
    from nnunet_instance_trainers.cli.scoring import _bins

    assert _bins(["paper"]) == pytest.approx([0.05 * k for k in range(1, 21)])
    assert _bins(["0.1", "2"]) == [0.1, 2]
    with pytest.raises(UserError, match="numbers of mL, or 'paper', got 0.1 b"):
        _bins(["0.1", "b"])
