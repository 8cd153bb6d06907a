"""For training loops of your own: parameter groups for any optimizer, and the state of what is trained."""

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
    """The tensors that `save_adapter` stores, by the same canonical names: added parameters, masks and head.

    For `torch.save` and averages of weights; `load_state_dict` loads it. Only the file of `save_adapter` also has what
    builds the model, and the fingerprint of the base.

    Raises:
        ValueError: the model has nothing that `adapt` added.

    Examples:
        >>> torch.save(capaboost_vit.state_dict(model), "branches_and_head.pt")
    """
    model = adapted_model(model)
    return {name: tensor.detach() for name, tensor in split_state(model, head_names(model))[0].items()}


def load_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copies a `state_dict` into a model that is adapted in the same way; nothing is changed unless every tensor fits.

    The model's own `load_state_dict(state, strict=False)` does the same unless a slot has several wrappers of one
    class, but does not report missing tensors.

    Raises:
        ValueError: the model has nothing that `adapt` added; tensors are missing, unknown or of another shape.

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

    They contain each trained parameter once, with `lr` and `weight_decay` as in `capaboost train`: no weight decay for
    biases, norms, gains, coefficients and other vectors, and for prompts; learning rates are multiplied by the factors
    of the methods (such as `coefficient_lr_ratio`).

    Args:
        model: the adapted model, or a module that contains it; all trained parameters of that module are included.
        head_lr: learning rate of the head; None: `lr`.
        loraplus_ratio: LoRA+: learning rate of B divided by that of A; None: the method's `loraplus_lr_ratio`.

    Raises:
        ValueError: the model has nothing that `adapt` added, `head_lr` or `loraplus_ratio` is given without a trained
            head or without `lora`, or every parameter of the model is trained, see `mark_trainable`.

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
    """Sets requires_grad of an adapted model again: True for what its methods train, False for the rest.

    Needed after transformers' `from_pretrained`, which creates every parameter anew, as trainable. If the model
    contains the adapted one, its other parts are unchanged.

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
    """Raises ValueError if every parameter of an adapted model is trained, although none of its methods trains all."""
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
