"""Calls that wait for other calls, carried out for one run: who goes first, who follows, who is told."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from pipeline_engine.schedule.sharing import Warming, shared_prefix
from pipeline_engine.schedule.step_run import BoundModel
from pipeline_engine.values import RUNNING_STEP, AttemptStarted, Completion, Delta, Restarted, WaitEnded, WaitStarted

if TYPE_CHECKING:
    from collections.abc import Hashable

    from pipeline_engine.schedule.execution import Execution
    from pipeline_engine.schedule.step_run import StepRun

__all__ = ["Linking"]


class Linking:
    """Let the calls of one run share replies with equal ones, and wait for one that warms a provider's cache."""

    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self._warmings: dict[Hashable, Warming] = {}
        self._equal_calls: dict[Hashable, int] = {}

    def waits_for_another(self, step_run: StepRun, now: float) -> bool:
        """Let a call join its equals, or those that begin with the same document; return whether it waits."""
        step, candidate = step_run.step, step_run.candidate
        if step.kind != "llm" or not isinstance(candidate, BoundModel):
            return False
        if step.cache is not None and step_run.flight is None:
            sources = self.execution.sources_of(step_run) if getattr(candidate.model, "reads_sources", False) else ()
            request = (step.cache.namespace, id(candidate.model), step_run.messages, step.output.schema_json, sources)
            if request not in step_run.ordinals:
                # Equal calls of one document stay apart: each joins its like of other documents.
                ordinal = self._equal_calls.get(request, 0)
                step_run.ordinals = {**step_run.ordinals, request: ordinal}
                self._equal_calls[request] = ordinal + 1
            leader = self.execution.scheduler.flights.join((request, step_run.ordinals[request]), step_run)
            if leader is not None:
                self._hurry(leader, step_run.priority)
                self._wait_for_another(step_run, "shared", now)
                return True
        if step.warm is not None and step_run.warming is None:
            prefix = shared_prefix(step_run.messages)
            if prefix is not None:
                warming = self._warmings.setdefault((id(candidate.model), prefix), Warming())
                if not warming.is_warm:
                    step_run.warming = warming
                    if warming.leader is not None:
                        warming.waiting[step_run] = None
                        self._wait_for_another(step_run, "warm", now)
                        return True
                    warming.leader = step_run
        return False

    def _hurry(self, leader: StepRun, priority: int) -> None:
        """Let a call go as early as the most urgent one that waits for it would."""
        if priority <= leader.priority:
            return
        leader.urgency = priority
        if leader.ticket:
            self.execution.scheduler.queue.withdraw(leader)
            self.execution.scheduler.queue.push(leader)
        if leader.warming is not None and leader.warming.leader is not None:
            self._hurry(leader.warming.leader, priority)  # what it waits for itself

    def _wait_for_another(self, step_run: StepRun, cause: Literal["shared", "warm"], now: float) -> None:
        self.execution.emit(WaitStarted(now, step_run.step.name, step_run.item, cause))
        self.execution.wait(step_run)

    def send(self, step_run: StepRun) -> bool:
        """Let a call that waited for another one go its own way; False if its run is ending."""
        if self.execution.is_ending:
            return False
        self.execution.resume(step_run)
        now = self.execution.scheduler.now()
        self.execution.emit(WaitEnded(now, step_run.step.name, step_run.item))
        self.execution.come_back(step_run, now)
        return True

    def take_shared(self, step_run: StepRun, completion: Completion, now: float) -> None:
        """Let a call that followed an equal one take its reply, as if it had been its own."""
        if self.execution.is_ending:
            return
        step = step_run.step
        self.execution.resume(step_run)
        self.execution.emit(WaitEnded(now, step.name, step_run.item))
        step_run.attempt += 1
        if step.step_seconds is not None and step_run.deadline == math.inf:
            step_run.deadline = now + step.step_seconds
        started = AttemptStarted(
            now, step.name, step_run.item, step_run.attempt, step_run.model_name, step_run.is_repair, is_shared=True
        )
        self.execution.emit(started)
        step_run.first_token_at, step_run.blocked = None, 0.0
        if self.execution.follower is not None and step.is_streamed:
            if step_run.has_told:
                self.execution.follower.tell(Restarted(step.name, step_run.item))
            if completion.text:
                self.execution.follower.tell(Delta(step.name, step_run.item, completion.text))
            step_run.has_told = bool(completion.text)
        running = RUNNING_STEP.set(step_run)
        try:
            kept = self.execution.after_attempt(step_run, completion, None, now, is_shared=True)
        finally:
            RUNNING_STEP.reset(running)
        if kept is not None:
            self.execution.spawn(kept)

    def hand_on(self, step_run: StepRun, value: Any, error: Exception | None, now: float) -> None:
        """Let the calls that waited for this one go on: with its reply, or without it."""
        if error is None and isinstance(value, Completion):
            if step_run.warming is not None:
                self.has_warmed(step_run)
            for follower in self.execution.scheduler.flights.land(step_run):
                follower.execution.linking.take_shared(follower, value, now)
        else:
            self.part(step_run)

    def part(self, step_run: StepRun) -> None:
        """Let the calls that wait for this one go on without it: one of them goes ahead now."""
        successor = self.execution.scheduler.flights.leave(step_run) if step_run.flight is not None else None
        while successor is not None:
            if successor.flight is not None:
                for follower in successor.flight.followers:
                    self._hurry(successor, follower.priority)
            if successor.execution.linking.send(successor):
                break
            successor = self.execution.scheduler.flights.leave(successor)
        warming, step_run.warming = step_run.warming, None
        if warming is None:
            return
        warming.waiting.pop(step_run, None)
        if warming.leader is step_run:
            warming.leader = next(iter(warming.waiting), None)
            if warming.leader is not None and not self.execution.is_ending:
                del warming.waiting[warming.leader]
                for waiter in warming.waiting:
                    self._hurry(warming.leader, waiter.priority)
                self.send(warming.leader)

    def has_warmed(self, step_run: StepRun) -> None:
        """The provider has read what these calls share: let all of them go."""
        warming, step_run.warming = step_run.warming, None
        if warming is None:
            return
        warming.is_warm = True
        waiting, warming.waiting = warming.waiting, {}
        for waiter in waiting:
            waiter.warming = None
            self.send(waiter)
