"""Attacks: files that want to be executed, to lead out of their folder, or to write into a page.

What is trusted and what is not is in SECURITY.md.
"""

from __future__ import annotations

import ast
import base64
import csv
import json
import pickle
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk
from evaluated import evaluate_masks, write_masks

import nnunet_instance_trainers
from nnunet_instance_trainers import cli
from nnunet_instance_trainers.configuration import Settings
from nnunet_instance_trainers.data.map_store import Manifest, decode_map, maps_folder, write_atomically
from nnunet_instance_trainers.errors import UserError

PACKAGE = Path(nnunet_instance_trainers.__file__).parent
SHAPE = (4, 8, 8)
nnunet = pytest.mark.nnunet


class Bomb:
    """Unpickling it leaves a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.fixture
def trace(tmp_path):
    """A file that must not exist afterwards: the attack's."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists()


def stopped(*arguments) -> str:
    """The one line with which a command ends."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    assert isinstance(stop.value.code, str) and "\n" not in stop.value.code
    return stop.value.code


@pytest.fixture
def folder(tmp_path):
    """Predictions and ground truth of two cases with dataset.json."""
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[1:3, 2:5, 2:5] = 1
    for name in ("predicted", "labelsTs"):
        write_masks(tmp_path / name, {"a": mask, "b": mask}, ".nii.gz")
    describe(tmp_path)
    return tmp_path


def describe(folder: Path, ending: str = ".nii.gz", **more) -> None:
    content = {"labels": {"background": 0, "cell": 1}, "file_ending": ending, **more}
    (folder / "predicted" / "dataset.json").write_text(json.dumps(content))


def evaluating(folder: Path, *more) -> list:
    return ["evaluate", "-i", folder / "predicted", "-g", folder / "labelsTs", "-o", folder / "out", "-np", 1, *more]


def ensembling(folder: Path, *more, name: str = "A", hysteresis=(0.3, 0.6)) -> list:
    entry = {"members": [{"name": name, "low_ml": 0, "high_ml": None}], "hysteresis": hysteresis}
    (folder / "plan.json").write_text(json.dumps({"format": 1, "classes": {"*": entry}}))
    given = ["--config", folder / "plan.json", "--predictions", f"{name}={folder / 'predicted'}"]
    return ["ensemble", *given, "-o", folder / "out", "-np", 1, *more]


# --- nothing is executed --------------------------------------------------------------------------------------

_FORBIDDEN = re.compile(
    r"(eval|exec|compile|__import__|os\.(system|popen)|torch\.load|joblib\.load|yaml\.(?!safe_load)\w*load"
    r"|(batchgenerators\S*\.)?(load|read)_pickle|\w*\.?(pickle|marshal|shelve|dill)\.\w+)"
)


def suspicious(source: str) -> list[str]:
    """Calls that can execute what they read."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            options = {option.arg: ast.unparse(option.value) for option in node.keywords}
            weights_only = name == "torch.load" and options.get("weights_only") == "True"
            if (_FORBIDDEN.fullmatch(name) and not weights_only) or any(
                options.get(key, "False") != "False" for key in ("allow_pickle", "shell")
            ):
                found.append(f"{name} in line {node.lineno}")
    return found


def test_no_module_calls_what_executes_its_input():
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 80
    assert {str(file): calls for file in files if (calls := suspicious(file.read_text()))} == {}
    picklers = [file.name for file in files if re.search(r"^\s*(from|import) pickle\b", file.read_text(), re.M)]
    # The one looks up nothing that a pickle names, the other takes its error only.
    assert picklers == ["cellpose_files.py", "training_jobs.py"]
    openers = [file.name for file in files if "blosc2.open(" in file.read_text()]
    assert openers == ["preprocessed_files.py"]  # nnU-Net's own files; maps are decoded once their header was looked at


@pytest.mark.parametrize(
    "call",
    [
        "eval(x)",
        "pickle.load(f)",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "yaml.load(f)",
        "np.load(f, allow_pickle=True)",
        "run(c, shell=True)",
        "exec(x)",
    ],
)
def test_that_test_can_fail(call):
    assert suspicious(call)


