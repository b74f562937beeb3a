"""Every instance term as a module: classes and regions are binary problems, averaged over what occurs."""

from __future__ import annotations

import pytest
import torch
from geometry import SHAPES
from losses.plain import FAST, FAST_CELLS, PLAIN, PLAIN_CELLS, assert_same, samples_of, scene, scribbles, with_gradient
from torch import Tensor

from nnunet_instance_trainers.losses import inverse_weighted_loss, topk_dice_loss
from nnunet_instance_trainers.losses.named_terms import TERMS, make_term

pytestmark = pytest.mark.filterwarnings("ignore:the published form")

every_term = pytest.mark.parametrize("term", [*FAST, *FAST_CELLS])

SETTINGS = {
    "criterion": "tversky",
    "surrogate_weight": 0.6,
    "exclude_other_targets": False,
    "missed": "soft",
    "center_width": 3,
    "proximity_form": "mse",
    "k_percent": 30,
    "weighted_criterion": "asl",
    "max_weight": 2.0,
    "cell_criterion": "tversky+bce",
    "empty_cell": "mass",
    "without_instance": "skip",
    "cell_size_power": 0.5,
    "cell_grid": "full",
    "component_gamma": 0.5,
    "size_offset": 2.0,
    "background_weight": 0.1,
}

OF_FUNCTIONS = {
    "instance_target": {"criterion": "tversky", "exclude_other_targets": False, "missed": "soft"},
    "instance_prediction": {"criterion": "tversky"},
    "missed_rate": {},
    "false_rate": {},
    "center": {"width": 3},
    "proximity": {"criterion": "tversky", "exclude_other_targets": False, "missed": "soft", "form": "mse"},
}
OPTIONS: dict[str, dict] = {
    **{term: {"surrogate_weight": 0.6, **options} for term, options in OF_FUNCTIONS.items()},
    "voronoi_target": {"criterion": "tversky+bce", "size_power": 0.5},
    "voronoi_prediction": {"criterion": "tversky+bce", "size_power": 0.5},
    "component_tversky": {"gamma": 0.5, "size_offset": 2, "background_weight": 0.1},
    "instance_mil": {},
}


def tolerance(term: str) -> dict[str, float]:
    """Boxes and shares of cubes are float32."""
    return {"rtol": 1e-5, "atol": 1e-9} if term in ("proximity", "center") else {"rtol": 1e-8, "atol": 1e-12}


def plain_mean(term: str, problems: list[tuple[Tensor, Tensor, Tensor, Tensor | None]], valid: Tensor | None) -> Tensor:
    """The mean over (probabilities, logits, ids, predicted) of the classes in which there is something to average."""
    outcomes = [
        {**PLAIN, **PLAIN_CELLS}[term](samples_of(p, ids, logits=z, predicted=predicted, valid=valid), **OPTIONS[term])
        for p, z, ids, predicted in problems
    ]
    values = [value for value, occurs in outcomes if occurs]
    return torch.stack(values).mean() if values else problems[0][0].sum() * 0


def odds(output: Tensor, c: int) -> Tensor:
    p = output.softmax(1)[:, c]
    return p.log() - (1 - p).log()


