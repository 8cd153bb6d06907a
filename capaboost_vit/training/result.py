"""What a trained model leaves in the run folder: adapter file, test accuracy, mistakes, pictures, result.json."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, cat

from ..core.sharded import is_sharded
from ..io.atomic import write_text
from ..methods.adapter_file import read_header
from ..methods.apply import fold
from .card import write_card
from .confusion import MOST_DRAWN, draw_confusion
from .curves import draw_learning_curve
from .figures import draw_masks, draw_spectrum, save_figure
from .folder import RunFolder
from .job import Job, as_dict, hyperparameters, parameter_counts
from .log import Log, peak_memory
from .machine import machine
from .measures import measured
from .objective import Mistakes, right_answers, selected_score
from .probabilities import FEWEST, KeptLogits, classification_report, fitted_temperature
from .signals import StopSignals
from .task_table import task_lines


def finish_run(job: Job, folder: RunFolder, log: Log, stop: StopSignals) -> dict[str, Any]:
    """Writes adapter file, pictures and result.json; evaluates on the test split, for the only time.

    Reparameterisation MLPs are folded first: what is saved and measured is what can be used.

    Returns:
        What result.json holds; nothing in all but the first process.

    Raises:
        Interrupted: a signal came during the evaluation.
    """
    config, world, state, model = job.config, job.world, job.state, job.model
    progress = state.progress
    parameters, methods = parameter_counts(model), model.capaboost["methods"]  # before folding, which leaves less
    fold(model)
    of_val, temperature = _calibrated(job, log, stop)
    if world.is_main or is_sharded(model):  # whose weights come together for their fingerprint
        saved = job.save(folder.path, temperature)
    scores, confusion, worst = _final_scores(job, log, stop, temperature)
    if not world.is_main:
        return {}
    score = job.objective.names[0]
    marks = {"best_epoch": progress.best_epoch, "test": scores[f"test_{score}"], "rates": state.rates()}
    figures = {"learning_curve": draw_learning_curve(progress.rows, title=job.title, score=score, **marks)}
    if confusion is None and job.objective.confusion:
        confusion = of_val
    if confusion is not None:
        names = [*job.classes, *(str(i) for i in range(len(job.classes), len(confusion)))]
        title = f"{job.title}: {'val' if job.test is None else 'test'}"
        if len(names) <= MOST_DRAWN:
            figures["confusion_matrix"] = draw_confusion(confusion, names, title=title)
        if job.test is not None:
            _write_predictions(folder.path, confusion, names, worst, job.test.names)
    for name, figure in figures.items():
        save_figure(figure, folder.path / f"{name}.png")
    for name, drawn in {**figures, "masks": draw_masks(model), "spectrum": draw_spectrum(model)}.items():
        if drawn is not None:
            log.figure(f"figures/{name}", drawn, progress.update)
    result = {
        **scores,
        "train_seconds": progress.seconds,
        f"{config.unit}_per_second": progress.examples / progress.seconds,
        "memory_mb": peak_memory(),
        "updates": progress.update,
        "epochs": state.epochs_done,
        "model": config.model,
        "method": methods,
        "parameters": parameters,
        "adapter_bytes": _size(saved),
        "data": {"spec": config.data, **job.record["data"], **job.extra_results},
        "config": as_dict(config),
        "machine": machine(state.device, world),
        **folder.search(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    pictures = [folder.path / f"{name}.png" for name in figures]
    measured = {name: value for name, value in scores.items() if isinstance(value, int | float)}
    log.result(hyperparameters(config), measured, pictures, progress.update)
    write_card(folder.path, read_header(saved) if saved.is_file() else {}, result)
    log.close()  # all is on the disk before the run counts as finished
    folder.write_json("result.json", result)
    return result


def _calibrated(job: Job, log: Log, stop: StopSignals) -> tuple[Tensor | None, float]:
    """What is accumulated on val, from which the job takes its thresholds; and the temperature, of classes.

    They are None and 1 where there is no val split, or nothing that is taken from it.
    """
    if job.val is None:
        return None, 1.0
    classes, count = job.objective.confusion, len(job.val.source)
    if classes and not job.config.uses_labels():
        log.say("temperature of the probabilities: 1, as it would be found by labels")
    elif classes and count < FEWEST:
        log.say(f"temperature of the probabilities: 1, as val has {count} {job.config.unit}, fewer than {FEWEST}")
    fitted = classes and count >= FEWEST and job.config.uses_labels()
    if not (fitted or job.calibrate or (classes and job.test is None)):
        return None, 1.0
    kept = KeptLogits(job.val.indices, count)
    accumulated = job.evaluate(job.val, stop=stop, also=kept.add if fitted else None)
    if job.calibrate is not None:
        job.calibrate(accumulated, job.val)
    temperature = fitted_temperature(*kept.result(job.world)[:2]) if fitted else 1.0
    if fitted:
        log.say(f"temperature of the probabilities, by the NLL of val: {temperature:.4g}")
    return accumulated, temperature


def _final_scores(
    job: Job, log: Log, stop: StopSignals, temperature: float
) -> tuple[dict[str, Any], Tensor | None, list[dict[str, Any]]]:
    """Scores on val and test by name; of classes the confusion matrix of test and its worst mistakes, too."""
    objective, world, progress = job.objective, job.world, job.state.progress
    measures = job.config.method.measures if job.config.method else ()
    named = [f"val_{name}" for name in (*objective.names, "loss", *measures)]
    scores: dict[str, Any] = {name: progress.rows[-1].get(name) for name in named}
    selected = selected_score(objective, job.config.select)
    scores |= {f"best_val_{selected}": progress.best_score, "best_epoch": progress.best_epoch}
    scores |= {f"test_{name}": None for name in (*objective.names, *measures)}
    if job.test is None:
        log.say(f"no test split: no test {objective.names[0]}")
        return scores, None, []
    confusion, mistakes = None, Mistakes(job.test.indices, world)
    kept = KeptLogits(job.test.indices, len(job.test.source))

    def keep(outputs: Tensor, targets: Tensor) -> None:
        mistakes.add(outputs, targets)
        kept.add(outputs, targets)

    for name, batches in {"test": job.test, **job.extra_tests}.items():
        of_test = objective.confusion and batches is job.test
        with measured(job) as counted:
            accumulated = job.evaluate(batches, stop=stop, also=keep if of_test else None, count=counted.add)
            found = {**objective.scores(accumulated, batches), **counted.means()}
        line = "  ".join(f"{score} {value:.2f}" for score, value in found.items())
        scores |= {f"{name}_{score}": value for score, value in found.items()}
        if objective.confusion:
            right, total = right_answers(accumulated), int(accumulated.sum())
            scores |= {f"{name}_right": right, f"{name}_total": total}
            line += f" ({right} of {total})"
        log.say(f"{name} {line}")
        if objective.report is not None and batches is job.test and world.is_main:
            scores["test"] = objective.report(accumulated, batches)
        if of_test:
            confusion = accumulated
            logits = kept.result(world)
            if world.is_main:
                scores["test"] = classification_report(
                    confusion, logits, job.classes, temperature=temperature, tasks=job.tasks
                )
                for line in task_lines(scores["test"].get("per_task", ())):
                    log.say(f"test of {line}")
    return scores, confusion, mistakes.result()


def _write_predictions(
    folder: Path,
    confusion: Tensor,
    classes: list[str],
    worst: list[dict[str, Any]],
    examples: Sequence[str] | None,
) -> None:
    """predictions.json: the counts of the test split as [label, answer, count], and its worst mistakes.

    Args:
        examples: the names of the test split's images, by place; None where they have none.
    """
    counts = cat([confusion.indices(), confusion.values()[None]]).T.tolist()  # true class, answer, how often
    named = [{"name": None if examples is None else examples[row["place"]], **row} for row in worst]
    lists = {"classes": classes, "counts": counts, "worst": named}
    text = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in lists.items())
    write_text(folder / "predictions.json", f"{{\n{text}\n}}\n")


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())