@nnunet
@pytest.mark.parametrize("command", [evaluating, ensembling])
@pytest.mark.parametrize("kind", ["objects", "pickle", "array"])
def test_a_pickle_for_probabilities_is_one_line(folder, trace, command, kind):
    bomb = np.array([Bomb(trace)], dtype=object)
    for case in ("a", "b"):
        file = folder / "predicted" / f"{case}.npz"
        if kind == "objects":
            np.savez(file, probabilities=bomb)
        elif kind == "pickle":
            file.write_bytes(pickle.dumps(bomb))
        else:  # an .npy by another name
            with open(file, "wb") as stream:
                np.save(stream, bomb, allow_pickle=True)
    more = ["--froc"] if command is evaluating else []
    assert "case 'a': cannot read probabilities from" in stopped(*command(folder, *more))
    np.load(file, allow_pickle=True)["probabilities"] if kind == "objects" else np.load(file, allow_pickle=True)
    assert trace.exists()  # the bomb does work
    trace.unlink()


@nnunet
def test_pickles_of_nnunet_beside_predictions_are_not_read(folder, trace, tmp_path):
    """nnU-Net writes a .pkl beside probabilities, and its ensembling reads it; ours does not."""
    probabilities = np.stack([np.full(SHAPE, 0.2), np.full(SHAPE, 0.8)]).astype(np.float32)
    for case in ("a", "b"):
        np.savez(folder / "predicted" / f"{case}.npz", probabilities=probabilities)
        (folder / "predicted" / f"{case}.pkl").write_bytes(pickle.dumps(Bomb(trace)))
    cli.main([str(word) for word in evaluating(folder, "--froc")])
    shutil.rmtree(folder / "out")
    cli.main([str(word) for word in ensembling(folder)])
    assert (folder / "out" / "a.nii.gz").is_file()


def decode(path: Path) -> blosc2.NDArray:
    return decode_map(path.read_bytes(), path)


def test_a_map_is_a_plain_array_or_refused(tmp_path, trace):
    ids = np.arange(24, dtype=np.uint32).reshape(1, 4, 6)
    blosc2.asarray(ids, urlpath=str(tmp_path / "good.b2nd"))
    assert (decode(tmp_path / "good.b2nd")[:] == ids).all()

    source = f"import pathlib\npathlib.Path({str(trace)!r}).touch()\ndef f(inputs, output, offset): pass"
    function = blosc2.asarray(ids, urlpath=str(tmp_path / "function.b2nd"), meta={"LazyArray": 2})
    stored = {"UDF": source, "name": "f", "operands": {}, "dtype": "<u4", "shape": list(ids.shape)}
    function.schunk.vlmeta["_LazyArray"] = stored
    secret = blosc2.asarray(ids, urlpath=str(tmp_path / "secret.b2nd"))
    blosc2.lazyexpr("secret + 1", {"secret": secret}).save(urlpath=str(tmp_path / "expression.b2nd"))
    blosc2.SChunk(data=b"abc", urlpath=str(tmp_path / "chunk.b2nd"))
    (tmp_path / "pickle.b2nd").write_bytes(pickle.dumps(Bomb(trace)))
    (tmp_path / "empty.b2nd").write_bytes(b"")
    wide = blosc2.asarray(ids.astype(np.uint64)).to_cframe()
    for name, dtype in (("addresses", b"|O8"), ("overflow", b"|u1"), ("signed", b"<i8")):
        (tmp_path / f"{name}.b2nd").write_bytes(wide.replace(b"<u8", dtype))
    (tmp_path / "cut.b2nd").write_bytes((tmp_path / "good.b2nd").read_bytes()[:60])
    for name in ("function", "expression", "chunk", "pickle", "empty", "cut", "addresses", "overflow", "signed"):
        with pytest.raises(UserError, match=f"{name}.b2nd is no map of instances: delete"):
            decode(tmp_path / f"{name}.b2nd")


