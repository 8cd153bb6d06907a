"""The scripts install once, under a lock, wherever they lie and wherever they are called from."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from capaboost_vit.study.suites import vtab1k

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = [*sorted((ROOT / "scripts").glob("*.sh")), ROOT / ".ci" / "run"]

# Stands in for python: runs the lock's one-liner with the real one, and notes what else it is asked to do.
STUB = """#!/usr/bin/env bash
case "$1 $2" in
"-m venv")
    mkdir -p "${!#}/bin" "${!#}/lib/python3.99/site-packages"
    for name in python pip capaboost torchrun ruff mypy hf; do cp "$STUB_SELF" "${!#}/bin/$name"; done
    echo "venv by $(basename "$0")" >>"$STUB_LOG" ;;
"-m pip")
    echo "pip starts: ${*: -1}" >>"$STUB_LOG"
    sleep "${STUB_SLEEP:-0}"
    if [ -n "${STUB_FAIL:-}" ]; then exit 1; fi
    echo "pip ends" >>"$STUB_LOG" ;;
"-c "*) exec "$STUB_REAL" "$@" ;;
*)
    echo "$(basename "$0") $* in $PWD" >>"$STUB_LOG"
    exit "${STUB_CODE:-0}" ;;
esac
"""


# Stand in for the tools of a cluster: note what they are asked; srun writes what the run would, scontrol knows hosts.
CLUSTER = {
    "nvidia-smi": """#!/usr/bin/env bash
[ -n "${STUB_GPUS:-}" ] || { echo "no devices were found" >&2; exit 9; }
for i in $(seq "$STUB_GPUS"); do
    printf 'GPU %s: NVIDIA (UUID: GPU-%s)\\n  MIG 1g.18gb Device 0: (UUID: MIG-%s)\\n' $i $i $i
done
""",
    "srun": """#!/usr/bin/env bash
echo "srun $* with $SRUN_CPUS_PER_TASK cpus" >>"$STUB_LOG"
mkdir -p "$OUTPUT"
[ -z "${STUB_STATUS:-}" ] || echo "{\\"status\\": \\"$STUB_STATUS\\", \\"pid\\": $$}" >"$OUTPUT/status.json"
exit "${STUB_EXIT:-0}"
""",
    "scontrol": """#!/usr/bin/env bash
echo "scontrol $*" >>"$STUB_LOG"
[ "$1" != show ] || printf 'node7\\nnode8\\nnode9\\n'
""",
}


class Copy:
    """A copy of the project's scripts, with a stub for python first on the path; nothing is really installed."""

    def __init__(self, folder: Path, tools: Path) -> None:
        self.root, self.log = folder, tools / "log"
        shutil.copytree(ROOT / "scripts", folder / "scripts")
        shutil.copytree(ROOT / ".ci", folder / ".ci")
        for name in ("nlu", "study", "suites"):
            shutil.copytree(ROOT / "configs" / name, folder / "configs" / name)
        for name in ("setup.cfg", "pyproject.toml"):
            shutil.copy(ROOT / name, folder)
        tools.mkdir()
        for name in ("python3", "python3.99"):
            (tools / name).write_text(STUB)
            (tools / name).chmod(0o755)
        for name, text in CLUSTER.items():
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        own = (
            "PYTHON",
            "CAPABOOST_REQUIREMENTS",
            "GPUS",
            "CUDA_VISIBLE_DEVICES",
            "NNODES",
            "NODE_RANK",
            "MASTER_ADDR",
            "OUTPUT",
        )
        own += ("MODEL", "METHOD", "TASKS", "SEEDS", "DATA", "SETS", "WEIGHTS", "WORKERS", "RUN_WITH")
        self.environment = {
            **{name: value for name, value in os.environ.items() if name not in own and "SLURM" not in name},
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "XDG_CACHE_HOME": str(tools / "cache"),
            "STUB_LOG": str(self.log),
            "STUB_SELF": str(tools / "python3"),
            "STUB_REAL": sys.executable,
        }

    def start(self, script="scripts/quickstart.sh", *arguments, cwd="/", **environment):
        return subprocess.Popen(
            ["bash", str(self.root / script), *arguments],
            cwd=cwd,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments, **options):
        process = self.start(*arguments, **options)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def lines(self, start=""):
        return [line for line in self.log.read_text().splitlines() if line.startswith(start)]


