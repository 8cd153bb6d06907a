"""A tiny model, batches that never change, a log that keeps what it is told, and training with them."""

from __future__ import annotations

import math
from typing import NamedTuple

import timm
import torch
from torch.nn import functional as F

from capaboost_vit.core.seeds import words
from capaboost_vit.training.distributed import ProcessGroup
from capaboost_vit.training.job import Job
from capaboost_vit.training.loop import fit
from capaboost_vit.training.objective import classification
from capaboost_vit.training.signals import StopSignals
from capaboost_vit.training.state import State
from capaboost_vit.vision.config import TrainConfig

SMALL = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
FAST = {"epochs": 4, "lr": 1e-2, "drop_path": 0.0, "log_interval": 1}


class Step(NamedTuple):
    """What `fit` takes as an update."""

    batches: list
    size: int
    indices: list


class Fixed:
    """Three batches of noise, the last one smaller, that another epoch gives in another order, each in `parts`."""

    def __init__(self, sizes=(8, 8, 5), image=(3, 16, 16), classes=3, *, parts=1):
        self.parts = parts
        draw = torch.Generator().manual_seed(0)
        self.batches = [
            (torch.randn(size, *image, generator=draw), torch.randint(classes, (size,), generator=draw))
            for size in sizes
        ]
        sums = [image.sum().item() for images, _ in self.batches for image in images]
        self.places = {value: place for place, value in enumerate(sums)}

    def __len__(self):
        return len(self.batches)

    def order(self, epoch):
        shift = epoch % max(1, len(self))
        return self.batches[shift:] + self.batches[:shift]

    def epoch(self, epoch, start=0):
        for images, labels in self.order(epoch)[start:]:
            parts = min(self.parts, len(labels))
            batches = list(zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True))
            yield Step(batches, len(labels), [self.places[image.sum().item()] for image in images])

    def __iter__(self):
        return iter(self.batches)


class Records:
    """In the place of a Log: keeps what it is told."""

    def __init__(self):
        self.rows, self.losses, self.norms, self.rates, self.updates = [], [], [], [], []

    def start(self, update):
        pass

    def inputs(self, inputs):
        pass

    def step(self, update, images, values):
        self.updates.append(update)
        self.losses.append(values["loss"])
        self.norms.append(values["grad_norm"])
        self.rates.append(values["lr"])
        return 0.25

    def epoch(self, rows, *, per_second):
        self.rows = list(rows)


def begin(model, batches=None, **options):
    """The state before the first update."""
    return State(model, TrainConfig(**{**FAST, **options}), len(Fixed() if batches is None else batches))


def job_of(state, train, val=None, *, prepare=lambda batch: batch, **options):
    """A job of batches that are there already."""
    nothing = {"classes": (), "sizes": {}, "splits": {}, "names": str, "test": None, "save": lambda folder: folder}
    options = {"world": ProcessGroup(), "objective": classification(smoothing=state.config.smoothing), **options}
    fields = {"config": state.config, "title": "toy", "data": "toy", **nothing, **options}
    return Job(state=state, train=train, val=val, prepare=prepare, **fields)


def go_on(state, batches=None, val=None, *, save=lambda state: None, stop=None, **options):
    """Trains to the end; returns what was recorded. `options` are fields of the job."""
    log = Records()
    log.state = state
    job = job_of(state, Fixed() if batches is None else batches, val, **options)
    fit(job, log, save=save, stop=stop or StopSignals())
    return log


def train(model, batches=None, val=None, *, hooks=None, **options):
    """Trains from the start; `hooks` are the other arguments of `go_on`, `options` those of the configuration."""
    return go_on(begin(model, batches, **options), batches, val, **(hooks or {}))


def small(method="lora", **options):
    torch.manual_seed(7)
    return timm.create_model(f"vit_tiny_capaboost_{method}", **{**SMALL, **options})


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def trained_names(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def largest_difference(first, second):
    return max((first[name].double() - second[name].double()).abs().max().item() for name in first)


def textbook(model, batches, *, epochs, lr, warmup, weight_decay=1e-4, smoothing=0.0, clip=None, seed=0):
    """The same training, written out: AdamW, decay for matrices only, linear warm-up and a cosine by formula."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    flat = [p for name, p in named if p.ndim <= 1]
    groups = [{"params": flat, "weight_decay": 0.0}, {"params": [p for _, p in named if p.ndim > 1]}]
    optimizer = torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay)
    losses, done, all_steps, ramp = [], 0, epochs * len(batches), warmup * len(batches)
    model.train()
    for epoch in range(epochs):
        for images, labels in batches.order(epoch):
            torch.manual_seed(words("update", seed, done, 0)[2])
            if done < ramp:
                now = 1e-7 + (lr - 1e-7) * done / ramp
            else:
                now = 0.5 * lr * (1 + math.cos(math.pi * (done - ramp) / (all_steps - ramp)))
            for group in optimizer.param_groups:
                group["lr"] = now
            loss = F.cross_entropy(model(images), labels, label_smoothing=smoothing)
            optimizer.zero_grad()
            loss.backward()
            if clip is not None:
                norm = torch.stack([p.grad.norm() for _, p in named]).norm()
                for _, p in named:
                    p.grad.mul_(min(1.0, clip / norm.item()))
            optimizer.step()
            done += 1
            losses.append(loss.item())
    return losses


class Scripted:
    """Four images whose labels make so many answers of the model right, evaluation by evaluation; notes the model."""

    def __init__(self, model, rights):
        self.model, self.rights, self.seen = model, iter(rights), []
        self.images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))

    def __iter__(self):
        self.seen.append(state(self.model))
        labels = self.model(self.images).argmax(-1)
        labels[next(self.rights) :] += 1
        yield self.images, labels % 3


class Saves:
    """A `save` that notes the model after each number of updates, the last time that it is called there."""

    def __init__(self):
        self.models, self.calls = {}, []

    def __call__(self, at):
        self.calls.append(at.progress.update)
        self.models[at.progress.update] = state(at.model)
