"""The one door to the frozen layers: their widths, device and dense weight, whatever kind of linear layer they are."""

from __future__ import annotations

import copy
import math
from functools import singledispatch
from itertools import chain
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

M = TypeVar("M", bound=nn.Module)


def is_linear(layer: nn.Module) -> bool:
    """Whether a layer maps (..., in_features) to (..., out_features) and has both attributes, as nn.Linear.

    Quantised and sharded layers are linear, and those of GPT-2 (see `is_transposed`). Embeddings and layers of other
    kinds are not, as they lack one of the attributes.
    """
    return is_transposed(layer) or _has_integers(layer, "in_features", "out_features")


def is_transposed(layer: nn.Module) -> bool:
    """Whether a layer is linear with a weight (in, out) and says its widths as nx and nf: transformers' Conv1D."""
    return _has_integers(layer, "nx", "nf")


def _has_integers(layer: nn.Module, *names: str) -> bool:
    return all(isinstance(getattr(layer, name, None), int) for name in names)


def kind_of(layer: nn.Module) -> str:
    """The class of a layer with its package, as many classes are called Linear."""
    return f"{type(layer).__qualname__} of {type(layer).__module__}"


def class_of(module: nn.Module) -> type[nn.Module]:
    """A module's class as it was before torch's `fully_shard` made another one of it, (FSDPX, FSDPModule, X, ...)."""
    kinds = type(module).__mro__
    return kinds[2] if kinds[1].__name__ == "FSDPModule" else kinds[0]


def shape_of(layer: nn.Module) -> tuple[int, int]:
    """(out, in) of a linear layer, from `out_features` and `in_features`, as a packed weight has another shape.

    Raises TypeError if it is no linear layer.
    """
    if not is_linear(layer):
        raise TypeError(f"only linear layers take a low-rank update, got {kind_of(layer)}")
    out_features, in_features = ("nf", "nx") if is_transposed(layer) else ("out_features", "in_features")
    return getattr(layer, out_features), getattr(layer, in_features)


def is_plain_linear(layer: nn.Module) -> bool:
    """Whether calling a layer is `F.linear` of stored tensors, none of them quantised, and nothing else."""
    stored = layer._parameters.keys() >= {"weight", "bias"}
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    own_forward = type(layer).forward is nn.Linear.forward and "forward" not in vars(layer)
    return own_forward and stored and not any(hooks) and not is_traceable_wrapper_subclass(layer.weight)


def is_norm(layer: nn.Module) -> bool:
    """Whether a layer is a normalisation layer with parameters of its own: torch's, or known by its class.

    Others, such as timm's, have Norm in the name of their class or of one that it comes of, and no layer in them has
    parameters.
    """
    own_parameters = len(list(layer.parameters(recurse=False)))
    if isinstance(layer, (_NormBase, nn.LayerNorm, nn.GroupNorm)):
        return own_parameters > 0
    named = any("Norm" in kind.__name__ for kind in type(layer).__mro__)
    return named and own_parameters > 0 and own_parameters == len(list(layer.parameters()))


@singledispatch
def dense(layer: Any) -> Tensor:
    """The weight (out, in) of a layer as floating-point numbers; of a parametrised layer (weight norm) the product.

    Layers that store it differently are supported by `dense.register(TheirClass, function)`. Raises TypeError for other
    layers (with an integer weight, say).
    """
    weight = getattr(layer, "weight", None)  # once: a spectral norm moves on with each look in training
    if lack := _lack(layer, weight):
        raise TypeError(lack)
    weight = plain_tensor(cast(Tensor, weight))
    return weight.t() if is_transposed(layer) else weight


def plain_tensor(tensor: Tensor) -> Tensor:
    """The numbers of a tensor of a quantised class (torchao's), dequantised, or of a sharded one, see `gathered`."""
    return tensor.dequantize() if dequantizes(tensor) else gathered(tensor)


def gathered(tensor: Tensor) -> Tensor:
    """The whole of a tensor sharded over processes (DTensor), which all of them have to ask for; others as they are."""
    whole: Tensor = cast(Any, tensor).full_tensor() if is_shard(tensor) else tensor
    return whole


