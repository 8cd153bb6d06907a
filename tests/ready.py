"""Ready interpreters: processes forked from one that has imported torch, timm and the package.

Each is a process of its own, with its own exit code, files, environment, folder and signals, but starts in milliseconds
where a new interpreter takes seconds:

    done = ready.run(["capaboost", "train", "--data", "digits"])        # as `subprocess.run` would
    done = ready.run(["python", "-c", code, "argument"], package=False) # the package is not imported yet
    done = ready.run(["capaboost", "train", ...], ranks=2)              # two processes, as torchrun starts them
    process = ready.start(["capaboost", "train", ...])                  # to be waited for, sent a signal, or killed

What is decided before the first import (interpreter options, locale, PYTHONHASHSEED, OMP_NUM_THREADS, HF_HOME) is that
of the server: one thread, no hub, and the empty hub cache `ready.hub`, which a test may fill.
This file is also that server: `python ready.py` answers requests, lines of JSON, until its pipe is closed. A request is
the arguments of `_become`, answered by the process id, or {"poll": pid}, answered by the exit code (negative: the
signal) or null.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest.mock
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

_OTHERS = (
    "datasets",
    "matplotlib.backends.backend_agg",  # imported late by a run
    "scipy.stats",
    "sklearn.datasets",
    "sklearn.metrics",
    "timm",
    "torch.nn.parallel",
    "torch.utils.tensorboard",
    "torchvision",
    "transformers.models.bert.modeling_bert",
    "transformers.models.roberta.modeling_roberta",
)
_PACKAGE = ("capaboost_vit.run", "capaboost_vit.cli")
DRAWING = ("capaboost_vit.training.log.Log.figure", "capaboost_vit.training.result.save_figure")


# the tests' side


class Process:
    """One command, in one process or in several ranks, that write into the same two files."""

    def __init__(self, ask: Callable, pids: list[int], stdout: Path, stderr: Path):
        self._ask, self.pids, self.stdout_path, self.stderr_path = ask, pids, stdout, stderr
        self._codes: dict[int, int] = {}
        self.returncode: int | None = None

    @property
    def pid(self) -> int:
        """The process, and its process group, of the first rank."""
        return self.pids[0]

    @property
    def stdout(self) -> str:
        """What it has written so far."""
        return self.stdout_path.read_text()

    @property
    def stderr(self) -> str:
        """What it has written so far."""
        return self.stderr_path.read_text()

    def poll(self) -> int | None:
        """The exit code (of several the first that is not zero), or None while one lives.

        As under torchrun, the failure of one ends the others.
        """
        for pid in self.pids:
            if pid not in self._codes and (code := self._ask(poll=pid)) is not None:
                self._codes[pid] = code
                if code:
                    self.returncode = self.returncode or code
                    self.send_signal(signal.SIGTERM)
        if len(self._codes) < len(self.pids):
            return None
        self.returncode = self.returncode or 0
        return self.returncode

    def wait(self, timeout: float = 120) -> int:
        """The exit code at the end.

        Raises:
            AssertionError: it is still running after `timeout` seconds; it is killed.
        """
        end, pause = time.monotonic() + timeout, 0.001
        while self.poll() is None:
            if time.monotonic() > end:
                self.kill()
                raise AssertionError(f"still running after {timeout} s: {self.stdout}{self.stderr}")
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        return self.returncode

    def send_signal(self, number: int, *, group: bool = False) -> None:
        """Sends a signal to each process that lives, or to its group."""
        for pid in self.pids:
            if pid not in self._codes:
                with suppress(ProcessLookupError):
                    (os.killpg if group else os.kill)(pid, number)

    def kill(self) -> None:
        """kill -9 of the processes alone: their loader processes stay behind, as orphans."""
        self.send_signal(signal.SIGKILL)


class Ready:
    """Starts commands in ready interpreters; used as a context, at the end of which whatever is left is killed."""

    def __init__(self, folder: Path):
        self.folder, self.hub, self._started = folder, folder / "hub", []
        self._pipes = {}
        far = []
        for package in (False, True):
            (request, to), (back, answer) = os.pipe(), os.pipe()
            self._pipes[package] = os.fdopen(back), os.fdopen(to, "w")
            far += [request, answer]
        settings = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "77"}
        settings |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(self.hub), "HF_HUB_CACHE": str(self.hub / "hub")}
        command = [sys.executable, __file__, *map(str, far)]
        self._server = subprocess.Popen(command, pass_fds=far, stdin=subprocess.DEVNULL, env={**os.environ, **settings})
        for number in far:
            os.close(number)

    def __enter__(self) -> Ready:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            for pid in process.pids:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
        for back, to in self._pipes.values():
            to.close()
            back.close()
        self._server.wait(30)

    def start(
        self, command, *, env=None, cwd=None, input=None, log=None, file_size=None, ranks=1, package=True, pictures=True
    ) -> Process:
        """Starts ["capaboost", ...], ["python", "-c", code, ...] or ["python", file, ...].

        env: all of its environment (default: that of this process); log: a file to which it appends all that it says;
        file_size: a limit in bytes on what it writes into one file; ranks: how many processes, connected as torchrun
        connects them; pictures: False for a run that draws none, which is half of the work of a small one.
        """
        number = len(self._started)
        paths = [self.folder / f"{number}.{name}" for name in ("stdin", "stdout", "stderr")]
        for path, text in zip(paths, (input or "", "", ""), strict=True):
            path.write_text(text)
        if log is not None:
            log.touch()
            paths[1:] = log, log
        environment = dict(os.environ if env is None else env)
        request = {"command": list(map(str, command)), "cwd": str(cwd or Path.cwd()), "file_size": file_size}
        request["pictures"] = pictures
        request["files"] = [str(path) for path in paths]
        back, to = self._pipes[package]

        def ask(**question):
            to.write(json.dumps(question) + "\n")
            to.flush()
            return json.loads(back.readline())

        pids = []
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())} if ranks > 1 else {}
        for rank in range(ranks):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)} if ranks > 1 else {}
            pids.append(ask(**request, env={**environment, **meeting, **place}))
        self._started.append(Process(ask, pids, *paths[1:]))
        return self._started[-1]

    def run(self, command, *, timeout: float = 120, check: bool = False, **options) -> subprocess.CompletedProcess:
        """Runs a command to its end, as `subprocess.run` with captured text; options are those of `start`."""
        process = self.start(command, **options)
        done = subprocess.CompletedProcess(list(command), process.wait(timeout), process.stdout, process.stderr)
        assert not (check and done.returncode), done.stderr
        return done


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


# the server's side


def _serve(request: int, answer: int, modules: tuple[str, ...]) -> Callable | None:
    """Answers requests until the pipe is closed; in a child, returns what it is to run."""
    for name in modules:
        importlib.import_module(name)
    gc.freeze()
    threads = {Path("/proc/self/task", task, "comm").read_text().strip() for task in os.listdir("/proc/self/task")}
    # jemalloc, which pyarrow brings, can be forked
    assert len(threads - {"jemalloc_bg_thd"}) == 1, f"a fork is not safe beside other threads: {threads}"
    with os.fdopen(request) as questions, os.fdopen(answer, "w") as answers:
        for line in questions:
            question = json.loads(line)
            if "poll" in question:
                pid, status = os.waitpid(question["poll"], os.WNOHANG)
                reply = os.waitstatus_to_exitcode(status) if pid else None
            elif (reply := os.fork()) == 0:
                return _become(**question)
            answers.write(json.dumps(reply) + "\n")
            answers.flush()
    return None


def _become(
    command: list[str], env: dict[str, str], cwd: str, files: list[str], file_size: int | None, pictures: bool
) -> Callable:
    """Makes this process what the command asks for; returns what runs it."""
    os.setsid()
    flags = os.O_WRONLY | os.O_APPEND
    for number, (path, flag) in enumerate(zip(files, (os.O_RDONLY, flags, flags), strict=True)):
        file = os.open(path, flag)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    if not pictures:
        for name in DRAWING:
            unittest.mock.patch(name, return_value=None).start()
    program, *arguments = command
    if program == "capaboost":
        from capaboost_vit.cli import main

        sys.argv = command
        return lambda: main(arguments)
    assert program == "python", command
    if arguments[0] == "-c":
        sys.argv, code = ["-c", *arguments[2:]], compile(arguments[1], "<string>", "exec")
        sys.path[:0] = ["", *env.get("PYTHONPATH", "").split(os.pathsep)]
        return lambda: exec(code, {"__name__": "__main__"})
    sys.argv = arguments
    sys.path.insert(0, str(Path(arguments[0]).parent))
    return lambda: runpy.run_path(arguments[0], run_name="__main__") and None


def _main() -> None:
    sys.path.pop(0)  # the folder of this file
    numbers = list(map(int, sys.argv[1:]))
    for name in _OTHERS:
        importlib.import_module(name)
    gc.freeze()  # or each collection in a child would copy the pages of all that is imported
    package = os.fork() == 0
    for number in numbers[:2] if package else numbers[2:]:
        os.close(number)
    program = _serve(*(numbers[2:] if package else numbers[:2]), _PACKAGE if package else ())
    if program is not None:
        _finish(program)
    elif not package:
        os.wait()


def _finish(program: Callable) -> NoReturn:
    """Runs it and leaves like an interpreter, but for freeing all that is imported, which takes 0.7 s."""
    try:
        code = program()
    except SystemExit as stop:
        if not isinstance(stop.code, int | None):
            raise
        code = stop.code
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    _main()
