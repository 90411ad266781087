"""One document's run and its journal: what it takes from there, what it tells it, and what waits until it is kept.

A step's output is handed on only when it is durable, so that nothing ever depends on what a crash would take
back. Nobody waits for that in a task: the journal calls, and the run goes on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from pydantic_core import ValidationError

from pipeline_engine.errors import JournalError
from pipeline_engine.journal.keys import call_key
from pipeline_engine.schedule.judging import billing_of, checked, fault_of, judged
from pipeline_engine.schedule.outside import hold_clock_for, journal_work
from pipeline_engine.schedule.replies import json_bytes, pack_prompt, read_reply, reply_bytes, usage_parts
from pipeline_engine.schedule.step_keys import StepKeys
from pipeline_engine.schedule.step_run import BoundModel
from pipeline_engine.values import (
    NO_ITEM,
    RUNNING_STEP,
    AttemptEnded,
    AttemptSent,
    AttemptStarted,
    CachedReply,
    CallFinished,
    Completed,
    Completion,
    Embeddings,
    Fault,
    FindReply,
    OutputAccepted,
    OutputRestored,
    ReplyCached,
    Usage,
    WaitEnded,
    WaitStarted,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline_engine.schedule.execution import Execution
    from pipeline_engine.schedule.plan_keys import PlanKeys
    from pipeline_engine.schedule.recall import Recall
    from pipeline_engine.schedule.state import Decision
    from pipeline_engine.schedule.step_run import StepRun
    from pipeline_engine.values import Answer, Cost, Entry, Journal, SavedOutput

__all__ = ["BoundJournal", "Journaling"]


@dataclass(frozen=True, slots=True)
class BoundJournal:
    """Say which document of a journal a run works on, and what is known of it."""

    journal: Journal
    keys: PlanKeys
    pipeline: str
    document: str
    batch: str
    run: str
    fence: int
    recall: Recall
    wall_time_at_zero: float
    """What the run's clock must be added to, for times that people read."""
    inputs_at: str | None = None
    """Where the journal keeps the document's inputs: the hash of their blob."""
    takes_fallbacks: bool = True
    """Whether outputs that came from a fallback are reused."""
    is_probe: bool = False
    """Whether the run is only to find out if all that it would do was done before: it does and writes nothing."""
    left_out: list[StepRun] | None = None
    """Given to a rehearsal, which takes what is there and runs nothing: where it puts what would have to be run."""
    spoilt: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)
    """The steps of which something has failed, by their index, and the keys of the calls that have led to it."""


