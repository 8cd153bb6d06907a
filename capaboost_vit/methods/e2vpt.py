"""E^2VPT: deep prompts that can be pruned, and learned keys in each attention that are its learned values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from .. import core
from ..io.options import option
from .hooks import Stage
from .index import register
from .method import BRANCHES_HELP, DENSITY_HELP, SIZES, MaskedMethod
from .prefix import Prefix
from .prompt import Prompt

if TYPE_CHECKING:
    from torch import nn

_PATCH = 3 * 16 * 16  # numbers of a patch of 16 pixels, by which prompts start, whatever patches the model has


@register
@dataclass(frozen=True)
class E2vpt(MaskedMethod):
    """E^2VPT: P prompt tokens in each block, and in each attention K learned vectors that are both keys and values.

    The attention is `softmax(q [T; K]^T) [T; V]`, where T (K, D) is added after the projections, for each head
    (`Prefix` with tied=True), and q, K and V see the tokens of the image and the P prompts of the block (`Prompt` with
    deep=True). With tied=False keys and values are different parameters. A text encoder has one set of prompts, before
    its first layer.

    Prompts start from U(-v, v), v = sqrt(6 / (3 * 16 * 16 + D)), keys and values from U(-w, w), w = sqrt(6 / (K d)),
    with d the width of a head. They change the softmax, so the model is near the base at step 0; it is the base if both
    lengths are 0.

    Pruning: a run first trains with all prompts and scores them (`pruning.PromptPruning`). It then removes the share
    pruned_tokens of the tokens, the same ones in each block, and the share pruned_segments of the segments of each
    remaining token, which makes the sequence shorter and the file smaller. Everything else is reset, and the run trains
    the remaining prompts from their initial values. Without a run the first tokens and segments remain. Keys and values
    are not pruned.

    As published there are no masks: the default is num_branches=1 with density=1.

    Source: E^2VPT (ICCV 2023), arXiv 2307.13770. Deviations: prompts are placed after the patch tokens, not after the
    class token (equivalent for these blocks); v is that of patches of 16 pixels for every model; prompts have no weight
    decay. Scores are absolute values, as in the paper (in the code they are signed). Pruned tokens are removed (there
    they are set to zero and stay in the sequence). The initial values are those of the first training (there new ones).
    Segments are contiguous (there coordinates 16 apart). The shares are options (there chosen on val by 72 trainings).
    `usual_lr` is measured with AdamW; published is SGD with a learning rate and weight decay for each task.
    """

    name: ClassVar[str] = "e2vpt"
    needs_plain_attention: ClassVar[bool] = True
    starts_as_base: ClassVar[bool] = False
    num_branches: int = option(1, BRANCHES_HELP, low=1)
    density: float | None = option(1.0, DENSITY_HELP, compared=False)
    prompt_length: int = option(10, "number of prompt tokens in each block, before pruning", low=0)
    prefix_length: int = option(5, "number of learned keys and values in each attention layer", low=0)
    tied: bool = option(True, "use one learned tensor as both keys and values", compared=False)
    dropout: float = option(0.1, "dropout on the prompt tokens", low=0, below=1, compared=False)
    pruned_tokens: float = option(
        0.0, "fraction of the prompt tokens that is removed, by scores after a first training", low=0, below=1
    )
    pruned_segments: float = option(
        0.0, "fraction of the segments that is removed from each remaining token, likewise", low=0, below=1
    )
    segments: int = option(16, "number of segments of a token, for --method.pruned-segments", low=1)
    scored_after: float = option(
        1.0, "length of the first training, as a fraction of the run's updates", above=0, high=1, compared=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pruned and self.prompt_length == 0:
            raise ValueError("e2vpt prunes prompt tokens, and prompt_length=0 has none: leave the pruning out")

    @classmethod
    def label(cls, record: Mapping[str, Any]) -> str:
        """With both lengths, and what differs of keys and shares: `e2vpt p10 k5`, `e2vpt p10 k5 untied pruned 0.5`."""
        name, *properties = super().label({key: value for key, value in record.items() if key not in SIZES}).split(" ")
        parts = [f"p{record['prompt_length']}", f"k{record['prefix_length']}"]
        parts += [] if record.get("tied") else ["untied"]
        parts += [f"pruned {record['pruned_tokens']:g}"] if record.get("pruned_tokens") else []
        parts += [f"segments pruned {record['pruned_segments']:g}"] if record.get("pruned_segments") else []
        return " ".join([name, *parts, *properties])

    @property
    def pruned(self) -> bool:
        """Whether anything of the prompts is."""
        return self.pruned_tokens > 0 or self.pruned_segments > 0

    def left(self) -> tuple[int, int]:
        """How many tokens, and segments of each, are left: at least one."""
        of_each = ((self.prompt_length, self.pruned_tokens), (self.segments, self.pruned_segments))
        tokens, segments = (count - min(round(share * count), count - 1) for count, share in of_each)
        return tokens, segments

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """The wrappers of the attention layers, then those of the blocks.

        Raises ValueError if no prefix attention or no prompt is known for this model, or tokens do not divide into
        segments that are to be pruned.
        """
        masks: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(MaskedMethod)}
        wrapper: Any
        for name, wrapper in Prefix(prefix_length=self.prefix_length, tied=self.tied, **masks).build(model, anatomy):
            if self.prefix_length:
                wrapper.tokens.table.fill_uniform(math.sqrt(6 / (self.prefix_length * wrapper.head_dim)))
            yield name, wrapper
        for name, wrapper in Prompt(prompt_length=self.prompt_length, **masks).build(model, anatomy):
            tokens = wrapper.tokens
            tokens.table.fill_uniform(_bound(tokens.width))
            tokens.dropout = self.dropout
            if self.pruned:
                tokens.table = self._pruned(tokens.table)
                tokens.length = wrapper.dropped = self.left()[0]
            yield name, wrapper

    def _pruned(self, whole: core.TiedMaskedWeight) -> core.PrunedTable:
        (rows, kept), width = self.left(), whole.weight.shape[1]
        if self.pruned_segments == 0:
            return core.PrunedTable(whole, rows=rows, kept=1, count=1)
        if width % self.segments:
            raise ValueError(
                f"tokens of width {width} do not divide into segments={self.segments}: say a number that divides it"
            )
        return core.PrunedTable(whole, rows=rows, kept=kept, count=self.segments)

    def stages(self, job: Any) -> Iterable[Stage]:
        """The training with all prompts, and their pruning. Raises ValueError for a sharded model."""
        if not self.pruned:
            return
        if job.config.fsdp:
            raise ValueError("e2vpt scores whole tokens, which --fsdp has in no process: leave it, or the pruning, out")
        from .pruning import PromptPruning  # with torch, which the help of the command line does without

        rows, kept = self.left()
        of_segments = f", {kept} of {self.segments} segments of each" if self.pruned_segments else ""
        updates = max(1, round(self.scored_after * job.state.updates))
        pruning = PromptPruning(job, self.whole)
        yield Stage(f"all {self.prompt_length} prompt tokens are put in", pruning.begin)
        yield Stage(
            f"{updates} updates with all of them; then all begins anew with {rows} tokens{of_segments}",
            pruning.end,
            updates=updates,
        )

    def whole(self, table: core.PrunedTable) -> core.TiedMaskedWeight:
        """The table (P, D) of which this one is a part, with its start values."""
        values, width = table.values, table.width
        masking = replace(self.masking, init_seed=values.init_seed)
        whole = core.TiedMaskedWeight((self.prompt_length, width), masking, path=values.path)
        whole.fill_uniform(_bound(width))
        return whole.to(values.weight)


def _bound(width: int) -> float:
    """v, of the start of prompts."""
    return math.sqrt(6 / (_PATCH + width))
