"""Prints the table of all methods in docs/methods.md.

    python docs/methods/table.py docs/methods/eurosat.json
    python docs/methods/table.py docs/methods/eurosat.json --study STUDY --bench BENCH.json --run das=RUN

The second line makes the file first: of the finished trials of a study, of single runs, and of what `capaboost bench
speed --methods` has measured.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

COLUMNS = ("method", "accuracy %", "trained", "file kB", "step / floor", "peak MB")


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def scores(result: dict[str, Any]) -> dict[str, Any]:
    """What a run's result.json has for the table."""
    accuracy = round(result["test_accuracy"], 2)
    return {"accuracy": accuracy, "trained": result["parameters"]["trained"], "bytes": result["adapter_bytes"]}


def gathered(study: Path, bench: Path, runs: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """By method its row; a method without a score or a measurement has none of its columns."""
    trials = [json.loads(line) for line in (study / "manifest.jsonl").read_text().splitlines()]
    results = {trial["method"]: study / "trials" / trial["id"] / "result.json" for trial in trials}
    results |= {name: run / "result.json" for name, run in runs.items()}
    rows = {name: scores(read(path)) for name, path in results.items() if path.exists()}
    for row in read(bench)["tables"]["files"]:
        if row["case"] in rows:
            rows[row["case"]] |= {"step": round(row["/ floor"], 2), "peak": round(row["peak MB"], 1)}
    return rows


def table(rows: dict[str, dict[str, Any]]) -> list[str]:
    """The lines of the table in Markdown, the highest accuracy first."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for name, row in sorted(rows.items(), key=lambda item: -item[1]["accuracy"]):
        cells = [f"`{name}`", f"{row['accuracy']:.1f}", f"{row['trained']:,}", f"{row['bytes'] / 1000:,.0f}"]
        cells += [f"{row['step']:.2f}" if "step" in row else "", f"{row['peak']:.0f}" if "peak" in row else ""]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--study", type=Path)
    parser.add_argument("--bench", type=Path)
    parser.add_argument("--run", nargs="*", default=[], metavar="NAME=FOLDER")
    arguments = parser.parse_args()
    if arguments.study is not None:
        runs = {name: Path(folder) for name, _, folder in (word.partition("=") for word in arguments.run)}
        rows = gathered(arguments.study, arguments.bench, runs)
        arguments.file.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")
    print("\n".join(table(read(arguments.file))))


if __name__ == "__main__":
    main()