@pytest.mark.parametrize("text", ["__import__('os').system('true')", "dice+__import__('os')", "{0.__class__}"])
def test_settings_are_names_and_numbers(text):
    for key in ("criterion", "pixel_loss", "source", "num_epochs", "weights"):
        with pytest.raises(UserError, match=f"setting '{key}' in the plans must be"):
            Settings.resolve(object, {key: text}, where="the plans")
    with pytest.raises(UserError, match="setting 'classes' names"):  # a name, and none that dataset.json has
        Settings.resolve(object, {"classes": text}, where="the plans").channels({"background": 0, "a": 1}, False)


@nnunet
@pytest.mark.parametrize("name", ["np", "sitk", "BaseReaderWriter"])
def test_a_reader_that_dataset_json_names_is_one_of_nnunets(folder, name):
    describe(folder, overwrite_image_reader_writer=name)
    assert f"{name!r} in dataset.json is no reader" in stopped(*evaluating(folder))


@nnunet
def test_nested_json_is_one_line(folder):
    deep = "[" * 200_000
    (folder / "predicted" / "dataset.json").write_text(deep)
    assert "is no dataset.json of nnU-Net" in stopped(*evaluating(folder))
    words = ensembling(folder)
    (folder / "plan.json").write_text(deep)
    assert "plan.json is damaged, or no JSON" in stopped(*words)
    (folder / "out").mkdir()
    (folder / "out" / "summary.json").write_text(deep)
    assert "was not written by" in stopped("report", folder / "out", "-o", folder / "page.html")
    (folder / "manifest.json").write_text(deep)
    with pytest.raises(UserError, match="manifest.json is unreadable"):
        Manifest.read(folder)


@nnunet
def test_masks_of_cellpose_execute_nothing(tmp_path, trace):
    ids = np.eye(8, dtype=np.uint16)
    for case in ("a", "b"):
        write_masks(tmp_path / "cells", {case: ids}, ".png")
        np.save(tmp_path / "cells" / f"{case}_seg.npy", {"masks": ids, "filename": Bomb(trace)})
    words = ["import", "-i", tmp_path / "cells", "-np", 1, "-o"]
    cli.main([str(word) for word in (*words, tmp_path / "Dataset123_A")])
    assert (tmp_path / "Dataset123_A" / "instancesTr" / "b.png").is_file()
    np.save(tmp_path / "cells" / "b_seg.npy", {"masks": Bomb(trace)})
    assert "b_seg.npy is damaged or not as Cellpose writes it" in stopped(*words, tmp_path / "Dataset124_B")
    np.load(tmp_path / "cells" / "b_seg.npy", allow_pickle=True)
    assert trace.exists()  # the bomb does work
    trace.unlink()


# --- nothing leads out of its folder --------------------------------------------------------------------------


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@nnunet
@pytest.mark.parametrize("ending", ["/../../other/a.nii.gz", "/../outside.nii.gz", "*", "[a].nii.gz", "\\..\\x", "", 7])
@pytest.mark.parametrize("command", [evaluating, ensembling])
def test_the_ending_in_dataset_json_is_no_path(folder, command, ending):
    (folder / "predicted" / "inner").mkdir()
    (folder / "other").mkdir()
    shutil.copy(folder / "predicted" / "a.nii.gz", folder / "other")
    describe(folder, ending)
    words = command(folder)
    before = listing(folder)
    assert "is no dataset.json of nnU-Net" in stopped(*words)
    assert listing(folder) == before


@nnunet
@pytest.mark.parametrize("name", ["../outside.png", "/{}/outside.png", "inner/../../outside.png"])
def test_images_of_a_coco_file_are_in_their_folder(tmp_path, name):
    write_masks(tmp_path, {"outside": np.ones((8, 8))}, ".png")
    (tmp_path / "images").mkdir()
    entry = {"id": 1, "file_name": name.format(tmp_path), "height": 8, "width": 8}
    (tmp_path / "x.json").write_text(json.dumps({"images": [entry], "annotations": [], "categories": []}))
    before = listing(tmp_path)
    words = ["import", "-i", tmp_path / "images", "-l", tmp_path / "x.json", "-o", tmp_path / "Dataset123_A"]
    assert "which leads out of" in stopped(*words)
    assert listing(tmp_path) == before


