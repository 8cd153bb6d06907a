"""Runs of runs: what is built on top of `run.py`."""
