"""Cancelled at any checkpoint, whatever is going on: everything comes back, and the engine serves on."""

import random
import re

import pytest
import trio
import trio.testing

from pipeline_engine import (
    Breaker,
    Budget,
    Cache,
    Completed,
    Completion,
    Document,
    Drop,
    Engine,
    Hedge,
    Limits,
    Pipeline,
    Price,
    RateLimitError,
    Retry,
    Role,
    Timeout,
    UnavailableError,
    Usage,
    current_step,
    fenced,
)
from pipeline_engine.resilience.circuit import CircuitState
from pipeline_engine.resilience.ledger import Ledger
from pipeline_engine.run import binding
from pipeline_engine.run.batch import BatchStream
from pipeline_engine.testing import Reply, ScriptedModel
from pipeline_engine.values import (
    AttemptFinished,
    AttemptStarted,
    Embeddings,
    HedgeFinished,
    HedgeStarted,
    QueueLeft,
    RepairAsked,
    RunFinished,
    StepFinished,
    StepMapped,
    StepReady,
    WaitEnded,
    WaitStarted,
)

LAST = "last"
KINDS = ("down", "down", "busy", "hang", "invalid")
LETTERS = {
    StepReady: "R",
    StepMapped: "M",
    WaitStarted: "w",
    WaitEnded: "W",
    QueueLeft: "Q",
    AttemptStarted: "a",
    AttemptFinished: "A",
    RepairAsked: "r",
    StepFinished: "F",
}
GRAMMAR = re.compile(r"F|RMF|R(?:wW|Q|aAr?)*w?F")
"""That of `values/records.py`, but for `QueueLeft`: a call that gives up its place in the queue, for another
model or for want of budget, leaves it without an attempt."""


class Keep:
    """A sink that keeps the records of every run."""

    def __init__(self):
        self.runs = {}

    def open_run(self, started):
        records = self.runs.setdefault(started.run_id, [started])
        return records.append


class Wild:
    """A model that behaves in every way there is, each time in the same way for the same call."""

    max_texts = 2
    price = Price(1, 4)
    max_tokens = 60
    seed = 0

    def __init__(self, name, *, limits=None, breaker=None, failures=0.3, kinds=KINDS):
        self.name = name
        self.limits = limits
        self.breaker = breaker
        self.failures = failures
        self.kinds = kinds
        self.counts = {}
        self.in_flight = 0

    def _draw(self):
        context = current_step()
        key = (context.document, context.step, context.item)
        self.counts[key] = number = self.counts.get(key, 0) + 1
        dice = random.Random(f"{self.seed} {self.name} {key} {number}")
        if context.document == LAST:
            return "ok", 0.1
        latency = dice.choice([0.0, 0.2, 0.5, 0.5, 1.0, 1.0, 3.0])
        if dice.random() >= self.failures:
            return "ok", latency
        return dice.choice(self.kinds), latency

    async def _pass(self, latency, kind):
        self.in_flight += 1
        try:
            await trio.sleep(60.0 if kind == "hang" else latency)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.1)
            raise
        finally:
            self.in_flight -= 1
        if kind == "down":
            raise UnavailableError("is down.", model=self.name, kind="server", status=500, billed="maybe")
        if kind == "busy":
            raise RateLimitError("is busy.", model=self.name, kind="rate_limited", status=429, retry_after=0.7)

    async def complete(self, request):
        kind, latency = self._draw()
        await self._pass(latency, kind)
        return self._answer(request, kind)

    @staticmethod
    def _answer(request, kind):
        good = "7" if request.schema is None else '{"value":7}'
        return Completion("no number" if kind == "invalid" else good, usage=Usage(30, 10))

    async def stream(self, request, take):
        kind, latency = self._draw()
        await self._pass(latency / 2, kind if kind == "hang" else "ok")
        await take("some")
        await self._pass(latency / 2, kind)
        await take("more")
        return self._answer(request, kind)

    async def embed(self, texts, *, connect_timeout=None):
        kind, latency = self._draw()
        await self._pass(latency, kind)
        return Embeddings(tuple([1.0] for _ in texts), Usage(10, 0), self.name)


