"""Ready interpreters are processes as a shell starts them."""

from __future__ import annotations

import signal

import pytest

ONE_FAILS = """
import os, sys, time
import torch.distributed as dist
dist.init_process_group("gloo")
if os.environ["RANK"] == "1":
    sys.exit(7)
time.sleep(60)
"""


def test_what_a_process_is_given_and_what_comes_back(ready, tmp_path):
    code = "import os, sys; print(os.getcwd(), sys.argv, os.environ['A'], input()); sys.exit(5)"
    done = ready.run(["python", "-c", code, "b"], env={"A": "a"}, cwd=tmp_path, input="c\n")
    assert (done.returncode, done.stderr) == (5, "")
    assert done.stdout == f"{tmp_path} ['-c', 'b'] a c\n"


def test_a_failure_is_a_traceback_and_a_code(ready):
    done = ready.run(["python", "-c", "raise ValueError('so')"])
    assert done.returncode == 1
    assert done.stderr.endswith("ValueError: so\n")


@pytest.mark.parametrize(("package", "found"), [(False, "False True\n"), (True, "True True\n")])
def test_the_package_is_imported_if_wanted(ready, package, found):
    code = "import sys; print('capaboost_vit' in sys.modules, 'timm' in sys.modules)"
    assert ready.run(["python", "-c", code], package=package).stdout == found


def test_a_process_is_killed(ready):
    process = ready.start(["python", "-c", "import time; time.sleep(60)"])
    assert process.poll() is None
    process.kill()
    assert process.wait() == -signal.SIGKILL


def test_the_failure_of_one_of_two_ends_both(ready):
    assert ready.run(["python", "-c", ONE_FAILS], ranks=2, timeout=20).returncode in (7, -signal.SIGTERM)
