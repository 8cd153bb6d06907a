"""The configuration of a run: plain dataclasses without torch, from which the command line's help is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..options import option


@dataclass(frozen=True)
class RunConfig:
    """What every training run has, whatever it is trained on; names are those of timm's train.py where it has them."""

    # what and where
    model: str = option("", "model")
    data: str = option("", "data set")
    output: str = option("runs/train", "folder of the run")
    method: dict[str, Any] = option({}, "method options; `name` is needed where the model's name has no method")
    pretrained: bool = option(False, "fetch the base weights from the hub")
    resume: bool = option(False, "go on with the run in the output folder; without a checkpoint there, start it")
    allow_config_change: bool = option(False, "resume with other options than the run was started with")
    overwrite: bool = option(False, "replace what is in the output folder")

    # optimisation
    epochs: int = option(100, "passes over the training split")
    max_steps: int | None = option(None, "number of updates, whatever the epochs")
    batch_size: int = option(64, "examples of one update, over all processes and accumulation steps")
    grad_accum_steps: int = option(1, "parts in which the examples of an update are computed, to save memory")
    validation_batch_size: int = option(256, "examples at a time in evaluation")
    opt: str = option("adamw", "optimizer, any of timm.optim")
    lr: float = option(1e-3, "learning rate")
    weight_decay: float = option(1e-4, "weight decay; not for biases and norms")
    momentum: float = option(0.9, "momentum, for optimizers that have it")
    layer_decay: float | None = option(None, "layer-wise decay of the learning rate")
    sched: str = option("cosine", "schedule, any of timm.scheduler; none: constant")
    decay_rate: float = option(0.1, "its rate (step) or power (poly; 1 is linear)")
    warmup_epochs: int | None = option(None, "epochs of linear warm-up; none: a tenth of all")
    warmup_steps: float | None = option(None, "updates of warm-up, instead of epochs; below 1: their share of all")
    warmup_lr: float = option(1e-7, "learning rate at the start of the warm-up")
    min_lr: float = option(0.0, "learning rate at the end of the schedule")
    clip_grad: float | None = option(None, "clip the norm of the gradient")
    smoothing: float = option(0.0, "label smoothing")
    model_ema: bool = option(False, "evaluate and keep an exponential moving average of what is trained")
    model_ema_decay: float = option(0.9998, "its decay, after a warm-up")
    grad_checkpointing: bool = option(False, "recompute blocks in the backward pass to save memory")

    # choice of the model; the test split has no part in it
    val_interval: int = option(1, "epochs between evaluations on val")
    patience: int | None = option(None, "stop after so many evaluations on val without a better one")
    select: Literal["last", "best"] = option("last", "the model that is kept: last, or best on val")

    # machine
    amp: bool = option(False, "automatic mixed precision")
    amp_dtype: str = option("bfloat16", "bfloat16 or float16")
    compile: bool = option(False, "torch.compile")
    compile_mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = option(
        "default", "its mode: default; reduce-overhead (CUDA graphs, for small models and batches); max-autotune"
    )
    device: str | None = option(None, "cpu, cuda, ...; none: cuda where there is one")
    seed: int = option(0, "seed of data order, head, dropout and branches; the masks have their own (method.mask_seed)")
    log_interval: int = option(50, "updates between TensorBoard points")
    checkpoint_interval: int | None = option(None, "updates between checkpoints, beside the one after each epoch")

    def __post_init__(self) -> None:
        ranges = {"smoothing": (0, 1), "model_ema_decay": (0, 1), "warmup_epochs": (0, self.epochs)}

        for name in _AT_LEAST_ONE:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{flag(name)} must be at least 1, got {getattr(self, name)}")
        check_at_least_zero(self, ("seed",) if self.warmup_steps is None else ("seed", "warmup_steps"))
        for name in ("lr", "clip_grad"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{flag(name)} must be positive, got {getattr(self, name)}")
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if value is not None and not low <= value < high:
                top = f"epochs = {high}" if name == "warmup_epochs" else f"{high}"
                raise ValueError(f"{flag(name)} must lie in [{low}, {top}), got {value}")
        check_choices(self, _CHOICES)
        if self.grad_accum_steps > self.batch_size:
            raise ValueError(
                f"--grad-accum-steps {self.grad_accum_steps} is more than the {self.batch_size} {self.unit} of "
                "--batch-size"
            )
        if self.compile_mode != "default" and not self.compile:
            raise ValueError("--compile-mode has no effect without compilation: add --compile true")
        if self.compile_mode in ("reduce-overhead", "max-autotune") and self.grad_accum_steps > 1:
            raise ValueError(
                f"--compile-mode {self.compile_mode} cannot add up gradients, as its CUDA graphs overwrite them: take "
                "default or max-autotune-no-cudagraphs with --grad-accum-steps"
            )
        if self.resume and self.overwrite:
            raise ValueError("--resume goes on with a run, --overwrite replaces it: choose one")

    @property
    def unit(self) -> str:
        """What a batch is counted in."""
        return "examples"


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """Options of `capaboost train`; names are those of timm's train.py where it has the option.

    The defaults are the standard VTAB-1k recipe: AdamW, lr 1e-3, weight decay 1e-4, batch 64, 100 epochs with a tenth
    of warm-up and a cosine, drop path 0.1, no augmentation.
    """

    # what and where
    model: str = option("vit_base_capaboost_lora", "timm model name; *_capaboost_* names bring their method with them")
    data: str = option(
        "digits",
        "digits, an image folder or zip, a folder with lists (train800.txt, test.txt, ...), parquet, a hub id "
        "(owner/name), torchvision:NAME",
    )
    pretrained: bool = option(False, "fetch the base weights from timm's hub")
    initial_checkpoint: str | None = option(None, "local file with the base weights (.safetensors or .pth)")
    model_kwargs: dict[str, Any] = option({}, "further arguments of the timm model")
    num_classes: int | None = option(None, "number of classes; none: those of the data")

    # data
    train_split: str = option(
        "train", "training split or list: its name, or an expression such as train[:800], train+val, mixed(train)[200:]"
    )
    val_split: str | None = option("val", "validation split, likewise; none: no validation")
    test_split: str | None = option("test", "test split, likewise, used once, at the end; none: no test")
    shots: int | None = option(None, "few-shot: images of each class that are drawn from the training split by --seed")
    image_column: str | None = option(None, "column of the images (hub, parquet); none: found by its type")
    label_column: str | None = option(None, "column of the labels (hub, parquet); none: found by type or name")
    data_dir: str | None = option(None, "folder of torchvision's data sets")
    data_download: bool = option(False, "let torchvision download the data set")
    bad_images: Literal["error", "skip"] = option(
        "error", "images that cannot be read: error, or skip those of training (counted; never in evaluation)"
    )
    img_size: int | None = option(None, "image size; none: the model's own")
    crop_pct: float | None = option(None, "share of the resized image that is kept; none: the model's own")
    crop_mode: str | None = option(None, "center, squash (plain resize to a square) or border; none: the model's own")
    interpolation: str | None = option(None, "resize interpolation; none: the model's own")
    no_aug: bool = option(True, "no training augmentation; false: random crop, flip and those below")
    scale: tuple[float, float] = option((0.08, 1.0), "random crop: range of areas")
    ratio: tuple[float, float] = option((0.75, 4 / 3), "random crop: range of aspect ratios")
    hflip: float = option(0.5, "probability of a horizontal flip")
    vflip: float = option(0.0, "probability of a vertical flip")
    color_jitter: float = option(0.4, "strength of the colour jitter")
    aa: str | None = option(None, "timm's auto-augment policy, such as rand-m9-mstd0.5")
    reprob: float = option(0.0, "random erasing: probability")
    mixup: float = option(0.0, "mixup: alpha of its beta distribution; 0: none")
    cutmix: float = option(0.0, "cutmix: alpha; with mixup too, each batch gets one of them")
    workers: int = option(0, "data loader processes")
    cache: Literal["auto", "memory", "device", "none"] = option(
        "auto",
        "where images stay once they are read: memory (the first GiB of a split; so with augmentation always), device "
        "(all), none; auto: device on a GPU of whose free memory they take a tenth at most, else memory",
    )

    # optimisation and machine
    drop_path: float = option(0.1, "stochastic depth")
    channels_last: bool = option(False, "torch's channels_last memory format, for models with convolutions")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shots is not None and self.shots < 1:
            raise ValueError(f"--shots must be at least 1, got {self.shots}")
        check_at_least_zero(self, ("workers", "mixup", "cutmix", "drop_path"))
        for name in ("hflip", "vflip", "reprob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{flag(name)} must lie in [0, 1], got {getattr(self, name)}")
        check_choices(self, _IMAGE_CHOICES)
        if self.no_aug:
            fields = type(self).__dataclass_fields__
            for name in _AUGMENTATION:
                value = getattr(self, name)
                if (tuple(value) if isinstance(value, list) else value) != fields[name].default:
                    raise ValueError(f"{flag(name)} has no effect without augmentation: add --no-aug false")
        if self.val_split is None and (self.patience is not None or self.select == "best"):
            raise ValueError("--patience and --select best need a validation split: say --val-split NAME")

    @property
    def unit(self) -> str:
        """What a batch is counted in."""
        return "images"


_AT_LEAST_ONE = (
    "epochs",
    "batch_size",
    "validation_batch_size",
    "log_interval",
    "max_steps",
    "grad_accum_steps",
    "val_interval",
    "patience",
    "checkpoint_interval",
)
_AUGMENTATION = ("scale", "ratio", "hflip", "vflip", "color_jitter", "aa")
_CHOICES = {
    "amp_dtype": ("bfloat16", "float16"),
    "compile_mode": ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
    "select": ("last", "best"),
}
_IMAGE_CHOICES = {"cache": ("auto", "memory", "device", "none"), "bad_images": ("error", "skip")}


def check_at_least_zero(config: RunConfig, names: Iterable[str]) -> None:
    """Raises ValueError that names an option that is negative, or no number."""
    for name in names:
        if not getattr(config, name) >= 0:
            raise ValueError(f"{flag(name)} must be at least 0, got {getattr(config, name)}")


def check_choices(config: RunConfig, choices: Mapping[str, tuple[str, ...]]) -> None:
    """Raises ValueError that names an option that is none of its words."""
    for name, words in choices.items():
        if getattr(config, name) not in words:
            listed = f"{', '.join(words[:-1])} or {words[-1]}"
            raise ValueError(f"{flag(name)} must be {listed}, got {getattr(config, name)!r}")


def flag(name: str) -> str:
    """A field as it is typed."""
    return f"--{name.replace('_', '-')}"
