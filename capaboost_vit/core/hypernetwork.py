"""PHA's hypernetwork, which generates an adapter from an embedding of a task and one of a layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import operand
from .start_values import normal, uniform
from .task_choice import TaskChoice

EMBEDDING, HIDDEN = 64, 128
_LAYER = ".branch.layer"  # of the name of an embedding, behind its slot
_START = 1e-3  # of an entry that is made, times the root of its fan: near the zero map


class Adapters(NamedTuple):
    """The adapters of T tasks in one layer: A (T, a, in), its bias (T, a), B (T, out, a), its bias (T, out)."""

    down: Tensor
    down_bias: Tensor
    up: Tensor
    up_bias: Tensor


class Retriever(nn.Module):
    """`r = V2 relu(V1 x + d1) + d2`: queries (B, 64) from pooled features x (B, D); V1 (128, D), V2 (64, 128)."""

    def __init__(self, features: int, *, init_seed: int = 0, path: str = "") -> None:
        super().__init__()
        self.inner = started(nn.Linear(features, HIDDEN), init_seed, f"{path}.inner")
        self.outer = started(nn.Linear(HIDDEN, EMBEDDING), init_seed, f"{path}.outer")

    def forward(self, pooled: Tensor) -> Tensor:
        return cast(Tensor, self.outer(F.relu(self.inner(operand(pooled, self.inner.weight)))))


class Hypernetwork(nn.Module):
    """`h = LN(W2 relu(W1 [z_t; e_l] + c1) + c2)`; four linear maps of h are the factors and biases of an adapter.

    z_t (64) is the prototype of task t, and e_l (64) the embedding of a layer; W1 (128, 128), W2 (64, 128). Each linear
    map has a bias. Prototypes and embeddings start from N(0, 1), W1 and W2 as torch's linear layers, and the maps from
    U(-b, b), `b = 1e-3 sqrt(3 / (64 fan))`, with zero biases: an entry of A has a standard deviation of 1e-3 /
    sqrt(in), one of B of 1e-3 / sqrt(a). So the adapter starts near zero, but not at zero.

    Args:
        bottleneck: a, the width of an adapter.
        tasks: T.
        features: D, the width of the features from which tasks are found; None if there is one task.
        init_seed: with the path the key of all initial values.

    Source: PHA, arXiv 2310.11670. Our reading: a fan of 1 for generated biases, and retrieval by the product of query
    and prototype, by which they are trained; in its code nothing is retrieved at test time.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bottleneck: int,
        *,
        tasks: int = 1,
        features: int | None = None,
        init_seed: int = 0,
        path: str = "",
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bottleneck = in_features, out_features, bottleneck
        self.prototypes = nn.Parameter(normal((tasks, EMBEDDING), init_seed, f"{path}.prototypes"))
        self.inner = started(nn.Linear(2 * EMBEDDING, HIDDEN), init_seed, f"{path}.inner")
        self.outer = started(nn.Linear(HIDDEN, EMBEDDING), init_seed, f"{path}.outer")
        self.norm = nn.LayerNorm(EMBEDDING)

        def made(name: str, size: int, fan: int) -> nn.Linear:
            bound = _START * math.sqrt(3 / (EMBEDDING * fan))
            return started(nn.Linear(EMBEDDING, size), init_seed, f"{path}.{name}", bound=bound)

        self.down = made("down", bottleneck * in_features, in_features)
        self.down_bias = made("down_bias", bottleneck, 1)
        self.up = made("up", out_features * bottleneck, bottleneck)
        self.up_bias = made("up_bias", out_features, 1)
        self.retriever = (
            None if features is None else Retriever(features, init_seed=init_seed, path=f"{path}.retriever")
        )

    def forward(self, layer: Tensor) -> Adapters:
        """The adapters of all tasks in the layer of an embedding (64,)."""
        tasks = self.prototypes
        h = self.inner(torch.cat([tasks, layer.expand(len(tasks), -1)], 1))
        h = self.norm(self.outer(F.relu(h)))  # (T, 64)
        return Adapters(
            self.down(h).unflatten(1, (self.bottleneck, self.in_features)),
            self.down_bias(h),
            self.up(h).unflatten(1, (self.out_features, self.bottleneck)),
            self.up_bias(h),
        )

    @torch.no_grad()
    def nearest(self, pooled: Tensor) -> Tensor:
        """The tasks (B,) of the highest r.z_t, of pooled features (B, D)."""
        assert self.retriever is not None
        return (self.retriever(pooled) @ self.prototypes.t()).argmax(1)

    def extra_repr(self) -> str:
        tasks = len(self.prototypes)
        return f"{tasks} tasks, {self.in_features} -> {self.bottleneck} -> {self.out_features}"


