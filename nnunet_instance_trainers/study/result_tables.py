"""The numbers of a study as files: CSV, Markdown for a page, LaTeX for a paper."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from nnunet_instance_trainers.data.map_store import write_atomically
from nnunet_instance_trainers.data.text_tables import write_table
from nnunet_instance_trainers.evaluation.comparing.model_comparison import Pair, Table
from nnunet_instance_trainers.study.arm_comparison import SIZE_SCORES, SizeRow

__all__ = ["markdown", "size_markdown", "write_comparison_csv", "write_latex", "write_sizes_csv"]

_SHOWN = {
    "dice": "Dice",
    "sensitivity": "sensitivity",
    "precision": "precision",
    "f1": "F1",
    "f1_iou50": "F1 at IoU 0.5",
    "lesion_dice": "lesion Dice",
    "volume_ratio": "volume ratio",
}


def write_comparison_csv(file: Path, tables: Sequence[Table]) -> None:
    """A row per class, score and arm: mean, interval, rank, and the difference to the reference."""
    rows = []
    for table in tables:
        pairs = {(pair.first, pair.score): pair for pair in table.pairs}
        for score in table.mean:
            for m, arm in enumerate(table.models):
                rank = table.ranks[score][m] if score in table.ranks else math.nan
                values = {"mean": table.mean[score][m], "low": table.low[score][m], "high": table.high[score][m]}
                own = {"class": table.label, "score": score, "arm": arm, **{k: float(v) for k, v in values.items()}}
                rows.append({**own, "rank": float(rank), **_pair_cells(pairs.get((arm, score)))})
    write_table(file, rows, list(rows[0]))


def write_sizes_csv(file: Path, sizes: Sequence[SizeRow]) -> None:
    """A row per class, size, score and arm."""
    rows = [
        {
            "class": row.label,
            "size": row.size,
            "score": row.score,
            "arm": row.arm,
            "instances": row.instances,
            "value": row.value,
            "low": row.low,
            "high": row.high,
            **_pair_cells(row.difference),
        }
        for row in sizes
    ]
    write_table(file, rows, list(rows[0]))


def _pair_cells(pair: Pair | None) -> dict[str, float]:
    names = ("difference", "low", "high", "p", "p_holm")
    columns = ("difference", "difference_low", "difference_high", "p", "p_holm")
    return {column: getattr(pair, name) if pair else math.nan for column, name in zip(columns, names)}


def markdown(table: Table) -> str:
    """A table of the arms, and one of differences to the reference, both with 95 % intervals."""
    head = ["arm", *_SHOWN.values()]
    means = [
        [arm, *(_cell(table.mean[s][m], table.low[s][m], table.high[s][m]) for s in _SHOWN)]
        for m, arm in enumerate(table.models)
    ]
    pairs = {(pair.first, pair.score): pair for pair in table.pairs}
    arms = list(dict.fromkeys(pair.first for pair in table.pairs))
    text = _markdown([head, *means])
    if arms:
        second = table.pairs[0].second
        rows = [[arm, *(_difference(pairs[arm, score]) for score in _SHOWN)] for arm in arms]
        text += f"\n\n{_markdown([[f'minus {second}', *_SHOWN.values()], *rows])}"
    return text


def size_markdown(sizes: Sequence[SizeRow], label: str) -> str:
    """For one class a table per score: an arm per row, a size per column; below the reference differences to it."""
    blocks = []
    for score in SIZE_SCORES:
        every = [row for row in sizes if row.label == label and row.score == score]
        there = {row.size for row in every if row.instances or row.value > 0}
        own = [row for row in every if row.size in there]
        bins = dict.fromkeys((row.size, row.instances) for row in own)
        arms = list(dict.fromkeys(row.arm for row in own))
        head = [score, *(f"{size} mL (n = {n:,})" for size, n in bins)]
        cell: Callable[[SizeRow], str] = lambda row: (  # noqa: E731
            _cell(row.value, row.low, row.high) if row.difference is None else _difference(row.difference)
        )
        rows = [[_named(arm, own), *(cell(row) for row in own if row.arm == arm)] for arm in arms]
        blocks.append(_markdown([head, *rows]))
    return "\n\n".join(blocks)


def _named(arm: str, rows: Sequence[SizeRow]) -> str:
    pair = next((row.difference for row in rows if row.arm == arm and row.difference), None)
    return f"{arm} minus {pair.second}" if pair else arm


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _cell(value: float, low: float, high: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.3f}" if math.isnan(low) else f"{value:.3f} ({low:.3f} to {high:.3f})"


def _difference(pair: Pair) -> str:
    """Bold where Holm's p is below 0.05."""
    if math.isnan(pair.difference):
        return "-"
    text = f"{pair.difference:+.3f}" + ("" if math.isnan(pair.low) else f" ({pair.low:+.3f} to {pair.high:+.3f})")
    return f"**{text}**" if pair.p_holm < 0.05 else text


def write_latex(file: Path, table: Table, caption: str) -> None:
    """The arms with means and intervals, for booktabs; a dagger where Holm's p is below 0.05."""
    marked = {(pair.first, pair.score) for pair in table.pairs if pair.p_holm < 0.05}
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}\centering\footnotesize",
        rf"\caption{{{_escaped(caption)}}}",
        rf"\begin{{tabular}}{{l{'c' * len(_SHOWN)}}}\toprule",
        " & ".join(["arm", *_SHOWN.values()]) + r" \\ \midrule",
    ]
    for m, arm in enumerate(table.models):
        cells = [
            (f"{table.mean[s][m]:.3f}" + (r"$^\dagger$" if (arm, s) in marked else ""))
            + ("" if math.isnan(table.low[s][m]) else f" [{table.low[s][m]:.3f}, {table.high[s][m]:.3f}]")
            for s in _SHOWN
        ]
        lines.append(" & ".join([_escaped(arm), *cells]) + r" \\")
    lines += [r"\bottomrule\end{tabular}", r"\end{table}", ""]
    with write_atomically(file) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")


def _escaped(text: str) -> str:
    for letter in "\\&%$#_{}":
        text = text.replace(letter, "\\" + letter)
    return text
