from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from geometry import Box, paint
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread
from scipy import ndimage

from nnunet_instance_trainers.evaluation import detect, object_pictures

COLOURS = {"truth": "#ffd54a", "found": "#2ca02c", "merged": "#d65cff", "missed": "#3b8cff", "false": "#ff3b30"}
SHAPE = (24, 36)
LEFT, MIDDLE, RIGHT = Box((12, 3), (17, 9)), Box((3, 14), (9, 19)), Box((14, 27), (20, 32))


@pytest.fixture
def draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict]]:
    """Draws, reads the picture back, and says for each row and panel which boxes are marked in which colour."""
    figures_made = []

    class Recorded(Figure):
        def __init__(self, **options: object) -> None:
            super().__init__(**options)
            figures_made.append(self)

    monkeypatch.setattr(object_pictures, "Figure", Recorded)

    def draw_and_read(images: dict, detections: dict, read: Callable = marks) -> list[dict]:
        file = tmp_path / "comparison.png"
        object_pictures.compare_models(file, images, detections, "a note")
        assert file.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        pixels = imread(file)[..., :3]
        titles = ["image", "truth", *detections]
        panels = [panel_pixels(pixels, axis.get_position().extents) for axis in figures_made[-1].axes]
        rows = [panels[start : start + len(titles)] for start in range(0, len(panels), len(titles))]
        assert [axis.get_title() for axis in figures_made[-1].axes[: len(titles)]] == titles
        return [{title: read(panel) for title, panel in zip(titles, row)} for row in rows]

    return draw_and_read


def panel_pixels(pixels: np.ndarray, extents: tuple[float, float, float, float]) -> np.ndarray:
    """The pixels inside the axes, whose place is in shares of the picture, from below."""
    height, width = pixels.shape[:2]
    left, low, right, high = extents
    return pixels[round((1 - high) * height) : round((1 - low) * height), round(left * width) : round(right * width)]


def drawn(panel: np.ndarray, state: str) -> np.ndarray:
    """The pixels that have the colour of a state."""
    return np.abs(panel - to_rgb(COLOURS[state])).max(-1) < 0.15


def marks(panel: np.ndarray) -> dict[str, set[Box]]:
    """The outlines of each colour, as boxes of whole voxels; what lies within an outline belongs to it."""
    found = {}
    scale = np.divide(SHAPE, panel.shape[:2])
    for state in COLOURS:
        blobs, _ = ndimage.label(ndimage.binary_fill_holes(drawn(panel, state)), np.ones((3, 3)))
        places = [np.array([(axis.start, axis.stop) for axis in place]) for place in ndimage.find_objects(blobs)]
        if places:
            found[state] = {Box(*map(tuple, np.rint(place.T * scale).astype(int).tolist())) for place in places}
    return found


def symbols(panel: np.ndarray) -> dict[str, int]:
    """The number of shapes of each colour that lie within outlines of that colour."""
    full = np.ones((3, 3))
    shapes = {state: ndimage.label(drawn(panel, state), full)[1] for state in COLOURS}
    return {state: n - len(marks(panel)[state]) for state, n in shapes.items() if n}


def ramp(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=float).reshape(shape)


def boxes(*items: Box, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return paint(shape, items).numpy()


def test_every_object_has_one_mark_in_the_colour_of_its_state(draw: Callable) -> None:
    shifted = Box((14, 4), (19, 10))
    truth = boxes(LEFT, MIDDLE)
    models = {"mixed": boxes(shifted, RIGHT), "perfect": truth, "silent": boxes()}
    (row,) = draw({"case": ramp(*SHAPE)}, {name: {"case": [detect(truth, mask)]} for name, mask in models.items()})
    assert row == {
        "image": {},
        "truth": {"truth": {LEFT, MIDDLE}},
        "mixed": {"found": {shifted}, "missed": {MIDDLE}, "false": {RIGHT}},
        "perfect": {"found": {LEFT, MIDDLE}},
        "silent": {"missed": {LEFT, MIDDLE}},
    }


def test_missed_and_false_have_a_symbol_too(draw: Callable) -> None:
    """So that colour is not the only cue."""
    detection = detect(boxes(LEFT, MIDDLE), boxes(LEFT, RIGHT))
    (row,) = draw({"case": ramp(*SHAPE)}, {"model": {"case": [detection]}}, read=symbols)
    assert row == {"image": {}, "truth": {"truth": 0}, "model": {"found": 0, "missed": 1, "false": 1}}


def test_a_component_over_several_instances_is_merged_and_holds_their_number(draw: Callable) -> None:
    """Over most of each; MIDDLE is met by a component that holds less than half of it, and is found without merging."""
    above, below, both = Box((3, 3), (8, 9)), Box((8, 3), (13, 9)), Box((3, 3), (12, 9))
    beside = Box((3, 17), (9, 24))
    detection = detect(paint(SHAPE, [above, below, MIDDLE]).numpy(), boxes(both, beside))
    assert object_pictures.is_merged(detection).tolist() == [True, False]
    (row,) = draw({"case": ramp(*SHAPE)}, {"model": {"case": [detection]}})
    assert row["model"] == {"merged": {both}, "found": {beside}}
    (row,) = draw({"case": ramp(*SHAPE)}, {"model": {"case": [detection]}}, read=symbols)
    assert row["model"] == {"merged": 1, "found": 0}


def test_without_true_objects_everything_is_false(draw: Callable) -> None:
    (row,) = draw({"case": ramp(*SHAPE)}, {"model": {"case": [detect(boxes(), boxes(LEFT, RIGHT))]}})
    assert row == {"image": {}, "truth": {}, "model": {"false": {LEFT, RIGHT}}}


def test_rows_are_cases_and_classes_are_drawn_together(draw: Callable) -> None:
    classes = [detect(boxes(LEFT), boxes(LEFT)), detect(boxes(RIGHT), boxes(MIDDLE))]
    images = {"first": ramp(*SHAPE), "second": np.zeros(SHAPE)}  # an image of one grey value can be drawn too
    first, second = draw(images, {"model": {"first": classes, "second": [detect(boxes(MIDDLE), boxes())]}})
    assert first["truth"] == {"truth": {LEFT, RIGHT}}
    assert first["model"] == {"found": {LEFT}, "missed": {RIGHT}, "false": {MIDDLE}}
    assert second["model"] == {"missed": {MIDDLE}}


def test_of_a_volume_the_fullest_slice_is_drawn_and_judged_by_the_volume(draw: Callable) -> None:
    """In that slice LEFT is met by nothing and the component RIGHT meets nothing; in others they do."""
    truth, mask = np.zeros((4, *SHAPE), int), np.zeros((4, *SHAPE), int)
    truth[0], truth[1], truth[2] = 3 * boxes(RIGHT), boxes(LEFT), boxes(LEFT, MIDDLE)
    mask[0], mask[1], mask[2] = boxes(RIGHT), boxes(LEFT, RIGHT), boxes(RIGHT)
    (row,) = draw({"case": ramp(4, *SHAPE)}, {"model": {"case": [detect(truth, mask)]}})
    assert row["truth"] == {"truth": {LEFT, MIDDLE}}
    assert row["model"] == {"found": {RIGHT}, "missed": {MIDDLE}}