def is_shard(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor, by its method: its class is slow to import."""
    return is_traceable_wrapper_subclass(tensor) and hasattr(tensor, "full_tensor")


def dequantizes(tensor: Tensor) -> bool:
    """Whether a tensor is of a class that says how it is dequantised; the method itself every tensor has."""
    return is_traceable_wrapper_subclass(tensor) and type(tensor).dequantize is not Tensor.dequantize


def why_not_dense(layer: nn.Module) -> str | None:
    """Why an update cannot be written into a layer's weight, in words; None where it can.

    An update that is added to integers would be rounded away, one that is written to a computed weight lost.
    """
    weight = getattr(layer, "weight", None)
    if lack := _lack(layer, weight):
        return f"{lack}, where an update vanishes: keep the adapter" if isinstance(weight, Tensor) else lack
    kind = type(layer).__name__
    if is_traceable_wrapper_subclass(weight):
        return f"the weight of a {kind} is a {type(weight).__name__}, quantised or sharded: keep the adapter"
    stored = "weight" in layer._parameters or "weight" in layer._buffers or parametrize.is_parametrized(layer, "weight")
    if not stored and not any(name == "weight" for name, _ in _computing_hooks(layer)):
        return f"the weight of a {kind} is computed, so an update would be lost: keep the adapter"
    if not _is_linear_in_its_weight(layer):
        return f"a {kind} normalises its weight in each call, which undoes an update: keep the adapter"
    return None


@torch.no_grad()
def _is_linear_in_its_weight(layer: Any) -> bool:
    """Whether `f(2 W) - f(0) = 2 (f(W) - f(0))`, of a linear layer or convolution whose code is not torch's.

    Not so are timm's StdConv2d and cosine classifiers.
    """
    convolution = isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    if type(layer).forward.__module__.startswith("torch.") or not (convolution or is_linear(layer)):
        return True
    shape = shape_of(layer)[1:] if not convolution else (layer.in_channels, *_reach(layer))
    probe = plain_copy(layer).eval()
    x = torch.linspace(-1, 1, math.prod(shape)).reshape(1, *shape).to(probe.weight.device, probe.weight.dtype)
    weight, outputs = probe.weight.clone(), []
    for factor in (0, 1, 2):
        probe.weight.copy_(factor * weight)
        outputs.append(probe(x).float())
    zero, one, two = outputs
    return weight.is_meta or bool((two - zero - 2 * (one - zero)).norm() <= 0.1 * (one - zero).norm())


def _reach(layer: Any) -> list[int]:
    """How far the kernel of a convolution reaches in each direction."""
    return [dilation * (size - 1) + 1 for size, dilation in zip(layer.kernel_size, layer.dilation, strict=True)]


def _lack(layer: nn.Module, weight: Any) -> str | None:
    """What a layer with this weight lacks of a floating-point one, in words; None where it has one."""
    if isinstance(weight, torch.fx.Proxy):
        return f"torch.fx traces no code that reads the weight of an adapted {type(layer).__name__}: merge first"
    if not isinstance(weight, Tensor):
        return f"a {type(layer).__name__} has no weight of its own"
    if not weight.is_floating_point() or weight.dtype.itemsize == 1:  # 8-bit floats stand for nothing without a scale
        return f"the weight of a {type(layer).__name__} is {str(weight.dtype).removeprefix('torch.')}"
    return None


def copied(module: M) -> M:
    """A deep copy, also of a module in which a hook has left what it computed (old-style weight norm, pruning)."""
    computed = [t for m in module.modules() for t in vars(m).values() if isinstance(t, Tensor) and not t.is_leaf]
    return copy.deepcopy(module, {id(tensor): tensor.detach().clone() for tensor in computed})


@torch.no_grad()
def plain_copy(layer: M) -> M:
    """A deep copy that stores its dense weight and bias: weight norm, spectral norm, pruning, ... are left behind."""
    plain = copied(layer).eval()  # in training a spectral norm would move on
    values = {name: getattr(plain, name) for name in getattr(plain, "parametrizations", ())}
    if values:  # not torch's remove_parametrizations: copies share their class, which it changes
        plain.__class__ = parametrize.type_before_parametrizations(plain)
        del plain._modules["parametrizations"]
    for name, value in values.items():
        plain.register_parameter(name, nn.Parameter(value, requires_grad=False))
    for name, hook in _computing_hooks(plain):
        remove = next(remove for kind, remove in _COMPUTING.items() if isinstance(hook, kind))
        remove(plain, name)
    return plain.train(layer.training)


# torch's forward hooks that compute a tensor of a layer from others, with what takes them off
_COMPUTING: dict[type[Any], Any] = {
    WeightNorm: remove_weight_norm,
    SpectralNorm: remove_spectral_norm,
    prune.BasePruningMethod: prune.remove,
}


def computes_a_weight(hook: Any) -> bool:
    """Whether a hook is one of torch's that compute a tensor of a layer from others: it looks at no input."""
    return isinstance(hook, tuple(_COMPUTING))


def _computing_hooks(layer: nn.Module) -> list[tuple[str, Any]]:
    """(the tensor's name, hook) of each."""
    hooks: list[Any] = [hook for hook in layer._forward_pre_hooks.values() if computes_a_weight(hook)]
    return [(getattr(hook, "_tensor_name", None) or hook.name, hook) for hook in hooks]


def dtype_of(module: nn.Module) -> torch.dtype:
    """Dtype of a module's first floating-point parameter; float32 where it has none but of 8 bits, as if quantised."""
    floating = (p.dtype for p in module.parameters() if p.is_floating_point() and p.dtype.itemsize > 1)
    return next(floating, torch.float32)


def device_and_dtype(module: nn.Module) -> dict[str, Any]:
    """Device and dtype of what is added to a module: those of the module, and at least float32.

    In bfloat16 most steps of an optimizer are too small to change an entry, and a GradScaler does not support float16.
    """
    new = torch.empty(0)  # on the meta device within `outlines`, where there is nothing to be moved elsewhere
    tensor = new if new.is_meta else next(chain(module.parameters(), module.buffers()), new)
    return {"device": tensor.device, "dtype": torch.promote_types(dtype_of(module), torch.float32)}


def meets(x: Tensor, weight: Tensor) -> bool:
    """Whether x and a weight are multiplied as they are: they have one dtype, or autocast chooses one for both."""
    return x.dtype == weight.dtype or torch.is_autocast_enabled(x.device.type)


def operand(x: Tensor, weight: Tensor) -> Tensor:
    """x, converted to the dtype of the weight that it is multiplied by, unless that is not needed."""
    return x if meets(x, weight) else x.to(weight.dtype)
