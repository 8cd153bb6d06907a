"""Lets the tests of this folder import `studies`; a study whose trials were really run."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def real_study(tmp_path_factory):
    """Three methods on two tasks of the digits with one seed, in a group each, and a trial that nobody has run."""
    import studies

    from capaboost_vit.study.manifest import Study

    folder = tmp_path_factory.mktemp("studies") / "a real one"
    trials = [
        studies.trial(
            method, task, 0, epochs=2, group=group, notes=["not VTAB-exact: <b>a test</b>"] if task == "5-9" else []
        )
        for task, group in (("0-4", "low"), ("5-9", "high"))
        for method in ("lora", "random", "sign")
    ]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()):
        patch.setattr("capaboost_vit.training.log.Log.figure", lambda *_: None)
        patch.setattr("capaboost_vit.training.result.save_figure", lambda *_: None)
        studies.run(folder, trials)
    Study(folder).add([studies.trial("random", "5-9", 1, epochs=2, group="high")])
    return folder
