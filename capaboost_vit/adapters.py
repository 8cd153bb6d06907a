"""Entry points for models of timm and of transformers: adapt, save, load."""

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
    """Applies a method to a model, in place, and freezes everything except what it adds and the head.

    Args:
        model: a model of timm or transformers, for images or texts, an encoder or a decoder; or any torch model if
            `targets` are name patterns such as `encoder.*.linear1`.
        method: the name of a method in `capaboost_vit.METHODS`, such as lora, adapter, prefix, prompt, ia3, ssf,
            unipelt, bitfit, norm, head (linear probe) or full (fine-tuning); or a method object.
        head: names or patterns of further modules to train, () for none. None: those of an earlier call, or what
            `core.heads.find_head` finds: a classifier, or the modules beside or after a backbone. The log and
            `model.capaboost["head"]` name them; if no head is found, a warning says what to type.
        options: of the method, see `capaboost_vit.methods`, such as `rank=8, num_branches=2, density=0.5,
            targets=("query", "value")`; docs/ecosystem/roles.md lists the roles that `targets` may name. Also
            `autocast_adapter_dtype=False`: what is added to a bfloat16 or float16 model, and its head, keep that dtype;
            by default they are float32, as in PEFT.

    Returns:
        The same model, whose class is unchanged. A second call adds a second method.

    Raises:
        ValueError, TypeError: an unknown method or option, a target that matches nothing, a method that does not
            support the model (a prefix for a decoder) or would train nothing, or a model changed by PEFT or wrapped for
            parallel training; the model is unchanged.

    Examples:
        >>> model = capaboost_vit.adapt(timm.create_model("vit_tiny_patch16_224"), "lora", rank=4)
        >>> text_model = capaboost_vit.adapt(AutoModelForSequenceClassification.from_config(BertConfig()), "adapter")
    """
    files = of_timm if isinstance(model, str) else _files_of(model)  # which says what to do with a name
    adapted: M = files.adapt(model, method, head=head, **options)
    return adapted


def anatomy_of(model: nn.Module) -> Anatomy:
    """The anatomy of a model of timm or transformers: its roles, its head, and which prefixes and prompts it supports.

    Any other torch model has the roles whose modules have the same names as in these libraries.
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
    """Writes what is added to an adapted model, masks (packed bits) and head into a safetensors file; returns its path.

    The header stores what `create_from_adapter` needs: architecture and tag of the base (timm's, or the hub id; no path
    of a local folder), arguments, method options, number and names of classes, versions, a fingerprint of the base
    weights, and for a timm model input size, mean and std.

    Args:
        class_names: names of the classes, in the order of the labels.
        data_config: timm's input configuration used in training; None: the model's own.
        task: for a text model, see `capaboost_vit.nlu.save_adapter`.
        max_length: likewise.

    Raises:
        ValueError: the model has nothing that `adapt` added.
        TypeError: an option for a model of the other library.

    Examples:
        >>> path = capaboost_vit.save_adapter(model, "cats.safetensors", class_names=[f"cat {i}" for i in range(10)])
    """
    if is_transformers_model(plain_model(model)):
        _refuse("a model of transformers", data_config=data_config)
        return of_transformers.save_adapter(model, path, task=task, class_names=class_names, max_length=max_length)
    _refuse("a timm model", task=task, max_length=max_length)
    return of_timm.save_adapter(model, path, class_names=class_names, data_config=data_config)


def load_adapter(model: nn.Module, path: str | Path | AdapterFile, *, force: bool = False) -> nn.Module:
    """Loads an adapter file into a model, which is adapted first if it is not yet; returns the model.

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
    """Builds the base model named in an adapter file, loads its weights and the file; returns it in evaluation mode.

    Args:
        path: the file, or `hf-hub:owner/name` (and `@revision`).
        model: for transformers: hub id or folder of the base; None: the hub id in the file.
        pretrained: for timm: download the base weights named in the header, unless `initial_checkpoint` is given.
        initial_checkpoint: for timm: a local file with the base weights, or a folder written by `capaboost merge`.
        chain: for timm: if the adapter was trained on a merged model, the adapter files that were merged into it, the
            first one first; the base is built from them. Alternatively give the merged model as `initial_checkpoint` or
            `model`.
        force: accept base weights whose fingerprint differs.

    Raises:
        AdapterFileError: the file is damaged or does not fit, or its base is not known, such as a merged model without
            its chain or weights.
        FileNotFoundError, ValueError: no base weights, or wrong ones.
        TypeError: an option for a base of the other library.

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
