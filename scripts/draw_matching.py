"""Draw docs/figures/matching.svg: what each matching rule makes of the same objects.

    python scripts/draw_matching.py

The scores below the drawings are computed from what is drawn.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nnunet_instance_trainers.evaluation import Detection, Rule, detect

FILE = Path(__file__).resolve().parents[1] / "docs" / "figures" / "matching.svg"
SHAPE = (11, 22)  # voxels
TARGETS = {1: (1, 1, 4, 4), 2: (1, 8, 4, 5), 3: (1, 14, 4, 5), 4: (7, 2, 3, 3)}  # row, column, height, width
PREDICTED = [(2, 1, 4, 4), (1, 8, 4, 2), (1, 11, 4, 2), (3, 15, 6, 6), (7, 9, 2, 2)]
RULES = {
    "overlap: any shared voxel": Rule(),
    "dice, threshold 0.5: one-to-one": Rule("dice", 0.5),
    "iou, threshold 0.5: one-to-one": Rule("iou", 0.5),
}
COLOURS = {"found": "#1b7837", "missed": "#2166ac", "hit": "#1b7837", "false": "#c51b3f"}


def images() -> tuple[np.ndarray, np.ndarray]:
    target, prediction = np.zeros(SHAPE, int), np.zeros(SHAPE, bool)
    for number, (y, x, height, width) in TARGETS.items():
        target[y : y + height, x : x + width] = number
    for y, x, height, width in PREDICTED:
        prediction[y : y + height, x : x + width] = True
    return target, prediction


def draw(axis: Axes, title: str, detection: Detection) -> None:
    """Targets filled, components outlined; the letters are a second cue beside the colours."""
    for (y, x, height, width), found in zip(TARGETS.values(), detection.found):
        state = "found" if found else "missed"
        axis.add_patch(Rectangle((x, y), width, height, color=COLOURS[state], alpha=0.25, linewidth=0))
        mark(axis, x + 0.2, y + 0.85, state, COLOURS[state])
    for y, x, height, width in PREDICTED:
        state = "hit" if detection.hits[detection.components[y, x] - 1] else "false"
        style = "-" if state == "hit" else "--"
        axis.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=COLOURS[state], linestyle=style, lw=1.6))
        mark(axis, x + 0.1, y + height + 0.85, state, COLOURS[state])
    c = detection.counts
    axis.set_title(title, fontsize=10, loc="left", fontweight="bold")
    axis.set_xlabel(
        f"found {c.found}, missed {c.missed}, hits {c.hits}, false {c.false}\n"
        f"sensitivity {c.sensitivity:.2f}, precision {c.precision:.2f}, F1 {c.f1:.2f}\n"
        f"beside it: F1 at IoU 0.5 {c.f1_iou50:.2f}, volume ratio {c.volume_ratio:.2f}",
        fontsize=8.5,
        loc="left",
    )
    axis.set(xlim=(0.5, SHAPE[1]), ylim=(SHAPE[0] + 0.2, 0.2), xticks=[], yticks=[], aspect="equal")


def mark(axis: Axes, x: float, y: float, state: str, colour: str) -> None:
    axis.text(x, y, state, fontsize=7, color=colour)


def main() -> None:
    rcParams.update({"svg.hashsalt": "matching", "font.family": "DejaVu Sans", "svg.fonttype": "none"})
    figure = Figure(figsize=(11, 3.1), layout="constrained")
    target, prediction = images()
    for axis, (title, rule) in zip(figure.subplots(1, 3), RULES.items()):
        draw(axis, title, detect(target, prediction, rule=rule))
    figure.savefig(FILE, metadata={"Date": None})


if __name__ == "__main__":
    main()
