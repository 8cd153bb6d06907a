"""A result as tables: a data frame per table, by title, from which reports and pictures are made."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

import pandas as pd

from .timing import WHOLE

Row = dict[str, Any]

TARGETS = {"full": "The update of full fine-tuning", "gaussian": "Gaussian matrices of the same shapes"}
LEAST = "floor + inputs"  # in the place of a case: the floor, and what whoever trains the layers' factors must keep


def frames(result: dict[str, Any]) -> dict[str, pd.DataFrame]:
    """The tables of a result of any kind; those of rows alone are left out."""
    kinds = {"speed": _speed, "scale": _scale, "processes": _processes, "capacity": _capacity}
    return {title: pd.DataFrame(rows, dtype=object) for title, rows in kinds[result["kind"]](result) if rows}


def setting(result: dict[str, Any]) -> str:
    """Model, inputs, precision and device in words."""
    config, machine = result["config"], result["machine"]
    precision = config["amp_dtype"] if config["amp"] else "float32"
    compiled = f", compiled ({config['compile_mode']})" if config["compile"] else ""
    cpu = f"{machine['cpu']}, {config['threads']} thread(s)"
    where = machine["gpu"]["name"] if result["device"] == "cuda" else cpu
    what = f"{config['model']}, {result['size']}, batch {config['batch_size']}, rank {config['rank']}"
    return f"{what}, {precision}{compiled}; {where}"


def _speed(result: dict[str, Any]) -> Iterator[tuple[str, list[Row]]]:
    about: dict[str, Row] = {}
    for group, measured in result["groups"].items():
        cases, layers, rows = measured["cases"], measured["layers"], []
        for name, case in cases.items():
            rows.append({"case": name, **_timed(case, result), **_phases(case), **_memory(case)})
            rows[-1]["trained"] = case["trained"]
            about[name] = {"case": name, "what": case["what"]}
        if "stored_inputs" in measured:
            least = cases["floor"]["memory"]["peak"] + measured["stored_inputs"]["all"]
            rows.append({"case": LEAST, "peak MB": least / 1e6})
        yield group, rows
        rows = [{"case": name, **{layer: _ratios(layers[layer][name]) for layer in layers}} for name in cases]
        yield f"{group}: a layer alone, forward and backward over those of the frozen layer", rows if layers else []
    inference = result["inference"] or {}
    yield "inference", [{"case": name, **_timed(case, result, "base")} for name, case in inference.items()]
    if result["import_seconds"] is not None:
        yield "import", [{"": "import capaboost_vit, beyond timm", "s": result["import_seconds"]}]
    yield "cases", list(about.values())


def _scale(result: dict[str, Any]) -> Iterator[tuple[str, list[Row]]]:
    for axis, points in result["axes"].items():
        cases = [(str(point["value"]), *case) for point in points for case in point["cases"].items()]
        yield axis, [{axis: value, "case": name, **_timed(case, result)} for value, name, case in cases]


def _processes(result: dict[str, Any]) -> Iterator[tuple[str, list[Row]]]:
    rows = []
    for case in result["cases"]:
        count, size, seconds = case["processes"], case["batch_size"], case["update"]["median"]
        low, high = case["efficiency_quartiles"]
        row = {"processes": count, "batch, each": f"{size / count:g}", "in all": size, "update ms": 1000 * seconds}
        row |= {"CPU ms": 1000 * case["cpu_seconds"], "examples/s": size / seconds}
        row |= {"efficiency": case["efficiency"], "+-": (high - low) / 2}
        rows.append({**row, "reduced kB": case["reduced_bytes"] / 1000})
    yield "updates", rows


def _capacity(result: dict[str, Any]) -> Iterator[tuple[str, list[Row]]]:
    for kind, title in TARGETS.items():
        rows: dict[str, Row] = {}
        for rank, cases in result["ranks"].items():
            for name, case in cases.items():
                rows.setdefault(name, {"": name})[f"r = {rank}"] = 100 * statistics.fmean(case[kind])
        yield title, list(rows.values())
    stable = statistics.fmean(target["stable"] for target in result["targets"].values())
    yield "targets", [{"updates": str(len(result["targets"])), "mean stable rank": stable}]


def _timed(case: dict[str, Any], result: dict[str, Any], reference: str = "floor") -> Row:
    """Milliseconds, ratio to the reference with its spread, ratio to PEFT, and speed."""
    if "times" not in case:
        return {}
    whole, items = case["times"][WHOLE], result["items"]
    low, high = whole["ratio_quartiles"] or (0.0, 0.0)
    row = {"ms": 1000 * whole["median"], f"/ {reference}": whole["ratio"], "+-": (high - low) / 2}
    row |= {"/ peft": case["over_peft"]} if "over_peft" in case else {}
    return {**row, f"{items}/s": case.get(f"{items}_per_second")}


def _phases(case: dict[str, Any]) -> Row:
    short = {"forward": "fwd ms", "backward": "bwd ms"}
    return {title: 1000 * case["times"][phase]["median"] for phase, title in short.items() if "times" in case}


def _memory(case: dict[str, Any]) -> Row:
    return {f"{size} MB": case["memory"][size] / 1e6 for size in ("peak", "saved") if "memory" in case}


def _ratios(layer: dict[str, Any]) -> str:
    ratios = (layer["times"][phase]["ratio"] for phase in ("forward", "backward"))
    return ", ".join(f"{ratio:.2f}" for ratio in ratios if ratio)
