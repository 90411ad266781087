"""A batch in a journal: which documents it may work on, what is known of them, and how they ended."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from pipeline_engine.errors import EarlierError, JournalError, ParkedError, PlanChangedError, ProviderError
from pipeline_engine.journal import canonical, digest
from pipeline_engine.journal.leases import Watch
from pipeline_engine.run.results import RunResult
from pipeline_engine.schedule import (
    BoundJournal,
    Recall,
    RunState,
    changes_between,
    journal_work,
    json_bytes,
    outcome_parts,
    usage_parts,
)
from pipeline_engine.values import (
    BatchBegun,
    BatchEnded,
    BatchOpened,
    Busy,
    CallsVoided,
    Claim,
    Claimed,
    Completed,
    DocumentEnded,
    Dropped,
    Ended,
    Failed,
    ProgressTold,
    RunRecorded,
    Skipped,
    Stopped,
    Suspected,
    pack_records,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline_engine.journal import JournalPlace
    from pipeline_engine.plan import Plan, PlannedStep
    from pipeline_engine.run.binding import BoundPlan
    from pipeline_engine.values import DocumentStatus, Entry, Journal, OnChange, Outcome, Redo, SavedCall, SavedOutput

__all__ = ["Admitted", "DurableBatch", "JournalOptions", "content_of"]

_POLL_SECONDS = 1.0
_FLUSH_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class JournalOptions:
    """Say how a batch uses its journal."""

    on_change: OnChange = "reuse"
    redo: Redo | None = None
    command: Mapping[str, Any] | None = None
    """How the batch was started, so that it can be again."""

    def __post_init__(self) -> None:
        if self.on_change not in ("reuse", "error", "keep", "new"):
            raise ValueError(f'on_change={self.on_change!r}: it is "reuse", "error", "keep" or "new".')
        if self.redo not in (None, "failed", "fallbacks"):
            raise ValueError(f'redo={self.redo!r}: it is "failed", "fallbacks" or None.')


class Admitted(NamedTuple):
    """A document that may be worked on."""

    claim: Claim
    calls: tuple[SavedCall, ...]
    """What was paid for before."""
    bound: BoundJournal

    @property
    def spent_usd(self) -> float:
        """What earlier runs have spent on it, in US dollars, as far as prices are known."""
        return sum(call.cost_micro_usd or 0 for call in self.calls) / 1_000_000

    @property
    def spent_tokens(self) -> int:
        """How many tokens earlier runs have spent on it."""
        return sum(call.tokens or 0 for call in self.calls)


class DurableBatch:
    """Let the documents of one batch be claimed, run and ended in a journal.

    Made by `begin`.
    """

    def __init__(
        self,
        place: JournalPlace,
        journal: Journal,
        bound: BoundPlan,
        options: JournalOptions,
        opened: BatchOpened,
        wall_time_at_zero: float,
    ) -> None:
        self.place = place
        self.journal = journal
        self.opened = opened
        self.batch = opened.batch
        self._bound = bound
        self._options = options
        self._wall_time_at_zero = wall_time_at_zero
        self._watch = Watch(getattr(place, "lease", math.inf))

    @classmethod
    async def begin(
        cls,
        place: JournalPlace,
        journal: Journal,
        bound: BoundPlan,
        options: JournalOptions,
        *,
        batch: str,
        is_single: bool,
        wall_time_at_zero: float,
    ) -> DurableBatch:
        """Begin a batch, or go on with one that has not ended.

        Raises:
            PlanChangedError: With `on_change="error"`, if the pipeline is not what it was.
            JournalError: If the journal has failed.
        """
        keys = bound.keys
        [opened] = await journal.write(
            BatchBegun(
                batch,
                bound.plan.name,
                keys.plan,
                canonical(keys.parts),
                json_bytes(dict(options.command or {})),
                _engine_version(),
                is_single,
                options.on_change == "error",
                wall_time_at_zero + trio.current_time(),
            )
        )
        if not isinstance(opened, BatchOpened):
            raise AssertionError("a batch that begins is opened or refused")
        if not opened.batch:
            raise PlanChangedError(bound.plan.name, changes_between(json.loads(opened.parts), keys.parts))
        return cls(place, journal, bound, options, opened, wall_time_at_zero)

    async def claim(
        self,
        key: str,
        values: Sequence[Any],
        run: str,
        *,
        source: str | None = None,
        redo: Redo | None = None,
        is_alone: bool = False,
    ) -> Admitted | RunResult | Busy | Suspected:
        """Ask for a document; return it, or its result if it has ended before, or who works on it.

        Raises:
            JournalError: If the journal has failed.
        """
        await self.journal.wait_for_room()
        plan = self._bound.plan
        data = _inputs_json(plan, values)
        keeps = self.place.documents == "store" and data is not None
        claim = Claim(
            plan.name,
            key,
            self.batch,
            self._bound.keys.plan,
            "" if data is None else digest(data),
            self._now(),
            data if keeps else None,
            source,
            self._options.on_change,
            redo or self._options.redo,
            is_alone=is_alone,
        )
        answer = await self._ask(claim)
        if isinstance(answer, Ended):
            if answer.status == "completed" and claim.on_change != "keep":
                # Nothing that can be seen from outside has changed; whether its prompts have, only they can tell.
                return self._admitted(claim, answer, run, is_probe=True)
            result = self._restored(answer, key, values, run)
            if result is not None:
                return result
            answer = await self._ask(claim._replace(again=True))
        if isinstance(answer, Busy | Suspected):
            return answer
        return self._admitted(claim, answer, run)

    async def claim_again(self, admitted: Admitted, run: str) -> Admitted | Busy | Suspected:
        """Ask for a document that has ended, and of which something is to be done all the same.

        Raises:
            JournalError: If the journal has failed.
        """
        answer = await self._ask(admitted.claim._replace(again=True))
        return answer if isinstance(answer, Busy | Suspected) else self._admitted(admitted.claim, answer, run)

    def _admitted(self, claim: Claim, answer: Claimed | Ended, run: str, *, is_probe: bool = False) -> Admitted:
        plan = self._bound.plan
        recall = Recall(
            answer.calls,
            answer.outputs,
            plan.index_of.keys(),
            is_by_name=claim.on_change == "keep",
        )
        bound = BoundJournal(
            self.journal,
            self._bound.keys,
            plan.name,
            claim.document,
            self.batch,
            run,
            answer.fence if isinstance(answer, Claimed) else 0,
            recall,
            self._wall_time_at_zero,
            claim.content if claim.inputs is not None else None,
            takes_fallbacks=claim.redo != "fallbacks",
            is_probe=is_probe,
        )
        return Admitted(claim, answer.calls, bound)

    async def _ask(self, claim: Claim) -> Any:
        answer = await self._write_claim(claim)
        if isinstance(answer, Busy) and self._watch.is_dead(answer.worker, answer.beat, trio.current_time()):
            answer = await self._write_claim(claim._replace(dead=(answer.worker, answer.beat)))
        return answer

    async def _write_claim(self, claim: Claim) -> Any:
        """Return the journal's answer; who is cancelled meanwhile leaves no document behind that nobody works on."""
        try:
            with journal_work(self.journal), trio.fail_after(_FLUSH_SECONDS) as scope:
                scope.shield = True  # a claim that is on its way cannot be taken back
                [answer] = await self.journal.write(claim)
        except trio.TooSlowError as error:
            raise JournalError(f"journal {self.place.name!r} has not answered for {_FLUSH_SECONDS:g} s") from error
        if isinstance(answer, Exception):
            raise answer
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
        except trio.Cancelled:
            if isinstance(answer, Claimed):
                self.journal.submit([self._ended(claim, answer.fence, "queued", {}, "", "")])
            raise
        return answer

    def _ended(
        self, claim: Claim, fence: int, status: DocumentStatus, outcomes: Mapping[str, Any], reason: str, run: str
    ) -> DocumentEnded:
        """Return the entry for a document that has ended without being run."""
        return DocumentEnded(
            claim.pipeline,
            claim.document,
            fence,
            status,
            json_bytes(dict(outcomes)),
            reason,
            0.0,
            b"{}",
            0,
            0,
            run,
            self._now(),
        )

    async def wait_for(self, key: str, values: Sequence[Any], run: str, **options: Any) -> Admitted | RunResult:
        """Ask for a document, which is run by itself, until nobody else works on it.

        Raises:
            JournalError: If the journal has failed.
        """
        while True:
            answer = await self.claim(key, values, run, **{**options, "is_alone": True})
            if not isinstance(answer, Busy | Suspected):
                return answer
            await trio.sleep(self.pause)  # only the other process knows when it will be done

    @property
    def pause(self) -> float:
        """Seconds after which somebody who waits for a document asks again."""
        return min(_POLL_SECONDS, getattr(self.place, "lease", math.inf) / 6)

    async def end(self, admitted: Admitted, result: RunResult, elapsed: float) -> bool:
        """Keep how a document ended; one that was stopped waits to be run again. Return whether it still was ours.

        Raises:
            JournalError: If the journal has failed.
        """
        cost, status, bound = result.cost, _status_of(result), admitted.bound
        entry: Entry = DocumentEnded(
            bound.pipeline,
            bound.document,
            bound.fence,
            status,
            json_bytes(_outcomes_of(result)),
            result.reason,
            elapsed,
            json_bytes(usage_parts(result.usage)),
            round(cost.usd * 1_000_000),
            cost.unpriced_calls,
            bound.run,
            self._now(),
        )
        told = RunRecorded(
            bound.pipeline, bound.document, bound.run, self.batch, pack_records(result.records), self._now()
        )
        # Replies that have led to a failure serve no further try. A dropped item is not tried again: its reply stays.
        outcomes = result.state.outcomes
        void = [key for step, keys in bound.spoilt if not isinstance(outcomes[step], Completed) for key in keys]
        is_over = bool(void) and status != "queued"
        voided = [CallsVoided(bound.pipeline, bound.document, tuple(void))] if is_over else []
        # Bounded: a journal that hangs must not keep somebody here who wants to leave.
        with journal_work(self.journal), trio.CancelScope(shield=True, deadline=trio.current_time() + _FLUSH_SECONDS):
            return (await self.journal.write(*voided, told, entry))[-1] is not False
        return True  # nobody can tell

    async def refuse(self, key: str, error: Exception, run: str) -> None:
        """Keep that a document could not be run at all.

        Raises:
            JournalError: If the journal has failed.
        """
        claim = Claim(self._bound.plan.name, key, self.batch, self._bound.keys.plan, "", self._now())
        answer = await self._write_claim(claim)
        if isinstance(answer, Claimed):
            outcomes = {"error": [type(error).__name__, str(error)]}
            await self.journal.write(self._ended(claim, answer.fence, "failed", outcomes, str(error), run))

    def tell(self, progress: Mapping[str, Any]) -> None:
        """Keep how far this process has come with the batch, in JSON's types, for those who watch it."""
        self.journal.submit([ProgressTold(self.batch, json_bytes(dict(progress)), self._now())])

    async def finish(self, counts: Mapping[str, int], *, is_done: bool) -> None:
        """Keep how the batch ended.

        Raises:
            JournalError: If the journal has failed.
        """
        with journal_work(self.journal), trio.CancelScope(shield=True, deadline=trio.current_time() + _FLUSH_SECONDS):
            await self.journal.write(BatchEnded(self.batch, is_done, json_bytes(dict(counts)), self._now()))

    def _now(self) -> float:
        return self._wall_time_at_zero + trio.current_time()

    def _restored(self, ended: Ended, key: str, values: Sequence[Any], run: str) -> RunResult | None:
        """Return the result of a document that has ended before; None if not all of it was kept."""
        plan = self._bound.plan
        told = json.loads(ended.outcomes)
        if "error" in told:
            return RunResult.refused(plan, key, EarlierError(*told["error"]))
        if "parked" in told:
            return RunResult.refused(plan, key, EarlierError("ParkedDocument", told["parked"]))
        state = RunState(plan, values)
        try:
            _restore_state(plan, state, told, ended.outputs)
        except (LookupError, ValueError, TypeError):
            return None  # an output was not kept, or is of another type by now: it is made again
        return RunResult(state, (), document=key, run_id=run, is_restored=True)


