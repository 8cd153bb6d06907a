"""From a configuration of images to everything that a run works with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..io.sealed import digest
from ..training.distributed import World
from ..training.job import Job, binding, plain
from ..training.objective import Classification
from ..training.state import State
from .adapters import save_adapter
from .build import build_data_config, build_model, build_transform
from .config import TrainConfig
from .data import ImageData, few_shot, open_data, unreadable
from .loader import Normalise, image_eval_loader, image_train_loader
from .mix import make_mix


def build_image_job(config: TrainConfig, world: World, device: torch.device) -> Job:
    """Builds everything but the folder, so that a mistake shows before anything is written.

    Raises:
        ValueError, TypeError, FileNotFoundError: a model, method, data set or file that does not exist or fit.
    """
    data = open_data(
        config.data,
        image_column=config.image_column,
        label_column=config.label_column,
        root=config.data_dir,
        download=config.data_download,
    )
    parts = {name: data.split(name) for name in _split_names(config, data)}
    bad_images: dict[str, str] = {}
    if config.bad_images == "skip":
        split = parts[config.train_split]
        reasons = unreadable(split, workers=config.workers)
        bad_images = {split.names[index]: reason for index, reason in reasons.items()}
        parts[config.train_split] = split.without(reasons)
    if config.shots is not None:
        drawn = few_shot(parts[config.train_split], config.shots, seed=config.seed, classes=data.classes)
        parts[config.train_split] = drawn
    torch.manual_seed(config.seed)
    model = build_model(config, num_classes=len(data.classes)).to(device)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    image_config = build_data_config(config, model)
    eval_transform = build_transform(image_config)
    shared: dict[str, Any] = {"rank": world.rank, "world_size": world.size, "workers": config.workers}
    shared |= {"cache": config.cache, "device": device}
    train = image_train_loader(
        parts[config.train_split],
        eval_transform if config.no_aug else build_transform(image_config, config),
        batch_size=config.batch_size,
        seed=config.seed,
        augmented=not config.no_aug,
        accumulation=config.grad_accum_steps,
        **shared,
    )
    shared["batch_size"] = config.validation_batch_size
    val, test = config.val_split, config.test_split
    if val not in parts and (config.patience is not None or config.select == "best"):
        raise ValueError(f"{config.data} has no split {val!r}, which --patience and --select best need")
    splits = {name: part.record() for name, part in parts.items()}
    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    return Job(
        config=config,
        world=world,
        title=f"{config.model} on {Path(config.data).name}",
        data=config.data,
        classes=data.classes,
        sizes={name: len(part) for name, part in parts.items()},
        names=parts[config.train_split].names.__getitem__,
        state=State(model, config, len(train)),
        objective=Classification(smoothing=config.smoothing),
        train=train,
        val=image_eval_loader(parts[val], eval_transform, **shared) if val in parts else None,
        test=image_eval_loader(parts[test], eval_transform, keep=False, **shared) if test in parts else None,
        prepare=Normalise(image_config, device, channels_last=config.channels_last),
        mix=make_mix(
            num_classes=model.num_classes,  # type: ignore[arg-type]
            reprob=config.reprob,
            mixup=config.mixup,
            cutmix=config.cutmix,
            device=device,
        ),
        save=lambda folder: save_adapter(
            model, folder / "adapter.safetensors", class_names=data.classes, data_config=image_config
        ),
        record={
            "config": binding(plain(config), TrainConfig),
            "processes": world.size,
            "device": device.type,
            "data": {"classes": len(data.classes), "splits": splits},
            "base": digest(frozen),
        },
        more={"bad_images": bad_images},
        warnings=_warnings(config, bad_images),
    )


def _warnings(config: TrainConfig, bad_images: dict[str, str]) -> list[str]:
    found = []
    if bad_images:
        name, reason = next(iter(bad_images.items()))
        found.append(f"{len(bad_images)} training images cannot be read and are left out ({name}: {reason})")
    if not (config.pretrained or config.initial_checkpoint or config.method.get("name") == "full"):
        found.append("the base weights are random: say --pretrained, or --initial-checkpoint FILE")
    return found


def _split_names(config: TrainConfig, data: ImageData) -> list[str]:
    """The splits that the run uses: train must be there; val and test by their default names may be absent."""
    names = [config.train_split]
    for name, default in ((config.val_split, "val"), (config.test_split, "test")):
        if name is not None and (data.has(name) or name != default):
            names.append(name)
    return names
