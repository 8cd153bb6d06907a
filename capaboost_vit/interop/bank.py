"""One base model and many adapter files: switched in an assignment for each adapted layer, or mixed in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..adapters import load_adapter
from ..core.inject import detach
from ..core.mixed_batch import Groups, mixture
from ..core.record import is_adapted, plain_model
from ..core.variant import Variant, changed_since, state_of
from ..io.options import suggest
from ..methods.adapter_file import AdapterFile, read_adapter_file
from ..methods.header import explained
from ..methods.own_copies import make_own_copies

Self = TypeVar("Self", bound="AdapterBank")


class AdapterBank(nn.Module):
    """One frozen base model, and adapters by name, of which one is in use, or another for each example.

    An adapter is what its file holds: branches of any method, rank and number of branches, the head with its number of
    classes, and parameters of the base that the method trains (norm, bitfit, full). Ten of them cost the memory of ten
    files. `bank.model` is the model itself, always as the adapter in use has it: save_adapter, merge and exports work.

    Args:
        model: a model without adapters. It is frozen; what is trained is the adapter in use.

    Raises ValueError if it carries an adapter.

    Examples:
        >>> bank = capaboost_vit.AdapterBank(base)
        >>> bank.add("birds", "birds.safetensors")
        >>> bank.add("dogs", "dogs.safetensors")
        >>> logits = bank.use("birds")(images)  # (2, 10), of all images by one adapter
        >>> logits = bank(images, names=["dogs", "birds"])  # each image by its own
    """

    def __init__(self, model: nn.Module) -> None:
        inner = plain_model(model)
        if is_adapted(inner):
            raise ValueError(
                f"this {type(inner).__name__} carries an adapter already: give AdapterBank the base model, "
                "and the adapter as a file to add"
            )
        super().__init__()
        self.model = model.requires_grad_(False)
        self._variants: dict[str, Variant] = {}
        self._active: str | None = None
        self._right: set[str] = set()  # fingerprints that the base is known to have

    @property
    def names(self) -> list[str]:
        """The names of the adapters, in the order in which they came."""
        return list(self._variants)

    @property
    def active(self) -> str | None:
        """The name of the adapter in use; None: the base."""
        return self._active

    def add(self, name: str, path: str | Path | AdapterFile, *, force: bool = False) -> None:
        """Reads an adapter file; what is in use stays in use.

        The base weights are compared with the file's fingerprint, and hashed once for all files that have the same.

        Args:
            force: accept base weights whose fingerprint differs.

        Raises:
            ValueError: the name is taken, or no name.
            AdapterFileError, FileNotFoundError: what `load_adapter` refuses; the bank is unchanged.
        """
        if not isinstance(name, str) or not name:
            raise ValueError(f"an adapter's name is a word, got {name!r}")
        if name in self._variants:
            raise ValueError(f"there is an adapter {name!r} already: call remove({name!r}) first, or choose another")
        self._check_unchanged()
        file, model, active = read_adapter_file(path), plain_model(self.model), self._active
        fingerprint = file.header["base"]["fingerprint"]
        self.use(None)
        base = state_of(model)
        try:
            with explained(file.path):
                make_own_copies(model, file)
            load_adapter(model, file, force=force or fingerprint in self._right)
        finally:
            variant = changed_since(base)
            variant.take_out()
            self.use(active)
        self._variants[name] = variant
        if not force:
            self._right.add(fingerprint)

    def use(self: Self, name: str | None) -> Self:
        """Puts an adapter into the model in place of the one in use; None: the base again, whatever was added to it.

        Raises ValueError for an unknown name, or one that would lose what was done to the model beside the bank.
        """
        self._check([name])
        if name is not None:
            self._check_unchanged()
        if self._active is not None:
            self._variants[self._active].take_out()
        self._active = name
        model = plain_model(self.model)
        if is_adapted(model):
            detach(model)
        if name is not None:
            self._variants[name].put_in()
        return self

    def remove(self, name: str) -> None:
        """Forgets an adapter; the base is in use afterwards if it was this one. Raises ValueError for no such name."""
        self._check([name])
        if self._active == name:
            self.use(None)
        del self._variants[name]

    def forward(self, *args: Any, names: Sequence[str | None] | None = None, **kwargs: Any) -> Any:
        """What the model computes with the adapter in use, or with another one for each example, in one pass.

        The examples are sorted by adapter. Where adapters differ, those of each go through its own modules; everywhere
        else all go together. It may be differentiated: each adapter gets the gradient of its examples.

        Args:
            names: of the adapter for each example; None among them is the base.

        Returns:
            The model's output (B, C), in the order of the examples. C is the largest number of classes of these
            adapters; beyond an adapter's own stands -inf, so softmax and argmax are right as they are.

        Raises ValueError for an unknown name, names that are not as many as the examples, gradient checkpointing
        (which computes again when the pass is over), or adapters that cannot share a pass: such that train parameters
        that stand in no layer, or shallow prompts of different lengths.
        """
        if names is None:
            return self.model(*args, **kwargs)
        names = list(names)
        self._check(names)
        self._check_unchanged()
        model, active = plain_model(self.model), self._active
        if torch.is_grad_enabled() and any(_recomputes(module) for module in model.modules()):
            raise ValueError("adapters cannot share a pass that is checkpointed: model.set_grad_checkpointing(False)")
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if not names or {len(tensor) for tensor in tensors} != {len(names)}:
            sizes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
            raise ValueError(f"one name for each example is needed: {len(names)} names for tensors of {sizes}")
        kinds = list(dict.fromkeys(names))
        order = torch.tensor(sorted(range(len(names)), key=lambda i: kinds.index(names[i])), device=tensors[0].device)
        groups = Groups()
        self.use(None)
        try:
            variants = [Variant(()) if kind is None else self._variants[kind] for kind in kinds]
            mixed = mixture(model, variants, groups)
            mixed.put_in()
            try:
                with groups.as_now([(place, names.count(kind)) for place, kind in enumerate(kinds)]):
                    sorted_args, sorted_kwargs = tree_map_only(Tensor, lambda t: t[order], (args, kwargs))
                    output = model(*sorted_args, **sorted_kwargs)
            finally:
                mixed.take_out()
        finally:
            self.use(active)
        back = order.argsort()
        return tree_map_only(Tensor, lambda t: t[back] if t.dim() and len(t) == len(back) else t, output)

    def _check(self, names: Sequence[str | None]) -> None:
        for name in names:
            if name is not None and name not in self._variants:
                there = ", ".join(self._variants) or "none"
                raise ValueError(f"no adapter {name!r} in the bank{suggest(str(name), self._variants)}; there: {there}")

    def _check_unchanged(self) -> None:
        changed = is_adapted(plain_model(self.model))
        if self._active is not None:
            changed = not all(change.stands() for change in self._variants[self._active].changes)
        if changed:
            raise ValueError(
                "the model was adapted, merged or taken apart since bank.use: save what is worth it by "
                "save_adapter(model, path), then call bank.use(None), which drops it"
            )

    def _apply(self: Self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves and casts all adapters, not only the one in use: what is behind `bank.to`."""
        active = self._active
        super(AdapterBank, self.use(None))._apply(fn, recurse)
        base = state_of(plain_model(self.model))
        for name, variant in self._variants.items():
            variant.put_in()
            super()._apply(fn, recurse)
            self._variants[name] = changed_since(base)
            self._variants[name].take_out()
        return self.use(active)


def _recomputes(module: nn.Module) -> bool:
    return any(getattr(module, name, False) is True for name in ("grad_checkpointing", "gradient_checkpointing"))
