"""The command line: quick, one line for a mistake, and the same results as the functions behind it."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import texts
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from capaboost_vit.cli import main
from capaboost_vit.cli.method import method_options
from capaboost_vit.cli.train import train_parser
from capaboost_vit.nlu.config import TextConfig
from capaboost_vit.nlu.data import class_folders
from capaboost_vit.training.job import as_dict
from capaboost_vit.training.report_text import score_text
from capaboost_vit.vision.config import TrainConfig

COMMANDS = ("quickstart", "train", "train-text", "eval", "predict", "merge", "report", "data", "bench", "models")
COMMANDS += ("summary", "study")
CAPABOOST = [sys.executable, "-m", "capaboost_vit.cli"]
SMALL = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
KWARGS = "{patch_size: 8, embed_dim: 16, depth: 1, num_heads: 2}"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=0, **SMALL)
    path = tmp_path_factory.mktemp("base weights") / "base.safetensors"
    save_file(model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("holiday pictures")
    for name, colour in (("sea side", (20, 60, 200)), ("wood", (30, 180, 40))):
        (folder / name).mkdir()
        for i in range(12):
            Image.new("RGB", (20, 18), tuple(value + 2 * i for value in colour)).save(folder / name / f"{i}.png")
    return folder


def train_arguments(base, output, *more, method="lora", data="digits:0-1"):
    fixed = ["--model", f"vit_tiny_capaboost_{method}", "--model-kwargs", KWARGS, "--img-size", "16", "--epochs", "1"]
    return ["train", *fixed, "--initial-checkpoint", str(base), "--data", str(data), "--output", str(output), *more]


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run s") / "lora"
    assert main(train_arguments(base, folder)) == 0
    return folder


@pytest.fixture
def call(capsys):
    """Runs a command in this process; returns (exit code, stdout, stderr)."""

    def run(*arguments):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def refused(call):
    """Runs a command that must be refused; returns its one line."""

    def run(*arguments):
        code, out, err = call(*arguments)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1, err
        return err

    return run


def test_both_commands_are_the_same_program():
    program = Path(sys.executable).with_name("capaboost")
    if not program.exists():
        pytest.skip("the package is not installed as a program")
    found = [
        subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60).stdout
        for command in ([str(program)], CAPABOOST)
    ]
    assert found[0] == found[1]
    assert found[0].startswith("capaboost 0.")


# help


EACH = """
import sys, time
from capaboost_vit.cli import main
from capaboost_vit.cli.train import train_parser
for command in sys.argv[1:]:
    start = time.process_time()
    try:
        main([*command.split(), "--help"])
    except SystemExit as stop:
        assert not stop.code, command
    assert time.process_time() - start < 0.9, command
    assert not {"torch", "timm", "datasets"} & sys.modules.keys(), command
