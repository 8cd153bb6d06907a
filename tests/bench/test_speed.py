"""Whole measurements on a tiny model: the result, its table, its picture, what is left out, and the command line."""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from capaboost_vit.bench import speed as module
from capaboost_vit.bench.cases import lora_cases
from capaboost_vit.bench.config import ScaleConfig, SpeedConfig
from capaboost_vit.bench.measure import measure, table_of, write_result
from capaboost_vit.bench.models import VISION
from capaboost_vit.bench.picture import draw_result
from capaboost_vit.bench.speed import axes, chosen, import_seconds
from capaboost_vit.bench.timing import ratios
from capaboost_vit.cli import bench as command
from capaboost_vit.cli import main

FEW = ("peft", "capaboost-d2", "adapter-d1", "head")


@pytest.fixture(scope="module")
def said():
    return []


@pytest.fixture(scope="module")
def measured(tiny, said):
    config = SpeedConfig(**tiny, cases=FEW, measures=("step", "inference", "layer", "memory", "probe"))
    return measure("speed", config, command="capaboost bench speed", say=said.append)


@pytest.fixture(scope="module")
def measured_text(tiny_text):
    config = SpeedConfig(**tiny_text, cases=(*FEW, "unipelt-d2"), measures=("step", "inference", "layer", "memory"))
    return measure("speed", config, command="capaboost bench speed --model roberta-base")


@pytest.fixture(scope="module")
def scaled(tiny):
    config = ScaleConfig(
        **{**tiny, "model_kwargs": {"depth": 1, "embed_dim": 16, "num_heads": 2}, "img_size": 32},
        batch_sizes=(1, 2),
        img_sizes=(32,),
        models=("vit_tiny_patch16_224",),
        ranks=(2,),
        branch_counts=(1, 3),
    )
    return measure("scale", config, command="capaboost bench scale")


def cases_of(result, table):
    return {row["case"]: row for row in result["tables"][table]}


LAYER = ": a layer alone, forward and backward over those of the frozen layer"


def test_a_result_is_json_and_holds_what_was_asked_for(measured, tiny):
    assert measured["command"] == "capaboost bench speed"
    assert measured["config"]["batch_size"] == tiny["batch_size"]
    assert measured["clock"] == "CPU time of the process"
    assert (measured["items"], measured["size"]) == ("images", "16 px")
    assert measured["left_out"] == []
    assert {title: [row["case"] for row in rows] for title, rows in measured["tables"].items()} == {
        "all-linears": ["floor", "peft", "capaboost-d2", "least"],
        f"all-linears{LAYER}": ["floor", "peft", "capaboost-d2"],
        "q-v": ["floor", "peft", "capaboost-d2", "least"],
        f"q-v{LAYER}": ["floor", "peft", "capaboost-d2"],
        "methods": ["floor", "adapter-d1"],
        "frozen-front": ["floor", "peft", "head"],
        "inference": ["base", "evaluated", "merged", "unmerged", "peft", "peft-merged"],
        "probe": ["forward", "front", "step", "100-epochs"],
    }
    layers = measured["tables"][f"all-linears{LAYER}"][1]
    assert list(layers["times"]) == ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
    assert len(measured["tables"]["inference"][0]["times"]["whole"]) == 4 * measured["config"]["repetitions"]
    for package in ("python", "torch", "timm", "capaboost_vit"):
        assert measured["machine"]["versions"][package]


def test_every_number_follows_from_the_times(measured, tiny):
    cases = cases_of(measured, "q-v")
    floor, peft, ours = (cases[name]["times"] for name in ("floor", "peft", "capaboost-d2"))
    assert len(ours["whole"]) == tiny["repetitions"]
    low, ratio, high = ratios(ours, floor)
    row = cases["capaboost-d2"]
    assert (row["/ floor"], row["+-"], row["/ peft"]) == (ratio, (high - low) / 2, ratios(ours, peft)[1])
    assert row["ms"] == 1000 * statistics.median(ours["whole"])
    assert row["fwd ms"] == 1000 * statistics.median(ours["forward"])
    assert row["images/s"] == pytest.approx(1000 * tiny["batch_size"] / row["ms"])
    assert cases["floor"]["/ floor"] == 1
    layer = cases_of(measured, f"q-v{LAYER}")["peft"]
    assert layer["times"]["query, value"].keys() == {"whole", "forward", "backward"}
    assert re.fullmatch(r"\d+\.\d\d, \d+\.\d\d", layer["query, value"])


