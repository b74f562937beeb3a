"""The page of objects: what it says, that it holds nothing from elsewhere, and that names stay words."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from made_up_files import write
from object_folders import BEFORE, NOW, folder, objects, planes
from test_security import HOSTILE, TAGS, Page

pytestmark = pytest.mark.nnunet


def test_a_page_of_changes_has_its_tables_charts_and_pictures(tmp_path: Path) -> None:
    labels = {"background": 0, "lesion": 1}
    earlier = folder(tmp_path / "earlier", planes(BEFORE), labels)
    output = objects(folder(tmp_path / "pred", planes(NOW), labels), "--reference", earlier)
    text = (output / "objects.html").read_text()
    page = Page(text)
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert headings == [
        "Objects by class",
        "Changes since the earlier time point",
        "Objects by size",
        "Sizes before and now",
        "Cases in pictures",
        "Cases",
        "The largest objects",
        "Made from",
    ]
    assert re.search(r"<th scope=\"row\"[^>]*>vanished</th><td>2</td>", text)
    assert "2 cases, 1 class, 8 objects of" in page.words
    alternatives = [own["alt"] for tag, own in page.tags if tag == "img" and own["alt"]]
    assert len(alternatives) == 2 + 2
    assert "maximum-intensity projections" in page.words
    (case_a,) = [words for words in alternatives if "case a" in words]
    for count in ("1 unchanged", "1 shrinking", "1 growing", "2 split", "1 merged", "2 vanished"):
        assert count in case_a


def test_a_page_without_objects_or_maps(tmp_path: Path) -> None:
    nothing = {"a": np.zeros((3, 4, 5), np.uint8)}
    pred = folder(tmp_path / "pred", nothing)
    for options in ((), ("--no-maps",), ("--reference", folder(tmp_path / "earlier", nothing))):
        output = objects(pred, *options)
        text = (output / "objects.html").read_text()
        assert "0 objects of 0 mL" in text and "Cases in pictures" not in text
        assert (output / "objects.csv").read_text().count("\n") == 1


def test_names_are_words(tmp_path: Path) -> None:
    mask = np.zeros((5, 6, 7), np.uint8)
    mask[1:3, 1:4, 1:5] = 1
    case = HOSTILE[2]
    output = objects(folder(tmp_path / "pred", {case: mask}, {"background": 0, HOSTILE[1]: 1}))
    page = Page((output / "objects.html").read_text())
    assert {tag for tag, _ in page.tags} <= set(TAGS.split())
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert all(attributes["src"].startswith("data:image/") for tag, attributes in page.tags if tag == "img")
    assert case in page.words and HOSTILE[1] in page.words


def test_a_picture_too_large_to_draw_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnunet_instance_trainers.objects import case_pictures

    pred = folder(tmp_path / "pred", {"a": np.ones((3, 4, 5), np.uint8)})
    assert "Cases in pictures" in (objects(pred) / "objects.html").read_text()
    monkeypatch.setattr(case_pictures, "_LARGEST", 19)
    write(pred / "a.nii.gz", np.full((3, 4, 5), 2, np.uint8))
    assert "Cases in pictures" not in (objects(pred) / "objects.html").read_text()
