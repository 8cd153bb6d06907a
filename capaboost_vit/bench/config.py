"""The configurations of the measurements: plain dataclasses without torch, from which the command's help is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..io.options import option
from .shapes import SHAPES

SETS = ("all-linears", "q-v")  # of adapted layers; `models.Family` says which they are
GROUPS = (*SETS, "methods")
MEASURES = ("step", "inference", "layer", "memory", "import")


@dataclass(frozen=True)
class Common:
    """What everything that is measured has."""

    model: str = option("", "model")
    model_kwargs: dict[str, Any] = option({}, "further arguments of the model")
    img_size: int | None = option(None, "image size; none: the model's own")
    batch_size: int = option(8, "images or texts of a step")
    amp: bool = option(False, "automatic mixed precision")
    amp_dtype: Literal["bfloat16", "float16"] = option("bfloat16", "bfloat16 or float16")
    compile: bool = option(False, "torch.compile")
    compile_mode: str = option("default", "its mode")
    device: str | None = option(None, "cpu, cuda, ...; none: cuda where there is one")
    seed: int = option(0, "seed of all that is drawn: weights, inputs, orders")
    budget: float | None = option(None, "seconds after which nothing new is started; what is left out is said")


@dataclass(frozen=True)
class Workload(Common):
    """What is measured without the training loop: a plain model, a synthetic batch, a precision, a machine."""

    model: str = option("vit_small_patch16_224", f"a plain ViT of timm, or a text encoder: {', '.join(SHAPES)}")
    seq_len: int | None = option(None, "tokens of a text; none: 128")
    padding: float = option(0.0, "share of each text that is padding")
    num_classes: int = option(100, "classes of the head")
    rank: int = option(8, "rank of one branch, and the width of an adapter")
    threads: int = option(1, "threads of a CPU; with one, the clock is the CPU time of the process")
    repetitions: int = option(15, "rounds in which every case is timed once")
    warmup: int = option(2, "rounds before, which do not count")

    def __post_init__(self) -> None:
        at_least_one(self, "batch_size", "num_classes", "rank", "threads", "repetitions", "warmup")
        if self.seq_len is not None:
            at_least_one(self, "seq_len")
        if not 0 <= self.padding < 1:
            raise ValueError(f"--padding must be at least 0 and less than 1, got {self.padding}")
        if self.amp_dtype not in ("bfloat16", "float16"):
            raise ValueError(f"--amp-dtype must be bfloat16 or float16, got {self.amp_dtype!r}")


@dataclass(frozen=True)
class SpeedConfig(Workload):
    """What a training step costs, beside the same model with nothing to train and beside other libraries."""

    groups: tuple[str, ...] = option(GROUPS, f"sets of cases, each measured in turn: {', '.join(GROUPS)}")
    cases: tuple[str, ...] = option(("*",), "names or wildcards of cases, such as peft capaboost-d2*; the floor always")
    measures: tuple[str, ...] = option(MEASURES, f"what to measure: {', '.join(MEASURES)}")
    output: str = option("runs/bench/speed.json", "result file; a table (.md) and a picture (.png) beside it")

    def __post_init__(self) -> None:
        super().__post_init__()
        _among("groups", self.groups, GROUPS)
        _among("measures", self.measures, MEASURES)


@dataclass(frozen=True)
class ScaleConfig(Workload):
    """What a training step costs as one thing grows: batch, image, text, model, rank, number of branches."""

    repetitions: int = option(7, "rounds in which every case is timed once")
    targets: str = option("all-linears", f"adapted layers: {', '.join(SETS)}")
    num_branches: int = option(2, "d, where it is not what grows")
    batch_sizes: tuple[int, ...] = option((1, 2, 4, 8, 16), "batch sizes")
    img_sizes: tuple[int, ...] = option((96, 160, 224, 320), "image sizes; none for a text encoder")
    seq_lens: tuple[int, ...] = option((), "tokens of a text; none for a ViT")
    models: tuple[str, ...] = option(
        ("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224", "vit_large_patch16_224"),
        "models, from small to large",
    )
    ranks: tuple[int, ...] = option((2, 4, 8, 16, 32), "ranks")
    branch_counts: tuple[int, ...] = option((1, 2, 4, 8), "values of d; 1 is plain LoRA")
    output: str = option("runs/bench/scale.json", "result file; a table (.md) and a picture (.png) beside it")

    def __post_init__(self) -> None:
        super().__post_init__()
        _among("targets", (self.targets,), SETS)


def at_least_one(config: Any, *names: str) -> None:
    """Raises ValueError for an option that is less than one."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(config, name)}")


def _among(name: str, values: tuple[str, ...], known: tuple[str, ...]) -> None:
    for value in values:
        if value not in known:
            raise ValueError(f"--{name}: unknown {value!r}; choose from {', '.join(known)}")
