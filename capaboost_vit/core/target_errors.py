"""What is said where a target names nothing in a model: the roles and layers that there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from torch import nn

from ..io.options import suggest
from .base import is_linear
from .low_rank_kinds import takes_low_rank
from .names import matching, pattern_of, slots
from .wrapper import unwrap

if TYPE_CHECKING:
    from .inject import Anatomy


def nothing_matches(model: nn.Module, target: str, anatomy: Anatomy, use: str | None = None) -> str:
    """The message, in one line; for a role that other models have, with the layers' roles to say instead."""
    modules = {name: unwrap(module) for name, module in slots(model)}
    names = [*modules]
    found = {role: [n for s in sites for n in matching(names, s.pattern)] for role, sites in anatomy.roles.items()}
    uses = {r: {s.only for s in sites if matching(names, s.pattern)} for r, sites in anatomy.roles.items()}
    present = [role for role in uses if uses[role] and (use is None or uses[role] & {None, use})]
    linear = _kinds(modules, is_linear)
    others = _kinds(modules, lambda layer: takes_low_rank(layer) and not is_linear(layer))
    elsewhere = ", ".join(sorted(filter(None, uses.get(target, ()))))
    layers = [role for role in present if takes_low_rank(modules[found[role][0]]) and role != "patch_embed"]
    if elsewhere:
        hint = f" for {use} (only for {elsewhere})"
    elif target in anatomy.roles and layers:
        hint = f" (say targets=({', '.join(map(repr, layers))}))"
    else:
        hint = suggest(target, [*present, *linear, *others])
    further = f"; convolutions and attention there: {', '.join(others)}" if others else ""
    return (
        f"target {target!r} matches nothing in {type(model).__name__}{hint}; "
        f"roles there: {', '.join(present) or 'none'}; linear layers there: {', '.join(linear) or 'none'}{further}"
    )


def _kinds(modules: Mapping[str, nn.Module], fits: Callable[[nn.Module], bool]) -> list[str]:
    """The names of the modules of a kind, with a star for each number."""
    return list(dict.fromkeys(pattern_of(name) for name, module in modules.items() if fits(module)))
