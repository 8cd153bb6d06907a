"""The configurations of the measurements: plain dataclasses without torch, from which the command's help is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..options import option

# sets of adapted layers, by name
TARGETS: dict[str, tuple[str, ...]] = {
    "all-linears": ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"),
    "q-v": ("query", "value"),
}
GROUPS = (*TARGETS, "methods")
MEASURES = ("step", "inference", "layer", "memory", "import")


@dataclass(frozen=True)
class Workload:
    """What every measurement needs: a model, a batch, a precision, a machine."""

    model: str = option("vit_small_patch16_224", "timm model: a plain ViT, without weights")
    model_kwargs: dict[str, Any] = option({}, "further arguments of the timm model")
    img_size: int | None = option(None, "image size; none: the model's own")
    batch_size: int = option(8, "synthetic images of a step")
    num_classes: int = option(100, "classes of the head")
    rank: int = option(8, "rank of one branch, and the width of an adapter")
    amp: bool = option(False, "automatic mixed precision")
    amp_dtype: Literal["bfloat16", "float16"] = option("bfloat16", "bfloat16 or float16")
    compile: bool = option(False, "torch.compile, in every case")
    compile_mode: str = option("default", "its mode")
    device: str | None = option(None, "cpu, cuda, ...; none: cuda where there is one")
    threads: int = option(1, "threads of a CPU; with one, the clock is the CPU time of the process")
    repetitions: int = option(15, "rounds in which every case is timed once")
    warmup: int = option(2, "rounds before, which do not count")
    seed: int = option(0, "seed of weights, images and the order in each round")
    budget: float | None = option(None, "seconds after which no new case is started; what is left out is said")

    def __post_init__(self) -> None:
        for name in ("batch_size", "num_classes", "rank", "threads", "repetitions", "warmup"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
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
    """What a training step costs as one thing grows: batch, image, model, rank, number of branches."""

    repetitions: int = option(7, "rounds in which every case is timed once")
    targets: str = option("all-linears", f"adapted layers: {', '.join(TARGETS)}")
    num_branches: int = option(2, "d, where it is not what grows")
    batch_sizes: tuple[int, ...] = option((1, 2, 4, 8, 16), "batch sizes")
    img_sizes: tuple[int, ...] = option((96, 160, 224, 320), "image sizes")
    models: tuple[str, ...] = option(
        ("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224", "vit_large_patch16_224"),
        "timm models, from small to large",
    )
    ranks: tuple[int, ...] = option((2, 4, 8, 16, 32), "ranks")
    branch_counts: tuple[int, ...] = option((1, 2, 4, 8), "values of d; 1 is plain LoRA")
    output: str = option("runs/bench/scale.json", "result file; a table (.md) and a picture (.png) beside it")

    def __post_init__(self) -> None:
        super().__post_init__()
        _among("targets", (self.targets,), tuple(TARGETS))


def _among(name: str, values: tuple[str, ...], known: tuple[str, ...]) -> None:
    for value in values:
        if value not in known:
            raise ValueError(f"--{name}: unknown {value!r}; choose from {', '.join(known)}")
