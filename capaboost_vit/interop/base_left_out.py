"""State dicts without the frozen base, for checkpoints of Lightning, transformers' Trainer and accelerate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..core.heads import head_names
from ..core.names import namer
from ..core.record import adapted_part
from ..methods.adapter_file import fingerprint, split_state
from .loops import check_frozen

_FINGERPRINT = "capaboost_base"  # beside the tensors of the adapted model: SHA-256 of the base, 32 bytes


class BaseLeftOut:
    """Leaves the frozen base of an adapted model out of state dicts of a module that contains the model, or is it.

    In place of the base there is its fingerprint. The module's `load_state_dict` accepts such a state dict, strictly: a
    hook inserts the current base weights, after it has compared the fingerprint.

    Args:
        module: the adapted model, or a module that contains it: a LightningModule, a TimmWrapper.

    Raises:
        ValueError: nothing in the module is adapted, several models in it are, or every parameter of the model is
            trained, see `mark_trainable`. `load_state_dict` raises it for another base.
    """

    def __init__(self, module: nn.Module) -> None:
        name, self.model = adapted_part(module)
        check_frozen(self.model)
        self._prefix = f"{name}." if name else ""
        stored, base = split_state(self.model, head_names(self.model))
        canonical, first = namer(self.model), dict[int, str]()
        self._names = [  # tied tensors stand under several names, of which `stored` and `base` know the first
            name
            for name, tensor in self.model.state_dict(keep_vars=True).items()
            if canonical(first.setdefault(id(tensor), name)) not in stored
        ]
        self._digest = torch.frombuffer(bytearray.fromhex(fingerprint(base)), dtype=torch.uint8)
        self._hook: RemovableHandle = self.model.register_load_state_dict_pre_hook(self._put_in)

    def without_base(self, state: dict[str, Any]) -> dict[str, Any]:
        """A state dict of the module without the base, and with its fingerprint."""
        left_out = {f"{self._prefix}{name}" for name in self._names}
        small = {key: tensor for key, tensor in state.items() if key not in left_out}
        return {**small, f"{self._prefix}{_FINGERPRINT}": self._digest.clone()}

    def remove(self) -> None:
        """Removes the hook: the module's `load_state_dict` is as before."""
        self._hook.remove()

    def _put_in(self, model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        digest: Tensor | None = state.pop(f"{prefix}{_FINGERPRINT}", None)
        if digest is None:  # a whole one
            return
        if not torch.equal(digest.cpu(), self._digest):
            raise ValueError(
                f"the checkpoint was written beside other base weights than this {type(model).__name__} has "
                "(fingerprints differ): load those that training began with"
            )
        live = model.state_dict()
        state.update({f"{prefix}{name}": live[name] for name in self._names})
