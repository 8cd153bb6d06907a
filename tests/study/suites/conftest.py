"""Small data, and a cache of `datasets` that is the test's own; nothing is asked of the hub."""

from __future__ import annotations

import sys
from pathlib import Path

import datasets
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # lets the tests of this folder import `planted`


@pytest.fixture(autouse=True)
def _own_cache_and_quiet(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()
