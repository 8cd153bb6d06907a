"""The parts know only what lies below them, the index of the package is right, and every public thing is explained."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import capaboost_vit
from capaboost_vit import nlu

PACKAGE = Path(capaboost_vit.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py"))
STUBS = sorted(path for path in PACKAGE.rglob("*.pyi"))

# what the files of each room may import of the package: no arrow goes up
BELOW = {
    "io": set(),
    "core": {"io", "_lazy"},
    "methods": {"core", "io"},
    "training": {"methods", "core", "io", "_version"},
    "vision": {"training", "methods", "core", "io", "_version"},
    "nlu": {"training", "methods", "core", "io", "_lazy", "_version"},
    "adapters": {"vision", "nlu", "methods", "core"},
    "interop": {"adapters", "vision", "nlu", "training", "methods", "core", "io"},
    "peft": {"interop", "methods", "core", "io"},
    "timm": {"vision"},
    "lightning": {"adapters", "interop"},
    "transformers": {"adapters", "interop"},
    "run": {"interop", "vision", "nlu", "training", "methods", "core", "io"},
    "study": {"run", "vision", "nlu", "training", "methods", "core", "io", "_version"},
    "bench": {"vision", "nlu", "training", "methods", "core", "io", "_version"},
    "cli": {"bench", "study", "run", "interop", "vision", "nlu", "training", "methods", "core", "io", "_version"},
    "_lazy": {"io"},
    "_version": set(),
    "__init__": {"adapters", "interop", "vision", "methods", "core", "_lazy", "_version"},
}
# other packages, at the top of a file or inside a function
OTHERS = {
    "core": {"torch", "numpy", "safetensors", "fvcore"},
    "io": {"torch", "safetensors", "yaml", "datasets", "huggingface_hub"},
    "methods": {"torch", "numpy", "safetensors"},
    "training": {"torch", "timm", "numpy", "rich", "matplotlib", "tensorboard", "filelock", "scipy", "sklearn"},
    "vision": {"torch", "torchvision", "timm", "numpy", "pandas", "PIL", "yaml", "safetensors", "datasets", "sklearn"},
    "nlu": {"torch", "numpy", "yaml", "transformers", "datasets", "seqeval"},
    "adapters": {"torch"},
    "interop": {
        "torch",
        "timm",
        "safetensors",
        "peft",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "huggingface_hub",
        "wandb",
        "mlflow",
    },
    "peft": {"torch", "peft"},
    "timm": {"timm"},
    "lightning": {"lightning"},
    "transformers": {"transformers", "safetensors"},
    "run": {"torch", "yaml"},
    "study": {
        "torch",
        "timm",
        "numpy",
        "pandas",
        "yaml",
        "PIL",
        "rich",
        "jinja2",
        "matplotlib",
        "scipy",
        "ray",
        "optuna",
        "PyNomad",
    },
    "bench": {"torch", "timm", "yaml", "pandas", "matplotlib", "transformers", "peft"},
    "cli": {"jsonargparse", "timm"},
    "_lazy": set(),
    "_version": set(),
    "__init__": {"wrapt"},
}
# imported inside a function only, wherever they are used: they are slow, or extras; but a room of its client's name,
# which no other imports, is made of classes that extend the client's
LAZY = {
    "PyNomad",
    "datasets",
    "fvcore",
    "jinja2",
    "lightning",
    "mlflow",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "optuna",
    "peft",
    "ray",
    "scipy",
    "seqeval",
    "sklearn",
    "transformers",
    "wandb",
}
# what `--help` is made from imports nothing heavy at the top
QUICK = {"cli", "io/options.py", "training/config.py", "training/signals.py", "methods/method.py", "vision/config.py"}
QUICK |= {"nlu/config.py", "study/config.py", "bench/config.py"}


def room(path):
    """The name of the room that a file belongs to: its folder, or itself at the top."""
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path, *, top_only=False):
    """(own rooms, other packages) that a file imports, wherever in it but for type checking."""
    own, others = set(), set()
    tree = ast.parse(path.read_text())
    package = path.relative_to(PACKAGE).parts[:-1]
    for node in _nodes(tree, top_only):
        if isinstance(node, ast.Import):
            others |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            others.add(node.module.partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - (node.level - 1)]
            target = [*above, *(node.module.split(".") if node.module else ())]
            own |= {target[0]} if target else {alias.name for alias in node.names}
    return own, others - set(sys.stdlib_module_names) - {"__future__"}


def _nodes(tree, top_only):
    """All nodes, or those that run when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            continue
        yield node
        if not (top_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))):
            yield from _nodes(node, top_only)


