"""What is done with a finished run on texts or its adapter file: score it, write the merged model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.merge import merge
from ..io.atomic import is_taken
from ..io.options import tuples
from ..training.distributed import pick_device
from ..training.evaluation import evaluate
from ..training.loader import EvalLoader
from ..training.saved import ModelSource, open_source
from .adapters import create_from_adapter, save_model
from .config import TextConfig, base_model, has_weights
from .encoded import encode_task
from .loader import moved, text_eval_loader
from .models import create_tokenizer
from .scores import make_objective
from .tasks import Task, get_task


@dataclass(frozen=True)
class SavedText:
    """A model on the CPU in evaluation mode, its tokenizer, what it was trained for, and how."""

    model: nn.Module
    tokenizer: Any
    task: Task
    classes: tuple[str, ...]
    config: TextConfig


def open_saved_text(path: str | Path | ModelSource, *, model: str | None = None) -> SavedText:
    """The model of a run folder or an adapter file.

    Args:
        model: folder or hub id of the base model; None takes that of the run, or the hub id that the file names.

    Raises:
        FileNotFoundError: there is none. ValueError: what `create_from_adapter` refuses.
    """
    source = open_source(path)
    if source.adapter is None or not source.is_text:
        raise ValueError(f"{source.path} is no adapter of a task on texts")
    adapter, header = source.adapter, source.adapter.header
    if source.config:  # the run may lie elsewhere now
        options = {**tuples(source.config), "output": str(source.path.parent)}
    else:
        options = {"task": header["text"]["task"], "model": model or header["base"].get("tag") or ""}
        if header["text"]["max_length"] is not None:
            options["max_length"] = header["text"]["max_length"]
    config = TextConfig(**options)
    if not (model or has_weights(config) or adapter.trains_all()):
        raise ValueError(
            f"the base weights of {source.path} were random, and nobody kept them: leave out --pretrained false"
        )
    base = model or base_model(config)
    built = create_from_adapter(adapter, model=base or None)
    task = get_task(config.task)
    return SavedText(built, create_tokenizer(config.tokenizer or base), task, tuple(header["class_names"]), config)


@torch.no_grad()
def evaluate_text(
    adapter: str | Path | ModelSource,
    *,
    data: str | None = None,
    split: str = "test",
    model: str | None = None,
    batch_size: int = 256,
    device: str | None = None,
) -> dict[str, float]:
    """The scores of the task, in per cent, of an adapter file or a run folder, on one split.

    For SQuAD v2 the no-answer threshold is the one that is best on val.

    Args:
        data: what to evaluate on; None takes that of the run. It is opened with the run's options.
        model: as in `open_saved_text`.

    Raises:
        FileNotFoundError: no adapter, data or model. ValueError: no data named, no such split, or other classes.
    """
    source = open_source(adapter)
    saved = open_saved_text(source, model=model)
    config = saved.config
    if data is not None:
        config = replace(config, data=data)
    elif not source.config:
        raise ValueError(f"{source.path} is not in a run folder: say --data")
    base = model or base_model(config)
    encoded = encode_task(config, saved.task, saved.tokenizer, base, classes=saved.classes)
    if split not in encoded.encoded:
        raise ValueError(f"{config.data} has no split {split!r}; it has: {', '.join(encoded.encoded)}")
    target = pick_device(device)
    network = saved.model.to(target)
    objective, calibrate = make_objective(config, saved.task, encoded)

    prepare = partial(moved, device=target)

    def answers(name: str) -> tuple[Tensor, EvalLoader]:
        batches = text_eval_loader(encoded.encoded[name], batch_size=batch_size)
        return evaluate(network, batches, prepare=prepare, config=config, objective=objective), batches

    if calibrate is not None and "val" in encoded.encoded:
        calibrate(*answers("val"))
    return objective.scores(*answers(split))


def merge_text(adapter: str | Path | ModelSource, output: Path, *, model: str | None = None) -> Path:
    """Writes the merged model and its tokenizer as a folder that transformers loads; returns the folder.

    Raises:
        FileExistsError: the folder is there already.
        ValueError: the method cannot be merged: all but LoRA and IA3 without gates.
    """
    if output.suffix == ".safetensors":
        raise ValueError(f"--output {output}: a model on texts becomes a folder, as transformers loads it")
    if is_taken(output):
        raise FileExistsError(f"{output} exists: choose another --output")
    saved = open_saved_text(adapter, model=model)
    return save_model(merge(saved.model, inplace=True), saved.tokenizer, output)
