"""Encoders of transformers written out in float64, one example at a time and without padding: no module of ours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import small
import torch
from torch import Tensor, nn

from capaboost_vit.core.inject import branches

ACTIVATIONS = {None: lambda h: h, "relu": torch.relu, "tanh": torch.tanh, "gelu": nn.functional.gelu}
LEVELS = ("", "_2", "_3")  # of what stands several times in one slot, from the inside


def branch_of(branch: Any, x: Tensor) -> Tensor:
    """`scaling * [ sum_i (B * MB_i) c_i act((A * MA_i) x + a) + b ]`, x (N, in), a branch at a time; c_0 is 1."""
    ones = [1.0] * branch.num_branches
    masks_a = ones if branch.down.mask is None else branch.down.mask.double()
    masks_b = ones if branch.up.mask is None else branch.up.mask.double()
    factors = ones
    if branch.coefficients is not None:
        factors = [1.0, *branch.coefficients.double().view(branch.num_branches - 1, -1)]
    total = torch.zeros(())
    for mask_a, mask_b, c in zip(masks_a, masks_b, factors, strict=True):
        hidden = x @ (branch.down.weight * mask_a).T
        if branch.down_bias is not None:
            hidden = hidden + branch.down_bias
        total = total + (ACTIVATIONS[branch.act](hidden) * c) @ (branch.up.weight * mask_b).T
    return branch.scaling * (total if branch.up_bias is None else total + branch.up_bias)


def tokens_of(tokens: Any) -> Tensor:
    """`sum_i T * M_i`, or the MLP of T, (P, D)."""
    if tokens.mlp is not None:
        return branch_of(tokens.mlp, tokens.table.weight)
    mask = tokens.table.mask
    return tokens.table.weight * (tokens.table.num_branches if mask is None else mask.sum(0))


def gate_of(addition: Any, x: Tensor) -> Tensor | float:
    """The mean over the tokens x (N, D) of sigmoid(x w + b), or one where there is no gate."""
    if addition.gate is None:
        return 1.0
    return torch.stack([1 / (1 + torch.exp(-(row @ addition.gate.weight + addition.gate.bias))) for row in x]).mean()


class Written:
    """An encoder with additions: what is in one slot acts from the inside out.

    Args:
        plain: the base model without additions.
        added: what was added, by canonical name.
        order: of the kinds that one slot got, within each level.
        scaled_inputs: names of layers whose scales act on what enters.
    """

    def __init__(
        self,
        plain: nn.Module,
        added: Mapping[str, Any],
        *,
        order: tuple[str, ...] = ("branches.all", "scales.all", "branch"),
        scaled_inputs: tuple[str, ...] = (),
    ) -> None:
        self.plain, self.added = plain.double(), added
        self.order, self.scaled_inputs = order, scaled_inputs
        self.used: set[str] = set()

    def __call__(self, ids: Tensor) -> list[Tensor]:
        """The embeddings and what each layer makes of them, (N, D) each, without the prompt; the last is the output."""
        self.used = set()
        plain = self.plain
        x = plain.embeddings(ids.unsqueeze(0))
        x = (plain.embeddings_project(x) if hasattr(plain, "embeddings_project") else x)[0]
        own = len(x)
        for level in reversed(LEVELS):
            prompt = self._added(f"encoder.tokens{level}")
            x = x if prompt is None else torch.cat([tokens_of(prompt), x])
        start, states = x, [x]
        for i in range(len(plain.encoder.layer)):
            x = self._layer(f"encoder.layer.{i}", x)
            conv = getattr(plain.encoder, "conv", None)
            if i == 0 and conv is not None:
                x = conv(start[None], x[None], torch.ones(1, len(x), dtype=torch.long))[0]
            states.append(x)
        assert self.used == set(self.added), "what was added stands elsewhere"
        return [state[len(state) - own :] for state in states]

    def _added(self, name: str) -> Any:
        if name not in self.added:
            return None
        self.used.add(name)
        return self.added[name]

    def _layer(self, name: str, x: Tensor) -> Tensor:
        attention = f"{name}.attention.self"
        q, k, v = (self._linear(self._projection(attention, part), x) for part in ("query", "key", "value"))
        context = self._attention(attention, x, q, k, v)
        h = self._linear(f"{name}.attention.output.dense", context)
        x = self._norm(f"{name}.attention.output", h, x)
        inner = nn.functional.gelu(self._linear(f"{name}.intermediate.dense", x))
        inner = self._changed(f"{name}.intermediate", x, inner)
        h = self._linear(f"{name}.output.dense", inner)
        return self._norm(f"{name}.output", h, x)

    def _projection(self, name: str, part: str) -> str:
        return f"{name}.{part}" if hasattr(self.plain.get_submodule(name), part) else f"{name}.{part}_proj"

    def _linear(self, name: str, x: Tensor) -> Tensor:
        layer = self.plain.get_submodule(name)
        entering = x * self._added(f"{name}.scales.all").weight if name in self.scaled_inputs else x
        return self._changed(name, x, entering @ layer.weight.T + layer.bias)

    def _changed(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        """What the additions in a slot make of what comes out of it."""
        for level in LEVELS:
            for kind in self.order:
                place = f"{name}.{kind.replace('.', f'{level}.', 1)}" if "." in kind else f"{name}.{kind}{level}"
                addition = None if name in self.scaled_inputs and "scales" in kind else self._added(place)
                if addition is None:
                    continue
                if "scales" in kind:
                    y = y * (1 + gate_of(addition, x) * (addition.weight - 1))
                elif "branches" in kind:
                    y = y + gate_of(addition, x) * branch_of(addition, x)
                else:  # a sequential adapter
                    y = y + gate_of(addition, y) * branch_of(addition, y)
        return y

    def _norm(self, name: str, h: Tensor, x: Tensor) -> Tensor:
        """The end of a sub-layer: the norm of the sum, with a parallel adapter of its input."""
        if (beside := self._added(f"{name}.branch")) is not None:
            h = h + branch_of(beside, x)
        total = h + x
        norm = self.plain.get_submodule(f"{name}.LayerNorm")
        centred = total - total.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias

    def _attention(self, name: str, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """softmax(q [K_p; K]^T / sqrt(d)) [V_p; V], head by head; DeBERTa's scores have further terms for positions."""
        base = self.plain.get_submodule(name)
        heads, size = base.num_attention_heads, q.shape[1] // base.num_attention_heads
        prefixes = [p for level in LEVELS if (p := self._added(f"{name}.tokens{level}")) is not None]
        front = [gate_of(p, x) * tokens_of(p) for p in prefixes]
        kinds = getattr(base, "pos_att_type", ())
        relative = getattr(base, "relative_attention", False)
        tables = {kind: self._positions_projected(name, kind) for kind in kinds} if relative else {}
        scale = math.sqrt(size * (1 + len(kinds)))
        joined = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            scores = q[:, part] @ k[:, part].T
            if relative:
                scores = scores + _positions(base, q[:, part], k[:, part], {n: t[:, part] for n, t in tables.items()})
            before = [t.chunk(2, dim=1) for t in front]
            scores = torch.cat([*(q[:, part] @ keys[:, part].T for keys, _ in before), scores], dim=1) / scale
            weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
            joined.append(weights @ torch.cat([*(values[:, part] for _, values in before), v[:, part]]))
        return torch.cat(joined, dim=1)

    def _positions_projected(self, name: str, kind: str) -> Tensor:
        """Keys (c2p) or queries (p2c) of DeBERTa's table of positions; shared projections are those of the words."""
        base, table = self.plain.get_submodule(name), self.plain.encoder.get_rel_embedding()
        part = {"c2p": "key", "p2c": "query"}[kind]
        return self._linear(f"{name}.{part}_proj" if base.share_att_key else f"{name}.pos_{part}_proj", table)


