"""What a challenge is: the rules by which cases are scored, averaged and ranked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from nnunet_instance_trainers.evaluation.challenges.mask_pair import MaskPair

__all__ = ["GITHUB", "Challenge", "Score", "Scores"]

GITHUB = "https://github.com/"

Scores = dict[str, float]
Score = Callable[[MaskPair], Scores]


@dataclass(frozen=True)
class Challenge:
    """A challenge's rules.

    Attributes:
        name: on the command line.
        title, organ, scored, link: for the list.
        year: of the rules.
        equals: the official code and version whose values these are.
        score: the official columns of one case and region.
        better: for each ranked column "higher" or "lower", most important first.
        ranking: ``"mean rank"``; ``"scaled"``: by each score's distance from the best over that of the worst;
            None where there is no official one, or it needs more than the scores.
        weights: of the ranked columns' ranks.
        regions: their labels, None for the classes of dataset.json.
        region_score: of regions that are not scored as the others.
        masked: labels of the ground truth where nothing counts.
        pool: official scores of columns summed over all cases; None for means over cases.
        maps: whether instance maps can take the place of components; "needed" where those of the target must.
        quirks: of the official code, which are reproduced.
    """

    name: str
    title: str
    year: int
    organ: str
    scored: str
    link: str
    equals: str
    score: Score
    better: Mapping[str, Literal["higher", "lower"]]
    ranking: Literal["mean rank", "scaled"] | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    regions: Mapping[str, tuple[int, ...]] | None = None
    region_score: Mapping[str, Score] = field(default_factory=dict)
    masked: tuple[int, ...] = ()
    pool: Callable[[Scores], Scores] | None = None
    maps: Literal["taken", "needed", "refused"] = "taken"
    quirks: tuple[str, ...] = ()

    def score_region(self, region: str, pair: MaskPair) -> Scores:
        """The official columns of one case and region."""
        return self.region_score.get(region.lower(), self.score)(pair)
