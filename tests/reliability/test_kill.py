"""kill -9 at any instant, also in the middle of a save: the run that is resumed ends with the same bits."""

from __future__ import annotations

import random

import pytest

OPTIONS = {
    "lora": {"method__dropout": 0.1},
    "adapter": {"method__dropout": 0.1},
    "prefix": {},
}


def test_a_run_killed_in_a_save_and_after_it_ends_with_the_same_bits(lab, tmp_path):
    lab.kill_and_resume(tmp_path, random.Random(2), 1, **OPTIONS["lora"])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("method", "workers", "kills"), [("lora", 2, 20), ("lora", 0, 5), ("adapter", 2, 5), ("prefix", 0, 5)]
)
def test_a_run_killed_again_and_again_ends_with_the_same_bits(lab, tmp_path, method, workers, kills):
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")  # shown when the test fails; the instants are not repeated to the microsecond
    options = {"model": f"vit_tiny_capaboost_{method}", "workers": workers, **OPTIONS[method], "pictures": kills == 20}
    history = lab.kill_and_resume(tmp_path, random.Random(seed), kills, **options)
    assert len(history) == kills
