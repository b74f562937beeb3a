from __future__ import annotations

from nnunet_instance_trainers.evaluation.challenges.challenge_comparison import compare_results
from nnunet_instance_trainers.evaluation.challenges.declarations import CHALLENGES
from nnunet_instance_trainers.evaluation.challenges.results import Outcome, Result, summarise
from nnunet_instance_trainers.evaluation.report.challenge_page import challenge_report


def result(model: str, name: str, values: list[float]) -> Result:
    challenge = CHALLENGES[name]
    rows = [
        Outcome(f"c{k}", "lesion", True, True, dict.fromkeys(challenge.better, value)) for k, value in enumerate(values)
    ]
    summary = summarise(challenge, rows, []) | {"settings": {"predictions": f"/data/{model}"}}
    return Result(model, challenge, [row.cells() for row in rows], summary)


def page(name: str, *models: list[float]) -> str:
    results = [result(f"model{k}", name, values) for k, values in enumerate(models)]
    return challenge_report(results, compare_results(results))


def test_page_names_the_official_code_its_quirks_and_the_ranking() -> None:
    text = page("atlas2", [0.25, 0.5], [0.75, 0.875])
    assert "npnl/atlas2_grand_challenge 55b9524" in text
    assert "touch by an edge are two" in text
    assert "0.3750" in text and "0.8125" in text and "+0.4375" in text
    assert ">official<" in text


def test_without_an_official_ranking_there_is_no_column_of_it() -> None:
    text = page("msseg", [0.25, 0.5], [0.75, 0.875])
    assert ">official<" not in text and 'colspan="0"' not in text
