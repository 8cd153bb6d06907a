"""The tables in each format: the same numbers, read back; nothing that can break out of a cell."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess

import pytest
from studies import METHODS, trial, write

from capaboost_vit.study.escaping import csv_cell, latex, markdown
from capaboost_vit.study.page.page import render, write_report
from capaboost_vit.study.page.tables import Column, Entry, ReportTable

NOTES = ["not VTAB-exact: 50 % & more"]


@pytest.fixture
def study(tmp_path):
    """Two methods on two tasks with three seeds; one is missing, one was given up."""
    everything = {
        (m, t, s): trial(m, t, s, group=g, notes=NOTES if t == "5-9" else ())
        for m in ("lora", "sign")
        for t, g in (("0-4", "low"), ("5-9", "high"))
        for s in range(3)
    }
    scores = {key: 50 + 2 * (key[0] == "sign") + key[2] for key in everything}
    left_out = [("sign", "5-9", 2), ("sign", "5-9", 1)]
    done = [(one, scores[key]) for key, one in everything.items() if key not in left_out]
    found = write(tmp_path / "study", done, missing=[everything[key] for key in left_out])
    found.give_up(everything[left_out[0]], "ValueError: a | b", 2)
    return found


def lines(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_has_a_line_for_each_cell_and_average_with_what_is_missing(study, tmp_path):
    write_report(study.path, tmp_path, formats=["csv"])
    assert {path.name for path in tmp_path.iterdir()} == {"study", "report.csv", "report_runs.csv"}
    found = {(line["method"], line["over"]): line for line in lines((tmp_path / "report.csv").read_text())}
    assert len(found) == 2 * (2 + 4)
    cell = found["sign", "0-4"]
    assert (cell["mean"], cell["std"], cell["seeds"], cell["planned_seeds"]) == ("53.0", "1.0", "3", "3")
    assert (cell["reference"], cell["difference"], cell["low"], cell["high"]) == ("lora", "2.0", "2.0", "2.0")
    assert (found["sign", "5-9"]["missing"], found["sign", "5-9"]["notes"]) == ("1 of 3 seeds", NOTES[0])
    average = found["sign", "mean of 2 tasks"]
    assert (average["mean"], average["difference"], average["missing"]) == ("", "", "5-9 (1 of 3 seeds)")
    assert found["lora", "mean of 2 tasks"]["mean"] == "51.0"
    assert found["lora", "0-4"]["reference"] == ""


def test_each_interval_is_drawn_once_for_all_formats(study, tmp_path, monkeypatch):
    monkeypatch.setattr("capaboost_vit.study.page.costs.count_model", lambda options: (1, 2, 3))
    drawn = []
    monkeypatch.setattr("capaboost_vit.study.page.grid.bootstrap", lambda *a: drawn.append(a) or (0.0, 1.0))
    write_report(study.path, tmp_path)
    assert len(drawn) == 2 + 1  # of one method on two tasks, and of the group that is complete


def test_csv_of_the_runs_has_a_line_for_each_trial(study, tmp_path):
    write_report(study.path, tmp_path, formats=["csv"])
    found = lines((tmp_path / "report_runs.csv").read_text())
    assert len(found) == 12
    states = {(line["method"], line["task"], line["seed"]): line["state"] for line in found}
    assert (states["sign", "5-9", "2"], states["sign", "5-9", "1"]) == ("failed", "waiting")
    assert sum(line["test_accuracy"] != "" for line in found) == 10


def test_json_has_every_trial_with_its_options_and_no_places(study, tmp_path):
    study.add([trial("lora", "0-4", 0, stage="candidate", lr=1e-4, data=str(tmp_path))])
    study.choices.write_text('{"0-4 | lora | tiny": {"options": {"lr": 0.005}, "score": 60.0}}')
    (path,) = write_report(study.path, tmp_path, formats=["json"])
    text = path.read_text()
    assert str(tmp_path) not in text
    found = json.loads(text)
    assert [one["id"] for one in found["trials"]] == list(study.trials())
    first = next(one for one in found["trials"] if (one["method"], one["task"], one["seed"]) == ("sign", "0-4", 1))
    assert (first["state"], first["test_accuracy"], first["parameters"]["trained"]) == ("finished", 53.0, 1000)
    assert first["options"]["method"] == METHODS["sign"]
    assert first["options"]["lr"] == 5e-3
    assert "weight_decay" not in first["options"]  # a default
    last = found["trials"][-1]
    assert (last["stage"], last["state"], last["options"]["lr"]) == ("candidate", "waiting", 1e-4)
    assert "test_accuracy" not in last
    assert found["choices"]["0-4 | lora | tiny"]["score"] == 60.0


def test_a_damaged_result_is_named_in_json_and_stops_no_report(study, tmp_path):
    study.add([trial("lora", "0-4", 0, stage="candidate")])
    for one in (next(iter(study.trials().values())), list(study.trials().values())[-1]):
        study.run_folder(one).mkdir(exist_ok=True)
        (study.run_folder(one) / "result.json").write_text('{"test_accuracy": 5')
    (path,) = write_report(study.path, tmp_path, formats=["json"])
    found = [one for one in json.loads(path.read_text())["trials"] if one["state"] == "damaged"]
    assert [one["stage"] for one in found] == ["final", "candidate"]
    assert not any("test_accuracy" in one for one in found)


def test_markdown_has_both_tables_and_names_what_is_missing(study, tmp_path):
    (path,) = write_report(study.path, tmp_path, formats=["md"])
    text = path.read_text()
    assert text.startswith("# digits: study\n\n10 of 12 final trials are finished, 1 failed, 1 missing.\n")
    assert "| sign (capaboost-lora r2 d2 sign) | **53.00** ± 1.00 | missing (5-9 (1 of 3 seeds))" in text
    assert "52.00 (1 of 3 seeds)" in text
    assert "+2.00 [+2.00, +2.00]" in text
    assert "- a: not VTAB-exact: 50 % & more" in text
    assert "| sign | 5-9 | 2 | failed | ValueError: a \\| b (attempts: 2) |" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in table)


def test_latex_is_balanced_and_escaped(study, tmp_path):
    (path,) = write_report(study.path, tmp_path, formats=["tex"])
    text = path.read_text()
    for what in ("table*", "tabular"):
        assert text.count(rf"\begin{{{what}}}") == text.count(rf"\end{{{what}}}") == 3
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count(rf"\{rule}") == 3
    assert r"\multicolumn{4}{c}{averages}" in text
    assert r"50 \% \& more" in text
    assert r"\textbf{53.00} {\scriptsize $\pm$ 1.00}" in text
    assert r"a \textbar{} b" in text


HOSTILE = r"a_b & 5% $x^2$ #1 {c} ~ \cmd <t> | ± [3cm] *"


def test_what_latex_would_read_as_a_command_is_escaped():
    assert latex(HOSTILE) == (
        r"a\_b \& 5\% \$x\textasciicircum{}2\$ \#1 \{c\} \textasciitilde{} \textbackslash{}cmd "
        r"\textless{}t\textgreater{} \textbar{} $\pm$ {[}3cm] {*}"
    )
    assert latex("a\n\n\x1b[31mb") == r"a\textbackslash{}n\textbackslash{}n\textbackslash{}x1b{[}31mb"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("capaboost_lora_d4", "capaboost_lora_d4"),
        ("+2.00 [+1.00, +3.00]", "+2.00 [+1.00, +3.00]"),
        ("_a_ b * c", r"\_a_ b * c"),
        ("**a** `b` ~~c~~ $d$", r"\*\*a\** \`b\` \~\~c\~~ \$d$"),
        ("a|b\nc", r"a\|b\\nc"),
        ("<img src=x onerror=y>&lt;", r"\<img src=x onerror=y>\&lt;"),
        ("![a](http://b) [c]: d", r"![a\](http://b) [c\]: d"),
        ("# a", r"\# a"),
        ("- a", r"\- a"),
        ("12. a", r"12\. a"),
        ("\x1b[31mred\u202e", r"\\x1b[31mred\\u202e"),
        ("grün 猫", "grün 猫"),
    ],
)
def test_what_markdown_would_read_as_markup_is_escaped(text, written):
    assert markdown(text) == written


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("=1+1", "'=1+1"), ("+a", "'+a"), ("-a", "'-a"), ("@a", "'@a"), ("\t=1", r"\t=1"), ("a=1", "a=1"),
        (-1.5, -1.5), (None, None),
    ],
)  # fmt: skip
def test_no_text_in_csv_is_a_formula(value, written):
    assert csv_cell(value) == written


EVIL = "=cmd|' /C calc'!A0 <b>*x*</b> [a](b) \\input{c}"


def test_every_name_of_a_study_is_text_in_every_format(tmp_path, monkeypatch):
    monkeypatch.setattr("capaboost_vit.study.page.costs.count_model", lambda options: (1, 2, 3))
    monkeypatch.setitem(METHODS, EVIL, METHODS["lora"])
    names = {"suite": EVIL, "group": EVIL, "backbone": EVIL, "notes": [EVIL]}
    done = [(trial(EVIL, f"{EVIL} {i}", s, **names), 50.0 + s) for i in range(2) for s in (0, 1)]
    folder = tmp_path / "<i>a</i> *b*"
    study = write(folder, done)
    first, second, third, _ = study.trials().values()
    study.give_up(first, f"{EVIL}\x1b[31m", 1)
    (study.run_folder(first) / "result.json").unlink()
    path = study.run_folder(second) / "result.json"
    evil = {"taken_from": f"{EVIL}\x1b[31m", "machine": {"device": f"{EVIL}\x1b[31m"}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **evil}))
    classes = [f"{EVIL}\n\x1b[31m", "b"]
    answers = {"classes": classes, "counts": [[0, 1, 3]], "worst": []}
    (study.run_folder(third) / "predictions.json").write_text(json.dumps(answers))
    write_report(folder, tmp_path)
    texts = {name: (tmp_path / f"report{name}").read_text() for name in (".html", ".md", ".tex", ".csv", "_runs.csv")}
    for name, text in texts.items():
        assert "\x1b" not in text, name
        assert "&#39; /C calc" in text if name == ".html" else "/C calc" in text
    assert "<b>*x*" not in texts[".html"].replace("<b>50", "")
    assert "<i>a" not in texts[".html"]
    for line in texts[".md"].splitlines():
        assert not re.search(r"(?<!\\)(<b>|<i>|\]\()|(?<![\\*])\*x", line), line
    assert texts[".md"].startswith("# =cmd\\|' /C calc'!A0 \\<b>".replace("# =", "# \\="))
    assert r"\input{c}" not in texts[".tex"]
    for name in (".csv", "_runs.csv"):
        assert not any(cell.startswith(("=", "@", "+")) for row in csv.reader(io.StringIO(texts[name])) for cell in row)


def test_a_table_that_holds_markup_keeps_its_cells():
    table = ReportTable("k", "t", (Column("m"), Column(HOSTILE)), ((Entry("r"), Entry("x\ny", "a|b")),))
    text = render("report.md", title="", progress="", tables=[table])
    assert r"| r | x\\ny a\|b |" in text
    assert markdown(HOSTILE) in text


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(study, tmp_path):
    table = ReportTable(
        "k", HOSTILE, (Column("m"), Column(HOSTILE, mark="a")), ((Entry("r"), Entry("1", HOSTILE)),), (HOSTILE,)
    )
    start = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}"
    (tmp_path / "a.tex").write_text(f"{start}\n{render('report.tex', tables=[table])}\n\\end{{document}}\n")
    done = subprocess.run(["pdflatex", "-interaction=batchmode", "-halt-on-error", "a.tex"], cwd=tmp_path, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"formats": ["pdf"]}, r"--formats: choose from html, md, csv, tex, json, got pdf"),
        ({"formats": []}, r"--formats: choose from html, md, csv, tex, json, got none"),
        ({"reference": "loro"}, r"--reference loro: the study has no such method; it has lora, sign"),
    ],
    ids=str,
)
def test_wrong_options_say_what_to_type(study, tmp_path, options, said):
    with pytest.raises(ValueError, match=said):
        write_report(study.path, tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_another_reference_can_be_chosen(study, tmp_path):
    write_report(study.path, tmp_path, reference="sign", formats=["csv"])
    found = {(line["method"], line["over"]): line for line in lines((tmp_path / "report.csv").read_text())}
    assert (found["lora", "0-4"]["reference"], found["lora", "0-4"]["difference"]) == ("sign", "-2.0")
    assert found["sign", "0-4"]["difference"] == ""


def test_published_numbers_stand_only_beside_a_whole_vtab_on_their_backbones(tmp_path):
    for i, (suite, backbone, shown) in enumerate(
        [("vtab1k", "augreg_in21k", True), ("vtab1k", "tiny", False), ("digits", "augreg_in21k", False)]
    ):
        one = trial("lora", "0-4", 0, suite=suite, backbone=backbone)
        folder = write(tmp_path / str(i), [(one, 75.0)]).path
        (path,) = write_report(folder, formats=["md"])
        text = path.read_text()
        assert ("| LoRA r8 | 74.60 | 72.25 |" in text) is shown
        assert ("| lora* | missing | missing | ours |" in text) is shown


def test_our_averages_of_all_tasks_stand_beside_the_published(tmp_path):
    groups = {"natural": 7, "specialised": 4, "structured": 8}
    done = []
    for i, (group, count) in enumerate(groups.items()):
        names = [f"{group}{j}" for j in range(count)]
        for j, name in enumerate(names):
            options = {"group": group, "suite": "vtab1k", "backbone": "orig_in21k", "lr": 1e-3 * (1 + 20 * i + j)}
            done.append((trial("lora", name, 0, **options), 60.0 + 10 * i))
    (path,) = write_report(write(tmp_path, done).path, formats=["md"])
    groups_mean, tasks_mean = (60 + 70 + 80) / 3, (7 * 60 + 4 * 70 + 8 * 80) / 19
    assert f"| lora | {groups_mean:.2f} | {tasks_mean:.2f} | ours |" in path.read_text()


def test_method_names_that_look_like_markup_stay_text(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "a|<b>", METHODS["lora"])
    study = write(tmp_path, [(trial("a|<b>", "0-4", 0), 50.0)])
    (path,) = write_report(study.path, formats=["md"])
    assert "| a\\|\\<b> (lora r2) |" in path.read_text()
