"""How states and models look in charts. Colour never stands alone: hatching, markers and dashes say the same."""

from __future__ import annotations

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

__all__ = ["AS_WRITTEN", "MARKERS", "STATES", "key", "model_key", "state_key", "style"]

AS_WRITTEN = matplotlib.rc_context({"text.parse_math": False})
"""Decorates what draws names: a dollar sign in one does not begin a formula."""

# Green, blue and red of Fig. 10 of the instance-loss paper, in hues that stay apart for every common colour vision
# (a test simulates them), and a hatching for each.
STATES = {"found": ("#4dbd6a", ""), "missed": ("#2166e8", "////"), "false": ("#d7301f", "xxxx")}
MARKERS = {"missed": "o", "false": "x"}
"""What marks the places of such objects in pictures of cases."""

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9")  # Okabe and Ito's hues
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*", ">", "h")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (3, 2, 1, 2)), (0, (1, 1)), (0, (9, 2)))


def style(k: int) -> tuple[str, str, object]:
    """Colour, marker and dashes of model k. Any two of 56 models differ in two of them, any 7 in a row in all three."""
    return _COLOURS[k % len(_COLOURS)], _MARKERS[k % len(_MARKERS)], _DASHES[k % len(_DASHES)]


def model_key(k: int) -> Figure:
    """The line and marker of model k, for a legend."""
    colour, marker, dashes = style(k)
    figure = Figure(figsize=(0.6, 0.16))
    ends = Line2D([0.02, 0.98], [0.5, 0.5], color=colour, linestyle=dashes, linewidth=1.5)
    figure.add_artist(ends)
    figure.add_artist(Line2D([0.5], [0.5], color=colour, marker=marker, markersize=6))
    return figure


def state_key(state: str, *, marked: bool = False) -> Figure:
    """The colour and hatching of a state, or what marks it in pictures of cases."""
    colour, hatch = STATES[state]
    return key(colour, MARKERS.get(state, ""), "") if marked else key(colour, "", hatch)


def key(colour: str, marker: str, hatch: str) -> Figure:
    """A marker in a colour, or without one a field of that colour and hatching."""
    figure = Figure(figsize=(0.28, 0.16))
    if marker:
        shape = {"markerfacecolor": "none", "markeredgewidth": 1.8, "markersize": 8}
        figure.add_artist(Line2D([0.5], [0.5], color=colour, marker=marker, **shape))
    else:
        figure.add_artist(Rectangle((0, 0), 1, 1, facecolor=colour, hatch=hatch, edgecolor="white", linewidth=0))
    return figure
