"""What the steps of a bound plan are known by in a journal: what of a step's key is the same for all documents."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline_engine.journal.keys import digest, digest_of
from pipeline_engine.plan import fingerprint
from pipeline_engine.schedule.step_run import BoundModel

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline_engine.plan import Plan, PlannedStep
    from pipeline_engine.schedule.step_run import Candidate

__all__ = ["PlanKeys", "StepIdentity", "changes_between"]

_log = logging.getLogger("pipeline_engine")


@dataclass(frozen=True, slots=True)
class StepIdentity:
    """Say what a step is known by, whatever its inputs are."""

    source: str | None
    """Its `version=`, or the hash of its function's source; None if there is neither."""
    is_versioned: bool
    schema: bytes
    """What describes its output."""
    models: tuple[str, ...]
    """Who is asked, in order: the hashes of all that makes a difference to their answers."""
    parts: Mapping[str, Any] = field(repr=False)
    """What a change of the step would change, by names that people understand."""


class PlanKeys:
    """Hold the identities of a plan's steps, and what was found out about their prompts."""

    def __init__(self, plan: Plan, candidates: Sequence[Sequence[Candidate | None]]) -> None:
        self.steps = tuple(_identity(step, candidates[step.index], plan) for step in plan.steps)
        self.parts = {step.name: identity.parts for step, identity in zip(plan.steps, self.steps, strict=True)}
        """What each step is, for those who compare two versions of a pipeline."""
        self.plan = digest_of(self.parts)
        """The fingerprint of the plan and its models."""
        self.rendered: set[int] = set()
        """The steps whose prompt was rendered twice, to see whether it stays the same."""
        self.unstable: set[int] = set()
        """Those of which it did not: they are keyed by their inputs."""
        self._told: set[tuple[int, str]] = set()

    def tell_once(self, step: PlannedStep, what: str, reason: str) -> None:
        """Say once why the outputs of a step are not reused as they might be."""
        if (step.index, what) not in self._told:
            self._told.add((step.index, what))
            _log.warning("step %r: %s", step.name, reason)


def changes_between(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return how one version of a pipeline differs from another, a sentence for each step that does.

    Example:
        >>> changes_between({"title": {"prompt": "1f"}}, {"title": {"prompt": "2c"}, "summary": {}})
        ["step 'title': its prompt has changed", "step 'summary' is new"]
    """
    changes = []
    for name, parts in after.items():
        if name not in before:
            changes.append(f"step {name!r} is new")
            continue
        told = [_change(part, before[name].get(part), parts.get(part)) for part in {**before[name], **parts}]
        different = [text for text in told if text]
        if different:
            changes.append(f"step {name!r}: its {sentence(different)} changed")
    return changes + [f"step {name!r} is gone" for name in before if name not in after]


def _change(part: str, before: Any, after: Any) -> str:
    if before == after:
        return ""
    if part == "models" and isinstance(before, dict) and isinstance(after, dict):
        gone, new = [name for name in before if name not in after], [name for name in after if name not in before]
        if gone or new:
            return f"models ({', '.join(gone) or 'none'} → {', '.join(new) or 'none'})"
        return "models' parameters"
    return {"validation": "output's validation", "system": "system message"}.get(part, part)


def sentence(parts: Sequence[str]) -> str:
    """Return parts as a sentence would list them, with the verb that they take.

    Example:
        >>> sentence(["prompt"]), sentence(["models"]), sentence(["prompt", "output"])
        ('prompt has', 'models have', 'prompt and output have')
    """
    if len(parts) > 1:
        return f"{', '.join(parts[:-1])} and {parts[-1]} have"
    is_one = not parts[0].startswith(("models", "needs", "fallbacks"))
    return f"{parts[0]} {'has' if is_one else 'have'}"


def _identity(step: PlannedStep, candidates: Sequence[Candidate | None], plan: Plan) -> StepIdentity:
    source = step.version if step.version is not None else fingerprint(step.function)
    models = tuple(candidate.identity for candidate in candidates if isinstance(candidate, BoundModel))
    names = [candidate.name for candidate in candidates if isinstance(candidate, BoundModel)]
    schema = step.output.schema_json or step.output.name.encode()
    sources = [given.name for given in plan.inputs] + [other.name for other in plan.steps]
    parts = {
        "kind": step.kind,
        "prompt" if step.kind == "llm" else "function": source,
        "output": digest(schema),
        "validation": _type_source(step.output.type),
        "models": dict(zip(names, models, strict=True)),
        "needs": {need.parameter: sources[need.source] for need in step.needs},
        "each": None if step.each is None else sources[step.each],
        "when": None if step.when is None else fingerprint(step.when.function),
        "check": None if step.check is None else fingerprint(step.check.function),
        "accept": None if step.accept is None else fingerprint(step.accept),
        "system": step.system,
        "truncated": step.truncated,
        "retry": step.retry.repair,
        "fallbacks": [type(fallback).__name__ for fallback in step.fallbacks],
    }
    return StepIdentity(source, step.version is not None, schema, models, parts)


def _type_source(kind: Any) -> str | None:
    """Return the hash of what validates a type, if it is a class of somebody's own."""
    if not isinstance(kind, type) or kind.__module__ in ("builtins", "typing"):
        return None
    return fingerprint(kind)
