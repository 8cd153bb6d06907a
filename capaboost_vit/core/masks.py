"""Static masks: a mask is a function of (seed, path), and does not use the global random state."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import numpy as np

from .masking import Masking, n_of_m

_ATTEMPTS = 32  # redraws before two equal masks are called unavoidable


def random_state(seed: int, path: str) -> np.random.RandomState:
    """A random stream for one tensor, with the key (seed, path).

    numpy guarantees that the streams of `RandomState` never change; torch guarantees this for no generator. So the same
    key gives the same numbers on every platform, device and version, in any order of construction.
    """
    digest = hashlib.sha256(f"{seed}:{path}".encode()).digest()
    return np.random.RandomState(np.frombuffer(digest, dtype="<u4"))


def has_masks(masking: Masking) -> bool:
    """Whether any mask has an entry other than one."""
    return masking.kept < 1 or masking.pattern == "sign"


def make_masks(shape: tuple[int, ...], masking: Masking, *, path: str) -> np.ndarray | None:
    """The d static masks of a shared weight, `(K, *shape)` int8, or None if all entries of all masks are one.

    - random: exactly `int(numel * density)` ones at positions drawn without replacement (the paper's masks);
    - n:m: exactly n ones in each group of m neighbours along the last dimension, the reduction dimension of a weight
      (out, in), as sparse tensor cores need it (the official code groups along the other one);
    - complementary: windows of one random permutation, so that each entry is in at least one mask, and in exactly one
      at density 1/d (ours: in no paper that we know);
    - sign: entries in {-1, +1}, so that no entry is dropped (ours too).

    With coefficients the first mask is all ones, followed by d - 1 masks of the pattern.

    The path is the name of the weight in the model. With the seed it is the key of the random streams.

    Raises ValueError for a density that keeps no entry, a last dimension that is no multiple of m, or a weight too
    small for d different masks (tied branches with equal masks add no rank).
    """
    num_branches, pattern, density, seed = masking.num_branches, masking.pattern, masking.kept, masking.mask_seed
    if not has_masks(masking):
        return None
    if masking.coefficients is not None:
        others = make_masks(shape, replace(masking, num_branches=num_branches - 1, coefficients=None), path=path)
        assert others is not None
        return np.concatenate([np.ones_like(others[:1]), others])
    if pattern == "complementary":
        return _complementary(shape, num_branches, density, random_state(seed, path))
    numel = math.prod(shape)
    if int(numel * density) == 0:
        raise ValueError(f"density {density:g} keeps none of the {numel} entries of {path!r} {tuple(shape)}")
    masks: list[np.ndarray] = []
    drawn: set[bytes] = set()
    for branch in range(num_branches):
        for attempt in range(_ATTEMPTS):
            mask = _draw(shape, pattern, density, random_state(seed, f"{path}/{branch}/{attempt}"))
            digest = hashlib.sha256(np.packbits(mask > 0).tobytes()).digest()
            if digest not in drawn:
                drawn.add(digest)
                masks.append(mask)
                break
        else:
            raise ValueError(
                f"{num_branches} different {pattern!r} masks of density {density:g} do not exist (or are too rare) for "
                f"{path!r} {tuple(shape)}: use fewer branches, a larger rank, or density 1"
            )
    return np.stack(masks)


def _draw(shape: tuple[int, ...], pattern: str, density: float, state: np.random.RandomState) -> np.ndarray:
    numel = math.prod(shape)
    if pattern == "sign":
        return (2 * state.randint(0, 2, size=shape) - 1).astype(np.int8)
    groups = n_of_m(pattern)
    if groups is None:
        mask = np.zeros(numel, dtype=np.int8)
        mask[state.permutation(numel)[: int(numel * density)]] = 1
        return mask.reshape(shape)
    n, m = groups
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
