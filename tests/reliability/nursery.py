"""A process that has imported torch and all models and forks off training runs: each starts in no time, and is real.

Reads requests as lines of JSON on stdin. {"argv", "env", "stderr", "file_size"} starts `capaboost ARGV` in a process
group of its own, with a limit on the size of files if one is given, and is answered by its process id; {"poll": pid} by
its exit code (negative: the signal), or null while it lives.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path


def serve() -> int | None:
    """Answers requests until stdin ends; in a child, returns what `capaboost` returned."""
    import matplotlib.backends.backend_agg  # noqa: F401  (imported late by a run)
    import scipy.stats  # noqa: F401
    import sklearn.datasets
    import sklearn.metrics  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401
    import transformers.models.bert.modeling_bert
    import transformers.models.roberta.modeling_roberta  # noqa: F401

    import capaboost_vit.run  # noqa: F401
    from capaboost_vit.cli import main

    threads = {Path("/proc/self/task", task, "comm").read_text().strip() for task in os.listdir("/proc/self/task")}
    # jemalloc, which pyarrow brings, can be forked
    assert len(threads - {"jemalloc_bg_thd"}) == 1, f"a fork is not safe beside other threads: {threads}"
    print(json.dumps("ready"), flush=True)
    while line := sys.stdin.readline():
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            print(json.dumps(os.waitstatus_to_exitcode(status) if pid else None), flush=True)
            continue
        child = os.fork()
        if child == 0:
            os.setsid()
            output = os.open(request["stderr"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for number in (1, 2):
                os.dup2(output, number)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.environ.update(request["env"])
            if request["file_size"] is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"], request["file_size"]))
            return main(request["argv"])
        print(json.dumps(child), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(serve())
