"""Contrastive losses of queries and their tasks: between queries, and with the prototypes of tasks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def instance_contrast(queries: Tensor, tasks: Tensor, *, temperature: float) -> Tensor:
    """For each query r_i, `-1/|P_i| sum_{p in P_i} log( exp(r_i.r_p / t) / sum_{a != i} exp(r_i.r_a / t) )`.

    P_i are the other queries of its task; the loss is 0 if there are none. Source: supervised contrastive loss (arXiv
    2004.11362), with tasks instead of classes as in PHA (arXiv 2310.11670).

    Args:
        queries: (B, E).
        tasks: (B,); -1 is padding, which is compared with nothing and has a loss of 0.

    Returns:
        (B,).
    """
    others = ~torch.eye(len(tasks), dtype=torch.bool, device=tasks.device) & (tasks >= 0)
    positive = others & (tasks.unsqueeze(1) == tasks)
    similarity = queries @ queries.t() / temperature
    # not by -inf: the gradient of a row of these alone is no number
    lowest = torch.finfo(similarity.dtype).min
    logs = similarity - similarity.masked_fill(~others, lowest).logsumexp(1, keepdim=True)
    return -logs.masked_fill(~positive, 0).sum(1) / positive.sum(1).clamp(min=1)


def prototype_contrast(queries: Tensor, prototypes: Tensor, tasks: Tensor, *, temperature: float) -> Tensor:
    """InfoNCE of each query r and the prototype of its task t, `-log( exp(r.z_t / T) / sum_s exp(r.z_s / T) )`.

    The denominator includes the positive pair, so the loss is at least 0, and 0 at a perfect fit or with one task. (In
    PHA's code it does not, and the loss is -inf then.)

    Args:
        queries: (B, E).
        prototypes: (T, E).
        tasks: (B,); -1 is padding, with a loss of 0.

    Returns:
        (B,).
    """
    return F.cross_entropy(queries @ prototypes.t() / temperature, tasks, ignore_index=-1, reduction="none")
