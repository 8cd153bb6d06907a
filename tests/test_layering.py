"""The parts know only what lies below them, the index of the package is right, and every public thing is explained."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import capaboost_vit

PACKAGE = Path(capaboost_vit.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py"))
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))

# what measurements may import of the package: it needs nothing that a bare machine has not
BARE = {"bench", "build", "core", "methods", "vision", "nlu", "training", "options", "yaml_text", "_version"}
# what the files of each part may import of the package, and of others
OWN = {
    "core": {"core"},
    "methods": {"methods", "core", "options"},
    "training": {"training", "core", "options"},
    "hub": set(),
    "vision": {"vision", "methods", "core", "hub", "yaml_text", "_version"},
    "nlu": {"nlu", "methods", "core", "hub", "_version"},
    "bench": {"run", "inference"} | BARE,
    "build": {"vision", "methods", "training"},
    "job": {"training"},
    "image_job": {"job", "build", "vision", "training", "core"},
    "text_data": {"nlu", "training"},
    "text_scores": {"text_data", "nlu", "training"},
    "text_job": {"text_scores", "text_data", "job", "nlu", "methods", "training", "core"},
    "result": {"job", "methods", "training", "core", "_version"},
    "run": {"result", "image_job", "text_job", "job", "build", "training", "core"},
    "inference": {"inference", "build", "text_data", "text_scores", "vision", "nlu", "training", "core"},
    "report": {"nlu", "core"},
    "study": {"study", "run", "job", "vision", "methods", "training", "core", "options", "yaml_text"},
    "page": {"page", "study", "report", "build", "vision", "training", "core"},
    "cli": {"cli", "page", "run", "report", "study", "inference", "build", "bench", "vision", "methods", "training"}
    | {"_version"},
    "options": set(),
    "yaml_text": set(),
    "_version": set(),
    "__init__": {"core", "methods", "vision", "_version"},
}
OTHERS = {
    "core": {"torch", "numpy", "safetensors"},
    "methods": {"torch"},
    "training": {"torch", "timm", "rich", "matplotlib", "tensorboard"},
    "vision": {"torch", "torchvision", "timm", "numpy", "PIL", "yaml"},
    "hub": set(),
    "nlu": {"torch", "numpy"},
    "bench": {"rich", "torch", "timm", "yaml", "numpy", "PIL"},
    "build": {"torch", "timm"},
    "job": {"torch"},
    "image_job": {"torch"},
    "text_data": set(),
    "text_scores": {"torch"},
    "text_job": {"torch"},
    "result": {"torch", "timm"},
    "run": {"torch", "yaml"},
    "inference": {"torch", "timm", "yaml", "safetensors"},
    "report": set(),
    "study": {"torch", "timm", "yaml"},
    "page": {"torch", "numpy", "PIL"},
    "cli": {"jsonargparse", "timm"},
    "options": set(),
    "yaml_text": {"yaml"},
    "_version": set(),
    "__init__": {"wrapt"},
}
LAZY = {  # imported inside a function only
    "bench/baselines.py": {"peft"},
    "bench/models.py": {"transformers"},
    "bench/picture.py": {"matplotlib"},
    "core/analysis.py": {"fvcore"},
    "hub.py": {"datasets"},
    "study/ray_pool.py": {"ray"},
    "nlu/adapters.py": {"transformers"},
    "nlu/encoder.py": {"transformers"},
    "nlu/models.py": {"transformers"},
    "nlu/data/tables.py": {"datasets"},
    "nlu/metrics.py": {"scipy", "sklearn"},
    "page/figures.py": {"matplotlib"},
    "page/page.py": {"jinja2"},
    "page/paired.py": {"scipy"},
    "page/svg.py": {"matplotlib"},
    "vision/data/columns.py": {"datasets"},
    "vision/data/digits.py": {"sklearn"},
    "vision/data/tables.py": {"datasets"},
    "vision/data/torchvision_sets.py": {"torchvision"},
}


def part(path):
    """The name of the part that a file belongs to: its folder, or itself at the top."""
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path, *, top_only=False):
    """(own parts, other packages) that a file imports, wherever in it."""
    own, others = set(), set()
    tree = ast.parse(path.read_text())
    package = path.relative_to(PACKAGE).parts[:-1]
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            others |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            others.add(node.module.partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - (node.level - 1)]
            target = [*above, *(node.module.split(".") if node.module else ())]
            own |= {target[0]} if target else {alias.name for alias in node.names}
    return own, others - set(sys.stdlib_module_names) - {"__future__"}


def test_every_part_has_its_rule():
    assert {part(path) for path in FILES} == OWN.keys() == OTHERS.keys()


@every_file
def test_a_part_imports_only_what_lies_below_it(path):
    own, others = imports(path)
    lazy = LAZY.get(path.relative_to(PACKAGE).as_posix(), set())
    assert own <= OWN[part(path)]
    assert others <= OTHERS[part(path)] | lazy
    assert not imports(path, top_only=True)[1] & lazy


def test_the_rules_hold_no_cycle_and_nobody_imports_the_command_line():
    for name, below in OWN.items():
        assert "cli" not in below - {name}
        for other in below - {name}:
            assert name not in OWN[other], f"{name} and {other} import each other"


QUICK = ["options.py", "training/config.py", "training/stop.py", "methods/config.py", "bench/config.py"]
QUICK += ["bench/loop_config.py", "bench/capacity_config.py", "bench/shapes.py", "study/config.py"]
QUICK += [path.relative_to(PACKAGE).as_posix() for path in FILES if part(path) == "cli"]


@pytest.mark.parametrize("path", QUICK)
def test_what_help_is_made_from_imports_nothing_heavy_at_the_top(path):
    own, others = imports(PACKAGE / path, top_only=True)
    if path.startswith("bench/"):
        own -= {"bench"}  # each other, and shapes
    assert others <= {"jsonargparse"}
    assert own <= {"cli", "options", "methods", "training", "_version"}


LEAN = [path for path in FILES if part(path) == "bench" and path.stem != "quickstart"]


@pytest.mark.parametrize("path", LEAN, ids=lambda path: path.stem)
def test_what_measures_needs_nothing_that_a_bare_machine_has_not(path):
    own, others = imports(path)
    assert own <= BARE
    assert others <= {"torch", "timm", "yaml", "numpy", "PIL"} | LAZY.get(path.relative_to(PACKAGE).as_posix(), set())


@every_file
def test_no_file_is_longer_than_250_lines(path):
    assert len(path.read_text().splitlines()) <= 250


# the index


def typed_index():
    """What the TYPE_CHECKING block of the package imports: module by name."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = (n for n in tree.body if isinstance(n, ast.If) and getattr(n.test, "id", "") == "TYPE_CHECKING")
    return {alias.name: node.module for node in block.body for alias in node.names}


