"""Policies in motion: what a failure leads to. Pure decisions; the scheduler carries them out."""

from pipeline_engine.resilience.retry import Again, is_throttled, is_transient, next_try

__all__ = ["Again", "is_throttled", "is_transient", "next_try"]
