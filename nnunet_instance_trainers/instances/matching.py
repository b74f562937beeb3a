"""One-to-one matchings of the rows and columns of an overlap table."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

__all__ = ["match_greedily", "match_one_to_one"]


def match_one_to_one(
    instance: np.ndarray, component: np.ndarray, quality: np.ndarray, *, threshold: float
) -> np.ndarray:
    """Choose pairs so that nothing is in two of them and the sum of their qualities is greatest.

    Limits: with IoU and a threshold above 0.5 no pair excludes another, so all pairs that reach it are chosen.

    Args:
        instance, component: (P,) indices of the two partners of each pair, every pair once.
        quality: (P,) in (0, 1], such as IoU.
        threshold: pairs below it are out; a pair exactly at it is in.

    Returns:
        (K,) ascending indices of the chosen pairs.

    Example:
        >>> instance, component = np.array([0, 0, 1]), np.array([0, 1, 1])
        >>> match_one_to_one(instance, component, np.array([0.4, 0.5, 0.4]), threshold=0.3)
        array([0, 2])
    """
    reaching = np.flatnonzero(quality >= threshold)
    rows, row = np.unique(instance[reaching], return_inverse=True)
    columns, column = np.unique(component[reaching], return_inverse=True)
    contested = (np.bincount(row)[row] > 1) | (np.bincount(column)[column] > 1)
    if not contested.any():
        return reaching
    # The solver gives every row a column, so each row gets one more that stands for no partner. It ignores weights
    # of 0, so all are raised by 1, which adds the same to every assignment.
    n_rows, n_columns = len(rows), len(columns)
    alone = np.arange(n_rows)
    graph = coo_array(
        (
            np.concatenate((quality[reaching] + 1, np.ones(n_rows))),
            (np.concatenate((row, alone)), np.concatenate((column, n_columns + alone))),
        ),
        shape=(n_rows, n_columns + n_rows),
    ).tocsr()
    partner = np.empty(n_rows, dtype=np.int64)
    matched_rows, matched_columns = min_weight_full_bipartite_matching(graph, maximize=True)
    partner[matched_rows] = matched_columns
    return reaching[partner[row] == column]


def match_greedily(instance: np.ndarray, component: np.ndarray, quality: np.ndarray, *, threshold: float) -> np.ndarray:
    """Choose pairs by falling quality, each if both partners are still free; ties go to the lower instance, component.

    Limits: with IoU and a threshold above 0.5 it equals :func:`match_one_to_one`.

    Args:
        instance, component, quality, threshold: as there.

    Returns:
        (K,) ascending indices of the chosen pairs.

    Example:
        >>> instance, component = np.array([0, 0, 1]), np.array([0, 1, 1])
        >>> match_greedily(instance, component, np.array([0.4, 0.5, 0.4]), threshold=0.3)
        array([1])
    """
    taken: tuple[set[int], set[int]] = (set(), set())
    chosen = []
    for index in np.lexsort((component, instance, -quality)).tolist():
        row, column = int(instance[index]), int(component[index])
        if quality[index] >= threshold and row not in taken[0] and column not in taken[1]:
            taken[0].add(row)
            taken[1].add(column)
            chosen.append(index)
    return np.array(sorted(chosen), dtype=np.int64)
