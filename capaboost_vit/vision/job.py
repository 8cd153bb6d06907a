"""The training job of a configuration of images."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..io.sources import short_name, sources_of
from ..training.distributed import ProcessGroup
from ..training.evaluation import try_out
from ..training.job import Job, require_val
from ..training.loader import EvalLoader, TrainLoader
from ..training.sharding import to_device
from ..training.short_cuts import take_short_cuts
from ..training.state import State
from .adapters import save_adapter
from .build import build_data_config, build_model, build_transform, check_model, make_mix
from .class_row import logits_only
from .config import TrainConfig
from .data import ImageData, Split, few_shot, open_configured, refuse_narrow, unreadable
from .frozen_front import divide
from .imbalance import class_weights, imbalance_lines, imbalance_warnings
from .loader import ImageExamples, Normalise, image_eval_loader
from .targets import Scale, check_variety, make_objective, refuse_for_classes_alone, targets_of
from .weights import local_folder


def build_image_job(config: TrainConfig, world: ProcessGroup, device: torch.device) -> Job:
    """Builds everything but the folder, so that a mistake shows before anything is written.

    Raises:
        ValueError, TypeError, FileNotFoundError: a model, method, data set or file that does not exist or fit.
    """
    check_model(config)  # before the data are opened, which may take a download
    if not config.data:
        raise ValueError("--data is missing: give a folder of class folders, or digits to try it; --help has others")
    data = open_configured(vars(config))
    splits = {name: data.split(name) for name in _split_names(config, data)}
    bad_images: dict[str, str] = {}
    if config.bad_images == "skip":
        read = splits[config.train_split]
        reasons = unreadable(read, workers=config.workers)
        bad_images = {read.names[index]: reason for index, reason in reasons.items()}
        splits[config.train_split] = read.only(index for index in range(len(read)) if index not in reasons)
    if data.task != "classification":
        refuse_for_classes_alone(config, data.task)
    if config.shots is not None:
        drawn = few_shot(splits[config.train_split], config.shots, seed=config.seed, classes=data.classes)
        splits[config.train_split] = drawn
    labels = splits[config.train_split].labels
    check_variety(config, data, splits[config.train_split])
    refuse_narrow(splits[config.train_split])
    val, test = config.val_split, config.test_split
    require_val(config, splits, val)
    torch.manual_seed(config.seed)
    built = build_model(config, num_classes=len(data.classes) or 1, task_classes=data.task_classes)
    model = to_device(built, config, world, device)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    image_config = build_data_config(config, model)
    if config.value_range is not None:
        image_config["value_range"] = list(config.value_range)
    eval_transform = build_transform(image_config)
    train_transform = eval_transform if config.no_aug else build_transform(image_config, config)
    prepare = Normalise(image_config, device, channels_last=config.channels_last)

    def example() -> torch.Tensor:
        picture = Image.new("RGB", (64, 48))
        pixels = [torch.as_tensor(transform(picture)) for transform in (eval_transform, train_transform)]
        return prepare((torch.stack(pixels), torch.zeros(2)))[0]

    hint = ""
    if config.img_size:
        given = " ".join(map(str, image_config["input_size"][-1 if isinstance(config.img_size, int) else -2 :]))
        hint = f"; leave --img-size {given} out, or take multiples of the patch size"
    try_out(model, example, config, hint=hint)
    shard: dict[str, Any] = {"rank": world.rank, "world_size": world.size}
    scale = Scale.of(labels) if data.task == "regression" else None
    outputs: int = model.num_classes  # type: ignore[assignment]
    targets = {name: targets_of(data.task, split, outputs=outputs, scale=scale) for name, split in splits.items()}
    if data.task != "classification":
        image_config["task"] = data.task
    if scale is not None:
        image_config["scale"] = [scale.mean, scale.std]
    reading: dict[str, Any] = {"workers": config.workers, "cache": config.cache, "device": device}
    train = TrainLoader(
        ImageExamples(
            splits[config.train_split],
            train_transform,
            seed=None if config.no_aug else config.seed,
            targets=targets[config.train_split],
            **reading,
        ),
        batch_size=config.batch_size,
        seed=config.seed,
        accumulation=config.grad_accum_steps,
        balanced=np.array(labels) if config.sampling == "balanced" else None,
        **shard,
    )
    weights = None
    if config.class_weights is not None:
        weights = class_weights(config.class_weights, labels, data.classes, outputs=outputs).to(device)

    def held_out(name: str, **options: Any) -> EvalLoader:
        options |= {"batch_size": config.validation_batch_size, "targets": targets[name], **shard, **reading}
        return image_eval_loader(splits[name], eval_transform, **options)

    job = Job(
        config=config,
        world=world,
        title=f"{config.model} on {short_name(config.data)}",
        data=config.data,
        classes=data.classes,
        tasks=data.tasks,
        sizes={name: len(split) for name, split in splits.items()},
        splits={name: split.record() for name, split in splits.items()},
        names=splits[config.train_split].names.__getitem__,
        state=State(model, config, len(train)),
        objective=make_objective(config, data.task, classes=data.classes, weights=weights, scale=scale),
        train=train,
        val=held_out(val) if val in splits else None,
        test=held_out(test, keep=False) if test in splits else None,
        prepare=prepare,
        mix=make_mix(config, num_classes=model.num_classes, device=device),  # type: ignore[arg-type]
        save=lambda folder, temperature: save_adapter(
            model,
            folder / "adapter.safetensors",
            class_names=data.classes,
            data_config=image_config,
            temperature=temperature,
        ),
        extra_results={"bad_images": bad_images},
        lines=[*imbalance_lines(config, data, labels)],
        warnings=[
            *data.left_out,
            *_missing_classes(config, data, splits),
            *imbalance_warnings(config, data, labels),
            *_warnings(config, bad_images),
        ],
    )
    random = not config.no_aug or config.reprob > 0 or config.mixup > 0 or config.cutmix > 0
    take_short_cuts(job, logits_only=logits_only, divide=divide, example=example, random=random)
    return job


def _missing_classes(config: TrainConfig, data: ImageData, splits: dict[str, Split]) -> Iterator[str]:
    """A line for each split that lacks classes and should not: that of training, and slices of others."""
    for name, split in splits.items():
        if data.classes and (name == config.train_split or "[" in name):
            present = {*split.labels} if data.task == "classification" else {*chain(*split.labels)}
            missing = [cls for label, cls in enumerate(data.classes) if label not in present]
            if missing:
                some = ", ".join(missing[:3]) + (", ..." if missing[3:] else "")
                yield (
                    f"{name} has no image of {len(missing)} of {len(data.classes)} classes ({some}); of a set that is "
                    f"sorted by class take parts of mixed(...), such as mixed(train)[:90%]"
                )


def _warnings(config: TrainConfig, bad_images: dict[str, str]) -> list[str]:
    warnings = []
    if bad_images:
        name, reason = next(iter(bad_images.items()))
        warnings.append(f"{len(bad_images)} training images cannot be read and are left out ({name}: {reason})")
    has_weights = config.pretrained or config.initial_checkpoint or local_folder(config.model)
    if config.needs_base_weights() and not has_weights:
        warnings.append("the base weights are random: say --pretrained, or --initial-checkpoint FILE")
    if any(source.startswith("sprites:") for source in sources_of(config.data)) and not config.no_aug:
        warnings.append(
            f"crops and flips change the answers of {config.data}, which are those of whole images: say --no-aug true"
        )
    return warnings


def _split_names(config: TrainConfig, data: ImageData) -> list[str]:
    """The splits that the run uses: train must be there; val and test by their default names may be absent."""
    names = [config.train_split]
    for name, default in ((config.val_split, "val"), (config.test_split, "test")):
        if name is not None and (data.has(name) or name != default):
            names.append(name)
    return names