@torch.no_grad()
def started(layer: nn.Linear, seed: int, path: str, *, bound: float | None = None) -> nn.Linear:
    """The layer with start values of (seed, path): U(-bound, bound) and biases of zero, or as torch's are."""
    usual = 1 / math.sqrt(layer.in_features)
    layer.weight.copy_(uniform(tuple(layer.weight.shape), usual if bound is None else bound, seed, f"{path}.weight"))
    layer.bias.copy_(uniform(tuple(layer.bias.shape), usual if bound is None else 0.0, seed, f"{path}.bias"))
    return layer


class GeneratedAdapter(nn.Module):
    """`A(x) = B_t relu(A_t x + a_t) + b_t`, generated by a hypernetwork for this layer and the task t of x.

    It is generated once for each task in a pass, not for each example. The hidden units of all tasks are computed in
    one product; those of other tasks than the example's are then set to zero.

    Args:
        hypernetwork: shared with other layers.
        choice: the task of each example; None if there is one task.
        init_seed: with the path the key of the initial values of the layer's embedding.
        path: name of the layer.
    """

    def __init__(
        self, hypernetwork: Hypernetwork, choice: TaskChoice | None, *, init_seed: int = 0, path: str = ""
    ) -> None:
        super().__init__()
        self.hypernetwork, self.choice = hypernetwork, choice
        self.in_features = hypernetwork.in_features
        self.layer = nn.Parameter(normal((EMBEDDING,), init_seed, f"{path}.layer"))

    def added_to(self, y: Tensor, x: Tensor) -> Tensor:
        """`y + A(x)` in the dtype of y, x (B, ..., in); y where the choice says that no example has a task."""
        weights = None if self.choice is None else self.choice.weights(x)
        if self.choice is not None and weights is None:
            return y
        down, down_bias, up, up_bias = self.hypernetwork(self.layer)
        h = F.relu(F.linear(operand(x, down), down.flatten(0, 1), down_bias.flatten()))  # (B, ..., T * a)
        up = up.transpose(0, 1).flatten(1)  # (out, T * a)
        if weights is None:
            return (y + F.linear(h, up, up_bias[0])).to(y.dtype)
        weights = weights.to(h.dtype)  # (B, 1, ..., T), of which one is 1
        h = (h.unflatten(-1, (len(down), -1)) * weights.unsqueeze(-1)).flatten(-2)
        return (y + F.linear(h, up) + F.linear(weights, up_bias.t())).to(y.dtype)


@torch.no_grad()
def generated(tensors: Mapping[str, Tensor]) -> dict[str, Adapters]:
    """The adapters of all tasks in each slot, from the tensors of an adapter file, by canonical names."""
    layers = {name.removesuffix(_LAYER): tensor for name, tensor in tensors.items() if name.endswith(_LAYER)}
    made: dict[str, Adapters] = {}
    hypernetwork: Hypernetwork | None = None
    for slot, layer in layers.items():
        prefix = f"{slot}.branch.hypernetwork."
        if own := {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}:
            sizes = {name: len(own[f"{name}.bias"]) for name in ("down", "down_bias", "up_bias")}
            bottleneck = sizes["down_bias"]
            tasks = len(own["prototypes"])
            hypernetwork = Hypernetwork(sizes["down"] // bottleneck, sizes["up_bias"], bottleneck, tasks=tasks)
            hypernetwork.to(layer.dtype).load_state_dict(
                {name: tensor for name, tensor in own.items() if not name.startswith("retriever.")}
            )
        assert hypernetwork is not None
        made[slot] = hypernetwork(layer)
    return made
