"""kill -9 at any instant, also in the middle of a save: the run that is resumed ends with the same bits."""

from __future__ import annotations

import random
import time

import pytest

KILLS = 20
OPTIONS = {
    "lora": {"method__dropout": 0.1},
    "adapter": {"method__dropout": 0.1},
    "prefix": {},
}


def strike(run, kind, rng, seconds):
    """Kills the run at an instant of that kind; False if it ended before."""
    before = set(run.updates)
    if kind == "any":
        run.until(lambda: False, rng.uniform(0, seconds))
    elif kind == "training":
        run.until(lambda: "parameters trained" in run.said)
        run.until(lambda: False, rng.uniform(0, seconds / 2))
    elif kind == "saving":
        run.until(lambda: bool(list(run.output.rglob(".*.partial"))))
        run.until(lambda: False, rng.uniform(0, 0.1))
    else:
        run.until(lambda: bool(set(run.updates) - before))
    if run.poll() is not None:
        return False
    run.kill()
    return True


def kill_and_resume(lab, folder, rng, kills, **options):
    """Kills runs so many times, each chain of them in a folder of its own; what was done, for the reader."""
    start = time.monotonic()
    reference = lab.reference(**{**options, "workers": 0})
    seconds = max(1.0, time.monotonic() - start)
    seconds, history, chain = min(seconds, 4.0), [], 0
    while kills > 0:
        output, chain = folder / f"chain {chain}", chain + 1
        while True:
            kind = rng.choice(["any", "training", "saving", "renamed"]) if kills > 0 else "none"
            pause = rng.choice([0.02, 0.1]) if kind in ("saving", "renamed") else None
            run = lab.start(output, "--resume", pause=pause, **options)
            if kind != "none" and strike(run, kind, rng, seconds):
                kills -= 1
                history.append(f"{chain}: {kind} with {run.updates}, pause {pause}")
                print(history[-1])
                continue
            assert run.wait() == 0, run.said
            break
        lab.same(output, reference)
    return history


def test_a_run_killed_in_a_save_and_after_it_ends_with_the_same_bits(lab, tmp_path):
    kill_and_resume(lab, tmp_path, random.Random(2), 1, **OPTIONS["lora"])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("method", OPTIONS)
def test_a_run_killed_twenty_times_ends_with_the_same_bits(lab, tmp_path, method, workers):
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")  # shown when the test fails; the instants are not repeated to the microsecond
    options = {"model": f"vit_tiny_capaboost_{method}", "workers": workers, **OPTIONS[method]}
    history = kill_and_resume(lab, tmp_path, random.Random(seed), KILLS, **options)
    assert len(history) == KILLS
