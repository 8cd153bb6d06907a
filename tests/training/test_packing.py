"""Whatever a state is made of comes back from a checkpoint bit for bit, type for type."""

from __future__ import annotations

import math
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capaboost_vit.io.sealed import read_sealed, write_sealed
from capaboost_vit.training.checkpoint import FORMAT, VERSION, CheckpointError, pack, unpack

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.bool, torch.uint8, torch.int8]
DTYPES += [torch.int16, torch.int32, torch.int64]


@st.composite
def tensors(draw):
    """Any bits in any of the dtypes; 0-dimensional and empty ones, and views that are not contiguous."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    size = math.prod(shape) * dtype.itemsize
    raw = draw(st.binary(min_size=size, max_size=size))
    if dtype == torch.bool:
        raw = bytes(byte % 2 for byte in raw)
    found = torch.frombuffer(bytearray(raw), dtype=dtype) if size else torch.empty(0, dtype=dtype)
    found = found.reshape(shape)
    return found.mT if len(shape) >= 2 and draw(st.booleans()) else found


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.just(math.nan), st.text(), tensors()
)
names = st.one_of(st.text(st.characters(codec="utf-8", exclude_characters="/")), st.integers(-3, 99))
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(names, inner, max_size=4).filter(lambda tree: len({str(key) for key in tree}) == len(tree)),
    ),
    max_leaves=12,
)


def bits(tree):
    """The tree with floats and tensors as bytes, and the type of everything: equal only if all bits are."""
    if isinstance(tree, torch.Tensor):
        raw = tree.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return "tensor", tree.dtype, tuple(tree.shape), raw
    if isinstance(tree, dict):
        return "dict", [(type(key), key, bits(value)) for key, value in tree.items()]
    if isinstance(tree, list | tuple):
        return type(tree), [bits(value) for value in tree]
    return type(tree), struct.pack("d", tree) if isinstance(tree, float) else tree


@given(trees)
@settings(max_examples=150, deadline=None)
def test_any_tree_comes_back_from_its_file(tmp_path_factory, tree):
    path = tmp_path_factory.getbasetemp() / "tree.safetensors"
    stored = {}
    header = {"state": pack(tree, stored)}
    write_sealed(path, FORMAT, VERSION, header, stored)
    read, found = read_sealed(path, FORMAT, (VERSION,), error=CheckpointError)
    assert bits(unpack(read["state"], found)) == bits(tree)


@pytest.mark.parametrize("value", [0.1 + 0.2, 5e-324, -0.0, math.inf, -math.inf, math.nan, 1.7976931348623157e308])
def test_a_number_keeps_every_bit(value):
    assert struct.pack("d", unpack(pack(value, {}), {})) == struct.pack("d", value)


@pytest.mark.parametrize(
    ("tree", "error"),
    [
        ({"a": {"b": torch.float32}}, "a checkpoint cannot hold /a/b: a dtype"),
        ([1, {2, 3}], "a checkpoint cannot hold /1: a set"),
        ({(1, 2): 3}, "a checkpoint cannot hold this: a tuple"),
        ({"a": {None: 3}}, "a checkpoint cannot hold /a: a NoneType"),
        (len, "a checkpoint cannot hold this: a builtin_function_or_method"),
    ],
    ids=str,
)
def test_what_could_not_come_back_is_refused_by_its_place(tree, error):
    with pytest.raises(TypeError, match=error):
        pack(tree, {})
