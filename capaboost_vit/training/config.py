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
    "which epoch is saved: the last, or the best on val, by the task's first score (best) or by the score that is "
    "named; --patience goes by the same score"
)
LR_HELP = (
    "learning rate; auto: found by short runs scored on val, which take at most half as many updates as the run; the "
    "method's usual rate where no search is possible"
)
WARMUP_STEPS_HELP = "updates of linear warm-up, where --warmup-epochs is null; below 1: a share of all updates"
DEVICE_HELP = "cpu, cuda, ...; null: cuda if there is a GPU"


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
    pretrained: bool = option(False, "load the pretrained base weights from the hub")
    resume: bool = option(
        False, "continue the run in the output folder from its last checkpoint; without one, start it"
    )
    allow_config_change: bool = option(False, "allow --resume with options that differ from those of the run")
    overwrite: bool = option(False, "replace what is in the output folder")

    # optimisation
    epochs: int = option(100, "passes over the training split", low=1)
    max_steps: int | None = option(None, "total number of updates, in place of --epochs", low=1)
    batch_size: int = option(64, "examples of one update, over all processes and accumulation steps", low=1)
    grad_accum_steps: int = option(
        1, "number of parts in which the batch of an update is computed, to save memory", low=1
    )
    validation_batch_size: int = option(256, "examples per batch in evaluation", low=1)
    opt: str = option(
        "adamw", "optimizer of timm.optim, or qlion8 (Lion with 8-bit weights and momentum)", choices=_optimizers
    )
    lr: float | Literal["auto"] = option(1e-3, LR_HELP, above=0)
    weight_decay: float = option(1e-4, "weight decay, of all but biases, norms and other vectors", low=0)
    momentum: float = option(0.9, "momentum, for optimizers that have it", low=0, below=1)
    opt_eps: float | None = option(
        None, "epsilon, for optimizers that have it, such as AdamW; null: the optimizer's default", above=0
    )
    layer_decay: float | None = option(
        None, "layer-wise learning rate decay: factor of the rate from block to block; null: none", above=0, high=1
    )
    sched: str = option(
        "cosine",
        "learning rate schedule of timm; constant: after the warm-up; none: without a warm-up, too",
        choices=_SCHEDULES,
    )
    decay_rate: float = option(
        0.1,
        "step: factor after each third of the run; multistep: after 30, 60 and 90 % of it; poly: the power",
        above=0,
    )
    warmup_epochs: int | None = option(
        None, "epochs of linear warm-up; null: a tenth of --epochs, rounded, or of --max-steps"
    )
    warmup_steps: float | None = option(None, WARMUP_STEPS_HELP, low=0)
    warmup_lr: float = option(1e-7, "learning rate at the start of the warm-up", low=0)
    min_lr: float = option(0.0, "learning rate at the end of cosine, poly, tanh, wsd and rsqrt", low=0)
    clip_grad: float | None = option(None, "maximum norm of the gradient; null: no clipping", above=0)
    smoothing: float = option(0.0, "label smoothing", low=0, below=1)
    model_ema: bool = option(False, "evaluate and save an exponential moving average of the trained weights")
    model_ema_decay: float = option(0.9998, "decay of --model-ema, after a warm-up", low=0, below=1)
    grad_checkpointing: bool = option(False, "recompute activations in the backward pass, to save memory")

    # choice of the model; the test split has no part in it
    val_interval: int = option(1, "epochs between evaluations on val", low=1)
    patience: int | None = option(
        None, "stop after this many evaluations on val without improvement; null: never", low=1
    )
    select: Select = option("last", SELECT_HELP)

    # machine
    amp: bool = option(False, "automatic mixed precision")
    amp_dtype: str = option("bfloat16", "data type of --amp", choices=("bfloat16", "float16"))
    compile: bool = option(False, "compile the model by torch.compile")
    compile_mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = option(
        "default", "mode of --compile; reduce-overhead and max-autotune use CUDA graphs"
    )
    fsdp: bool = option(
        False,
        "under torchrun: shard the frozen weights over the processes (FSDP2), gathered block by block; trained "
        "parameters are not sharded, and short cuts are off",
    )
    short_cuts: bool = option(
        True,
        "skip computation that cannot affect the loss: in the last block tokens that the head does not read; frozen "
        "blocks before the first trained one are in evaluation mode, and computed once per example if there is no "
        "augmentation",
    )
    cache: Literal["auto", "memory", "device", "none"] = option(
        "auto",
        "where images, or the outputs of the frozen blocks before the first trained one, are cached: memory (the first "
        "GiB of each split), device (all), none; auto: device on a GPU if they take at most a tenth of its free "
        "memory, else memory; images that are augmented are cached in memory, unless none",
    )
    device: str | None = option(None, DEVICE_HELP)
    seed: int = option(0, "seed of data order, head, dropout and branches; the masks have --method.mask-seed", low=0)
    timeout: float = option(600.0, "maximum number of seconds that the processes of a run wait for each other", above=0)
    log_to: Literal["tensorboard", "wandb", "mlflow"] = option(
        "tensorboard", "where curves are logged: TensorBoard, or also Weights & Biases or MLflow"
    )
    log_interval: int = option(
        50, "maximum number of updates between TensorBoard points; short runs have about a hundred points", low=1
    )
    checkpoint_interval: int | None = option(
        None, "updates between checkpoints, in addition to one after each epoch; null: none", low=1
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
