"""`capaboost bench capacity` on a tiny full fine-tuning: its numbers by hand, its table, and what it refuses."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

import capaboost_vit
from capaboost_vit.bench.capacity import measure_capacity
from capaboost_vit.bench.config import CapacityConfig
from capaboost_vit.bench.timing import Session
from capaboost_vit.cli import main
from capaboost_vit.core.analysis import held_share
from capaboost_vit.core.inject import branches
from capaboost_vit.io.sealed import write_sealed
from capaboost_vit.methods.adapter_file import FORMAT, VERSION
from capaboost_vit.run import train

TINY_VIT = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
NAMES = ["lora", "masks only", "random, d 2", "sign, d 2", "lora of rank 2 r"]


@pytest.fixture
def full(configure):
    """The folder of a full fine-tuning of the tiny ViT."""
    config = configure(model="vit_tiny_patch16_224", method={"name": "full"}, lr=1e-3)
    train(config)
    return config.output


def test_the_shares_are_those_of_the_fused_layers_rows(full, base, tmp_path, capsys):
    output = tmp_path / "capacity.json"
    words = ["--full", full, "--ranks", "1", "2", "--patterns", "random", "sign", "--iterations", "40"]
    assert main(["bench", "capacity", *words, "--output", str(output)]) == 0
    said = capsys.readouterr().out
    result = json.loads(output.read_text())
    assert output.with_suffix(".png").stat().st_size > 1000
    assert said.startswith(output.with_suffix(".md").read_text())
    assert list(result["ranks"]) == ["1", "2"]
    assert list(result["ranks"]["2"]) == NAMES

    before, after = load_file(base), load_file(f"{full}/adapter.safetensors")
    moved = {k: after[k].double() - v.double() for k, v in before.items() if k.endswith("attn.qkv.weight")}
    parts = [rows for delta in moved.values() for i, rows in enumerate(delta.chunk(3)) if i != 1]
    assert len(result["targets"]) == len(parts)
    squares = [torch.linalg.svdvals(part).square() for part in parts]
    plain = [float(values[:2].sum() / values.sum()) for values in squares]
    assert result["ranks"]["2"]["lora"]["full"] == pytest.approx(plain)
    assert result["ranks"]["1"]["lora of rank 2 r"]["full"] == pytest.approx(plain)
    stable = [float(values.sum() / values[0]) for values in squares]
    assert [target["stable"] for target in result["targets"].values()] == pytest.approx(stable)

    model = timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=3, **TINY_VIT)
    adapted = capaboost_vit.adapt(model, "lora", rank=2, pattern="sign", targets=("query", "value"))
    alone = held_share(next(iter(branches(adapted).values())), parts[0], iterations=40)
    assert result["ranks"]["2"]["sign, d 2"]["full"][0] == pytest.approx(alone, abs=1e-6)
    assert result["ranks"]["2"]["sign, d 2"]["stored"] == result["ranks"]["2"]["lora"]["stored"]
    assert result["ranks"]["1"]["lora of rank 2 r"]["stored"] == 2 * result["ranks"]["1"]["lora"]["stored"]
    row = next(line for line in said.splitlines() if line.startswith("sign, d 2"))
    means = [100 * statistics.fmean(result["ranks"][r]["sign, d 2"]["full"]) for r in ("1", "2")]
    assert [float(cell) for cell in row.split()[3:]] == pytest.approx(means, abs=0.05)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--full", "nowhere"], "no adapter file at nowhere"),
        (["--full", "LORA"], "no full fine-tuning of images: train with --method.name full"),
    ],
)
def test_bad_input_is_one_line(finished, exit_code, capsys, words, message):
    words = [str(finished[0]) if word == "LORA" else word for word in words]
    assert exit_code(["capacity", *words]) == 2
    assert message in capsys.readouterr().err


def test_random_base_weights_are_refused(configure, tmp_path):
    config = configure(
        model="vit_tiny_patch16_224",
        method={"name": "full"},
        initial_checkpoint=None,
        epochs=1,
        output=str(tmp_path / "r"),
    )
    train(config)
    with pytest.raises(ValueError, match="were random: there is no update"):
        measure_capacity(CapacityConfig(full=config.output), Session())


def test_a_damaged_configuration_beside_the_weights_is_one_line(full, capsys):
    path = Path(full, "config.yaml")
    for content in (None, b"", b"model: [", b"model: vit_tiny_patch16_224", b"\xff\xfe"):
        path.unlink() if content is None else path.write_bytes(content)
        assert main(["bench", "capacity", "--full", full]) == 2
        said = capsys.readouterr().err
        assert "config.yaml" in said
        assert full in said
        assert said.count("\n") == 1


def test_a_run_on_texts_is_refused(tmp_path):
    base = {"architecture": "BertForSequenceClassification", "fingerprint": ""}
    header = {"base": base, "methods": [{"method": "full"}], "head": [], "masks": {}}
    header["text"] = {"task": "rte", "max_length": None}
    write_sealed(tmp_path / "adapter.safetensors", FORMAT, VERSION, header, {"bias": torch.zeros(1)})
    with pytest.raises(ValueError, match="no full fine-tuning of images"):
        measure_capacity(CapacityConfig(full=str(tmp_path)), Session())
