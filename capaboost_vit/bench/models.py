"""What is measured: a plain ViT of timm, or a text encoder of transformers, each with a synthetic batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ..core.inject import Anatomy, find, find_parts
from ..core.seeds import seeded
from ..io.options import flag, suggest
from ..nlu.anatomy import anatomy_of as anatomy_of_text
from ..nlu.class_row import logits_only as logits_only_text
from ..nlu.frozen_front import divide as divide_text
from ..nlu.models import adapt as adapt_text
from ..nlu.models import model_length
from ..training.distributed import pick_device
from ..training.frozen_front import Divided
from ..vision.adapters import adapt as adapt_vit
from ..vision.anatomy import anatomy_of as anatomy_of_vit
from ..vision.class_row import logits_only as logits_only_vit
from ..vision.frozen_front import divide as divide_vit
from .config import SHAPES, Workload


@dataclass(frozen=True)
class Family:
    """What the measurements ask of a kind of model, beside the part of the library that knows it."""

    items: str  # what is counted in a second
    adapt: Callable[..., nn.Module]
    anatomy: Callable[[nn.Module], Anatomy]
    logits_only: Callable[[nn.Module], nn.Module]
    divide: Callable[[nn.Module], Divided | None]
    block: str  # name pattern of a block
    targets: Mapping[str, tuple[str, ...]]  # roles or name patterns of linear layers, by `config.SETS`
    placement: str  # of an adapter at the MLPs, as is usual
    scale: float  # of such an adapter
    foreign: tuple[str, ...]  # options of a workload that are for the other family

    def places(self, model: nn.Module, targets: tuple[str, ...], *, use: str | None = None) -> list[str]:
        """The names of the modules that the targets name, for this use where a role has several, each once."""
        return list(find_parts(model, targets, self.anatomy(model), use=use))

    def blocks(self, model: nn.Module) -> list[str]:
        """The names of the blocks, in their order."""
        return [place.name for place in find(model, self.block)]

    def first_layers(self, model: nn.Module, targets: tuple[str, ...]) -> dict[str, str]:
        """The adapted layers of the first block: names by the targets that name them."""
        inside = f"{self.blocks(model)[0]}."
        named = [(name, target) for target in targets for name in self.places(model, (target,))]
        layers = dict.fromkeys(name for name, _ in named if name.startswith(inside))
        return {", ".join(target for place, target in named if place == name): name for name in layers}


@dataclass(frozen=True)
class Subject:
    """The plain model behind all cases, and the batch that all of them get."""

    family: Family
    base: nn.Module
    inputs: dict[str, Tensor]  # of the model's call, by name: images (B, 3, S, S), or the numbers of tokens (B, N)
    labels: Tensor  # (B,)
    items: int  # images, or tokens that are no padding
    size: str  # of one input, in words

    @property
    def device(self) -> torch.device:
        """Where all of it is."""
        return self.labels.device

    def about(self, clock: str) -> dict[str, str]:
        """What a result says of how it was measured, with the name of the clock."""
        return {"device": self.device.type, "items": self.family.items, "size": self.size, "clock": clock}


VISION = Family(
    items="images",
    adapt=adapt_vit,
    anatomy=anatomy_of_vit,
    logits_only=logits_only_vit,
    divide=divide_vit,
    block="blocks.*",
    # by pattern, the fused qkv is one layer; by role, its query and value are adapted each by itself
    targets={"all-linears": ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"), "q-v": ("query", "value")},
    placement="parallel",
    scale=0.1,
    foreign=("seq_len", "padding"),
)
TEXT = Family(
    items="tokens",
    adapt=adapt_text,
    anatomy=anatomy_of_text,
    logits_only=logits_only_text,
    divide=divide_text,
    block="encoder.layer.*",
    targets={"all-linears": ("query", "key", "value", "attn_out", "mlp_in", "mlp_out"), "q-v": ("query", "value")},
    placement="sequential",
    scale=1.0,
    foreign=("img_size",),
)


def family_of(workload: Workload) -> Family:
    """The family of a workload's model.

    Raises:
        ValueError: no such model, or an option that is for the other family.
    """
    name = workload.model
    if name not in SHAPES and not timm.is_model(name):
        hint = suggest(name, [*SHAPES, *timm.list_models()])
        raise ValueError(f"--model: timm has no {name!r}{hint}; text encoders are {', '.join(SHAPES)}")
    family = TEXT if name in SHAPES else VISION
    for option in family.foreign:
        if (value := getattr(workload, option)) != getattr(Workload, option):
            raise ValueError(f"{flag(option)} {value}: {name} is no model for it, as its inputs are {family.items}")
    return family


def make_subject(workload: Workload) -> Subject:
    """Builds the plain model and draws a batch, from the workload's seed; the global generator stays as it is.

    Raises:
        ValueError: what `family_of` refuses, a text that is longer than the model takes, an unknown option of a text
            encoder, or a device that is not there. ModuleNotFoundError: no transformers for a text encoder.
    """
    family, device = family_of(workload), pick_device(workload.device)
    with seeded("bench", workload.seed, devices=device.type == "cuda"), device:
        return _images(workload) if family is VISION else _texts(workload)


def _images(workload: Workload) -> Subject:
    size = {} if workload.img_size is None else {"img_size": workload.img_size}
    options = {"num_classes": workload.num_classes, **size, **workload.model_kwargs}
    base: Any = timm.create_model(workload.model, **options)
    images = torch.randn(workload.batch_size, 3, *base.patch_embed.img_size)
    labels = torch.randint(workload.num_classes, (workload.batch_size,))
    return Subject(VISION, base, {"x": images}, labels, items=len(images), size=f"{images.shape[-1]} px")


def _texts(workload: Workload) -> Subject:
    """Random tokens, at the end of each text as much padding as the workload says; without any there is no mask."""
    base = _encoder(workload)
    config: Any = base.config
    length, longest = workload.seq_len or 128, model_length(base.config)
    if longest is not None and length > longest:
        raise ValueError(f"--seq-len {length}: {workload.model} takes at most {longest} tokens")
    shape = (workload.batch_size, length)
    inputs = {"input_ids": torch.randint(config.pad_token_id + 1, config.vocab_size, shape)}
    real = max(1, round((1 - workload.padding) * length))
    if real < length:
        inputs["input_ids"][:, real:] = config.pad_token_id
        inputs["attention_mask"] = (torch.arange(length) < real).long().repeat(len(inputs["input_ids"]), 1)
    labels = torch.randint(workload.num_classes, (workload.batch_size,))
    return Subject(TEXT, base, inputs, labels, items=workload.batch_size * real, size=f"{length} tokens")


def _encoder(workload: Workload) -> nn.Module:
    """A text encoder of this shape with a head for classification and random weights."""
    import transformers

    kind, shape = SHAPES[workload.model]
    make: Any = getattr(transformers, kind)
    options = vars(make(**shape))
    for name in workload.model_kwargs:
        if name not in options:
            raise ValueError(f"--model-kwargs: {workload.model} has no option {name!r}{suggest(name, options)}")
    config = make(**{"num_labels": workload.num_classes, **shape, **workload.model_kwargs})
    model: nn.Module = transformers.AutoModelForSequenceClassification.from_config(config)
    return model