"""


def test_help_takes_less_than_a_second():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([*CAPABOOST, "train", "--help"], capture_output=True, text=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.startswith("usage: capaboost train [options]\n")  # not all of its options twice
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 1.0
    commands = ["", *COMMANDS, "data check", "bench speed", "bench processes", "bench capacity"]
    done = subprocess.run([sys.executable, "-c", EACH, *commands], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("usage: capaboost") == len(commands)


def test_neither_the_package_nor_the_parsers_import_torch_or_timm():
    code = (
        "import sys, capaboost_vit, capaboost_vit.cli as cli; cli._parser(); "
        "heavy = ('torch', 'timm', 'transformers', 'datasets', 'numpy', 'PIL', 'matplotlib'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")


REGISTERED = "print(timm.is_model('vit_tiny_capaboost_lora'), len(timm.list_models('*_capaboost_*')) > 99)"


def test_the_names_are_registered_in_either_order_of_import(ready):
    code = f"import capaboost_vit, timm; {REGISTERED}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("True True\n", "")
    done = ready.run(["python", "-c", f"import timm, capaboost_vit; {REGISTERED}"], package=False)
    assert (done.stdout, done.stderr) == ("True True\n", "")


@pytest.mark.parametrize(("command", "config"), [("train", TrainConfig), ("train-text", TextConfig)])
def test_help_shows_every_option_with_its_text(call, command, config):
    code, out, _ = call(command, "--help")
    text = " ".join(out.split())
    assert code == 0
    for field in dataclasses.fields(config):
        if field.name != "method":
            assert f"--{field.name.replace('_', '-')} " in text
            assert field.metadata["help"].split(";")[0].split()[0] in text
    for option in ("name", "rank", "num-branches", "density", "pattern", "targets", "bottleneck", "prefix-length"):
        assert f"--method.{option} " in text
    assert not re.search(r"--method\.\w*_", text)


def test_no_command_prints_the_help_and_is_a_mistake(call):
    code, out, err = call()
    assert (code, err) == (2, "")
    assert all(command in out for command in COMMANDS)


# mistakes


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["trian"], "capaboost: error: no command 'trian' (did you mean 'train'?); see capaboost --help"),
        (["zebra"], "no command 'zebra': choose from quickstart, train, train-text, eval, predict"),
        (["check"], "no command 'check' (did you mean capaboost data check?)"),
        (["study", "rnu"], "capaboost study: error: no command 'rnu' (did you mean 'run'?); see capaboost study"),
        (["--verson"], "unrecognized arguments: --verson (did you mean --version?)"),
        (["train", "--epoch", "3"], "--epoch 3 (did you mean --epochs?); see capaboost train --help"),
        (["train", "--batch_size", "3"], "(did you mean --batch-size?)"),
        (["train", "--epochs", "many"], "train: error: --epochs must be int, got 'many'; see capaboost train --help"),
        (["train", "--lr", "abc"], "train: error: --lr must be float or auto, got 'abc'; see"),
        (["train", "--lr", "nan"], "--lr must be float or auto, got 'nan'"),
        (["train", "--lr", ".inf"], "--lr must be finite in float32, got inf"),
        (
            ["train", "--select", "bset"],
            "--select must be last, best, macro_f1, balanced_accuracy or val_loss, got 'bset' (did you mean 'best'?)",
        ),
        (["train", "--momentum", "2"], "--momentum must lie in [0, 1), got 2"),
        (["train", "--mixup", "1e-300"], "--mixup must be 0, or be at least 0.001, got 1e-300"),
        (["train", "--model-kwargs", "[1"], "--model-kwargs must be values by name, got '[1'"),
        (["study", "run", "--seeds", "x"], "study run: error: --seeds must be int, got 'x'"),
        (["bench", "speed", "--measures", "taste"], "bench speed: error: --measures must be step, inference, "),
        (["bench", "capacity", "--ranks", "0"], "bench capacity: error: --ranks must be at least 1, got 0"),
        # what other programs call it
        (["train", "--learning_rate", "1"], "--learning_rate 1 (did you mean --lr?)"),
        (["train", "--lerning-rate", "1"], "--lerning-rate 1 (did you mean --lr?)"),
        (["train", "--per_device_train_batch_size", "1"], "(did you mean --batch-size?)"),
        (["train-text", "--num_train_epochs", "1"], "(did you mean --epochs?)"),
        (["train-text", "--max_seq_length", "1"], "(did you mean --max-length?)"),
        (["train", "-b", "3"], "-b 3 (did you mean --batch-size?)"),
        (["train", "--weight_decay", "3"], "(did you mean --weight-decay?)"),
        (["train", "--torchcompile"], "(did you mean --compile?)"),
        (["train", "--lora_alpha", "3"], "(did you mean --method.alpha?)"),
        (["train", "--epochs"], "argument --epochs: expected one argument"),
        (["train", "--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["train", "--lr", "0"], "--lr must be positive, got 0"),
        (["train"], "--data is missing: give a folder of class folders, or digits to try it; --help has others"),
        (["train", "--amp", "maybe"], "--amp must be bool, got 'maybe'"),
        (["train", "--scale", "1"], "scale"),
        (["train", "my/data"], "unrecognized arguments: my/data (did you mean --data my/data?); see"),
        (["train", "--learning_rate=1"], "--learning_rate=1 (did you mean --lr?)"),
        (["train", "--num_labels", "3"], "(did you mean --num-classes?)"),
        (["train", "--method", "lora"], "(did you mean --method.name?)"),
        (["train", "--method.rnak", "4"], "--method.rnak 4 (did you mean --method.rank?)"),
        (["train", "--method.num_branch", "4"], "--method.num_branch 4 (did you mean --method.num-branches?)"),
        (["train", "--method.rank", "four"], "method.rank"),
        # a method is checked before any data is opened
        (["train", "--data", "gone", "--method.rank", "0"], "rank of method 'lora' must be at least 1, got 0"),
        (["train", "--data", "gone", "--method.name", "lroa"], "unknown method 'lroa' (did you mean 'lora'?)"),
        (["train", "--data", "gone", "--method.name", "head"], "contradicts --model vit_base_capaboost_lora"),
        (["train", "--data", "gone", "--model", "vit_tiny_patch16_224"], "is a plain timm model: say --method.name"),
        (["train", "--data", "gone", "--method.density", "0"], "density must lie in (0, 1], got 0"),
        (["train-text", "--data", "gone"], "say --method.name lora ("),
        (
            ["train", "--method.bottleneck", "4"],
            "method 'lora' has no option 'bottleneck' (that is adapter's)",
        ),
        (["train", "--model", "vit_tiny_patch16_224", "--method.name", "lroa"], "unknown method 'lroa' (did you mean"),
        (["train", "--model", "vit_tiny_capabost_lora"], "timm has no model 'vit_tiny_capabost_lora'"),
        (["train", "--model", "vit_tiny_patch16_224"], "say --method.name lora"),
        (
            ["train", "--data", "no such folder"],
            "no data at 'no such folder': give digits, sprites:TASK, or the path",
        ),
        (["train", "--device", "gpu"], "--device gpu: "),
        (
            ["train", "--data", "gone", "--opt", "adamv"],
            " names such as adabelief, adadelta, adafactor, got 'adamv' (did",
        ),
        (["train", "--data", "gone", "--sched", "plateau"], "must be cosine, poly, step, "),
        (["train", "--config", "gone.yaml"], "train: error: --config gone.yaml: No such file or directory; see"),
        (["eval"], "required: model; see capaboost eval --help"),
        (["eval", "gone"], "no adapter file at gone"),
        (["eval", "gone", "--splt", "val"], "(did you mean --split?)"),
        (["merge", "gone"], "required: --output; see capaboost merge --help"),
        (["merge"], "required: adapter, --output; see capaboost merge --help"),
        (["merge", "gone", "--output", "x.safetensors"], "no adapter file at gone"),
        (["merge", "gone", "--output", "x.pth"], "no adapter file at gone, and no folder of a run or a timm model"),
        (["predict"], "required: model; see capaboost predict --help"),
        (["predict", "gone"], "no adapter file at gone, and no folder of a run or a timm model"),
        (["predict", "gone", "gone.png"], "no picture and no folder at gone.png"),
        (["predict", "gone", "."], "the folder . holds no picture"),
        (["predict", "gone", "there.png"], "no adapter file at gone, and no folder of a run or a timm model"),
        (["predict", "gone", "there.png", "--top", "0"], "--top must be at least 1, got 0"),
        (["predict", "gone", "there.png", "--csv", "."], "--csv . is a folder: name a file in it"),
        (["predict", "gone", "there.png", "--batch", "3"], "(did you mean --batch-size?); see capaboost predict"),
        (["data"], "capaboost data: error: a command is missing: check; see capaboost data --help"),
        (
            ["data", "chek"],
            "capaboost data: error: no command 'chek' (did you mean 'check'?); see capaboost data --help",
        ),
        (["data", "check"], "capaboost data check: error: the following arguments are required: spec; see capaboost"),
        (
            ["data", "check", "no such folder"],
            "no data at 'no such folder': give digits, sprites:TASK, or the path",
        ),
        (["data", "check", "digits", "--shet", "x"], "(did you mean --sheet?); see capaboost data check --help"),
        (["models", "--pretraind"], "(did you mean --pretrained?)"),
        (["models", "zebra*"], "no registered name matches 'zebra*'; try '*lora*'"),
        (["summary"], "required: model; see capaboost summary --help"),
        (["summary", "nothing"], "timm has no model 'nothing'"),
        (
            ["eval", "gone", "--model", "x"],
            "unrecognized arguments: --model x (did you mean --initial-checkpoint?); see",
        ),
        (["summary", "test_vit_capaboost_lora", "--method.density", "2"], "density"),
        (["quickstart", "--sead", "3"], "(did you mean --seed?)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_that_says_what_to_do(refused, arguments, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "there.png" in arguments:
        (tmp_path / "there.png").touch()
    line = refused(*arguments)
    assert line.startswith("capaboost")
    assert "error: " in line
    assert text in line


@pytest.mark.parametrize("offline", [True, False])
def test_advice_that_is_followed_already_is_not_given(refused, monkeypatch, offline):
    def no_hub(*_, **__):
        raise OSError("no hub")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1" if offline else "")
    monkeypatch.setattr("timm.create_model", no_hub)
    line = refused("train", "--data", "digits:0-1", "--model", "test_vit_capaboost_lora", "--pretrained")
    assert "give a local file, --initial-checkpoint FILE" in line
    assert ("set HF_HUB_OFFLINE=1" in line) != offline


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("epochz: 3", "error: wrong.yaml: no option 'epochz' (did you mean 'epochs'?); see capaboost train --help"),
        ("lerning_rate: 1", "wrong.yaml: no option 'lerning_rate' (did you mean 'lr'?)"),
        ("per_device_train_batch_size: 1", "(did you mean 'batch_size'?)"),
        ("help: true", "wrong.yaml: no option 'help'"),
        ("method: {r: 1}", "no option 'method.r' (did you mean 'method.rank'?)"),
        ("lr: abc", "error: wrong.yaml: --lr must be float or auto, got 'abc'; see"),
        (
            "select: bset",
            "wrong.yaml: --select must be last, best, macro_f1, balanced_accuracy or val_loss, got 'bset' (did you "
            "mean 'best'?)",
        ),
        ("method: {rank: four}", "wrong.yaml: --method.rank must be int, got 'four'"),
        ("method: {num_branches: few}", "wrong.yaml: --method.num-branches must be int, got 'few'"),
        ("lr: 1\nlr: 2", "wrong.yaml is no YAML: line 2, column 1: 'lr' stands there twice"),
        ("a: &a [1]\nb: " + "[" * 60, "wrong.yaml is no YAML: line 2, column 53: it is nested more than 50 deep"),
        ("method: {rnak: 3}", "wrong.yaml: no option 'method.rnak' (did you mean 'method.rank'?)"),
        ("zebra: 3", "wrong.yaml: no option 'zebra'; see capaboost train --help"),
        ("epochs: many", "wrong.yaml: --epochs must be int, got 'many'"),
        ("epochs: 0", "--epochs must be at least 1, got 0"),
        (
            "method: {name: lora, bottleneck: 3}",
            "method 'lora' has no option 'bottleneck' (that is adapter's)",
        ),
        ("epochs: [", "wrong.yaml is no YAML: line 2, column 1: "),
        ("- 1", "wrong.yaml holds no options by name, such as `lr: 1e-3`"),
    ],
)
def test_a_wrong_configuration_file_is_one_line(refused, tmp_path, content, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.yaml").write_text(content + "\n")
    assert text in refused("train", "--config", "wrong.yaml")


def test_a_traceback_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("CAPABOOST_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError):
        main(["eval", "gone"])


def test_an_interrupt_ends_with_130_and_one_line(call, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("capaboost_vit.training.saved.open_source", interrupt)
    assert call("eval", "x") == (130, "", "capaboost eval: interrupted\n")


def test_a_lack_of_memory_says_what_makes_a_run_smaller(refused, monkeypatch):
    def starve(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate much")

    monkeypatch.setattr("capaboost_vit.training.saved.open_source", starve)
    assert "Tried to allocate much; try a smaller --batch-size, or --grad-accum-steps 2" in refused("eval", "x")


def test_an_error_of_ours_is_not_hidden(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr("capaboost_vit.training.saved.open_source", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["eval", "x"])


READ = """
import os, sys
from capaboost_vit.cli import main
from capaboost_vit.cli.train import train_parser
reader, writer = os.pipe()
os.dup2(writer, 1)
os.close(reader)
sys.exit(main(["models"]))
"""


def test_a_reader_that_has_seen_enough_is_no_mistake(ready):
    done = ready.run(["python", "-c", READ])
    assert (done.returncode, done.stderr) in {(0, ""), (141, "")}


# options


@pytest.fixture
def parsed(monkeypatch):
    """The configuration that `capaboost train` would run."""

    def parse(*arguments):
        seen = []
        monkeypatch.setattr("capaboost_vit.run.train", seen.append)
        assert main(["train", *map(str, arguments)]) == 0
        return seen[0]

    return parse


def test_the_defaults_of_the_command_are_those_of_the_configuration_but_for_the_rate_which_is_searched(parsed):
    assert parsed() == TrainConfig(lr="auto")


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        (["--amp"], {"amp": True}),
        (["--amp", "true"], {"amp": True}),
        (["--amp", "false"], {"amp": False}),
        (["--no-aug", "false"], {"no_aug": False}),
        (["--amp", "--lr", "1e-4"], {"amp": True, "lr": 1e-4}),
        (["--overwrite", "--pretrained", "--grad-checkpointing"], {"overwrite": True, "pretrained": True}),
        (["--val-split", "null", "--test-split", "null"], {"val_split": None, "test_split": None}),
        (["--train-split", "train[90%:][:200]", "--shots", "4"], {"train_split": "train[90%:][:200]", "shots": 4}),
        (["--val-split", "mixed(train)[:90%]+val"], {"val_split": "mixed(train)[:90%]+val"}),
        (["--test-split", "[:5]"], {"test_split": "[:5]"}),
        (["--no-aug", "false", "--scale", "[0.5, 1]"], {"no_aug": False, "scale": (0.5, 1.0)}),
        (["--no-aug", "false", "--scale", "0.5", "1"], {"no_aug": False, "scale": (0.5, 1.0)}),
        (["--value-range", "-1", "1", "--lr", "1"], {"value_range": (-1.0, 1.0), "lr": 1.0}),
        (["--model-kwargs", KWARGS], {"model_kwargs": SMALL}),
        (["--lr", "1e-3"], {"lr": 1e-3}),
        (["--lr", "1"], {"lr": 1.0}),
        (["--method.rank", "4"], {"method": {"rank": 4}}),
        (["--method.num-branches", "4"], {"method": {"num_branches": 4}}),
        (["--method.num_branches", "4"], {"method": {"num_branches": 4}}),  # as older scripts have it
        (["--method.share_blocks=4"], {"method": {"share_blocks": 4}}),
        (["--method.density", "0.5", "--method.pattern", "2:4"], {"method": {"density": 0.5, "pattern": "2:4"}}),
        (["--method.targets", "query", "mlp_in"], {"method": {"targets": ["query", "mlp_in"]}}),
        (["--method.name", "prompt", "--method.deep", "false"], {"method": {"name": "prompt", "deep": False}}),
        (["--no-aug", "false", "--aa", "rand-m9"], {"no_aug": False, "aa": "rand-m9"}),
        (["--method.name", "lora"], {"method": {"name": "lora"}}),
        (["--output", "a b/ü"], {"output": "a b/ü"}),
        (["--data", "007"], {"data": "007"}),  # a number-like name stays a name
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_flags_reach_the_configuration(parsed, arguments, values):
    config = parsed(*arguments)
    assert {name: as_dict(config)[name] if name == "method" else getattr(config, name) for name in values} == values
    default = TrainConfig(lr="auto")
    changed = {f.name for f in dataclasses.fields(config) if getattr(config, f.name) != getattr(default, f.name)}
    assert changed <= {*values, "grad_checkpointing"}


def test_flags_win_over_the_file_and_join_its_method(parsed, tmp_path):
    path = tmp_path / "my config.yaml"
    path.write_text("epochs: 7\nlr: 1.0e-2\nmethod: {rank: 4, density: 0.25}\n")
    for arguments in (["--config", path, "--lr", "0.5"], ["--lr", "0.5", f"--config={path}"]):  # wherever they stand
        config = parsed(*arguments, "--method.rank", "2")
        assert (config.epochs, config.lr, config.method.as_given()) == (7, 0.5, {"rank": 2, "density": 0.25})


def test_the_spellings_are_those_of_timms_train_script(parsed):
    spelled = "epochs batch-size lr weight-decay opt sched warmup-epochs img-size num-classes seed initial-checkpoint"
    values = {"opt": "sgd", "sched": "step", "initial-checkpoint": "x.pth", "drop-path": "0.2", "smoothing": "0.1"}
    arguments = []
    for name in [*spelled.split(), "drop-path", "smoothing", "clip-grad", "layer-decay", "min-lr", "warmup-lr"]:
        arguments += [f"--{name}", values.get(name, "1" if name != "warmup-epochs" else "0")]
    config = parsed(*arguments, "--amp")
    assert (config.drop_path, config.smoothing, config.initial_checkpoint, config.amp) == (0.2, 0.1, "x.pth", True)


# commands


def test_train_writes_a_run_and_says_where(call, base, pictures, tmp_path):
    output = tmp_path / "my runs" / "first one"
    code, out, err = call(*train_arguments(base, output, data=pictures))
    assert code == 0
    assert out == f"finished: {output}/result.json\n"
    lines = err.splitlines()
    assert lines[0].startswith(f"vit_tiny_capaboost_lora on {pictures}: 2 classes, train 20, val 2, test 2; ")
    assert lines[1] == "short cuts: the last block for the tokens alone that the head reads"
    assert lines[2].startswith("learning rate 0.005, the usual one here: a search takes ")
    assert lines[3].startswith("epoch 1  ")
    assert lines[4].startswith("temperature ")
    assert lines[5].startswith("test accuracy ")
    names = {"adapter.safetensors", "config.yaml", "learning_curve.png", "result.json", "summary.csv", "tensorboard"}
    assert {path.name for path in output.iterdir()} >= names


def test_the_stored_configuration_can_be_run_again_with_the_same_result(call, finished, tmp_path):
    output = tmp_path / "again"
    assert call("train", "--config", finished / "config.yaml", "--output", output)[0] == 0
    first, second = (load_file(folder / "adapter.safetensors") for folder in (finished, output))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    stored = [yaml.safe_load((folder / "config.yaml").read_text()) for folder in (finished, output)]
    assert {**stored[0], "output": ""} == {**stored[1], "output": ""}


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_the_configuration_in_a_run_folder_means_the_run_that_lies_there(
    call, refused, finished, tmp_path, monkeypatch, how
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, "runs/first")  # whose config.yaml names yet another place
    (shutil.move if how == "moved" else shutil.copytree)("runs/first", "elsewhere")
    path = Path("elsewhere", "config.yaml")
    assert call("train", "--config", path, "--resume")[:2] == (0, "finished already: elsewhere/result.json\n")
    # after the last epoch, before the result
    Path("elsewhere", "result.json").unlink()
    (Path("elsewhere") / ".lock").unlink(missing_ok=True)
    before = {file: file.stat().st_mtime_ns for file in Path("runs").rglob("*") if file.is_file()}
    code, out, err = call("train", "--resume", "--config", path)
    assert (code, out) == (0, "finished: elsewhere/result.json\n")
    assert "going on after update 3 of 3" in err
    assert yaml.safe_load(path.read_text())["output"] == "elsewhere"
    assert "elsewhere holds result.json of another run" in refused("train", "--config", path)
    assert {file: file.stat().st_mtime_ns for file in Path("runs").rglob("*") if file.is_file()} == before
    # a place that is typed is the place, and another file is none of a run
    assert call("train", "--output", "other", "--config", path)[1] == "finished: other/result.json\n"
    shutil.copy(path, "mine.yaml")
    assert "elsewhere holds result.json of another run" in refused("train", "--config", "mine.yaml")


def test_a_finished_run_needs_overwrite(call, refused, base, tmp_path):
    arguments = train_arguments(base, tmp_path / "run")
    assert call(*arguments)[0] == 0
    assert "add --resume to go on with it, choose another --output" in refused(*arguments)
    assert call(*arguments, "--overwrite")[0] == 0


def test_eval_says_what_the_result_says(call, finished):
    result = json.loads((finished / "result.json").read_text())
    for given in ([finished], [finished / "adapter.safetensors"], [finished, "--short-cuts", "false"]):
        code, out, err = call("eval", *given)
        right, total = result["test_right"], result["test_total"]
        assert (code, out, err) == (0, score_text(result["test"]) + "\n", "")
        assert out.startswith(f"accuracy {100 * right / total:.2f} % ({right} of {total})\n95 % Wilson interval ")


def test_merge_writes_a_plain_checkpoint(call, finished, tmp_path):
    path = tmp_path / "merged.safetensors"
    assert call("merge", finished, "--output", path) == (0, f"merged: {path}\n", "")
    timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=2, **SMALL).load_state_dict(load_file(path))


def test_merge_writes_a_folder_for_timm(call, refused, finished, tmp_path):
    path = tmp_path / "my model"
    assert call("merge", finished, "--output", path) == (0, f"merged: {path}\n", "")
    model = timm.create_model(f"local-dir:{path}", pretrained=True)
    assert (model.num_classes, model.pretrained_cfg["label_names"]) == (2, ["0", "1"])
    assert "exists: choose another --output" in refused("merge", finished, "--output", path)


def test_predict_prints_lines_that_fit_and_writes_the_same_numbers(call, finished, pictures, tmp_path):
    table = tmp_path / "ü" / "table.csv"
    named = [str(pictures / "wood" / "3.png"), str(pictures / "sea side" / "1.png")]
    code, out, err = call("predict", finished, *named, "--csv", table, "--top", 7, "--batch-size", 1)
    lines = out.splitlines()
    assert (code, err, lines[-1]) == (0, "", f"written: {table}")
    assert lines[0:6:3] == named
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [named[0]] * 2 + [named[1]] * 2
    shown = [line.split(" %  ") for line in lines[:-1] if line.startswith("  ")]
    assert [name for _, name in shown] == [row["class"] for row in rows]
    for (percent, _), row in zip(shown, rows, strict=True):
        assert float(percent) == pytest.approx(100 * float(row["probability"]), abs=0.005001)
    assert call("predict", finished, *named, "--top", 1, "--short-cuts", "false")[1].count("\n") == 4


def test_predict_shortens_long_names_and_shows_odd_ones(call, tmp_path):
    model = timm.create_model("test_vit", num_classes=3)
    names = {"label_names": ["a" * 65, "b" * 66, "c, d"]}
    timm.models.save_for_hf(model, str(tmp_path / "model"), names, safe_serialization=True)
    odd = tmp_path / os.fsdecode(b"caf\xe9.png")
    Image.new("RGB", (9, 9)).save(odd)
    code, out, err = call("predict", tmp_path / "model", odd, "--csv", tmp_path / "x.csv")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0] == f"{tmp_path}/caf\\xe9.png"
    assert {line.partition(" %  ")[2] for line in lines[1:4]} == {"a" * 65, "b" * 62 + "...", "c, d"}
    assert all(len(line) <= 80 for line in lines[1:4])
    assert b"/caf\xe9.png,1," in (tmp_path / "x.csv").read_bytes()


def test_predict_names_a_picture_that_it_cannot_read(refused, finished, tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    assert f"cannot read the image {tmp_path}/notes.txt: " in refused("predict", finished, tmp_path / "notes.txt")


def test_predict_skips_pictures_that_it_cannot_read_and_says_so(call, refused, finished, pictures, tmp_path):
    names = [f"{i}.png" for i in range(4)]
    for i, name in enumerate(names):
        (tmp_path / name).write_bytes(b"" if i == 2 else (pictures / "wood" / "3.png").read_bytes())
    table = tmp_path / "table.csv"

    def stored():
        return [line.split(",")[0] for line in table.read_text().splitlines()[1:]]

    for batch_size in (1, 3, 64):
        arguments = ["predict", finished, tmp_path, "--csv", table, "--batch-size", batch_size, "--top", 1]
        code, _, err = call(*arguments)
        assert code == 2
        assert err.endswith(f"capaboost predict: error: cannot read the image {tmp_path}/2.png: the file is empty\n")
        assert stored() == [f"{tmp_path}/0.png", f"{tmp_path}/1.png"]
        code, _, err = call(*arguments, "--bad-images", "skip")
        others = f"skipped: 1 of 5 files in {tmp_path}, which are no pictures\n"  # the table of the call before
        assert (code, err) == (0, f"{others}skipped: cannot read the image {tmp_path}/2.png: the file is empty\n")
        assert stored() == [f"{tmp_path}/0.png", f"{tmp_path}/1.png", f"{tmp_path}/3.png"]
    kept = table.read_text()
    code, _, err = call("predict", finished, tmp_path / "2.png", "--bad-images", "skip", "--csv", table)
    assert (code, "none of the 1 pictures can be read" in err) == (2, True)
    assert table.read_text() == kept


def test_names_that_would_steer_a_terminal_are_shown_with_escapes(call, refused, tmp_path):
    evil = "\x1b[2J\x1b[31mcat\ndog\x9b5m\u202egod"
    shown = r"\x1b[2J\x1b[31mcat\ndog\x9b5m\u202egod"
    model = timm.create_model("test_vit", num_classes=2)
    timm.models.save_for_hf(model, str(tmp_path / "m"), {"label_names": [evil, "b"]}, safe_serialization=True)
    picture = tmp_path / f"{evil}.png"
    Image.new("RGB", (9, 9)).save(picture)
    _, out, err = call("predict", tmp_path / "m", picture)
    assert f"{tmp_path}/{shown}.png" in out.splitlines()
    assert any(line.endswith(f"%  {shown}") for line in out.splitlines())
    for part in ("train", "test"):
        for name in (evil, "b"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            Image.new("RGB", (9, 9)).save(tmp_path / "data" / part / name / "1.png")
    out += call("data", "check", tmp_path / "data")[1]
    found = call("eval", tmp_path / "m", "--data", tmp_path / "data")[1]
    assert found.splitlines()[0].endswith(" of 2)")  # both names are the same
    picture.write_bytes(b"")
    err += refused("predict", tmp_path / "m", picture)
    (tmp_path / "data" / "test" / "b").rename(tmp_path / "data" / "test" / f"{evil}2")
    err += refused("data", "check", tmp_path / "data") + refused("models", evil) + refused("train", f"--{evil}")
    assert {c for c in out + err if not c.isprintable()} == {"\n"}
    assert shown in err


def test_data_check_reports_and_draws_a_contact_sheet(call, pictures, tmp_path):
    code, out, err = call("data", "check", pictures, "--sheet", tmp_path / "sheet.png")
    assert (code, err) == (0, "")
    assert "No problems found." in out
    assert "2 classes" in out
    assert out.endswith(f"\nContact sheet: {tmp_path}/sheet.png\n")
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.width > 300


def test_data_check_ends_with_1_for_problems(call, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(10):
            Image.new("RGB", (40, 40), (i, 0, 200 * (name == "b"))).save(tmp_path / name / f"{i}.png")
    (tmp_path / "a" / "3.png").write_text("no picture")
    code, out, err = call("data", "check", tmp_path)
    assert (code, err) == (1, "")
    assert "Problems: 1\n" in out
    assert "a/3.png" in out.replace("\n", "").replace(" ", "")


def test_data_check_hands_its_options_on(call, monkeypatch):
    seen = []

    def opened(spec, **options):
        seen.append((spec, options))
        raise ValueError("enough")

    monkeypatch.setattr("capaboost_vit.vision.data.spec.open_data", opened)
    options = ["--image-column", "img", "--label-column", "fine", "--data-dir", "d", "--data-download"]
    assert call("data", "check", "owner/name", *options)[0] == 2
    expected = {"image_column": "img", "label_column": "fine", "task": None, "root": "d", "download": True}
    assert seen == [("owner/name", expected)]


def test_data_check_counts_on_a_terminal(call, monkeypatch, pictures):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    code, _, err = call("data", "check", pictures)
    assert code == 0
    assert err.startswith("\r1 of 24 images")
    assert err.endswith("\r24 of 24 images\r\x1b[K")


# texts


def text_arguments(material, output, *more, kind="opinions"):
    """What follows `capaboost` for one of the kinds of runs in `texts`."""
    given = {"model": "bert", "max_length": 40, "stride": 4, "epochs": 1, "batch_size": 16, "dropout": 0.0, "lr": 1e-2}
    given |= {name: value for name, value in texts.KINDS[kind].items() if name != "method"}
    given |= {name: material / given[name] for name in ("model", "data")}
    flags = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", value)]
    method = [] if "--method.name" in more else ["--method.name", "lora"]
    return ["train-text", *flags, *method, "--output", output, *more]


def test_train_text_writes_a_run_and_says_where(call, text_material, tmp_path):
    output = tmp_path / "my runs" / "first one"
    arguments = text_arguments(text_material, output)
    code, out, err = call(*arguments)
    assert (code, out) == (0, f"finished: {output}/result.json\n")
    lines = err.splitlines()
    assert lines[0].startswith(
        f"{text_material}/bert on classification ({text_material}/opinions): 2 classes, train 40"
    )
    assert [line.split()[0] for line in lines[1:]] == ["short", "epoch", "temperature", "test"]
    assert call(*arguments, "--resume") == (0, f"finished already: {output}/result.json\n", "")
    found = json.loads((output / "result.json").read_text())
    code, out, err = call("eval", output)
    assert (code, err) == (0, "")
    assert out == score_text(found["test"]) + "\n"
    files = [tmp_path / name for name in ("a.json", "a.csv")]
    assert call("eval", output, "--output", *files)[1].splitlines()[-2:] == [f"written: {file}" for file in files]
    assert json.loads(files[0].read_text())["per_class"] == found["test"]["per_class"]
    assert files[1].read_text().startswith("example,text,label,prediction,p(bad),p(good)\ntest.jsonl:1,")
    merged = tmp_path / "merged"
    assert call("merge", output, "--output", merged) == (0, f"merged: {merged}\n", "")
    code, out, err = call("report", tmp_path / "my runs", "--output", tmp_path / "table.md")
    scores = f"{found['test_accuracy']:.2f}/{found['test_macro_f1']:.2f}"
    assert (code, err) == (0, "")
    *table, written = out.splitlines()
    assert table[-1] == f"| capaboost-lora r8 d2 | 834 | {scores} |"
    assert written == f"written: {tmp_path}/table.md"
    assert (tmp_path / "table.md").read_text().splitlines() == table


def test_the_stored_configuration_of_texts_can_be_run_again(call, text_material, tmp_path):
    columns = ["--text-columns", "sentence2", "sentence1", "--label-column", "label"]
    assert call(*text_arguments(text_material, tmp_path / "a", *columns, kind="pairs"))[0] == 0
    assert call("train-text", "--config", tmp_path / "a" / "config.yaml", "--output", tmp_path / "b")[0] == 0
    first, second = (tmp_path / name / "adapter.safetensors" for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert call("eval", tmp_path / "b")[0] == 0


@pytest.mark.parametrize(
    ("kind", "arguments", "text"),
    [
        ("pairs", ["--task", "rtee"], "there is no task 'rtee' (did you mean 'rte'?); the tasks: cola, sst2"),
        ("pairs", ["--task", "chemprot", "--data", "hub"], "task chemprot has no data set on the hub that we know of"),
        (
            "pairs",
            ["--data", "not there"],
            "no data at 'not there': give a folder, or a file (.tsv, .csv, .jsonl, .json)",
        ),
        ("pairs", ["--task", "qnli", "--protocol", "own"], "has no column 'question'; it has: index, sentence1"),
        ("opinions", ["--text-columns", "txt"], "has no column 'txt' (did you mean 'text'?); it has: text, label"),
        ("opinions", ["--text-columns", "a", "b", "c"], "has no column 'a'; it has: text, label"),
        ("opinions", ["--label-column", "lable"], "has no column 'lable' (did you mean 'label'?)"),
        ("pairs", ["--max-length", "100"], "--max-length 100: the model takes 48 tokens at most"),
        ("questions", ["--max-length", "100"], "--max-length 100: the model takes 48 tokens at most"),
        ("questions", ["--stride", "39"], "leaves"),
        ("pairs", ["--method.name", "lroa"], "unknown method 'lroa' (did you mean 'lora'?)"),
        ("pairs", ["--method.rnak", "4"], "--method.rnak 4 (did you mean --method.rank?)"),
        ("pairs", ["--method.bottleneck", "4"], "method 'lora' has no option 'bottleneck'"),
        ("pairs", ["--model", "no such/place/at all"], "cannot load the tokenizer of no such/place/at all: "),
        ("pairs", ["--model", "nobody/nothing"], "; give a folder with config.json, model.safetensors"),
        ("pairs", ["--tokenizer", "{}/roberta"], "knows 114 of them: name the model's own with --tokenizer"),
        (
            "pairs",
            ["--protocol", "own", "--data", "{}/alone", "--patience", "2"],
            "no split 'val', which --patience and",
        ),
        (
            "opinions",
            ["--metrics", "macrof1"],
            "--metrics macrof1 (did you mean 'macro_f1'?): choose from acc",
        ),
        ("three", ["--metrics", "f1"], "f1 is that of class 1 of two, and there are 3 classes: say --metrics macro_f1"),
        ("questions", ["--metrics", "f1"], "--metrics f1: squad has its own, leave it out"),
        ("scores", ["--smoothing", "0.1"], "--smoothing is for classes, and stsb has none"),
        ("questions", ["--protocol", "dev"], "--protocol is not for questions, whose files have one form"),
        ("questions", ["--text-columns", "context"], "--text-columns is not for questions"),
        ("pairs", ["--protocol", "thousand"], "takes 1,000 examples of a set, and one has only 40"),
        ("pairs", ["--task", "squad"], "must hold one train*.json, found none: give a SQuAD .json file"),
        ("pairs", ["--task", "squad", "--data", "{}/RTE/train.tsv"], "train.tsv is not JSON: "),
        ("pairs", ["--task", "regression", "--data", "{}/opinions"], "expected a number in 'label', got 'bad'"),
        (
            "masked",
            ["--method.name", "adapter"],
            "--task mlm leaves a plain model, which --method.name adapter does not",
        ),
        ("masked", ["--method.name", "full", "--dapt-data", "x"], "are stages before another task than mlm"),
        ("pairs", ["--dapt-data", "not there"], "no data at 'not there'"),
        ("pairs", ["--epoch", "3"], "--epoch 3 (did you mean --epochs?); see capaboost train-text --help"),
        ("pairs", ["--img-size", "32"], "unrecognized arguments: --img-size"),
        ("pairs", ["--device", "gpu"], "--device gpu: "),
        ("pairs", ["--config", "gone.yaml"], "--config gone.yaml: No such file or directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_about_texts_is_one_line_and_nothing_is_written(
    refused, text_material, tmp_path, monkeypatch, kind, arguments, text
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # or it tries the hub again and again
    alone = text_material / "alone"
    if not alone.exists():
        alone.mkdir()
        (alone / "train.tsv").write_bytes((text_material / "RTE" / "train.tsv").read_bytes())
    given = [argument.format(text_material) for argument in arguments]
    line = refused(*text_arguments(text_material, tmp_path / "run", *given, kind=kind))
    assert line.startswith("capaboost train-text: error: ")
    assert text in line
    assert not list(tmp_path.iterdir())


def test_no_method_is_a_mistake_about_texts_too(refused, text_material, tmp_path):
    arguments = text_arguments(text_material, tmp_path / "run")
    place = arguments.index("--method.name")
    assert "say --method.name lora (lora, adapter, prefix, " in refused(*arguments[:place], *arguments[place + 2 :])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("sentence1\tsentence2\tlabel\na\t \tentailment\n", "train.tsv, line 2: the text in 'sentence2' is empty"),
        ("sentence1\tsentence2\tlabel\na\tb\tentails\n", "line 2 has the label 'entails' in 'label'"),
        ("sentence1\tsentence2\tlabel\na\tb\t2\n", "has the label 2 in 'label'; the classes are: entailment"),
        ("sentence1\tsentence2\tlabel\na\tb\n", "line 2 has 2 columns, expected 3: sentence1, sentence2, label"),
        ("sentence1\tsentence2\na\tb\n", "has no column 'label'; it has: sentence1, sentence2"),
        ("sentence1\tsentence2\tlabel\n", "train.tsv has no rows"),
        ("", "train.tsv is empty"),
        (
            "sentence1\tsentence2\tlabel\na\tb\tentailment\nc\td\t0\n",
            "all examples of train have the label 'entailment', so there is nothing to learn",
        ),
    ],
)
def test_a_mistake_in_a_file_of_texts_is_one_line_with_its_place(refused, text_material, tmp_path, content, text):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.tsv").write_text(content)
    (tmp_path / "data" / "dev.tsv").write_bytes((text_material / "RTE" / "dev.tsv").read_bytes())
    line = refused(*text_arguments(text_material, tmp_path / "run", "--data", tmp_path / "data", kind="pairs"))
    assert text in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("damage", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("how", ["gone", "cut"])
def test_a_model_folder_that_lacks_something_is_named_in_one_line(refused, text_material, tmp_path, damage, how):
    folder = tmp_path / "model"
    shutil.copytree(text_material / "bert", folder)
    content = (folder / damage).read_bytes()
    (folder / damage).unlink()
    if how == "cut":
        (folder / damage).write_bytes(content[: len(content) // 2])
    line = refused(*text_arguments(text_material, tmp_path / "run", "--model", folder))
    assert str(folder) in line
    assert "the folder needs" in line
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_done_with_a_run_on_texts_is_one_line(refused, finished_text, text_material, tmp_path):
    gated, _ = finished_text("opinions", method=texts.UNIPELT, epochs=1)
    assert "cannot merge 'bert.encoder': a prompt is no change of a weight, and likewise at" in refused(
        "merge", gated, "--output", tmp_path / "m"
    )
    folder, _ = finished_text("opinions")
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((folder / "adapter.safetensors").read_bytes())
    assert "is not in a run folder: say --data" in refused(
        "eval", alone, "--initial-checkpoint", text_material / "bert"
    )
    line = refused("eval", alone, "--data", text_material / "opinions")
    assert "was made on a local BertForSequenceClassification" in line
    (tmp_path / "x.png").touch()
    assert "x.png is none of .tsv, .csv, .jsonl, .json, .txt" in refused("predict", folder, tmp_path / "x.png")
    assert "takes one file or folder, got a, b" in refused("predict", folder, "a", "b")
    assert 'a run on texts takes --text "...", or a file (.txt' in refused("predict", folder)
    assert "give either a file or --text, got a, --text" in refused("predict", folder, "a", "--text", "b")
    assert "--text-pair goes with --text, which is missing" in refused("predict", folder, "a", "--text-pair", "b")
    assert "of the task classification, which answers no --question" in refused("predict", folder, "--question", "a")
    (tmp_path / "x.png").unlink()
    other = texts.write_encoder(tmp_path / "other", initializer_range=0.2)
    line = refused("eval", alone, "--data", text_material / "opinions", "--initial-checkpoint", other)
    assert "fingerprints differ" in line
    assert "a model on texts becomes a folder" in refused("merge", folder, "--output", tmp_path / "m.safetensors")
    line = refused("merge", folder, "--format", "integers", "--output", tmp_path / "m")
    assert "--format integers is for pictures, and " in line
    assert {path.name for path in tmp_path.iterdir()} == {"alone.safetensors", "other"}


def test_summary_counts_what_a_model_on_texts_trains(call, refused, finished_text, text_material):
    run, found = finished_text("opinions")
    code, out, _ = call("summary", run)
    trained = found["parameters"]["trained"]
    assert (code, f"trained {trained:,} of {found['parameters']['total']:,} parameters" in out) == (0, True)
    assert {line.split()[0] for line in out.splitlines()} >= {"query", "value", "classifier"}
    arguments = ["summary", text_material / "bert", "--method.name", "lora", "--num-classes", "2"]
    assert f"trained {trained:,} of" in call(*arguments)[1]
    assert "a model on texts has no --img-size" in refused(*arguments, "--img-size", "32")
    assert "say --method.name lora" in refused("summary", text_material / "bert", "--method.rank", "4")


def test_what_is_typed_is_answered(call, refused, finished, finished_text, tmp_path):
    run, _ = finished_text("opinions")
    code, out, _ = call("predict", run, "--text", "the cat is good", "the dog is bad", "--csv", tmp_path / "a.csv")
    assert (code, [line.strip() for line in out.splitlines()][::3][:2]) == (0, ["the cat is good", "the dog is bad"])
    assert out.count(" %  good") == out.count(" %  bad") == 2
    assert (tmp_path / "a.csv").read_text().count("\n") == 5
    asked = ["--question", "where is the cat ?", "--context", "the cat is in the park"]
    code, out, _ = call("predict", finished_text("questions")[0], *asked, "--csv", tmp_path / "a.json")
    question, answer, written = out.splitlines()
    assert (code, question, written) == (0, "where is the cat ?", f"written: {tmp_path / 'a.json'}")
    assert json.loads((tmp_path / "a.json").read_text()) == {"1": answer.strip()}
    assert "--text is for texts, and" in refused("predict", finished, "--text", "a")
    assert "name pictures, or folders with pictures" in refused("predict", finished)


def test_a_folder_of_texts_is_walked_once_and_each_of_its_files_is_predicted(
    call, finished_text, monkeypatch, tmp_path
):
    (tmp_path / "notes" / "deep").mkdir(parents=True)
    (tmp_path / "notes" / "a.txt").write_text("the cat is good")
    (tmp_path / "notes" / "deep" / "b.txt").write_text("the dog is bad")
    walked, visible = [], class_folders._visible
    monkeypatch.setattr(class_folders, "_visible", lambda folder: walked.append(folder.name) or visible(folder))
    code, out, _ = call("predict", finished_text("opinions")[0], tmp_path / "notes")
    assert (code, walked) == (0, ["notes", "deep"])
    assert out.startswith("a.txt:  the cat is good\n")
    assert "\ndeep/b.txt:  the dog is bad\n" in out


def test_texts_without_labels_are_said_to_be_none_and_are_predicted(call, refused, text_material, tmp_path):
    data, run = tmp_path / "RTE", tmp_path / "run"
    shutil.copytree(text_material / "RTE", data)
    (data / "test.tsv").write_text("index\tsentence1\tsentence2\n0\tthe cat\tvery good\n1\tthe dog\tbad\n")
    arguments = text_arguments(text_material, run, "--data", data, "--protocol", "own", kind="pairs")
    code, _, err = call(*arguments)
    assert (code, "test has no labels and is not used; `capaboost predict RUN DATA --csv FILE` wr" in err) == (0, True)
    assert "the split 'test' has no labels; `capaboost predict RUN DATA --csv" in refused("eval", run)
    code, out, _ = call("predict", run, data)
    assert (code, [line.split("\t")[0] for line in out.splitlines()]) == (0, ["index", "0", "1"])
    assert call("predict", run, data, "--csv", tmp_path / "out")[:2] == (
        0,
        f"written: {tmp_path / 'out' / 'RTE.tsv'}\n",
    )
    assert (tmp_path / "out" / "RTE.tsv").read_text() == out
    assert call("merge", run, "--output", tmp_path / "merged")[0] == 0
    for command in (["eval"], ["predict", "x.png"]):
        assert "holds a model of transformers, not of timm" in refused(command[0], tmp_path / "merged", *command[1:])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["report"], "required: folders; see capaboost report --help"),
        (["report", "gone"], "no folder at gone"),
        (["report", "empty"], "no finished run (result.json) in empty"),
        (["report", "untested"], "no run in untested has a test score"),
        (["report", "empty", "--outptu", "x.md"], "(did you mean --output?); see capaboost report --help"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_report_of_nothing_is_one_line(refused, finished_text, tmp_path, monkeypatch, arguments, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "untested").mkdir()
    (tmp_path / "untested" / "result.json").write_bytes((finished_text("masked")[0] / "result.json").read_bytes())
    assert text in refused(*arguments)


@pytest.fixture
def parsed_texts(monkeypatch):
    """The configuration that `capaboost train-text` would run."""

    def parse(*arguments):
        seen = []
        monkeypatch.setattr("capaboost_vit.run.train", seen.append)
        assert main(["train-text", *map(str, arguments)]) == 0
        return seen[0]

    return parse


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        ([], {}),
        (["--text-columns", "a"], {"text_columns": ("a",)}),
        (["--text-columns", "a", "b"], {"text_columns": ("a", "b")}),
        (["--protocol", "halves"], {"protocol": "halves"}),
        (["--protocol", "null"], {"protocol": None}),
        (["--warmup-steps", "100"], {"warmup_steps": 100.0}),
        (["--warmup-steps", "null"], {"warmup_steps": None}),
        (["--group-by-length", "false"], {"group_by_length": False}),
        (["--pretrained", "false"], {"pretrained": False}),
        (["--dropout", "0"], {"dropout": 0.0}),
        (
            ["--method.name", "unipelt", "--method.parts", "ia3", "prefix"],
            {"method": {"name": "unipelt", "parts": ["ia3", "prefix"]}},
        ),
        (["--method.name", "unipelt", "--method.copies", "2"], {"method": {"name": "unipelt", "copies": 2}}),
        (["--dapt-data", "d", "--tapt-epochs", "3"], {"dapt_data": "d", "tapt_epochs": 3}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_flags_reach_the_configuration_of_texts(parsed_texts, arguments, values):
    assert parsed_texts(*arguments) == TextConfig(**values)


def test_a_file_of_texts_may_name_one_column_or_a_list(parsed_texts, tmp_path):
    for content, columns in (("[a, b]", ("a", "b")), ("[a]", ("a",)), ("null", None)):
        (tmp_path / "c.yaml").write_text(f"text_columns: {content}\nmethod: {{name: unipelt, parts: [lora, prompt]}}\n")
        config = parsed_texts("--config", tmp_path / "c.yaml")
        assert config.text_columns == columns
        assert config.method.as_given() == {"name": "unipelt", "parts": ["lora", "prompt"]}


def test_merging_an_adapter_is_refused_in_one_line(call, refused, base, tmp_path):
    assert call(*train_arguments(base, tmp_path / "run", method="adapter"))[0] == 0
    line = refused("merge", tmp_path / "run", "--output", tmp_path / "merged.safetensors")
    assert "an adapter is no change of a weight" in line


def test_models_lists_registered_names_only(call):
    code, out, err = call("models")
    names = out.splitlines()
    assert (code, err) == (0, "")
    assert len(names) > 100
    assert all("_capaboost_" in name and timm.is_model(name) for name in names)
    filtered = call("models", "vit_*lora")[1].splitlines()
    assert filtered == [name for name in names if name.startswith("vit_") and name.endswith("lora")]
    tagged = call("models", "vit_tiny*lora*", "--pretrained")[1].splitlines()
    assert tagged
    assert all("." in name for name in tagged)


def test_summary_reads_what_a_run_has_left(call, refused, finished, text_material, tmp_path):
    result = json.loads((finished / "result.json").read_text())
    for given in (finished, finished / "adapter.safetensors"):
        code, out, err = call("summary", given)
        assert (code, err) == (0, "")
        assert f"trained {result['parameters']['trained']:,} of {result['parameters']['total']:,} parameters" in out
    assert call("merge", finished, "--output", tmp_path / "merged")[0] == 0
    assert (
        f" of {result['parameters']['total'] - result['parameters']['branches']:,} param"
        in call("summary", tmp_path / "merged")[1]
    )
    assert "leave the other options out" in refused("summary", finished, "--method.rank", 2)
    assert "no adapter file at" in refused("summary", tmp_path)


def test_summary_counts_what_is_trained(call):
    arguments = ["summary", "test_vit_capaboost_lora", "--num-classes", "4", "--img-size", "32"]
    code, out, err = call(*arguments, "--method.rank", "2", "--method.num-branches", "3")
    assert (code, err) == (0, "")
    width, depth = 64, 6
    # q and v of rank 2, three branches that share them, two of which have coefficients
    lora = depth * 2 * (2 * (width + width) + 2 * 2)
    assert f"trained {lora + 4 * width + 4:,} of " in out
    assert "forward GMACs per image" in out
    code, out, _ = call("summary", "test_vit", "--method.name", "head")
    assert code == 0
    assert "trained" in out


# strange surroundings


COMMANDS_IN_TURN = """
import sys
from capaboost_vit.cli import main
from capaboost_vit.cli.train import train_parser
while sys.argv[1:]:
    end = sys.argv.index("then")
    assert main(sys.argv[1:end]) == 0
    del sys.argv[1 : end + 1]
    print("done", file=sys.stderr)
