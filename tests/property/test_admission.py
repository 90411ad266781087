"""Laws of admission that hold for all arrivals, sizes, latencies, failures and cancellations."""

import math
from dataclasses import dataclass

import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline_engine import (
    Breaker,
    Engine,
    Limits,
    Pipeline,
    RateLimitError,
    RejectedError,
    Retry,
    UnavailableError,
)
from pipeline_engine.schedule.queue import _LOOK_PAST
from pipeline_engine.testing import Reply, ScriptedModel
from pipeline_engine.values import (
    AttemptFinished,
    AttemptStarted,
    QueueLeft,
    RepairAsked,
    StepFinished,
    StepReady,
    WaitEnded,
    WaitStarted,
)

MANY = settings(suppress_health_check=[HealthCheck.too_slow])
REPLY_TOKENS = 8
ROLES = ("fast", "strong")
# All of it is sums of powers of two, so that times are exact: halves, quarters, eighths of seconds.
RETRY = Retry(attempts=2, strategy="constant", base_delay=0.25, jitter="none", max_throttled=3)


def failure(kind, status, *, error=UnavailableError, retry_after=None):
    # "maybe" keeps what was reserved: what is given back is a matter of its own.
    return error("said no.", model="m", kind=kind, status=status, retry_after=retry_after, billed="maybe")


ANSWERS = {
    "fine": "fine",
    "down": failure("server", 500),
    "busy": failure("rate_limited", 429, error=RateLimitError),
    "cooling": failure("rate_limited", 429, error=RateLimitError, retry_after=16.0),
    "rejected": failure("invalid", 400, error=RejectedError),
}


@dataclass(frozen=True)
class Call:
    """One document: when it comes, to whom, how large it is, and what becomes of its attempts."""

    at: float
    role: str
    group: str
    priority: int
    tokens: int
    answers: tuple[tuple[str, float], ...]
    cancelled_after: float | None


@dataclass(frozen=True)
class Case:
    """An engine, its two models, and the documents that come."""

    capacity: int
    limits: tuple[Limits, Limits]
    has_breaker: bool
    calls: tuple[Call, ...]


quarters = st.integers(0, 24).map(lambda number: number / 4)


@st.composite
def limits(draw):
    rpm = draw(st.sampled_from([None, 60, 120, 240]))
    tpm = draw(st.sampled_from([None, 480, 960]))
    return Limits(
        rpm=rpm,
        burst_requests=None if rpm is None else draw(st.integers(1, 3)),
        tpm=tpm,
        burst_tokens=None if tpm is None else draw(st.sampled_from([48, 64])),
        max_concurrency=draw(st.sampled_from([None, 1, 2])),
    )


calls = st.builds(
    Call,
    at=quarters,
    role=st.sampled_from(ROLES),
    group=st.sampled_from("ab"),
    priority=st.sampled_from([0, 0, 1]),
    tokens=st.sampled_from([1, 4, 16, 40]),
    answers=st.lists(st.tuples(st.sampled_from([*ANSWERS, "fine", "fine"]), quarters), min_size=1, max_size=3).map(
        tuple
    ),
    cancelled_after=st.one_of(st.none(), st.none(), quarters),
)
cases = st.builds(
    Case,
    capacity=st.sampled_from([1, 2, 4]),
    limits=st.tuples(limits(), limits()),
    has_breaker=st.booleans(),
    calls=st.lists(calls, min_size=1, max_size=20).map(tuple),
)

well_calls = st.builds(
    Call,
    at=st.sampled_from([0.0, 0.0, 0.25, 4.0]),
    role=st.just("fast"),
    group=st.sampled_from("ab"),
    priority=st.sampled_from([0, 0, 1]),
    tokens=st.sampled_from([1, 4, 16, 40, 56]),
    answers=st.just((("fine", 0.0),)),
    cancelled_after=st.sampled_from([None, None, None, 2.5]),
)
token_cases = st.builds(
    Case,
    capacity=st.just(4),
    limits=st.just((Limits(tpm=480, burst_tokens=64), Limits())),
    has_breaker=st.just(False),
    calls=st.lists(well_calls, min_size=3, max_size=40).map(tuple),
)


