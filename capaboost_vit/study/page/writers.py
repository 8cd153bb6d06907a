"""Tables as Markdown, LaTeX and csv."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence

from ..runs import markdown
from .grid import Grid, Summary
from .outcomes import Outcomes, Part
from .paired import Difference, on_task, overall
from .tables import Entry, Table

_TEX = {c: rf"\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}
_TEX |= {"±": r"$\pm$", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "…": r"\dots{}"}


def as_markdown(tables: Sequence[Table]) -> str:
    """Headings, tables and their notes; the best of a column is bold, marks stand in parentheses."""
    blocks = []
    for table in tables:
        head = [column.name + (f" ({column.mark})" if column.mark else "") for column in table.columns]
        rows = [[_markdown(entry) for entry in row] for row in table.rows]
        notes = "".join(f"- {_plain(note)}\n" for note in table.notes)
        blocks.append(f"## {_plain(table.title)}\n\n{markdown([_plain(name) for name in head], rows)}\n{notes}")
    return "\n".join(blocks)


def as_latex(tables: Sequence[Table]) -> str:
    """A `table*` for each, with the rules of booktabs."""
    blocks = ["% needs \\usepackage{booktabs}; wide tables also \\usepackage{graphicx} for \\resizebox\n"]
    for table in tables:
        groups = table.groups()
        lines = [r"\begin{table*}", r"\centering", rf"\caption{{{tex(table.title)}}}", r"\resizebox{\textwidth}{!}{%"]
        lines += [rf"\begin{{tabular}}{{l{'c' * (len(table.columns) - 1)}}}", r"\toprule"]
        if any(name for name, _ in groups):
            lines.append(" & ".join(rf"\multicolumn{{{count}}}{{c}}{{{tex(name)}}}" for name, count in groups) + r" \\")
        marks = [rf"\textsuperscript{{{column.mark}}}" if column.mark else "" for column in table.columns]
        lines.append(" & ".join(tex(c.name) + mark for c, mark in zip(table.columns, marks, strict=True)) + r" \\")
        lines.append(r"\midrule")
        lines += [" & ".join(map(_latex, row)) + r" \\" for row in table.rows]
        lines += [r"\bottomrule", r"\end{tabular}}", *(rf"\par\footnotesize {tex(note)}" for note in table.notes)]
        blocks.append("\n".join([*lines, r"\end{table*}"]) + "\n")
    return "\n".join(blocks)


def tex(text: str) -> str:
    """A text with everything escaped that LaTeX would read as a command."""
    return re.sub(r"[&%$#_{}\\~^±<>|…]", lambda found: _TEX[found[0]], text)


def as_csv(rows: Iterator[Sequence[object]]) -> str:
    """Rows as csv; None is an empty field."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def cell_rows(parts: Sequence[tuple[Part, Grid, str | None]]) -> Iterator[Sequence[object]]:
    """A line for each method and task or average, with the comparison; the reference may be None."""
    yield (
        *("suite", "backbone", "shots", "method", "over", "kind", "group", "mean", "std", "seeds", "planned_seeds"),
        *("missing", "reference", "difference", "low", "high", "notes"),
    )
    for part, grid, reference in parts:
        for row in grid.rows:
            start = (part.suite, part.backbone, part.shots, row)
            other = reference if reference != row else None
            for average in grid.averages:
                found = None if other is None else overall(grid, row, other, average)
                numbers = _numbers(grid, row, grid.mean_of(row, average), other, found)
                yield (*start, average.name, "average", "", *numbers, "")
            for task, trial in grid.tasks.items():
                found = None if other is None else on_task(grid, row, other, task)
                numbers = _numbers(grid, row, grid.one(row, task), other, found)
                yield (*start, task, "task", trial.group, *numbers, "; ".join(trial.notes))


def run_rows(outcomes: Outcomes) -> Iterator[Sequence[object]]:
    """A line for each final trial, finished or not."""
    yield (
        *("trial", "suite", "backbone", "shots", "task", "group", "method", "seed", "state", "test_accuracy"),
        *("test_right", "test_total", "trained_parameters", "train_seconds", "memory_mb", "device", "problem"),
    )
    for o in outcomes.finals:
        trial, result = o.trial, o.result or {}
        yield (
            *(trial.id, trial.suite, trial.backbone, trial.shots, trial.task, trial.group, o.row, trial.seed, o.state),
            *(result.get(name) for name in ("test_accuracy", "test_right", "test_total")),
            *(result.get("parameters", {}).get("trained"), result.get("train_seconds"), result.get("memory_mb")),
            *(result.get("machine", {}).get("device"), o.problem),
        )


def _numbers(
    grid: Grid, row: str, summary: Summary, reference: str | None, found: Difference | None
) -> tuple[object, ...]:
    values = (summary.mean, summary.spread, len(summary.values), len(grid.seeds[row]), "; ".join(summary.lacking))
    compared = (None, None, None) if found is None else (found.mean, found.low, found.high)
    return (*values, reference, *compared)


def _plain(text: str) -> str:
    """A text that neither ends a cell of a Markdown table nor begins an element of HTML."""
    return text.replace("|", "\\|").replace("<", "\\<").replace("\n", " ")


def _markdown(entry: Entry) -> str:
    text = _plain(entry.text)
    lacking = f"({entry.lacking})" if entry.lacking else ""
    words = [f"**{text}**" if entry.kind == "best" else text, _plain(entry.detail), _plain(lacking)]
    return " ".join(word for word in words if word)


def _latex(entry: Entry) -> str:
    text = tex(entry.text)
    small = " ".join([entry.detail, f"({entry.lacking})" if entry.lacking else ""]).strip()
    return (rf"\textbf{{{text}}}" if entry.kind == "best" else text) + (
        rf" {{\scriptsize {tex(small)}}}" if small else ""
    )
