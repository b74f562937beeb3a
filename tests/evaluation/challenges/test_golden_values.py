"""Every official value has a test that meets it; this is the list."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
from challenge_values import FOLDER, needs_golden

_LESIONS, _MAPS = "test_lesion_scores.py::", "test_map_scores.py::"
_BRATS, _JOINED, _SURFACES = "test_brats2026.py::", "test_brats_lesionwise.py::", "test_surface_challenges.py::"
_OFFICIAL = "test_scores_equal_the_official_code"
_STARDIST = f"{_MAPS}test_counts_and_qualities_equal_stardist_0_9_1"

# Of each file the keys below a case, or below a name in place of a case, and the test that compares them.
MET_BY = {
    "anima_msseg": {
        "SurfaceDistance": f"{_LESIONS}test_why_animas_surface_distance_is_not_offered",
        "*": f"{_LESIONS}test_msseg_equals_anima_d9fb323d",
    },
    "atlas2": {"*": _LESIONS + _OFFICIAL},
    "autopet1": {"*": _LESIONS + _OFFICIAL},
    "autopet3": {"*": _LESIONS + _OFFICIAL},
    "brats2023": {"*": f"{_JOINED}test_2023_equals_brats_2023_metrics_43c9052"},
    "brats2024MET": {"*": f"{_JOINED}test_2024_equals_brats_2024_metrics_f1131e3"},
    "brats2026": {
        "values/*/mean/*": f"{_BRATS}test_mean_deviation_and_median_equal_the_official_summary",
        "values/*/std/*": f"{_BRATS}test_mean_deviation_and_median_equal_the_official_summary",
        "values/*/median/*": f"{_BRATS}test_mean_deviation_and_median_equal_the_official_summary",
        "values/*": f"{_BRATS}test_scores_equal_brats_evaluation_0_0_10",
        "panoptica_et/*": f"{_BRATS}test_counts_and_lesions_equal_panoptica_2_1_7",
    },
    "conic": {
        "values/pooled_over_all_but_empty/*": f"{_MAPS}test_conic_pools_counts_over_images",
        "*": _MAPS + _OFFICIAL,
    },
    "ctc": {"*": _MAPS + _OFFICIAL},
    "dsb2018_stardist": {
        **dict.fromkeys(("mean_ap", "ap/*"), f"{_MAPS}test_dsb2018_equals_stardist_0_9_1"),
        **dict.fromkeys(("tp", "fp", "fn", "f1_at_0.5"), _STARDIST),
        **dict.fromkeys(("mean_true_score_at_0.5", "panoptic_quality_at_0.5"), _STARDIST),
    },
    "isles22": {"*": _LESIONS + _OFFICIAL},
    "isles24": {"*": _LESIONS + _OFFICIAL},
    "kits23": {"*": f"{_SURFACES}test_kits23_equals_c108835_with_surface_distance_0_1"},
    "pannuke": {"*": _MAPS + _OFFICIAL},
    "valdo": {
        "epvs,connectivity=1,threshold=0.1/*": f"{_LESIONS}test_valdo_with_6_neighbours_equals_it_too",
        "*": f"{_LESIONS}test_valdo_equals_valdo_eval_2021_ee87c04",
    },
    "wmh2017": {"*": f"{_SURFACES}test_wmh2017_equals_wmhchallenge_2e628cb"},
}


def keys(content: dict, path: str = "") -> Iterator[str]:
    for key, value in content.items():
        where = f"{path}/{key}" if path else key
        yield from keys(value, where) if isinstance(value, dict) else (where,)


@needs_golden
@pytest.mark.parametrize("file", sorted(MET_BY))
def test_every_key_has_a_test(file: str) -> None:
    content = {
        k: v for k, v in json.loads((FOLDER / f"{file}.json").read_text()).items() if k not in ("versions", "note")
    }
    used = set()
    for key in keys(content):
        test = next(
            (t for pattern, t in MET_BY[file].items() if fnmatch(key, pattern) or fnmatch(key, f"*/{pattern}")), None
        )
        assert test is not None, key
        used.add(test)
    assert used == set(MET_BY[file].values())


@needs_golden
def test_the_list_names_every_file_and_tests_that_exist() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(MET_BY)
    for name in {test for tests in MET_BY.values() for test in tests.values()}:
        module, test = name.split("::")
        assert f"def {test}(" in (Path(__file__).parent / module).read_text()
