"""Masks are pure functions of (seed, path) with the counts that each pattern promises."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capaboost_vit.core.masking import Masking
from capaboost_vit.core.masks import make_masks


def masks(shape=(8, 64), *, num_branches=2, density=None, pattern="random", seed=0, path="blocks.0.q.down"):
    return make_masks(shape, Masking(num_branches, density, pattern, seed), path=path)


@given(st.integers(1, 9), st.integers(2, 40), st.floats(0.05, 0.95), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_random_masks_keep_exactly_the_papers_count(rows, columns, density, seed):
    kept = int(rows * columns * density)
    if kept == 0:
        with pytest.raises(ValueError, match="keeps none"):
            masks((rows, columns), num_branches=1, density=density, seed=seed)
        return
    found = masks((rows, columns), num_branches=1, density=density, seed=seed)
    assert found.dtype == np.int8
    assert set(np.unique(found)) <= {0, 1}
    assert found.sum() == kept


@pytest.mark.parametrize(("pattern", "n", "m"), [("2:4", 2, 4), ("1:4", 1, 4), ("3:8", 3, 8), ("1:2", 1, 2)])
def test_n_of_m_holds_in_every_group_along_the_reduction_dimension(pattern, n, m):
    found = masks((16, 64), pattern=pattern)
    assert (found.reshape(2, 16, 64 // m, m).sum(-1) == n).all()
    positions = found.reshape(-1, m).mean(0)
    assert np.allclose(positions, n / m, atol=0.1)  # no position is favoured


@pytest.mark.parametrize("num_branches", [1, 2, 3, 4, 5])
def test_complementary_masks_use_every_entry_and_do_not_overlap_at_density_one_over_d(num_branches):
    found = masks((7, 13), num_branches=num_branches, pattern="complementary")
    if num_branches == 1:
        assert found is None
        return
    assert (found.sum(0) == 1).all()
    assert np.ptp(found.reshape(num_branches, -1).sum(1)) <= 1


def test_complementary_masks_of_higher_density_still_use_every_entry():
    found = masks((8, 16), num_branches=3, density=0.5, pattern="complementary")
    assert (found.sum(0) >= 1).all()
    assert (found.reshape(3, -1).sum(1) == 64).all()


def test_sign_masks_have_only_signs():
    found = masks((32, 64), num_branches=3, pattern="sign")
    assert set(np.unique(found)) == {-1, 1}
    assert abs(found.mean()) < 0.05


@pytest.mark.parametrize("pattern", ["random", "complementary", "sign", "2:4"])
def test_branches_paths_and_seeds_have_different_masks(pattern):
    first = masks(pattern=pattern)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first, masks(pattern=pattern, path="blocks.1.q.down"))
    assert not np.array_equal(first, masks(pattern=pattern, seed=1))


@pytest.mark.parametrize("pattern", ["random", "complementary", "sign", "2:4"])
def test_masks_neither_read_nor_move_the_global_random_states(pattern):
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    first = masks(pattern=pattern)
    drawn = np.random.random(3).tolist(), torch.rand(3).tolist()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    assert (np.random.random(3).tolist(), torch.rand(3).tolist()) == drawn  # noqa: NPY002
    assert np.array_equal(first, masks(pattern=pattern))


# Golden values: `python -c "import hashlib; from capaboost_vit.core.masking import Masking;
# from capaboost_vit.core.masks import make_masks; print(hashlib.sha256(make_masks((8, 64), Masking(pattern=P),
# path='blocks.0.q.down').tobytes()).hexdigest()[:16])"` for each pattern P. They may never change: adapters made by a
# seed must mean the same masks for ever.
@pytest.mark.parametrize(
    ("pattern", "digest"),
    [
        ("random", "28f153e6d22c9f82"),
        ("complementary", "53d4f00c8ef43932"),
        ("sign", "8f7caa67a3dde9fa"),
        ("2:4", "272d1dc9b5241e02"),
    ],
)
def test_masks_of_a_seed_never_change(pattern, digest):
    assert hashlib.sha256(masks(pattern=pattern).tobytes()).hexdigest()[:16] == digest


def test_more_branches_leave_the_first_ones_alone():
    assert np.array_equal(masks(num_branches=2), masks(num_branches=4)[:2])


@pytest.mark.parametrize("pattern", ["random", "complementary"])
def test_density_one_needs_no_masks(pattern):
    assert masks(density=1, pattern=pattern) is None


@pytest.mark.parametrize(
    ("pattern", "num_branches", "density", "resolved"),
    [
        ("random", 2, None, 0.5),
        ("random", 2, 0.3, 0.3),
        ("complementary", 4, None, 0.25),
        ("complementary", 2, 0.75, 0.75),
        ("sign", 2, None, 1.0),
        ("sign", 2, 1, 1.0),
        ("2:4", 2, None, 0.5),
        ("1:4", 2, 0.25, 0.25),
    ],
)
def test_density_follows_the_pattern(pattern, num_branches, density, resolved):
    assert Masking(num_branches, density, pattern).kept == resolved


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "randon"}, "unknown pattern 'randon'"),
        ({"pattern": "n:m"}, "unknown pattern 'n:m'"),
        ({"pattern": "5:4"}, "0 < n <= m"),
        ({"pattern": "0:4"}, "0 < n <= m"),
        ({"pattern": "2:5"}, "divisible by 5"),
        ({"pattern": "2:4", "density": 0.25}, "leave density out"),
        ({"pattern": "sign", "density": 0.5}, "leave density out"),
        ({"pattern": "complementary", "density": 0.3}, "need density >= 0.5"),
        ({"density": 0.0}, r"lie in \(0, 1\]"),
        ({"density": 1.5}, r"lie in \(0, 1\]"),
        ({"density": float("nan")}, r"lie in \(0, 1\]"),
        ({"num_branches": 0}, "at least 1"),
        ({"shape": (1, 2), "density": 0.5, "num_branches": 3}, "different 'random' masks"),
        ({"shape": (1, 1), "pattern": "sign", "num_branches": 3}, "different 'sign' masks"),
        ({"shape": (1, 2), "pattern": "complementary", "num_branches": 3}, "as many entries"),
    ],
)
def test_impossible_masks_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        masks(**options)
