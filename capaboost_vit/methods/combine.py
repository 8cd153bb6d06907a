"""Weighted sums of LoRA files (model soups): one adapter file with the weighted sum of their updates."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.branch import LowRankBranch
from ..io.options import check_value
from .adapter_file import AdapterFile, effect, read_adapter_file, write_content
from .header import AdapterFileError, explained
from .index import make_method
from .lora import Lora

_BRANCH = re.compile(r"((.+)\.branches\.([^.]+))\.(.+)")  # of a layer, of its part: which tensor of the branch


def combine(adapters: Mapping[str | Path, float], output: str | Path, *, head: str | Path | None = None) -> Path:
    """Writes the LoRA file with `dW = sum_i w_i dW_i` for adapter files and their weights w_i; returns its path.

    The sum is exact, for any masks, ranks, coefficients and targets. If A, masks and coefficients are the same in all
    files (LoRA-FA of one seed), dW is linear in B: the B are summed, and rank and masks stay. Otherwise the masked
    factors are concatenated, `[A_1; A_2; ...]` and `[w_1 s_1 B_1, w_2 s_2 B_2, ...]`: a plain LoRA without masks, whose
    rank is the sum of num_branches times rank over the files. A and B are not averaged, as that does not average dW.

    Heads are averaged by the weights, divided by their sum, if the classes are the same.

    Args:
        adapters: files of one LoRA each on the same base weights, with their weights, of any size and sign.
        output: path of the new file; an existing file is overwritten.
        head: the file whose head, classes and input configuration are used as they are.

    Raises:
        AdapterFileError: a file of another method, on another base, with other heads or classes, with pairs that layers
            share, or whose targets name one layer as a whole and by its parts.
        FileNotFoundError: a file does not exist.
        ValueError: no files, a weight that is not finite, weights that sum to zero if heads are averaged, or a `head`
            that is none of the files.

    Examples:
        >>> capaboost_vit.combine({"birds.safetensors": 0.5, "dogs.safetensors": 0.5}, "both.safetensors")
        PosixPath('both.safetensors')
    """
    if not adapters:
        raise ValueError("combine needs adapter files with their weights: combine({path: weight, ...}, output)")
    for path, weight in adapters.items():
        check_value(f"the weight of {path}", weight, float, {})
        if not math.isfinite(weight):
            raise ValueError(f"the weight of {path} must be finite, got {weight}")
    parts = [_Part.read(path, weight) for path, weight in adapters.items()]
    _check_bases([part.file for part in parts])
    header, tensors = _head(parts, head)
    record, sums = _summed(parts) or _side_by_side(parts)
    combined = [{"file": part.file.path.name, "weight": part.weight} for part in parts]
    masks = [name for name, tensor in sums.items() if name.endswith(".mask")]
    return write_content(
        output, {**header, "methods": [record], "combined": combined}, {**tensors, **sums}, masks=masks
    )


@dataclass(frozen=True)
class _Part:
    """One file of a soup: its weight, method, head, and tensors of each branch by the branch's name."""

    file: AdapterFile
    weight: float
    method: Lora
    head: dict[str, Tensor]
    branches: dict[str, dict[str, Tensor]]

    @staticmethod
    def read(path: str | Path, weight: float) -> _Part:
        file = read_adapter_file(path)
        methods = [make_method(**record) for record in file.header["methods"]]
        if len(methods) != 1 or not isinstance(methods[0], Lora):
            found = " + ".join(method.name for method in methods) or "no method"
            raise AdapterFileError(f"{path} holds {found}: only files of one LoRA are combined")
        in_head = tuple(f"{name}." for name in file.header["head"])
        head = {name: tensor for name, tensor in file.tensors.items() if name.startswith(in_head)}
        branches: dict[str, dict[str, Tensor]] = {}
        for name in file.tensors.keys() - head.keys():
            match = _BRANCH.fullmatch(name)
            if match is None:
                raise AdapterFileError(f"{path} holds {name!r}, neither of a LoRA nor of the head: it is not combined")
            branches.setdefault(match[1], {})[match[4]] = file.tensors[name]
        return _Part(file, weight, methods[0], head, dict(sorted(branches.items())))

    def rank(self) -> int:
        """Of the factors of each branch, its masked views side by side."""
        return self.method.num_branches * self.method.rank

    def factors(self, name: str) -> tuple[Tensor, Tensor]:
        """A (R, in) and w s B (out, R) of a branch. Raises AdapterFileError if it has only the masks of a pair."""
        state = self.branches[name]
        if not {"down.weight", "up.weight"} <= state.keys():
            raise AdapterFileError(
                f"{self.file.path} has layers that share one pair (share_blocks, share_shapes): only with files of the "
                "same A and masks it is combined"
            )
        with explained(self.file.path):
            columns, rows = state["down.weight"].shape[-1], len(state["up.weight"])
            with torch.device("meta"):
                branch = LowRankBranch(
                    columns, rows, self.method.rank, self.method.masking, scaling=self.method.scaling()
                )
            branch.load_state_dict(state, assign=True)
            factors = branch.linear_factors()
            assert factors is not None
            return factors[0].detach(), self.weight * factors[1].detach()


