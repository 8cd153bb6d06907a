"""The configuration of a run: a plain dataclass without torch, from which the command line's help is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..options import option


@dataclass(frozen=True)
class TrainConfig:
    """Options of `capaboost train`; names are those of timm's train.py where it has the option.

    The defaults are the standard VTAB-1k recipe: AdamW, lr 1e-3, weight decay 1e-4, batch 64, 100 epochs with a tenth
    of warm-up and a cosine, drop path 0.1, no augmentation.
    """

    # what and where
    model: str = option("vit_base_capaboost_lora", "timm model name; *_capaboost_* names bring their method with them")
    data: str = option("digits", "digits, an image folder, or a folder with lists (train800.txt, test.txt, ...)")
    output: str = option("runs/train", "folder of the run; must not hold a finished run")
    method: dict[str, Any] = option({}, "method options; `name` is needed where the model's name has no method")
    pretrained: bool = option(False, "fetch the base weights from timm's hub")
    initial_checkpoint: str | None = option(None, "local file with the base weights (.safetensors or .pth)")
    model_kwargs: dict[str, Any] = option({}, "further arguments of the timm model")
    num_classes: int | None = option(None, "number of classes; none: those of the data")
    overwrite: bool = option(False, "replace what is in the output folder")

    # data
    train_split: str = option("train", "name of the training split or list")
    val_split: str | None = option("val", "name of the validation split or list; none: no validation")
    test_split: str = option("test", "name of the test split or list, used once, at the end")
    img_size: int | None = option(None, "image size; none: the model's own")
    crop_pct: float | None = option(None, "share of the resized image that is kept; none: the model's own")
    crop_mode: str | None = option(None, "center, squash (plain resize to a square) or border; none: the model's own")
    interpolation: str | None = option(None, "resize interpolation; none: the model's own")
    no_aug: bool = option(True, "no training augmentation; false: random crop, flip and those below")
    scale: tuple[float, float] = option((0.08, 1.0), "random crop: range of areas")
    hflip: float = option(0.5, "probability of a horizontal flip")
    color_jitter: float = option(0.4, "strength of the colour jitter")
    aa: str | None = option(None, "timm's auto-augment policy, such as rand-m9-mstd0.5")
    workers: int = option(0, "data loader processes")

    # optimisation
    epochs: int = option(100, "passes over the training split")
    batch_size: int = option(64, "images of one step")
    validation_batch_size: int = option(256, "images at a time in evaluation")
    opt: str = option("adamw", "optimizer, any of timm.optim")
    lr: float = option(1e-3, "learning rate")
    weight_decay: float = option(1e-4, "weight decay; not for biases and norms")
    momentum: float = option(0.9, "momentum, for optimizers that have it")
    layer_decay: float | None = option(None, "layer-wise decay of the learning rate")
    sched: str = option("cosine", "schedule, any of timm.scheduler; none: constant")
    warmup_epochs: int | None = option(None, "epochs of linear warm-up; none: a tenth of all")
    warmup_lr: float = option(1e-7, "learning rate at the start of the warm-up")
    min_lr: float = option(0.0, "learning rate at the end of the schedule")
    clip_grad: float | None = option(None, "clip the norm of the gradient")
    smoothing: float = option(0.0, "label smoothing")
    drop_path: float = option(0.1, "stochastic depth")
    grad_checkpointing: bool = option(False, "recompute blocks in the backward pass to save memory")

    # machine
    amp: bool = option(False, "automatic mixed precision")
    amp_dtype: str = option("bfloat16", "bfloat16 or float16")
    device: str | None = option(None, "cpu, cuda, ...; none: cuda where there is one")
    seed: int = option(0, "seed of data order, head, dropout and branches; the masks have their own (method.mask_seed)")
    log_interval: int = option(50, "steps between lines of the progress display and TensorBoard points")

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "validation_batch_size", "log_interval"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if not self.lr > 0:
            raise ValueError(f"--lr must be positive, got {self.lr}")
        if self.warmup_epochs is not None and not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(f"--warmup-epochs must lie in [0, epochs = {self.epochs}), got {self.warmup_epochs}")
        if self.amp_dtype not in ("bfloat16", "float16"):
            raise ValueError(f"--amp-dtype must be bfloat16 or float16, got {self.amp_dtype!r}")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"--smoothing must lie in [0, 1), got {self.smoothing}")
        for name in ("workers", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} must be at least 0, got {getattr(self, name)}")
        if self.clip_grad is not None and not self.clip_grad > 0:
            raise ValueError(f"--clip-grad must be positive, got {self.clip_grad}")