class Watch(trio.abc.Instrument):
    """Look between any two instants whether a slot is free and a call waits that could have it."""

    def __init__(self, scheduler):
        self.scheduler = scheduler
        self.due = math.inf
        self.found = []

    def before_io_wait(self, timeout):
        """Everything that could run has run: the state is that of the instant."""
        now = trio.current_time()
        if trio.lowlevel.current_statistics().seconds_to_next_deadline <= 0:
            return  # the clock has jumped, and nobody was woken yet
        if now > self.due + 1e-9:
            self.found.append(f"at {self.due} a call could have started, and nobody woke up before {now}")
        self.due = math.inf
        if self.scheduler.free <= 0:
            return
        for entry in self.candidates():
            refusal = None if entry.gate is None else entry.gate.refusal(now, entry.tokens)
            if refusal is None:
                self.found.append(f"at {now} a slot is free, and a call that could start waits")
            else:
                self.due = min(self.due, refusal.until)

    def candidates(self):
        """Those that the queue looks at: of each group the first few; or the one that tokens are saved for."""
        queue = self.scheduler.queue
        for priority, groups in queue._turns.items():
            for heaps in groups.values():
                for gate, heap in heaps.items():
                    live = sorted(place for place in heap if place[1] == place[2].ticket)
                    saved_for = queue._saving.get(gate)
                    if saved_for is None or priority > saved_for.priority:
                        yield from (entry for _, _, entry in live[:_LOOK_PAST])
                    else:
                        yield saved_for


class Ran:
    """What came of a case: the records of each document, and for each model when it was asked for how much."""

    def __init__(self, case):
        self.case = case
        self.records = {}
        self.asked = {role: [] for role in ROLES}
        self.now = 0.0
        trio.run(self.main, clock=trio.testing.MockClock(autojump_threshold=0))

    def open_run(self, started):
        """Keep the records of cancelled runs, too."""
        records = self.records[started.document] = []
        return records.append

    def model(self, role, limits):
        turns = {}

        def answer(request):
            number, _, _filling = request.messages[0].text.partition(":")
            call = self.case.calls[int(number)]
            turn = turns[number] = turns.get(number, -1) + 1
            kind, latency = call.answers[min(turn, len(call.answers) - 1)]
            self.asked[role].append((trio.current_time(), call.tokens + REPLY_TOKENS))
            return Reply(ANSWERS[kind], latency=latency)

        breaker = Breaker(failure_threshold=2, timeout=4, window=8, success_threshold=1)
        return ScriptedModel(
            {"ask": answer},
            name=f"{role}:model",
            limits=limits,
            breaker=breaker if self.case.has_breaker else None,
            max_tokens=REPLY_TOKENS,
        )

    async def main(self):
        models = {role: self.model(role, limit) for role, limit in zip(ROLES, self.case.limits, strict=True)}
        async with Engine(capacity=self.case.capacity, sinks=[self], seed=1) as engine:
            self.watch = Watch(engine.scheduler)
            trio.lowlevel.add_instrument(self.watch)
            bound = {}
            for role in ROLES:
                pipeline = Pipeline("one", inputs={"document": str})
                pipeline.llm(role, str, name="ask", retry=RETRY)(lambda document: document)
                bound[role] = engine.bind(pipeline, {role: models[role]})
            with trio.fail_after(1e6):
                async with trio.open_nursery() as nursery:
                    for number, call in enumerate(self.case.calls):
                        nursery.start_soon(self.come, engine, bound[call.role], number, call)
            self.free = engine.scheduler.free
            self.statistics = engine.statistics()

    async def come(self, engine, bound, number, call):
        await trio.sleep(call.at)
        text = f"{number}:".ljust(3 * call.tokens, "x")
        with trio.move_on_after(math.inf if call.cancelled_after is None else call.cancelled_after):
            await engine.run_bound(bound, {"document": text}, key=str(number), group=call.group, priority=call.priority)


