"""The charts are read back from what matplotlib was told to draw."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb

from nnunet_instance_trainers.evaluation import chart_looks, charts
from nnunet_instance_trainers.evaluation.chart_looks import STATES
from nnunet_instance_trainers.evaluation.charts import SizeCounts

BINS = ["<0.1", "0.1-1", ">=1"]
NAN = float("nan")


def counts(found: list[int], missed: list[int], false: list[int]) -> SizeCounts:
    arrays = [np.array(numbers, float) for numbers in (found, missed, false)]
    whole = arrays[0] + arrays[1]
    sensitivity = np.divide(arrays[0], whole, out=np.full(3, NAN), where=whole > 0)
    return SizeCounts(*arrays, sensitivity, sensitivity - 0.1, sensitivity + 0.1)


COUNTS = {"A": counts([1, 5, 2], [9, 5, 0], [7, 2, 0]), "B": counts([4, 8, 0], [6, 2, 0], [0, 0, 0])}
NOTES = {"A": "volume ratio 1.20", "B": "volume ratio 0.90"}


def texts(axis) -> list[str]:
    return [text.get_text() for text in axis.texts]


def test_bars_are_the_counts_stacked_and_hatched() -> None:
    axes = charts.objects_by_size(BINS, COUNTS, NOTES).axes
    for axis, (model, own) in zip(axes, COUNTS.items(), strict=True):
        assert axis.get_title("left") == model and NOTES[model] in texts(axis)
        bars = np.array(axis.patches).reshape(3, 3)  # state, bin
        base = np.zeros(3)
        for row, (state, (colour, hatch)) in zip(bars, STATES.items()):
            assert [bar.get_height() for bar in row] == getattr(own, state).tolist()
            assert [bar.get_y() for bar in row] == base.tolist()
            assert {(to_hex(bar.get_facecolor()), bar.get_hatch() or "") for bar in row} == {(colour, hatch)}
            base += getattr(own, state)
    assert axes[0].get_ylim() == axes[1].get_ylim() and axes[0].get_ylim()[1] > 17
    assert {"1/10\n+7", "5/10\n+2", "2/2"} <= set(texts(axes[0]))


def test_large_numbers_become_a_share_so_that_they_fit_above_their_bar() -> None:
    (axis,) = charts.objects_by_size(BINS, {"A": counts([50, 0, 99], [150, 0, 0], [7, 3, 0])}, NOTES).axes
    assert {"25 %\n+7", "+3", "99/99"} <= set(texts(axis))


def test_the_hatching_of_no_two_states_is_the_same() -> None:
    assert len({hatch for _, hatch in STATES.values()}) == 3


# Machado et al. 2009, severity 1: what a colour looks like to protan, deutan and tritan eyes.
VISIONS = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(colour: str, vision: str) -> np.ndarray:
    """A colour in CIELAB, where a distance of 2.3 is just noticeable."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(VISIONS[vision]) @ linear, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(to_xyz @ seen / np.array([0.9505, 1, 1.089]))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISIONS)
def test_the_colours_of_states_stay_apart_for_colour_blind_readers(vision: str) -> None:
    for (one, _), (other, _) in combinations(STATES.values(), 2):
        assert np.linalg.norm(lab(one, vision) - lab(other, vision)) > 25


def test_that_test_can_fail() -> None:
    """Plain green and red come close for deutan eyes."""
    assert np.linalg.norm(lab("#2ca02c", "deutan") - lab("#ff3b30", "deutan")) < 25


def test_models_differ_in_more_than_colour() -> None:
    """Two of many share a colour, a marker or dashes, and never two of them; seven share nothing."""
    models = [chart_looks.style(k) for k in range(40)]
    for one, other in combinations(models, 2):
        assert sum(a == b for a, b in zip(one, other)) <= 1
    for column in zip(*models[:7]):
        assert len(set(column)) == 7


def test_keys_look_as_what_they_stand_for() -> None:
    line, point = chart_looks.model_key(9).artists
    assert (line.get_color(), point.get_marker()) == chart_looks.style(9)[:2]
    (patch,) = chart_looks.state_key("missed").patches or chart_looks.state_key("missed").artists
    assert (to_hex(patch.get_facecolor()), patch.get_hatch()) == STATES["missed"]
    (cross,) = chart_looks.state_key("false", marked=True).artists
    assert (cross.get_color(), cross.get_marker()) == (STATES["false"][0], "x")


