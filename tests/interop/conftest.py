"""Lets the tests of this folder import `bases` (small models, and what is done with them)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "nlu")]
