"""DAS: blocks that a task needs least are skipped, an adapter in the place of each; which, a search on val says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, repeat
from math import exp
from typing import TYPE_CHECKING, Any, ClassVar, cast

from .. import core
from ..io.options import option
from .index import register
from .method import BRANCHES_HELP, DENSITY_HELP, MaskedMethod

if TYPE_CHECKING:
    from torch import nn


@register
@dataclass(frozen=True)
class Das(MaskedMethod):
    """DAS (Dynamic Architecture Skipping): skipped blocks are replaced by an adapter, y = x + A(x); in all other blocks

        x = x + Attn(LN x) + A'(x); y = x + MLP(LN x) + A"(x).

    Each adapter has its own layer norm, A(x) = sum_i (Wup * Mup_i) relu((Wdn * Mdn_i) LN x + a) + b. A skipped block
    computes nothing else, in training and evaluation.

    Unless `skipped` is given, a run first searches on val for `skip_num` blocks to skip, and then starts again with
    them. search="gates": for `search_epochs` both kinds of adapters are trained, and each update skips another subset
    of the blocks, drawn by gates (`core.SubsetGates`). After `search_warmup` epochs, every `search_interval` updates,
    the gates learn from the rewards exp(-loss) of `search_samples` subsets on one batch of val. The blocks with the
    highest gates are skipped. search="leave_one_out", the deterministic baseline of the gates: all blocks are trained
    for these epochs, then the block whose removal increases the loss on val least is removed, again and again. Without
    a run, as in `adapt`, no block is skipped unless `skipped` is given.

    As published there are no masks: the default is num_branches=1 with density=1.

    Source: DAS (NeurIPS 2023), arXiv 2309.01479, for vision-language models, and its code for ViLT. Deviations: rewards
    are computed in evaluation mode (there with dropout), batches of val are used in turn, the step of the gates is the
    policy gradient of `core.SubsetGates`, and adapters start at zero (there from N(0, 0.02^2)), so that without a
    skipped block the model is the base at step 0. The mergeable adapters of its successor do not exist here.
    """

    name: ClassVar[str] = "das"
    needs_plain_attention: ClassVar[bool] = True
    usual_lr: ClassVar[float] = 1e-3
    finds: ClassVar[tuple[str, ...]] = ("skipped",)
    num_branches: int = option(1, BRANCHES_HELP, low=1)
    density: float | None = option(1.0, DENSITY_HELP, compared=False)
    bottleneck: int = option(96, "width of the adapters parallel to attention and MLP", low=1, compared=False)
    skip_bottleneck: int = option(192, "width of the adapter of a skipped block", low=1, compared=False)
    dropout: float = option(0.0, "dropout on the adapters' inputs", low=0, below=1, compared=False)
    skip_num: int = option(2, "number of blocks that a run skips", low=0, compared=False)
    skipped: tuple[int, ...] | None = option(
        None, "the blocks that are skipped, from 0; null: found by the run on val", low=0, compared=False
    )
    search: str = option(
        "gates",
        "how a run finds these blocks: gates, which are learned while subsets of the blocks are trained; or "
        "leave_one_out, which removes one block after another, each time the one that raises the loss of val least",
        choices=("gates", "leave_one_out"),
        compared=False,
    )
    search_epochs: int = option(3, "search: epochs of training", low=1, compared=False)
    search_warmup: int = option(1, "search by gates: epochs before the gates are trained", low=0, compared=False)
    search_interval: int = option(10, "search by gates: updates between two steps of the gates", low=1, compared=False)
    search_samples: int = option(3, "search by gates: number of subsets that a step compares", low=2, compared=False)
    gate_lr: float = option(1.0, "search by gates: learning rate of the gates", above=0, compared=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        skipped = () if self.skipped is None and self.skip_num == 0 else self.skipped
        if skipped is not None:
            object.__setattr__(self, "skipped", tuple(sorted(set(skipped))))
            object.__setattr__(self, "skip_num", len(set(skipped)))

    @classmethod
    def label(cls, record: Mapping[str, Any]) -> str:
        """With the blocks that are skipped, or how many: `das w96 skips #3 #7`, `das w96 skips 2`."""
        skipped = record["skipped"]
        which = [str(record["skip_num"])] if skipped is None else [f"#{index}" for index in skipped]
        return " ".join([super().label(record), *(["skips", *which] if which else [])])

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each block.

        Raises ValueError if it is not known how blocks of this model are skipped, or for a block that it has not;
        TypeError for a block in another wrapper.
        """
        if anatomy.skippable is None:
            raise ValueError(
                f"no skipping of blocks is known for {type(model).__name__}: das takes ViTs of timm with plain blocks; "
                "use adapter"
            )
        places = core.find(model, "block", anatomy)
        for index in self.skipped or ():
            if index >= len(places):
                raise ValueError(
                    f"skipped names block {index}, and this {type(model).__name__} has 0 to {len(places) - 1}"
                )
        for index, place in enumerate(places):
            base = core.get(model, place.name)
            width, device = core.features(base, place.name)[0], core.device_and_dtype(base)
            kinds = ("skip",) if index in (self.skipped or ()) else ("attn", "mlp")
            adapters = {kind: self._adapter(width, place.name, kind).to(**device) for kind in kinds}
            yield place.name, anatomy.skippable(base, core.BlockAdapters(adapters))

    def _adapter(self, width: int, path: str, kind: str) -> core.NormedAdapter:
        branch = core.LowRankBranch(
            width,
            width,
            self.skip_bottleneck if kind == "skip" else self.bottleneck,
            self.masking,
            dropout=self.dropout,
            act="relu",
            bias=True,
            path=f"{path}.{kind}",
        )
        return core.NormedAdapter(branch)

    def find(self, job: Any, say: Callable[[str], None]) -> dict[str, Any]:
        """The blocks to skip.

        Raises ValueError without a val split, with sharded weights, for more blocks than there are, or for a search
        that ends before the gates learn.
        """
        by_hand = "name the blocks, --method.skipped 3 7"
        if job.val is None:
            raise ValueError(f"das finds on val which blocks to skip, and {job.data} has no val split: {by_hand}")
        if job.config.fsdp:
            raise ValueError(
                f"das searches with whole weights, which --fsdp has in no process: leave it out, or {by_hand}"
            )
        blocks = [module for module in job.model.modules() if isinstance(module, core.BlockAdapters)]
        if self.skip_num > len(blocks):
            raise ValueError(f"skip_num is {self.skip_num}, and {job.config.model} has {len(blocks)} blocks")
        search = _Search(self, job, blocks)
        found = search.by_gates(say) if self.search == "gates" else search.by_leaving_out(say)
        say(f"skipped blocks: {', '.join(map(str, found))} of 0 to {len(blocks) - 1}, found on val by {self.search}")
        return {"skipped": list(found)}


