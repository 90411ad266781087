"""Look on while a batch runs: a picture for terminals, and a page on this machine."""

from pipeline_engine.live.showing import show_progress

__all__ = ["show_progress"]
