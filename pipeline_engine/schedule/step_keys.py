"""What one run's steps and calls are known by in a journal: the keys, made of hashes that are reckoned once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticSerializationError, to_json

from pipeline_engine.declare import as_messages
from pipeline_engine.journal.keys import digest, digest_of, message_parts, request_key, step_key
from pipeline_engine.plan import plain_to_json
from pipeline_engine.schedule.replies import json_bytes
from pipeline_engine.values import RUNNING_STEP, Completed

if TYPE_CHECKING:
    from pipeline_engine.plan import Need, PlannedStep
    from pipeline_engine.schedule.execution import Execution
    from pipeline_engine.schedule.plan_keys import PlanKeys
    from pipeline_engine.schedule.step_run import BoundModel, StepRun

__all__ = ["StepKeys"]


class StepKeys:
    """Know the steps of one run by what makes their outputs, and its calls by what they ask.

    Args:
        execution: The run.
        keys: What is the same for all documents.
    """

    def __init__(self, execution: Execution, keys: PlanKeys) -> None:
        self.execution = execution
        self.keys = keys
        self._plan = execution.plan
        self._offset = len(execution.plan.inputs)
        self._hashes: dict[int, str | None] = {}
        self._item_hashes: dict[int, dict[int, str | None]] = {}

    def key(self, step_run: StepRun) -> str | None:
        """Return what a step's output is known by; None if it cannot be, which is told once."""
        step = step_run.step
        identity, keys = self.keys.steps[step.index], self.keys
        made_by: list[Any]
        if step.kind == "embed":
            return step_key(["texts", self._asked(step_run)], identity.schema, identity.models, {})
        if step.kind == "llm" and not identity.is_versioned and self._is_stable(step_run):
            made_by = ["prompt", self._asked(step_run)]
        elif identity.source is None:
            keys.tell_once(
                step,
                "source",
                "its source cannot be read, so its outputs are not reused from the journal. Give it version=.",
            )
            return None
        else:
            made_by = ["source", identity.source]
        inputs: dict[str, str] = {}
        for need in step.needs:
            known = self._hash_of(need, step_run.item)
            if known is None:
                keys.tell_once(
                    step,
                    "inputs",
                    f"its need {need.parameter!r} has a value that JSON cannot hold, so its outputs are not reused "
                    "from the journal. Give that value a type that pydantic can write and read.",
                )
                return None
            inputs[need.parameter] = known
        return step_key(made_by, identity.schema, identity.models, inputs)

    def _is_stable(self, step_run: StepRun) -> bool:
        """Whether a prompt function gives the same prompt for the same inputs; tried once for each step."""
        step, keys = step_run.step, self.keys
        if step.index not in keys.rendered:
            keys.rendered.add(step.index)
            running = RUNNING_STEP.set(step_run)
            try:
                again = as_messages(step.function(*step_run.arguments, **(step_run.keywords or {})), step.system)
            except Exception:  # noqa: BLE001 - what raises the second time is not the same
                again = ()
            finally:
                RUNNING_STEP.reset(running)
            if again != step_run.prompt:
                keys.unstable.add(step.index)
                keys.tell_once(
                    step,
                    "prompt",
                    "its prompt is not the same when it is rendered twice, so the journal knows its calls by the "
                    "step's inputs. Take what changes (the time, chance) out of the prompt, or make it an input.",
                )
        return step.index not in keys.unstable

    def _asked(self, step_run: StepRun) -> str:
        """Return the hash of what a call asks, reckoned once for each conversation."""
        of: Any = step_run.arguments[0] if step_run.step.kind == "embed" else step_run.messages
        known = step_run.asked
        if known is None or known[0] is not of:
            parts = list(of) if step_run.step.kind == "embed" else message_parts(of)
            known = step_run.asked = of, digest_of(parts)
        return known[1]

    def request(self, step_run: StepRun, model: BoundModel) -> str:
        """Return the hash of a request, reckoned once for each conversation and model."""
        of: Any = step_run.arguments if step_run.step.kind == "embed" else step_run.messages
        known = step_run.requested
        if known is None or known[0] is not of or known[1] is not model:
            known = step_run.requested = of, model, self._hash_of_request(step_run, model)
        return known[2]

    def _hash_of_request(self, step_run: StepRun, model: BoundModel) -> str:
        step, identity = step_run.step, self.keys.steps[step_run.step.index]
        asked: list[Any] = [self._asked(step_run)]
        is_by_inputs = step.index in self.keys.unstable or (identity.is_versioned and step.kind == "llm")
        if is_by_inputs and step_run.step_key is not None:
            further = step_run.messages[len(step_run.prompt) :]
            asked = ["inputs", step_run.step_key, message_parts(further)]
        if getattr(model.model, "reads_sources", False):
            asked.append(list(self.execution.sources_of(step_run)))
        return request_key(model.identity, asked, step.output.schema_json, step.output.name)

    def _hash_of(self, need: Need, item: int | None) -> str | None:
        """Return the hash of what a need gives; None if it has none."""
        source, state = need.source, self.execution.state
        index = source - self._offset
        if need.is_item and item is not None:
            if index >= 0 and self._plan.steps[index].is_mapped:
                return self._item_hashes.get(index, {}).get(item)
            return _hash_of_value(state.values[source][item])
        if index >= 0 and not isinstance(state.outcomes[index], Completed):
            return _hash_of_value(need.default)
        if source not in self._hashes:
            self._hashes[source] = self._hash_of_source(source, index)
        return self._hashes[source]

    def _hash_of_source(self, source: int, index: int) -> str | None:
        value = self.execution.state.values[source]
        if index < 0:
            try:
                return digest(self._plan.inputs[source].output.to_json(value))
            except ValueError:
                return None
        if not (self._plan.steps[index].is_mapped or self._plan.steps[index].kind == "embed"):
            return None
        hashes = self._item_hashes.get(index, {})
        outcomes = self.execution.state.items(index)
        kept = [hashes.get(item) for item, outcome in enumerate(outcomes) if isinstance(outcome, Completed)]
        return None if None in kept else digest_of(kept)

    def json_of(self, step: PlannedStep, value: Any, *, is_read_back: bool) -> bytes | None:
        """Return an output as JSON; None if JSON would not give it back.

        Args:
            step: Whose output it is.
            value: The output.
            is_read_back: Whether it is this that a later run gets, and not what is made of the reply anew.
        """
        try:
            if step.kind == "embed":
                return json_bytes(value)
            data = step.output.to_json(value)
            if is_read_back and step.output.from_json(data) != value:
                raise ValueError("what is read back is not equal to it")
        except (ValueError, TypeError, RecursionError) as error:
            self.keys.tell_once(
                step,
                "output",
                f"its output is not kept in the journal, so it is made again by each run: {error}. "
                "Declare a type that pydantic can write and read.",
            )
            return None
        return data

    def remember(self, step_run: StepRun, data: bytes | None) -> None:
        """Take note of an output as JSON, whose hash is a part of the keys of the steps that need it."""
        known = None if data is None else digest(data)
        if step_run.item is None:
            self._hashes[self._offset + step_run.step.index] = known
        else:
            self._item_hashes.setdefault(step_run.step.index, {})[step_run.item] = known


def _hash_of_value(value: Any) -> str | None:
    """Return the hash of a value whose type nobody has declared."""
    try:
        return digest(to_json(value))
    except (PydanticSerializationError, UnicodeEncodeError, ValueError, TypeError, RecursionError):
        pass
    try:
        return digest(plain_to_json(value))  # it may hold lone surrogates
    except ValueError:
        return None