@pytest.fixture
def project(tmp_path):
    return Copy(tmp_path / "my project", tmp_path / "tools")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_can_read_it(script):
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_ci_runs_the_test_script_with_the_slow_tests(project):
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    code, output = project.run(".ci/run")
    assert code == 0, output
    assert project.lines("pip starts") == [f"pip starts: {project.root}[dev]", "pip starts: capaboost_vit"]
    assert f"python -m pytest -n 2 --dist worksteal -m slow or not slow in {project.root}" in project.lines()


def test_clones_in_ci_share_what_is_required_and_see_themselves(project, tmp_path):
    shutil.copytree(project.root, tmp_path / "another clone")
    assert project.run(".ci/run")[0] == 0
    project.root, first = tmp_path / "another clone", project.root
    assert [project.run(".ci/run")[0] for _ in range(2)] == [0, 0]
    assert project.lines("pip starts") == [f"pip starts: {first}[dev]", "pip starts: capaboost_vit"]
    for clone in (first, project.root):
        shared = (clone / ".venv" / "shared").resolve()
        assert shared.is_relative_to(tmp_path / "tools" / "cache" / "capaboost_vit" / "requirements")
        seen = clone / ".venv" / "lib" / "python3.99" / "site-packages" / "capaboost_vit.pth"
        others = f"import site; site.addsitedir('{shared}/lib/python3.99/site-packages')"
        assert seen.read_text().splitlines() == [str(clone), others]
        program = (clone / ".venv" / "bin" / "torchrun").read_text().splitlines()[1]
        assert shlex.split(program) == ["exec", f"{clone}/.venv/bin/python", f"{shared}/bin/torchrun", "$@"]
    assert f"python -m pytest -n 2 --dist worksteal -m slow or not slow in {project.root}" in project.lines()
    (shared / "complete").unlink()
    assert project.run(".ci/run")[0] == 0
    assert len(project.lines("pip starts")) == 4
    setup = project.root / "setup.cfg"
    setup.write_text(setup.read_text() + "\n# nothing that is required\n")
    assert project.run(".ci/run")[0] == 0
    assert len(project.lines("pip starts")) == 4
    setup.write_text(setup.read_text().replace("install_requires =", "install_requires =\n    another", 1))
    assert project.run(".ci/run")[0] == 0
    assert len(project.lines("pip starts")) == 6


def test_requirements_that_are_half_installed_are_not_used(project):
    assert project.run(".ci/run", STUB_FAIL="1")[0] != 0
    assert project.run(".ci/run")[0] == 0
    assert len(project.lines("pip starts")) == 3
    assert any("python -m pytest" in line for line in project.lines())


def test_the_test_script_checks_before_it_tests_and_passes_its_options_on(project):
    code, output = project.run("scripts/test.sh", "-k", "two words")
    assert code == 0, output
    where = f"in {project.root}"
    assert project.lines()[-4:] == [
        f"ruff check . {where}",
        f"ruff format --check . {where}",
        f"mypy  {where}",
        f"python -m pytest -n 2 --dist worksteal -k two words {where}",
    ]


def test_the_quickstart_installs_without_extras_and_passes_its_options_on(project):
    code, output = project.run("scripts/quickstart.sh", "--seed", "3")
    assert code == 0, output
    assert project.lines() == [
        "venv by python3",
        f"pip starts: {project.root}",
        "pip ends",
        f"capaboost quickstart --seed 3 in {project.root}",
    ]