def everything():
    """A pipeline in which every part of the engine has something to do."""
    patient = Retry(attempts=3, jitter="full", base_delay=0.3, repair=1)
    pipeline = Pipeline("everything", inputs={"document": str, "texts": list[str]})

    @pipeline.llm(
        "slow",
        str,
        retry=patient,
        timeout=Timeout(attempt=4, step=12),
        hedge=Hedge(after=0.6, max_extra=1.0),
        fallback="-",
    )
    def hedged(document: str) -> str:
        return f"hedged {document}"

    @pipeline.llm("fast", int, retry=patient, timeout=2, cache=Cache(), fallback=-1)
    def shared(texts: list[str]) -> str:
        return "the same for all documents"

    @pipeline.llm("fast", str, retry=patient, timeout=3, warm="first", fallback="-")
    def warm_one(document: str) -> list[str]:
        return [fenced(document), "one"]

    @pipeline.llm("fast", str, retry=patient, timeout=3, warm="first", cache=Cache(), fallback="-")
    def warm_two(document: str) -> list[str]:
        return [fenced(document), "two"]

    @pipeline.llm(
        output=int, cascade=["fast", "strong"], accept=lambda output: output > 7, retry=patient, timeout=3, fallback=0
    )
    def judged(document: str) -> str:
        return f"judge {document}"

    @pipeline.llm("fast", str, each="texts", retry=patient, timeout=2, on_error=Drop(at_most=3), hedge=Hedge(after=0.4))
    def notes(text: str) -> str:
        return text

    @pipeline.llm("shaky", str, retry=patient, timeout=2, when_open="fallback", fallback=(Role("strong"), "-"))
    def guarded(document: str) -> str:
        return f"guarded {document}"

    @pipeline.llm("shaky", str, retry=Retry(attempts=2, base_delay=0.2), timeout=1, when_open="wait", fallback="-")
    def patient_one(document: str) -> str:
        return f"patient {document}"

    @pipeline.step
    async def spare(document: str) -> str:
        await trio.sleep(0.4)
        return "spare"

    @pipeline.llm("shaky", str, retry=Retry(attempts=2, base_delay=0.2), timeout=1, fallback=spare)
    def spared(document: str) -> str:
        return f"spared {document}"

    @pipeline.embed("vectors", retry=patient, timeout=2)
    def embedded(texts: list[str]) -> list[str]:
        return texts

    @pipeline.llm("strong", str, stream=True, retry=patient, timeout=Timeout(attempt=4, idle=2), fallback="-")
    def streamed(hedged: str) -> str:
        return f"stream {hedged}"

    @pipeline.step(retry=Retry(attempts=2, base_delay=0.1))
    async def joined(hedged: str, shared: int, judged: int, guarded: str) -> str:
        await trio.sleep(0.2)
        return hedged

    return pipeline


PIPELINE = everything()
DOCUMENTS = [Document(str(number), {"document": f"d{number}", "texts": ["x", "y", "z"]}) for number in range(6)]