def _positions(base: Any, q: Tensor, k: Tensor, tables: Mapping[str, Tensor]) -> Tensor:
    """DeBERTa's terms for positions: q_i with the key, k_j with the query of the distance i - j."""
    found = torch.zeros(len(q), len(k), dtype=q.dtype)
    for i in range(len(q)):
        for j in range(len(k)):
            row = min(max(_bucket(i - j, base) + base.pos_ebd_size, 0), 2 * base.pos_ebd_size - 1)
            found[i, j] += q[i] @ tables["c2p"][row] if "c2p" in tables else 0
            found[i, j] += k[j] @ tables["p2c"][row] if "p2c" in tables else 0
    return found


def _bucket(distance: int, base: Any) -> int:
    """Near distances count one by one, far ones by their logarithm."""
    buckets, most = base.position_buckets, base.max_relative_positions
    middle = buckets // 2
    if buckets <= 0 or abs(distance) < middle:
        return distance
    far = math.ceil(math.log(abs(distance) / middle) / math.log((most - 1) / middle) * (middle - 1)) + middle
    return far if distance > 0 else -far


@torch.no_grad()
def assert_as_written(family: str, attention: str, name: str, **written: Any) -> None:
    """The adapted model on a padded batch computes what is written out for each example alone, and not the base."""
    model = small.wake(small.adapted(small.build(family, attention=attention).double(), name))
    base = small.build(family, attention=attention).double()
    ids = small.examples()
    batch = small.padded(model, ids, 9)
    found, start = model(**batch).last_hidden_state, base(**batch).last_hidden_state
    expected = Written(base, branches(model), **written)
    for row, example in enumerate(ids):
        real = found[row, : len(example)]
        # DeBERTa takes a root in float32
        torch.testing.assert_close(real, expected(example)[-1], rtol=1e-6, atol=1e-7)
        assert (real - start[row, : len(example)]).abs().max() > 1e-2, "it does nothing"