def test_a_second_call_does_not_install_again(project):
    assert [project.run()[0] for _ in range(3)] == [0, 0, 0]
    assert len(project.lines("venv")) == len(project.lines("pip starts")) == 1
    assert len(project.lines("capaboost")) == 3


@pytest.mark.parametrize("name", ["setup.cfg", "pyproject.toml"])
def test_other_requirements_are_installed(project, name):
    project.run()
    with open(project.root / name, "a") as file:
        file.write("\n# changed\n")
    assert project.run()[0] == 0
    assert len(project.lines("pip starts")) == 2
    assert len(project.lines("venv")) == 1


def test_each_set_of_extras_is_installed_once(project):
    for script in ("scripts/quickstart.sh", "scripts/test.sh") * 2:
        assert project.run(script)[0] == 0
    assert project.lines("pip starts") == [f"pip starts: {project.root}", f"pip starts: {project.root}[dev]"]


@pytest.mark.parametrize("scripts", [("quickstart", "quickstart"), ("quickstart", "test"), ("test",) * 4], ids=str)
def test_scripts_at_the_same_time_install_one_after_the_other_and_once(project, scripts):
    calls = [project.start(f"scripts/{name}.sh", STUB_SLEEP="0.4") for name in scripts]
    outputs = [call.communicate(timeout=60)[0] for call in calls]
    assert [call.returncode for call in calls] == [0] * len(calls), outputs
    assert len(project.lines("venv")) == 1
    assert len(project.lines("pip starts")) == len(set(scripts))
    kinds = [line.split(":")[0] for line in project.lines("pip")]
    assert kinds == ["pip starts", "pip ends"] * len(set(scripts))


def test_a_failed_installation_is_tried_again(project):
    assert project.run(STUB_FAIL="1")[0] != 0
    assert not project.lines("capaboost")
    assert project.run()[0] == 0
    assert len(project.lines("pip starts")) == 2
    assert len(project.lines("capaboost")) == 1


def test_an_environment_that_was_left_half_made_is_finished(project):
    (project.root / ".venv" / "bin").mkdir(parents=True)  # as `python -m venv` does where ensurepip is missing
    shutil.copy(project.environment["STUB_SELF"], project.root / ".venv" / "bin" / "python")
    code, output = project.run()
    assert code == 0, output
    assert len(project.lines("venv")) == 1


def test_python_names_the_interpreter_of_a_new_environment(project):
    assert project.run(PYTHON="python3.99")[0] == 0
    assert project.lines("venv") == ["venv by python3.99"]


def test_an_interpreter_that_is_not_there_is_named(project):
    code, output = project.run(PYTHON="python3.98")
    assert code != 0
    assert "python3.98" in output
    assert not (project.root / ".venv").exists()


