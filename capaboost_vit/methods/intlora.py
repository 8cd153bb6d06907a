"""IntLoRA: weights of integers, whose low-rank updates are folded into integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .. import core
from ..io.options import option
from .index import register
from .method import BRANCHES_HELP, DENSITY_HELP, TARGETS_HELP, MaskedMethod

if TYPE_CHECKING:
    from torch import nn


@register
@dataclass(frozen=True)
class Intlora(MaskedMethod):
    """IntLoRA: y = x (c * F * Q)^T + b, integers Q of W and F of a factor s + (R + sum_i (B * MB_i) (A * MA_i)) / Q.

    The weight consists of integers during training, too (`IntegerUpdate`): F is rounded to integers of `bits` bits
    (factor="mul"), or to powers of two ("shift"). `merge` writes the product as floating-point numbers,
    `core.merge_integers` as integers of 8 or 16 bits; both compute the same. The model is NOT the base at step 0: it
    differs from it by the rounding.

    A layer becomes integers as a whole: all parts of a fused layer have to be targets, or none. R is a fixed random
    matrix, a function of the seed.

    As published there are no masks: the default is num_branches=1 with density=1. Masks apply to A and B.

    Source: IntLoRA (ICML 2025), arXiv 2410.21759, for diffusion models, whose equations were available only in notes by
    others. Deviations from the authors' code: Q is symmetric, its step is that of the largest entry (theirs:
    asymmetric, found by a search), and it is never zero, so that every entry can be trained (theirs: 15 % cannot, at 4
    bits). R is divided by its largest entry (theirs: by the smaller of its two sides), and is drawn from a seed, not
    stored. The step of F is a learned factor without a zero point ("mul"; of shifts it is fixed), so a matrix has r (in
    + out) + out parameters, with shifts r (in + out). Settings for images are not published; rank and targets are those
    of the code.
    """

    name: ClassVar[str] = "intlora"
    timm_names: ClassVar[bool] = False
    starts_as_base: ClassVar[bool] = False
    num_branches: int = option(1, BRANCHES_HELP, low=1)
    density: float | None = option(1.0, DENSITY_HELP, compared=False)
    rank: int = option(4, "rank of one branch", low=1)
    bits: int = option(8, "bits of the integers of the weight, and of the factors with mul", low=2, high=8)
    factor: str = option(
        "mul", "factors of the integers: mul (integers) or shift (powers of two)", choices=("mul", "shift")
    )
    targets: tuple[str, ...] = option(("query", "key", "value", "attn_out"), TARGETS_HELP, compared=False)
    # compared: R is a function of it, and not in the file
    init_seed: int = option(0, "seed of R and of the start values; in a run that of the run")

    @classmethod
    def label(cls, record: Mapping[str, Any]) -> str:
        """With the kind of integers: `intlora r4 8 bit mul`."""
        return f"{super().label(record)} {record['bits']} bit {record['factor']}"

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each layer, with an update for each of its parts.

        Raises:
            ValueError: a target that matches nothing, a part of a fused layer without the others, or a layer that
                carries a wrapper.
            TypeError: a target that is no linear layer, or has a weight of integers already.
        """
        for name, base, layout, parts in core.linear_parts(model, self.targets, anatomy):
            if isinstance(base, core.Wrapper):
                raise ValueError(
                    f"{name!r} carries {base.adds}, whose gradients would end at the rounding: adapt with intlora first"
                )
            if missing := [part for part in layout.parts if part not in parts]:
                raise ValueError(
                    f"{name!r} is made of integers as a whole, and {', '.join(missing)} of {', '.join(layout.parts)} "
                    "are no targets: name all of its roles in targets, or the layer itself"
                )
            try:
                weights = layout.split(core.dense(base), 0)
            except TypeError as error:
                raise TypeError(f"intlora makes integers of a weight itself, but {error}: take lora") from error
            updates = {
                part: core.IntegerUpdate(
                    weights[part], self.rank, self.masking, bits=self.bits, factor=self.factor, path=f"{name}.{part}"
                ).to(**core.device_and_dtype(base))
                for part in layout.parts
            }
            yield name, core.IntegerUpdated(base, updates, layout)
