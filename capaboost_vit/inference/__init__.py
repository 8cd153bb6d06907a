"""What is done with a finished run, an adapter file or a timm folder: evaluate it, merge it, classify pictures."""

from .evaluate import evaluate_adapter
from .merge import merge_adapter
from .predict import Prediction, predict_images, write_predictions
from .texts import evaluate_text, is_text, merge_text

__all__ = [
    "Prediction",
    "evaluate_adapter",
    "evaluate_text",
    "is_text",
    "merge_adapter",
    "merge_text",
    "predict_images",
    "write_predictions",
]
