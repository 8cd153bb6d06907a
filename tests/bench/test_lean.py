"""`python -m capaboost_vit.bench` and scripts/bench_gpu.sh run where only torch, timm and what timm needs are there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from capaboost_vit.bench.__main__ import _runs, main

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs" / "bench"
ABSENT = ("jsonargparse", "rich", "matplotlib", "wrapt", "tensorboard", "datasets", "fvcore", "sklearn")
# runs the module as `python -m` does, after making the packages unimportable


def block(*packages):
    return f"""
import runpy, sys
from importlib.machinery import PathFinder
class Rest(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {packages!r} else super().find_spec(name, path, target)
sys.meta_path[:] = [Rest if finder is PathFinder else finder for finder in sys.meta_path]
"""


RUN = "sys.argv[0] = 'bench'; runpy.run_module('capaboost_vit.bench', run_name='__main__')"


def overrides(tiny, **more):
    return [f"{name}={json.dumps(value)}" for name, value in {**tiny, **more}.items()]


def start(command, **environment):
    return subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=250,
    )


def test_it_measures_without_the_other_packages(tiny, tmp_path):
    few = overrides(tiny, cases=["peft", "capaboost-d2"], measures=["step", "memory"], compile=False)
    words = ["speed", str(CONFIGS / "gpu.yaml"), "--output", str(tmp_path), "--set", *few]
    done = start([sys.executable, "-c", block(*ABSENT) + RUN, *words])
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert list(result["groups"]["q-v"]["cases"]) == ["floor", "peft", "capaboost-d2"]
    assert result["command"].startswith("python -m capaboost_vit.bench speed ")
    assert "## q-v" in done.stdout
    assert f"capaboost bench draw {tmp_path / 'gpu.json'}" in done.stdout
    assert not (tmp_path / "gpu.png").exists()
    assert (tmp_path / "gpu.md").read_text() in done.stdout


def test_without_transformers_images_are_measured(tiny, tmp_path):
    few = overrides(tiny, cases=["peft", "capaboost-d2"], groups=["q-v"], measures=["step"])
    words = ["speed", str(CONFIGS / "cpu.yaml"), "--output", str(tmp_path), "--set", *few]
    done = start([sys.executable, "-c", block(*ABSENT, "transformers") + RUN, *words])
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "cpu.json").read_text())
    assert list(result["groups"]["q-v"]["cases"]) == ["floor", "capaboost-d2"]
    assert len(result["left_out"]) == 1
    assert "q-v, peft: " in result["left_out"][0]  # peft needs transformers


def test_without_transformers_texts_are_refused_in_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert main(["speed", str(CONFIGS / "text_cpu.yaml")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("capaboost_vit.bench: error: --model roberta-base needs transformers, which is not here")
    assert error.count("\n") == 1


@pytest.mark.parametrize("first", ["capaboost_vit", "timm"])
def test_without_wrapt_the_names_are_registered_at_once(first):
    known = "import capaboost_vit, sys; 'timm' in sys.modules or 1 / 0; import timm"
    code = f"import {first}; {known}; timm.is_model('vit_tiny_capaboost_lora') or 1 / 0; capaboost_vit.adapt"
    done = start([sys.executable, "-W", "error", "-c", block(*ABSENT) + code])
    assert done.returncode == 0, done.stderr


# the words


def test_a_suite_holds_for_the_files_behind_it(tmp_path):
    words = ["speed", CONFIGS / "gpu.yaml", CONFIGS / "cpu.yaml", "scale", CONFIGS / "scale_cpu.yaml"]
    configs = [config for config, _ in _runs(list(map(str, words)), {"rank": 3}, tmp_path)]
    assert [type(config).__name__ for config in configs] == ["SpeedConfig", "SpeedConfig", "ScaleConfig"]
    assert [config.rank for config in configs] == [3, 3, 3]
    assert [Path(config.output).name for config in configs] == ["gpu.json", "cpu.json", "scale_cpu.json"]
    assert configs[0].cases[0] == "peft"
    (config, _) = _runs(["speed", str(CONFIGS / "cpu.yaml")], {}, None)[0]
    assert config.output == "runs/bench/cpu.json"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["configs/bench/cpu.yaml"], "say speed or scale or vtab-time or processes before configs/bench/cpu.yaml"),
        (["speed"], "name a configuration, such as configs/bench/gpu.yaml"),
        (["speed", "gone.yaml"], "No such file"),
        (["speed", "mine.yaml"], "mine.yaml: no option 'rang' (did you mean 'rank'?)"),
        (["speed", "fine.yaml", "--set", "rank"], "--set takes NAME=VALUE, got 'rank'"),
        (["speed", "fine.yaml", "--set", "rank=0"], "--rank must be at least 1"),
        (["speed", "fine.yaml", "--set", "device=nowhere"], "--device nowhere"),
    ],
)
def test_mistakes_are_one_line(words, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(yaml.safe_dump({"rang": 4}))
    Path("fine.yaml").write_text("")
    assert main(words) == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1


# the script


@pytest.mark.parametrize("there", [True, False])
def test_the_script_measures_texts_where_transformers_is(there, tmp_path):
    """A python that only notes what it is asked for, and knows transformers or not."""
    python = tmp_path / "python"
    python.write_text(f"""#!/bin/bash\n[ "$1" = -m ] && echo "$@" && exit; exit {0 if there else 1}\n""")
    python.chmod(0o755)
    done = script(cwd=tmp_path, DEVICE="cpu", PYTHON=str(python))
    assert done.returncode == 0, done.stderr
    files = [Path(word).name for word in done.stdout.split() if word.endswith(".yaml")]
    assert files == ["gpu.yaml", *(["text_gpu.yaml"] if there else []), "gpu_eager.yaml", "scale_gpu.yaml"]
    assert ("no transformers" in done.stderr) != there


def script(*arguments, cwd, **environment):
    return subprocess.run(
        ["bash", str(ROOT / "scripts" / "bench_gpu.sh"), *arguments],
        env={**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=250,
        cwd=cwd,
    )


def test_the_script_without_a_gpu_says_so_and_stops(tmp_path):
    done = script(cwd=tmp_path, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert "sees no GPU; DEVICE=cpu would run all of it on the CPU" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_script_stops_at_its_budget_and_says_what_was_left_out(tmp_path, tiny):
    fewer = overrides({**tiny, "compile": False})
    done = script("--set", *fewer, cwd=tmp_path, DEVICE="cpu", BUDGET="0", OUTPUT="my results")
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "my results").iterdir() if path.suffix == ".json"}
    assert names == {"gpu.json", "text_gpu.json", "gpu_eager.json", "scale_gpu.json"}
    assert "- all-linears, capaboost-d2: no time left" in done.stdout
    assert "- rank 8, capaboost: no time left" in done.stdout
    assert json.loads((tmp_path / "my results" / "gpu.json").read_text())["device"] == "cpu"
