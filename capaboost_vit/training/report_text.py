"""The scores of a split as text: a few lines, and a table of the classes, the tags, or the kinds of entities."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .metrics import OF_CLASSES

_MOST = 20  # rows of the table
_COLUMNS = {"ap": "AP %", "precision": "precision %", "recall": "recall %", "f1": "F1 %"}


def score_text(report: Mapping[str, Any]) -> str:
    """The lines of a `classification_report`, `tag_report`, `number_report`, or of other scores, and their table.

    Of more than 20 classes, tags, or kinds of entities, the table has the 20 of the lowest F1.
    """
    if report.get("task") == "multi-label":
        return "\n".join([*_tag_lines(report), "", *_table(report["per_class"], "tag", "tags")])
    if report.get("task") == "regression":
        lines = _number_lines(report)
    elif "ece" in report:
        lines = [*_accuracy_lines(report), *_class_lines(report)]
    elif "accuracy_low" in report:
        lines = _accuracy_lines(report)
    else:
        lines = ["  ".join(f"{name} {value:.2f}" for name, value in report.items() if isinstance(value, float))]
        lines[0] += f"  n {report['total']}"
    if "per_task" in report:
        lines += ["", *_tasks(report["per_task"])]
    if "per_class" in report:
        lines += ["", *_table(report["per_class"], "class", "classes")]
    if "per_entity" in report:
        lines += ["", *_table(report["per_entity"], "entity", "kinds of entities")]
    return "\n".join(lines)


def _number_lines(report: Mapping[str, Any]) -> list[str]:
    return [
        f"R2 {report['r2']:.4f}  Spearman {report['spearman']:.2f} %  ({report['total']} examples)",
        f"MAE {report['mae']:.6g}  RMSE {report['rmse']:.6g}  (of the training split's mean "
        f"{report['rmse_of_mean']:.6g})",
    ]


def _tag_lines(report: Mapping[str, Any]) -> list[str]:
    return [
        f"mAP {report['mAP']:.2f} %  macro F1 {report['macro_f1']:.2f} %  micro F1 {report['micro_f1']:.2f} %",
        f"exact match {report['exact_match']:.2f} % of {report['total']} examples  "
        f"(tags with a probability of at least {report['threshold']:g})",
    ]


def _accuracy_lines(report: Mapping[str, Any]) -> list[str]:
    return [
        f"accuracy {report['accuracy']:.2f} % ({report['right']} of {report['total']})",
        f"95 % Wilson interval {report['accuracy_low']:.2f} to {report['accuracy_high']:.2f} %",
    ]


def _class_lines(report: Mapping[str, Any]) -> list[str]:
    auc = "none" if report["auc"] is None else f"{report['auc']:.2f} %"
    lines = [
        f"balanced accuracy {report['balanced_accuracy']:.2f} %  macro F1 {report['macro_f1']:.2f} %  AUC {auc}",
        f"ECE {report['ece']:.2f} %  NLL {report['nll']:.4f}  (probabilities at temperature {report['temperature']:g})",
    ]
    if (step := report.get("probabilities_step")) is not None:
        lines.append(f"AUC, ECE and NLL are of one example in {step}: all probabilities would take more than 256 MiB")
    more = [name for name in OF_CLASSES if name in report and name not in ("accuracy", "balanced_accuracy", "macro_f1")]
    if more:
        lines.append("  ".join(f"{name} {report[name]:.2f} %" for name in more))
    return lines


def _table(rows: Sequence[Mapping[str, Any]], one: str, several: str) -> list[str]:
    shown = rows if len(rows) <= _MOST else sorted(rows, key=lambda row: row["f1"])[:_MOST]
    columns = [name for name in _COLUMNS if all(name in row for row in rows)]
    table = Table(one, box=None, pad_edge=False)
    for name in (*(_COLUMNS[column] for column in columns), "support"):
        table.add_column(name, justify="right")
    for row in shown:
        shares = ("" if row[name] is None else f"{row[name]:.2f}" for name in columns)
        table.add_row(Text(next(iter(row.values())), overflow="ellipsis", no_wrap=True), *shares, str(row["support"]))
    lines = _drawn(table)
    if len(shown) < len(rows):
        lines.append(f"the {len(shown)} {several} of the lowest F1, of {len(rows)}; --output FILE.json has all")
    return lines


def _tasks(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    table = Table("task", box=None, pad_edge=False)
    for name in ("accuracy %", "retrieved %", "right", "support"):
        table.add_column(name, justify="right")
    for row in rows:
        shares = (f"{row[name]:.2f}" for name in ("accuracy", "retrieved"))
        table.add_row(
            Text(row["task"], overflow="ellipsis", no_wrap=True), *shares, str(row["right"]), str(row["total"])
        )
    return _drawn(table)


def _drawn(table: Table) -> list[str]:
    text = io.StringIO()
    Console(file=text, width=100).print(table)
    return [line.rstrip() for line in text.getvalue().splitlines()]
