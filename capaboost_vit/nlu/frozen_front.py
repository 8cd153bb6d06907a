"""The frozen front of text encoders: the layers before the first that is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ..core.first_rows import twin
from ..training.frozen_front import Divided
from .loader import MULTIPLE


def divide(network: nn.Module) -> Divided | None:
    """An encoder of transformers with its head, divided before its first layer with a trained parameter.

    None where that is the first layer, where something is trained before the layers, or in a model whose encoder is no
    list `encoder.layer` behind `embeddings`.
    """
    inner: Any = network
    prefix = getattr(inner, "base_model_prefix", "")
    modules = dict(inner.named_modules())
    base, layers = modules.get(prefix), modules.get(f"{prefix}.encoder.layer")
    embeddings, encoder = modules.get(f"{prefix}.embeddings"), modules.get(f"{prefix}.encoder")
    if base is None or embeddings is None or encoder is None or not isinstance(layers, nn.ModuleList):
        return None
    behind = {id(p) for part in (layers, base._modules.get("pooler")) if part is not None for p in part.parameters()}
    entrance = [p for p in base.parameters() if id(p) not in behind]
    trained = [index for index, layer in enumerate(layers) if any(p.requires_grad for p in layer.parameters())]
    start = trained[0] if trained else len(layers)
    if hasattr(encoder, "get_rel_pos"):  # DeBERTa's needs a layer for its output
        start = min(start, len(layers) - 1)
    if start == 0 or any(p.requires_grad for p in entrance):
        return None
    front = twin(base, {"encoder.layer": nn.ModuleList(layers[:start])})
    if front._modules.get("pooler") is not None:
        front.pooler = None
    front.eval()
    changed = {f"{prefix}.embeddings": GivenEmbeddings(), f"{prefix}.encoder.layer": nn.ModuleList(layers[start:])}
    if f"{prefix}.embeddings_project" in modules:  # ELECTRA's, to the width of the layers
        changed[f"{prefix}.embeddings_project"] = nn.Identity()
    rest: Any = twin(inner, changed)
    if getattr(encoder, "conv", None) is not None:  # DeBERTa-v2's, behind the first layer of all
        rest.get_submodule(f"{prefix}.encoder").conv = None

    def states(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        hidden = front(**inputs).last_hidden_state
        # where the last layer gives out the first row alone, that is no padding
        return {"inputs_embeds": hidden, "attention_mask": inputs["attention_mask"][:, : hidden.shape[1]]}

    return Divided(states, rest, _rows, _batch, f"{start} of {len(layers)} layers")


class GivenEmbeddings(nn.Module):
    """In the place of embeddings: what is given as `inputs_embeds` (B, N, D) has gone through them, and further."""

    def forward(self, *args: Any, inputs_embeds: Tensor, **kwargs: Any) -> Tensor:
        return inputs_embeds


def _rows(batch: Mapping[str, Tensor]) -> list[Tensor]:
    """The states (N, D) of each example, less those of padding, which stands behind the others."""
    lengths = batch["attention_mask"].sum(1).tolist()
    return [states[:length] for states, length in zip(batch["inputs_embeds"], lengths, strict=True)]


def _batch(rows: Sequence[Tensor]) -> dict[str, Tensor]:
    """States (B, N, D), zero where a text is filled up, and the mask (B, N) that says where."""
    lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
    states = pad_sequence([*rows], batch_first=True)
    width = states.shape[1] if states.shape[1] == 1 else MULTIPLE * math.ceil(states.shape[1] / MULTIPLE)
    states = nn.functional.pad(states, (0, 0, 0, width - states.shape[1]))
    mask = torch.arange(width, device=states.device) < lengths.unsqueeze(1)
    return {"inputs_embeds": states, "attention_mask": mask.long()}
