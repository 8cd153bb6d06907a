"""All scores of a split of tags, or of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .metrics import average_precision, scores, tag_scores

NUMBER_SCORES = ("r2", "mae", "rmse", "spearman")


def tag_report(logits: Tensor, targets: Tensor, classes: Sequence[str], *, threshold: float = 0.5) -> dict[str, Any]:
    """All scores of logits (N, C) for targets (N, C) of 0 and 1, as JSON takes them; shares are in per cent.

    `tag_scores`; `total`, N; `threshold`; `per_class`, a row of each tag: `class`, `ap` (average precision, None of a
    tag that no image has), `precision`, `recall`, `f1` at the threshold, `support`. A ratio without a value is 0.

    Args:
        classes: names of the tags.
    """
    from sklearn.metrics import precision_recall_fscore_support

    predicted, expected = (logits.sigmoid() >= threshold).int().numpy(), targets.int().numpy()
    # of a single tag scikit-learn would take the rows for classes 0 and 1
    columns = [
        precision_recall_fscore_support(t, p, average="binary", zero_division=0)[:3]
        for t, p in zip(expected.T, predicted.T, strict=True)
    ]
    rows = []
    for place, (precision, recall, f1) in enumerate(columns):
        support = int(targets[:, place].sum())
        shares = {"precision": precision, "recall": recall, "f1": f1}
        rows.append(
            {
                "class": classes[place],
                "ap": average_precision(logits[:, [place]], targets[:, [place]]) if support else None,
                **{name: 100 * float(value) for name, value in shares.items()},
                "support": support,
            }
        )
    found = tag_scores(logits, targets, threshold=threshold)
    return {"task": "multi-label", **found, "total": len(targets), "threshold": threshold, "per_class": rows}


def number_report(predictions: Tensor, targets: Tensor, *, mean: float) -> dict[str, Any]:
    """All scores of predictions (N,) for targets (N,) in one unit, as JSON takes them.

    `r2`, `mae`, `rmse`, `spearman` (per cent), see `scores`; `rmse_of_mean`, the RMSE of who always says the mean;
    `total`, N.

    Args:
        mean: of the training split.
    """
    (reference,) = scores(("rmse",), torch.full_like(targets, mean), targets).values()
    found = scores(NUMBER_SCORES, predictions, targets)
    return {"task": "regression", **found, "rmse_of_mean": reference, "total": len(targets)}
