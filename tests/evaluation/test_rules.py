from __future__ import annotations

import pytest

from nnunet_instance_trainers.evaluation import Rule


@pytest.mark.parametrize(
    "options, message",
    [
        ({"match": "IoU"}, "match must be one of overlap, iou, dice, greedy, share, got 'IoU'"),
        ({"match": "iou", "threshold": 0}, "threshold must be above 0 and at most 1, got 0"),
        ({"match": "dice", "threshold": 1.1}, "threshold must be above 0 and at most 1, got 1.1"),
        ({"connectivity": 8}, "connectivity must be 6, 18 or 26, got 8"),
        ({"minimum_ml": -1}, "minimum_ml must be 0 or more, got -1"),
    ],
)
def test_a_rule_that_means_nothing_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rule(**options)


def test_rule_comes_back_from_the_settings_of_a_summary():
    rule = Rule("share", 0.3, connectivity=6, minimum_ml=0.01)
    assert Rule.of({**rule.settings(), "bins_ml": [1]}) == rule
    assert Rule().settings() == {"match": "overlap", "threshold": 0.5}
