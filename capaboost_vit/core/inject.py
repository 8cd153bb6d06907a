"""Injection: find places in a model, attach and detach wrappers, freeze the base."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm

from .adapted import Prompted
from .base import is_linear, kind_of, shape_of
from .layout import Layout, layout_of
from .names import get, is_inside, matching, namer, slots
from .quantised import check_trainable, prepare_backward
from .record import forget, is_adapted, plain_model
from .target_errors import nothing_matches
from .wrapper import Frozen, Wrapper, unwrap


@dataclass(frozen=True)
class Site:
    """The place of a role: a pattern of module names, and which part of a fused layer it is.

    The dotted segments of a pattern match the end of a module's name; `*` is any one segment. The full name of a module
    matches only that module. `only`: the one use of the site (prefix, sequential or parallel), if uses have different
    places.
    """

    pattern: str
    part: str = "all"
    parts: tuple[str, ...] = ("all",)
    only: str | None = None


@dataclass(frozen=True)
class Anatomy:
    """Maps roles (query, key, value, attn_out, mlp_in, mlp_out, attn, mlp, block, norm, ...) to sites of a model.

    Args:
        roles: sites by role; a role may have several, such as fused and separate projections.
        prefix_attention: the class of the wrapper that adds a prefix to an attention module; None: not supported.
        prompted: the class of the wrapper that adds a prompt to a `block`; None: not supported.
        dispatched: likewise for the selection of its tokens.
        skippable: likewise for skipping it.
        internally_prompted: likewise for a token computed from all tokens.
        retrieving: likewise for the first `block`, where the task is chosen by the base's output for an example.
        watching: builds the wrapper of an attention layer (where a prefix is added) that gives gates the padding mask.
        head: names of the modules that are trained from the first step (the classifier).
        layout: the layout of a fused layer of the model, by name, which may lack parts; None: that of the site.
    """

    roles: Mapping[str, tuple[Site, ...]] = field(default_factory=dict)
    prefix_attention: type[Any] | None = None
    prompted: type[Any] | None = Prompted
    dispatched: type[Any] | None = None
    skippable: type[Any] | None = None
    internally_prompted: type[Any] | None = None
    retrieving: type[Any] | None = None
    watching: Callable[..., Wrapper] | None = None
    head: tuple[str, ...] = ()
    layout: Callable[[nn.Module, str], Layout | None] | None = None


@dataclass(frozen=True)
class Place:
    """A match: the canonical name of a module (that in the base model), the matching site, and the layout, if known."""

    name: str
    site: Site
    known: Layout | None = None

    def layout(self, rows: int) -> Layout:
        """The layout of a module with so many rows; equal parts by default."""
        return layout_of(rows, self.known or self.site.parts)


def find(model: nn.Module, target: str, anatomy: Anatomy | None = None, *, use: str | None = None) -> list[Place]:
    """The places named by a role of the anatomy or by a pattern; of a role, those for this use.

    `PATTERN.ROLE`, unless it is the name of a module, is a role in the modules of the pattern: `blocks.11.query`. A
    module with several names is one place, with its first name.

    Raises ValueError if nothing matches; the message lists the roles (for this use) and the model's kinds of layers.

    Examples:
        >>> model = timm.create_model("vit_tiny_patch16_224")
        >>> [place.name for place in capaboost_vit.find(model, "blocks.*.mlp.fc1")][:2]
        ['blocks.0.mlp.fc1', 'blocks.1.mlp.fc1']
    """
    anatomy = anatomy or Anatomy()
    modules = dict(slots(model))
    first: dict[nn.Module, str] = {}
    for name, module in modules.items():
        first.setdefault(module, name)
    sites = [s for s in anatomy.roles.get(target, (Site(target),)) if use is None or s.only in (None, use)]
    places = [Place(first[modules[name]], site) for site in sites for name in matching([*modules], site.pattern)]
    if anatomy.layout is not None:
        places = [replace(p, known=anatomy.layout(model, p.name)) if p.site.part != "all" else p for p in places]
        places = [place for place in places if place.known is None or place.site.part in place.known.parts]
    within, _, role = target.rpartition(".")
    if within and not places and role in anatomy.roles:
        places = [p for p in find(model, role, anatomy, use=use) if is_inside(p.name, within)]
    if not places:
        raise ValueError(nothing_matches(model, target, anatomy, use))
    return list(dict.fromkeys(places))


def find_parts(
    model: nn.Module, targets: Iterable[str], anatomy: Anatomy, *, use: str | None = None
) -> dict[str, list[Place]]:
    """The places of several targets, by module: the targeted parts of a fused layer, or the layer as a whole.

    Raises ValueError for a target that matches nothing, or a module named both as a whole and by its parts.
    """
    by_module: dict[str, list[Place]] = {}
    for target in targets:
        for place in find(model, target, anatomy, use=use):
            places = by_module.setdefault(place.name, [])
            if place not in places:
                places.append(place)
    for name, places in by_module.items():
        if len({place.known or place.site.parts for place in places}) > 1:
            raise ValueError(
                f"the targets {', '.join(targets)} name {name!r} both as a whole and by its parts: choose one"
            )
    return by_module


def attach(model: nn.Module, name: str, wrapper: Wrapper) -> None:
    """Puts the wrapper into every slot of its base.

    Raises ValueError if the slot of this name has another module, or a list of modules, which is never called.
    """
    base = wrapper.base
    if get(model, name) is not base:
        raise ValueError(f"the wrapper for {name!r} does not contain the module that stands there")
    if isinstance(base, nn.ModuleList | nn.ModuleDict):
        raise ValueError(f"{name!r} is a {type(base).__name__}, which is never called: name its entries, {name}.*")
    for parent in list(model.modules()):
        for leaf, module in list(parent._modules.items()):
            if module is base:
                setattr(parent, leaf, wrapper)


def detach(model: nn.Module) -> nn.Module:
    """Removes every wrapper, in place: the same base modules are in their slots again, and still frozen.

    Returns the model, without torch.compile or a parallel wrapper around it. Raises ValueError, TypeError if it has no
    wrappers.

    Examples:
        >>> base = capaboost_vit.detach(model)
        >>> capaboost_vit.branches(base)
        {}
    """
    model = plain_model(model)
    if not is_adapted(model):
        raise ValueError(f"this {type(model).__name__} carries nothing to take off: call capaboost_vit.adapt first")
    replace_slots(model, unwrap)
    forget(model)
    return model


def freeze_base(model: nn.Module, trainable: Iterable[str] = ()) -> None:
    """Freezes all parameters except those that wrappers train, and the modules in `trainable` (names or patterns).

    Frozen batch norms, and spectral norms (torch's parametrization), stay in evaluation mode after `model.train()`, so
    their statistics do not change. Raises ValueError if a name in `trainable` matches nothing or a quantised layer, or
    a wrapper adds parameters but trains none of them.
    """
    chosen = {place.name for pattern in trainable for place in find(model, pattern)}
    model.requires_grad_(False)
    for module in model.modules():
        prepare_backward(module)
    for name in chosen:
        check_trainable(get(model, name), name)
        get(model, name).requires_grad_(True)
    for name, wrapper in wrappers(model):
        trained = list(wrapper.trained())
        if wrapper.added_parameters() and not trained:
            raise ValueError(
                f"the {type(wrapper).__name__} at {name!r} adds parameters and would train none of them: let its "
                "`trained` return them"
            )
        for parameter in trained:
            parameter.requires_grad_(True)
    learning = {module for name in chosen for module in get(model, name).modules()}
    frozen = {module: name for name, module in slots(model) if module not in learning}
    for module, name in frozen.items():
        counts = isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
        if counts or isinstance(module, _SpectralNorm):
            attach(model, name, Frozen(module))


def wrappers(model: nn.Module) -> Iterator[tuple[str, Wrapper]]:
    """(canonical name of the slot, wrapper) for each wrapper of a model; several in one slot from the outside in."""
    canonical = namer(model)
    for name, module in model.named_modules():
        if isinstance(module, Wrapper):
            yield canonical(name), module


def branches(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that a model's wrappers add, by canonical name: low-rank branches, virtual tokens, scales, ...

    Examples:
        >>> list(capaboost_vit.branches(model))[:2]
        ['blocks.0.attn.qkv.branches.q', 'blocks.0.attn.qkv.branches.v']
    """
    canonical = namer(model)
    return {
        canonical(f"{name}.{addition}" if name else addition): module
        for name, wrapper in model.named_modules()
        if isinstance(wrapper, Wrapper)
        for addition, module in wrapper.additions().items()
    }


def features(module: nn.Module, name: str = "") -> tuple[int, int]:
    """(in, out) width of a sub-layer: that of its first and of its last linear layer.

    Raises TypeError if it has no linear layer, or is nn.MultiheadAttention, which returns a pair.
    """
    if isinstance(unwrap(module), nn.MultiheadAttention):
        raise TypeError(f"{name!r} gives out a pair, outputs and attention weights: take lora, or name its out_proj")
    shapes = [shape_of(layer) for layer in unwrap(module).modules() if is_linear(layer)]
    if not shapes:
        raise TypeError(f"cannot tell the width of {name!r}, a {kind_of(unwrap(module))}: it contains no linear layer")
    return shapes[0][1], shapes[-1][0]


def replace_slots(model: nn.Module, change: Callable[[nn.Module], nn.Module]) -> None:
    """Puts `change(module)` into each slot of the model, from the outside in; once for a shared module."""
    changed: dict[nn.Module, nn.Module] = {}

    def descend(parent: nn.Module) -> None:
        for name, module in list(parent._modules.items()):
            if module is None:
                continue
            first = module not in changed
            if first:
                changed[module] = change(module)
            if changed[module] is not module:
                setattr(parent, name, changed[module])
            if first:
                descend(changed[module])

    descend(model)
