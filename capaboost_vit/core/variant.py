"""Variants of one model: what another adapter changes in its tree of modules, put in and taken out without copying."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from .wrapper import Wrapper, sharing

_ABSENT: Any = object()
_HOLDERS = ("_modules", "_parameters", "_buffers", "__dict__")  # the last: attributes such as num_classes

State = dict[nn.Module, list[dict[str, Any]]]


@dataclass(frozen=True)
class Change:
    """One entry of a module that differs: of its children, parameters, buffers, or other attributes.

    Args:
        owner: the module, which stands in the tree with and without the change.
        holder: which of its dicts, by name.
        before, after: the value without and with the change.
    """

    owner: nn.Module
    holder: str
    key: str
    before: Any
    after: Any

    def set(self, value: Any) -> None:
        """Puts `before` or `after` into the entry."""
        entries = getattr(self.owner, self.holder)
        if value is _ABSENT:
            entries.pop(self.key, None)
        else:
            entries[self.key] = value

    def stands(self) -> bool:
        """Whether the entry has the value `after`."""
        return getattr(self.owner, self.holder).get(self.key, _ABSENT) is self.after


@dataclass(frozen=True)
class Variant:
    """All in which a model with an adapter differs from its base; switching costs an assignment for each entry."""

    changes: tuple[Change, ...]

    def put_in(self) -> None:
        """The model becomes the variant; what comes in is in training or evaluation mode as the module around it."""
        for change in self.changes:
            change.set(change.after)
            if change.holder == "_modules" and isinstance(change.after, nn.Module):
                change.after.train(change.owner.training)

    def take_out(self) -> None:
        """The model becomes the base."""
        for change in self.changes:
            change.set(change.before)

    def tensors_of(self, module: nn.Module) -> dict[str, dict[str, Any]]:
        """The parameters and buffers of this module itself that are others, by holder."""
        changed: dict[str, dict[str, Any]] = {}
        for change in self.changes:
            if change.owner is module and change.holder in ("_parameters", "_buffers"):
                changed.setdefault(change.holder, {})[change.key] = change.after
        return changed

    def member(self, parent: nn.Module, leaf: str, base: nn.Module) -> nn.Module:
        """What the variant has in a slot where the base has `base`, to be called while the base is in the model."""
        slots = (c for c in self.changes if c.owner is parent and c.holder == "_modules" and c.key == leaf)
        module = next((c.after for c in slots), base)
        if tensors := self.tensors_of(base):
            alone = copy.copy(base)  # it keeps the dict of children itself, and so sees what is put in there
            for holder, entries in tensors.items():
                alone.__dict__[holder] = {**getattr(base, holder), **entries}
            module = _around(module, base, alone)
        module.train(parent.training)
        return module


def state_of(model: nn.Module) -> State:
    """What stands in each module of a model: by module, a copy of each of its dicts; no tensor is copied."""
    return {module: [dict(getattr(module, holder)) for holder in _HOLDERS] for module in model.modules()}


def changed_since(state: State) -> Variant:
    """The variant that a model has become since its state was taken."""
    return Variant(tuple(_changes(state)))


def _changes(state: State) -> Iterator[Change]:
    for owner, earlier in state.items():
        for holder, before in zip(_HOLDERS, earlier, strict=True):
            after = getattr(owner, holder)
            for key in dict.fromkeys((*before, *after)):
                old, new = before.get(key, _ABSENT), after.get(key, _ABSENT)
                if old is not new and key != "training":
                    yield Change(owner, holder, key, old, new)


def _around(module: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """The wrappers of a slot around another base."""
    if isinstance(module, Wrapper):
        return sharing(module, base=_around(module.base, old, new))
    return new if module is old else module
