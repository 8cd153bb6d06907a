"""What is done with a finished run on texts or its adapter file: score it, write the merged model."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.merge import fastest, merge
from ..io.atomic import is_taken
from ..io.options import tuples
from ..training.card import write_merged_card
from ..training.distributed import ProcessGroup, pick_device
from ..training.evaluation import evaluate
from ..training.outputs import Outputs
from ..training.probabilities import KeptLogits
from ..training.saved import ModelSource, open_source
from .adapters import create_from_adapter, save_model
from .class_row import logits_only
from .config import TextConfig, base_model, has_weights
from .encoded import encode_task
from .loader import moved, text_eval_loader
from .models import create_tokenizer
from .objectives import make_objective
from .report import further_scores, prediction_rows
from .table import write_table


@torch.no_grad()
def evaluate_text(
    adapter: str | Path | ModelSource,
    *,
    data: str | None = None,
    split: str = "test",
    model: str | None = None,
    batch_size: int = 64,
    device: str | None = None,
    table: Path | None = None,
    threshold: float | None = None,
    short_cuts: bool = True,
) -> dict[str, Any]:
    """All scores of an adapter file or a run folder on one split: those of the task, in per cent, and `further_scores`.

    The no-answer threshold is that of the run; for SQuAD v2 a file of an earlier release has none, and takes the one
    that is best on val.

    Args:
        data: what to evaluate on; None takes that of the run. It is opened with the run's options.
        split: its name, or a usual alias (val: valid, validation, dev).
        model: folder or hub id of the base model; None takes that of the run, or the hub id that the file names.
        table: also write a csv file of the predictions, see `nlu.table`.
        threshold: of texts with several tags: probability from which one counts as predicted; None: 0.5.
        short_cuts: compute with merged weights and the first token of the last layer, where that is exact.

    Raises:
        FileNotFoundError: no adapter, data or model. ValueError: no data named, no such split, or other classes.
    """
    source = open_source(adapter)
    network, config, classes = open_trained(source, model)
    if data is not None:
        config = replace(config, data=data)
    elif not source.config:
        raise ValueError(f"{source.path} is not in a run folder: say --data")
    encoded = encode_task(config, classes=classes)
    split = encoded.data.find(split)
    target = pick_device(device)
    network = for_logits(network, target, short_cuts=short_cuts)
    objective, questions = make_objective(encoded)
    loader = partial(text_eval_loader, batch_size=batch_size)
    accumulate = partial(evaluate, network, prepare=partial(moved, device=target), config=config, objective=objective)
    assert source.adapter is not None
    header = source.adapter.header
    if questions is not None:
        stored = header["text"].get("no_answer_threshold")
        if stored is not None:
            questions.threshold = stored
        elif questions.no_answer and "val" in encoded.encoded:
            val = loader(encoded.encoded["val"])
            questions.calibrate(accumulate(val), val)
    batches = loader(encoded.encoded[split])
    kept, logits = KeptLogits(batches.indices, len(batches.source)), Outputs(batches)

    def keep(outputs: Tensor, targets: Tensor) -> None:
        kept.add(outputs, targets)
        if table is not None:
            logits.add(outputs, targets)

    accumulated = accumulate(batches, also=keep if objective.confusion else None)
    found = {"model": str(source.path), "data": config.data, "split": split, **objective.scores(accumulated, batches)}
    of_classes = kept.result(ProcessGroup()) if objective.confusion else None
    options: dict[str, Any] = {"temperature": header["temperature"]}
    if threshold is not None:
        if encoded.task.kind != "multi-label":
            raise ValueError(
                f"--threshold is for texts with several tags, and {encoded.task.name} has none: leave it out"
            )
        options["threshold"] = threshold
    found |= further_scores(encoded, split, accumulated, of_classes, **options)
    if table is not None:
        outputs = logits.result(ProcessGroup()) if objective.confusion else accumulated
        answers = None if questions is None else questions.answered(accumulated, batches)[1]
        write_table(prediction_rows(encoded, split, outputs, answers=answers, **options), table)
    return found


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
    source = open_source(adapter)
    network, config, _ = open_trained(source, model)
    tokenizer = create_tokenizer(config.tokenizer or config.model)
    save_model(merge(network, inplace=True), tokenizer, output)
    write_merged_card(output, source)
    return output


def for_logits(network: nn.Module, device: torch.device, *, short_cuts: bool) -> nn.Module:
    """What computes the logits on a device: the model, or what `fastest` makes of it, which uses it up."""
    network = network.to(device)
    return fastest(network, logits_only) if short_cuts else network


def open_trained(
    path: str | Path | ModelSource, base: str | None = None
) -> tuple[nn.Module, TextConfig, tuple[str, ...]]:
    """The model, on the CPU in evaluation mode; the options of its run, with the base as their model; its classes.

    Raises:
        FileNotFoundError: there is none. ValueError: what `create_from_adapter` refuses.
    """
    source = open_source(path)
    adapter = source.adapter
    if adapter is None or adapter.header.get("text", {}).get("task") is None:
        raise ValueError(f"{source.path} is no adapter of a task on texts")
    header = adapter.header
    if source.config:
        # the run may lie elsewhere now, and with it the model that a stage has left
        config = TextConfig(**{**tuples(source.config), "output": str(source.path.parent)})
        if not (base or has_weights(config) or adapter.trains_all()):
            raise ValueError(
                f"the base weights of {source.path} were random, and are not stored: train without --pretrained false"
            )
        base = base or base_model(config)
    else:
        base = base or header["base"].get("tag")
        config = TextConfig(task=header["text"]["task"])
        if header["text"]["max_length"] is not None:
            config = replace(config, max_length=header["text"]["max_length"])
    network = create_from_adapter(adapter, model=base)
    # no stages come before: the base is what they have left
    config = replace(config, model=base, dapt_data=None, tapt_epochs=0)
    return network, config, tuple(header["class_names"])