def test_a_linear_probe_is_a_forward_pass_and_a_step_an_epoch(measured):
    cases = cases_of(measured, "probe")
    forward, front, step = (cases[name]["times"]["whole"] for name in ("forward", "front", "step"))
    expected = [(once + 100 * each) / whole for once, each, whole in zip(front, step, forward, strict=True)]
    assert cases["100-epochs"]["/ forward"] == pytest.approx(statistics.median(expected))


def test_a_result_of_texts_has_the_same_keys_but_tokens_in_the_place_of_images(measured, measured_text, tiny_text):
    assert measured_text.keys() == measured.keys()
    assert measured_text["config"].keys() == measured["config"].keys()
    assert (measured_text["items"], measured_text["size"]) == ("tokens", "6 tokens")
    assert measured_text["left_out"] == []
    assert list(cases_of(measured_text, "methods")) == ["floor", "adapter-d1", "unipelt-d2"]
    roles = ["query", "key", "value", "attn_out", "mlp_in", "mlp_out"]
    assert list(measured_text["tables"][f"all-linears{LAYER}"][0]["times"]) == roles
    ours, images = (cases_of(result, "q-v")["capaboost-d2"] for result in (measured_text, measured))
    assert ours.keys() - images.keys() == {"tokens/s"}
    assert images.keys() - ours.keys() == {"images/s"}
    real = tiny_text["batch_size"] * 4  # two tokens of each text are padding
    for row in (ours, cases_of(measured_text, "inference")["merged"]):
        assert row["tokens/s"] == pytest.approx(1000 * real / row["ms"])
    assert measured_text["machine"]["versions"]["transformers"]


def test_progress_is_said(measured, said):
    assert "q-v: preparing capaboost-d2" in said
    assert "q-v: round 2 of 2" in said


def test_the_table_has_every_case_in_about_a_hundred_columns(measured):
    table = table_of(measured)
    rows = [line for line in table.splitlines() if line.startswith(("floor ", "peft ", "capaboost-d2 ", "case "))]
    assert len(rows) == 4 * 4 + 2 + 3 + 2 + 1  # steps and layers of two groups, steps of two more, inference, probe
    assert max(map(len, rows)) <= 104
    for text in ("## all-linears", "## inference", "capaboost bench speed", "nothing was left out", "peak MB"):
        assert text in table
    assert "- peft: LoRA of Hugging Face PEFT, on the whole of a fused qkv\n" in table
    cases = cases_of(measured, "q-v")
    assert cases["least"]["peak MB"] > cases["floor"]["peak MB"]


def test_the_table_of_texts_says_tokens_where_that_of_images_says_images(measured, measured_text):
    table = table_of(measured_text)
    titles = [line for line in table.splitlines() if line.startswith("case ")]
    assert [line.count("tokens/s") for line in titles] == [1, 0, 1, 0, 1, 1, 1]
    assert "roberta-base, 6 tokens, batch 4, rank 2, float32" in table
    assert "sequential adapter at the MLPs" in table
    assert "images" not in table
    assert "vit_tiny_patch16_224, 16 px, batch 4, rank 2, float32" in table_of(measured)
    assert "tokens/s" not in table_of(measured)


def test_a_written_result_has_a_table_and_a_picture_beside_it(measured, tmp_path):
    paths = write_result(measured, tmp_path / "new" / "mine.json")
    assert [path.name for path in paths] == ["mine.json", "mine.md", "mine.png"]
    read = json.loads(paths[0].read_text())
    assert table_of(read) == paths[1].read_text() == table_of(measured)
    with Image.open(paths[2]) as image:
        assert image.width > 800


