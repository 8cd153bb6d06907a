"""What is done with a finished run, an adapter file or a timm folder: evaluate it, merge it, classify pictures."""

from .evaluate import evaluate_adapter
from .merge import merge_adapter
from .predict import Prediction, predict_images, write_predictions

__all__ = ["Prediction", "evaluate_adapter", "merge_adapter", "predict_images", "write_predictions"]
