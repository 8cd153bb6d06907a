"""The training job of a configuration of texts."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core.merge import merge, unmergeable
from ..methods import METHODS
from ..training.distributed import ProcessGroup
from ..training.evaluation import try_out
from ..training.job import Job, require_val
from ..training.loader import TrainLoader
from ..training.sharding import to_device
from ..training.short_cuts import take_short_cuts
from ..training.state import State
from .adapters import save_adapter, save_model
from .class_row import logits_only
from .config import TextConfig, base_model, has_weights
from .data import PREDICT
from .encoded import EncodedTask, encode_task
from .frozen_front import divide
from .loader import TokenMasking, moved, text_eval_loader, text_examples
from .models import adapt, create_text_model, recompute_layers
from .objectives import QuestionScores, make_objective
from .tasks import Task


def build_text_job(config: TextConfig, world: ProcessGroup, device: torch.device) -> Job:
    """Builds everything but the folder, so that a mistake shows before anything is written.

    Raises:
        ValueError, TypeError, FileNotFoundError: a task, model, method, data set or file that does not exist or fit.
    """
    if config.method is None:  # before the data are opened, which may take a download
        raise ValueError(f"no method is given: say --method.name lora ({', '.join(METHODS)})")
    encoded = encode_task(config)
    task, data = encoded.task, encoded.data
    if "train" not in data.splits:
        raise ValueError(f"{config.data} has no split 'train', which training needs; it has: {', '.join(data.splits)}")
    require_val(config, data.splits, instead="--protocol drawn, which takes a fifth of train")
    labels = set(getattr(data.splits["train"], "labels", ()))
    if task.kind == "tokens":
        labels = {tag for tags in labels for tag in tags}
    # which place the right choice has is nothing that a model could learn
    if len(labels) == 1 and task.kind != "multiple-choice":
        only = labels.pop()
        if task.kind == "multi-label":
            only = ";".join(data.classes[tag] for tag in only)
        elif data.classes:
            only = data.classes[only]
        raise ValueError(
            f"{config.data}: all examples of train have the label {only!r}, so there is nothing to learn: look at the "
            "files, or name another --label-column"
        )
    torch.manual_seed(config.seed)
    model = to_device(build_text_model(config, task, data.classes), config, world, device)
    masking = None
    if task.kind == "masked":
        masking = TokenMasking(encoded.tokenizer, probability=config.mlm_probability, seed=config.seed)
    shard: dict[str, Any] = {"rank": world.rank, "world_size": world.size}
    examples = text_examples(encoded.encoded["train"], masking)
    longest = int(encoded.encoded["train"].lengths.argmax())
    batch = next(examples.batches([[(longest, True)] * 2]))
    try_out(model, lambda: moved(batch, device)[0], config)
    train = TrainLoader(
        examples,
        batch_size=config.batch_size,
        seed=config.seed,
        accumulation=config.grad_accum_steps,
        lengths=encoded.encoded["train"].lengths if config.group_by_length else None,
        **shard,
    )
    held_out = {
        name: text_eval_loader(ids, masking=masking, batch_size=config.validation_batch_size, **shard)
        for name, ids in encoded.encoded.items()
        if name != "train"
    }
    val, test = held_out.pop("val", None), held_out.pop("test", None)
    objective, questions = make_objective(encoded)
    job = Job(
        config=config,
        world=world,
        title=f"{Path(config.model).name} on {task.name}",
        data=f"{task.name} ({config.data})",
        classes=data.classes,
        sizes={name: len(ids) for name, ids in encoded.encoded.items()},
        splits={name: split.record() for name, split in data.splits.items()},
        names=encoded.encoded["train"].names.__getitem__,
        state=State(model, config, len(train)),
        objective=objective,
        train=train,
        val=val,
        test=test,
        extra_tests=held_out,
        prepare=partial(moved, device=device),
        save=partial(_save, model, encoded, questions),
        calibrate=questions.calibrate if questions and questions.no_answer else None,
        extra_results={
            "protocol": data.protocol,
            "left_out": data.left_out,
            "cut": {name: ids.cut for name, ids in encoded.encoded.items()},
        },
        lines=_lines(encoded),
        warnings=_warnings(config, encoded),
    )
    take_short_cuts(
        job,
        logits_only=logits_only,
        divide=divide if task.kind != "multiple-choice" else lambda _: None,  # whose inputs are (B, K, N)
        example=lambda: moved(batch, device)[0],
        # the last two have targets that are as wide as their batch
        random=masking is not None or task.kind in ("tokens", "multiple-choice"),
        widths=lambda examples: examples.widths(),
    )
    return job


_DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob")


def build_text_model(config: TextConfig, task: Task, classes: tuple[str, ...]) -> nn.Module:
    """The adapted model of a configuration, on the CPU.

    Raises:
        ValueError: no such model, no method, or a method that does not fit.
    """
    assert config.method is not None
    name, pretrained = base_model(config), has_weights(config)
    options = {} if config.dropout is None else dict.fromkeys(_DROPOUTS, config.dropout)
    model: Any = create_text_model(name, task.kind, classes=classes, pretrained=pretrained, **options)
    adapt(model, config.method.seeded(config.seed))
    if task.kind == "masked" and config.fsdp:
        raise ValueError(f"--task {task.name} leaves a merged model, which no process has with --fsdp: leave it out")
    if task.kind == "masked" and (reasons := unmergeable(model)):
        raise ValueError(
            f"--task {task.name} leaves a plain model, which --method.name {config.method.name} does not: "
            f"{next(iter(reasons.values()))}; take full, lora or ssf"
        )
    if config.grad_checkpointing:
        recompute_layers(model)
    return model


def _save(
    model: nn.Module, encoded: EncodedTask, questions: QuestionScores | None, folder: Path, temperature: float
) -> Path:
    """An adapter file; after continued pretraining the whole model, with all updates merged in."""
    task = encoded.task
    if task.kind == "masked":
        for left in (folder / "model", *folder.glob(".model.*")):  # by a run that was killed while it concluded
            shutil.rmtree(left, ignore_errors=True)
        return save_model(merge(model), encoded.tokenizer, folder / "model")
    of_texts = task.kind in ("classification", "regression", "multi-label")
    return save_adapter(
        model,
        folder / "adapter.safetensors",
        task=task.name,
        class_names=encoded.data.classes,
        max_length=encoded.config.max_length,
        segments=len(encoded.data.splits["train"].texts[0]) if of_texts else None,
        temperature=temperature,
        no_answer_threshold=None if questions is None else questions.threshold,
    )


def _lines(task: EncodedTask) -> list[str]:
    """What is said of a val split that nobody has asked for, and of sentences in pieces."""
    lines = []
    if task.data.protocol == "drawn" and "drawn" not in (task.config.protocol, task.task.protocol):
        count = len(task.data.splits["val"])
        lines = [
            f"val: {count} examples drawn of train, which has no val beside it (--select last trains on all of it)"
        ]
    if task.task.kind == "multi-label":
        names = task.data.classes
        lines.append(f"{len(names)} tags: {', '.join(names[:10])}{', ...' if names[10:] else ''}")
    for name, ids in task.encoded.items():
        if task.task.kind == "tokens" and (more := len(ids) - len(task.data.splits[name])):
            lines.append(f"{name}: long sentences are read in pieces of --max-length, {more} more than sentences")
    return lines


def _warnings(config: TextConfig, task: EncodedTask) -> list[str]:
    warnings = [f"{count} broken rows of {name} are left out" for name, count in task.data.left_out.items()]
    warnings += [f"{name} has no labels and is not used; {PREDICT}" for name in task.data.unlabelled]
    for name, ids in task.encoded.items():
        if ids.cut:
            warnings.append(f"{ids.cut} of {len(ids)} texts of {name} are cut to --max-length {config.max_length}")
    if config.needs_base_weights() and not has_weights(config):
        warnings.append("the base weights are random: leave out --pretrained false")
    return warnings