def test_it_works_from_any_directory_and_through_a_relative_path(project, tmp_path):
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    done = subprocess.run(
        ["bash", "../my project/scripts/quickstart.sh"],
        cwd=elsewhere,
        env=project.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert project.lines()[-1] == f"capaboost quickstart in {project.root}"
    assert not list(elsewhere.iterdir())


# training on GPUs

TRAIN = "-m capaboost_vit.cli train --data my pictures --resume"  # the log joins words by blanks


@pytest.mark.parametrize(
    ("surroundings", "command"),
    [
        ({}, "capaboost train --data my pictures --resume"),
        ({"STUB_GPUS": "1"}, "capaboost train --data my pictures --resume"),
        ({"STUB_GPUS": "4"}, f"torchrun --standalone --nproc-per-node 4 {TRAIN}"),
        ({"STUB_GPUS": "4", "GPUS": "2"}, f"torchrun --standalone --nproc-per-node 2 {TRAIN}"),
        ({"STUB_GPUS": "4", "GPUS": "1"}, "capaboost train --data my pictures --resume"),
        ({"STUB_GPUS": "4", "CUDA_VISIBLE_DEVICES": "5,6,7"}, f"torchrun --standalone --nproc-per-node 3 {TRAIN}"),
        ({"STUB_GPUS": "4", "CUDA_VISIBLE_DEVICES": ""}, "capaboost train --data my pictures --resume"),
        ({"GPUS": "2"}, f"torchrun --standalone --nproc-per-node 2 {TRAIN}"),
    ],
    ids=str,
)
def test_one_machine_gets_a_process_per_gpu(project, tmp_path, surroundings, command):
    code, output = project.run("scripts/train_gpu.sh", "--data", "my pictures", cwd=tmp_path, **surroundings)
    assert code == 0, output
    assert project.lines()[-1] == f"{command} in {tmp_path}"  # paths in options are those of the caller
    assert project.lines("pip starts") == [f"pip starts: {project.root}"]


@pytest.mark.parametrize("gpus", ["1", "2"])
def test_the_exit_code_of_a_run_is_that_of_the_script(project, gpus):
    assert project.run("scripts/train_gpu.sh", GPUS=gpus, STUB_CODE="143")[0] == 143


# texts

TEXTS = {
    "run_glue.sh": ("cola sst2 mrpc qqp stsb mnli qnli rte", "FacebookAI/roberta-base", "glue_lora/{task}.yaml"),
    "run_squad.sh": ("squad squad_v2", "microsoft/deberta-v3-base", "squad_adapter.yaml"),
    "run_domains.sh": (
        "chemprot rct acl-arc scierc hyperpartisan agnews helpfulness imdb",
        "FacebookAI/roberta-base",
        "domains_unipelt_prompt.yaml",
    ),
}


@pytest.mark.parametrize("script", TEXTS)
def test_a_suite_trains_every_task_with_every_seed_and_ends_with_the_table(project, tmp_path, script):
    tasks, model, config = TEXTS[script]
    kind = script.removeprefix("run_").removesuffix(".sh")
    method = {"glue": "lora", "squad": "adapter", "domains": "unipelt_prompt"}[kind]
    code, output = project.run(f"scripts/{script}", "--amp", "true", cwd=tmp_path, DATA="my texts")
    assert code == 0, output
    expected = [
        f"capaboost train-text --config {project.root}/configs/nlu/{config.format(task=task)} --model {model} "
        f"--task {task} --data my texts --seed {seed} --output runs/{kind}/{method}/{task}/seed{seed} --amp true "
        f"--resume in {tmp_path}"
        for task in tasks.split()
        for seed in (42, 43, 44)
    ]
    assert project.lines("capaboost train-text") == expected
    assert project.lines()[-1] == f"capaboost report runs/{kind} --output runs/{kind}/report.md in {tmp_path}"
    assert project.lines("pip starts") == [f"pip starts: {project.root}[nlu]"]


def test_a_suite_takes_what_it_is_told(project, tmp_path):
    told = {"MODEL": "a model", "METHOD": "unipelt", "TASKS": "rte", "SEEDS": "7", "OUTPUT": "my runs", "GPUS": "2"}
    code, output = project.run("scripts/run_glue.sh", cwd=tmp_path, **told)
    assert code == 0, output
    (line,) = project.lines("torchrun")
    assert line == (
        f"torchrun --standalone --nproc-per-node 2 -m capaboost_vit.cli train-text --config {project.root}/configs/nlu/"
        "glue_unipelt.yaml --model a model --task rte --data hub --seed 7 --output my runs/unipelt/rte/seed7 --resume "
        f"in {tmp_path}"
    )


def test_a_suite_stops_where_a_run_fails(project):
    assert project.run("scripts/run_glue.sh", STUB_CODE="143")[0] == 143
    assert len(project.lines("capaboost")) == 1


def test_the_domain_tasks_must_be_somewhere(project):
    code, output = project.run("scripts/run_domains.sh")
    assert code != 0
    assert "name the folder that holds the data sets" in output


# a study


@pytest.fixture
def sets(tmp_path):
    """Weights and the three data sets of the study, in which nothing is."""
    data = tmp_path / "my data"
    for name in ("eurosat_vtab1k", "cifar100_1k", "caltech101_small"):
        (data / name).mkdir(parents=True)
        (data / name / "images.zip").write_bytes(b"image")
    (data / "tiny.safetensors").write_bytes(b"weights")
    return {"DATA": str(data), "WEIGHTS": str(data / "tiny.safetensors")}


@pytest.mark.parametrize("own", [False, True])
def test_a_study_is_tuned_run_and_reported(project, sets, tmp_path, own):
    surroundings = {"TASKS": "eurosat cifar100", "SEEDS": "3 4", "WORKERS": "2", **sets}
    surroundings |= {"RUN_WITH": project.environment["STUB_SELF"]} if own else {}
    code, output = project.run("scripts/study_gpu.sh", "--set", "epochs=2", cwd=tmp_path, **surroundings)
    assert code == 0, output
    program = "python3 -m capaboost_vit.cli" if own else "capaboost"
    methods = sorted(map(str, (project.root / "configs" / "study").glob("*.yaml")))
    study = (
        f"--suite {project.root}/configs/suites/small.yaml --data {sets['DATA']} --tasks eurosat cifar100 "
        f"--backbone vit_tiny_patch16_224 --initial-checkpoint {sets['WEIGHTS']} --methods {' '.join(methods)} "
        "--set img_size=224 --set amp=true --output runs/study_224 --workers 2"
    )
    rates = "[x0.5, x1, x2, x4, x8]"
    assert project.lines(program) == [
        f"{program} study tune {study} --grid lr={rates} --tune-seeds 0 1 2 --set epochs=2 in {tmp_path}",
        f"{program} study run {study} --tuned --seeds 3 4 --set epochs=2 in {tmp_path}",
        f"{program} study report runs/study_224 in {tmp_path}",
    ]
    assert bool(project.lines("pip")) is not own


def test_a_study_stops_where_tuning_fails(project, sets):
    assert project.run("scripts/study_gpu.sh", STUB_CODE="143", **sets)[0] == 143
    assert len(project.lines("capaboost")) == 1


def test_a_study_is_packed_for_a_machine_that_reaches_nothing(project, sets, tmp_path):
    code, output = project.run("scripts/study_gpu.sh", "pack", tmp_path / "a pack", TASKS="cifar100", **sets)
    assert (code, output) == (0, f"{tmp_path / 'a pack'}: cifar100 and the weights, 0 MB\n")
    files = [str(path.relative_to(tmp_path / "a pack")) for path in (tmp_path / "a pack").rglob("*") if path.is_file()]
    assert sorted(files) == ["cifar100_1k/images.zip", "model.safetensors"]
    assert not project.log.exists()


@pytest.mark.parametrize(
    ("size", "task", "folder", "said"),
    [
        (60_000_000, "eurosat", "pack", "over 60 MB: pack one task at a time"),
        (0, "eurosa", "pack", "configs/suites/small.yaml has no task eurosa"),
        (0, "eurosat", "", "name the folder: study_gpu.sh pack FOLDER"),
    ],
)
def test_a_pack_that_is_too_large_or_of_nothing_is_refused(project, sets, tmp_path, size, task, folder, said):
    with open(sets["WEIGHTS"], "ab") as file:
        file.truncate(size)
    code, output = project.run("scripts/study_gpu.sh", "pack", folder, cwd=tmp_path, TASKS=task, **sets)
    assert code != 0
    assert said in output


@pytest.mark.parametrize("missing", ["DATA", "WEIGHTS"])
def test_a_study_without_data_or_weights_is_refused_in_one_line(project, sets, missing):
    code, output = project.run("scripts/study_gpu.sh", **{**sets, missing: "/nowhere"})
    assert (code, output.count("\n")) == (2, 1)
    assert "DATA is the folder of the data sets, WEIGHTS the file of weights" in output


# data


def test_all_that_the_hub_has_of_vtab_is_fetched_to_where_it_is_looked_for_and_checked(project, tmp_path):
    code, output = project.run("scripts/get_vtab1k.sh", "--tasks", "clevr_*", cwd=tmp_path, DATA="my data")
    assert code == 0, output
    tasks = {row: row.task_on_hub() for row in vtab1k.TASKS.values()}
    hub = {task.data for task in tasks.values() if task}
    assert {line.split()[2]: line.partition(" --local-dir ")[2] for line in project.lines("hf download")} == {
        name: f"my data/{name.partition('/')[2]} in {tmp_path}" for name in hub
    }
    assert all("--repo-type dataset" in line for line in project.lines("hf download"))
    assert len(project.lines("hf")) == len(hub) == 15
    for row, task in tasks.items():
        assert task is None or task.data.partition("/")[2] in row.folders()
    check = f"capaboost study check --suite vtab1k --data my data --tasks clevr_* in {tmp_path}"
    assert project.lines()[-1] == check
    assert "To be asked for by hand: Diabetic Retinopathy Detection" in output


def test_some_sets_alone_can_be_fetched(project, tmp_path):
    assert project.run("scripts/get_vtab1k.sh", cwd=tmp_path, SETS="a/b c/d")[0] == 0
    assert [line.split()[-3] for line in project.lines("hf")] == ["data/vtab1k/b", "data/vtab1k/d"]


def test_a_set_that_cannot_be_fetched_ends_the_script(project):
    assert project.run("scripts/get_vtab1k.sh", STUB_CODE="1")[0] == 1
    assert len(project.lines("hf")) == 1
    assert not project.lines("capaboost")


NODES = {"NNODES": "2", "MASTER_ADDR": "first.host"}
MEETING = "--rdzv-backend c10d --rdzv-endpoint first.host"


@pytest.mark.parametrize(
    ("surroundings", "how"),
    [
        ({}, f"--nproc-per-node gpu {MEETING}:29500 --rdzv-id capaboost"),
        (
            {"RDZV_ID": "mine", "MASTER_PORT": "1234", "GPUS": "8"},
            f"--nproc-per-node 8 {MEETING}:1234 --rdzv-id mine",
        ),
        ({"NODE_RANK": "0"}, "--nproc-per-node gpu --node-rank 0 --master-addr first.host --master-port 29500"),
    ],
    ids=str,
)
def test_several_machines_meet(project, tmp_path, surroundings, how):
    code, output = project.run(
        "scripts/train_multinode.sh", "--data", "my pictures", cwd=tmp_path, **NODES, **surroundings
    )
    assert code == 0, output
    assert project.lines()[-1] == f"torchrun --nnodes 2 {how} {TRAIN} in {tmp_path}"


@pytest.mark.parametrize("missing", list(NODES))
def test_several_machines_must_know_of_each_other(project, missing):
    code, output = project.run("scripts/train_multinode.sh", **{**NODES, missing: ""})
    assert code == 2
    assert output.count("\n") == 1
    assert "set NNODES=(number of machines) and MASTER_ADDR=(one of them)" in output
    assert not project.log.exists()


# under SLURM

OUTPUT = "my runs/first"


@pytest.fixture
def submit(project, tmp_path):
    """Runs a copy of the script from a spool folder, as SLURM does, in the folder where sbatch was called."""
    spool = tmp_path / "spool"
    spool.mkdir()

    def run(*arguments, **environment):
        shutil.copy(project.root / "scripts" / "train_slurm.sh", spool / "slurm_script")
        surroundings = {
            "SLURM_JOB_ID": "41000",
            "SLURM_SUBMIT_DIR": str(project.root),
            "SLURM_JOB_NODELIST": "node[7-9]",
            "SLURM_NNODES": "3",
            "SLURM_GPUS_ON_NODE": "4",
            "SLURM_CPUS_PER_TASK": "6",
            "OUTPUT": OUTPUT,
            **environment,
        }
        return project.run(spool / "slurm_script", *arguments, cwd=project.root, **surroundings)

    return run


def test_a_job_starts_torchrun_on_every_machine(project, submit):
    code, output = submit("--data", "my pictures")
    assert code == 0, output
    assert project.lines("scontrol") == ["scontrol show hostnames node[7-9]"]
    assert project.lines("srun") == [
        f"srun --kill-on-bad-exit=0 {project.root}/.venv/bin/torchrun --nnodes 3 --nproc-per-node 4 "
        "--rdzv-backend c10d --rdzv-endpoint node7:21000 --rdzv-id 41000-0 -m capaboost_vit.cli train "
        f"--output {OUTPUT} --data my pictures --resume with 6 cpus"
    ]


def test_a_job_that_is_queued_again_meets_anew(project, submit):
    assert submit(SLURM_RESTART_COUNT="2", GPUS="1")[0] == 0
    assert "--nproc-per-node 1 " in project.lines("srun")[0]
    assert "--rdzv-id 41000-2 " in project.lines("srun")[0]


@pytest.mark.parametrize(
    ("status", "code", "again"),
    [
        ("preempted", 1, True),
        ("preempted", 143, True),
        ("failed", 1, False),
        ("running", 1, False),  # killed: no checkpoint was asked for
        ("finished", 0, False),
        ("", 1, False),  # refused before there was a folder
    ],
)
@pytest.mark.parametrize("before", [None, "preempted", "running"])
def test_only_a_preempted_run_is_queued_again(project, submit, status, code, again, before):
    if before:
        folder = project.root / OUTPUT
        folder.mkdir(parents=True)
        (folder / "status.json").write_text(f'{{"status": "{before}", "pid": 1}}\n')
    assert submit(STUB_STATUS=status, STUB_EXIT=str(code))[0] == code
    requeued = ["scontrol requeue 41000"] if again else []
    assert project.lines("scontrol requeue") == requeued


@pytest.mark.parametrize("wrong", [{"OUTPUT": ""}, {"SLURM_JOB_ID": ""}, {"SLURM_SUBMIT_DIR": "/"}], ids=str)
def test_a_job_that_was_started_wrongly_says_how(project, submit, wrong):
    code, output = submit(**wrong)
    assert (code, output.count("\n")) == (2, 1)
    assert "type: OUTPUT=runs/mine sbatch scripts/train_slurm.sh" in output
    assert not project.log.exists()


def test_a_job_from_another_folder_is_told_where_the_project_is(project, submit):
    assert submit(SLURM_SUBMIT_DIR="/", CAPABOOST_ROOT=str(project.root))[0] == 0


def test_slurm_is_asked_for_a_signal_that_torchrun_hands_on_and_for_another_turn():
    options = re.findall(r"^#SBATCH (\S+)$", (ROOT / "scripts" / "train_slurm.sh").read_text(), re.M)
    assert {"--signal=TERM@120", "--requeue", "--ntasks-per-node=1", "--open-mode=append"} <= set(options)


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("[grt]*_*.sh")), ids=lambda path: path.name)
def test_every_variable_of_the_surroundings_is_explained_at_the_top(script):
    text = script.read_text()
    explained = set(re.findall(r"^#   ([A-Z_]+) ", text, re.M))
    code = text.partition("set -euo pipefail")[2]
    if "launch.sh" in code:
        code += (ROOT / "scripts" / "launch.sh").read_text()
    used = set(re.findall(r"\$\{?([A-Z][A-Z_]+)", code)) - {"BASH_SOURCE"}
    assert {name for name in used if not name.startswith("SLURM_")} == explained
