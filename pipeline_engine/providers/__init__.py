"""Talking to models: the only floor that knows HTTP."""

from pipeline_engine.providers.resolve import UnusableModelError, open_model, providers
from pipeline_engine.providers.secrets import Secret

__all__ = ["Secret", "UnusableModelError", "open_model", "providers"]