def excess(charges, per_second, burst):
    """By how much the worst window of t seconds exceeds `burst + per_second * t`."""
    worst, taken, least = -math.inf, 0.0, math.inf
    for at, amount in sorted(charges):
        least = min(least, taken - per_second * at)
        taken += amount
        worst = max(worst, taken - per_second * at - least)
    return worst - burst


@MANY
@given(cases)
def test_in_every_window_at_most_the_burst_and_what_the_rate_allows(case):
    """For requests and for tokens, counted where calls start: what a provider counts is what it refuses by."""
    ran = Ran(case)
    for role, limits in zip(ROLES, case.limits, strict=True):
        asked = ran.asked[role]
        if limits.rpm is not None:
            assert excess([(at, 1) for at, _ in asked], limits.rpm / 60, limits.burst_requests) <= 1e-6
        if limits.tpm is not None:
            assert excess(asked, limits.tpm / 60, limits.burst_tokens) <= 1e-6


@MANY
@given(cases)
def test_a_free_slot_and_a_call_that_may_start_never_coexist(case):
    """At no instant: not between two events either, when tokens, cool-downs and breakers end by time alone."""
    assert Ran(case).watch.found == []


@MANY
@given(token_cases)
def test_a_call_that_fits_never_waits_for_one_that_does_not(case):
    """Sizes differ by fifty: whoever wakes up for the first call only, wastes the tokens of all behind it."""
    assert Ran(case).watch.found == []


@MANY
@given(cases)
def test_concurrency_is_never_exceeded_and_nothing_leaks(case):
    """No slot, permit, probe or place in the queue stays behind, whatever was cancelled when."""
    ran = Ran(case)
    in_flight = dict.fromkeys([*ROLES, "engine"], 0)
    events = []
    for records in ran.records.values():
        for record in records:
            if isinstance(record, AttemptStarted):
                role = record.model.partition(":")[0]
                events.append((record.at, 1, role))
            elif isinstance(record, AttemptFinished):
                events.append((record.at, -1, role))
    for _at, change, role in sorted(events):
        in_flight[role] += change
        in_flight["engine"] += change
        assert in_flight["engine"] <= case.capacity
        most = case.limits[ROLES.index(role)].max_concurrency
        assert most is None or in_flight[role] <= most
    assert set(in_flight.values()) == {0}
    assert ran.free == case.capacity
    assert (ran.statistics.in_flight, ran.statistics.ready, ran.statistics.timers) == (0, 0, 0)
    assert all(model.in_flight == model.waiting == 0 for model in ran.statistics.models.values())


@MANY
@given(cases)
def test_the_waits_of_every_call_add_up_to_the_time_from_ready_to_started(case):
    """A trace that explains most of the seconds hides the ones that matter: by cause, exactly."""
    for records in Ran(case).records.values():
        since, waits = None, None
        for record in records:
            if isinstance(record, StepReady | WaitEnded | RepairAsked):
                since, waits = record.at, None
            elif isinstance(record, QueueLeft):
                waits = record.waits
                assert all(seconds > 0 for _, seconds in waits)
                assert len({cause for cause, _ in waits}) == len(waits)
                assert {cause for cause, _ in waits} != {"slot"}
                assert sum(seconds for _, seconds in waits) == record.at - since
            elif isinstance(record, AttemptStarted | StepFinished | WaitStarted):
                if waits is not None:
                    assert sum(seconds for _, seconds in waits) == record.at - since
                since, waits = None, None


@MANY
@given(cases)
def test_who_needs_nothing_that_is_scarce_never_waits(case):
    """Calls to a model without limits wait for slots alone, whatever happens to the other one."""
    free = Limits()
    ran = Ran(Case(64, (case.limits[0], free), has_breaker=False, calls=case.calls))
    for number, records in ran.records.items():
        call = case.calls[int(number)]
        if call.role == "strong" and all(kind != "cooling" for other in case.calls for kind, _ in other.answers):
            assert not [record for record in records if isinstance(record, QueueLeft)]
