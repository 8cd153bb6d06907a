"""The configurations of the measurements: dataclasses without torch, from which the command's help is made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from ..io.options import check_options, option
from ..io.yaml import read_yaml
from ..training.config import DEVICE_HELP

SETS = ("all-linears", "q-v")  # of adapted layers; `models.Family` says which they are
GROUPS = (*SETS, "methods", "frozen-front")
FILES = "files"  # the group of the methods that files name
MEASURES = ("step", "inference", "fewer", "integers", "layer", "memory", "probe", "import")
_ALONE = "inference|fewer|integers|probe"  # measures of cases that are no group
_GOAL = re.compile(rf"(step|memory) ({'|'.join((*GROUPS, FILES))}) \S+ / \S+|({_ALONE}) \S+ / \S+|import")
_GOALS = "step GROUP CASE / CASE, memory GROUP CASE / CASE (or / least), inference, fewer, integers or probe CASE / "
_GOALS += "CASE, import"

# text encoders by name on the hub: the configuration class of transformers, and what differs from its defaults. Models
# are built of them with random weights, none is ever fetched.
SHAPES: dict[str, tuple[str, dict[str, Any]]] = read_yaml(resources.files(__package__) / "shapes.yaml")


@dataclass(frozen=True)
class Workload:
    """What is measured: a plain model, a synthetic batch, a precision, a machine; in so many rounds."""

    model: str = option("vit_small_patch16_224", f"ViT of timm, or text encoder: {', '.join(SHAPES)}")
    model_kwargs: dict[str, Any] = option({}, "further arguments of the model")
    img_size: int | None = option(None, "image size in pixels; null: the model's own", low=1)
    seq_len: int | None = option(None, "tokens of a text; null: 128", low=1)
    padding: float = option(0.0, "share of each text that is padding", low=0, below=1)
    num_classes: int = option(100, "number of classes", low=1)
    batch_size: int = option(8, "examples of a step", low=1)
    rank: int = option(8, "rank of a branch, and width of an adapter", low=1)
    amp: bool = option(False, "automatic mixed precision")
    amp_dtype: Literal["bfloat16", "float16"] = option("bfloat16", "data type of --amp")
    compile: bool = option(False, "compile the model by torch.compile")
    compile_mode: str = option("default", "mode of --compile")
    device: str | None = option(None, DEVICE_HELP)
    threads: int = option(1, "CPU threads; with 1, CPU time is measured in place of wall time", low=1)
    seed: int = option(0, "seed of weights, inputs and the order of the cases")
    repetitions: int = option(15, "rounds; each times every case once", low=1)
    warmup: int = option(2, "rounds before these that are not counted", low=1)
    budget: float | None = option(
        None, "seconds after which no new case is started; omitted cases are listed; null: no limit"
    )

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class SpeedConfig(Workload):
    """What a training step costs, beside the same model with nothing to train and beside other libraries."""

    groups: tuple[str, ...] = option(GROUPS, f"sets of cases, measured in turn: {', '.join(GROUPS)}", choices=GROUPS)
    methods: tuple[str, ...] = option(
        (),
        "YAML files for `capaboost train --config`, one per method, such as configs/vtab1k/*.yaml, whose step and "
        "memory are measured in place of --groups",
    )
    cases: tuple[str, ...] = option(
        ("*",), "cases: names or wildcards, such as peft capaboost-d2*; the floor is always measured"
    )
    measures: tuple[str, ...] = option(MEASURES, f"what to measure: {', '.join(MEASURES)}", choices=MEASURES)
    goals: dict[str, Any] = option(
        {},
        "upper bounds of results, or [lower, upper], such as {step q-v capaboost-d2 / floor: 1.02}; exit code 1 if "
        "missed",
    )
    output: str = option(
        "runs/bench/speed.json", "result file (.json); a table (.md) and a plot (.png) are written next to it"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, bound in self.goals.items():
            if not _GOAL.fullmatch(name):
                raise ValueError(f"--goals: no goal {name!r}; write one of {_GOALS}")
            numbers = bound if isinstance(bound, list | tuple) and len(bound) == 2 else [bound]
            if not all(isinstance(number, int | float) for number in numbers):
                raise ValueError(f"--goals: the bound of {name!r} must be a number or [least, most], got {bound!r}")


@dataclass(frozen=True)
class ScaleConfig(Workload):
    """What a training step costs as one thing grows: batch, image, text, model, rank, number of branches."""

    repetitions: int = option(7, "rounds; each times every case once")
    targets: str = option("all-linears", f"adapted layers: {', '.join(SETS)}", choices=SETS)
    num_branches: int = option(2, "d, number of branches, where --branch-counts is not varied", low=1)
    batch_sizes: tuple[int, ...] = option((1, 2, 4, 8, 16), "batch sizes", low=1)
    img_sizes: tuple[int, ...] = option((96, 160, 224, 320), "image sizes in pixels, for ViTs", low=1)
    seq_lens: tuple[int, ...] = option((), "tokens of a text, for text encoders", low=1)
    models: tuple[str, ...] = option(
        ("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224", "vit_large_patch16_224"),
        "models, from small to large",
    )
    ranks: tuple[int, ...] = option((2, 4, 8, 16, 32), "ranks", low=1)
    branch_counts: tuple[int, ...] = option((1, 2, 4, 8), "numbers of branches d; 1 is plain LoRA", low=1)
    output: str = option(
        "runs/bench/scale.json", "result file (.json); a table (.md) and a plot (.png) are written next to it"
    )


@dataclass(frozen=True)
class ProcessesConfig(Workload):
    """A training step of CapaBoost-LoRA on one process and on several, each with a GPU or cores of its own."""

    batch_size: int = option(
        8, "examples of an update: measured as those of each process, and as those of all together"
    )
    targets: str = option("q-v", f"adapted layers: {', '.join(SETS)}", choices=SETS)
    num_branches: int = option(2, "d, number of branches; 1 is plain LoRA", low=1)
    processes: tuple[int, ...] = option(
        (), "numbers of processes to compare with one; by default 2 and all GPUs", low=1
    )
    threads: int = option(1, "CPU threads of each process")
    repetitions: int = option(20, "rounds; each times an update for every number of processes")
    warmup: int = option(5, "rounds before these that are not counted")
    output: str = option("runs/bench/processes.json", "result file (.json); a table (.md) is written next to it")


@dataclass(frozen=True)
class CapacityConfig:
    """How much of the update of a full fine-tuning plain and masked low-rank updates can hold."""

    full: str = option("", "folder of a finished run of images with --method.name full")
    initial_checkpoint: str | None = option(None, "local file with the base weights; null: those of the run")
    targets: tuple[str, ...] = option(("query", "value"), "adapted layers: roles or name patterns")
    ranks: tuple[int, ...] = option((1, 2, 4, 8), "ranks r of the shared factors", low=1)
    branch_counts: tuple[int, ...] = option((2,), "numbers of branches d", low=1)
    patterns: tuple[str, ...] = option(("random", "complementary", "sign"), "mask patterns")
    mask_seed: int = option(0, "seed of the masks")
    iterations: int = option(150, "iterations of L-BFGS, from each of two starts", low=1)
    threads: int = option(1, "CPU threads", low=1)
    output: str = option(
        "runs/bench/capacity.json", "result file (.json); a table (.md) and a plot (.png) are written next to it"
    )

    def __post_init__(self) -> None:
        check_options(self)
        if not self.ranks:
            raise ValueError("--ranks must be numbers of at least 1")
