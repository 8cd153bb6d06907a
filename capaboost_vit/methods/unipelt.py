"""UniPELT: LoRA, prefix and adapter in every layer, each behind a gate; and its relatives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from .. import core
from ..io.options import option
from .adapter import Adapter
from .ia3 import Ia3
from .index import register
from .lora import Lora
from .method import BRANCHES_HELP, DENSITY_HELP, SIZES, MaskedMethod, Method
from .prefix import Prefix
from .prompt import Prompt
from .recorded_masks import PLAIN_OPTIONS

if TYPE_CHECKING:
    from torch import nn

PARTS = ("lora", "prefix", "adapter", "ia3", "prompt")


@register
@dataclass(frozen=True)
class Unipelt(MaskedMethod):
    """UniPELT: LoRA, prefix and adapter with gates; IA3 and a prompt can be added (for text encoders).

    Every layer has the `parts`, and each of them except the prompt has a gate `g = mean sigmoid(x w + b)`:

    - lora: on query and value, `y = W x + g B A x` (the gate replaces alpha / rank);
    - prefix: `[g K_p; K]`, `[g V_p; V]`; all layers share one reparameterisation MLP;
    - adapter: sequential, after the MLP, `y + g up(act(down(y)))`;
    - ia3: on key, value and the hidden units of the MLP, `x (1 + g (l - 1))`;
    - prompt: tokens before those of the text, without a gate.

    The input x of a gate is that of its branch; for the hidden units it is the input of the MLP.

    As published there are no masks: the default is num_branches=1 with density=1. With num_branches=2, density=0.5
    LoRA, adapter and the MLP of the prefix are CapaBoost's.

    Source: UniPELT, arXiv 2110.07577; with a prompt-tuning layer and the other compositions, arXiv 2405.05493. How
    gates act on IA3, and how copies are combined, is not published: here `copies` are nested.
    """

    name: ClassVar[str] = "unipelt"
    timm_names: ClassVar[bool] = False
    stacks: ClassVar[bool] = True
    num_branches: int = option(1, BRANCHES_HELP)
    density: float | None = option(1.0, DENSITY_HELP, compared=False)
    parts: tuple[str, ...] = option(("lora", "prefix", "adapter"), f"parts: {', '.join(PARTS)}", choices=PARTS)
    copies: int = option(1, "number of nested copies of all parts", low=1)
    rank: int = option(8, "rank of LoRA, whose gate takes the place of alpha / rank", low=1)
    bottleneck: int = option(48, "width of the adapter", low=1)
    activation: str = option(
        "relu", "activation of the adapter: relu, gelu, silu or tanh", choices=("relu", "gelu", "silu", "tanh")
    )
    prefix_length: int = option(10, "number of prefix tokens in each layer", low=0)
    prefix_bottleneck: int | None = option(
        512, "width of the reparameterisation MLP (tanh), which all layers share; null: tables without an MLP", low=1
    )
    prompt_length: int = option(10, "number of prompt tokens, if prompt is one of --method.parts", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.parts:
            raise ValueError(f"unipelt has the parts {', '.join(PARTS)}, got none")

    @classmethod
    def label(cls, record: Mapping[str, Any]) -> str:
        """With the parts that it has beyond the published three, and those of them that it lacks; without sizes."""
        usual = ("lora", "prefix", "adapter")
        added = [part for part in record["parts"] if part not in usual]
        left_out = [f"no-{part}" for part in usual if part not in record["parts"]]
        options = {name: value for name, value in record.items() if name not in SIZES}
        return super().label({**options, "method": "-".join([cls.name, *added, *left_out])})

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """The wrappers of the parts, then those that tell the gates where padding is.

        Raises ValueError for prefixes and layers that take no gates, and what the parts raise.
        """
        added: list[core.Wrapper] = []
        for copy in range(self.copies):
            for part in self._parts(copy):
                for name, wrapper in part.build(model, anatomy):
                    if isinstance(part, Prefix) and not wrapper.gate_widths():
                        raise ValueError(
                            f"the prefixes of a {type(model).__name__} take no gates: leave 'prefix' out of parts"
                        )
                    if isinstance(part, Lora) and not wrapper.gate_widths():
                        kind = core.kind_of(core.unwrap(wrapper))
                        raise ValueError(f"{name!r}, a {kind}, takes no gate: leave 'lora' out of parts")
                    added.append(wrapper)
                    yield name, wrapper
        padding = core.Padding()
        # all wrappers are attached by now, so their additions have their names, the keys of the gates' start values
        names = {id(addition): name for name, addition in core.branches(model).items()}
        for wrapper in added:
            for addition, width in wrapper.gate_widths().items():
                branch: Any = wrapper.additions()[addition]
                gate = core.Gate(width, padding=padding, init_seed=self.init_seed, path=names[id(branch)])
                branch.gate = gate.to(**core.device_and_dtype(branch))
        if anatomy.watching is not None:
            for place in core.find(model, "attn", anatomy, use="prefix"):
                yield place.name, anatomy.watching(core.get(model, place.name), padding)

    def folded(self) -> Unipelt:
        """The prefixes are plain tables."""
        return replace(self, prefix_bottleneck=None)

    def _parts(self, copy: int) -> Iterator[Method]:
        """The methods that one copy is made of, in the order in which they stand around each other."""
        seeds: dict[str, Any] = {"mask_seed": self.mask_seed + copy, "init_seed": self.init_seed + copy}
        masks: dict[str, Any] = {"num_branches": self.num_branches, "density": self.density, "pattern": self.pattern}
        shared = self.prefix_bottleneck is not None
        made: dict[str, Method] = {
            "lora": Lora(rank=self.rank, alpha=float(self.rank), **masks, **seeds),
            "ia3": Ia3(targets=("key", "value", "mlp_hidden"), inputs=()),
            "adapter": Adapter(
                bottleneck=self.bottleneck, placement="sequential", activation=self.activation, **masks, **seeds
            ),
            "prefix": Prefix(
                prefix_length=self.prefix_length,
                bottleneck=self.prefix_bottleneck,
                shared=shared,
                **(masks if shared else PLAIN_OPTIONS),
                **seeds,
            ),
            "prompt": Prompt(prompt_length=self.prompt_length, deep=False, **PLAIN_OPTIONS, **seeds),
        }
        yield from (method for part, method in made.items() if part in self.parts)
