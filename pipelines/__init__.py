"""Pipelines to run and to copy from: they use the front door only, as yours will.

- `document.py`: five steps over one document, some of which wait for others.
- `map_reduce.py`: long documents, cut into chunks that are read at the same time.
- `triage.py`: branches by category that join again.
"""
