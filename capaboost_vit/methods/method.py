"""A method: its options and its behaviour in one frozen dataclass, one file for each, found by its name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..core.masking import Masking
from ..core.rescaling import rescaling
from ..io.options import check_options, option
from .hooks import Counts, Pass, Stage
from .recorded_masks import masks_of, words_of_masks

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..core.inject import Anatomy
    from ..core.wrapper import Wrapper

BRANCHES_HELP = "d: number of branches, masked views of the same weights, that are summed"
DENSITY_HELP = "fraction kept by each mask; null: the pattern's (random 0.5, n:m n/m, complementary 1/d, sign 1)"
INIT_SEED_HELP = "seed of the initial values; a run takes --seed unless this is given"
RESCALE_HELP = (
    "scale the update to that of the plain method: in the mean (by 1 / (d s^2), s the density), or by its Frobenius "
    "norm; null: no scaling"
)
COEFFICIENTS_HELP = (
    "learned coefficients, which start at zero, of all branches but the first, which has no masks: rank (one for each "
    "rank of a branch) or branch (one for each branch); null: rank where a null --method.pattern means sign, else no "
    "coefficients, and masks in every branch"
)

TARGETS_HELP = "roles or name patterns of linear layers; blocks.11.query: a role in one block"
DROPOUT_HELP = "dropout on the update's input"

# options of a size that stand in a label, and the letter before each
SIZES = {"rank": "r", "bottleneck": "w", "prefix_length": "p", "prompt_length": "p"}
SIZES |= {"num_blocks": "n", "gralora_k": "k", "block_size": "b", "n_butterfly_factor": "m"}


@dataclass(frozen=True)
class Method:
    """A fine-tuning method: a subclass with `@register`, its options as fields made by `option`, and `build`.

    Registered methods are known to `adapt`, the timm names, the command line and its help, configurations, adapter
    files, summaries and studies; those of another package by an entry point in the group `capaboost_vit.methods`.

    Methods and attributes of the class:
        name: the name of the method in calls and options.
        timm_names: `<family>_capaboost_<name>` are registered; needs_plain_attention: for timm's plain attention alone.
        trains_head: the head is trained from the first step; False: it keeps its weights.
        uses_labels: the loss of the run is used in training; False: only the hooks `losses` and `penalty` are.
        trains_all: everything is trained, and an adapter file holds every weight (full fine-tuning).
        starts_as_base: at step 0 the model computes the same as the base.
        usual_lr: default learning rate of AdamW on images.
        stacks: it can be applied to modules that have a wrapper of the same class already.
        why_no_masks: of a method that takes no masks, the reason, for the error message; "": none.
        finds: names of options that are None until a run has found them by `find`, such as ("skipped",).
        measures: names that `counted` or `count` returns, such as ("rate",); runs report `val_rate` and `test_rate`.
        given: names that the user gave (`name`, too), which a configuration keeps; None: it was made by its class.
    """

    name: ClassVar[str]
    timm_names: ClassVar[bool] = True
    needs_plain_attention: ClassVar[bool] = False
    trains_head: ClassVar[bool] = True
    uses_labels: ClassVar[bool] = True
    trains_all: ClassVar[bool] = False
    starts_as_base: ClassVar[bool] = True
    stacks: ClassVar[bool] = False
    why_no_masks: ClassVar[str] = ""
    usual_lr: ClassVar[float] = 3e-3  # measured: docs/tuning.md, "Usual rates", has the command
    finds: ClassVar[tuple[str, ...]] = ()
    measures: ClassVar[tuple[str, ...]] = ()
    given: ClassVar[tuple[str, ...] | None] = None

    def __post_init__(self) -> None:
        check_options(self, lambda name: f"{name} of method {self.name!r}")

    # what it does to a model

    def build(self, model: nn.Module, anatomy: Anatomy) -> Iterator[tuple[str, Wrapper]]:
        """Yields (canonical name of a slot, the wrapper for it); each is attached before the next one is requested.

        A module that several wrappers share is created first and passed to each of them. Masks and initial values are
        functions of the options, so building again gives the same. If it raises ValueError or TypeError, because
        something does not fit the model, all wrappers are removed again.
        """
        yield from ()

    def base_parameters(self, model: nn.Module) -> Iterable[nn.Parameter]:
        """Parameters of the base model that are trained in addition to what is added and the head."""
        return ()

    def learning_rates(self, model: nn.Module) -> Iterable[tuple[nn.Parameter, float]]:
        """(parameter, factor) pairs for trained parameters whose learning rate is that of the run times a factor."""
        return ()

    def folded(self) -> Method:
        """The method with the options that describe the model after `fold`, which replaces what only training needs."""
        return self

    def alone(self, tensors: Mapping[str, Tensor], task: int) -> tuple[Method, dict[str, Tensor]]:
        """The method and the tensors of one task of an adapter file with several, without those of the head.

        Raises ValueError if all tasks share one adapter.
        """
        raise ValueError(f"the tasks of method {self.name!r} have no adapters of their own: take its file as it is")

    def inherits(self, name: str) -> bool:
        """Whether a run that starts from an adapter file loads its tensor of this name; those of the head are new."""
        return True

    def cautions(self) -> Iterator[str]:
        """Warnings for the log of a run: options that are valid, but rarely intended."""
        yield from ()

    # hooks of the training loop; they draw from the random stream of the update, and their state lives in buffers

    def penalty(self, model: nn.Module) -> Tensor | None:
        """A term added to the mean loss of an update, once for any number of examples; not in evaluation."""
        return None

    def losses(self, forward: Pass, inputs: Any, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """A term added to the loss of a batch, a sum over its examples; `forward(inputs)` is another pass."""
        return None

    def after_backward(self, model: nn.Module, update: int, updates: int) -> None:
        """Called before the optimizer's step of an update (from 0), with finite, unscaled and clipped gradients."""

    def after_step(self, model: nn.Module, update: int, updates: int) -> None:
        """Called after the optimizer's step, with the new values; not if a gradient scaler has skipped the step."""

    def knowing(self, model: nn.Module, targets: Tensor) -> AbstractContextManager[None]:
        """A context around forward and backward passes of a training batch, in which the model may use its targets."""
        return nullcontext()

    def counted(self, model: nn.Module) -> AbstractContextManager[Callable[[], Counts]]:
        """A context around an evaluation that yields a function: for each of `measures` a sum and a count."""
        return nullcontext(dict)

    def count(self, forward: Pass, inputs: Any, outputs: Tensor, targets: Tensor) -> Counts:
        """The same for one batch of an evaluation, after its forward pass; `forward(inputs)` is another pass."""
        return {}

    def find(self, job: Any, say: Callable[[str], None]) -> Mapping[str, Any]:
        """Values of the options in `finds` that are None, found on val before a run, which is built again with them."""
        return {}

    def stages(self, job: Any) -> Iterable[Stage]:
        """Work before the first update, such as compression."""
        return ()

    # as values

    def with_found(self, options: Mapping[str, Any]) -> Method:
        """The method with the options that a run has found; configurations keep the options as given."""
        made = dataclasses.replace(self, **options)
        object.__setattr__(made, "given", tuple(name for name in self.as_given() if name not in options))
        return made

    def seeded(self, seed: int) -> Method:
        """With the run's seed for initial values, unless the user gave `init_seed`; masks have their own seed."""
        if not hasattr(self, "init_seed") or "init_seed" in self.as_given():
            return self
        return dataclasses.replace(self, init_seed=seed)  # type: ignore[call-arg]

    def for_tasks(self, classes: Sequence[int]) -> Method:
        """The method with the number of classes of each task, for a run on several data sets."""
        return self

    def options(self) -> dict[str, Any]:
        """All options as JSON values: lists, no tuples."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def record(self) -> dict[str, Any]:
        """The method as adapter files store it: its name as `method`, and all options."""
        return {"method": self.name, **self.options()}

    @classmethod
    def label(cls, record: Mapping[str, Any]) -> str:
        """A short name with the main options of a `record`, for tables: `capaboost-lora r8 d2`, `lora r8`, `head`.

        Masks other than the method's default are appended, such as the paper's (`capaboost-lora r8 d2 random`), and so
        is a density other than the pattern's (`s1`: tied, not masked). Records of earlier releases have fewer options.
        """
        name = str(record["method"])
        properties = [f"{letter}{record[option]}" for option, letter in SIZES.items() if record.get(option) is not None]
        if masks := words_of_masks(cls, record):
            name, properties = f"capaboost-{name}", [*properties, *masks]
        if record.get("rescale") is not None:
            properties.append(f"rescaled by {record['rescale']}")
        if record.get("learned_scale"):
            properties.append(f"learned scale {record['learned_scale']}")
        return " ".join([name, *properties])

    def as_given(self) -> dict[str, Any]:
        """The options that a configuration keeps: those given, or else `name` and those that are not the default."""
        values = {"name": self.name, **self.options()}
        if self.given is not None:
            return {name: values[name] for name in self.given}
        fields = {field.name: getattr(self, field.name) != field.default for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if fields.get(name, True)}


@dataclass(frozen=True)
class MaskedMethod(Method):
    """A method with masks: the options that all of these have. num_branches=1 with density=1 is the plain method."""

    num_branches: int = option(2, BRANCHES_HELP, low=1)
    density: float | None = option(None, DENSITY_HELP, compared=False)
    pattern: str | None = option(
        None,
        "pattern of the masks: random (as in the paper), complementary, sign, or n:m such as 2:4; null: sign, with "
        "coefficients by rank, if the method has coefficients, there are several branches and no density is given; "
        "else random",
        compared=False,
    )
    mask_seed: int = option(0, "seed of the masks, independent of --seed", compared=False)
    init_seed: int = option(0, INIT_SEED_HELP, compared=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        masks = self.masking
        for name in ("pattern", "coefficients"):  # as they are meant, so that records do not depend on what none means
            if hasattr(self, name):
                object.__setattr__(self, name, getattr(masks, name))
        self.scaling_of_masks()

    def cautions(self) -> Iterator[str]:
        """Warns of one branch with masks by default, whose dropped entries are never trained."""
        if self.num_branches == 1 and self.density is None and self.pattern == "random":
            yield (
                f"one branch keeps {self.masking.kept:g} of each weight, and the rest is never trained: add "
                f"--method.density 1 for plain {self.name}, or --method.density {self.masking.kept:g} if that is meant"
            )

    @property
    def masking(self) -> Masking:
        """These options as a `Masking`, which the layers take."""
        return masks_of(type(self), self.options())

    def scaling_of_masks(self) -> float:
        """The factor of the option `rescale`, if the method has it. Raises ValueError if the masks have none."""
        return rescaling(getattr(self, "rescale", None), self.masking)
