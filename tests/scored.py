"""What an evaluation of a model on images counts."""

from __future__ import annotations

from capaboost_vit.vision.evaluate import evaluate_images


def counted(model, **options):
    """(right answers, all)."""
    scores = evaluate_images(model, **options)
    return scores["right"], scores["total"]
