"""The naive reference: d physical copies, masked one by one, gradients masked and summed, weights restored."""

from __future__ import annotations

import torch
from torch import Tensor

from capaboost_vit.core.branch import LowRankBranch
from capaboost_vit.core.masking import Masking
from capaboost_vit.core.virtual_tokens import VirtualTokens

ACTIVATIONS = {None: lambda h: h, "relu": torch.relu, "tanh": torch.tanh, "gelu": torch.nn.functional.gelu}


class Copies:
    """d copies of A and B in float64, as in the official code; `update` is one AdamW step on the shared weights."""

    def __init__(self, branch: LowRankBranch, lr: float, weight_decay: float) -> None:
        self.scaling, self.act = branch.scaling, ACTIVATIONS[branch.act]
        d = branch.num_branches
        self.masks = {}
        self.shared = {}
        for name, tied in (("down", branch.down), ("up", branch.up)):
            ones = torch.ones(d, *tied.weight.shape, dtype=torch.float64)
            self.masks[name] = ones if tied.mask is None else tied.mask.double()
            self.shared[name] = tied.weight.detach().double().clone().requires_grad_()
        self.biases = {
            name: getattr(branch, name).detach().double().clone().requires_grad_()
            for name in ("down_bias", "up_bias")
            if getattr(branch, name) is not None
        }
        self.copies: list[dict[str, Tensor]] = []
        parameters = [*self.shared.values(), *self.biases.values()]
        self.optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)

    def __call__(self, x: Tensor) -> Tensor:
        d = len(self.masks["down"])
        self.copies = [
            {name: (w.detach() * self.masks[name][i]).requires_grad_() for name, w in self.shared.items()}
            for i in range(d)
        ]
        total = torch.zeros(())
        for copy in self.copies:
            hidden = x @ copy["down"].T
            if self.biases:
                hidden = hidden + self.biases["down_bias"]
            total = total + self.act(hidden) @ copy["up"].T
        return self.scaling * (total + self.biases["up_bias"] if self.biases else total)

    def gradients(self) -> dict[str, Tensor]:
        return {
            name: sum(self.masks[name][i] * copy[name].grad for i, copy in enumerate(self.copies))
            for name in self.shared
        }

    def update(self) -> None:
        for name, gradient in self.gradients().items():
            self.shared[name].grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad()


def masking(options):
    """Takes what concerns the masks out of the options of a layer: the Masking that they make, and the rest."""
    names = {"num_branches", "density", "pattern", "mask_seed", "init_seed", "coefficients"}
    return Masking(**{name: options[name] for name in names & options.keys()}), {
        name: value for name, value in options.items() if name not in names
    }


def low_rank(in_features, out_features, rank, **options):
    """A branch of options by name, those of the masks among them."""
    masks, others = masking(options)
    return LowRankBranch(in_features, out_features, rank, masks, **others)


def virtual_tokens(length, width, **options):
    """Virtual tokens of options by name, those of the masks among them."""
    masks, others = masking(options)
    return VirtualTokens(length, width, masks, **others)


def backward_flops(y: Tensor) -> int:
    """FLOPs of the matrix products that the backward pass from y executes."""
    from torch.utils.flop_counter import FlopCounterMode

    # y + a b in place, which it does not know
    in_place = {torch.ops.aten.addmm_: lambda y, a, b, **_: 2 * a[0] * a[1] * b[1]}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        y.square().sum().backward()
    return counter.get_total_flops()
