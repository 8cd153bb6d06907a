"""Lets the tests of this folder import `small` (small random models) and `written` (encoders written out by hand)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
