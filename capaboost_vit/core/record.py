"""The record of what was added to a model, `model.capaboost`, and access to models that have one."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from .wrapper import Wrapper


def plain_model(model: nn.Module) -> nn.Module:
    """The model inside torch.compile, DistributedDataParallel, DataParallel or Lightning's Fabric, or the model itself.

    Raises:
        TypeError: it is no model, such as a name.
        ValueError: it is sharded by FullyShardedDataParallel, whose parameters are pieces of several weights.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"this takes a model (torch.nn.Module), got {type(model).__name__} {model!r:.100}")
    while True:
        parallel = isinstance(model, (DataParallel, DistributedDataParallel)) or hasattr(model, "_forward_module")
        inner: nn.Module = model.module if parallel else getattr(model, "_orig_mod", model)  # type: ignore[assignment]
        if inner is model:
            break
        model = inner
    if any(kind.__name__ == "FullyShardedDataParallel" for part in model.modules() for kind in type(part).__mro__):
        raise ValueError(
            f"this {type(model).__name__} is sharded by FullyShardedDataParallel, whose pieces are no weights: take "
            "torch.distributed.fsdp.fully_shard"
        )
    return model


def check_no_peft(model: nn.Module) -> None:
    """Raises ValueError if a model has layers of PEFT, as PEFT and this library freeze each other's parameters."""
    for name, part in model.named_modules():
        if any(kind.__module__.partition(".")[0] == "peft" for kind in type(part).__mro__):
            where = f" at {name!r}" if name else ""
            raise ValueError(
                f"this {type(model).__name__} carries PEFT's {type(part).__name__}{where}, and PEFT and capaboost_vit "
                "freeze each other's parameters: call its merge_and_unload() first, or load the saved LoRA folder into "
                "the plain model with capaboost_vit.import_peft"
            )


def adapted_part(model: nn.Module, adapt: str = "capaboost_vit.adapt") -> tuple[str, nn.Module]:
    """(name, module) of the adapted model: "" and the model itself, or the one module inside it that has a record.

    Args:
        adapt: the function that adds methods, for the error.

    Raises:
        ValueError: no module has a record, several have, or the model has layers of PEFT.
    """
    check_no_peft(model)
    parts = {name: module for name, module in model.named_modules() if "capaboost" in module.__dict__}
    if not parts:
        raise ValueError(f"this {type(model).__name__} carries no adapter: call {adapt}(model, ...) first")
    if len(parts) > 1:
        *others, last = (f"model.{name}" if name else "itself" for name in parts)
        raise ValueError(
            f"this {type(model).__name__} carries several adapted models, {', '.join(others)} and {last}: give one of "
            "them at a time"
        )
    return next(iter(parts.items()))


def adapted_model(model: nn.Module, adapt: str = "capaboost_vit.adapt") -> nn.Module:
    """The plain model, which has to be the adapted one itself.

    Raises ValueError, TypeError as `plain_model` and `adapted_part` do, or if only a module inside it is adapted.
    """
    model = plain_model(model)
    name, _ = adapted_part(model, adapt)
    if name:
        raise ValueError(f"what is adapted of this {type(model).__name__} is model.{name}: give that")
    return model


def is_adapted(model: nn.Module) -> bool:
    """Whether any module of a model has a record or is a wrapper."""
    return any(isinstance(module, Wrapper) or "capaboost" in module.__dict__ for module in model.modules())


def forget(model: nn.Module) -> None:
    """Removes the records of a model, and the options from the arguments that timm's `save_for_hf` writes."""
    for module in model.modules():
        record = module.__dict__.pop("capaboost", None)
        if record is None:
            continue
        module.__dict__.pop("save_pretrained", None)  # what `adapt` has put before that of the class
        if "base" in record and isinstance(getattr(module, "pretrained_cfg", None), dict):
            module.pretrained_cfg["architecture"] = record["base"]["architecture"]  # type: ignore[index, operator]
        options = {option for method in record.get("methods", ()) for option in method}
        if hasattr(module, "_model_args"):
            module._model_args = {k: v for k, v in module._model_args.items() if k not in options}  # type: ignore
