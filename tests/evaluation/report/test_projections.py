"""Pictures of cases, read back from the pixels that go into each panel."""

from __future__ import annotations

import numpy as np
import pytest
from geometry import Box, paint
from matplotlib.colors import to_rgb

from nnunet_instance_trainers.evaluation.chart_looks import STATES
from nnunet_instance_trainers.evaluation.detection import Detection, detect
from nnunet_instance_trainers.evaluation.report.projections import CaseView, Frame, draw_case, view

SHAPE = (8, 10, 12)
FOUND, MISSED, FALSE = Box((1, 1, 1), (3, 4, 5)), Box((5, 6, 7), (7, 9, 10)), Box((1, 6, 1), (2, 9, 4))
FRAME = Frame(SHAPE, (0, 1, 2))


def boxes(*items: Box) -> np.ndarray:
    return paint(SHAPE, items).numpy()


def seen(*detections: Detection) -> CaseView:
    return view([(detection, (0, 0, 0)) for detection in detections], FRAME)


@pytest.fixture
def mixed() -> CaseView:
    return seen(detect(boxes(FOUND, MISSED), boxes(FOUND, FALSE)))


def states_at(axis, row: float, column: float) -> str:
    """Which state the pixel has; objects have its hue at least by a quarter, nothing is white or grey."""
    pixel = axis.images[0].get_array()[int(row), int(column)]
    if np.ptp(pixel) < 0.05:
        return ""
    hue = pixel - pixel.mean()
    hues = {state: np.array(to_rgb(colour)) - np.mean(to_rgb(colour)) for state, (colour, _) in STATES.items()}
    return max(hues, key=lambda state: hue @ hues[state] / np.linalg.norm(hues[state]))


def test_codes_centres_and_counts(mixed: CaseView) -> None:
    codes = {state: code for code, state in enumerate(STATES, start=1)}
    whole = codes["found"] * boxes(FOUND) + codes["missed"] * boxes(MISSED) + codes["false"] * boxes(FALSE)
    assert all((plane == whole.max(along)).all() for along, plane in enumerate(mixed.codes))
    assert mixed.places["missed"].tolist() == [[5.5, 7, 8]] and mixed.places["false"].tolist() == [[1, 7, 2]]
    assert mixed.counts == {"found": 1, "missed": 1, "false": 1}


def test_what_meets_nothing_is_missed_or_false() -> None:
    assert seen(detect(boxes(FOUND, MISSED), boxes(FALSE))).counts == {"found": 0, "missed": 2, "false": 1}
    assert seen(detect(boxes(FALSE), boxes(FALSE))).counts == {"found": 1, "missed": 0, "false": 0}


def test_classes_are_drawn_together() -> None:
    one, other = detect(boxes(FOUND), boxes(FOUND)), detect(boxes(MISSED), boxes(FALSE))
    both = seen(one, other)
    assert both.counts == {"found": 1, "missed": 1, "false": 1} and set(np.unique(both.codes[0])) == {0, 1, 2, 3}


def test_a_box_of_a_turned_array_is_seen_at_its_place() -> None:
    """The array's axes are left, up, back, and the last runs forward."""
    frame, whole = Frame((12, 8, 10), (1, 2, 0), (1,)), boxes(FOUND, MISSED)
    array = np.flip(whole, 1).transpose(2, 0, 1)
    box = (slice(1, 12), slice(0, 8), slice(1, 10))
    one = view([(detect(array[box], 0 * array[box]), (1, 0, 1))], frame)
    assert all(((plane > 0) == (whole > 0).any(along)).all() for along, plane in enumerate(one.codes))
    assert [(a == whole.max(along)).all() for along, a in enumerate(frame.projections(array))] == [True] * 3
    assert sorted(one.places["missed"].tolist()) == [[1.5, 2, 2.5], [5.5, 7, 8]]
    assert frame.edges((1, 2, 3)) == [2, 3, 1]


@pytest.mark.parametrize("with_image", [False, True])
def test_every_view_shows_every_object_at_its_place(mixed: CaseView, with_image: bool) -> None:
    image = FRAME.projections(np.random.default_rng(0).random(SHAPE)) if with_image else None
    axes = draw_case(mixed, image, (1, 1, 1)).axes
    assert len(axes) == 3
    for along, axis in enumerate(axes):
        for state, box in (("found", FOUND), ("missed", MISSED), ("false", FALSE)):
            middle = np.delete([(low + high) / 2 for low, high in zip(box.lo, box.hi)], along)
            assert states_at(axis, *middle) == state, (along, state)
        assert states_at(axis, *(np.delete(SHAPE, along) - 1)) == ""


def test_marks_stand_at_the_centres_of_missed_and_false_objects(mixed: CaseView) -> None:
    for along, axis in enumerate(draw_case(mixed, None, (1, 1, 1)).axes):
        missed, false = axis.collections
        assert missed.get_offsets().tolist() == [np.delete([5.5, 7, 8], along)[::-1].tolist()]
        assert false.get_offsets().tolist() == [np.delete([1, 7, 2], along)[::-1].tolist()]
        assert len(missed.get_facecolors()) == 0 and len(false.get_facecolors()) == 1  # a ring and a cross


def test_false_covers_missed_and_missed_covers_found() -> None:
    behind = [Box((k, 2, 2), (k + 1, 6, 6)) for k in (1, 4, 6)]
    one = seen(detect(boxes(behind[0], behind[1]), boxes(behind[0], behind[2])))
    axes = draw_case(one, None, (1, 1, 1)).axes
    assert states_at(axes[0], 3, 3) == "false"
    without = seen(detect(boxes(behind[0], behind[1]), boxes(behind[0])))
    assert states_at(draw_case(without, None, (1, 1, 1)).axes[0], 3, 3) == "missed"


def test_the_head_is_at_the_top_and_voxels_keep_their_proportions(mixed: CaseView) -> None:
    axial, coronal, sagittal = draw_case(mixed, None, (3, 1, 0.5)).axes
    assert axial.get_ylim()[0] > axial.get_ylim()[1]  # the first row, in front, is at the top
    assert coronal.get_ylim()[0] < coronal.get_ylim()[1] and sagittal.get_ylim()[0] < sagittal.get_ylim()[1]
    assert [axis.get_aspect() for axis in (axial, coronal, sagittal)] == [2, 6, 3]


def test_in_2d_the_image_itself_is_drawn() -> None:
    truth, frame = np.zeros((1, 6, 9), int), Frame.of((1, 6, 9), {})
    truth[0, 1:4, 1:4] = 1
    one = view([(detect(truth, truth), (0, 0, 0))], frame)
    (axis,) = draw_case(one, frame.projections(np.arange(54.0).reshape(1, 6, 9)), (1, 1)).axes
    ground = axis.images[0].get_array()
    assert ground.shape == (6, 9, 3) and ground[5, 8, 0] > ground[5, 5, 0]  # grey values rise with the image
    assert states_at(axis, 2, 2) == "found"


def test_an_image_of_one_grey_value_and_a_case_without_objects_can_be_drawn() -> None:
    nothing = seen(detect(np.zeros(SHAPE, int), np.zeros(SHAPE, int)))
    draw_case(nothing, FRAME.projections(np.full(SHAPE, 7.0)), (1, 1, 1))
    assert nothing.counts == {"found": 0, "missed": 0, "false": 0}
