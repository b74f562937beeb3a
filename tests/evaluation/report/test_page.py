from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from evaluated import evaluate_masks, synthetic, write_masks
from scipy import ndimage

from nnunet_instance_trainers import cli
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.evaluation.comparing.model_comparison import compare
from nnunet_instance_trainers.evaluation.report import choose_cases, report, write_report
from nnunet_instance_trainers.evaluation.report import page as module
from nnunet_instance_trainers.evaluation.scoring.result_files import Evaluation, bin_names

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page(HTMLParser):
    """Tags and text of a page; checks that tags are closed in the order in which they were opened."""

    VOID = {"meta", "link", "img", "br", "wbr"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"] and data.strip():
            self.words.append(data.strip())

    @property
    def images(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == "img"]


@pytest.fixture
def no_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Synthetic tables have no masks to draw."""
    monkeypatch.setattr(module, "choose_cases", lambda table: [])


def alternatives(page: Page) -> list[str]:
    return [image["alt"] or "" for image in page.images]


def page_of(*models: Evaluation) -> Page:
    return Page(report(models, compare(models)))


def cells(seed: int) -> np.ndarray:
    """A flat image with about a dozen cells."""
    return ndimage.gaussian_filter(np.random.default_rng(seed).random((72, 96)), 4) > 0.53


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def folders(work: Path) -> list[Path]:
    """Three models on five flat images: one that is right, one eroded, one that swallows everything around."""
    truth = {f"cell_{k}": cells(k) for k in range(5)}
    models = {
        "eroded": {case: ndimage.binary_erosion(mask, iterations=2) for case, mask in truth.items()},
        "exact": truth,
        "swollen": {case: ndimage.binary_dilation(mask, iterations=5) for case, mask in truth.items()},
    }
    images = {case: 60 + 120 * mask for case, mask in truth.items()}
    write_masks(work / "imagesTs", images, ".png", "_0000")
    return evaluate_masks(work, truth, models, ".png")


@pytest.fixture(scope="module")
def written(folders: list[Path], work: Path) -> str:
    """The page of these models, with images."""
    write_report(folders, work / "r.html", work / "imagesTs")
    return (work / "r.html").read_text()


# --- what the page says ------------------------------------------------------------------------------------


def test_the_table_has_means_ranks_and_intervals(no_cases: None) -> None:
    models = [synthetic("first", 20, 0.5), synthetic("second", 20, 0.7)]
    tables = compare(models)
    (table,) = tables
    words = " ".join(Page(report(models, tables)).words)
    for m in (0, 1):
        for name, digits in (("dice", 3), ("f1", 3), ("f1_iou50", 3), ("volume_ratio", 2), ("missed", 2)):
            value, low, high = (values[name][m] for values in (table.mean, table.low, table.high))
            assert f"{value:.{digits}f}" in words and f"{low:.2f}\N{EN DASH}{high:.2f}" in words
        for mean in ("RA", "RG", "RI"):
            assert f"{table.mean_ranks[mean][m]:.2f}" in words
    assert re.search(r"Mean rank over all scores, best first: second \d\.\d\d first \d\.\d\d Comparison", words)


def test_every_picture_has_a_text_with_its_numbers(no_cases: None) -> None:
    models = [synthetic("first", 20, 0.5), synthetic("second", 20, 0.7)]
    tables = compare(models)
    (table,) = tables
    texts = [image["alt"] for image in Page(report(models, tables)).images if image["alt"]]
    assert len(texts) == 6  # bars of each, sensitivity, FROC, scatter of each
    found = sum(row["found"] for row in models[0].sizes if row["bin"] == "<0.01")
    assert (
        f"first (volume ratio {table.mean['volume_ratio'][0]:.2f}" in texts[0]
        and f"<0.01 mL: {found} found" in texts[0]
    )
    for text, own in zip(texts, ("first", "second", "first", "second", "first", "second")):
        assert own in text and re.search(r"\d\.\d\d", text)
    assert all(name in text for text in texts[2:4] for name in ("first", "second"))
    assert f"median Dice {np.median(table.values['dice'][1]):.2f}" in texts[5]
    at_one = max(row["sensitivity"] for row in models[1].froc if row["false_positives_per_image"] <= 1)
    assert f"second: {at_one:.2f} at 1 false positive per image" in texts[3]
    assert "average sensitivity 0.40 (0.35 to 0.45)" in texts[3]


def test_overlap_scores_never_come_without_what_must_stand_beside_them(written: str) -> None:
    page = Page(written)
    start = page.words.index("volume ratio")
    assert page.words[start : start + 8 : 2] == ["volume ratio", "F1, IoU 0.5", "F1", "sensitivity"]
    for image in page.images:
        assert not image["alt"] or ("volume ratio" in image["alt"] and "F1 at IoU 0.5" in image["alt"]), image["alt"]


def test_a_model_with_far_too_much_volume_is_called_out(written: str) -> None:
    words = " ".join(Page(written).words)
    assert "swollen predicts" in words and "exact predicts" not in words


def test_pictures_of_cases_tell_what_became_of_the_objects(written: str) -> None:
    page = Page(written)
    cases = [image for image in page.images if image["alt"].startswith("Image of case")]
    assert len(cases) == 9 and all(image["src"].startswith("data:image/png;base64,") for image in cases)
    _, n = ndimage.label(cells(int(cases[0]["alt"].split("cell_")[1][0])), np.ones((3, 3)))
    assert f"exact: {n} found, 0 missed, 0 false; F1 1.00" in cases[1]["alt"]


def test_without_probabilities_there_is_no_froc(no_cases: None) -> None:
    model = synthetic("A", 5, 0.5)
    model.froc.clear()
    page = page_of(model)
    assert "FROC" not in page.words and len([image for image in page.images if image["alt"]]) == 3


def test_models_without_probabilities_are_left_out_of_the_froc(no_cases: None) -> None:
    models = [synthetic("silent", 5, 0.5), synthetic("heard", 5, 0.6)]
    models[0].froc.clear()
    del models[0].summary["froc"]
    (alternative,) = [i["alt"] for i in page_of(*models).images if i["alt"].startswith("Curves")]
    assert "heard" in alternative and "silent" not in alternative


def test_with_several_classes_each_has_its_table_and_its_froc(no_cases: None) -> None:
    page = page_of(*(synthetic(name, 6, skill, classes=("core", "rim")) for name, skill in (("A", 0.5), ("B", 0.6))))
    assert [word for word in page.words if word in ("all classes", "class core", "class rim")] == [
        "all classes",
        "class core",
        "class rim",
        "class core",
        "class rim",
    ]


def test_pairs_are_shown_and_significance_is_bold(no_cases: None) -> None:
    models = [synthetic("A", 40, 0.4), synthetic("B", 40, 0.8), synthetic("C", 40, 0.401)]
    tables = compare(models)
    text, pairs = report(models, tables), tables[0].pairs
    bold = re.findall(r'<td class="first">[^<]*</td></tr>', text[text.index("<h2>Pairs") :])
    assert 0 < len(bold) == sum(pair.p_holm < 0.05 for pair in pairs) < len(pairs)


def test_names_are_text_and_not_markup(no_cases: None) -> None:
    page = page_of(synthetic('<script>alert("x")</script>', 4, 0.5))
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert '<script>alert("x")</script>' in "".join(page.words)
    assert any(words.startswith('Stacked bars of objects per size. <script>alert("x")') for words in alternatives(page))


def test_the_page_asks_for_nothing(written: str) -> None:
    assert not [word for word in ("http:", "https:", "url(", "@import") if word in written]
    for tag, attributes in Page(written).tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)


def test_digits_tell_models_apart_and_few_cases_have_no_interval(no_cases: None) -> None:
    models = [synthetic(name, 4, 0.5) for name in ("A", "B")]
    for model, error in zip(models, (0.0112, 0.0113)):
        for row in model.cases:
            row["volume_difference_ml"] = error
    page = page_of(*models)
    assert "0.0112" in page.words and "0.0113" in page.words and "nan" not in " ".join(page.words)
    assert not [word for word in page.words if re.fullmatch(r"[\d.]+\N{EN DASH}[\d.]+", word)]
    assert [word for word in page.words if re.fullmatch(r".[\d.]+ to .[\d.]+", word)] == []


def test_bins_of_any_edges_are_drawn_in_their_order(no_cases: None) -> None:
    model = synthetic("A", 5, 0.5)
    edges = [1e-6, 5e-5, 1e-4, 5e-4, 0.001, 0.005]
    model.summary["settings"]["bins_ml"] = edges
    names = dict(zip(dict.fromkeys(row["bin"] for row in model.sizes), bin_names(edges)))
    for row in model.sizes:
        row["bin"] = names[row["bin"]]
    (text,) = [words for words in alternatives(page_of(model)) if words.startswith("Lines")]
    places = [text.index(f" {name} mL: ") for name in bin_names(edges)[:6]]
    assert places == sorted(places)


# --- few and many ------------------------------------------------------------------------------------------


def test_two_thousand_cases_make_a_page_of_a_few_megabytes(no_cases: None) -> None:
    models = [synthetic(name, 2000, skill) for name, skill in (("A", 0.5), ("B", 0.6))]
    assert len(report(models, compare(models))) < 4e6


def test_two_cases_are_enough(tmp_path: Path) -> None:
    models = [synthetic(name, 2, skill) for name, skill in (("A", 0.5), ("B", 0.6))]
    assert [word for word, _ in choose_cases(compare(models)[0])] == ["best", "worst"]
    truth = {"a": cells(0), "b": cells(1)}
    two = evaluate_masks(tmp_path / "two", truth, {"A": truth}, ".png")
    write_report(two, tmp_path / "two.html")
    page = Page((tmp_path / "two.html").read_text())
    assert [word for word in page.words if word.startswith(("Best", "Worst", "Median"))] == ["Best: a", "Worst: b"]


def test_best_median_and_worst_are_by_the_first_models_f1() -> None:
    models = [synthetic("A", 9, 0.5), synthetic("B", 9, 0.6)]
    (table,) = compare(models)
    f1 = table.values["f1"][0]
    f1[:] = [0.5, 0.9, 0.1, np.nan, 0.6, 0.7, 0.2, 0.9, 0.1]
    table.values["dice"][0] = [0.5, 0.3, 0.2, 0.9, 0.5, 0.5, 0.5, 0.4, 0.1]
    assert choose_cases(table) == [("best", "case_0007"), ("median", "case_0004"), ("worst", "case_0008")]
    f1[1:] = np.nan
    assert choose_cases(table) == [("best", "case_0000")]
    f1[:] = np.nan
    assert choose_cases(table) == []


# --- command -----------------------------------------------------------------------------------------------


def test_the_command_writes_one_file(
    folders: list[Path], work: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "new" / "r.html"
    arguments = ["report", *map(str, folders), "-o", str(out), "--images", str(work / "imagesTs")]
    cli.main([*arguments, "--pairs", "exact:swollen"])
    assert capsys.readouterr().out == f"wrote {out}\n" and [file.name for file in out.parent.iterdir()] == ["r.html"]
    assert "exact \N{MINUS SIGN} swollen" in out.read_text() and "swollen \N{MINUS SIGN} eroded" not in out.read_text()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"file": Path("r.pdf")}, r"-o r\.pdf is no HTML file"),
        ({"images": Path("nowhere")}, "--images nowhere is no folder"),
        ({"folders": [Path("nowhere")]}, "nowhere was not written by 'nnunet-instance evaluate'"),
        ({"pairs": ["exact:no"]}, "--pairs 'exact:no' is not MODEL:MODEL"),
    ],
)
def test_mistakes_are_said_in_one_line(folders: list[Path], tmp_path: Path, change: dict, words: str) -> None:
    arguments = {"folders": folders, "file": tmp_path / "r.html", "images": None, "pairs": None} | change
    with pytest.raises(UserError, match=words):
        write_report(**arguments)
    assert not (tmp_path / "r.html").exists()


# --- in a browser ------------------------------------------------------------------------------------------

_OWN_HOSTS = ("clients2.google.com", "update.googleapis.com", "accounts.google.com")  # that Chromium asks by itself
_PROBE = """<script>addEventListener("load", () => {
  const shown = [...document.images].filter(i => i.alt);
  const state = shown.map(i => [i.complete && i.naturalWidth, i.getBoundingClientRect().width]);
  document.title = "probe" + JSON.stringify({images: state, wide: document.documentElement.scrollWidth > innerWidth,
    tables: [...document.querySelectorAll("tbody tr")].length});
});</script></body>"""


_CUT = """<script>addEventListener("load", () => {
  const cut = [...document.querySelectorAll("td, th, p, li, dt, dd, figcaption, img, .scroll")].filter(
    e => e.getBoundingClientRect().right > document.querySelector("main").getBoundingClientRect().right + 1
      || e.scrollWidth > e.clientWidth + 1 && e.clientWidth);
  document.title = "probe" + JSON.stringify({cut: cut.map(e => e.outerHTML.slice(0, 80)),
    keys: document.querySelectorAll(".legend img").length});
});</script></body>"""


@pytest.fixture
def browse(tmp_path: Path) -> Callable[[str], tuple[list[str], list[str], str]]:
    """Opens a page; returns console messages, the addresses that it asked for, and the page after loading."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")

    def run(text: str) -> tuple[list[str], list[str], str]:
        page, log = tmp_path / "page.html", tmp_path / "net.json"
        page.write_text(text)
        options = [f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}", "--window-size=1100,1000"]
        still = ["--no-first-run", "--disable-background-networking", "--disable-sync", "--disable-component-update"]
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", *still, *options]
        done = subprocess.run(
            [*command, "--virtual-time-budget=5000", "--dump-dom", page.as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        asked = set(re.findall(r'"url":"([a-z]+://[^"/]*)', log.read_text()))
        foreign = [url for url in asked if not url.startswith(("file://", "chrome")) and not url.endswith(_OWN_HOSTS)]
        return [line for line in done.stderr.splitlines() if ":CONSOLE" in line], sorted(foreign), done.stdout

    return run


def test_in_a_browser_everything_is_shown_and_nothing_asked_for(written: str, browse: Callable) -> None:
    messages, asked, _ = browse(written)
    assert (messages, asked) == ([], [])
    without_policy = re.sub(r"<meta http-equiv=[^>]*>", "", written)  # which forbids the probe's script
    messages, asked, after = browse(without_policy.replace("</body>", _PROBE))
    assert (messages, asked) == ([], [])
    state = json.loads(html.unescape(re.search(r"<title>probe(.*?)</title>", after)[1]))
    assert len(state["images"]) == 3 + 1 + 3 + 3 * 3 and all(n > 250 and shown > 250 for n, shown in state["images"])
    assert state["tables"] == 3 * 2 + 2 * (1 + 9) and not state["wide"]


def test_with_twelve_models_of_long_names_nothing_is_cut_off(no_cases: None, browse: Callable) -> None:
    """Names of 100 characters, without a place to break them too, and in other scripts."""
    names = ["x" * 100, "nnUNetTrainer__" * 7, "病灶检测" * 25, "نموذج_تجزئة" * 9, *(f"model {k}" for k in range(8))]
    models = [synthetic(name, 6, 0.4 + 0.03 * k, classes=("core", "y" * 100)) for k, name in enumerate(names)]
    text = report(models, compare(models))
    _, _, after = browse(re.sub(r"<meta http-equiv=[^>]*>", "", text).replace("</body>", _CUT))
    state = json.loads(html.unescape(re.search(r"<title>probe(.*?)</title>", after)[1]))
    assert state["cut"] == [] and state["keys"] == 3 + 12 * 3  # of states, of sensitivity and of two FROC
    assert all(name in html.unescape(text).replace("<wbr>", "") for name in names)


def test_that_test_can_fail(browse: Callable) -> None:
    bad = '<html><body><img src="http://example.invalid/x.png"><script>console.error("oh")</script></body></html>'
    messages, asked, _ = browse(bad)
    assert any('"oh"' in line for line in messages) and asked == ["http://example.invalid"]


def test_the_policy_of_the_page_keeps_requests_from_being_made(no_cases: None, browse: Callable) -> None:
    text = report([model := synthetic("A", 4, 0.5)], compare([model]))
    _, asked, _ = browse(text.replace("</body>", '<img src="http://example.invalid/x.png"></body>'))
    assert asked == []