class Run:
    """One batch with all of it, on an engine of its own, and what is left of it afterwards."""

    def __init__(self, seed, *, capacity=7):
        self.seed = seed
        self.capacity = capacity
        self.keep = Keep()
        self.steps = 0
        self.scope = None
        self.ledgers = []

    def models(self):
        limits = Limits(
            rpm=180,
            burst_requests=4,
            tpm=40_000,
            burst_tokens=2000,
            max_concurrency=5,
            adaptive=True,
            max_retry_share=1.0,
        )
        return {
            "fast": [Wild("own:fast", limits=limits), Wild("own:second")],
            # A refusal for rate would keep second calls away for a minute: this one is only slow, or down.
            "slow": [Wild("own:slow", failures=0.5, kinds=("down", "hang", "hang")), Wild("own:quick", failures=0.2)],
            "strong": Wild("own:strong", limits=Limits(max_concurrency=2), failures=0.1),
            "shaky": Wild(
                "own:shaky", breaker=Breaker(failure_threshold=2, timeout=1.5, success_threshold=1), failures=0.8
            ),
            "vectors": Wild("own:vectors", limits=Limits(rpm=240)),
        }

    def perform(self, *, cancel_at_step=None, cancel_at=None):
        """Run until the end, or until it is cancelled; then one more document on the same engine."""
        run = self

        class CountSteps(trio.abc.Instrument):
            def before_task_step(self, task):
                run.steps += 1
                if run.steps == cancel_at_step:
                    run.scope.cancel()

        class Books(Ledger):
            __slots__ = ()

            def __init__(self, *arguments):
                super().__init__(*arguments)
                run.ledgers.append(self)

        async def main():
            models = self.models()
            wild = [model for chain in models.values() for model in (chain if isinstance(chain, list) else [chain])]
            for model in wild:
                model.seed = self.seed
            async with Engine(models=models, capacity=self.capacity, sinks=[self.keep], seed=self.seed) as engine:
                with trio.fail_after(5000), trio.CancelScope() as self.scope:
                    if cancel_at is not None:
                        self.scope.deadline = trio.current_time() + cancel_at
                    count = CountSteps()
                    trio.lowlevel.add_instrument(count)
                    try:
                        async with BatchStream(
                            engine,
                            engine.bind(PIPELINE),
                            DOCUMENTS,
                            budget=Budget(tokens=8000, on_exhausted="fail"),
                            document_budget=Budget(tokens=1300, on_exhausted="fail"),
                            max_documents=3,
                        ) as stream:
                            self.results = [result async for result in stream]
                    finally:
                        trio.lowlevel.remove_instrument(count)
                self.assert_nothing_is_held(engine)
                assert all(model.in_flight == 0 for model in wild)
                with trio.fail_after(1000):
                    last = await engine.run(PIPELINE, {"document": "z", "texts": ["x", "y", "z"]}, key=LAST)
                assert last.status == "completed"
                self.assert_nothing_is_held(engine)
            return engine

        dice = trio._core._run._r
        state = dice.getstate()
        dice.seed(self.seed)
        known, binding.Ledger = binding.Ledger, Books
        deterministic, trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = (
            trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING,
            True,
        )
        try:
            trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
        finally:
            binding.Ledger = known
            trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = deterministic
            dice.setstate(state)
        for records in self.keep.runs.values():
            assert_records_are_whole(records)
        return self

    def assert_nothing_is_held(self, engine):
        scheduler = engine.scheduler
        assert scheduler.free == self.capacity
        assert len(scheduler.queue) == 0
        assert scheduler.arriving == 0
        assert scheduler.room_waiters == []
        assert scheduler.flights._flights == {}
        assert engine.statistics().timers == 0
        for governor in engine._pool.governors.values():
            assert governor.in_flight == 0
            if governor.circuit is not None and governor.circuit.state is CircuitState.HALF_OPEN:
                assert governor.circuit.probes == 0
        for ledger in self.ledgers:
            assert (ledger.has_calls_in_flight, ledger.waiting) == (False, {})
            assert (ledger._reserved_usd, ledger._reserved_tokens) == (0.0, 0.0)
            assert ledger.spent.tokens <= (ledger.budget.tokens or 0)


def assert_records_are_whole(records):
    """Each step has exactly one outcome, each item that was ready too, and all keep to the grammar."""
    told = {}
    hedges = {}
    for record in records:
        if type(record) in LETTERS:
            told.setdefault((record.step, record.item if hasattr(record, "item") else None), []).append(record)
        if isinstance(record, HedgeStarted | HedgeFinished):
            hedges.setdefault((record.step, record.item, record.attempt), []).append(type(record))
    for key, of_step in told.items():
        letters = "".join(LETTERS[type(record)] for record in of_step)
        assert GRAMMAR.fullmatch(letters), f"{key}: {letters}"
        assert [record.at for record in of_step] == sorted(record.at for record in of_step)
        assert sum(isinstance(record, StepFinished) for record in of_step) == 1
    for key, kinds in hedges.items():
        assert kinds == [HedgeStarted, HedgeFinished], key
    assert {step for step, item in told if item is None} == {step.name for step in PIPELINE.steps}
    assert isinstance(records[-1], RunFinished)
    assert sum(isinstance(record, RunFinished) for record in records) == 1


