"""A method: its options and its behaviour, as one frozen dataclass in one file, found by its name."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ..core.masking import Masking
from ..core.rescaling import RESCALES, rescaling
from ..io.options import check_options, check_value, option, suggest

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..core.inject import Anatomy
    from ..core.wrapper import Wrapper

RESCALE_HELP = (
    "rescale the update to the plain method's: mean (by 1 / (d s^2)) or norm (to its Frobenius norm); none: not"
)


@dataclass(frozen=True)
class Method:
    """One way to fine-tune a model: a subclass with `@register`, its options as fields made by `option`, and `build`.

    That is all that makes a method known to `adapt`, the timm names, the command line and its help, configurations,
    adapter files, summaries, reports and studies. Another package can bring one through an entry point of the group
    `capaboost_vit.methods`. What a method does not override costs nothing.

    Methods and attributes of the class:
        name: by which it is called.
        timm_names: whether there are timm names `<family>_capaboost_<name>`; needs_plain_attention: only for families
            whose attention layers are timm's plain ones.
        trains_all: everything is trained, and an adapter file holds every weight (full fine-tuning).
        stacks: takes modules that carry a wrapper of the same class already.
        given: the names that the user gave (`name` too), which a run's configuration keeps; None: made by its class.
    """

    name: ClassVar[str]
    timm_names: ClassVar[bool] = True
    needs_plain_attention: ClassVar[bool] = False
    trains_all: ClassVar[bool] = False
    stacks: ClassVar[bool] = False
    given: ClassVar[tuple[str, ...] | None] = None

    def __post_init__(self) -> None:
        check_options(self, lambda name: f"{name} of method {self.name!r}")

    # what it does to a model

    def build(self, model: nn.Module, anatomy: Anatomy) -> Iterator[tuple[str, Wrapper]]:
        """Yields (canonical name of a slot, the wrapper for it); each is attached before the next one is asked for.

        A module that wrappers share is made first and handed to them. Masks and start values are functions of the
        options, so building again gives the same. Where it raises, all is taken off again.

        Raises:
            ValueError, TypeError: what does not fit the model.
        """
        yield from ()

    def base_parameters(self, model: nn.Module) -> Iterable[nn.Parameter]:
        """Parameters of the base model that are trained beside the branches and the head."""
        return ()

    def folded(self) -> Method:
        """The options of the same method behind `fold`, which makes plain what only training needs."""
        return self

    # hooks of the training loop; they draw from the random stream of the update, and their state lives in buffers

    def penalty(self, model: nn.Module) -> Tensor | None:
        """Added once to the loss of an update: a sum over its examples, as the loss is before it is divided by them."""
        return None

    def losses(self, forward: Callable[[Any], Tensor], inputs: Any, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """Added to the loss of a batch, a sum over its examples; `forward(inputs)` is one more pass of the model."""
        return None

    def after_backward(self, model: nn.Module, update: int, updates: int) -> None:
        """Called once an update, before the optimizer's step, with the gradients at hand: finite, unscaled, clipped.

        Args:
            update: from 0. updates: of the whole run.
        """

    def after_step(self, model: nn.Module, update: int, updates: int) -> None:
        """Called behind the optimizer's step, with the new values."""

    def stages(self, job: Any) -> Iterable[Stage]:
        """What is to be done before the first update, such as compressing or searching on val; see `Stage`."""
        return ()

    # as values

    def seeded(self, seed: int) -> Method:
        """With the run's seed for its start values, unless the user chose another; masks have a seed of their own."""
        if not hasattr(self, "init_seed") or "init_seed" in self.as_given():
            return self
        return dataclasses.replace(self, init_seed=seed)  # type: ignore[call-arg]

    def options(self) -> dict[str, Any]:
        """Every option as JSON has it: lists, not tuples."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def record(self) -> dict[str, Any]:
        """The method as adapter files hold it: its name as `method`, and every option."""
        return {"method": self.name, **self.options()}

    def as_given(self) -> dict[str, Any]:
        """What a configuration keeps: what was given, or `name` and the options that are not at their defaults."""
        values = {"name": self.name, **self.options()}
        if self.given is not None:
            return {name: values[name] for name in self.given}
        defaults = type(self)().options()
        return {name: value for name, value in values.items() if name == "name" or value != defaults[name]}


@dataclass(frozen=True)
class MaskedMethod(Method):
    """Options that every masked method has. num_branches=1 with density=1 is the plain method."""

    num_branches: int = option(2, "d: how many masked views of the shared weights are summed", low=1)
    density: float | None = option(
        None,
        "fraction kept by each mask; none: the pattern's own (random 0.5, n:m n/m, complementary 1/d, sign 1)",
        compared=False,
    )
    pattern: str = option("random", "random, complementary, sign, or n:m such as 2:4", compared=False)
    mask_seed: int = option(0, "seed of the masks; independent of the training seed", compared=False)
    init_seed: int = option(0, "seed of the branches' start values; in a run that of the run", compared=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.scaling_of_masks()

    @property
    def masking(self) -> Masking:
        """These options as the layers take them."""
        return Masking(self.num_branches, self.density, self.pattern, self.mask_seed, self.init_seed)

    def scaling_of_masks(self) -> float:
        """The factor of the option `rescale`, if the method has it. Raises ValueError for masks that do not exist."""
        return rescaling(getattr(self, "rescale", None), self.masking)


@dataclass(frozen=True)
class Stage:
    """A piece of work before the first update: its name for the log, and a function that does it.

    It runs once, in a fresh run; what it changes has to be values of parameters and buffers, which checkpoints hold.
    """

    title: str
    run: Callable[[], None]


M = TypeVar("M", bound=type[Method])
METHODS: dict[str, type[Method]] = {}
_LISTENERS: list[Callable[[type[Method]], None]] = []


def register(method: M) -> M:
    """Makes a method known by its name; a class decorator.

    Raises:
        ValueError: it has no name, or another class has it.
    """
    name = getattr(method, "name", None)
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"{method.__name__} needs `name: ClassVar[str]`, a word by which it is called, got {name!r}")
    if METHODS.setdefault(name, method) is not method:
        raise ValueError(f"there is a method {name!r} already, {METHODS[name].__module__}.{METHODS[name].__name__}")
    for listener in _LISTENERS:
        listener(method)
    return method


def on_register(listener: Callable[[type[Method]], None]) -> None:
    """Calls a function for each method that there is, and for each that comes."""
    _LISTENERS.append(listener)
    for method in METHODS.values():
        listener(method)


def find_method(name: str) -> type[Method]:
    """The class of a method. Raises ValueError that names the nearest one."""
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}{suggest(name, METHODS)}: choose from {', '.join(METHODS)}")
    return METHODS[name]


def option_names(method: str) -> list[str]:
    """The option names of one method."""
    return [field.name for field in dataclasses.fields(find_method(method))]


def make_method(method: str, **options: Any) -> Method:
    """The checked method with these options. Raises ValueError / TypeError that name the nearest valid word."""
    cls = find_method(method)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name in options:
        if name not in fields:
            listed = ", ".join(fields) or "none"
            raise TypeError(f"method {method!r} has no option {name!r}{suggest(name, fields)}; it has: {listed}")
    values = {name: _as_tuple(value, hint_of(cls, name)) for name, value in options.items()}
    for name, value in values.items():  # by name, before __post_init__ asks what they mean together
        check_value(f"{name} of method {method!r}", value, hint_of(cls, name), fields[name].metadata)
    made = cls(**values)
    object.__setattr__(made, "given", ("name", *options))
    return made


def method_of(options: Mapping[str, Any], *, implied: str | None = None) -> Method | None:
    """The method of a configuration's dict `{name: lora, rank: 4}`; None if nothing names one.

    Args:
        implied: the name of the method where the dict has none: that in the model's name.

    Raises:
        ValueError, TypeError: see `make_method`; options without a method.
    """
    values = dict(options)
    name = values.pop("name", None)
    if name is None and implied is None:
        if values:
            raise ValueError(f"--method.{next(iter(values))} is an option of no method: say --method.name too")
        return None
    made = make_method(name or str(implied), **values)
    object.__setattr__(made, "given", tuple(options))  # without `name` where the model's name implies it
    return made


def hint_of(method: type[Method], name: str) -> Any:
    """The type of an option."""
    return typing.get_type_hints(method)[name]


def takes_several(hint: Any) -> bool:
    """Whether an option of this type takes several words."""
    return typing.get_origin(hint) is tuple


def _as_tuple(value: Any, hint: Any) -> Any:
    if not takes_several(hint):
        return value
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else value


__all__ = ["METHODS", "RESCALES", "RESCALE_HELP", "MaskedMethod", "Method", "Stage", "make_method", "register"]
