"""The scores of a split of classes as text: a few lines, and a table of the classes."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_MOST = 20  # classes in the table


def score_text(report: Mapping[str, Any]) -> str:
    """The lines of a `classification_report`; of more than 20 classes the table has the 20 of the lowest F1."""
    auc = "none" if report["auc"] is None else f"{report['auc']:.2f} %"
    lines = [
        f"accuracy {report['accuracy']:.2f} % ({report['right']} of {report['total']})",
        f"95 % Wilson interval {report['accuracy_low']:.2f} to {report['accuracy_high']:.2f} %",
        f"balanced accuracy {report['balanced_accuracy']:.2f} %  macro F1 {report['macro_f1']:.2f} %  AUC {auc}",
        f"ECE {report['ece']:.2f} %  NLL {report['nll']:.4f}  (probabilities at temperature {report['temperature']:g})",
    ]
    if (step := report.get("probabilities_step")) is not None:
        lines.append(f"AUC, ECE and NLL are of one example in {step}: all probabilities would take more than 256 MiB")
    classes = report["per_class"]
    shown = classes if len(classes) <= _MOST else sorted(classes, key=lambda row: row["f1"])[:_MOST]
    table = Table("class", box=None, pad_edge=False)
    for name in ("precision %", "recall %", "F1 %", "support"):
        table.add_column(name, justify="right")
    for row in shown:
        shares = (f"{row[name]:.2f}" for name in ("precision", "recall", "f1"))
        table.add_row(Text(row["class"], overflow="ellipsis", no_wrap=True), *shares, str(row["support"]))
    text = io.StringIO()
    Console(file=text, width=100).print(table)
    lines += ["", *(line.rstrip() for line in text.getvalue().splitlines())]
    if len(shown) < len(classes):
        lines.append(f"the {len(shown)} classes of the lowest F1, of {len(classes)}; --output FILE.json has all")
    return "\n".join(lines)