def _check_bases(files: Sequence[AdapterFile]) -> None:
    """Raises AdapterFileError unless all were trained on the same base weights and have heads of the same names."""
    first = files[0]
    for other in files[1:]:
        for key, what in (("head", "heads"), ("inside", "places of the adapted model")):
            if first.header[key] != other.header[key]:
                raise AdapterFileError(
                    f"{first.path} and {other.path} have different {what}: {first.header[key]}, {other.header[key]}"
                )
        for key in ("architecture", "fingerprint"):  # the latter is of all but the head
            one, two = first.header["base"][key], other.header["base"][key]
            if one != two:
                raise AdapterFileError(
                    f"{first.path} and {other.path} were trained on different base weights ({key} {one[:30]} and "
                    f"{two[:30]}): dW of one means nothing to the other"
                )


def _head(parts: Sequence[_Part], chosen: str | Path | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(the header that goes with it, its tensors): the chosen file's, or the mean by weight."""
    if chosen is not None:
        named = {part.file.path: part for part in parts}
        if Path(chosen) not in named:
            raise ValueError(f"head={str(chosen)!r} is none of the files: {', '.join(map(str, named))}")
        return named[Path(chosen)].file.header, named[Path(chosen)].head
    first, total = parts[0], sum(part.weight for part in parts)
    for other in parts[1:]:
        one, two = (
            (part.file.header["class_names"], {name: t.shape for name, t in part.head.items()})
            for part in (first, other)
        )
        if one != two:
            raise AdapterFileError(
                f"{first.file.path} and {other.file.path} have other classes, whose heads have no mean: say head=, the "
                "file whose head is wanted"
            )
    if first.head and total == 0:
        raise ValueError("the weights sum to zero, so the heads have no mean: say head=, the file whose head is wanted")
    shares = [part.weight / total if first.head else 0.0 for part in parts]
    return first.file.header, {name: _sum([p.head[name] for p in parts], shares) for name in first.head}


def _summed(parts: Sequence[_Part]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """(record, tensors) with the B summed; None unless that is all in which the files differ."""

    def others(part: _Part) -> dict[str, Tensor]:
        named = {f"{name}.{key}": t for name, state in part.branches.items() for key, t in state.items()}
        return {name: tensor for name, tensor in named.items() if not name.endswith(".up.weight")}

    first = parts[0]
    record, rest = first.file.header["methods"][0], others(first)
    for part in parts[1:]:
        theirs = others(part)
        alike = theirs.keys() == rest.keys() and all(_equal(theirs[name], tensor) for name, tensor in rest.items())
        if not alike or effect(part.file.header["methods"][0]) != effect(record):
            return None
    ups = [name for name in first.file.tensors if name not in rest and name not in first.head]
    weights = [part.weight for part in parts]
    return record, {**rest, **{name: _sum([p.file.tensors[name] for p in parts], weights) for name in ups}}


def _side_by_side(parts: Sequence[_Part]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(record, tensors) of the plain LoRA whose factors are all of theirs; zero for a file without this branch."""
    names = list(dict.fromkeys(name for part in parts for name in part.branches))
    targets = tuple(dict.fromkeys(target for part in parts for target in part.method.targets))
    whole: dict[str, bool] = {}
    for match in (_BRANCH.fullmatch(f"{name}.x") for name in names):
        assert match is not None
        if whole.setdefault(match[2], match[3] == "all") != (match[3] == "all"):
            raise AdapterFileError(f"{match[2]!r} is adapted as a whole in one file and by its parts in another")
    tensors: dict[str, Tensor] = {}
    for name in names:
        factors = [part.factors(name) if name in part.branches else None for part in parts]
        some = next(pair for pair in factors if pair is not None)
        pairs = [
            (some[0].new_zeros(part.rank(), some[0].shape[1]), some[1].new_zeros(len(some[1]), part.rank()))
            if pair is None
            else pair
            for part, pair in zip(parts, factors, strict=True)
        ]
        downs, ups = zip(*pairs, strict=True)
        tensors |= {f"{name}.down.weight": torch.cat(downs), f"{name}.up.weight": torch.cat(ups, dim=1)}
    rank = sum(part.rank() for part in parts)
    plain = make_method("lora", rank=rank, alpha=float(rank), num_branches=1, density=1.0, targets=targets)
    return plain.record(), tensors


def _equal(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and torch.equal(one, two)


def _sum(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Summed in double precision, rounded once."""
    total = sum(weight * tensor.double() for tensor, weight in zip(tensors, weights, strict=True))
    assert isinstance(total, Tensor)
    return total.to(tensors[0].dtype)
