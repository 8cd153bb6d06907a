"""One process against several: the arithmetic of the efficiency, and real processes."""

from __future__ import annotations

import json

import pytest
import torch

from capaboost_vit.bench import processes as module
from capaboost_vit.bench.config import ProcessesConfig
from capaboost_vit.bench.measure import measure, table_of
from capaboost_vit.bench.processes import Case, Pool, cases_of, measure_processes
from capaboost_vit.bench.timing import Clock, Session


@pytest.fixture
def config(tiny):
    return ProcessesConfig(**{**tiny, "batch_size": 6, "warmup": 1, "repetitions": 3})


@pytest.fixture
def pools(monkeypatch):
    """Makes steps take, by a clock that they turn themselves, one second per image of a process, and one more."""
    made, now = [], [0.0]

    class Fake:
        trained_bytes = 4000

        def __init__(self, workload, case):
            made.append(self)
            self.case, self.cpu_seconds, self.closed = case, [], False

        def step(self, lap):
            now[0] += 1 + self.case.batch_size / self.case.processes
            self.cpu_seconds.append(float(len(self.cpu_seconds)))

        def close(self):
            self.closed = True

    monkeypatch.setattr(module, "Pool", Fake)
    monkeypatch.setattr(module, "Clock", lambda name, mark: Clock(name, lambda: now[0]))
    return made


def test_a_number_of_processes_is_measured_with_as_many_images_each_and_in_all(config):
    several = ProcessesConfig(processes=(4, 1, 2), batch_size=8)
    cases = [Case(1, 8), Case(2, 16), Case(2, 8), Case(4, 32), Case(4, 8)]
    assert cases_of(several, torch.device("cpu"), Session()) == cases
    assert cases_of(config, torch.device("cpu"), Session()) == [Case(1, 6), Case(2, 12), Case(2, 6)]


def test_more_processes_than_gpus_are_left_out(monkeypatch, config):
    session, cuda = Session(), torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert cases_of(config, cuda, session) == [Case(1, 6)]
    assert session.left_out == ["2 processes: GPUs here: 1"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert [case.processes for case in cases_of(config, cuda, Session())] == [1, 2, 2, 8, 8]


def test_efficiency_by_hand(config, pools):
    result = measure("processes", config, command="bench")
    assert json.loads(json.dumps(result))["kind"] == "processes"
    one, each, whole = result["tables"]["updates"]
    assert [row["times"]["whole"] for row in (one, each, whole)] == [[7.0] * 3, [7.0] * 3, [4.0] * 3]
    assert [row["efficiency"] for row in (one, each, whole)] == [1.0, 1.0, pytest.approx((6 / 4) / (2 * 6 / 7))]
    assert whole["+-"] == 0
    assert [row["reduced kB"] for row in (one, each, whole)] == [0, 4, 4]
    assert one["CPU ms"] == 2000  # of 1, 2 and 3 s, the warm-up left out
    assert all(pool.closed for pool in pools)
    line = next(line for line in table_of(result).splitlines() if line.split()[:3] == ["2", "3", "6"])
    assert line.split()[3:] == ["4,000.0", "2,000.0", "1.500", "0.875", "0.000", "4.000"]


def test_processes_are_ended_when_a_step_fails(config, pools, monkeypatch):
    monkeypatch.setattr(Session, "interleave", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        measure_processes(config, Session())
    assert len(pools) == 3
    assert all(pool.closed for pool in pools)


@pytest.mark.slow
def test_two_real_processes_make_steps_until_one_fails(config):
    pool = Pool(config, Case(2, 5))
    pool.step()
    assert pool.trained_bytes == 4 * (2 * 2 * 2 * 2 * 16 + 3 * 16 + 3)  # blocks, q and v, A and B, rank, width; head
    assert pool.cpu_seconds[0] > 0
    pool.processes[1].kill()
    with pytest.raises(ChildProcessError, match="2 processes failed: "):
        pool.step()
    assert not any(process.is_alive() for process in pool.processes)


@pytest.mark.slow
def test_a_failure_is_told_by_its_first_error(config):
    with pytest.raises(ChildProcessError, match="1 processes failed: ValueError: --device nowhere"):
        Pool(ProcessesConfig(device="nowhere"), Case(1, 6))
