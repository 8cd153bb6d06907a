"""The configuration of a run on images: a plain dataclass without torch, from which the command line's help is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ..io.options import check_value, flag, option
from ..io.sources import joined
from ..training.config import RunConfig

IMG_SIZE_HELP = "image size in pixels: one number for squares, or height and width; null: the model's own"


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """Options of `capaboost train`; names are those of timm's train.py where it has the option.

    The defaults are the standard VTAB-1k recipe: AdamW, lr 1e-3, weight decay 1e-4, batch size 64, 100 epochs with a
    cosine schedule and a warm-up over a tenth of them, drop path 0.1, no augmentation.
    """

    unit: ClassVar[str] = "images"

    # what and where
    model: str = option(
        "vit_base_capaboost_lora",
        "timm model name, or local-dir:FOLDER; *_capaboost_* names include the method",
    )
    data: str = option(
        "",
        "data set: digits, sprites:TASK (location, orientation, count or distance), an image folder or zip, a folder "
        "with lists (train800.txt, test.txt, ...), parquet, a hub id (owner/name) or torchvision:NAME; several: each "
        "is a task, and the model has the classes of all",
        several=True,
    )
    pretrained: bool = option(False, "load the pretrained base weights from the hub")
    initial_checkpoint: str | None = option(None, "local file with the base weights (.safetensors or .pth)")
    initial_adapter: str | None = option(
        None, "adapter file of the same method from which training starts, without its head: for a new task"
    )
    model_kwargs: dict[str, Any] = option({}, "further arguments of the timm model")
    num_classes: int | None = option(None, "number of classes; null: those of the data", low=1)

    # data
    train_split: str = option(
        "train", "training split or list: a name, or an expression such as train[:800], train+val, mixed(train)[200:]"
    )
    val_split: str | None = option("val", "validation split, in the same form; null: no validation")
    test_split: str | None = option("test", "test split, in the same form, used once, at the end; null: no test")
    shots: int | None = option(None, "few-shot: training images per class, drawn by --seed; null: all", low=1)
    task: Literal["classification", "multi-label", "regression"] | None = option(
        None,
        "type of the labels: one class per image, several tags (multi-label), or a number (regression); null: tags if "
        "the column holds lists, numbers if it holds fractions, else classes",
    )
    class_weights: str | dict[str, Any] | None = option(
        None,
        "weights of the classes in the loss: balanced (inverse to their sizes), or by name, {cat: 2, dog: 1}; scaled "
        "to a mean of 1 over the training images; null: all equal",
    )
    sampling: Literal["shuffle", "balanced"] = option(
        "shuffle", "shuffle: each training image once an epoch; balanced: each class equally often"
    )
    image_column: str | None = option(None, "column of the images (hub, parquet); null: found by type")
    label_column: str | None = option(None, "column of the labels (hub, parquet); null: found by type or name")
    data_dir: str | None = option(None, "folder of torchvision's data sets")
    data_download: bool = option(False, "let torchvision download the data set")
    value_range: tuple[float, float] | None = option(
        None,
        "black and white in grey images with more than 8 bits, such as 0 4095, stored with the model for later use; "
        "null: 0 65535 for integers, 0 1 for floats",
    )
    bad_images: Literal["error", "skip"] = option(
        "error", "images that cannot be read: error, or skip them in training (counted; never in evaluation)"
    )
    img_size: int | tuple[int, int] | None = option(None, IMG_SIZE_HELP, low=1, metavar=("HEIGHT", "WIDTH"))
    crop_pct: float | None = option(
        None, "share of the resized image that the crop keeps; null: the model's own", above=0
    )
    crop_mode: Literal["center", "squash", "border"] | None = option(
        None, "crop: center, squash (resize both sides) or border (pad the shorter side); null: the model's own"
    )
    interpolation: str | None = option(
        None,
        "interpolation of the resize; null: the model's own",
        choices=("bilinear", "bicubic", "nearest", "box", "hamming", "lanczos"),
    )
    no_aug: bool = option(True, "no augmentation; false: random crop, flips, colour jitter and --aa")
    scale: tuple[float, float] = option((0.08, 1.0), "random crop: range of areas", above=0)
    ratio: tuple[float, float] = option((0.75, 4 / 3), "random crop: range of aspect ratios", above=0)
    hflip: float = option(0.5, "probability of a horizontal flip", low=0, high=1)
    vflip: float = option(0.0, "probability of a vertical flip", low=0, high=1)
    color_jitter: float = option(0.4, "strength of the colour jitter, unless --aa is given", low=0)
    aa: str | None = option(None, "timm's augmentation policy, such as rand-m9-mstd0.5; null: none")
    reprob: float = option(0.0, "probability of random erasing", low=0, high=1)
    mixup: float = option(0.0, "alpha of mixup's beta distribution; 0: no mixup", low=0.001, off=0)
    cutmix: float = option(
        0.0,
        "alpha of CutMix's beta distribution; 0: no CutMix; with --mixup each batch gets one of the two",
        low=0.001,
        off=0,
    )
    workers: int = option(0, "number of data loading processes", low=0)

    # optimisation and machine
    drop_path: float = option(0.1, "rate of stochastic depth", low=0, below=1)
    channels_last: bool = option(False, "torch's channels_last memory format, for models with convolutions")

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", joined(self.data))
        super().__post_init__()
        if self.img_size is not None:  # a square has one name
            height, width = sides(self.img_size)
            object.__setattr__(self, "img_size", height if height == width else (height, width))
        if self.fsdp and self.channels_last:
            raise ValueError("--fsdp shards weights in torch's own memory format: leave --channels-last out")
        self._check_class_weights()
        if self.no_aug:
            fields = type(self).__dataclass_fields__
            for name in _AUGMENTATION:
                value = getattr(self, name)
                if (tuple(value) if isinstance(value, list) else value) != fields[name].default:
                    raise ValueError(f"{flag(name)} has no effect without augmentation: add --no-aug false")
        if self.val_split is None and (self.patience is not None or self.select != "last"):
            raise ValueError("--patience and each --select but last need a validation split: say --val-split NAME")

    def _check_class_weights(self) -> None:
        given = self.class_weights
        if given is not None and self.sampling == "balanced":
            raise ValueError("--class-weights and --sampling balanced both change how much a class counts: choose one")
        if isinstance(given, str) and given != "balanced":
            raise ValueError(
                f"--class-weights must be balanced, or weights by class, {{cat: 2, dog: 1}}, got {given!r}"
            )
        for name, weight in given.items() if isinstance(given, dict) else ():
            check_value(f"--class-weights {name}", weight, float, {"above": 0})


def sides(img_size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of an image size."""
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    return height, width


_AUGMENTATION = ("scale", "ratio", "hflip", "vflip", "color_jitter", "aa")
