"""Static masks: a mask is a pure function of (seed, path), never of the global random state."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass

import numpy as np

PATTERNS = ("random", "complementary", "sign", "n:m")
_ATTEMPTS = 32  # redraws before two equal masks are called unavoidable


@dataclass(frozen=True)
class Masking:
    """The masks of a method's weights, and the seeds: what every masked layer is told, as one object.

    Args:
        num_branches: d, how many masked views of the shared weight are summed.
        density: s, the fraction kept by each mask; None: the pattern's own, see `resolve_density`.
        pattern: random, complementary, sign, or n:m such as 2:4, see `make_masks`.
        mask_seed: of the masks.
        init_seed: of the start values.

    Raises:
        ValueError: what `resolve_density` refuses.
    """

    num_branches: int = 2
    density: float | None = None
    pattern: str = "random"
    mask_seed: int = 0
    init_seed: int = 0

    def __post_init__(self) -> None:
        resolve_density(self.pattern, self.density, self.num_branches)

    @property
    def kept(self) -> float:
        """The density as a number."""
        return resolve_density(self.pattern, self.density, self.num_branches)


def random_state(seed: int, path: str) -> np.random.RandomState:
    """A random stream for one tensor, keyed by (seed, path).

    numpy promises that `RandomState` streams never change; torch promises that of no generator. So the same key gives
    the same numbers on every platform, device and version, in whatever order modules are built.
    """
    digest = hashlib.sha256(f"{seed}:{path}".encode()).digest()
    return np.random.RandomState(np.frombuffer(digest, dtype="<u4"))


def resolve_density(pattern: str, density: float | None, num_branches: int) -> float:
    """The kept fraction s of a pattern; `None` asks for the pattern's own.

    random: 0.5; n:m: n/m; complementary: 1/d, or more (the branches then overlap); sign: 1, as nothing is dropped.

    Raises:
        ValueError: unknown pattern; density outside (0, 1]; a density that contradicts the pattern; d < 1.
    """
    if num_branches < 1:
        raise ValueError(f"num_branches must be at least 1, got {num_branches}")
    n_of_m = _n_of_m(pattern)
    if n_of_m:
        own = n_of_m[0] / n_of_m[1]
    elif pattern in PATTERNS and pattern != "n:m":
        own = {"random": 0.5, "complementary": 1 / num_branches, "sign": 1.0}[pattern]
    else:
        raise ValueError(f"unknown pattern {pattern!r}: choose random, complementary, sign, or n:m such as 2:4")
    if density is None:
        return own
    if not 0 < density <= 1:
        raise ValueError(f"density must lie in (0, 1], got {density}")
    if (pattern == "sign" or n_of_m) and not math.isclose(density, own):
        raise ValueError(f"pattern {pattern!r} has density {own:g}, got density={density:g}: leave density out")
    if pattern == "complementary" and density < own and not math.isclose(density, own):
        raise ValueError(
            f"pattern 'complementary' uses every entry, so {num_branches} branches need density >= {own:g}, "
            f"got {density:g}"
        )
    return density


def make_masks(shape: tuple[int, ...], masking: Masking, *, path: str) -> np.ndarray | None:
    """The d static masks of one shared weight, `(K, *shape)` int8, or None where every mask is all ones.

    - random: exactly `int(numel * density)` ones at positions drawn without replacement (the paper's masks);
    - n:m: exactly n ones in each group of m neighbours along the last dimension, which is the reduction dimension of a
      weight (out, in), as sparse tensor cores need it (the official code groups along the other one);
    - complementary: windows of one random permutation, so each entry is kept by some branch, and by exactly one at
      density 1/d (ours: in no paper that we know);
    - sign: entries in {-1, +1}, nothing is dropped (ours too).

    Args:
        shape: shape of the shared weight.
        masking: number, density and pattern of the masks, and their seed.
        path: names the weight within the model; with the seed the key of the random streams.

    Raises:
        ValueError: a density that keeps nothing, a last dimension that is no
            multiple of m, or a weight too small for d different masks (tied branches with equal masks add no rank).
    """
    num_branches, pattern, density, seed = masking.num_branches, masking.pattern, masking.kept, masking.mask_seed
    if density == 1 and pattern != "sign":
        return None
    if pattern == "complementary":
        return _complementary(shape, num_branches, density, random_state(seed, path))
    numel = math.prod(shape)
    if int(numel * density) == 0:
        raise ValueError(f"density {density:g} keeps none of the {numel} entries of {path!r} {tuple(shape)}")
    masks: list[np.ndarray] = []
    for branch in range(num_branches):
        for attempt in range(_ATTEMPTS):
            mask = _draw(shape, pattern, density, random_state(seed, f"{path}/{branch}/{attempt}"))
            if not any(np.array_equal(mask, other) for other in masks):
                masks.append(mask)
                break
        else:
            raise ValueError(
                f"{num_branches} different {pattern!r} masks of density {density:g} do not exist (or are too rare) for "
                f"{path!r} {tuple(shape)}: use fewer branches, a larger rank, or density 1"
            )
    return np.stack(masks)


def _n_of_m(pattern: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"(\d+):(\d+)", pattern)
    if not match:
        return None
    n, m = int(match[1]), int(match[2])
    if not 0 < n <= m:
        raise ValueError(f"pattern {pattern!r}: n:m keeps n of m neighbours, 0 < n <= m")
    return n, m


def _draw(shape: tuple[int, ...], pattern: str, density: float, state: np.random.RandomState) -> np.ndarray:
    numel = math.prod(shape)
    if pattern == "sign":
        return (2 * state.randint(0, 2, size=shape) - 1).astype(np.int8)
    n_of_m = _n_of_m(pattern)
    if n_of_m is None:
        mask = np.zeros(numel, dtype=np.int8)
        mask[state.permutation(numel)[: int(numel * density)]] = 1
        return mask.reshape(shape)
    n, m = n_of_m
    if shape[-1] % m:
        raise ValueError(f"pattern {pattern!r} needs a reduction dimension divisible by {m}, got shape {tuple(shape)}")
    order = state.random_sample((numel // m, m)).argsort(axis=1, kind="stable")
    return (order.argsort(axis=1, kind="stable") < n).astype(np.int8).reshape(shape)


def _complementary(
    shape: tuple[int, ...], num_branches: int, density: float, state: np.random.RandomState
) -> np.ndarray:
    numel = math.prod(shape)
    if numel < num_branches:
        raise ValueError(f"{num_branches} complementary masks need as many entries, got shape {tuple(shape)}")
    order = state.permutation(numel)
    masks = np.zeros((num_branches, numel), dtype=np.int8)
    for branch in range(num_branches):
        start, stop = branch * numel // num_branches, (branch + 1) * numel // num_branches
        length = max(stop - start, round(numel * density) if density * num_branches > 1 else 0)
        masks[branch, order[np.arange(start, start + length) % numel]] = 1
    return masks.reshape(num_branches, *shape)


PLAIN = Masking(num_branches=1, density=1.0)  # no masks: the plain method
