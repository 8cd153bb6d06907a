"""A table of what an adapted model trains, stores and costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import torch
from timm.data import resolve_input_data_config
from torch import nn

from ..core.analysis import Flops, Parameters, count_flops, count_parameters
from ..core.base import copied, device_and_dtype, dtype_of
from ..core.heads import head_of
from ..core.inject import detach, find
from ..core.names import get, namer
from ..core.record import is_adapted, plain_model
from ..core.sharded import check_whole
from ..core.wrapper import Wrapper
from .anatomy import anatomy_of


@dataclass(frozen=True, repr=False)
class Summary:
    """Parameters for each role and in total, and FLOPs of one forward pass of one image; `str()` of it is the table."""

    name: str
    roles: dict[str, Parameters]
    total: int
    trained: int
    flops: Flops | None
    base_flops: int | None

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self)

    def __repr__(self) -> str:
        return f"Summary({self.name}: {self.trained:,} of {self.total:,} parameters trained)"

    def __str__(self) -> str:
        lines = [f"{'':<16}{'trained':>12}{'stored':>12}{'live':>12}   {self.name}"]
        for role, counts in {**self.roles, "all of them": _add(self.roles.values())}.items():
            lines.append(f"{role:<16}{counts.trained:>12,}{counts.stored:>12,}{counts.live:>12,}")
        if any(counts.stored for counts in self.roles.values()) and not _add(self.roles.values()).trained:
            lines.append("none of these is trained: they were frozen since, as get_peft_model does")
        share = 100 * self.trained / self.total if self.total else 0.0
        lines.append(f"trained {self.trained:,} of {self.total:,} parameters ({share:.2f} %)")
        if self.flops is not None and self.base_flops is not None:
            lines.append(
                f"forward GMACs per image: base {self.base_flops / 1e9:.3f}, "
                f"executed {self.flops.executed / 1e9:.3f}, ideal (masked entries free) {self.flops.ideal / 1e9:.3f}"
            )
        return "\n".join(lines)


def summary(
    model: nn.Module, *, input_size: tuple[int, int, int] | None = None, flops: bool = True, verbose: bool = True
) -> Summary:
    """Prints and returns the parameters of each role: trained, stored in an adapter file, and live (not always masked).

    An entry is live unless all branches mask it.

    Args:
        input_size: (channels, height, width) for the FLOPs; None: a timm model's own.
        flops: count multiply-adds with fvcore, fused attention included: those that dense kernels execute, and the
            ideal number, without masked entries.
        verbose: print the table.

    Raises:
        ValueError: with `flops`, a model that has no input size of its own, without `input_size`, or a sharded model.

    Examples:
        >>> trained = capaboost_vit.summary(model, verbose=False).trained
    """
    model = plain_model(model)
    roles = {role: _add(counts) for role, counts in _counts_of_wrappers(model).items()}
    roles |= {name: count_parameters(get(model, name)) for name in head_of(model)}
    everything = count_parameters(model)
    adapted, base = _flops(model, input_size) if flops else (None, None)
    result = Summary(
        name=getattr(model, "pretrained_cfg", {}).get("architecture", type(model).__name__),
        roles=roles,
        total=everything.stored,
        trained=everything.trained,
        flops=adapted,
        base_flops=base,
    )
    if verbose:
        print(result)
    return result


def _counts_of_wrappers(model: nn.Module) -> dict[str, list[Parameters]]:
    """Counts of what wrappers add, by role, or by name without one; what several share counts where it is first."""
    roles = _roles(model)
    canonical = namer(model)
    counts: dict[str, list[Parameters]] = defaultdict(list)
    counted: set[int] = set()
    for path, wrapper in model.named_modules():
        if not isinstance(wrapper, Wrapper):
            continue
        slot = canonical(path)
        for addition, module in wrapper.additions().items():
            role = roles.get((slot, wrapper.part_of(addition)), canonical(f"{path}.{addition}"))
            counts[role].append(count_parameters(module, counted))
        rest = [p for p in wrapper.added_parameters() if id(p) not in counted]  # of no module of its own
        if rest:
            counts[roles.get((slot, "all"), slot)].append(count_parameters(nn.ParameterList(rest), counted))
    return counts


def _roles(model: nn.Module) -> dict[tuple[str, str], str]:
    """Role by (canonical name of a module, part of it)."""
    anatomy = anatomy_of(model)
    roles: dict[tuple[str, str], str] = {}
    for role in anatomy.roles:
        with suppress(ValueError):  # a role that this architecture does not have
            for place in find(model, role, anatomy):
                roles.setdefault((place.name, place.site.part), role)  # mlp_out, where the role mlp has it for adapters
    return roles


def _add(counts: Collection[Parameters]) -> Parameters:
    return Parameters(sum(c.trained for c in counts), sum(c.stored for c in counts), sum(c.live for c in counts))


def _flops(model: nn.Module, input_size: tuple[int, int, int] | None) -> tuple[Flops, int]:
    """FLOPs of the model and of its base, in evaluation mode, without touching either."""
    check_whole(model, "summary(model, flops=False)")
    if input_size is None:
        if not hasattr(model, "pretrained_cfg"):
            raise ValueError(f"give input_size=(channels, height, width): {type(model).__name__} does not tell its own")
        input_size = resolve_input_data_config(model)["input_size"]
    probe = copied(model).eval()
    images = torch.zeros(1, *input_size, device=device_and_dtype(probe)["device"], dtype=dtype_of(probe))
    flops = count_flops(probe, images)
    return flops, count_flops(detach(probe), images).executed if is_adapted(probe) else flops.executed
