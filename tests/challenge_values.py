"""Official values, and the pairs of real masks that they were computed of."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from functools import cached_property
from math import isnan, nan
from pathlib import Path

import pytest

from nnunet_instance_trainers.evaluation.challenges.mask_pair import MaskPair

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "golden_challenges"

needs_golden = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="needs the folder shared/golden_challenges beside the repository"
)


class OfficialValues:
    """The pairs by name, with slices first as nnU-Net's readers give them, and the official values."""

    def __init__(self) -> None:
        spec = importlib.util.spec_from_file_location("recipe", FOLDER / "recipe.py")
        self.recipe = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.recipe)

    @cached_property
    def lesions(self) -> dict[str, MaskPair]:
        """The 42 pairs of lesion masks."""
        return {name: MaskPair.of(t.T.copy(), p.T.copy(), s[::-1]) for name, t, p, s in self.recipe.pairs3d()}

    @cached_property
    def nuclei(self) -> dict[str, MaskPair]:
        """The 30 pairs of instance maps."""
        return {
            name: MaskPair.of(t[None] > 0, p[None] > 0, (1.0, *s), ids=(t[None], p[None]))
            for name, t, p, s in self.recipe.pairs2d()
        }

    def pair(self, name: str) -> MaskPair:
        return (self.nuclei if name.startswith("nuct") else self.lesions)[name]

    def read(self, file: str) -> dict:
        return json.loads((FOLDER / f"{file}.json").read_text())

    def compare(
        self,
        official: dict,
        score: Callable[[MaskPair], dict[str, float]],
        *,
        least: int,
        skipped: tuple[str, ...] = (),
        surfaces: tuple[str, ...] = (),
    ) -> None:
        """Every official value of every pair: to 1e-6, columns of surfaces to 1e-4, undefined where it was."""
        compared = 0
        for case, values in official.items():
            if "/" not in case:
                continue
            own = score(self.pair(case))
            for name, value in values.items():
                if name not in skipped:
                    tolerance = 1e-4 if any(part in name for part in surfaces) else 1e-6
                    assert own[name] == pytest.approx(_number(value), abs=tolerance, rel=1e-6, nan_ok=True), (
                        case,
                        name,
                    )
                    compared += 1
        assert compared >= least

    def undefined(self, official: dict, name: str) -> Iterator[str]:
        """The pairs for which a column has no value."""
        return (case for case, values in official.items() if isnan(_number(values.get(name, 0.0))))


def _number(value: float | str | None) -> float:
    """The official code's "nan" and "error: ..." as nan."""
    undefined = value is None or (isinstance(value, str) and value.lstrip("-").startswith(("nan", "error")))
    return nan if undefined else float(value)
