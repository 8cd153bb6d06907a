"""From a configuration to everything that a run works with."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .build import build_data_config, build_model, build_transform
from .core.sealed import digest
from .training.config import TrainConfig
from .training.distributed import World
from .training.state import State
from .vision.batches import ImageBatches, ImageUpdates, Normalise
from .vision.data import ImageData, Split, open_data, unreadable
from .vision.mix import make_mix

# options that change neither the weights nor the table of a run
_FREE = {
    "output",
    "workers",
    "cache",
    "resume",
    "overwrite",
    "allow_config_change",
    "checkpoint_interval",
    "data_dir",
    "data_download",
}


@dataclass
class Job:
    """A configuration with everything that was built from it."""

    config: TrainConfig
    world: World
    data: ImageData
    parts: dict[str, Split]
    bad_images: dict[str, str]
    input: dict[str, Any]  # timm's input configuration
    state: State
    train: ImageUpdates
    val: ImageBatches | None
    test: ImageBatches | None
    prepare: Normalise
    mix: Callable[[Any], Any]
    record: dict[str, Any]  # what a run that goes on must have in common with this one

    @property
    def model(self) -> Any:
        """The model on its device."""
        return self.state.model

    def close(self) -> None:
        """Ends the loader processes."""
        for batches in (self.train, self.val, self.test):
            if batches is not None:
                batches.close()


def build_job(config: TrainConfig, world: World, device: torch.device) -> Job:
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
    torch.manual_seed(config.seed)
    model = build_model(config, num_classes=len(data.classes)).to(device)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    image_config = build_data_config(config, model)
    still = build_transform(image_config)
    mine: dict[str, Any] = {"rank": world.rank, "world_size": world.size, "workers": config.workers}
    mine |= {"cache": config.cache, "device": device}
    train = ImageUpdates(
        parts[config.train_split],
        still if config.no_aug else build_transform(image_config, config),
        batch_size=config.batch_size,
        seed=config.seed,
        augmented=not config.no_aug,
        accumulation=config.grad_accum_steps,
        **mine,
    )
    mine["batch_size"] = config.validation_batch_size
    val, test = config.val_split, config.test_split
    if val not in parts and (config.patience is not None or config.select == "best"):
        raise ValueError(f"{config.data} has no split {val!r}, which --patience and --select best need")
    splits = {name: part.record() for name, part in parts.items()}
    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    return Job(
        config=config,
        world=world,
        data=data,
        parts=parts,
        bad_images=bad_images,
        input=image_config,
        state=State(model, config, len(train)),
        train=train,
        val=ImageBatches(parts[val], still, **mine) if val in parts else None,
        test=ImageBatches(parts[test], still, keep=False, **mine) if test in parts else None,
        prepare=Normalise(image_config, device, channels_last=config.channels_last),
        mix=make_mix(
            num_classes=model.num_classes,  # type: ignore[arg-type]
            reprob=config.reprob,
            mixup=config.mixup,
            cutmix=config.cutmix,
            device=device,
        ),
        record={
            "config": binding(plain(config)),
            "processes": world.size,
            "device": device.type,
            "data": {"classes": len(data.classes), "splits": splits},
            "base": digest(frozen),
        },
    )


def plain(config: TrainConfig) -> dict[str, Any]:
    """The configuration as YAML and JSON hold it, less what was said of an earlier run in the folder."""
    alone = dataclasses.replace(config, resume=False, overwrite=False, allow_config_change=False)
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(alone)))
    return values


def binding(config: dict[str, Any]) -> dict[str, Any]:
    """The options that decide about weights and table: what a run that goes on must have in common.

    Options that the configuration lacks, as it is of an older release, stand at their defaults.
    """
    return {name: value for name, value in {**plain(TrainConfig()), **config}.items() if name not in _FREE}


def _split_names(config: TrainConfig, data: ImageData) -> list[str]:
    """The splits that the run uses: train must be there; val and test by their default names may be absent."""
    names = [config.train_split]
    for name, default in ((config.val_split, "val"), (config.test_split, "test")):
        if name is not None and (data.has(name) or name != default):
            names.append(name)
    return names
