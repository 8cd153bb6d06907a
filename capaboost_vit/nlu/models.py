"""Models of transformers for each kind of task, from the hub or a local folder, and `adapt` for any of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from ..core.record import plain_model
from ..methods import Method
from ..methods.apply import adapt_model
from .anatomy import anatomy_of

M = TypeVar("M", bound=nn.Module)

# kind of task: the automatic class of transformers that builds its models
_AUTO_CLASSES = {
    "classification": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "multi-label": "AutoModelForSequenceClassification",
    "multiple-choice": "AutoModelForMultipleChoice",
    "questions": "AutoModelForQuestionAnswering",
    "tokens": "AutoModelForTokenClassification",
    "masked": "AutoModelForMaskedLM",
}


def create_text_model(
    name: str, kind: str, *, classes: Sequence[str] = (), pretrained: bool = True, **options: Any
) -> nn.Module:
    """A model of transformers with the head for a kind of task, in evaluation mode.

    `model.fresh_modules` names the modules that the pretrained weights lack (a classifier; a pooler in the encoder).
    They are part of the head.

    Args:
        name: hub id, or a folder with config.json and weights; code that comes with a model is never run.
        kind: classification, multi-label, tokens (a class for each), regression, multiple-choice, questions, masked.
        classes: names of the classes, for classification, multi-label and tokens.
        pretrained: load the weights; False: random ones.
        options: of transformers' configuration, such as `hidden_dropout_prob=0.1`.

    Raises:
        ValueError: no such model; a model without such a head; weights that lack a part of the encoder, have more than
            it or another shape; an unknown kind; or no classes for a kind that needs them.
    """
    if kind not in _AUTO_CLASSES:
        raise ValueError(f"unknown kind of task {kind!r}: choose from {', '.join(_AUTO_CLASSES)}")
    if kind == "regression":
        options |= {"num_labels": 1, "problem_type": "regression"}
    elif kind in ("classification", "multi-label", "tokens"):
        if not classes:
            raise ValueError('a classification needs the names of its classes, such as classes=("no", "yes")')
        options |= {"id2label": dict(enumerate(classes)), "label2id": {name: i for i, name in enumerate(classes)}}
        if kind == "multi-label":
            options["problem_type"] = "multi_label_classification"
    import transformers

    with _explained(name, "the model"):
        config = transformers.AutoConfig.from_pretrained(name, **options)
        build = getattr(transformers, _AUTO_CLASSES[kind])
        if not pretrained:
            model: Any = build.from_config(config)
            return model.eval()
        model, info = build.from_pretrained(
            name, config=config, output_loading_info=True, ignore_mismatched_sizes=True, dtype="float32"
        )
    encoder = f"{model.base_model_prefix}."
    for key, stored, wanted in info["mismatched_keys"]:
        if key.startswith(encoder):
            raise ValueError(f"{name} has {key} of shape {tuple(stored)}, these options ask for {tuple(wanted)}")
    new = [*info["missing_keys"], *(key for key, _, _ in info["mismatched_keys"])]
    fresh = {".".join(key.split(".")[: 2 if key.startswith(encoder) else 1]) for key in new}
    lacking = {module for module in fresh if module.startswith(encoder)} - {f"{encoder}pooler"}
    if lacking:
        raise ValueError(f"{name} does not hold the weights of a {type(model).__name__}: {min(lacking)} is missing")
    if added := [key for key in info["unexpected_keys"] if _is_inside(model.base_model, key.removeprefix(encoder))]:
        raise ValueError(
            f"{name} holds what was added to its base, such as {added[0]}, and would be read without: save what "
            "capaboost_vit.merge(model) gives (or PEFT's merge_and_unload), or load the base and an adapter file"
        )
    model.fresh_modules = tuple(sorted(fresh))
    return model.eval()


def create_model(
    name: str, architecture: str, *, classes: Sequence[str] = (), num_labels: int | None = None, pretrained: bool = True
) -> nn.Module:
    """A model of a class of transformers with the weights of a hub id or folder, in evaluation mode.

    What the weights lack, such as a classifier, is random, and so is a classifier for another number of classes.

    Args:
        classes: names of the classes; without them a model has `num_labels` classes, or as many as its configuration
            says.
        pretrained: load the weights; False: all are random.

    Raises:
        ValueError: no such class, or no such model.
    """
    import transformers

    build: Any = getattr(transformers, architecture, None)
    if not (isinstance(build, type) and issubclass(build, transformers.PreTrainedModel)):
        raise ValueError(f"transformers {transformers.__version__} has no model called {architecture}")
    options: dict[str, Any] = {} if num_labels is None else {"num_labels": num_labels}
    if classes:
        options = {"id2label": dict(enumerate(classes)), "label2id": {name: i for i, name in enumerate(classes)}}
    with _explained(name, "the model"):
        if pretrained:
            return build.from_pretrained(name, ignore_mismatched_sizes=True, **options).eval()
        config: Any = build.config_class
        return build(config.from_pretrained(name, **options)).eval()


def _is_inside(base: nn.Module, key: str) -> bool:
    """Whether a name that the model lacks lies inside its encoder; not in further layers, which a list may lack."""
    modules = dict(base.named_modules())
    parent = key.rpartition(".")[0]
    while parent not in modules:
        parent = parent.rpartition(".")[0]
    return parent.startswith("encoder") and not isinstance(modules[parent], nn.ModuleList)


def create_tokenizer(name: str) -> Any:
    """The fast tokenizer of a model. Raises ValueError if there is none, or one without vocabulary or padding token."""
    import transformers

    with _explained(name, "the tokenizer"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, use_fast=True)
    if not tokenizer.is_fast:
        raise ValueError(f"{name} has no fast tokenizer, whose offsets are needed: take a model with tokenizer.json")
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):  # what transformers makes of no file at all
        raise ValueError(f"the tokenizer of {name} knows no word: the folder needs tokenizer.json")
    if tokenizer.pad_token_id is None:
        raise ValueError(f"the tokenizer of {name} has no padding token: name another one with --tokenizer")
    return tokenizer


def recompute_layers(model: nn.Module) -> None:
    """Gradient checkpointing: stores only the inputs of the layers, which are computed again in the backward pass.

    Layers before the first trained one are neither differentiated nor computed again, as they would be with
    transformers' own method, which makes the embeddings require a gradient.
    """
    encoder: Any = model
    # whose older name is the second; without re-entrance a layer is recomputed though its inputs need no gradient
    enable = getattr(encoder, "activation_checkpointing_enable", None) or encoder.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    encoder.disable_input_require_grads()


def known_limits(name: str) -> tuple[int | None, int]:
    """The maximal number of tokens of a hub id's or folder's model (None: no limit), and the size of its vocabulary.

    Raises ValueError if there is no such model.
    """
    import transformers

    with _explained(name, "the configuration"):
        config = transformers.AutoConfig.from_pretrained(name)
        return model_length(config), config.vocab_size


def model_length(config: Any) -> int | None:
    """The maximal number of tokens of a model of transformers, by its configuration; None: no limit."""
    length: int | None = getattr(config, "max_position_embeddings", None)
    if length is None or getattr(config, "position_biased_input", True) is False:
        return None  # DeBERTa-v3: relative positions alone
    # their positions begin behind that of the padding
    shifted = "roberta" in config.model_type or config.model_type in ("camembert", "xlm-roberta", "mpnet")
    return length - config.pad_token_id - 1 if shifted else length


@contextmanager
def quiet() -> Iterator[None]:
    """A context without transformers' progress bars, and without its report of the weights of a new head."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


