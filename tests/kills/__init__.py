"""Processes that are killed while they work: what their journals keep, and what is paid for twice."""