def labelled(shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of four channels, labels and ids; class 3 has no instance, sample 1 none at all."""
    z, ids = scene(shape, seed)
    other, _ = scene(shape, seed + 50)
    labels = torch.tensor([0, 1, 2, 2, 1, 2])[ids]
    return torch.stack([-z / 2, z, z.roll(1, 2) + other / 3, other / 2 - 1], 1), labels, ids


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("components_from", [None, "threshold"])
@every_term
@pytest.mark.parametrize("shape", SHAPES)
def test_labels_are_one_binary_problem_per_class(
    shape: tuple[int, ...], term: str, components_from: str | None, ignored: bool
) -> None:
    """Three classes, one without instances; the components are what wins the softmax, or passes the threshold."""
    output, labels, ids = labelled(shape, seed=41)
    valid = scribbles(shape) if ignored else None
    target = labels if valid is None else labels.masked_fill(~valid, 9)

    def plain(x: Tensor) -> Tensor:
        problems = []
        for c in (1, 2, 3):
            predicted = x.argmax(1) == c if components_from is None else None
            problems.append((x.softmax(1)[:, c], odds(x, c), torch.where(labels == c, ids, 0), predicted))
        return plain_mean(term, problems, valid)

    module = make_term(term, SETTINGS)
    module.problems = type(module.problems)(components_from=components_from, ignore_label=9 if ignored else None)
    found = with_gradient(module, output, target[:, None], ids[:, None])
    assert_same(found, with_gradient(plain, output), **tolerance(term))
    if valid is not None:
        assert (found[1].movedim(1, -1)[~valid] == 0).all()


@pytest.mark.parametrize("ignored", [False, True])
@every_term
def test_regions_are_one_binary_problem_each(term: str, ignored: bool) -> None:
    """Nested ones, with ids of their own; the third occurs nowhere, neither in the target nor in the prediction."""
    shape = SHAPES[0]
    z, whole = scene(shape, seed=42)
    other, cores = scene(shape, seed=43)
    ids = torch.stack([whole, torch.where(whole > 0, cores, 0), torch.zeros_like(whole)], 1)
    output = torch.stack([z, other, -other.abs()], 1)
    valid = scribbles(shape) if ignored else None
    target = (ids > 0) if valid is None else torch.cat([ids > 0, ~valid[:, None]], 1)

    def plain(x: Tensor) -> Tensor:
        return plain_mean(term, [(x[:, r].sigmoid(), x[:, r], ids[:, r], None) for r in range(3)], valid)

    module = make_term(term, SETTINGS)
    module.problems = type(module.problems)(regions=True)
    found = with_gradient(module, output, target.float(), ids)
    assert_same(found, with_gradient(plain, output), **tolerance(term))


@every_term
def test_two_channels_equal_the_general_path(term: str) -> None:
    z, ids = scene(SHAPES[0], seed=44)
    output = torch.stack([z / 3, z], 1)
    found = with_gradient(make_term(term, SETTINGS), output, (ids > 0)[:, None].long(), ids[:, None])

    def plain(x: Tensor) -> Tensor:
        return plain_mean(term, [(x.softmax(1)[:, 1], odds(x, 1), ids, x.argmax(1) == 1)], None)

    assert_same(found, with_gradient(plain, output), **tolerance(term))


@pytest.mark.parametrize("term", FAST)
def test_a_class_that_is_only_beside_ignored_voxels_has_nothing_to_average(term: str) -> None:
    """Where every object of a class touches an ignored voxel, rates, the prediction side and proximity leave it out."""
    z, ids = scene(SHAPES[0], seed=45)
    z, ids, valid = z[:1], ids[:1], scribbles(SHAPES[0], batch=1)
    lonely = torch.zeros_like(ids)
    lonely[:, 1:3, 2:4] = 1  # row 0 is ignored
    output, all_ids = torch.stack([z, torch.where(lonely > 0, 2.0, -2.0).double()], 1), torch.stack([ids, lonely], 1)
    target = torch.cat([all_ids > 0, ~valid[:, None]], 1)
    module = make_term(term, SETTINGS)
    both = type(module.problems)(regions=True)
    alone = type(module.problems)(regions=True, classes=[0])
    found = []
    for problems in (both, alone):
        module.problems = problems
        found.append(module(output, target, all_ids))
    assert (found[0] == found[1]).item() == (term not in ("instance_target", "center"))


@pytest.mark.parametrize("term", FAST)
def test_instances_do_not_go_on_below_an_ignored_voxel(term: str) -> None:
    """An object beside a scribble may be missed or false without being counted so, one away from it may not."""
    ids = torch.zeros(1, 12, 12, dtype=torch.int64)
    ids[0, 2:4, 2:4], z = 1, torch.full((1, 12, 12), -3.0).double()
    z[0, 8:10, 8:10] = 2
    for at, counts in (((5, 5), True), ((4, 4), False)):
        valid = torch.ones_like(ids, dtype=torch.bool)
        valid[0, at[0], at[1]] = False
        if not counts:
            valid[0, 7, 7] = False
        value = FAST[term](z.sigmoid(), ids, valid=valid)
        assert (value > 0) == (counts or term in ("instance_target", "center")), at


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TERMS)
def test_a_term_takes_its_settings_from_their_names(name: str) -> None:
    """Each setting that a term takes changes it, the others do not."""
    output, labels, ids = labelled(SHAPES[0], seed=46)
    output[:, 1, 2:12] += 4  # components that meet several instances
    others = {
        "criterion": "dice",
        "surrogate_weight": 0.1,
        "exclude_other_targets": True,
        "missed": "constant",
        "center_width": 5,
        "proximity_form": "mean",
        "k_percent": 50,
        "weighted_criterion": "bce",
        "max_weight": 0.9,
        "cell_criterion": "dice",
        "empty_cell": "criterion",
        "without_instance": "whole",
        "cell_size_power": 0,
        "cell_grid": "half",
        "component_gamma": 1,
        "size_offset": 5,
        "background_weight": 0.01,
    }
    assert (
        set(others) == set(SETTINGS) == {setting for _, arguments in TERMS.values() for setting in arguments.values()}
    )

    def run(settings: dict) -> Tensor:
        value, gradient = with_gradient(make_term(name, settings), output, labels[:, None], ids[:, None])
        return torch.cat([value[None], gradient.flatten()])

    expected = run(SETTINGS)
    for setting, value in others.items():
        changed = not torch.equal(run({**SETTINGS, setting: value}), expected)
        assert changed == (setting in TERMS[name][1].values()), setting


@pytest.mark.parametrize(
    ("name", "loss", "options"),
    [
        ("topk_dice", topk_dice_loss, {"k_percent": 30}),
        ("inverse_weighted", inverse_weighted_loss, {"criterion": "asl", "max_weight": 2.0}),
    ],
)
def test_voxel_terms_are_their_functions_per_class(name: str, loss, options: dict) -> None:  # type: ignore[no-untyped-def]
    output, labels, ids = labelled(SHAPES[0], seed=47)
    found = with_gradient(make_term(name, SETTINGS), output, labels[:, None], ids[:, None])
    classes = (1, 2, 3)

    def plain(x: Tensor) -> Tensor:
        return sum(loss(x.softmax(1)[:, c], torch.where(labels == c, ids, 0), **options) for c in classes) / 3

    assert_same(found, with_gradient(plain, output))


@pytest.mark.parametrize("options", [{"components_from": "max"}, {"components_from": "argmax", "regions": True}])
def test_unknown_sources_of_components_are_refused(options: dict) -> None:
    says = f"components_from must be 'threshold', or 'argmax' with labels, got '{options['components_from']}'"
    with pytest.raises(ValueError, match=says):
        TERMS["center"][0](**options)
