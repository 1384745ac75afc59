"""Benchmarks: paired runs against plain generation; `python benchmarks/run.py`."""