def _restore_state(plan: Plan, state: RunState, told: Mapping[str, Any], saved: Sequence[SavedOutput]) -> None:
    outputs: dict[tuple[str, int], SavedOutput] = {(output.step, output.item): output for output in saved}
    items: dict[int, list[Outcome[Any]]] = {}
    outcomes: list[Outcome[Any]] = []
    for step in plan.steps:
        width = told["widths"].get(step.name)
        lost = told["items"].get(step.name, {})
        if width is not None:
            items[step.index] = [
                _outcome(step, lost.get(str(item), ["completed", None]), outputs.get((step.name, item)))
                for item in range(width)
            ]
        parts = told["steps"][step.name]
        if parts[0] == "completed" and width is not None:
            kept = [outcome.value for outcome in items[step.index] if isinstance(outcome, Completed)]
            if step.kind == "embed":
                kept = [vector for batch in kept for vector in batch]
            outcomes.append(Completed(kept, parts[1]))
        else:
            outcomes.append(_outcome(step, parts, outputs.get((step.name, -1))))
    state.restore(outcomes, items)


def _outcome(step: PlannedStep, parts: Sequence[Any], saved: SavedOutput | None) -> Outcome[Any]:
    kind, *told = parts
    if kind == "completed":
        if saved is None or not saved.output:
            raise LookupError(step.name)
        read = json.loads if step.kind == "embed" else step.output.from_json
        return Completed(read(saved.output), saved.via)
    if kind == "skipped":
        return Skipped(*told)
    if kind == "stopped":
        return Stopped(*told)
    error = EarlierError(*told)
    return Dropped(error) if kind == "dropped" else Failed(error)