class _Search:
    """The search of one run: trains the model of its job, which is built anew afterwards, at the rate of the run."""

    def __init__(self, method: Das, job: Any, blocks: Sequence[core.BlockAdapters]) -> None:
        self.method, self.job, self.blocks = method, job, blocks
        self.instead = []  # of each block the adapter in its place
        for block in blocks:
            branch = cast(core.NormedAdapter, block["attn"]).branch
            path = branch.path.rpartition(".")[0]
            adapter = method._adapter(branch.in_features, path, "skip")
            self.instead.append(adapter.to(**core.device_and_dtype(branch.down)))

    def by_gates(self, say: Callable[[str], None]) -> tuple[int, ...]:
        """The blocks of the highest gates."""
        method, job = self.method, self.job
        gates = core.SubsetGates(len(self.blocks), method.skip_num, lr=method.gate_lr)
        if method.skip_num == len(self.blocks):
            return gates.best()
        steps = len(job.train) * method.search_epochs
        learning = range(len(job.train) * method.search_warmup, steps)[
            method.search_interval - 1 :: method.search_interval
        ]
        if not learning:
            raise ValueError(
                f"das searches for {steps} updates, and its gates never learn: say more --method.search-epochs, "
                "or less --method.search-interval or --method.search-warmup"
            )
        random = core.random_state(job.config.seed, "das")
        held_out = chain.from_iterable(repeat(job.val))
        for step, _ in enumerate(self.updates(lambda: gates.draw(random))):
            if step in learning:
                batch = [next(held_out)]
                subsets = [gates.draw(random) for _ in range(method.search_samples)]
                gates.learn(subsets, [exp(-self.loss(batch, subset)) for subset in subsets])
        say(f"gates of the blocks after {len(learning)} steps: {', '.join(f'{gate:.3f}' for gate in gates.values)}")
        return gates.best()

    def by_leaving_out(self, say: Callable[[str], None]) -> tuple[int, ...]:
        """One block after the other, that of the least loss without it; ties go to the first."""
        for _ in self.updates(tuple):
            pass
        left: list[int] = []
        while len(left) < self.method.skip_num:
            losses = {i: self.loss(self.job.val, (*left, i)) for i in range(len(self.blocks)) if i not in left}
            say("val loss without a block: " + ", ".join(f"{i}: {loss:.4g}" for i, loss in losses.items()))
            left.append(min(losses, key=losses.__getitem__))
        return tuple(sorted(left))

    def loss(self, batches: Any, subset: tuple[int, ...]) -> float:
        """Of held-out batches, with the blocks of a subset skipped."""
        with self.skipping(subset):
            return self.job.mean_loss(batches)

    def updates(self, draw: Callable[[], tuple[int, ...]]) -> Iterator[None]:
        """Trains for the epochs of the search, each update with a subset skipped; comes back behind each.

        Not by the loop of the run: DistributedDataParallel refuses parameters that an update does not use.
        """
        job = self.job
        with self.skipping(range(len(self.blocks))):  # so that the optimizer sees all
            optimizer = job.optimizer()
        if job.front is not None:
            job.front.fill()
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for update in chain.from_iterable(map(job.train.epoch, range(self.method.search_epochs))):
            with self.skipping(draw()):
                job.called.train()
                for batch in update.batches:
                    inputs, targets = job.mix(job.prepare(batch))
                    (job.objective.loss(job.logits(inputs), targets) / update.size).backward()
            for parameter in trained:
                if parameter.grad is not None:  # the same ones in all processes
                    job.world.sum(parameter.grad)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            yield

    @contextmanager
    def skipping(self, subset: Sequence[int]) -> Iterator[None]:
        """Skips the blocks of a subset."""
        for index in subset:
            self.blocks[index]["skip"] = self.instead[index]
        try:
            yield
        finally:
            for index in subset:
                del self.blocks[index]["skip"]
