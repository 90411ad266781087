"""Users' test kit: models that answer from a script."""

from pipeline_engine.providers.scripted import InTurn, Reply, ScriptedModel, in_turn

__all__ = ["InTurn", "Reply", "ScriptedModel", "in_turn"]
