"""Where in an image an answer comes from: attention rollout, or gradients smoothed over noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import Attention
from timm.models import VisionTransformer
from torch import Tensor, nn

from .data.labels import Task

_SAMPLES, _NOISE = 16, 0.15

ROLLOUT = "attention rollout: how much the class token attends to each patch, through all blocks; of no one class"
_SMOOTH = "SmoothGrad: how much {} changes with each pixel, a mean over 16 noisy copies"
GRADIENTS = {
    "classification": _SMOOTH.format("the logit of the answer"),
    "multi-label": _SMOOTH.format("the logit of the tag"),
    "regression": _SMOOTH.format("the number"),
}


@dataclass(frozen=True)
class Explanation:
    """What a model answers to images, and what each answer rests on.

    Args:
        answers: (B, C), float32: probabilities of classes or tags; or standardised numbers, (B, 1).
        maps: (B, h, w), each from 0, the least in its image, to 1, the most; h, w: patches, or pixels.
        shown: what the maps are, in words.
    """

    answers: Tensor
    maps: Tensor
    shown: str


def explain(
    model: Any,
    images: Tensor,
    *,
    outputs: Sequence[int | None] = (),
    task: Task = "classification",
    temperature: float = 1.0,
) -> Explanation:
    """Attention rollout of timm's plain ViTs that answer by their class token, SmoothGrad of all other models.

    Args:
        model: in evaluation mode. images: (B, 3, H, W), normalised.
        outputs: which output of each image is explained, where the map is of one; None, or none at all: the largest.
        task: what the outputs are.
        temperature: that the logits of classes are divided by for the probabilities.
    """
    if attention_layers(model) is not None:
        with torch.no_grad():
            logits, weights = attention_weights(model, images)
            maps, shown = rollout(weights), ROLLOUT
        prefix = model.num_prefix_tokens
        height, width = model.patch_embed.dynamic_feat_size(tuple(images.shape[-2:]))
        maps = maps[:, 0, prefix : prefix + height * width].unflatten(1, (height, width))
    else:
        with torch.no_grad():
            logits = model(images)
        asked = logits.argmax(-1)
        for row, output in enumerate(outputs):
            asked[row] = asked[row] if output is None else output
        maps, shown = smooth_gradient(model, images, asked), GRADIENTS[task]
    return Explanation(_answers(logits.float(), task, temperature), _scaled(maps), shown)


def _answers(logits: Tensor, task: Task, temperature: float) -> Tensor:
    if task == "classification":
        return (logits / temperature).softmax(-1)
    return logits.sigmoid() if task == "multi-label" else logits


def attention_layers(model: nn.Module) -> list[Attention] | None:
    """The attention of each block of a ViT whose class token goes to the head; None of any other model."""
    if type(model) is not VisionTransformer or model.global_pool != "token" or model.cls_token is None:
        return None
    layers = [[layer for layer in block.modules() if isinstance(layer, Attention)] for block in model.blocks]
    if any(len(inside) != 1 or type(inside[0]) is not Attention for inside in layers):
        return None
    return [inside[0] for inside in layers]


def attention_weights(model: Any, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """(logits, `softmax(scale * q k^T)` of each block, mean over its heads), each (B, N, N) over the image's tokens.

    q and k are what the layer's norms give, adapted or not. Tokens that are no part of the image are left out, as if
    they were not there: the keys of a prefix never pass the norms, those of prompts stand behind the others.
    """
    layers = attention_layers(model)
    assert layers is not None
    seen: list[tuple[Tensor, Tensor]] = []
    with ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(_queries_and_keys(layer, seen))
        logits = model(images)
    height, width = model.patch_embed.dynamic_feat_size(tuple(images.shape[-2:]))
    tokens = model.num_prefix_tokens + height * width
    weights = []
    for layer, (q, k) in zip(layers, seen, strict=True):
        scale = q.shape[-1] ** -0.5 if layer.fused_attn else layer.scale  # the fused path does not read `scale`
        q, k = q[:, :, :tokens].float(), k[:, :, :tokens].float()
        weights.append((scale * q @ k.mT).softmax(-1).mean(1))
    return logits, weights


@contextmanager
def _queries_and_keys(layer: Attention, seen: list[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Within the block each call of the layer adds its (q, k), (B, H, N, D / H) each, to `seen`."""
    queries: list[Tensor] = []
    handles = [
        layer.q_norm.register_forward_hook(lambda *call: queries.append(call[-1])),
        layer.k_norm.register_forward_hook(lambda *call: seen.append((queries.pop(), call[-1]))),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def rollout(weights: list[Tensor]) -> Tensor:
    """`A_L ... A_1` with `A_l = (W_l + I) / 2`: how much each last token takes from each first one, (B, N, N).

    The half of I stands for the residual connection. Values, MLPs and the sign of what is added are not looked at.
    Source: Abnar and Zuidema 2020, Quantifying attention flow in transformers.

    Args:
        weights: (B, N, N) of each block, the first first; rows add up to one.
    """
    identity = torch.eye(weights[0].shape[-1], dtype=weights[0].dtype, device=weights[0].device)
    total = identity.expand_as(weights[0])
    for weight in weights:
        total = (weight + identity) / 2 @ total
    return total


def smooth_gradient(
    model: nn.Module,
    images: Tensor,
    classes: Tensor,
    *,
    samples: int = _SAMPLES,
    noise: float = _NOISE,
    seed: int = 0,
) -> Tensor:
    """`max_channel |mean_i d logit_c / d x (x + e_i)|`, e_i ~ N(0, (noise (max x - min x))^2): (B, H, W).

    Source: Smilkov et al. 2017, SmoothGrad. Without noise and with one sample it is the gradient itself.

    Args:
        images: (B, 3, H, W). classes: (B,), whose logits.
        seed: of the noise; the global random state is left alone.
    """
    generator = torch.Generator().manual_seed(seed)
    spread = noise * (images.amax((1, 2, 3), keepdim=True) - images.amin((1, 2, 3), keepdim=True))
    total = torch.zeros_like(images)
    for _ in range(samples):
        drawn = torch.randn(images.shape, generator=generator).to(images)
        noisy = (images + spread * drawn).requires_grad_()
        with torch.enable_grad():
            logits = model(noisy).gather(1, classes[:, None])
            total += torch.autograd.grad(logits.sum(), noisy)[0]
    return (total / samples).abs().amax(1)


def _scaled(maps: Tensor) -> Tensor:
    """From 0 to 1 in each map, the largest hundredth cut off, which would leave the rest dark."""
    flat = maps.flatten(1).float()
    low, high = flat.amin(1), flat.quantile(0.99, dim=1)
    return ((maps - low[:, None, None]) / (high - low).clamp(min=1e-30)[:, None, None]).clamp(0, 1)
