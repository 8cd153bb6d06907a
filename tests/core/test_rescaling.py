"""Masked updates that are made as large as the plain one of the same factors: in the mean, or in the norm."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from oracle import low_rank

from capaboost_vit.core.masking import Masking
from capaboost_vit.core.masks import make_masks
from capaboost_vit.core.rescaling import rescaling

# pattern, density, d, and E[C], E[C^2] by hand
CASES = [
    ("random", None, 1, 1 / 4, 1 / 4),
    ("random", None, 2, 1 / 2, 2 / 4 + 2 / 16),
    ("random", 0.25, 4, 4 / 16, 4 / 16 + 12 / 256),
    ("2:4", None, 2, 1 / 2, 2 / 4 + 2 / 16),
    ("1:4", None, 3, 3 / 16, 3 / 16 + 6 / 256),
    ("complementary", None, 2, 1 / 2, 1 / 2),
    ("complementary", None, 4, 1 / 4, 1 / 4),
    ("complementary", 0.75, 2, 9 / 8, 2 * (9 / 16 + 1 / 4)),  # windows that overlap at both ends
    ("complementary", 0.5, 3, 3 / 4, 3 * (1 / 4 + 1 / 36 + 1 / 36)),
    ("sign", None, 2, 0, 2),
    ("sign", None, 4, 0, 4),
    ("random", 1, 2, 2, 4),
    ("random", 1, 1, 1, 1),
]
every_case = pytest.mark.parametrize(("pattern", "density", "d", "mean", "square"), CASES, ids=str)


def factor(rescale, pattern, density, d):
    return rescaling(rescale, Masking(d, density, pattern))


@every_case
def test_the_factors_are_those_of_the_formulas(pattern, density, d, mean, square):
    assert factor("norm", pattern, density, d) == pytest.approx(1 / math.sqrt(square))
    assert factor(None, pattern, density, d) == 1
    if mean:
        assert factor("mean", pattern, density, d) == pytest.approx(1 / mean)


def updates(pattern, density, d, count, *, fixed):
    """(masked updates, plain updates) of `count` draws of masks, and of Gaussian factors unless they are fixed."""
    state = np.random.RandomState(0)
    rows, columns, rank = 12, 16, 4
    masked, plain = [], []
    for seed in range(count):
        if seed == 0 or not fixed:
            a, b = state.normal(size=(rank, columns)), state.normal(size=(rows, rank))
        masking = Masking(d, density, pattern, seed)
        of_a, of_b = (make_masks(w.shape, masking, path=path) for w, path in ((a, "a"), (b, "b")))
        one = np.ones(d)[:, None, None]
        of_a, of_b = (one if of_a is None else of_a), (one if of_b is None else of_b)
        masked.append(((b * of_b) @ (a * of_a)).sum(0))
        plain.append(b @ a)
    return np.stack(masked), np.stack(plain)


@every_case
def test_the_mean_update_is_that_of_plain_lora(pattern, density, d, mean, square):
    masked, plain = updates(pattern, density, d, 400, fixed=True)
    if not mean:
        masked = masked / d  # nothing to rescale to: the mean is zero
        expected = np.zeros_like(plain[0])
    else:
        masked, expected = masked * factor("mean", pattern, density, d), plain[0]
    error = masked.mean(0) - expected
    noise = masked.std(0) / math.sqrt(len(masked))
    assert np.abs(error).max() <= 4.5 * noise.max() + 1e-12
    assert np.abs(error).mean() <= 1.2 * noise.mean() + 1e-12


@every_case
def test_the_mean_squared_norm_is_that_of_plain_lora(pattern, density, d, mean, square):
    masked, plain = updates(pattern, density, d, 400, fixed=False)
    ours, theirs = ((w**2).sum((1, 2)) for w in (masked * factor("norm", pattern, density, d), plain))
    spread = (ours - theirs).std() / math.sqrt(len(ours)) / theirs.mean()
    assert abs(ours.mean() / theirs.mean() - 1) <= 3.5 * spread + 0.01  # 12 * 4 entries are not so many
    assert spread < 0.04


def test_at_rank_one_the_norm_is_right_for_any_factors():
    for pattern, d in (("random", 2), ("complementary", 2), ("sign", 3)):
        b, a = torch.full((40, 1), 2.0), torch.linspace(-1, 3, 40).view(1, 40)
        found = []
        for seed in range(200):
            masks = [make_masks(w.shape, Masking(d, None, pattern, seed), path=p) for w, p in ((b, "b"), (a, "a"))]
            found.append((((b * torch.from_numpy(masks[0])) @ (a * torch.from_numpy(masks[1]))).sum(0) ** 2).sum())
        ratio = factor("norm", pattern, None, d) ** 2 * torch.stack(found).mean() / ((b @ a) ** 2).sum()
        assert float(ratio) == pytest.approx(1, abs=0.05), pattern


@pytest.mark.parametrize(
    ("rescale", "pattern", "text"),
    [
        (
            "mean",
            "sign",
            "rescale='mean' has nothing to divide by with sign masks, whose mean is zero: say rescale='norm'",
        ),
        ("median", "random", "rescale must be mean or norm, got 'median'"),
        ("norm", "rows", "unknown pattern 'rows'"),
    ],
)
def test_what_has_no_meaning_is_refused(rescale, pattern, text):
    with pytest.raises(ValueError, match=text):
        rescaling(rescale, Masking(2, None, pattern))


def test_a_branch_of_density_one_becomes_plain_lora_whatever_is_asked_for():
    plain = low_rank(8, 8, 2, num_branches=1, density=1, path="x")
    torch.nn.init.normal_(plain.up.weight)
    for rescale in ("mean", "norm"):
        tied = low_rank(8, 8, 2, num_branches=3, density=1, scaling=factor(rescale, "random", 1, 3), path="x")
        tied.load_state_dict(plain.state_dict())
        torch.testing.assert_close(tied.delta_weight(), plain.delta_weight())