def test_no_arrow_goes_up_and_each_room_keeps_to_its_libraries():
    assert {room(path) for path in FILES} == BELOW.keys() == OTHERS.keys()
    order = list(BELOW)
    assert all(
        below - {name} <= set(order[: order.index(name)]) | {"_lazy", "_version"} for name, below in BELOW.items()
    )
    wrong = []
    for path in (*FILES, *STUBS):
        own, others = imports(path)
        wrong += [f"{path}: {name}" for name in own - BELOW[room(path)] - {room(path)}]
        wrong += [f"{path}: {name}" for name in others - OTHERS[room(path)]]
        wrong += [f"{path}: {name} at the top" for name in imports(path, top_only=True)[1] & LAZY - {room(path)}]
    assert wrong == []


def test_no_two_files_import_each_other():
    graph = {}
    for path in FILES:
        module = path.relative_to(PACKAGE).with_suffix("").parts
        package = path.relative_to(PACKAGE).parts[:-1]
        targets = set()
        for node in _nodes(ast.parse(path.read_text()), top_only=True):
            if isinstance(node, ast.ImportFrom) and node.level:
                above = [*package[: len(package) - (node.level - 1)], *(node.module.split(".") if node.module else ())]
                targets |= {tuple(above)} | {(*above, alias.name) for alias in node.names}
        graph[tuple(part for part in module if part != "__init__")] = targets
    # a package's index imports what lies in the package, which may import the package's name
    inside = {name: {t for t in targets if t in graph and t != name[: len(t)]} for name, targets in graph.items()}
    try:
        tuple(TopologicalSorter(inside).static_order())
    except CycleError as error:
        pytest.fail(f"files import each other: {error.args[1]}")


def test_what_help_is_made_from_imports_nothing_heavy():
    for path in FILES:
        name = path.relative_to(PACKAGE).as_posix()
        if name in QUICK or room(path) in QUICK:
            own, others = imports(path, top_only=True)
            assert others <= {"jsonargparse"}, name
            assert own <= {"cli", "core", "io", "methods", "training", "vision", "nlu", "study", "bench", "_version"}, (
                name
            )
    code = "import sys, capaboost_vit.cli as c; c._parser(); print({'torch', 'timm', 'datasets'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "set()", done.stderr


def test_every_file_is_short_and_every_public_definition_explained():
    for path in FILES:
        text = path.read_text()
        tree = ast.parse(text)
        assert len(text.splitlines()) <= 250, path
        assert ast.get_docstring(tree) or not tree.body, path
        assert [node.name for node in public_definitions(tree) if not ast.get_docstring(node)] == [], path
        if room(path) in LAZY and importlib.util.find_spec(room(path)) is None:
            continue
        relative = path.relative_to(PACKAGE).with_suffix("")
        assert importlib.import_module(".".join(["capaboost_vit", *(p for p in relative.parts if p != "__init__")]))


# the index


def index(package):
    """(module, name) of each public name of a lazy package, by its stub."""
    tree = ast.parse(Path(package.__file__).with_suffix(".pyi").read_text())
    return [(node.module, alias.name) for node in tree.body for alias in node.names]


@pytest.mark.parametrize("package", [capaboost_vit, capaboost_vit.core, nlu], ids=lambda package: package.__name__)
def test_the_names_of_a_lazy_package_are_those_of_its_stub(package):
    names = [name for _, name in index(package)]
    assert dir(package) == package.__all__ == sorted(names)
    for module, name in index(package):
        assert getattr(package, name) is getattr(importlib.import_module(f"{package.__name__}.{module}"), name)


@pytest.mark.parametrize(
    ("module", "name"),
    [pair for pair in index(capaboost_vit) if pair[1] not in ("METHODS", "__version__")],  # a dict, a string
)
def test_a_public_name_is_defined_where_the_index_says(module, name):
    thing = getattr(capaboost_vit, name)
    assert thing.__module__ == f"capaboost_vit.{module}"
    assert len(inspect.getdoc(thing)) > 20


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'adopt'"):
        _ = capaboost_vit.adopt


# explanations


def public_definitions(tree):
    """Public functions and classes at the top of a module."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]


@pytest.mark.parametrize("name", ["adapt", "anatomy_of", "apply_method", "load_adapter"])
def test_a_public_name_can_be_the_first_thing_that_a_process_uses(ready, name):
    code = f"import capaboost_vit; capaboost_vit.{name}; import timm; assert timm.is_model('vit_tiny_capaboost_lora')"
    ready.run(["python", "-c", code], package=False, check=True)