@nnunet
def test_precompute_asks_the_same_of_it_and_of_the_manifest(boxes):
    from nnunet_instance_trainers.data.precompute import precompute

    folders, _ = boxes
    dataset = "Dataset901_Boxes"
    precompute(dataset, ["3d_fullres"], "nnUNetPlans", 1)
    maps = maps_folder(folders.preprocessed / dataset / "nnUNetPlans_3d_fullres")
    manifest = json.loads(Manifest.file(maps).read_text())
    manifest["cases"]["../../../outside"] = manifest["cases"]["case_0"]
    manifest["cases"][str(folders.root / "absolute")] = manifest["cases"]["case_0"]
    Manifest.file(maps).write_text(json.dumps(manifest))
    before = listing(folders.root)
    precompute(dataset, ["3d_fullres"], "nnUNetPlans", 1)
    assert Manifest.read(maps).cases.keys() == {"case_0", "case_1", "case_2", "case_3"}
    assert listing(folders.root) == before
    file = folders.preprocessed / dataset / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "file_ending": "/../../x"}))
    with pytest.raises(UserError, match="is no dataset.json of nnU-Net: run 'nnUNetv2_plan_and_preprocess' again"):
        precompute(dataset, ["3d_fullres"], "nnUNetPlans", 1)


@nnunet
def test_names_of_members_are_no_paths(folder):
    before = listing(folder)
    cli.main([str(word) for word in ensembling(folder, name="../../outside", hysteresis=None)])
    new = {name for name in listing(folder) - before if not name.startswith("out")}
    assert new == {"plan.json"}
    assert not list(folder.parent.glob("outside*"))


@nnunet
@pytest.mark.parametrize("case", ["../secret", "/etc/passwd", "..", "", "../labelsTs/a"])
def test_a_case_of_a_table_is_a_file_of_its_folder(folder, case):
    cli.main([str(word) for word in evaluating(folder)])
    shutil.copy(folder / "labelsTs" / "a.nii.gz", folder / "secret.nii.gz")
    for table in ("cases", "sizes", "objects"):
        file = folder / "out" / f"{table}.csv"
        file.write_text(file.read_text().replace("\na,", f"\n{case},"))
    file = folder / "out" / "summary.json"
    summary = json.loads(file.read_text())
    for key in ("reference_file", "prediction_file"):
        summary["metric_per_case"][0][key] = f"{case}.nii.gz"
    file.write_text(json.dumps(summary))
    says = f"does not name the files of case {case!r}" if "/" in case else f"{case}.nii.gz (No such file or directory)"
    assert says in stopped("report", folder / "out", "-o", folder / "page.html")
    assert not (folder / "page.html").exists()


META = "ObjectType = Image\nNDims = 3\nDimSize = 8 8 4\nElementType = MET_UCHAR\n"


