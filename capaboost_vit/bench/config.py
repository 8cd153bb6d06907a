"""The configurations of the measurements: dataclasses without torch, from which the command's help is made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from ..io.options import check_options, option
from ..io.yaml import read_yaml

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

    model: str = option("vit_small_patch16_224", f"a plain ViT of timm, or a text encoder: {', '.join(SHAPES)}")
    model_kwargs: dict[str, Any] = option({}, "further arguments of the model")
    img_size: int | None = option(None, "image size; none: the model's own", low=1)
    seq_len: int | None = option(None, "tokens of a text; none: 128", low=1)
    padding: float = option(0.0, "share of each text that is padding", low=0, below=1)
    num_classes: int = option(100, "classes of the head", low=1)
    batch_size: int = option(8, "images or texts of a step", low=1)
    rank: int = option(8, "rank of one branch, and the width of an adapter", low=1)
    amp: bool = option(False, "automatic mixed precision")
    amp_dtype: Literal["bfloat16", "float16"] = option("bfloat16", "bfloat16 or float16")
    compile: bool = option(False, "torch.compile")
    compile_mode: str = option("default", "its mode")
    device: str | None = option(None, "cpu, cuda, ...; none: cuda where there is one")
    threads: int = option(1, "threads of a CPU; with one, the clock is the CPU time of the process", low=1)
    seed: int = option(0, "seed of all that is drawn: weights, inputs, orders")
    repetitions: int = option(15, "rounds in which every case is timed once", low=1)
    warmup: int = option(2, "rounds before, which do not count", low=1)
    budget: float | None = option(None, "seconds after which nothing new is started; what is left out is said")

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class SpeedConfig(Workload):
    """What a training step costs, beside the same model with nothing to train and beside other libraries."""

    groups: tuple[str, ...] = option(GROUPS, f"sets of cases, measured in turn: {', '.join(GROUPS)}", choices=GROUPS)
    methods: tuple[str, ...] = option(
        (),
        "files of `capaboost train --config`, one a method, such as configs/vtab1k/*.yaml: the steps and the memory of "
        "these are measured, in place of the groups",
    )
    cases: tuple[str, ...] = option(("*",), "names or wildcards of cases, such as peft capaboost-d2*; the floor always")
    measures: tuple[str, ...] = option(MEASURES, f"what to measure: {', '.join(MEASURES)}", choices=MEASURES)
    goals: dict[str, Any] = option(
        {}, "the most that results may be (or [least, most]), such as {step q-v capaboost-d2 / floor: 1.02}"
    )
    output: str = option("runs/bench/speed.json", "result file; a table (.md) and a picture (.png) beside it")

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

    repetitions: int = option(7, "rounds in which every case is timed once")
    targets: str = option("all-linears", f"adapted layers: {', '.join(SETS)}", choices=SETS)
    num_branches: int = option(2, "d, where it is not what grows", low=1)
    batch_sizes: tuple[int, ...] = option((1, 2, 4, 8, 16), "batch sizes", low=1)
    img_sizes: tuple[int, ...] = option((96, 160, 224, 320), "image sizes; none for a text encoder", low=1)
    seq_lens: tuple[int, ...] = option((), "tokens of a text; none for a ViT", low=1)
    models: tuple[str, ...] = option(
        ("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224", "vit_large_patch16_224"),
        "models, from small to large",
    )
    ranks: tuple[int, ...] = option((2, 4, 8, 16, 32), "ranks", low=1)
    branch_counts: tuple[int, ...] = option((1, 2, 4, 8), "values of d; 1 is plain LoRA", low=1)
    output: str = option("runs/bench/scale.json", "result file; a table (.md) and a picture (.png) beside it")


@dataclass(frozen=True)
class ProcessesConfig(Workload):
    """A training step of CapaBoost-LoRA on one process and on several, each with a GPU or cores of its own."""

    batch_size: int = option(8, "images or texts of an update: those of each process, and once more those of all")
    targets: str = option("q-v", f"adapted layers: {', '.join(SETS)}", choices=SETS)
    num_branches: int = option(2, "d; 1 is plain LoRA", low=1)
    processes: tuple[int, ...] = option((), "numbers of processes beside one; none: 2 and all GPUs", low=1)
    threads: int = option(1, "threads of each process on a CPU")
    repetitions: int = option(20, "rounds in which every number of processes makes an update")
    warmup: int = option(5, "rounds before, which do not count")
    output: str = option("runs/bench/processes.json", "result file; a table (.md) beside it")


@dataclass(frozen=True)
class CapacityConfig:
    """How much of the update of a full fine-tuning plain and masked low-rank updates can hold."""

    full: str = option("", "folder of a finished run of images with --method.name full")
    initial_checkpoint: str | None = option(None, "file of the base weights; none: the run's own")
    targets: tuple[str, ...] = option(("query", "value"), "adapted layers: roles or name patterns")
    ranks: tuple[int, ...] = option((1, 2, 4, 8), "ranks r of the shared factors", low=1)
    branch_counts: tuple[int, ...] = option((2,), "values of d", low=1)
    patterns: tuple[str, ...] = option(("random", "complementary", "sign"), "mask patterns")
    mask_seed: int = option(0, "seed of the masks")
    iterations: int = option(150, "of L-BFGS, from each of two starts", low=1)
    threads: int = option(1, "threads of the CPU", low=1)
    output: str = option("runs/bench/capacity.json", "result file; a table (.md) and a picture (.png) beside it")

    def __post_init__(self) -> None:
        check_options(self)
        if not self.ranks:
            raise ValueError("--ranks must be numbers of at least 1")
