"""Model card: README.md with the metadata that hubs read, result table, learning curve, base, data and how to load."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import timm

from ..io.atomic import write_text
from ..io.json import read_object
from ..io.printable import printable
from .config import is_text_config
from .saved import ModelSource

_MARK = "<!-- written by capaboost_vit, and again by its next run: remove this line to keep your own words -->"
LOAD = "FOLDER/adapter.safetensors"  # as the code in a card says where it lies
_CURVE = "learning_curve.png"


def write_card(
    folder: Path, header: Mapping[str, Any], result: Mapping[str, Any], *, merged: bool = False, load: str = ""
) -> None:
    """Writes README.md, unless somebody else has written one there.

    Args:
        header: of the adapter file; empty where the run has left a whole model.
        result: what result.json holds; empty where no run's is at hand.
        merged: the folder holds a plain model. load: the code that loads it; "": the usual one.
    """
    path = folder / "README.md"
    if path.exists() and _MARK not in path.read_text("utf-8", errors="replace"):
        return
    has_curve = (folder / _CURVE).is_file()
    write_text(path, model_card(header, result, merged=merged, has_curve=has_curve, load=load))


def write_merged_card(folder: Path, source: ModelSource, *, load: str = "") -> None:
    """The card of a merged model, with scores and learning curve of the run that its adapter lies in, if it does."""
    assert source.adapter is not None
    result = {}
    if source.config:
        with suppress(OSError, ValueError):
            result = read_object(source.path.with_name("result.json"))
        if (curve := source.path.with_name(_CURVE)).is_file():
            shutil.copyfile(curve, folder / _CURVE)
    write_card(folder, source.adapter.header, result, merged=True, load=load)


def model_card(
    header: Mapping[str, Any], result: Mapping[str, Any], *, merged: bool, has_curve: bool, load: str = ""
) -> str:
    """The text of README.md; what is not known is left out."""
    config, base = result.get("config", {}), header.get("base", {})
    is_text = is_text_config(config) or "text" in header
    task = "" if is_text else header.get("input", {}).get("task", "classification")
    name = ".".join(part for part in (base.get("architecture"), base.get("tag")) if part) or result.get("model", "?")
    methods = [method["method"] for method in header.get("methods") or result.get("method", [])]
    scores = {key: value for key, value in result.items() if isinstance(value, float) and _is_score(key)}
    data = result.get("data", {})
    metadata: dict[str, Any] = {
        "library_name": "transformers" if is_text else "timm",
        "tags": [
            *([] if task in ("", "regression") else ["image-classification"]),
            "capaboost",
            *dict.fromkeys(methods),
        ],
        "metrics": sorted({key.partition("_")[2] for key in scores}),
        **_origin(name, base, config, is_text),
    }
    spec = str(data.get("spec", ""))
    if not is_text and re.fullmatch(r"[\w.-]+/[\w.-]+", spec) and not Path(spec).exists():  # of the hub
        metadata["datasets"] = [spec]
    front = [f"{key}: {json.dumps(value)}" for key, value in metadata.items() if value]
    how = "merged into the weights" if merged else "as an adapter file"
    lines = ["---", *front, "---", _MARK, "", f"# {printable(name)}, {' and '.join(methods) or 'trained'}", ""]
    lines += [f"Trained with capaboost_vit: {', '.join(methods) or 'the whole model'}, {how}."]
    if header.get("class_names"):
        lines[-1] += (
            f" {'Tags' if task == 'multi-label' else 'Classes'}: {printable(', '.join(header['class_names']))}."
        )
    if scores:
        lines += ["", "| score | |", "|---|---|", *(f"| {key} | {value:.2f} |" for key, value in scores.items())]
    if rows := result.get("test", {}).get("per_task"):
        lines += ["", "| task | test accuracy | retrieved |", "|---|---|---|"]
        lines += [f"| {printable(r['task'])} | {r['accuracy']:.2f} | {r['retrieved']:.2f} |" for r in rows]
    if "parameters" in result:
        counts = result["parameters"]
        lines += ["", f"{counts['trained']:,} of {counts['total']:,} parameters were trained."]
    if has_curve:
        lines += ["", f"![learning curve]({_CURVE})"]
    lines += ["", "## Load", "", "```python", load or _code(is_text, merged), "```", "", "## Base and data", ""]
    lines += [f"- base: `{printable(name)}`"]
    if base.get("fingerprint"):
        lines[-1] += f", fingerprint of its weights `{base['fingerprint']}`"
    if data:
        what = {"multi-label": f"{data['classes']} tags", "regression": "numbers"}.get(task)
        lines += [f"- data: `{printable(spec)}`, {what or str(data['classes']) + ' classes'}"]
        for split, facts in data.get("splits", {}).items():
            if isinstance(facts, Mapping) and "sha256" in facts:
                lines += [f"  - {split}: sha256 `{facts['sha256']}`"]
    if config and not merged:  # which has no config.yaml
        command = "train-text" if is_text else "train"
        lines += [f"- command: `capaboost {command} --config config.yaml --output NEW`, with the options of the run"]
    return "\n".join(lines) + "\n"


def _is_score(key: str) -> bool:
    return key.startswith(("val_", "test_")) and not key.endswith("_loss")


def _origin(name: str, base: Mapping[str, Any], config: Mapping[str, Any], is_text: bool) -> dict[str, Any]:
    """Base and licence, where the weights came from a hub under this name."""
    if not config.get("pretrained") or config.get("initial_checkpoint"):
        return {}
    if is_text:
        return {"base_model": base.get("tag")}
    try:
        known = timm.get_pretrained_cfg(name)
    except RuntimeError:  # of another version of timm
        return {}
    hub = (known and known.hf_hub_id) or ""
    return {"base_model": f"{hub}{name}" if hub.endswith("/") else hub, "license": known and known.license}


def _code(is_text: bool, merged: bool) -> str:
    if merged and is_text:
        return (
            "from transformers import AutoModel, AutoTokenizer  # or AutoModelForSequenceClassification, ...\n\n"
            'model, tokenizer = AutoModel.from_pretrained("FOLDER"), AutoTokenizer.from_pretrained("FOLDER")'
        )
    if merged:
        return 'import timm\n\nmodel = timm.create_model("local-dir:FOLDER", pretrained=True).eval()'
    return f'import capaboost_vit\n\nmodel = capaboost_vit.create_from_adapter("{LOAD}")'