def test_without_a_cancellation_every_part_has_something_to_do():
    """The sweep proves as much as its pipeline has: retries, repairs, hedges, every wait, an open breaker."""
    runs = [Run(seed).perform() for seed in range(4)]
    records = [record for run in runs for of_run in run.keep.runs.values() for record in of_run]
    kinds = {type(record).__name__ for record in records}
    assert kinds >= {
        "RepairAsked",
        "HedgeStarted",
        "HedgeFinished",
        "OutputJudged",
        "BreakerChanged",
        "CooldownStarted",
        "LimitChanged",
        "QueueLeft",
    }
    waits = {record.cause for record in records if isinstance(record, WaitStarted)}
    assert waits == {"backoff", "budget", "shared", "warm", "fallback"}
    queued = {cause for record in records if isinstance(record, QueueLeft) for cause, _seconds in record.waits}
    assert queued >= {"requests", "concurrency", "cooldown", "slot", "breaker"}
    via = {
        (record.outcome.via or "own").partition(":")[0]
        for record in records
        if isinstance(record, StepFinished) and isinstance(record.outcome, Completed)
    }
    assert via == {"own", "fallback", "cascade", "hedge"}


@pytest.mark.parametrize("seed", range(2))
def test_cancelled_before_any_task_step_nothing_leaks(seed):
    """Users press Ctrl-C at all of those moments: each one of some hundreds is tried."""
    steps = Run(seed).perform().steps
    assert steps > 250
    # At the very last ones there may be nothing left to cancel.
    assert all(Run(seed).perform(cancel_at_step=step).scope.cancelled_caught for step in range(1, steps - 2))


@pytest.mark.parametrize("seed", range(3))
def test_cancelled_at_any_instant_nothing_leaks(seed):
    """Timeouts fire at instants of their own, in the middle of everybody's waits, and at the very end of some."""
    dice = random.Random(seed)
    for _ in range(80):
        # Half of the instants are those at which something else happens, too.
        instant = dice.choice([dice.uniform(0, 20), dice.randrange(1, 100) / 10])
        Run(seed, capacity=dice.choice([1, 3, 7, 64])).perform(cancel_at=instant)


async def test_no_timer_is_left_when_whoever_waited_for_a_rate_has_gone(autojump_clock):
    """An engine that was closed must not be kept alive by it, for an hour if the provider said so."""
    model = Wild("own:fast", limits=Limits(rpm=1), failures=0)
    pipeline = Pipeline("one", inputs={"document": str})
    pipeline.llm("fast", str, name="ask")(lambda document: document)
    async with Engine(models={"fast": model}) as engine:
        await engine.run(pipeline, {"document": "a"}, key=LAST)
        with trio.move_on_after(5):
            await engine.run(pipeline, {"document": "b"}, key=LAST)
        assert engine.statistics().timers == 0


@pytest.mark.parametrize("options", [{"timeout": Timeout(step=8)}, {"hedge": Hedge(after=1, max_extra=1.0)}])
async def test_no_timer_is_left_when_a_wait_for_a_rate_ends_by_itself(autojump_clock, options):
    """The same for a step whose own deadline ended its wait, and for a second call that is not needed any more."""
    down = UnavailableError("is down.", model="scripted:model", kind="server", status=500)
    answer = Reply(down, latency=1) if "timeout" in options else Reply("ok", latency=3)
    model = ScriptedModel({"ask": answer}, limits=Limits(rpm=1))
    pipeline = Pipeline("one", inputs={"document": str})
    pipeline.llm("fast", str, name="ask", retry=Retry(jitter="none"), **options)(lambda document: document)
    async with Engine(models={"fast": model}) as engine:
        await engine.run(pipeline, {"document": "a"})
        assert engine.statistics().timers == 0
