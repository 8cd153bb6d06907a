"""Export of models on images to ONNX or torch.export programs with any batch size, checked against the model."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from timm.data import resolve_input_data_config
from torch import Tensor, nn

from ..core.base import copied
from ..core.merge import merge, unmergeable
from ..core.record import is_adapted, plain_model
from ..io.atomic import replacing, write_text
from ..training.saved import ModelSource, open_source
from ..vision.build import build_transform
from ..vision.data import Split, open_configured
from ..vision.data.tree import Folder
from ..vision.loader import Normalise
from ..vision.predict import image_files
from ..vision.saved import Saved, open_saved

Format = Literal["onnx", "torch-export"]

_SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2"}
_TOLERANCE = 1e-4  # of the largest logit
_PICTURES = 8  # of a run's data, for the check
_LIMIT = 2**31  # bytes of a protobuf


@torch.no_grad()
def export(
    model: nn.Module,
    path: str | Path,
    *,
    format: Format = "onnx",
    images: Tensor | None = None,
    class_names: Sequence[str] = (),
    data_config: dict[str, Any] | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> Path:
    """Writes a model in float32 for inference with any batch size (an atomic write); returns the path.

    An adapted model is merged if its methods can be merged, otherwise it is exported with its adapters, prefixes and
    prompts. A JSON file with the same name (`NAME.json` for `NAME.onnx`) holds the preprocessing, that is `(x / 255 -
    mean) / std` of an image of `input_size`, and `interpolation`, `crop_pct`, `crop_mode`; the names of `input` and
    `output`; and the `labels`.

    Before the file is kept, its logits are compared with those of the unmerged model, for all images at once and for
    the first one alone: the largest difference has to be at most 1e-4 of the largest logit.

    Args:
        model: of timm, plain or adapted; or any other that takes one tensor, with `images`.
        format: onnx: a file .onnx for onnxruntime and OpenVINO (needs onnx, onnxruntime and onnxscript); torch-export:
            a file .pt2 for `torch.export.load`.
        images: (B, C, H, W), normalised as the model expects them, for the comparison; None: eight random ones.
        class_names: names of the classes, in the order of the labels.
        data_config: timm's input configuration used in training; None: the model's own.
        note: called with one line about the comparison.

    Raises:
        ValueError: another suffix or format, a model without a known input size if there are no `images`, or one that
            torch cannot trace or whose file computes other logits.
        FileExistsError: one of the two files exists.
        ModuleNotFoundError: a package is not installed.
    """
    path = _checked_path(path, format)
    write, run, reader = _onnx() if format == "onnx" else _program()
    model = plain_model(model)
    config = dict(data_config or (resolve_input_data_config(model) if hasattr(model, "pretrained_cfg") else {}))
    seen = f"{0 if images is None else len(images)} pictures"
    if images is None:
        if "input_size" not in config:
            raise ValueError(f"a {type(model).__name__} does not say its input size: give export images=")
        images = torch.randn(_PICTURES, *config["input_size"], generator=torch.Generator().manual_seed(0))
        seen = f"{_PICTURES} images of random numbers"
    images = images.float().cpu()
    traced = copied(model).cpu().float().eval()
    expected = traced(images)
    if is_adapted(traced) and not unmergeable(traced):
        traced = merge(traced, inplace=True)
    with replacing(path) as partial:
        try:
            write(traced, images[:2] if len(images) > 1 else images.repeat(2, 1, 1, 1), partial)
        except Exception as error:  # of whatever class: it is the tracer's, about a foreign model
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"torch cannot trace this {type(model).__name__} as {format}: {reason}") from error
        worst = max(_distance(run(partial, batch), expected[: len(batch)]) for batch in (images, images[:1]))
        if not worst <= _TOLERANCE:
            raise ValueError(
                f"{path} would compute other logits than the model: they differ by {worst:.1e} of the largest, more "
                f"than {_TOLERANCE:g}"
            )
    values = {name: value for name, value in config.items() if value is not None}
    names = {"input": "image", "output": "logits", "labels": list(class_names)}
    write_text(path.with_suffix(".json"), json.dumps({**values, **names}, indent=2) + "\n")
    note(f"checked: {seen} in {reader}, at most {worst:.1e} of the largest logit from the model")
    return path


def export_run(
    run: str | Path | ModelSource,
    output: str | Path,
    *,
    format: Format = "onnx",
    images: Sequence[str | Path] = (),
    initial_checkpoint: str | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> Path:
    """`export` for the model of a run folder, an adapter file or a folder in timm's hub format.

    Args:
        images: image files, and folders of them, for the comparison; none: eight of the test split of the run's data,
            or random ones if it is not available.
        initial_checkpoint: the base weights of an adapter; None: those of its run, or timm's hub.

    Raises:
        FileNotFoundError: no model, or no such image.
        ValueError: a model on texts; see `export`.
    """
    output = _checked_path(output, format)
    source = open_source(run)
    if source.is_text:
        raise ValueError(
            f"{source.path} is of a model on texts, export is for images: `capaboost merge` writes a plain model of "
            "transformers"
        )
    saved = open_saved(source, initial_checkpoint=initial_checkpoint)
    return export(
        saved.model,
        output,
        format=format,
        images=_pixels(source, saved, images, note),
        class_names=saved.classes,
        data_config=saved.input,
        note=note,
    )


def _pixels(
    source: ModelSource, saved: Saved, paths: Sequence[str | Path], note: Callable[[str], None]
) -> Tensor | None:
    """What the model is compared on; None where there are no pictures."""
    if paths:
        files, tree = image_files(paths, note), Folder(Path())
        split, count = Split(tuple(map(str, files)), (0,) * len(files), tree.read, tree.locate), len(files)
    else:
        try:
            split = open_configured(source.config).split("test")
        except (KeyError, OSError, ValueError):  # an adapter file alone, or data that are elsewhere
            return None
        count = min(_PICTURES, len(split))
    split = replace(split, value_range=saved.value_range)
    transform = build_transform(saved.input)
    pixels = [torch.as_tensor(transform(split.image(index * len(split) // count))) for index in range(count)]
    return Normalise(saved.input, torch.device("cpu"))((torch.stack(pixels), torch.zeros(count)))[0]


def _checked_path(path: str | Path, format: str) -> Path:
    """Raises ValueError, FileExistsError."""
    path = Path(path)
    if format == "openvino-ready":
        raise ValueError("openvino-ready: OpenVINO reads the file of format onnx as it is, say onnx")
    if format not in _SUFFIXES:
        raise ValueError(f"format must be one of {', '.join(_SUFFIXES)}, got {format!r}")
    if path.suffix != _SUFFIXES[format]:
        raise ValueError(f"{path}: the name of a file in format {format} ends in {_SUFFIXES[format]}")
    for file in (path, path.with_suffix(".json")):
        if file.exists():
            raise FileExistsError(f"{file} exists: choose another name")
    return path


def _distance(found: Tensor, expected: Tensor) -> float:
    """The largest difference in units of the largest logit; inf for another shape, nan for what is not finite."""
    if found.shape != expected.shape:
        return float("inf")
    return float((found - expected).abs().max() / expected.abs().max())


def _onnx() -> tuple[Callable[..., None], Callable[[Path, Tensor], Tensor], str]:
    """What writes a file, what computes with it, and its name."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - torch's exporter is written in it
    except ModuleNotFoundError as error:
        text = f"this needs the package {error.name}, which is not installed: pip install 'capaboost_vit[export]'"
        raise ModuleNotFoundError(text, name="onnxruntime") from error

    def write(model: nn.Module, images: Tensor, path: Path) -> None:
        if (size := sum(parameter.nbytes for parameter in model.parameters())) >= _LIMIT:
            raise ValueError(f"its weights take {size / 1e9:.1f} GB, an ONNX file 2 GB: use torch-export")
        program = torch.onnx.export(
            model,
            (images,),
            dynamo=True,
            verbose=False,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=_any_batch(),
        )
        assert program is not None
        program.save(path)
        onnx.checker.check_model(str(path))

    def run(path: Path, images: Tensor) -> Tensor:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(None, {"image": images.numpy()})[0])

    return write, run, f"onnxruntime {onnxruntime.__version__}"


def _program() -> tuple[Callable[..., None], Callable[[Path, Tensor], Tensor], str]:
    def write(model: nn.Module, images: Tensor, path: Path) -> None:
        with open(path, "wb") as file:  # a name would have to end in .pt2
            torch.export.save(torch.export.export(model, (images,), dynamic_shapes=_any_batch()), file)

    def run(path: Path, images: Tensor) -> Tensor:
        computed: Tensor = torch.export.load(io.BytesIO(path.read_bytes())).module()(images)
        return computed

    return write, run, "torch.export.load"


def _any_batch() -> tuple[dict[int, Any]]:
    return ({0: torch.export.Dim("batch")},)
