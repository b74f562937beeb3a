"""FROC: sensitivity against false positives per image, from probability maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_instance_trainers.evaluation.comparing.ranking import FEWEST_CASES, interval
from nnunet_instance_trainers.evaluation.detection import detect

__all__ = ["RATES", "Candidates", "Curve", "Froc", "find_candidates", "froc", "froc_curve"]

RATES = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
"""False positives per image at which sensitivity is read."""


@dataclass(frozen=True)
class Candidates:
    """What a probability map says of one image and class.

    Attributes:
        found: (N,) for each instance the highest score of a candidate that meets it; 0 where none does.
        false: (F,) the scores of the candidates that meet no instance.
    """

    found: np.ndarray
    false: np.ndarray


@dataclass(frozen=True)
class Curve:
    """A FROC curve over some images, from the highest threshold down.

    Attributes:
        threshold: (K,) every score that occurs; candidates with at least this score count.
        false_positives_per_image: (K,) false candidates over the number of images, ascending.
        sensitivity: (K,) found instances over all instances, ascending; nan without instances.
    """

    threshold: np.ndarray
    false_positives_per_image: np.ndarray
    sensitivity: np.ndarray


@dataclass(frozen=True)
class Froc:
    """Sensitivity at :data:`RATES`, with bootstrap intervals over images.

    Attributes:
        curve: over all images.
        sensitivity: at each rate the highest sensitivity that a threshold reaches with no more false positives.
        average: their mean.
        sensitivity_intervals, average_interval: (low, high) of each.
    """

    curve: Curve
    sensitivity: tuple[float, ...]
    average: float
    sensitivity_intervals: tuple[tuple[float, float], ...]
    average_interval: tuple[float, float]


def find_candidates(
    instances: np.ndarray | None,
    probabilities: np.ndarray,
    *,
    threshold: float = 0.1,
    within: np.ndarray | None = None,
    valid: np.ndarray | None = None,
) -> Candidates:
    """The candidates of one image: components of p >= threshold, each with its peak probability as score.

    After Shirokikh et al. 2020, section 4.3. Deviates from their code: they take p >= 0.5, where the curve ends
    at the segmentation's own operating point (``threshold=0.5`` here), and an instance's score from the candidate
    with the greatest Dice; here the highest score of all that meet it, so that lowering a threshold never loses one.

    Args:
        instances: (*S) as for :func:`detect`.
        probabilities: (*S) of the class.
        threshold: above 0; neighbouring objects may run into one candidate where it is low.
        within, valid: (*S) bool, as for :func:`detect`.

    Example:
        >>> found = find_candidates(np.array([[1, 1, 0, 0, 0, 0]]), np.array([[0.2, 0.9, 0.0, 0.4, 0.0, 0.3]]))
        >>> found.found.tolist(), found.false.tolist()
        ([0.9], [0.4, 0.3])
    """
    detection = detect(instances, probabilities >= threshold, within=within, valid=valid)
    pairs, hits = detection.pairs, detection.hits
    scores = probabilities.ravel()[detection.place]
    peaks = np.zeros(len(hits))
    np.maximum.at(peaks, detection.component_at[detection.component_at > 0] - 1, scores[detection.component_at > 0])
    found = np.zeros(len(detection.found))
    np.maximum.at(found, pairs.instance, peaks[pairs.component])
    return Candidates(found, peaks[~hits])


def froc_curve(images: Sequence[Candidates]) -> Curve:
    """The curve over images; those without instances or candidates count in the denominator too."""
    events = _Events(images)
    false, found = events.totals(np.ones(len(images)))
    return Curve(events.threshold, false / len(images), _share(found, events.instances.sum()))


def froc(
    images: Sequence[Candidates],
    *,
    rates: Sequence[float] = RATES,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Froc:
    """FROC of images, with percentile bootstrap intervals; nan for fewer than five images.

    A sample draws as many images with replacement; its false positives are divided by its number of images. Samples
    without any instance are left out.

    Args:
        images: one or more.
        rates: false positives per image.
        samples: bootstrap samples.
        level: share of samples inside the interval.
        seed: of the samples.
    """
    events, n = _Events(images), len(images)
    sensitivity = events.sensitivity_at(rates, np.ones(n))
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=samples)
    drawn = np.array([events.sensitivity_at(rates, times) for times in draws]).reshape(samples, len(rates))
    drawn = drawn[~np.isnan(drawn).any(1) & (n >= FEWEST_CASES)]
    low, high = interval(drawn, level)
    average_low, average_high = interval(drawn.mean(1), level)
    return Froc(
        curve=froc_curve(images),
        sensitivity=tuple(sensitivity.tolist()),
        average=float(sensitivity.mean()),
        sensitivity_intervals=tuple(zip(low.tolist(), high.tolist())),
        average_interval=(float(average_low), float(average_high)),
    )


class _Events:
    """All scores of some images in descending order; a weight per image then gives totals by running sums."""

    def __init__(self, images: Sequence[Candidates]) -> None:
        self.instances = np.array([len(image.found) for image in images])
        scores = [part for image in images for part in (image.found, image.false)]
        score = np.concatenate(scores)
        image = np.repeat(np.repeat(np.arange(len(images)), 2), [len(part) for part in scores])
        is_found = np.repeat(np.tile([True, False], len(images)), [len(part) for part in scores])
        order = np.argsort(-score, kind="stable")
        order = order[score[order] > 0]  # what no candidate meets is found at no threshold
        score, self._image, self._is_found = score[order], image[order], is_found[order]
        self._last = np.flatnonzero(np.append(score[1:] != score[:-1], True)) if len(score) else np.zeros(0, int)
        self.threshold = score[self._last]

    def totals(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weighted numbers (K,) of false candidates and found instances at each threshold."""
        weight = weights[self._image]
        false, found = np.cumsum(np.where(self._is_found, 0, weight)), np.cumsum(np.where(self._is_found, weight, 0))
        return false[self._last], found[self._last]

    def sensitivity_at(self, rates: Sequence[float], weights: np.ndarray) -> np.ndarray:
        false, found = self.totals(weights)
        reached = np.searchsorted(false, np.asarray(rates) * weights.sum(), side="right")
        return _share(np.append(0, found)[reached], weights @ self.instances)


def _share(part: np.ndarray, whole: float) -> np.ndarray:
    return part / whole if whole else np.full(len(part), np.nan)
