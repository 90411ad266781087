"""The pipeline against servers that nobody here wrote: `python -m tests.servers`, or `make servers`."""