def test_nothing_to_draw_is_no_picture(measured, tmp_path):
    assert draw_result({**measured, "tables": {}}, tmp_path / "no.png") is None


def test_a_measure_alone_fills_its_own_columns(tiny):
    config = SpeedConfig(**tiny, groups=("q-v",), cases=("capaboost-d2",), measures=("memory",))
    found = measure("speed", config)
    case = cases_of(found, "q-v")["capaboost-d2"]
    assert case.keys() == {"case", "what", "trained", "resident MB", "peak MB", "saved MB"}
    assert "capaboost-d2" in table_of(found)
    assert list(found["tables"]) == ["q-v"]


def test_files_of_methods_stand_in_the_place_of_the_groups(tiny, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("method: {name: adalora, target_r: 1, init_r: 2}\nlr: 1e-3\n")
    goals = {"step files mine / floor": 1e9}
    config = SpeedConfig(**tiny, methods=(str(file),), measures=("step", "memory"), goals=goals)
    found = measure("speed", config)
    assert list(found["tables"]) == ["files"]
    assert cases_of(found, "files").keys() == {"floor", "mine"}
    assert [goal["met"] for goal in found["goals"]] == [True]
    assert draw_result(found, tmp_path / "picture.png").exists()


def test_layers_of_integers_are_timed_and_their_bytes_are_counted(tiny):
    goals = {"integers integers-8 / base": 1000}
    found = measure("speed", SpeedConfig(**tiny, measures=("integers",), goals=goals))
    rows = cases_of(found, "integers")
    assert list(rows) == ["base", "intlora-8", "integers-8", "integers-4"]
    assert rows["integers-4"]["state MB"] < rows["integers-8"]["state MB"] < rows["base"]["state MB"]
    assert found["goals"][0]["met"]
    assert "state MB" in table_of(found)


def test_the_import_is_timed(tiny, monkeypatch):
    monkeypatch.setattr(module, "import_seconds", lambda: 0.25)
    found = measure("speed", SpeedConfig(**tiny, measures=("import",), goals={"import": 0.3}))
    assert [(goal["measure"], goal["value"]) for goal in found["goals"]] == [("import", 0.25)]
    assert list(found["tables"]) == ["import"]


def test_importing_takes_some_time():
    assert 0 < import_seconds(repetitions=1) < 60


@pytest.mark.slow
@pytest.mark.parametrize("items", ["images", "tokens"])
def test_every_case_is_compiled_beside_the_others(items, tiny, tiny_text, request):
    if items == "images":  # inductor itself compiles texts here, and a run on images in training/test_whole_runs.py
        request.getfixturevalue("traced")
    one = {**tiny_text["model_kwargs"], "num_hidden_layers": 1}
    options = {"images": tiny, "tokens": {**tiny_text, "model_kwargs": one}}[items]
    config = SpeedConfig(**options, compile=True, groups=("q-v",), cases=FEW, measures=("step", "memory"))
    torch._dynamo.reset()
    found = measure("speed", config)
    assert found["left_out"] == []
    assert list(cases_of(found, "q-v")) == ["floor", "peft", "capaboost-d2", "least"]
    assert torch._dynamo.utils.counters["graph_break"] == {}
    assert "compiled (default)" in table_of(found)


# what is left out


def test_no_time_leaves_everything_out_and_says_so(tiny):
    found = measure("speed", SpeedConfig(**tiny, measures=("step", "inference"), budget=0))
    assert "q-v, capaboost-d2: no time left" in found["left_out"]
    assert "inference, base: no time left" in found["left_out"]
    assert found["tables"] == {}
    assert "- q-v, floor: no time left" in table_of(found)


def test_a_budget_stops_before_the_rounds_would_exceed_it(tiny, monkeypatch):
    monkeypatch.setattr("capaboost_vit.bench.compare.time_calls", lambda call, clock: {"whole": 100.0})
    config = SpeedConfig(**tiny, groups=("q-v",), measures=("step",), budget=500.0)  # 3 rounds of 100 s per case
    found = measure("speed", config)
    assert list(cases_of(found, "q-v")) == ["floor", "peft"]
    assert found["left_out"][0] == "q-v, loop-d2: no time left"


def test_a_case_without_its_package_is_left_out_with_the_reason(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    config = SpeedConfig(**tiny, groups=("q-v",), cases=FEW, measures=("step",))
    found = measure("speed", config)
    assert list(cases_of(found, "q-v")) == ["floor", "capaboost-d2"]
    assert len(found["left_out"]) == 1
    assert "q-v, peft: " in found["left_out"][0]
    assert "/ peft" not in cases_of(found, "q-v")["capaboost-d2"]


def test_cases_are_chosen_by_wildcards_in_their_order_and_the_floor_always():
    cases = lora_cases(VISION, "q-v", 2)
    assert [case.name for case in chosen(cases, ("loop-d4", "peft"))] == ["floor", "loop-d4", "peft"]
    assert [case.name for case in chosen(cases, ("*-d4",))] == ["floor", "loop-d4", "capaboost-d4"]
    assert chosen(cases, ("*",)) == cases
    assert [case.name for case in chosen(cases, ())] == ["floor"]


# scale


def test_one_thing_grows_at_a_time():
    config = ScaleConfig(num_branches=3, seq_lens=(32, 64))
    found = axes(config)
    assert list(found) == ["batch size", "image size", "tokens", "model", "rank", "branches"]
    fields = ("batch_size", "img_size", "seq_len", "model", "rank", "num_branches")
    for axis, field in zip(found, fields, strict=True):
        for value, point in found[axis].items():
            assert getattr(point, field) == value
            changed = {name for name in vars(point) if getattr(point, name) != getattr(config, name)}
            assert changed <= {field}
    assert "rank" not in axes(ScaleConfig(ranks=()))


def test_scale_has_every_point_with_its_cases(scaled, tmp_path):
    values = {axis: [row[axis] for row in rows[::3]] for axis, rows in scaled["tables"].items()}
    assert values == {
        "batch size": ["1", "2"],
        "image size": ["32"],
        "model": ["vit_tiny_patch16_224"],
        "rank": ["2"],
        "branches": ["1", "3"],
    }
    for rows in scaled["tables"].values():
        assert [row["case"] for row in rows] == ["floor", "peft", "capaboost"] * (len(rows) // 3)
    paths = write_result(json.loads(json.dumps(scaled)), tmp_path / "scale.json")
    assert "## image size" in paths[1].read_text()
    with Image.open(paths[2]) as image:
        assert image.width > 800


def test_texts_grow_too(tiny_text, tmp_path):
    none = {name: () for name in ("batch_sizes", "img_sizes", "models", "ranks", "branch_counts")}
    config = ScaleConfig(**{**tiny_text, **none, "seq_lens": (4, 8), "padding": 0.0})
    found = measure("scale", config)
    ours = found["tables"]["tokens"][2::3]
    assert [row["tokens"] for row in ours] == ["4", "8"]
    for row in ours:
        assert row["tokens/s"] == pytest.approx(1000 * 4 * int(row["tokens"]) / row["ms"])
    paths = write_result(found, tmp_path / "scale.json")
    assert "tokens/s" in paths[1].read_text()
    assert paths[2].exists()


def test_what_cannot_grow_is_refused_before_anything_is_measured(tiny_text):
    said = []
    with pytest.raises(ValueError, match="--img-size 96: roberta-base is no model for it"):
        measure("scale", ScaleConfig(**tiny_text), say=said.append)
    assert said == []


# the command line


def test_the_command_measures_judges_writes_and_draws_again(tiny, tmp_path, capsys):
    config = tmp_path / "mine.yaml"
    goals = {"step q-v capaboost-d2 / floor": 1e-3, "step q-v peft / floor": [0, 1e9], "import": 1}
    options = {**tiny, "groups": ["q-v"], "measures": ["step"], "goals": goals}
    config.write_text(yaml.safe_dump(options, sort_keys=False))
    output = tmp_path / "out.json"
    words = ["--config", str(config), "--cases", "peft", "capaboost-d2", "--output", str(output)]
    assert main(["bench", "speed", *words]) == 1  # a goal is missed
    captured = capsys.readouterr()
    assert "## q-v" in captured.out
    assert f"written: {output}, " in captured.out
    assert "q-v: preparing peft\n" in captured.err
    result = json.loads(output.read_text())
    assert result["config"]["cases"] == ["peft", "capaboost-d2"]
    assert [goal["met"] for goal in result["goals"]] == [False, True, None]
    verdicts = captured.out.partition("## goals")[2].splitlines()[4:7]
    assert [line.split("  ")[-1].strip() for line in verdicts] == ["missed", "met", "not measured"]
    output.with_suffix(".png").unlink()
    assert main(["bench", "draw", str(output)]) == 0
    assert capsys.readouterr().out == f"drawn: {output.with_suffix('.png')}\n"
    assert output.with_suffix(".png").exists()


def test_the_command_of_scale_takes_lists_without_words_and_meets_no_goal(tiny_text, tmp_path, capsys):
    words = ["--model", "roberta-base", "--model-kwargs", json.dumps(tiny_text["model_kwargs"]), "--device", "cpu"]
    words += ["--img-sizes", "--models", "--batch-sizes", "--ranks", "--branch-counts", "--seq-lens", "4", "8"]
    output = tmp_path / "out.json"
    assert main(["bench", "scale", *words, "--repetitions", "1", "--output", str(output)]) == 0
    assert "## tokens" in capsys.readouterr().out
    assert list(json.loads(output.read_text())["tables"]) == ["tokens"]


def test_the_published_capacity_is_drawn(tmp_path):
    old = json.loads((Path(__file__).parents[2] / "docs" / "study" / "capacity.json").read_text())
    assert draw_result(old, tmp_path / "old.png") == tmp_path / "old.png"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["speed", "--measures", "taste"], "error: --measures must be step, inference"),
        (["speed", "--device", "nowhere"], "capaboost bench: error: --device nowhere"),
        (
            ["speed", "--model", "roberta-bose"],
            "error: --model: timm has no 'roberta-bose' (did you mean 'roberta-base'",
        ),
        (["speed", "--seq-len", "64"], "error: --seq-len 64: vit_small_patch16_224 is no model for it"),
        (["speed", "--model", "all-MiniLM-L6-v2", "--seq-len", "513"], "all-MiniLM-L6-v2 takes at most 512 tokens"),
        (["speed", "--methods", "gone.yaml"], "No such file"),
        (["speed", "--methods", "other.json"], "--methods: other.json names no method: add `method: {name: lora}`"),
        (["draw", "gone.json"], "No such file"),
        (["draw", "other.json"], "other.json is no result of capaboost bench"),
        (["draw", "old.json"], "old.json is of an older version: measure again"),
    ],
)
def test_mistakes_are_one_line(words, text, exit_code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("other.json").write_text("{}")
    Path("old.json").write_text('{"kind": "speed", "groups": {}}')
    assert exit_code(words) == 2
    (line,) = [
        line
        for line in capsys.readouterr().err.splitlines()
        if "torch/utils/_pytree.py" not in line  # torchao, which transformers imports, makes torch warn there
    ]
    assert text in line


def test_on_a_terminal_progress_takes_one_line(monkeypatch, capsys):
    command._say("a: preparing b")
    command._say("a: round 1 of 2")
    assert capsys.readouterr().err == "a: preparing b\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    command._say("a: round 1 of 2")
    command._say("")
    assert capsys.readouterr().err == "\r\x1b[Ka: round 1 of 2\r\x1b[K"