@contextmanager
def _explained(name: str, what: str) -> Iterator[None]:
    """Says what to do about something that transformers cannot load, and nothing else."""
    try:
        with quiet():
            yield
    except Exception as error:  # transformers', safetensors' and tokenizers' own, of many classes
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        place = "a folder" if os.environ.get("HF_HUB_OFFLINE") else "a hub id, or a folder"
        needed = "the folder needs" if Path(name).is_dir() else f"give {place} with"
        raise ValueError(
            f"cannot load {what} of {name}: {reason}; {needed} config.json, model.safetensors and tokenizer.json"
        ) from error


def adapt(model: M, method: str | Method = "lora", *, head: Sequence[str] | None = None, **options: Any) -> M:
    """Applies a method to a model of transformers, in place, and freezes everything except what it adds and the head.

    `capaboost_vit.adapt` does the same and explains the arguments.

    Returns:
        The same model, whose class is unchanged. A second call adds a second method.

    Raises:
        ValueError, TypeError: an unknown method or option, or a target that matches nothing; the model is unchanged.

    Examples:
        >>> model = AutoModelForSequenceClassification.from_config(BertConfig())  # or from_pretrained(...)
        >>> model = capaboost_vit.nlu.adapt(model, "lora", rank=8)
    """
    plain_model(model)
    adapt_model(model, anatomy_of(model), base_of(model), method, head=head, **options)
    return model


def base_of(model: nn.Module) -> dict[str, Any]:
    """The description of a base of transformers in adapter files: its class, and its hub id, if it has one."""
    name = getattr(getattr(model, "config", None), "_name_or_path", "")
    is_local = not name or Path(name).exists() or Path(name).is_absolute()  # a folder, which others do not have
    return {"architecture": type(model).__name__, "tag": None if is_local else name}
