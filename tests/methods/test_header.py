"""Adapter files with a right SHA-256 and a lying header: refused in one line that names the file, and quickly."""

from __future__ import annotations

import copy
import json
import random
import resource
import time
from itertools import count

import numpy as np
import pytest
import torch
from golden import make
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import capaboost_vit
from capaboost_vit import nlu
from capaboost_vit.core.masking import Masking
from capaboost_vit.core.masks import _draw, make_masks, random_state
from capaboost_vit.io.sealed import _seal
from capaboost_vit.methods.adapter_file import FORMAT

IMAGES = {  # files of all kinds of sizes
    "lora": {"rank": 2},
    "adapter": {"bottleneck": 2},
    "prefix": {"prefix_length": 2, "bottleneck": 2, "shared": True},
    "prompt": {"prompt_length": 2, "num_branches": 1, "density": 1.0},
    "head": {},
}
TEXTS = {"lora": {"rank": 2, "targets": ["query", "mlp_in"]}, "unipelt": {"rank": 2, "prefix_bottleneck": 2}}
NUMBERS = [-1, 0, 10**4, 10**6, 10**9, 10**30, 1.5, -1e308, float("nan"), float("inf")]
WORDS = ["", "x", "*.*", "a\nb", "x" * 5000]
OTHERS = [None, True, [], [[]], [None], ["query"] * 5000, [10**9] * 3, {}, {"": {}}, {"method": "lora"}]
VALUES = [*NUMBERS, *WORDS, *OTHERS]
DTYPES = [torch.float8_e4m3fn, torch.complex64, torch.int64, torch.bool, torch.float16]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("header")
    made = []
    for name, options in IMAGES.items():
        model = capaboost_vit.adapt(make.image_model(), name, **options)
        made.append(capaboost_vit.save_adapter(model, folder / f"{name}.safetensors", class_names=("a", "b", "c")))
    for name, options in TEXTS.items():
        model = nlu.adapt(make.text_model(), name, **options)
        path = folder / f"text_{name}.safetensors"
        made.append(nlu.save_adapter(model, path, task="rte", class_names=("a", "b", "c"), max_length=16))
    make.text_model().save_pretrained(folder / "base")
    return made, folder / "base"


def places(value, at=()):
    """The path of each value in nested dicts and lists."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*at, key)
        if isinstance(item, (dict, list)):
            yield from places(item, (*at, key))


def lie(header, tensors, rng):
    """Changes one thing in a header (nine times of ten) or among the tensors; what it was, in words."""
    if rng.random() < 0.1:
        name, dtype = rng.choice(sorted(tensors)), rng.choice(DTYPES)
        tensors[name] = rng.choice([tensors[name].to(dtype), tensors[name].flatten()[:1].to(dtype)])
        return f"{name} as {dtype}, {tuple(tensors[name].shape)}"
    *way, key = rng.choice([place for place in places(header) if place[0] != "versions"])
    holder = header
    for step in way:
        holder = holder[step]
    if rng.random() < 0.2:
        del holder[key]
        return f"without {(*way, key)}"
    holder[key] = copy.deepcopy(rng.choice(VALUES))
    return f"{(*way, key)} = {str(holder[key])[:40]}"


def rewritten(header, tensors, to):
    save_file(tensors, to, metadata={FORMAT: _seal(header, tensors)})
    return to


def contents(path):
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[FORMAT])
    del header["sha256"]
    return header, load_file(path)


def try_to_use(path, base, text):
    """As a model's file and into a model: what is refused is refused as an adapter file, in one line that names it."""
    use = [lambda: capaboost_vit.read_header(path)]
    if text:
        use += [lambda: nlu.load_adapter(make.text_model(), path, force=True)]
        use += [lambda: nlu.create_from_adapter(path, model=str(base), force=True)]
    else:
        use += [lambda: capaboost_vit.load_adapter(make.image_model(), path, force=True)]
        use += [lambda: capaboost_vit.create_from_adapter(path, pretrained=False, force=True)]
    refused = []
    for call in use:
        try:
            model = call()
            if call is use[1]:  # what loads into a model computes, too
                model(**make.texts()) if text else model(make.images())
        except capaboost_vit.AdapterFileError as error:
            message = str(error)
            assert str(path) in message, message
            assert "\n" not in message, message
            assert len(message) < 2000, len(message)
            refused.append(message)
    return refused


