"""The frozen front of timm models: the blocks before the first that is trained, or all before the head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.names import get
from ..core.wrapper import sharing
from ..training.frozen_front import Divided
from .anatomy import head_names
from .class_row import is_plain_vit


def divide(network: nn.Module) -> Divided | None:
    """A timm model, or its `logits_only` twin, divided before its first trained place; None where that is no gain.

    A plain ViT is divided before the first block with a trained parameter; other models, whose `forward` is
    `forward_head(forward_features(x))`, before their head, if nothing else is trained.
    """
    if is_plain_vit(network):
        return _before_block(network)
    return _before_head(network)


def _before_block(network: Any) -> Divided | None:
    trained = [index for index, block in enumerate(network.blocks) if _is_trained(block)]
    entrance = [network.patch_embed, network.patch_drop, network.norm_pre]
    if any(map(_is_trained, entrance)) or any(p.requires_grad for p in network.parameters(recurse=False)):
        return None
    start = trained[0] if trained else len(network.blocks)
    if start == 0:
        return None
    front = sharing(network, blocks=nn.Sequential(*network.blocks[:start]), norm=nn.Identity())
    front.grad_checkpointing = False
    rest = sharing(
        network,
        patch_embed=nn.Identity(),
        patch_drop=nn.Identity(),
        norm_pre=nn.Identity(),
        blocks=nn.Sequential(*network.blocks[start:]),
    )
    rest._pos_embed = _as_it_is  # the activations have their positions, and the class token
    front.eval()
    return Divided(front.forward_features, rest, Tensor.unbind, _stacked, f"{start} of {len(network.blocks)} blocks")


def _before_head(network: Any) -> Divided | None:
    heads = head_names(network)
    children = {name.partition(".")[0] for name in heads}
    beside = [child for name, child in network.named_children() if name not in children]
    head = {id(p) for name in heads for p in get(network, name).parameters()}
    if not heads or not hasattr(network, "forward_head") or not hasattr(network, "forward_features"):
        return None
    if any(p.requires_grad and id(p) not in head for p in network.parameters()):
        return None
    if any(isinstance(child, nn.Dropout) and child.p > 0 for child in beside):  # between the features and the head
        return None
    return Divided(network.forward_features, HeadAlone(network, children), Tensor.unbind, _stacked, "all blocks")


class HeadAlone(nn.Module):
    """What a timm model makes of its features, the rest of it in evaluation mode."""

    def __init__(self, model: Any, children: set[str]) -> None:
        super().__init__()
        self.model, self.head_children = model, children
        self.train(model.training)

    def train(self, mode: bool = True) -> HeadAlone:
        super().train(mode)
        for name, child in self.model.named_children():
            child.train(mode and name in self.head_children)
        return self

    def forward(self, features: Tensor) -> Tensor:
        return self.model.forward_head(features)


def _is_trained(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())


def _stacked(rows: Sequence[Tensor]) -> Tensor:
    return torch.stack([*rows])


def _as_it_is(x: Tensor) -> Tensor:
    return x