def _outcomes_of(result: RunResult) -> dict[str, Any]:
    """Return how steps and items ended, as the journal keeps it: completed items go without saying."""
    if result.error is not None:
        return {"error": [type(result.error).__name__, str(result.error)]}
    widths: dict[str, int] = {}
    items: dict[str, dict[str, list[Any]]] = {}
    for step in result.plan.steps:
        if step.is_mapped or step.kind == "embed":
            ended = result.state.items(step.index)
            widths[step.name] = len(ended)
            lost = {
                str(place): outcome_parts(outcome)
                for place, outcome in enumerate(ended)
                if not isinstance(outcome, Completed)
            }
            if lost:
                items[step.name] = lost
    steps = {step.name: outcome_parts(result.state.outcomes[step.index]) for step in result.plan.steps}
    return {"steps": steps, "widths": widths, "items": items}


def _status_of(result: RunResult) -> DocumentStatus:
    if result.status == "stopped" or any(isinstance(outcome, Stopped) for outcome in result.state.outcomes):
        return "queued"
    causes = [outcome.error for outcome in result.state.outcomes if isinstance(outcome, Failed)]
    if any(isinstance(cause, ParkedError) or _is_refused_account(cause) for cause in causes):
        return "parked"
    return result.status


def _is_refused_account(error: Exception) -> bool:
    return isinstance(error, ProviderError) and error.kind in ("auth", "quota")


def content_of(plan: Plan, values: Sequence[Any]) -> str:
    """Return what a journal knows a document's content by: the hash of its inputs; empty if JSON cannot hold them."""
    data = _inputs_json(plan, values)
    return "" if data is None else digest(data)


def _inputs_json(plan: Plan, values: Sequence[Any]) -> bytes | None:
    """Return a document's inputs as JSON; None if JSON cannot hold them."""
    parts = []
    for given, value in zip(plan.inputs, values, strict=True):
        try:
            parts.append(json.dumps(given.name).encode() + b":" + given.output.to_json(value))
        except ValueError:
            return None
    return b"{" + b",".join(parts) + b"}"


def _engine_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("pipeline-engine")
    except PackageNotFoundError:
        return "unknown"