@pytest.mark.slow  # 7 CPU-seconds
def test_300_lies_are_refused_as_adapter_files_or_do_no_harm(files, tmp_path):
    made, base = files
    rng = random.Random(17)
    originals = {path: contents(path) for path in made}
    for path in made:
        assert not try_to_use(path, base, path.name.startswith("text"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kB
    refused, began = 0, time.process_time()
    for index in range(300):
        source = made[index % len(made)]
        header, tensors = copy.deepcopy(originals[source])
        what = lie(header, tensors, rng)
        path = rewritten(header, tensors, tmp_path / "lie.safetensors")
        start = time.process_time()
        try:
            refused += bool(try_to_use(path, base, source.name.startswith("text")))
        except Exception as error:
            raise AssertionError(f"lie {index} of {source.name}: {what}") from error
        assert time.process_time() - start < 10, what  # some ten milliseconds; what a header names would take minutes
    assert refused > 200
    assert time.process_time() - began < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_a_refused_file_leaves_the_model_without_a_trace(files, tmp_path):
    made, _ = files
    header, tensors = contents(next(path for path in made if path.stem == "text_lora"))
    header["methods"][0]["rank"] = 3
    path = rewritten(header, tensors, tmp_path / "rank.safetensors")
    model = make.text_model()
    attributes, modules = set(vars(model)), list(model.named_modules())
    trained = [p.requires_grad for p in model.parameters()]
    with pytest.raises(capaboost_vit.AdapterFileError, match="another architecture or options"):
        nlu.load_adapter(model, path)
    assert set(vars(model)) == attributes
    assert list(model.named_modules()) == modules
    assert [p.requires_grad for p in model.parameters()] == trained


SIZES = [
    ("lora", ("methods", 0, "rank")),
    ("lora", ("methods", 0, "num_branches")),
    ("adapter", ("methods", 0, "bottleneck")),
    ("prefix", ("methods", 0, "prefix_length")),
    ("prefix", ("methods", 0, "bottleneck")),
    ("prompt", ("methods", 0, "num_branches")),
    ("prompt", ("methods", 0, "prompt_length")),
    ("head", ("num_classes",)),
    ("head", ("model_args", "img_size")),
    ("head", ("model_args", "embed_dim")),
    ("head", ("model_args", "depth")),
    ("head", ("model_args", "in_chans")),
    ("head", ("model_args", "mlp_ratio")),
    ("lora", ("input", "input_size", 1)),
    ("text_lora", ("methods", 0, "rank")),
    ("text_unipelt", ("methods", 0, "copies")),
    ("text_unipelt", ("methods", 0, "prefix_bottleneck")),
]


@pytest.mark.parametrize("size", [10**4, 10**5, 10**9])
@pytest.mark.parametrize(("name", "place"), SIZES, ids=[".".join(map(str, (n, *p))) for n, p in SIZES])
def test_a_size_that_the_tensors_do_not_have_is_refused_before_anything_is_made(files, tmp_path, name, place, size):
    made, base = files
    source = next(path for path in made if path.stem == name)
    header, tensors = contents(source)
    holder = header
    for step in place[:-1]:
        holder = holder[step]
    holder[place[-1]] = size
    path = rewritten(header, tensors, tmp_path / "size.safetensors")
    start = time.process_time()
    if name.startswith("text"):
        with pytest.raises(capaboost_vit.AdapterFileError, match=r"size\.safetensors"):
            nlu.create_from_adapter(path, model=str(base))
    else:
        with pytest.raises(capaboost_vit.AdapterFileError, match=r"size\.safetensors"):
            capaboost_vit.create_from_adapter(path, pretrained=False)
    assert time.process_time() - start < 4  # a second or less, twice that on a busy core; minutes without the check


def test_masks_of_many_branches_are_those_of_the_quadratic_search():
    masking = Masking(num_branches=12, density=0.5, mask_seed=3)
    masks = make_masks((2, 3), masking, path="small")  # of 20 masks that exist: redrawn now and then
    assert masks is not None
    expected: list[np.ndarray] = []
    for branch in range(12):
        drawn = (_draw((2, 3), "random", 0.5, random_state(3, f"small/{branch}/{attempt}")) for attempt in count())
        expected.append(next(mask for mask in drawn if not any(np.array_equal(mask, other) for other in expected)))
    assert np.array_equal(masks, np.stack(expected))
    start = time.process_time()
    many = make_masks((8, 64), Masking(num_branches=2000, pattern="sign"), path="many")
    assert many is not None
    assert len(many) == 2000
    assert time.process_time() - start < 4  # a second or less, twice that on a busy core; minutes without the check
