"""A worker: takes the trials of a study, one after the other, until all are finished or given up."""

from __future__ import annotations

import gc
import shutil
import time
from dataclasses import dataclass

import torch

from ..io.printable import printable
from ..run import train
from ..training.signals import Interrupted
from .config import WorkConfig
from .lease import Lease, Leases
from .manifest import Study, run_config
from .trial import Trial

# what may go better on another try, or on another machine; everything else would fail again
_PASSING = (OSError, RuntimeError)
_LASTING = (FileNotFoundError, FileExistsError, NotADirectoryError, PermissionError)


def work(study: Study, config: WorkConfig, *, wait: bool = True) -> int:
    """Computes trials until none is open; returns how many it has finished.

    Any number of workers may do so at once, on any number of machines that share the folder. A trial whose worker died
    goes on from its newest checkpoint, to the same bits.

    Args:
        wait: where all open trials are in other hands, wait for what becomes of them.

    Raises:
        Interrupted: a signal came; the trial at hand has a checkpoint and was given back.
    """
    worker = _Worker(study, config, Leases(study.leases, seconds=config.lease))
    done = 0
    while waiting := study.open_trials():
        for trial in waiting:
            lease = worker.claim(trial)
            if lease is not None:
                with lease:
                    done += worker.compute(trial, lease)
                break
        else:
            if not wait:
                break
            time.sleep(min(5.0, config.lease / 4))
    return done


@dataclass(frozen=True)
class _Worker:
    study: Study
    config: WorkConfig
    leases: Leases

    def claim(self, trial: Trial) -> Lease | None:
        """The lease of a trial, unless another worker has it, or has finished it in the meantime, or it is given up."""
        lease = self.leases.claim(trial.id)
        if lease is None:
            return None
        if not self.study.finished(trial) and self.study.failure(trial) is None:
            before = self.leases.attempts(trial.id) - 1  # less this one
            counted = before - self.study.forgiven(trial)
            if counted < self.config.attempts:
                return lease
            reason = f"its workers died, or it failed, {counted} times"
            self.study.give_up(trial, reason, before)
            print(f"given up: {trial.title()}: {reason}")
        with lease:
            return None

    def compute(self, trial: Trial, lease: Lease) -> bool:
        """Runs a trial to its end; returns whether it is finished."""
        begin = time.monotonic()
        print(f"begins: {trial.title()} ({trial.id})")
        try:
            damage = self.study.damage(trial)
            if damage:
                print(f"damaged: {damage}")
                self.study.set_aside(trial)
            train(run_config(self.study, trial))
        except Interrupted as stopped:
            what = f"stopped in {trial.title()}, with a checkpoint; any worker goes on with it"
            raise Interrupted(stopped.number, what) from None
        except BlockingIOError:  # a worker that was thought dead still has the folder open
            print(f"left: {trial.title()}: its folder is in use")
            time.sleep(1.0)
            return False
        except Exception as error:
            self._failed(trial, lease, error)
            return False
        finally:
            _tidy_up()
        folder = self.study.run_folder(trial)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        if trial.stage == "candidate" or not self.config.keep_models:
            (folder / "adapter.safetensors").unlink(missing_ok=True)
        print(f"finished: {trial.title()} ({time.monotonic() - begin:.0f} s)")
        return True

    def _failed(self, trial: Trial, lease: Lease, error: Exception) -> None:
        lease.error = printable(" ".join(f"{type(error).__name__}: {error}".split()))
        tries = self.leases.attempts(trial.id)
        lasting = not isinstance(error, _PASSING) or isinstance(error, _LASTING)
        if lasting or tries - self.study.forgiven(trial) >= self.config.attempts:
            self.study.give_up(trial, lease.error, tries)
        print(f"failed: {trial.title()}: {lease.error}")


def _tidy_up() -> None:
    """Gives the memory of the last model back, and lets the next one's be measured by itself."""
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
