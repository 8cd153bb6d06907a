"""The record of what was added to a model, `model.capaboost`, and the models that carry one."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from .wrapper import Wrapper


def plain_model(model: nn.Module) -> nn.Module:
    """The model behind torch.compile, DistributedDataParallel, DataParallel and Lightning's Fabric, or as it is.

    Raises:
        TypeError: it is no model, such as its name.
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
    """Raises ValueError if PEFT's layers are in a model: what trains theirs freezes ours, and the other way round."""
    for name, part in model.named_modules():
        if any(kind.__module__.partition(".")[0] == "peft" for kind in type(part).__mro__):
            where = f" at {name!r}" if name else ""
            raise ValueError(
                f"this {type(model).__name__} carries PEFT's {type(part).__name__}{where}, and PEFT and capaboost_vit "
                "freeze each other's parameters: call its merge_and_unload() first, or load the saved LoRA folder into "
                "the plain model with capaboost_vit.import_peft"
            )


def adapted_part(model: nn.Module, adapt: str = "capaboost_vit.adapt") -> tuple[str, nn.Module]:
    """(name, module) of what carries the record: "" and the model itself, or the one module inside it that does.

    Args:
        adapt: the function that adds methods, for the error.

    Raises:
        ValueError: nothing in the model carries one, several modules do, or PEFT's layers are in it.
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
    """The plain model behind wrappers, once it is sure that it carries the record itself.

    Raises ValueError, TypeError as `plain_model` and `adapted_part` do, or if a module inside it carries the record.
    """
    model = plain_model(model)
    name, _ = adapted_part(model, adapt)
    if name:
        raise ValueError(f"what is adapted of this {type(model).__name__} is model.{name}: give that")
    return model


def is_adapted(model: nn.Module) -> bool:
    """Whether anything in a model carries a record or a wrapper."""
    return any(isinstance(module, Wrapper) or "capaboost" in module.__dict__ for module in model.modules())


def forget(model: nn.Module) -> None:
    """Drops the records of a model, also where timm notes how to build it (its `save_for_hf` writes that)."""
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