def test_the_lazy_index_is_the_typed_one_and_sorted():
    assert typed_index() == capaboost_vit._PUBLIC
    assert list(capaboost_vit._PUBLIC) == sorted(capaboost_vit._PUBLIC)
    assert capaboost_vit.__all__ == ["__version__", *capaboost_vit._PUBLIC]
    assert dir(capaboost_vit) == sorted(capaboost_vit.__all__)


@pytest.mark.parametrize("name", capaboost_vit._PUBLIC)
def test_a_public_name_is_defined_where_the_index_says(name):
    thing = getattr(capaboost_vit, name)
    assert thing.__module__ == f"capaboost_vit.{capaboost_vit._PUBLIC[name]}"
    assert len(inspect.getdoc(thing)) > 20


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'adopt'"):
        _ = capaboost_vit.adopt


# explanations


def public_definitions(tree):
    """Public functions and classes at the top of a module."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]


@every_file
def test_every_module_and_every_public_definition_has_a_docstring(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree) or not tree.body
    assert [node.name for node in public_definitions(tree) if not ast.get_docstring(node)] == []


@every_file
def test_every_module_can_be_imported(path):
    relative = path.relative_to(PACKAGE).with_suffix("")
    parts = [part for part in relative.parts if part != "__init__"]
    assert importlib.import_module(".".join(["capaboost_vit", *parts]))


@pytest.mark.parametrize("name", ["adapt", "anatomy_of", "apply_method", "load_adapter"])
def test_a_public_name_can_be_the_first_thing_that_a_process_uses(name):
    code = f"import capaboost_vit; capaboost_vit.{name}; import timm; assert timm.is_model('vit_tiny_capaboost_lora')"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
