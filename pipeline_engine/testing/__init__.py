"""Users' test kit: scripted and recorded models, faults, virtual time, and assertions on timing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline_engine.declare import Constant, Empirical, LogNormal, Uniform
    from pipeline_engine.providers.scripted import Fault, InTurn, Reply, ScriptedModel, in_turn
    from pipeline_engine.testing.clock import virtual_time
    from pipeline_engine.testing.faults import (
        broken_off,
        http_error,
        invalid_json,
        never,
        overloaded,
        rate_limited,
        refused,
        server_error,
        truncated,
        unauthorized,
        unreachable,
    )
    from pipeline_engine.testing.recording import RecordedModel
    from pipeline_engine.testing.timing import (
        assert_attempts,
        assert_ended_at,
        assert_no_overlap,
        assert_order,
        assert_overlap,
        assert_started_at,
        assert_waited,
    )

# Where each name lives: importing this package is quick, and a name is loaded when it is first used.
_ROOMS = {
    "declare": ["Constant", "Empirical", "LogNormal", "Uniform"],
    "providers.scripted": ["Fault", "InTurn", "Reply", "ScriptedModel", "in_turn"],
    "testing.clock": ["virtual_time"],
    "testing.faults": [
        "broken_off",
        "http_error",
        "invalid_json",
        "never",
        "overloaded",
        "rate_limited",
        "refused",
        "server_error",
        "truncated",
        "unauthorized",
        "unreachable",
    ],
    "testing.recording": ["RecordedModel"],
    "testing.timing": [
        "assert_attempts",
        "assert_ended_at",
        "assert_no_overlap",
        "assert_order",
        "assert_overlap",
        "assert_started_at",
        "assert_waited",
    ],
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "Constant",
    "Empirical",
    "Fault",
    "InTurn",
    "LogNormal",
    "RecordedModel",
    "Reply",
    "ScriptedModel",
    "Uniform",
    "assert_attempts",
    "assert_ended_at",
    "assert_no_overlap",
    "assert_order",
    "assert_overlap",
    "assert_started_at",
    "assert_waited",
    "broken_off",
    "http_error",
    "in_turn",
    "invalid_json",
    "never",
    "overloaded",
    "rate_limited",
    "refused",
    "server_error",
    "truncated",
    "unauthorized",
    "unreachable",
    "virtual_time",
]


def __getattr__(name: str) -> Any:
    room = _ROOM_OF.get(name)
    if room is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"pipeline_engine.{room}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
