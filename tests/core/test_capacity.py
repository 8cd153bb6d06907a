"""What branches can hold: known for plain ones, bounded for masked ones, and found where it is all of the target."""

from __future__ import annotations

import pytest
import torch
from oracle import low_rank

from capaboost_vit.core.analysis import held_share

IN, OUT = 14, 10


def branch(rank=2, **options):
    return low_rank(IN, OUT, rank, **{"scaling": 0.7, "path": "block.query", **options})


@pytest.fixture
def target():
    """A matrix whose singular values fall as those of real updates do."""
    generator = torch.Generator().manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(OUT, IN, generator=generator, dtype=torch.float64), full_matrices=False)
    return 3 * (u * 0.6 ** torch.arange(OUT)) @ v


def plain_share(target, rank):
    squares = torch.linalg.svdvals(target).square()
    return float(squares[:rank].sum() / squares.sum())


@pytest.mark.parametrize("branches", [1, 3])
def test_without_masks_it_is_the_share_of_the_first_singular_values(target, branches):
    plain = branch(num_branches=branches, density=1.0)
    assert held_share(plain, target) == pytest.approx(plain_share(target, 2), abs=1e-12)


@pytest.mark.parametrize("pattern", ["random", "complementary", "sign"])
def test_masked_branches_hold_no_more_than_a_plain_one_of_their_algebraic_rank(target, pattern):
    held = held_share(branch(pattern=pattern), target)
    assert 0.2 < held <= plain_share(target, 4) + 1e-9


def test_masks_without_a_sum_hold_less_than_the_plain_branch(target):
    assert held_share(branch(num_branches=1, density=0.5), target) < plain_share(target, 2)


def test_of_a_flat_spectrum_dropped_entries_cost_their_share_and_signs_nothing():
    """No direction of a Gaussian matrix is better than another, so that the entries in use count."""
    flat = torch.randn(48, 48, generator=torch.Generator().manual_seed(0))
    held = {
        pattern: held_share(low_rank(48, 48, 1, pattern=pattern, path="x"), flat, iterations=400)
        for pattern in ("random", "complementary", "sign")
    }
    plain = plain_share(flat.double(), 1)
    assert held["random"] < 0.85 * plain
    assert held["complementary"] == pytest.approx(plain, rel=0.2)
    assert held["sign"] == pytest.approx(plain, rel=0.2)


@pytest.mark.parametrize("options", [{}, {"pattern": "sign"}, {"num_branches": 1, "density": 0.5}], ids=str)
def test_an_update_of_the_branch_itself_is_held(options):
    one = branch(rank=1, **options).double()
    with torch.no_grad():
        one.up.weight.normal_(generator=torch.Generator().manual_seed(1))
    assert held_share(one, one.delta_weight(), iterations=400) == pytest.approx(1, abs=1e-6)


def test_more_iterations_hold_more_until_nothing_changes(target):
    masked = branch(pattern="sign")
    short, long = (held_share(masked, target, iterations=n) for n in (2, 400))
    assert short < long
    assert held_share(masked, target, iterations=800) == pytest.approx(long, abs=1e-6)


def test_neither_the_size_of_the_target_nor_the_scaling_matters_and_the_branch_stays(target):
    one = branch()
    before = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    held = held_share(one, target, iterations=400)
    assert held_share(one, 100 * target, iterations=400) == pytest.approx(held, abs=1e-6)
    assert held_share(branch(scaling=7.0), target, iterations=400) == pytest.approx(held, abs=1e-3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in one.state_dict().items())


def test_bad_input_is_named(target):
    with pytest.raises(ValueError, match=r"'block.query' is of shape \(10, 14\), the target of \(14, 10\)"):
        held_share(branch(), target.T)
    with pytest.raises(ValueError, match="is zero"):
        held_share(branch(), torch.zeros(OUT, IN))
    with pytest.raises(TypeError, match="activation"):
        held_share(branch(act="relu", bias=True, num_branches=1, density=1.0), target)
