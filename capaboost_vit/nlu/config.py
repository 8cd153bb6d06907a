"""The configuration of a run on texts: a plain dataclass without torch, from which the command line's help is made."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..io.options import flag, option
from ..methods import make_method
from ..training.config import LR_HELP, SELECT_HELP, WARMUP_STEPS_HELP, RunConfig, Select

# options of the run that its stages of continued pretraining have at their defaults
_NOT_IN_STAGES = {"dapt_data", "dapt_epochs", "tapt_epochs", "max_steps", "warmup_epochs", "layer_decay", "smoothing"}
_NOT_IN_STAGES |= {"model_ema", "patience", "val_interval", "fsdp", "metrics"}


@dataclass(frozen=True)
class TextConfig(RunConfig):
    """Options of `capaboost train-text`.

    The defaults are the published ones of CapaBoost for LoRA on GLUE, where they are published: lr 5e-4, weight decay
    0.1, warm-up over a tenth of the updates, 128 tokens, the best epoch on val.
    """

    # what and where
    model: str = option("FacebookAI/roberta-base", "hub id, or folder with config.json, weights and tokenizer")
    task: str = option(
        "rte",
        "one of GLUE's (cola, sst2, ...), squad, squad_v2, chemprot, ..., classification, regression, multi-label, "
        "multiple-choice, ner, tagging, mlm",
    )
    data: str = option("hub", "folder or file with the task's data, or hub id; hub: the task's data set on the hub")
    output: str = option("runs/text", "folder of the run")
    pretrained: bool = option(True, "load the model's pretrained weights; false: random weights")
    tokenizer: str | None = option(None, "hub id or folder of the tokenizer; null: the model's own")
    dropout: float | None = option(
        None, "dropout of the model's hidden states and attention; null: the model's own", low=0, below=1
    )

    # data
    protocol: Literal["own", "drawn", "dev", "halves", "thousand"] | None = option(
        None,
        "splits: own (those of the data); drawn (the same; without a val, a fifth of train becomes val); dev (dev is "
        "val, no test); halves (dev is halved into val and test); thousand (1,000 examples of train are val, dev is "
        "test); null: the task's own",
    )
    data_seed: int = option(0, "seed of the splits that --protocol draws; the same for all seeds of a table", low=0)
    text_columns: tuple[str, ...] | None = option(
        None,
        "columns of the texts: one, two for pairs, or more, joined by the tokenizer's separator; for multiple choice "
        "the context, then its choices; null: found by name",
    )
    label_column: str | None = option(
        None, "column of the labels; for several tags per text also columns of 0 and 1, as a,b,c; null: found by name"
    )
    metrics: tuple[str, ...] | None = option(
        None, "scores, such as macro_f1 or balanced_accuracy; the first chooses the epoch; null: those of the task"
    )
    max_length: int = option(
        128,
        "maximum number of tokens, special ones included; longer texts are truncated, contexts of questions and "
        "tagged sentences split",
        low=1,
    )
    group_by_length: bool = option(True, "batches of examples of about the same length")
    stride: int = option(128, "questions: tokens that neighbouring windows of a context share", low=0)
    max_question: int = option(64, "questions: maximum number of tokens of a question", low=1)
    n_best: int = option(20, "questions: number of the best starts and of the best ends that are combined", low=1)
    max_answer_length: int = option(30, "questions: maximum number of tokens of an answer", low=1)
    texts_of: str | None = option(None, "mlm: task whose training texts are used; null: those of --data")

    # continued pretraining before the method is applied, as stages of the run; settings of ours
    dapt_data: str | None = option(
        None,
        "texts of the domain, on which the whole model is first pretrained as a masked language model (DAPT); null: "
        "none",
    )
    dapt_epochs: int = option(1, "epochs of --dapt-data", low=1)
    tapt_epochs: int = option(
        0, "epochs of the same pretraining on the task's training texts, after --dapt-data (TAPT)", low=0
    )
    mlm_lr: float = option(1e-4, "learning rate of DAPT and TAPT", above=0)
    mlm_probability: float = option(0.15, "share of the tokens that are masked, in DAPT, TAPT and mlm", above=0, high=1)

    # optimisation
    epochs: int = option(20, "passes over the training split")
    batch_size: int = option(128, "examples of one update, over all processes and accumulation steps")
    lr: float | Literal["auto"] = option(5e-4, LR_HELP)
    weight_decay: float = option(0.1, "weight decay, of all but biases, norms and other vectors")
    warmup_steps: float | None = option(0.1, WARMUP_STEPS_HELP)
    select: Select = option("best", SELECT_HELP)

    def usual_lr(self) -> float:
        """The published learning rate, for all methods."""
        return 5e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("text_columns", "metrics"):
            given = getattr(self, name)
            if given is not None and not 1 <= len(set(given)) == len(given):
                raise ValueError(f"{flag(name)} takes names, each once, got {', '.join(given) or 'none'}")
        if self.task != "mlm" and self.texts_of is not None:
            raise ValueError("--texts-of is for --task mlm: leave it out")
        if self.task == "mlm" and (self.dapt_data is not None or self.tapt_epochs):
            raise ValueError("--dapt-data and --tapt-epochs are stages before another task than mlm: leave them out")


def stages(config: TextConfig) -> list[TextConfig]:
    """The runs of continued pretraining (DAPT, TAPT) before this one, each on the model of the one before it.

    They train the complete model by masked language modelling, without val, and keep the last epoch. Batch size,
    precision, device and seed are those of the run.
    """
    common: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(config) if f.name in _NOT_IN_STAGES}
    common |= {"task": "mlm", "method": make_method("full"), "lr": config.mlm_lr, "select": "last"}
    before = []
    if config.dapt_data is not None:
        dapt = {**common, "data": config.dapt_data, "epochs": config.dapt_epochs}
        dapt |= dict.fromkeys(("protocol", "text_columns", "label_column"))  # those of the task's data
        before.append(dataclasses.replace(config, **dapt, output=str(Path(config.output, "dapt"))))
    if config.tapt_epochs:
        tapt = {**common, "texts_of": config.task, "epochs": config.tapt_epochs}
        if before:
            tapt |= {"model": str(model_folder(before[-1])), "pretrained": True}
        before.append(dataclasses.replace(config, **tapt, output=str(Path(config.output, "tapt"))))
    return before


def model_folder(config: TextConfig) -> Path:
    """The folder in which a run of task mlm stores its model, in transformers' format."""
    return Path(config.output, "model")


def base_model(config: TextConfig) -> str:
    """The model to which the method is applied: that of the last stage, or the configured one."""
    before = stages(config)
    return str(model_folder(before[-1])) if before else config.model


def has_weights(config: TextConfig) -> bool:
    """Whether that model has pretrained weights; the model of a stage has."""
    return config.pretrained or bool(stages(config))
