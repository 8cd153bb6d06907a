"""Every block of the README and of the pages that it leads to runs: python as it stands, with the hub replaced. The
shell commands of all pages parse, cheap ones run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import timm

from capaboost_vit import METHODS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
NEW_METHOD = (ROOT / "docs" / "new_method.md").read_text()
PAGES = ("index", "models", "training", "studies", "methods", "results", "speed")
TEXT = "".join([README, *((ROOT / "docs" / f"{page}.md").read_text() for page in PAGES)])
PYTHON = list(dict.fromkeys(re.findall(r"```python\n(.*?)```", TEXT, re.S)))
EVERYWHERE = "".join([README, *(path.read_text() for path in sorted((ROOT / "docs").rglob("*.md")))])


def commands(text):
    """The lines of the shell blocks of a page, continued ones as one, with the variables that the block sets."""
    for block in dict.fromkeys(re.findall(r"```(?:bash|sh|console)\n(.*?)```", text, re.S)):
        block = block.replace("\\\n", " ")
        for name, value in re.findall(r'^(\w+)="([^"\n]*)"$', block, re.M):
            block = block.replace(f"${name}", value)
        yield from (line.removeprefix("$ ").partition("  #")[0].strip() for line in block.splitlines())


COMMANDS = list(dict.fromkeys(commands(EVERYWHERE)))
CAPABOOST = [
    shlex.split(re.split(r" (?:&&|\|\||\||>) ", line)[0], comments=True)[1:]
    for line in COMMANDS
    if line.startswith("capaboost ") and "$" not in line  # variables that the shell computes
]


@pytest.fixture
def hub(monkeypatch):
    """The hub answers with the untrained weights of the architecture that was asked for."""
    asked = []

    def answer(model_id, *_, **__):
        asked.append(model_id)
        return timm.create_model(model_id.removeprefix("timm/").partition(".")[0]).state_dict()

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", answer)
    return asked


def test_there_are_blocks():
    assert len(PYTHON) >= 6
    assert len(CAPABOOST) >= 70


@pytest.mark.parametrize("block", PYTHON)
def test_python_blocks_run(block, hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    assert ("pretrained=True" in block) == bool(hub)
    if "summary" in block:
        assert "trained 372,004 of 86,170,660 parameters" in capsys.readouterr().out
    if "save_adapter" in block:
        assert (tmp_path / "adapter.safetensors").exists()


MERGES = """
images = torch.randn(2, 3, 224, 224)
for module in model.modules():
    if isinstance(module, Diagonal):
        torch.nn.init.normal_(module.d)
with torch.no_grad():
    torch.testing.assert_close(capaboost_vit.merge(model).eval()(images), model.eval()(images), rtol=1e-4, atol=1e-4)
"""


def test_the_method_of_the_documentation_works(ready, tmp_path):
    """In a process of its own: its timm names are no business of other tests."""
    (block,) = re.findall(r"```python\n(.*?)```", NEW_METHOD, re.S)
    (tmp_path / "diagonal.py").write_text(block + MERGES)
    done = ready.run(["python", tmp_path / "diagonal.py"], check=True)
    assert "mlp_out                2,304       2,304       2,304" in done.stdout


@pytest.mark.parametrize("arguments", CAPABOOST, ids=" ".join)
def test_capaboost_commands_are_understood(arguments, tmp_path, monkeypatch):
    from capaboost_vit.cli import _parser

    monkeypatch.chdir(tmp_path)
    for run in ("mine", "second", "rte"):
        (tmp_path / "runs" / run).mkdir(parents=True)
        (tmp_path / "runs" / run / "config.yaml").write_text("epochs: 3\n")
    for path in (ROOT / "configs").rglob("*.yaml"):
        (tmp_path / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path.relative_to(ROOT)).symlink_to(path)
    assert _parser().parse_args(arguments).subcommand == arguments[0]


@pytest.mark.parametrize("arguments", [a for a in CAPABOOST if a[0] in ("models", "summary")], ids=" ".join)
def test_cheap_capaboost_commands_run(ready, arguments):
    done = ready.run(["capaboost", *arguments], check=True)
    assert len(done.stdout.splitlines()) > 3


@pytest.mark.parametrize("command", [line for line in COMMANDS if "scripts/" in line])
def test_scripts_of_the_readme_exist(command):
    script = next(word for word in shlex.split(command) if word.startswith("scripts/"))
    assert (ROOT / script).is_file()


def test_file_tree_names_what_is_there():
    tree = re.search(r"# The house\n.*?```\n(.*?)```", (ROOT / "docs" / "house.md").read_text(), re.S)[1]
    folder: list[str] = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        folder = [*folder[:depth], name.rstrip("/")]
        assert (ROOT / "/".join(folder)).exists(), line


def test_numbers_of_registered_names_in_the_changelog():
    found = int(re.search(r"(\d+) registered names", (ROOT / "CHANGELOG.md").read_text())[1])
    names = [name for name in timm.list_models("*_capaboost_*") if not name.endswith("_reflection")]  # of a test
    assert found == len(names)


def test_number_of_methods_in_the_readme():
    found = int(re.search(r"LoRA, adapters, prefixes, prompts and (\d+) more methods", README)[1])
    own = [name for name, method in METHODS.items() if method.__module__.startswith("capaboost_vit.")]
    assert found == len(set(own) - {"lora", "adapter", "prefix", "prompt", "head", "full"})
