"""For a training loop of one's own: parameter groups for any optimizer, and the state of an adapted model alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..core.heads import head_names, head_of
from ..core.inject import freeze_base
from ..core.names import get
from ..core.record import adapted_model, adapted_part, plain_model
from ..methods.adapter_file import split_state
from ..methods.index import make_method
from ..methods.method import Method
from ..training.optim import parameter_groups


def state_dict(model: nn.Module) -> dict[str, Tensor]:
    """What `save_adapter` stores of an adapted model, by the same canonical names: branches, masks and head.

    For `torch.save` and averages of weights; `load_state_dict` takes it back. Only `save_adapter` also writes what it
    needs to build the model, and the fingerprint of the base.

    Raises:
        ValueError: the model carries nothing that `adapt` added.

    Examples:
        >>> torch.save(capaboost_vit.state_dict(model), "branches_and_head.pt")
    """
    model = adapted_model(model)
    return {name: tensor.detach() for name, tensor in split_state(model, head_names(model))[0].items()}


def load_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copies a `state_dict` into a model that is adapted alike; nothing is changed unless every tensor fits.

    The model's own `load_state_dict(state, strict=False)` does the same where no slot carries several wrappers of one
    class, but says nothing of what is missing.

    Raises:
        ValueError: the model carries nothing that `adapt` added; tensors are missing, unknown or of another shape.

    Examples:
        >>> state = capaboost_vit.state_dict(model)
        >>> capaboost_vit.load_state_dict(model, state)
    """
    ours = state_dict(model)
    differences = {
        "missing": [name for name in ours if name not in state],
        "unknown": [name for name in state if name not in ours],
        "of another shape": [name for name in ours if name in state and state[name].shape != ours[name].shape],
    }
    if any(differences.values()):
        listed = "; ".join(f"{len(names)} {what} ({names[0]}, ...)" for what, names in differences.items() if names)
        raise ValueError(f"the state does not fit this {type(model).__name__}: {listed}; adapt the model as it was")
    with torch.no_grad():
        for name, tensor in ours.items():
            tensor.copy_(state[name])


def param_groups(
    model: nn.Module,
    lr: float,
    head_lr: float | None = None,
    *,
    weight_decay: float = 0.0,
    loraplus_ratio: float | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups for any optimizer: `torch.optim.AdamW(capaboost_vit.param_groups(model, 1e-3))`.

    They hold each trained parameter once, with its `lr` and `weight_decay` by the rules of `capaboost train`: biases,
    norms, gains, coefficients and prompts do not decay; rates have the factors of the methods (`coefficient_lr_ratio`).

    Args:
        model: the adapted model, or what contains it, of which all that is trained gets `lr`.
        head_lr: learning rate of the head; None: `lr`.
        loraplus_ratio: LoRA+, the rate of B over that of A; None: `loraplus_lr_ratio` of the method.

    Raises:
        ValueError: the model carries nothing that `adapt` added, a rate is given for what it does not have, or all of
            the model is trained, see `mark_trainable`.

    Examples:
        >>> groups = capaboost_vit.param_groups(model, lr=1e-3, head_lr=1e-2, weight_decay=1e-4)
        >>> optimizer = torch.optim.AdamW(groups)
    """
    _, inner = adapted_part(plain_model(model))
    check_frozen(inner)
    methods = _methods(inner)
    if loraplus_ratio is not None:
        ratio: Any = {"loraplus_lr_ratio": loraplus_ratio}
        have = [any(field.name in ratio for field in dataclasses.fields(method)) for method in methods]
        if not any(have):
            names = " + ".join(method.name for method in methods)
            raise ValueError(f"loraplus_ratio is for lora, and this model has {names}: leave it out")
        methods = [dataclasses.replace(m, **ratio) if has else m for m, has in zip(methods, have, strict=True)]
    factors = {parameter: factor for method in methods for parameter, factor in method.learning_rates(inner)}
    if head_lr is not None:
        head = {p for name in head_of(inner) for p in get(inner, name).parameters() if p.requires_grad}
        if not head:
            raise ValueError(f"head_lr {head_lr}: no head of this {type(inner).__name__} is trained: leave it out")
        factors |= {parameter: factors.get(parameter, 1.0) * head_lr / lr for parameter in head}
    groups = parameter_groups(model, factors, weight_decay=weight_decay)
    return [{**group, "lr": lr * group.pop("lr_scale", 1.0)} for group in groups]


def mark_trainable(model: nn.Module) -> None:
    """Trains again what the methods of an adapted model train, and freezes the rest of it.

    transformers' `from_pretrained` makes every parameter anew, and all of them trainable. Of a model that contains the
    adapted one the other parts are left as they are.

    Raises:
        ValueError: nothing in the model is adapted, or several models in it are.
    """
    _, model = adapted_part(plain_model(model))
    methods = _methods(model)
    if any(method.trains_all for method in methods):
        model.requires_grad_(True)
    else:
        freeze_base(model, head_of(model))
    for parameter in (p for method in methods for p in method.base_parameters(model)):
        parameter.requires_grad_(True)


def check_frozen(model: nn.Module) -> None:
    """Raises ValueError if all of an adapted model is trained, and no method of it means that."""
    methods = _methods(model)
    if all(p.requires_grad for p in model.parameters()) and not any(method.trains_all for method in methods):
        names = " + ".join(method.name for method in methods)
        raise ValueError(
            f"every parameter of this {type(model).__name__} is trained, not those of {names} alone (transformers' "
            "from_pretrained makes them so): call capaboost_vit.mark_trainable(model) first"
        )


def _methods(model: nn.Module) -> list[Method]:
    record: dict[str, Any] = model.capaboost  # type: ignore[assignment]
    return [make_method(**method) for method in record["methods"]]
