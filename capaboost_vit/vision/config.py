"""The configuration of a run on images: a plain dataclass without torch, from which the command line's help is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ..io.options import check_value, flag, option
from ..io.sources import joined
from ..training.config import RunConfig

IMG_SIZE_HELP = "image size in pixels, one number for squares, or height and width; none: the model's own"


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
        "timm model name, or local-dir:FOLDER; *_capaboost_* names bring their method with them",
    )
    data: str = option(
        "",
        "digits, sprites:TASK (location, orientation, count or distance), an image folder or zip, a folder with lists "
        "(train800.txt, test.txt, ...), parquet, a hub id (owner/name), torchvision:NAME; several: the classes of all, "
        "each data set a task",
        several=True,
    )
    pretrained: bool = option(False, "fetch the base weights from timm's hub")
    initial_checkpoint: str | None = option(None, "local file with the base weights (.safetensors or .pth)")
    initial_adapter: str | None = option(
        None, "adapter file of the same method, from whose values all starts but the head: for a new task"
    )
    model_kwargs: dict[str, Any] = option({}, "further arguments of the timm model")
    num_classes: int | None = option(None, "number of classes; none: those of the data", low=1)

    # data
    train_split: str = option(
        "train", "training split or list: its name, or an expression such as train[:800], train+val, mixed(train)[200:]"
    )
    val_split: str | None = option("val", "validation split, likewise; none: no validation")
    test_split: str | None = option("test", "test split, likewise, used once, at the end; none: no test")
    shots: int | None = option(
        None, "few-shot: images of each class that are drawn from the training split by --seed", low=1
    )
    task: Literal["classification", "multi-label", "regression"] | None = option(
        None,
        "what labels are: one class per image, several tags (multi-label), or a number (regression); none: classes, "
        "but tags where a column holds lists and numbers where it holds fractions, which the log says",
    )
    class_weights: str | dict[str, Any] | None = option(
        None,
        "weights of the classes in the loss: balanced (inverse to their sizes), or by name, {cat: 2, dog: 1}; scaled "
        "so that the mean weight of a training image is 1",
    )
    sampling: Literal["shuffle", "balanced"] = option(
        "shuffle", "shuffle: each training image once an epoch; balanced: each class equally often"
    )
    image_column: str | None = option(None, "column of the images (hub, parquet); none: found by its type")
    label_column: str | None = option(None, "column of the labels (hub, parquet); none: found by type or name")
    data_dir: str | None = option(None, "folder of torchvision's data sets")
    data_download: bool = option(False, "let torchvision download the data set")
    value_range: tuple[float, float] | None = option(
        None,
        "values of grey images with more than 8 bits that are black and white, for the whole data set and in whatever "
        "uses the model later; such as 0 4095; none: 0 65535 of integers, 0 1 of floats",
    )
    bad_images: Literal["error", "skip"] = option(
        "error", "images that cannot be read: error, or skip those of training (counted; never in evaluation)"
    )
    img_size: int | tuple[int, int] | None = option(None, IMG_SIZE_HELP, low=1, metavar=("HEIGHT", "WIDTH"))
    crop_pct: float | None = option(None, "share of the resized image that is kept; none: the model's own", above=0)
    crop_mode: Literal["center", "squash", "border"] | None = option(
        None, "center, squash (plain resize of both sides) or border; none: the model's own"
    )
    interpolation: str | None = option(
        None,
        "resize interpolation; none: the model's own",
        choices=("bilinear", "bicubic", "nearest", "box", "hamming", "lanczos"),
    )
    no_aug: bool = option(True, "no training augmentation; false: random crop, flip and those below")
    scale: tuple[float, float] = option((0.08, 1.0), "random crop: range of areas", above=0)
    ratio: tuple[float, float] = option((0.75, 4 / 3), "random crop: range of aspect ratios", above=0)
    hflip: float = option(0.5, "probability of a horizontal flip", low=0, high=1)
    vflip: float = option(0.0, "probability of a vertical flip", low=0, high=1)
    color_jitter: float = option(0.4, "strength of the colour jitter", low=0)
    aa: str | None = option(None, "timm's auto-augment policy, such as rand-m9-mstd0.5")
    reprob: float = option(0.0, "random erasing: probability", low=0, high=1)
    mixup: float = option(0.0, "mixup: alpha of its beta distribution; 0: none", low=0.001, off=0)
    cutmix: float = option(0.0, "cutmix: alpha; with mixup too, each batch gets one of them", low=0.001, off=0)
    workers: int = option(0, "data loader processes", low=0)

    # optimisation and machine
    drop_path: float = option(0.1, "stochastic depth", low=0, below=1)
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
