"""Contrastive losses of queries, by the tasks that they are of: towards each other, and towards prototypes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def instance_contrast(queries: Tensor, tasks: Tensor, *, temperature: float) -> Tensor:
    """Of each query r_i, `-1/|P_i| sum_{p in P_i} log( exp(r_i.r_p / t) / sum_{a != i} exp(r_i.r_a / t) )`.

    P_i are the other queries of its task; 0 where there is none. Source: supervised contrastive loss (arXiv
    2004.11362), as PHA (arXiv 2310.11670) has it for tasks.

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

    The sum has the positive: the loss is 0 at a perfect fit and with one task, and never below. (PHA's code leaves it
    out of the denominator, and then it is -inf.)

    Args:
        queries: (B, E). prototypes: (T, E).
        tasks: (B,); -1 is padding, with a loss of 0.

    Returns:
        (B,).
    """
    return F.cross_entropy(queries @ prototypes.t() / temperature, tasks, ignore_index=-1, reduction="none")