"""


@pytest.mark.slow
def test_a_run_works_in_a_bare_environment(base, pictures, tmp_path):
    """No terminal, an ASCII locale, a home that cannot be written, spaces and umlauts in every path."""
    (tmp_path / "file").write_text("")
    home = tmp_path / "file" / "home"  # nobody can write there, not even root
    output = tmp_path / "a b" / "lauf ü"
    surroundings = {**os.environ, "HOME": str(home), "LANG": "C", "LC_ALL": "C", "TERM": "dumb"}
    commands = [train_arguments(base, output, data=pictures), ["eval", str(output)]]
    commands += [["summary", "test_vit_capaboost_lora"], ["models"]]
    arguments = [word for command in commands for word in (*command, "then")]
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS_IN_TURN, *arguments],
        env=surroundings,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=240,
    )
    text = done.stderr.decode("utf-8")
    assert done.returncode == 0, text
    assert "\x1b" not in text
    assert "epoch 1  " in text
    assert (output / "result.json").exists()
    assert "Traceback" not in text
    assert text.partition("done\n")[2] == "done\n" * 3  # only the training says something


def test_a_run_in_a_process_of_its_own_is_the_run_in_this_one(ready, finished, base, tmp_path):
    ready.run(["capaboost", *train_arguments(base, tmp_path / "run")], check=True)
    first, second = (load_file(folder / "adapter.safetensors") for folder in (finished, tmp_path / "run"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_help_of_a_method_s_option_has_the_words_of_each_method_that_has_it():
    text = " ".join(train_parser(TrainConfig).format_help().split())
    targets = text[text.rindex("--method.targets TARGETS") :].partition("--method.freeze-down")[0]
    for words in (
        "lora, mlae: roles or name patterns of linear layers or 2d convolutions",
        "hira, adalora, lorta, fact, aurora, rasa, deep_lora, snell, dora, vera, ether, etherplus, neat, hra, boft,",
        "adapter, pha: roles or name patterns of sub-layers",
    ):
        assert words in targets
    assert "prompt, dyt: role or name pattern of the blocks" in targets
    assert "--method.skipped SKIPPED [SKIPPED ...] das: the blocks that are skipped, from 0" in text


def test_the_help_of_a_method_s_option_has_the_default_of_each_method_that_has_it():
    text = " ".join(train_parser(TrainConfig).format_help().split())
    assert "rank of one branch (default: 8; neat: 7; intlora: 4)" in text
    assert (
        "prefix, e2vpt: use one learned tensor as both keys and values (default: false; e2vpt: true) (type: bool)"
        in text
    )
    assert "(default: query value; mlae: query key value)" in text
    assert "width of the adapter; null: train the biases themselves (default: 8) (type: int or null)" in text


def test_the_types_of_the_help_are_in_words(call):
    text = " ".join(call("train", "--help")[1].split())
    for words in ("type: float or auto, default: auto", "type: int or null", "type: str or dict or null"):
        assert words in text
    assert "Literal" not in text
    assert "Union" not in text
    assert "--sched {cosine,poly,step,tanh,multistep,constant,wsd,rsqrt,none}" in text


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize(("name", "option"), [("hiwi", "bottleneck"), ("unipelt", "prefix_bottleneck")])
def test_null_is_a_value_of_a_method_s_option_whose_default_is_another(tmp_path, name, option, in_file):
    words = ["--method.name", name, f"--method.{option.replace('_', '-')}", "null"]
    if in_file:
        (tmp_path / "method.yaml").write_text(f"method: {{name: {name}, {option}: null}}\n")
        words = ["--config", str(tmp_path / "method.yaml")]
    options = method_options(train_parser(TrainConfig).parse_args(words))
    assert options == {"name": name, option: None}
    assert getattr(TrainConfig(method=options).method, option) is None
