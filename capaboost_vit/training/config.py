"""The configuration of a run: plain dataclasses without torch, from which the command line's help is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ..io.options import check_options, option
from ..methods import METHODS, Method
from ..methods.index import method_of

# what releases did that lacked an option, where that is not its default
EARLIER = {"short_cuts": False}
_SCHEDULES = ("cosine", "poly", "step", "tanh", "multistep", "constant", "wsd", "rsqrt", "none")
Select = Literal["last", "best", "macro_f1", "balanced_accuracy", "val_loss"]
SELECT_HELP = (
    "the model that is kept: last, or the best on val: best goes by the task's first score, the others by what they "
    "name; so does --patience"
)


def _optimizers() -> list[str]:
    """timm's optimizers, each of them as what its lookahead looks for, and QFT's."""
    from timm.optim import list_optimizers

    names: list[str] = list_optimizers()  # type: ignore[assignment]
    return [*names, *(f"lookahead_{name}" for name in names), "qlion8"]


@dataclass(frozen=True)
class RunConfig:
    """Options of all training runs, on images or texts; names are those of timm's train.py where it has the option."""

    unit: ClassVar[str] = "examples"  # what a batch is counted in

    # what and where
    model: str = option("", "model")
    data: str = option("", "data set")
    output: str = option("runs/train", "folder of the run")
    method: Method | None = option(None, "method options; `name` is needed where the model's name has no method")
    pretrained: bool = option(False, "fetch the base weights from the hub")
    resume: bool = option(False, "go on with the run in the output folder; without a checkpoint there, start it")
    allow_config_change: bool = option(False, "resume with other options than the run was started with")
    overwrite: bool = option(False, "replace what is in the output folder")

    # optimisation
    epochs: int = option(100, "passes over the training split", low=1)
    max_steps: int | None = option(None, "number of updates, whatever the epochs", low=1)
    batch_size: int = option(64, "examples of one update, over all processes and accumulation steps", low=1)
    grad_accum_steps: int = option(1, "parts in which the examples of an update are computed, to save memory", low=1)
    validation_batch_size: int = option(256, "examples at a time in evaluation", low=1)
    opt: str = option(
        "adamw", "optimizer, any of timm.optim, or qlion8 (8-bit weights and momentum)", choices=_optimizers
    )
    lr: float | Literal["auto"] = option(
        1e-3, "learning rate; auto: found by short runs on val, which take half of the run's updates at most", above=0
    )
    weight_decay: float = option(1e-4, "weight decay; not for biases and norms", low=0)
    momentum: float = option(0.9, "momentum, for optimizers that have it", low=0, below=1)
    opt_eps: float | None = option(
        None, "epsilon, for optimizers that have it, such as Adam's; none: their own", above=0
    )
    layer_decay: float | None = option(None, "layer-wise decay of the learning rate", above=0, high=1)
    sched: str = option(
        "cosine", "schedule, of timm.scheduler (plateau needs a metric); none: constant", choices=_SCHEDULES
    )
    decay_rate: float = option(0.1, "its rate (step) or power (poly; 1 is linear)", above=0)
    warmup_epochs: int | None = option(None, "epochs of linear warm-up; none: a tenth of all")
    warmup_steps: float | None = option(
        None, "updates of warm-up, instead of epochs; below 1: their share of all", low=0
    )
    warmup_lr: float = option(1e-7, "learning rate at the start of the warm-up", low=0)
    min_lr: float = option(0.0, "learning rate at the end of the schedule", low=0)
    clip_grad: float | None = option(None, "clip the norm of the gradient", above=0)
    smoothing: float = option(0.0, "label smoothing", low=0, below=1)
    model_ema: bool = option(False, "evaluate and keep an exponential moving average of what is trained")
    model_ema_decay: float = option(0.9998, "its decay, after a warm-up", low=0, below=1)
    grad_checkpointing: bool = option(False, "recompute blocks in the backward pass to save memory")

    # choice of the model; the test split has no part in it
    val_interval: int = option(1, "epochs between evaluations on val", low=1)
    patience: int | None = option(None, "stop after so many evaluations on val without a better one", low=1)
    select: Select = option("last", SELECT_HELP)

    # machine
    amp: bool = option(False, "automatic mixed precision")
    amp_dtype: str = option("bfloat16", "bfloat16 or float16", choices=("bfloat16", "float16"))
    compile: bool = option(False, "torch.compile")
    compile_mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = option(
        "default", "its mode: default; reduce-overhead (CUDA graphs, for small models and batches); max-autotune"
    )
    fsdp: bool = option(
        False,
        "under torchrun: each process holds a part of the frozen weights alone (FSDP2), gathered block by block; what "
        "is trained stays whole; without short cuts",
    )
    short_cuts: bool = option(
        True,
        "exact short cuts: the last block for the tokens alone that the head reads; what stands before the first "
        "trained block in evaluation mode, and computed once where no augmentation comes before it",
    )
    cache: Literal["auto", "memory", "device", "none"] = option(
        "auto",
        "where images, or what a frozen front makes of examples, stay once they are there: memory (the first GiB of a "
        "split; images before augmentation always), device (all), none; auto: device on a GPU of whose free memory "
        "they take a tenth at most, else memory",
    )
    device: str | None = option(None, "cpu, cuda, ...; none: cuda where there is one")
    seed: int = option(
        0, "seed of data order, head, dropout and branches; the masks have their own (method.mask_seed)", low=0
    )
    timeout: float = option(600.0, "seconds that the processes of a run wait for each other at most", above=0)
    log_to: Literal["tensorboard", "wandb", "mlflow"] = option(
        "tensorboard", "where curves go: TensorBoard; Weights & Biases or MLflow as well"
    )
    log_interval: int = option(
        50, "updates between TensorBoard points, at most: a short run has a point each hundredth of it", low=1
    )
    checkpoint_interval: int | None = option(
        None, "updates between checkpoints, beside the one after each epoch", low=1
    )

    def __post_init__(self) -> None:
        if self.method is None or isinstance(self.method, Mapping):  # as files and the command line give it
            object.__setattr__(self, "method", method_of(self.method or {}, implied=self.implied_method()))
        check_options(self)
        if self.warmup_epochs is not None and not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(f"--warmup-epochs must lie in [0, epochs = {self.epochs}), got {self.warmup_epochs}")
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
        if self.fsdp and not self.needs_base_weights():
            raise ValueError("--fsdp shards frozen weights, and full fine-tuning has none: leave it out")
        if self.fsdp and self.compile:
            raise ValueError("--fsdp gathers weights between blocks, which --compile joins: leave one of them out")
        if self.resume and self.overwrite:
            raise ValueError("--resume goes on with a run, --overwrite replaces it: choose one")

    def usual_lr(self) -> float:
        """The centre of the search of `lr: auto`, and its value where there is no search."""
        return 1e-3 if self.method is None else self.method.usual_lr

    def uses_labels(self) -> bool:
        """Whether labels are used, those of the training split for training and those of val for selection."""
        return self.method is None or self.method.uses_labels

    def implied_method(self) -> str | None:
        """The method in the model's name (`*_capaboost_lora`), or None."""
        name = self.model.partition(".")[0].partition("_capaboost_")[2]
        return name if name in METHODS else None

    def needs_base_weights(self) -> bool:
        """Whether the trained parameters are useless without the base weights: always, except for full fine-tuning."""
        return self.method is None or not self.method.trains_all


def is_text_config(options: Mapping[str, Any]) -> bool:
    """Whether the stored options are those of a run on texts, which alone has `dapt_data`."""
    return "dapt_data" in options
