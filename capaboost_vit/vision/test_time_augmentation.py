"""Test-time augmentation: several views of a picture, whose probabilities or numbers are averaged."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import transforms
from torchvision.transforms import functional

from ..io.options import check_value
from .build import build_transform
from .data.labels import Task

Views = Literal["none", "flip", "five_crop"]
VIEWS: tuple[Views, ...] = ("none", "flip", "five_crop")
_MOST_KEPT = 0.875  # of five crops; timm's default: of 224 pixels a margin of 32 in all


def view_transform(data_config: dict[str, Any], views: Views) -> Any:
    """`build_transform` of an evaluation, to pixels (3, H, W); or to those of all views, (V, 3, H, W).

    `flip`: the picture and its mirror image. `five_crop`: the four corners and the middle of the resized picture, whose
    shorter side is that of the input over `crop_pct`, at most 0.875, as there would be no margin otherwise.

    Raises:
        ValueError: other views; `five_crop` of a model that takes pictures with borders; see `build_transform`.
    """
    check_value("--tta", views, str, {"choices": VIEWS})
    if views == "none":
        return build_transform(data_config)
    if views == "flip":
        whole = build_transform(data_config)
        return lambda picture: torch.stack([whole(picture), whole(functional.hflip(picture))])
    if data_config["crop_mode"] == "border":
        raise ValueError("--tta five_crop: this model takes whole pictures with borders (crop_mode border): say flip")
    steps = build_transform({**data_config, "crop_pct": min(data_config["crop_pct"], _MOST_KEPT)}).transforms
    (place,) = (i for i, step in enumerate(steps) if isinstance(step, transforms.CenterCrop))
    resize, to_pixels = transforms.Compose(steps[:place]), transforms.Compose(steps[place + 1 :])
    crop = transforms.FiveCrop(steps[place].size)
    return lambda picture: torch.stack([to_pixels(part) for part in crop(resize(picture))])


class MeanOfViews(nn.Module):
    """Outputs of views (B, V, C, H, W) that stand for the mean over the views, (B, classes).

    Of classes `T log(mean_v p_v)`, p = softmax(logits / T), so that `softmax(. / T)` is the mean of the probabilities;
    of tags `log(mean_v p_v) - log(mean_v (1 - p_v))`, p = sigmoid(logits), so that `sigmoid` is; of numbers their mean.
    One view is passed on as it is, (B, C, H, W).
    """

    def __init__(self, model: nn.Module, temperature: float, task: Task = "classification") -> None:
        super().__init__()
        self.model, self.temperature, self.task = model, temperature, task

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim == 4:
            return self.model(images)
        views = torch.stack([self.model(view).float() for view in images.unbind(1)])
        if self.task == "regression":
            return views.mean(0)
        if self.task == "multi-label":  # the number of views is in both terms
            return F.logsigmoid(views).logsumexp(0) - F.logsigmoid(-views).logsumexp(0)
        logs = (views / self.temperature).log_softmax(-1)
        return self.temperature * (logs.logsumexp(0) - math.log(len(logs)))
