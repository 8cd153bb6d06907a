"""The scripts install once, under a lock, wherever they lie and wherever they are called from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = [*sorted((ROOT / "scripts").glob("*.sh")), ROOT / ".ci" / "run"]

# Stands in for python: runs the lock's one-liner with the real one, and notes what else it is asked to do.
STUB = """#!/usr/bin/env bash
case "$1 $2" in
"-m venv")
    mkdir -p "$3/bin"
    for name in python pip capaboost ruff mypy; do cp "$STUB_SELF" "$3/bin/$name"; done
    echo "venv by $(basename "$0")" >>"$STUB_LOG" ;;
"-m pip")
    echo "pip starts: ${*: -1}" >>"$STUB_LOG"
    sleep "${STUB_SLEEP:-0}"
    if [ -n "${STUB_FAIL:-}" ]; then exit 1; fi
    echo "pip ends" >>"$STUB_LOG" ;;
"-c "*) exec "$STUB_REAL" "$@" ;;
*) echo "$(basename "$0") $* in $PWD" >>"$STUB_LOG" ;;
esac
"""


class Copy:
    """A copy of the project's scripts, with a stub for python first on the path; nothing is really installed."""

    def __init__(self, folder: Path, tools: Path) -> None:
        self.root, self.log = folder, tools / "log"
        shutil.copytree(ROOT / "scripts", folder / "scripts")
        shutil.copytree(ROOT / ".ci", folder / ".ci")
        for name in ("setup.cfg", "pyproject.toml"):
            shutil.copy(ROOT / name, folder)
        tools.mkdir()
        for name in ("python3", "python3.99"):
            (tools / name).write_text(STUB)
            (tools / name).chmod(0o755)
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "PYTHON"},
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
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
    assert project.lines("pip starts") == [f"pip starts: {project.root}[dev]"]
    assert f"python -m pytest -n 2 -m slow or not slow in {project.root}" in project.lines()


def test_the_test_script_checks_before_it_tests_and_passes_its_options_on(project):
    code, output = project.run("scripts/test.sh", "-k", "two words")
    assert code == 0, output
    where = f"in {project.root}"
    assert project.lines()[-4:] == [
        f"ruff check . {where}",
        f"ruff format --check . {where}",
        f"mypy  {where}",
        f"python -m pytest -n 2 -k two words {where}",
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