def test_sensitivity_has_a_point_per_bin_with_instances_and_its_interval() -> None:
    (axis,) = charts.sensitivity_by_size(BINS, list(COUNTS.values())).axes
    a, b = axis.lines
    np.testing.assert_allclose(a.get_ydata(), [0.1, 0.5, 1.0])
    np.testing.assert_allclose(b.get_ydata(), [0.4, 0.8])  # no instance of 1 mL and more
    np.testing.assert_allclose(axis.collections[0].get_segments()[1][:, 1], [0.4, 0.6])
    assert axis.get_xticklabels()[0].get_text() == "<0.1\n(n = 10)"


def test_froc_reads_the_best_sensitivity_at_most_so_many_false_positives() -> None:
    curve = np.array([3.0, 0.2, 1.0, 9.0]), np.array([0.7, 0.3, 0.5, 0.8])
    (axis,) = charts.froc_curves([curve]).axes
    steps, markers = axis.lines
    assert steps.get_xdata().tolist() == [0.2, 1.0, 3.0, 9.0, 16.0]
    np.testing.assert_allclose(markers.get_xdata(), [1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8])
    np.testing.assert_allclose(markers.get_ydata(), [0, 0.3, 0.3, 0.5, 0.5, 0.7, 0.7])


def test_a_model_without_a_curve_keeps_its_colour_for_the_others() -> None:
    nothing, curve = np.zeros(0), (np.array([1.0]), np.array([0.5]))
    (axis,) = charts.froc_curves([(nothing, nothing), curve]).axes
    assert {line.get_color() for line in axis.lines} == {chart_looks.style(1)[0]}


def test_the_scatter_has_a_mark_per_case_with_both_values() -> None:
    (a,) = charts.case_scatter(0, np.array([0.5, NAN, 0.7]), np.array([0.2, 0.3, 0.8])).axes
    (b,) = charts.case_scatter(1, np.array([NAN]), np.array([NAN])).axes
    assert a.collections[0].get_offsets().tolist() == [[0.5, 0.2], [0.7, 0.8]]
    assert a.lines[0].get_xdata()[0] == pytest.approx(0.6) and a.lines[1].get_ydata()[0] == pytest.approx(0.5)
    assert len(b.collections[0].get_offsets()) == 0 and not b.lines


def test_of_many_cases_marks_are_small_and_drawn_as_pixels() -> None:
    many, few = (charts.case_scatter(0, np.full(n, 0.5), np.full(n, 0.5)).axes[0].collections[0] for n in (2000, 20))
    assert many.get_rasterized() and not few.get_rasterized()
    assert many.get_sizes()[0] < few.get_sizes()[0] and many.get_alpha() < few.get_alpha()


def test_the_bars_of_one_model_are_on_the_scale_of_all() -> None:
    own, together = charts.object_bars(BINS, COUNTS["B"], 17), charts.objects_by_size(BINS, COUNTS, NOTES)
    assert own.axes[0].get_ylim() == together.axes[0].get_ylim() and charts.tallest(COUNTS) == 17
    assert [p.get_height() for p in own.axes[0].patches] == [p.get_height() for p in together.axes[1].patches]


def test_long_names_are_folded_where_words_end() -> None:
    name = "nnUNetTrainerInstanceBaseline__nnUNetPlans__2d"
    assert charts.fold(name) == "nnUNetTrainerInstanceBaseline__\nnnUNetPlans__2d"
    assert charts.fold("x" * 70).split("\n") == ["x" * 34, "x" * 34, "xx"]
    assert charts.fold("short") == "short"


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 10])
def test_any_number_of_models_gets_its_panels(n: int) -> None:
    models = {f"model {k}": COUNTS["A"] for k in range(n)}
    notes = dict.fromkeys(models, "note")
    assert len(charts.objects_by_size(BINS, models, notes).axes) == n
    assert len(charts.sensitivity_by_size(BINS, list(models.values())).axes[0].lines) == n
