"""One base model and many adapter files, switched quickly, or used together in one batch."""

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
    """One frozen base model and several adapters by name: one of them in use, or another one for each example.

    An adapter has everything that its file has: any method, rank and number of branches, the head with its number of
    classes, and parameters of the base that the method trains (norm, bitfit, full). Ten adapters take the memory of ten
    files. `bank.model` is the model with the adapter in use, so save_adapter, merge and exports work with it.

    Args:
        model: a model without adapters, which is frozen; only the adapter in use can be trained.

    Raises ValueError if the model has an adapter already.

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
        """The names of the adapters, in the order in which they were added."""
        return list(self._variants)

    @property
    def active(self) -> str | None:
        """The name of the adapter in use; None: the base."""
        return self._active

    def add(self, name: str, path: str | Path | AdapterFile, *, force: bool = False) -> None:
        """Adds an adapter from its file; the adapter in use stays the same.

        The base weights are compared with the fingerprint in the file; they are hashed once for all files with the same
        one.

        Args:
            force: accept base weights whose fingerprint differs.

        Raises:
            ValueError: the name is used already, or is no name.
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
        """Puts an adapter into the model in place of the one in use; None: the plain base. Returns the bank.

        Raises ValueError for an unknown name, or if the model was changed without the bank, and this change would be
        lost. `use(None)` does not check this, and drops such changes.
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
        """Removes an adapter; if it was in use, the base is used. Raises ValueError for an unknown name."""
        self._check([name])
        if self._active == name:
            self.use(None)
        del self._variants[name]

    def forward(self, *args: Any, names: Sequence[str | None] | None = None, **kwargs: Any) -> Any:
        """The model's output with the adapter in use, or with another adapter for each example, in one pass.

        The examples are sorted by adapter. Where adapters differ, the examples of each pass through its own modules;
        all other modules compute all examples together. Each adapter gets the gradient of its own examples.

        Args:
            names: the name of an adapter for each example; None among them is the base.

        Returns:
            The model's output (B, C), in the order of the examples. C is the largest number of classes of these
            adapters; logits beyond those of an adapter are -inf, so softmax and argmax need no change.

        Raises ValueError for an unknown name, another number of names than examples, gradient checkpointing (which
        computes again after the pass), or adapters that cannot share a pass: those that train parameters outside of any
        layer, or shallow prompts of different lengths.
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
