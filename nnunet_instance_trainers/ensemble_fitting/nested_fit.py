"""A choice fitted to cases, and what it is worth on cases that it was not fitted to.

Whatever is chosen is chosen on some cases and scored on others. A part of the procedure (bins, hysteresis, a least
volume) is taken only where it gains on cases that it was not fitted to, by more than chance explains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import chain, combinations

import numpy as np

from nnunet_instance_trainers.ensemble_fitting.bin_search import Search, Space
from nnunet_instance_trainers.ensemble_fitting.count_table import Choices, Table, single_model
from nnunet_instance_trainers.ensemble_fitting.score_intervals import Bootstrap, Estimate, cases_needed
from nnunet_instance_trainers.evaluation.counts import Counts

__all__ = ["Fit", "fit", "held_out_counts"]


@dataclass(frozen=True)
class Fit:
    """The answer.

    Attributes:
        choices: one per class, fitted to all cases.
        parts: of the procedure that were taken; none for the best single model as it is.
        models: estimates of the plain models.
        procedures: estimates of every combination of parts, by those.
        whole: estimate of everything that was done here, the choice of parts included.
        held_out: the choices for each case that were fitted without its group, which ``whole`` comes from.
        left: the fewest cases that are left where a group is set aside.
        needed: with fewer left than that nothing can be told, and no part is taken.
    """

    choices: Choices
    parts: tuple[str, ...]
    models: list[Estimate]
    procedures: dict[tuple[str, ...], Estimate]
    whole: Estimate
    held_out: list[Choices]
    left: int
    needed: int

    @property
    def tells(self) -> bool:
        """Whether there were enough cases to tell a gain from chance."""
        return self.left >= self.needed


def fit(
    table: Table,
    space: Space,
    groups: np.ndarray,
    names: Sequence[str],
    *,
    level: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Fit:
    """Choose on all cases, and estimate what the choice is worth.

    The estimate is nested: with one group of cases set aside, everything, the choice of parts included, is done on
    the others, and the result scored on that group.

    Args:
        table: counts.
        space: what may be chosen.
        groups: (n cases) the group of each case, such as nnU-Net's fold; three groups or more.
        names: of the models.
        level: of the intervals.
        samples: of the bootstrap.
        seed: of the bootstrap.
        progress: wraps the groups that are gone through, for a bar.

    Raises:
        ValueError: fewer than three groups.
    """
    if len(np.unique(groups)) < 3:
        raise ValueError(f"groups must be three or more, got {len(np.unique(groups))}")
    search, bootstrap = Search(table, space), Bootstrap(table, level, samples, seed)
    everything = np.ones(len(groups), bool)
    left, needed = int(min((groups != group).sum() for group in groups)), cases_needed(len(space.parts), level)
    tells = left >= needed
    candidates: dict[int, Choices] = {}
    for group in progress(np.unique(groups).tolist()):
        parts, _ = _decide(search, bootstrap, groups, groups != group, tells)
        candidates[group] = search.choose(parts, groups != group)
    held_out = [candidates[group] for group in groups.tolist()]
    parts, rows = _decide(search, bootstrap, groups, everything, tells)
    single, plain = rows[()], [table.counts_of(single_model(table, m)) for m in range(len(names))]
    return Fit(
        choices=search.choose(parts, everything),
        parts=parts,
        models=[bootstrap.estimate(name, counts, single) for name, counts in zip(names, plain)],
        procedures={key: bootstrap.estimate(" + ".join(key), value, single) for key, value in rows.items()},
        whole=bootstrap.estimate(
            "this fit", np.stack([table.counts_of(choices)[i] for i, choices in enumerate(held_out)]), single
        ),
        held_out=held_out,
        left=left,
        needed=needed,
    )


def held_out_counts(search: Search, parts: tuple[str, ...], groups: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(n cases, n classes, n counts) of choices fitted without the group that a case is in; zeros where not chosen."""
    rows = np.zeros((len(chosen), search.table.n_classes, len(fields(Counts))))
    for group in np.unique(groups[chosen]):
        test = chosen & (groups == group)
        rows[test] = search.table.counts_of(search.choose(parts, chosen & ~test))[test]
    return rows


def _decide(
    search: Search, bootstrap: Bootstrap, groups: np.ndarray, chosen: np.ndarray, tells: bool
) -> tuple[tuple[str, ...], dict[tuple[str, ...], np.ndarray]]:
    """The parts that gain on held-out cases, taken one by one, and the held-out counts of every combination."""
    there = search.space.parts
    subsets = chain.from_iterable(combinations(there, n) for n in range(len(there) + 1))
    possible = [parts for parts in subsets if "bins" in parts or "more bins" not in parts]
    rows = {parts: held_out_counts(search, parts, groups, chosen)[chosen] for parts in possible}
    parts: tuple[str, ...] = ()
    while tells and len(parts) < len(there):
        more = [tuple(p for p in there if p in (*parts, part)) for part in there if part not in parts]
        best = max(
            (parts for parts in more if parts in rows), key=lambda key: bootstrap.difference(rows[key], rows[parts])
        )
        # As many intervals and tests as there are parts to try: each is that much wider or stricter.
        low, _ = bootstrap.interval(rows[best], rows[parts], tries=len(there))
        if not low > 0 or bootstrap.chance(rows[best], rows[parts]) > (1 - bootstrap.level) / 2 / len(there):
            break
        parts = best
    return parts, rows
