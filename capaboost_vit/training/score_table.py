"""The scores of a split as text: a few lines, and a table of the classes, or of the kinds of entities."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .metrics import OF_CLASSES

_MOST = 20  # rows of the table
_TABLES = ("per_class", "per_entity")


def score_text(report: Mapping[str, Any]) -> str:
    """The lines of a `classification_report`, or of other scores, and what they have of tables.

    Of more than 20 classes, or kinds of entities, the table has the 20 of the lowest F1.
    """
    if "ece" in report:
        lines = _class_lines(report)
    else:
        lines = ["  ".join(f"{name} {value:.2f}" for name, value in report.items() if isinstance(value, float))]
        lines[0] += f"  n {report['total']}"
    for name in _TABLES:
        if name in report:
            lines += ["", *_table(report[name])]
    return "\n".join(lines)


def _class_lines(report: Mapping[str, Any]) -> list[str]:
    auc = "none" if report["auc"] is None else f"{report['auc']:.2f} %"
    lines = [
        f"accuracy {report['accuracy']:.2f} % ({report['right']} of {report['total']})",
        f"95 % Wilson interval {report['accuracy_low']:.2f} to {report['accuracy_high']:.2f} %",
        f"balanced accuracy {report['balanced_accuracy']:.2f} %  macro F1 {report['macro_f1']:.2f} %  AUC {auc}",
        f"ECE {report['ece']:.2f} %  NLL {report['nll']:.4f}  (probabilities at temperature {report['temperature']:g})",
    ]
    if (step := report.get("probabilities_step")) is not None:
        lines.append(f"AUC, ECE and NLL are of one example in {step}: all probabilities would take more than 256 MiB")
    more = [name for name in OF_CLASSES if name in report and name not in ("accuracy", "balanced_accuracy", "macro_f1")]
    if more:
        lines.append("  ".join(f"{name} {report[name]:.2f} %" for name in more))
    return lines


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    first = next(iter(rows[0])) if rows else "none"
    shown = rows if len(rows) <= _MOST else sorted(rows, key=lambda row: row["f1"])[:_MOST]
    table = Table(first, box=None, pad_edge=False)
    for name in ("precision %", "recall %", "F1 %", "support"):
        table.add_column(name, justify="right")
    for row in shown:
        shares = (f"{row[name]:.2f}" for name in ("precision", "recall", "f1"))
        table.add_row(Text(row[first], overflow="ellipsis", no_wrap=True), *shares, str(row["support"]))
    text = io.StringIO()
    Console(file=text, width=100).print(table)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    if len(shown) < len(rows):
        kinds = "classes" if first == "class" else "kinds of entities"
        lines.append(f"the {len(shown)} {kinds} of the lowest F1, of {len(rows)}; --output FILE.json has all")
    return lines