@nnunet
@pytest.mark.parametrize(
    "ending, header",
    [
        (".mha", f"{META}ElementDataFile = {{}}\n"),
        (".mha", "ObjectType = Image\n\nNDims = 3\nDimSize = 8 8 4\nElementType = MET_UCHAR\nElementDataFile: {}\n"),
        (".mha", f"{META}elementdatafile = LOCAL\nElementDataFile = {{}}\n"),  # no key of the reader
        (".mha", f"{META}ElementDataFiles = LOCAL\nElementDataFile = {{}}\n"),
        (".mha", f"{META}no key\nElementDataFile = LOCAL\nElementDataFile = {{}}\n"),  # it passes over two lines
        (".mha", f"{META}Comment = a\rElementDataFile = LOCAL\nElementDataFile = {{}}\n"),
        (".nrrd", "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 8 8 4\nencoding: raw\ndata file: {}\n\n"),
        (".nrrd", "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 8 8 4\nencoding: raw\nDataFile: {}\n\n"),
    ],
)
def test_an_image_does_not_take_its_voxels_from_another_file(folder, ending, header):
    (folder / "secret").write_bytes(bytes(8 * 8 * 4))
    describe(folder, ending)
    for name in ("predicted", "labelsTs"):
        write_masks(folder / name, {"a": np.ones(SHAPE)}, ending)
    cli.main([str(word) for word in evaluating(folder)])  # what is in one file is read
    (folder / "predicted" / f"a{ending}").write_text(header.format(folder / "secret"))
    if ending == ".mha":
        assert (sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "predicted" / "a.mha"))) == 0).all()  # the secret's
    assert f"a{ending} is the header of another file" in stopped(*evaluating(folder))
    (folder / "labelsTs" / f"a{ending}").write_text(header.format(folder / "secret"))
    assert f"a{ending} is the header of another file" in stopped(*evaluating(folder))


@nnunet
def test_such_headers_are_what_the_reader_follows(tmp_path):
    """So the tests above refuse something real."""
    (tmp_path / "secret").write_bytes(bytes([7] * 8))
    size = "NDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\n"
    (tmp_path / "a.mha").write_text(f"ObjectType = Image\n{size}ElementDataFile = {tmp_path / 'secret'}\n")
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.mha"))).sum() == 56


def test_a_link_under_the_temporary_name_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / ".unfinished_table.csv").symlink_to(tmp_path / "precious")
    with write_atomically(tmp_path / "table.csv") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "precious").read_text() == "mine"
    assert (tmp_path / "table.csv").read_text() == "new" and not (tmp_path / "table.csv").is_symlink()


# --- nothing is written into a page ---------------------------------------------------------------------------

HOSTILE = ('"><img src=x onerror=alert(1)>', "<script>alert(1)<", "$\\frac{$ {{ 7 * 7 }} {% raw %}", "a&lt;b&amp;'c")
TAGS = """html head meta link title style body main div header section footer h1 h2 h3 p strong em small span code wbr
table thead tbody tr th td figure img figcaption dl dt dd b ol ul li"""


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words += data


@nnunet
def test_hostile_names_are_words_in_a_report(tmp_path):
    """Of cases, models and classes; of classes with a slash, which names of files cannot have."""
    label = "</script></td><svg onload=alert(1)>$_{$"
    mask = np.zeros((24, 24), dtype=np.uint8)
    mask[2:6, 2:6] = 1
    cases, models = dict.fromkeys(HOSTILE[:2], mask), HOSTILE[2:]
    evaluate_masks(tmp_path, cases, {model: cases for model in models}, ".png")
    dataset = {"labels": {"background": 0, label: 1}, "file_ending": ".png"}
    (tmp_path / "dataset.json").write_text(json.dumps(dataset))
    for model in models:
        masks_of = tmp_path / f"{model}_masks"
        given = [masks_of, "-g", tmp_path / "labelsTs", "-o", tmp_path / model, "-np", 1]
        cli.main(["evaluate", "-i", *map(str, given)])
    cli.main(["report", *(str(tmp_path / model) for model in models), "-o", str(tmp_path / "page.html")])
    page = Page((tmp_path / "page.html").read_text())
    assert {tag for tag, _ in page.tags} <= set(TAGS.split())
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    pictures = [attributes for tag, attributes in page.tags if tag == "img" and attributes["alt"]]
    assert len(pictures) == 2 + 1 + 2 + 2 * 2 and all(source.startswith("data:image/") for source in sources)
    for source in sources:
        if source.startswith("data:image/svg"):
            drawing = ElementTree.fromstring(base64.b64decode(source.partition(",")[2]))
            assert not [node for node in drawing.iter() if node.tag.endswith(("script", "foreignObject"))]
    assert all(name in page.words for name in HOSTILE)
    with open(tmp_path / models[0] / "cases.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["case"] for row in rows} == set(cases) and {row["class"] for row in rows} == {label}
