"""The one entry for adapted models of every kind: it knows whether a model is one of transformers or of timm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from .core.inject import Anatomy
from .core.record import plain_model
from .methods import Method
from .methods.adapter_file import AdapterFile, read_adapter_file
from .methods.base_library import is_of_transformers
from .nlu import adapters as of_transformers
from .nlu import anatomy as anatomy_of_transformers
from .nlu.anatomy import is_transformers_model
from .vision import adapters as of_timm
from .vision import anatomy as anatomy_of_timm

M = TypeVar("M", bound=nn.Module)


def adapt(model: M, method: str | Method = "lora", *, head: Sequence[str] | None = None, **options: Any) -> M:
    """Adds a method's branches to a model, in place, and freezes everything but them and the head.

    Args:
        model: of timm or transformers, for images or texts, an encoder or a decoder; or any torch model when `targets`
            are name patterns such as `encoder.*.linear1`.
        method: the name of one of `capaboost_vit.METHODS`, such as lora, adapter, prefix, prompt, ia3, ssf, unipelt;
            bitfit, norm, head (linear probe) or full (fine-tuning); or a method that is made already.
        head: names or patterns of further modules to train, () for none; None takes those of an earlier call, or what
            `core.heads.find_head` finds: a classifier, what stands beside or behind a backbone. What is trained stands
            in the log and in `model.capaboost["head"]`; where no head is found, a warning says what to type.
        options: of the method, see `capaboost_vit.methods`, such as `rank=8, num_branches=2, density=0.5,
            targets=("query", "value")`; and `autocast_adapter_dtype=False`, with which the branches and the head of a
            bfloat16 or float16 model have its dtype: they are float32 otherwise, as in PEFT. Roles that `targets` may
            name stand in docs/ecosystem/roles.md.

    Returns:
        The same model, still of its own class. A second call adds a second method.

    Raises:
        ValueError, TypeError: an unknown method or option, a target that matches nothing, a method that the model does
            not take (a prefix of a decoder) or that would train nothing, or a model that PEFT or a parallel wrapper has
            changed; the model is unchanged.

    Examples:
        >>> model = capaboost_vit.adapt(timm.create_model("vit_tiny_patch16_224"), "lora", rank=4)
        >>> text_model = capaboost_vit.adapt(AutoModelForSequenceClassification.from_config(BertConfig()), "adapter")
    """
    files = of_timm if isinstance(model, str) else _files_of(model)  # which says what to do with a name
    adapted: M = files.adapt(model, method, head=head, **options)
    return adapted


def anatomy_of(model: nn.Module) -> Anatomy:
    """The roles of a model of timm or transformers, its head, and which prefixes and prompts it takes.

    Any other torch model has the roles whose modules are named as in these.
    """
    of_kind = anatomy_of_transformers if is_transformers_model(plain_model(model)) else anatomy_of_timm
    return of_kind.anatomy_of(model)


def save_adapter(
    model: nn.Module,
    path: str | Path,
    *,
    class_names: Sequence[str] = (),
    data_config: dict[str, Any] | None = None,
    task: str | None = None,
    max_length: int | None = None,
) -> Path:
    """Writes branches, masks (packed bits) and head of an adapted model into one safetensors file.

    The header holds what `create_from_adapter` needs: base architecture and tag (timm's, or the hub id; none of a local
    folder), arguments, method options, number and names of classes, versions, a fingerprint of the base weights, and of
    a timm model input size, mean and std.

    Args:
        class_names: names of the classes, in the order of the labels.
        data_config: timm's input configuration that the model was trained with; None takes the model's own.
        task: of a model on texts, see `capaboost_vit.nlu.save_adapter`.
        max_length: likewise.

    Raises:
        ValueError: the model carries nothing that `adapt` added.
        TypeError: an option for a model of the other kind.

    Examples:
        >>> path = capaboost_vit.save_adapter(model, "cats.safetensors", class_names=[f"cat {i}" for i in range(10)])
    """
    if is_transformers_model(plain_model(model)):
        _refuse("a model of transformers", data_config=data_config)
        return of_transformers.save_adapter(model, path, task=task, class_names=class_names, max_length=max_length)
    _refuse("a timm model", task=task, max_length=max_length)
    return of_timm.save_adapter(model, path, class_names=class_names, data_config=data_config)


def load_adapter(model: nn.Module, path: str | Path | AdapterFile, *, force: bool = False) -> nn.Module:
    """Loads an adapter file into a model, adding the branches first where it has none; returns the model.

    Args:
        path: the file, or `hf-hub:owner/name` (and `@revision`).
        force: accept base weights whose fingerprint differs.

    Raises:
        AdapterFileError, FileNotFoundError: see `read_adapter_file` and `load_adapter_file`; the model is unchanged.

    Examples:
        >>> model = capaboost_vit.load_adapter(model, "birds.safetensors")
    """
    return _files_of(model).load_adapter(model, path, force=force)


def create_from_adapter(
    path: str | Path | AdapterFile,
    *,
    model: str | None = None,
    pretrained: bool = True,
    initial_checkpoint: str | Path | None = None,
    chain: Sequence[str | Path | AdapterFile] = (),
    force: bool = False,
) -> nn.Module:
    """Builds the base model that a file names, loads its weights and the adapter file; in evaluation mode.

    Args:
        path: the file, or `hf-hub:owner/name` (and `@revision`).
        model: of transformers: hub id or folder of the base; None takes the hub id that the file names.
        pretrained: of timm: fetch the base weights that the header names from the hub, unless `initial_checkpoint` is
            given, a local file with them, or a folder that `capaboost merge` has written.
        chain: of timm: where the adapter was trained on a merged model, the files of what was merged into it, the first
            one first; the base is built of these. The other way is the merged model as `initial_checkpoint` or `model`.
        force: accept base weights whose fingerprint differs.

    Raises:
        AdapterFileError: the file is damaged, does not fit, or is of a base that is not known, such as a merged model
            without its chain or weights.
        FileNotFoundError, ValueError: no or wrong base weights.
        TypeError: an option for a base of the other kind.

    Examples:
        >>> header = capaboost_vit.read_header("birds.safetensors")  # names its base, vit_tiny_patch16_224
        >>> torch.save(base.state_dict(), "base.pth")  # instead of the weights that timm's hub has for that name
        >>> model = capaboost_vit.create_from_adapter("birds.safetensors", initial_checkpoint="base.pth")
    """
    file = read_adapter_file(path)
    if is_of_transformers(file):
        given = {"pretrained": None if pretrained else False, "chain": chain or None}
        _refuse("a base of transformers", initial_checkpoint=initial_checkpoint, **given)
        return of_transformers.create_from_adapter(file, model=model, force=force)
    _refuse("a base of timm", model=model)
    return of_timm.create_from_adapter(
        file, pretrained=pretrained, initial_checkpoint=initial_checkpoint, chain=chain, force=force
    )


def _files_of(model: nn.Module) -> Any:
    """The module that adapts models of this kind and knows their files."""
    return of_transformers if is_transformers_model(plain_model(model)) else of_timm


def _refuse(kind: str, **options: Any) -> None:
    for name, value in options.items():
        if value is not None:
            raise TypeError(f"{kind} takes no {name}, got {name}={value!r:.60}")
