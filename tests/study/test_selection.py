"""The best candidate on val, and nothing where one is missing."""

from __future__ import annotations

import itertools

import pytest

from capaboost_vit.study.selection import Candidate, read_choices, select_candidates, write_choices


@pytest.fixture
def scored(study, trial_of, finish):
    """Candidates of cells with the accuracies on val that are given, a row for each point, a column for each seed."""
    seeds = itertools.count()

    def make(cells, points=None):
        candidates = {}
        for key, rows in cells.items():
            cell = []
            for i, row in enumerate(rows):
                trials = []
                for value in row:
                    trial = trial_of(next(seeds), fields={"stage": "candidate"})
                    trials.append(trial)
                    if value is not None:
                        finish(study, trial, value)
                cell.append(Candidate(points[i] if points else {"lr": 10.0**-i}, trials))
            candidates[key] = cell
        return candidates

    return make


def test_the_best_mean_over_seeds_is_chosen(study, scored):
    choices, missing = select_candidates(study, scored({"a | lora | b": [[50, 70], [61, 61], [90, 0]]}))
    assert missing == []
    choice = choices["a | lora | b"]
    assert (choice["options"], choice["score"], choice["at_the_edge"]) == ({"lr": 0.1}, 61, [])
    assert choice["tried"] == [({"lr": 1.0}, 60), ({"lr": 0.1}, 61), ({"lr": 0.01}, 45)]


def test_of_equals_the_first_is_taken_and_an_edge_of_the_grid_is_told(study, scored):
    choice = select_candidates(study, scored({"a | lora | b": [[60], [60]]}))[0]["a | lora | b"]
    assert (choice["options"], choice["at_the_edge"]) == ({"lr": 1.0}, ["lr"])


def test_one_point_or_words_have_no_edge(study, scored):
    assert select_candidates(study, scored({"a | lora | b": [[60]]}))[0]["a | lora | b"]["at_the_edge"] == []
    words = scored({"c | lora | b": [[60], [50]]}, points=[{"opt": "sgd"}, {"opt": "adamw"}])
    assert select_candidates(study, words)[0]["c | lora | b"]["at_the_edge"] == []


def test_a_cell_with_a_missing_candidate_has_no_choice(study, scored):
    choices, missing = select_candidates(
        study, scored({"a | lora | b": [[60, None], [None, 50]], "c | lora | b": [[1], [2]]})
    )
    assert list(choices) == ["c | lora | b"]
    assert missing == ["a | lora | b: 2 of 4 candidates are not finished"]


def test_across_tasks_the_mean_over_tasks_counts_and_methods_stay_apart(study, scored):
    cells = {"a | lora | b": [[60], [50]], "c | lora | b": [[0], [20]], "a | head | b": [[5], [4]]}
    choices, _ = select_candidates(study, scored(cells), across_tasks=True)
    assert {key: choice["options"]["lr"] for key, choice in choices.items()} == {
        "a | lora | b": 0.1,
        "c | lora | b": 0.1,
        "a | head | b": 1.0,
    }
    assert choices["a | lora | b"]["score"] == 35


def test_across_tasks_one_missing_candidate_leaves_all_tasks_of_the_method_without_a_choice(study, scored):
    cells = {"a | lora | b": [[60], [50]], "c | lora | b": [[0], [None]], "a | head | b": [[5], [4]]}
    choices, missing = select_candidates(study, scored(cells), across_tasks=True)
    assert list(choices) == ["a | head | b"]
    assert missing == ["c | lora | b: 1 of 2 candidates are not finished"]


def test_choices_are_read_as_they_were_written_and_others_stay(study, scored):
    write_choices(study, select_candidates(study, scored({"a | lora | b": [[60], [50]]}))[0])
    write_choices(study, select_candidates(study, scored({"c | lora | b": [[0], [20]]}))[0])
    found = read_choices(study)
    assert {key: value["options"] for key, value in found.items()} == {
        "a | lora | b": {"lr": 1.0},
        "c | lora | b": {"lr": 0.1},
    }
    assert found["a | lora | b"]["tried"] == [[{"lr": 1.0}, 60], [{"lr": 0.1}, 50]]


def test_no_choices_and_damaged_ones_say_what_to_do(study):
    with pytest.raises(FileNotFoundError, match=r"nothing was chosen in .*: run capaboost study tune"):
        read_choices(study)
    study.path.mkdir()
    study.choices.write_text("{")
    with pytest.raises(ValueError, match=r"choices\.json is damaged"):
        read_choices(study)