class Journaling:
    """Let one run take from its journal what is there, and keep what it makes.

    Args:
        execution: The run.
        bound: Its document in the journal.
    """

    def __init__(self, execution: Execution, bound: BoundJournal) -> None:
        self.execution = execution
        self.bound = bound
        self.error: JournalError | None = None
        """What has ended the journal."""
        self._keys = StepKeys(execution, bound.keys)
        self.has_missed = False
        """Whether something was not found; what a probe is for."""
        self._committing: dict[StepRun, None] = {}
        self._is_closed = False
        self._texts = {
            given.name: value
            for given, value in zip(execution.plan.inputs, execution.state.values, strict=False)
            if isinstance(value, str)
        }

    # Before an attempt: what is there already

    def recalled(self, ready: list[StepRun], now: float, more: list[Decision]) -> list[StepRun]:
        """Let steps that are about to start take what the journal has; return those that must be tried."""
        fresh = [step_run for step_run in ready if not step_run.is_recalled]
        if not fresh:
            return ready
        recall, gone, is_fresh = self.bound.recall, set(), set(fresh)
        missed: list[StepRun] = []
        for step_run in fresh:
            step_run.is_recalled = True
            step_run.step_key = self._keys.key(step_run)
            if recall.is_empty:
                continue
            name, item = step_run.step.name, _item(step_run)
            saved = recall.own_output(name, item, step_run.step_key)
            if saved is not None and self._restore(step_run, saved, now, more, is_own=True):
                gone.add(step_run)
            else:
                recall.release(name, item)
                missed.append(step_run)
        if self.bound.is_probe and (missed or recall.is_empty):
            self._end_probe()
            return []
        # Only when all of them have looked for their own may one take what another has left.
        for step_run in missed:
            saved = recall.moved_output(step_run.step_key)
            if saved is not None and self._restore(step_run, saved, now, more, is_own=False):
                gone.add(step_run)
        left = []
        for step_run in ready:
            if step_run in gone:
                continue
            if step_run in is_fresh and step_run.step.kind != "function":
                if self.execution.is_ending or (
                    not self.replays(step_run, now, more)
                    and not self.looks_up(step_run, now, more)
                    and self.execution.may_wait(step_run, now, more)
                ):
                    left.append(step_run)
            else:
                left.append(step_run)
        return [] if self.leaves_out(*left) else left

    def leaves_out(self, *step_runs: StepRun) -> bool:
        """Take note of what would have to be run, if this is only a rehearsal; return whether it is."""
        if self.bound.left_out is None:
            return False
        self.bound.left_out.extend(step_runs)
        return True

    def _restore(
        self, step_run: StepRun, saved: SavedOutput, now: float, more: list[Decision], *, is_own: bool
    ) -> bool:
        """Complete a step with an output that was saved; return whether it still is one."""
        step, recall = step_run.step, self.bound.recall
        if not self.bound.takes_fallbacks and (saved.via or "").startswith(("fallback:", "budget:")):
            recall.give_back(saved)
            return False
        value = self._read(step_run, saved)
        if value is _NOTHING:
            recall.give_back(saved)
            return False
        outcome = Completed(value, saved.via)
        step_run.call_keys = saved.calls
        data = self._keys.json_of(step, value, is_read_back=not saved.calls)
        is_latest = recall.is_latest(saved)  # it may be that of an earlier version, which is back
        if self.bound.is_probe and (data != saved.output or not is_latest):
            return False  # an edited validator makes something else of it
        self.execution.emit(OutputRestored(now, step.name, step_run.item))
        if is_own and is_latest and (data == saved.output or data is None):
            self._keys.remember(step_run, data)
            self.execution.settle(step.index, step_run.item, outcome, now, more)
        else:
            self.accept(step_run, outcome, now, more)
        return True

    def _read(self, step_run: StepRun, saved: SavedOutput) -> Any:
        """Return a saved output as it is judged today; _NOTHING if it would not be accepted any more."""
        step = step_run.step
        call = self.bound.recall.call(saved.calls[-1]) if saved.calls else None
        running = RUNNING_STEP.set(step_run)
        try:
            if call is not None:
                # The raw reply is the truth: an edited validator has its say.
                error, value = judged(step, read_reply(call.reply), step_run.arguments)
            elif saved.output:
                error, value = None, step.output.from_json(saved.output)
            else:
                return _NOTHING
            if error is None and step.check is not None:
                arguments, keywords = self.execution.state.arguments(step.check.needs, step_run.item)
                error = checked(step, step.check, value, arguments, keywords)
        except (ValidationError, ValueError, TypeError):
            return _NOTHING
        finally:
            RUNNING_STEP.reset(running)
        return _NOTHING if error is not None else value

    def replays(self, step_run: StepRun, now: float, more: list[Decision]) -> bool:
        """Let a call that was made and paid for before have its reply again; return whether there was one."""
        candidate = step_run.candidate
        if not isinstance(candidate, BoundModel):
            return False
        request = self._keys.request(step_run, candidate)
        if step_run.ordinal is not None and step_run.ordinal[0] == request:
            return False  # it has asked this already, and got no reply: the same call is sent again
        recall = self.bound.recall
        saved = recall.reply(step_run.step.name, _item(step_run), request)
        if saved is None:
            step_run.ordinal = request, recall.next_ordinal(request)
            return False
        step_run.ordinal = None
        step_run.call_keys = (*step_run.call_keys, saved.key)
        step_run.last_reply = saved.reply
        self._take_reply(step_run, saved.reply, now, more, is_replayed=True)
        return True

    def looks_up(self, step_run: StepRun, now: float, more: list[Decision]) -> bool:
        """Ask the journal's cache for a reply to an equal call of any document; return whether that is what follows."""
        step, ordinal = step_run.step, step_run.ordinal
        if step.cache is None or step_run.is_repair or step_run.cached_as is not None or ordinal is None:
            return False
        step_run.cached_as = (step.cache.namespace, *ordinal)
        answers = self._submit([FindReply(*step_run.cached_as)], partial(self._looked_up, step_run))
        if answers is not None:
            return self._take_cached(step_run, answers[0], now, more)
        if self.error is None:
            self.execution.emit(WaitStarted(now, step.name, step_run.item, "shared"))
            self.execution.wait(step_run)
        return True

    def _looked_up(self, step_run: StepRun, answers: Sequence[Answer]) -> None:
        execution = self.execution
        if step_run not in execution.waiting or execution.is_ending:
            return  # its deadline came meanwhile, or its step's end, or the run's
        execution.resume(step_run)
        now = execution.scheduler.now()
        execution.emit(WaitEnded(now, step_run.step.name, step_run.item))
        more: list[Decision] = []
        if self._take_cached(step_run, answers[0], now, more):
            execution.go_on(more, now)
        else:
            execution.come_back(step_run, now)
        execution.scheduler.dispatch()

    def _take_cached(self, step_run: StepRun, found: Answer, now: float, more: list[Decision]) -> bool:
        if not isinstance(found, CachedReply):
            return False
        self._take_reply(step_run, found.reply, now, more, is_replayed=False)
        return True

    def _take_reply(
        self, step_run: StepRun, reply: bytes, now: float, more: list[Decision], *, is_replayed: bool
    ) -> None:
        """Let a step have a reply that was paid for before, as if it had just come."""
        execution, step = self.execution, step_run.step
        step_run.attempt += 1
        step_run.slot_at = now
        execution.emit(
            AttemptStarted(
                now,
                step.name,
                step_run.item,
                step_run.attempt,
                step_run.model_name,
                step_run.is_repair,
                is_shared=True,
                is_replayed=is_replayed,
            )
        )
        running = RUNNING_STEP.set(step_run)
        try:
            execution.conclude(step_run, read_reply(reply), None, now, more, is_shared=True, is_replayed=is_replayed)
        finally:
            RUNNING_STEP.reset(running)

    # Around an attempt: what it tells

    def attempt_sent(self, step_run: StepRun) -> None:
        """Tell that a call goes out: if no more is heard of it, it may have been billed."""
        self._submit([AttemptSent(*self._attempt(step_run), step_run.model_name, self._wall(step_run.slot_at))])

    def attempt_ended(self, step_run: StepRun, error: Exception | None, now: float) -> None:
        """Tell that an attempt has ended without a reply; without an error it was cancelled."""
        fault = Fault("cancelled", "cancelled from outside") if error is None else fault_of(error)
        told = (fault.kind, fault.message, fault.status)
        billed = billing_of(error) if step_run.step.kind != "function" else "no"
        started = self._wall(step_run.slot_at)
        entry = AttemptEnded(*self._attempt(step_run), step_run.model_name, started, self._wall(now), *told, billed)
        self._submit([entry])

    def call_finished(
        self, step_run: StepRun, answer: Completion | Embeddings, now: float, cost: Cost, *, is_shared: bool
    ) -> None:
        """Keep a reply that was paid for: nothing that follows from it happens before it is durable."""
        candidate = step_run.answered_by or step_run.candidate
        if not isinstance(candidate, BoundModel):
            raise AssertionError("a reply came from no model")
        request = self._keys.request(step_run, candidate)
        known = step_run.ordinal
        ordinal = known[1] if known is not None and known[0] == request else self.bound.recall.next_ordinal(request)
        step_run.ordinal = None
        key = call_key(request, ordinal)
        step_run.call_keys = (*step_run.call_keys, key)
        # A reply that an equal call of another document has paid for costs this one nothing.
        usage, place = Usage() if is_shared else answer.usage, self._attempt(step_run)
        step_run.last_reply = reply_bytes(answer)
        entry = CallFinished(
            place[0],
            place[1],
            key,
            request,
            ordinal,
            self.bound.batch,
            *place[2:],
            candidate.name,
            self._prompt(step_run),
            step_run.last_reply,
            json_bytes(usage_parts(usage)),
            usage.total_tokens if step_run.step.kind == "llm" else usage.input_tokens,
            round(cost.usd * 1_000_000) if cost.is_known else None,
            self._wall(now),
        )
        step_run.is_unsaved = True
        self._submit([entry])

    def _prompt(self, step_run: StepRun) -> bytes:
        if step_run.step.kind == "embed":
            return json_bytes([["texts", *step_run.arguments[0]]])
        return pack_prompt(step_run.messages, self._texts, self.bound.inputs_at)

    def _attempt(self, step_run: StepRun) -> tuple[str, str, str, str, int, int]:
        bound = self.bound
        return bound.pipeline, bound.document, bound.run, step_run.step.name, _item(step_run), step_run.attempt

    def _wall(self, at: float) -> float:
        return self.bound.wall_time_at_zero + at

    # After an attempt: what waits until it is kept

    def accept(self, step_run: StepRun, outcome: Completed[Any], now: float, more: list[Decision]) -> None:
        """Keep an output; the step is settled when that is durable."""
        step = step_run.step
        candidate = step_run.candidate
        is_replied = step.kind != "function" and not (outcome.via or "").startswith("fallback:value")
        is_replied = is_replied and (candidate is None or isinstance(candidate, BoundModel))
        data = self._keys.json_of(step, outcome.value, is_read_back=not is_replied)
        self._keys.remember(step_run, data)
        entry = OutputAccepted(
            self.bound.pipeline,
            self.bound.document,
            self.bound.fence,
            step.name,
            _item(step_run),
            step_run.step_key or "",
            data or b"",
            step_run.call_keys if is_replied else (),
            outcome.via,
            self.bound.run,
            self._wall(now),
        )
        entries: list[Entry] = [entry]
        if step_run.cached_as is not None and outcome.via is None:
            name = step_run.model_name or ""
            entries.append(ReplyCached(*step_run.cached_as, name, step_run.last_reply, self._wall(now)))
        answers = self._submit(entries, partial(self._accepted, step_run, outcome))
        if answers is not None:
            if answers[0]:
                self.execution.settle(step.index, step_run.item, outcome, now, more)
            else:
                self._lose()
        elif self.error is None:
            self._committing[step_run] = None
            self.execution.emit(WaitStarted(now, step.name, step_run.item, "commit"))

    def _accepted(self, step_run: StepRun, outcome: Completed[Any], answers: Sequence[Answer]) -> None:
        self._committing.pop(step_run, None)
        if not answers[0]:
            self._lose()
            return
        now = self.execution.scheduler.now()
        more: list[Decision] = []
        self.execution.settle(step_run.step.index, step_run.item, outcome, now, more)
        self.execution.go_on(more, now)

    def holds_up(self, step_run: StepRun, now: float) -> bool:
        """Let a step wait until its last reply is durable, before anything further is sent; return whether it does."""
        if not step_run.is_unsaved:
            return False
        step_run.is_unsaved = False
        if self._submit([], partial(self._saved, step_run)) is not None or self.error is not None:
            return False
        self.execution.emit(WaitStarted(now, step_run.step.name, step_run.item, "commit"))
        self.execution.wait(step_run)
        return True

    def _saved(self, step_run: StepRun, _answers: Sequence[Answer]) -> None:
        execution = self.execution
        if step_run not in execution.waiting or execution.is_ending:
            return  # its deadline came meanwhile, or its step's end, or the run's
        execution.resume(step_run)
        now = execution.scheduler.now()
        execution.emit(WaitEnded(now, step_run.step.name, step_run.item))
        execution.come_back(step_run, now)
        execution.scheduler.dispatch()

    def may_call(self, step_run: StepRun, now: float) -> bool:
        """Return whether a call may be paid for; if not, let the step wait until that is known again."""
        bound = self.bound
        if bound.journal.may_call(bound.pipeline, bound.document):
            return True
        execution = self.execution
        if bound.journal.has_lost(bound.pipeline, bound.document):
            execution.waiting[step_run] = None
            self._lose()
            return False
        execution.emit(WaitStarted(now, step_run.step.name, step_run.item, "lease"))
        execution.wait(step_run)
        if step_run.timer is not None:
            execution.scheduler.cancel(step_run.timer)
        step_run.timer = execution.scheduler.call_at(now + _LEASE_PAUSE, partial(execution.backed_off, step_run))
        return False

    def failed(self, step_run: StepRun) -> None:
        """Take note that a step or item has failed: when the document has ended, its replies serve no further try.

        Until then they do: what goes on after a crash fails as it did, and pays for nothing.
        """
        if step_run.call_keys:
            self.bound.spoilt.append((step_run.step.index, step_run.call_keys))

    async def flush(self) -> None:
        """Return when all that was told is durable, and the steps that waited for it are settled; bounded."""
        if self._committing and self.error is None:
            with (
                journal_work(self.bound.journal),
                trio.CancelScope(shield=True, deadline=trio.current_time() + _FLUSH_SECONDS),
            ):
                try:
                    await self.bound.journal.write()
                except JournalError as error:
                    self._fail(error)

    def close(self) -> None:
        """Take no further answers: the run is over."""
        self._is_closed = True

    # The journal itself

    def _submit(
        self, entries: Sequence[Entry], done: Callable[[Sequence[Answer]], None] | None = None
    ) -> Sequence[Answer] | None:
        # Also after a failure: the journal spills what was paid for meanwhile beside it.
        release = hold_clock_for(self.bound.journal)
        try:
            answers = self.bound.journal.submit(
                entries, None if done is None else partial(self._answered, done, release)
            )
        except JournalError as error:
            release()
            self._fail(error)
            return None
        if done is None or answers is not None:
            release()  # nothing waits for the journal
        return answers

    def _answered(
        self,
        then: Callable[[Sequence[Answer]], None],
        release: Callable[[], None],
        answers: Sequence[Answer] | Exception,
    ) -> None:
        release()
        if self._is_closed:
            return
        if isinstance(answers, JournalError):
            self._fail(answers)
        elif isinstance(answers, Exception):
            raise answers
        else:
            # It is the journal that calls: what the steps see are their own run's context variables.
            self.execution.in_context(partial(then, answers))

    def _end_probe(self) -> None:
        self.has_missed = True
        self.execution.interrupt("something is to be done")

    def _fail(self, error: JournalError) -> None:
        """End the run: it never goes on without its journal."""
        if self.error is None:
            self.error = error
            self.execution.interrupt("the journal can be written no more")

    def _lose(self) -> None:
        self.execution.interrupt("another process has taken over the document")


_NOTHING = object()
_LEASE_PAUSE = 0.05
"""Seconds after which a call asks again whether it may be made."""
_FLUSH_SECONDS = 30.0


def _item(step_run: StepRun) -> int:
    return NO_ITEM if step_run.item is None else step_run.item
