"""The model that needs no network: it extracts from the text and says so. It is not a language model."""

from pipeline_engine.providers.offline.model import ExtractiveModel

__all__ = ["ExtractiveModel"]
