"""Start workers, kill them, and compare what three witnesses say: the worker, its journal and its provider."""

import json
import signal
import subprocess
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import trio

from tests.kills.billing import Billing, CallId
from tests.kills.letters import SAMPLES
from tests.kills.looking import Place, Seen, look
from tests.kills.worker import Options, command

ROOT = Path(__file__).parents[2]
OFTEN = 1_000_000
"""So many crashes a document may have where processes are killed faster than anybody could get on with anything."""
DEADLINE = 60.0
"""Seconds within which whatever a worker is waited for must have happened."""


@dataclass
class Worker:
    """A process that works on a batch, and what it has said."""

    options: Options
    process: trio.Process
    started_at: float
    acknowledged: dict[Place, str] = field(default_factory=dict)
    answered: Counter[str] = field(default_factory=Counter)
    """How often it has had a reply that is to be paid for, by what the prompt says of its place."""
    lines: list[str] = field(default_factory=list)
    errors: bytes = b""
    ended_at: float = 0.0
    _said: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)
    _is_silent: bool = False

    @property
    def name(self) -> str:
        return self.options.name

    async def listen(self) -> None:
        """Take in what it says, until it has ended."""
        rest = b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen_for_errors)
            while data := await self.process.stdout.receive_some(65_536):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._take(line.decode())
                self._said.unpark_all()
        self._is_silent = True
        self._said.unpark_all()

    async def _listen_for_errors(self) -> None:
        while data := await self.process.stderr.receive_some(65_536):
            self.errors += data

    def _take(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "ACK":
            place, known = rest.split(" ")
            document, step, *item = place.split("/")
            self.acknowledged[document, step, int(item[0]) if item else -1] = known
        elif word == "GOT":
            document, step, *item = rest.split("/")
            self.answered[f"{document}/samples" if step == "samples" else rest] += 1
        else:
            self.lines.append(line)

    def count(self, word: str) -> int:
        """Return how often it has said a word."""
        return sum(line.partition(" ")[0] == word for line in self.lines)

    def said(self, word: str) -> Any:
        """Return what it has said after a word, last."""
        told = [line.partition(" ")[2] for line in self.lines if line.partition(" ")[0] == word]
        assert told, (word, self.lines[-5:], self.errors.decode()[-2000:])
        return json.loads(told[-1])

    async def wait_for(self, word: str, times: int = 1) -> bool:
        """Return whether it has said a word so often; False if it has ended without it."""
        with trio.fail_after(DEADLINE):
            while self.count(word) < times:
                if self._is_silent:
                    return False
                await self._said.park()
        return True

    async def wait_acknowledged(self, number: int) -> None:
        """Return when so many outputs are acknowledged, or it has ended."""
        with trio.fail_after(DEADLINE):
            while len(self.acknowledged) < number and not self._is_silent:
                await self._said.park()

    async def wait_ended(self) -> int:
        """Return its exit code, once all that it has said was heard."""
        with trio.fail_after(DEADLINE):
            code = await self.process.wait()
            while not self._is_silent:
                await self._said.park()
        self.ended_at = trio.current_time()
        return code

    async def kill(self) -> int:
        """End it at once, and return its exit code."""
        self.process.send_signal(signal.SIGKILL)  # nothing happens if it has ended
        return await self.wait_ended()


@dataclass
class Figures:
    """What kills have cost: what these tests are read for."""

    kills: int = 0
    batches: int = 0
    acknowledged: int = 0
    """Outputs that were acknowledged by processes which were killed then."""
    lost: int = 0
    """Of these, those that are not in the journal, or are others."""
    damaged: int = 0
    """Journals that were damaged."""
    in_flight: int = 0
    """Calls that the provider had and had not answered when a process was killed."""
    unsaved: int = 0
    """Calls that it had answered, and that were not in the journal then."""
    sent_again: int = 0
    """Calls that were sent a second time, and had to be."""
    billed_again: int = 0
    """Calls that were sent a second time though their replies were in the journal."""
    most_sent_again: int = 0
    most_in_flight: int = 0

    def __add__(self, other: "Figures") -> "Figures":
        total = Figures(**{name: value + getattr(other, name) for name, value in vars(self).items()})
        for name in ("most_sent_again", "most_in_flight"):
            setattr(total, name, max(getattr(self, name), getattr(other, name)))
        return total

    def told(self, name: str) -> str:
        each = self.sent_again / max(1, self.kills)
        return (
            f"{name}: {self.kills} kills in {self.batches} batches; {self.acknowledged} outputs acknowledged, "
            f"{self.lost} lost; {self.damaged} journals damaged; at the kills {self.in_flight} calls in flight and "
            f"{self.unsaved} answered but not kept; {self.sent_again} sent again ({each:.1f} a kill, at most "
            f"{self.most_sent_again}); {self.billed_again} finished calls billed again"
        )


class Rig:
    """Hold a provider, and start workers that ask it.

    Args:
        nursery: Ends what is left of all of it.
        folder: Where files go.
    """

    _numbers = count(1)

    def __init__(self, nursery: trio.Nursery, folder: Path, billing: Billing) -> None:
        self._nursery = nursery
        self.folder = folder
        self.billing = billing

    async def start(self, journal: str, *, with_out: bool = True, cwd: Path | None = None, **options: Any) -> Worker:
        """Start a worker; it is ready when it has said so."""
        number = next(self._numbers)
        out = str(self.folder / f"out-{number}.jsonl") if with_out else ""
        told = Options(url=self.billing.url, journal=journal, out=out, name=str(number), **options)
        started_at = trio.current_time()
        process = await trio.lowlevel.open_process(
            command(told),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            cwd=self.folder if cwd is None else cwd,
            env=_environment(self.folder),
        )
        worker = Worker(told, process, started_at)
        self._nursery.start_soon(worker.listen)
        return worker

    async def finish(self, journal: str, **options: Any) -> Worker:
        """Run a batch to its end."""
        worker = await self.start(journal, **options)
        code = await worker.wait_ended()
        assert code == 0, (code, worker.lines[-5:], worker.errors.decode()[-3000:])
        return worker


def _environment(folder: Path) -> dict[str, str]:
    import os

    # The engine and these tests are imported from the tree; what a worker writes by accident lands in its folder.
    return {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "PYTHONWARNINGS": "error"}


@asynccontextmanager
async def rig(folder: Path, latency: tuple[float, float] = (0.02, 0.2)):
    """Open a provider; whatever still runs at the end is killed."""
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - before anything waits
    billing = Billing(latency)
    workers: list[Worker] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(billing.serve))
        made = Rig(nursery, folder, billing)
        start = made.start

        async def remembered(*arguments: Any, **options: Any) -> Worker:
            workers.append(await start(*arguments, **options))
            return workers[-1]

        made.start = remembered
        try:
            yield made
        finally:
            for worker in workers:
                if worker.process.returncode is None:
                    worker.process.kill()
                    with trio.CancelScope(shield=True):
                        await worker.process.wait()
            nursery.cancel_scope.cancel()


# What must hold after each kill


def judge(worker: Worker, before: Seen, after: Seen, billing: Billing, told: set[Place]) -> Figures:
    """Compare what a worker had said, what its journal has, and what its provider had been asked when it died.

    Args:
        worker: Who was killed.
        before: Its journal when it began.
        after: Its journal now that it is dead.
        billing: Its provider.
        told: The outputs that were acknowledged to earlier processes.
    """
    lost = [place for place, known in worker.acknowledged.items() if after.fingerprints.get(place) != known]
    sent = billing.sent_by(worker.name)
    asked = Counter(request.call for request in sent)
    earlier = Counter(
        request.call
        for request in billing.requests
        if request.worker != worker.name and request.status in (0, 200) and request.at <= worker.started_at
    )
    known = {f"{document}/{step}" if item < 0 else f"{document}/{step}/{item}" for document, step, item in told}
    again = billed = 0
    for call, times in asked.items():
        again += max(0, min(times, earlier[call] + times - needed(call)))
        is_finished = before.calls[call] > 0 or call.place in known
        billed += max(0, times - (needed(call) - before.calls[call])) if before.calls[call] else times * is_finished
    paid = Counter(request.call for request in sent if request.is_paid(worker.ended_at))
    in_flight = sum(not request.is_answered(worker.ended_at) for request in sent)
    return Figures(
        kills=int(worker.process.returncode == -signal.SIGKILL),
        acknowledged=len(worker.acknowledged),
        lost=len(lost),
        damaged=int(after.integrity != "ok"),
        in_flight=in_flight,
        most_in_flight=in_flight,
        unsaved=(paid - (after.calls - before.calls)).total(),
        sent_again=again,
        most_sent_again=again,
        billed_again=billed,
    )


def needed(call: CallId) -> int:
    """Return how often a call is made by an uninterrupted run."""
    return SAMPLES if call.place.endswith("/samples") else 1


@dataclass(frozen=True)
class Blow:
    """Say when a process is killed: some seconds after an event."""

    seconds: float
    at: str = ""
    """A part of the statements that are counted."""
    nth: int = 0
    """Which of these statements it is; without a statement, which acknowledged output: 0 is the process's start."""
    options: dict[str, Any] = field(default_factory=dict)
    """What the process does otherwise than the others."""


def by_chance(dice: Random, number: int) -> list[Blow]:
    """Return blows that come at any instant: some after the start, others, on a busy machine, when it has got on."""
    late = [Blow(dice.uniform(0.0, 0.2), nth=dice.randint(1, 40)) for _ in range((number + 1) // 2)]
    blows = late + [Blow(dice.uniform(0.05, 0.7)) for _ in range(number // 2)]
    dice.shuffle(blows)
    return blows


async def killed_batch(rig: Rig, journal: str, blows: list[Blow], **options: Any) -> tuple[Figures, Seen, Worker]:
    """Run a batch whose processes are killed, one after the other, until no blow is left or one has got through.

    Args:
        rig: Who starts them.
        journal: Their journal.
        blows: When they are killed.
        **options: What they do.

    Returns:
        What the kills have cost, the journal at the end, and the process that got through.
    """
    history, left = await History.of(rig.billing, journal), list(blows)
    while True:
        blow = left.pop(0) if left else Blow(DEADLINE)
        own = {"most_crashes": OFTEN, "announced": blow.at, **options, **blow.options}
        worker = await rig.start(journal, **own)
        code = await strike(worker, blow)
        await history.account(worker)
        if code == 0:
            return history.figures, history.seen, worker
        assert code == -signal.SIGKILL, (code, worker.lines[-3:], worker.errors.decode()[-3000:])


async def strike(worker: Worker, blow: Blow) -> int:
    """Kill a process at its instant, if it has not ended before; return its exit code."""
    if blow.at or not blow.nth:
        await worker.wait_for("AT" if blow.at else "READY", max(1, blow.nth))
    else:
        await worker.wait_acknowledged(blow.nth)
    with trio.move_on_after(blow.seconds):
        await worker.process.wait()
    return await worker.kill()


@dataclass
class History:
    """Follow a journal through the lives and deaths of the processes that write it, one after the other."""

    billing: Billing
    journal: str
    seen: Seen
    """The journal as it is now."""
    figures: Figures
    _told: set[Place] = field(default_factory=set)

    @classmethod
    async def of(cls, billing: Billing, journal: str) -> "History":
        """Begin with a journal as it is."""
        return cls(billing, journal, await trio.to_thread.run_sync(look, journal), Figures(batches=1))

    async def account(self, worker: Worker) -> Figures:
        """Add what has become of a process that has ended, and return it."""
        before, self.seen = self.seen, await trio.to_thread.run_sync(look, self.journal)
        figures = judge(worker, before, self.seen, self.billing, self._told)
        self._told |= worker.acknowledged.keys()
        self.figures += figures
        return figures


# What an uninterrupted run gives


@dataclass(frozen=True)
class Told:
    """What a batch comes to, without times, ids, and the numbers of the samples."""

    documents: dict[str, str]
    outcomes: dict[str, Any]
    outputs: dict[Place, Any]
    calls: Counter[CallId]

    @property
    def asked(self) -> Counter[str]:
        """How often the calls of each step and item were made, repairs and stronger models counted."""
        asked: Counter[str] = Counter()
        for call, times in self.calls.items():
            asked[call.place] += times
        return asked

    @classmethod
    def of(cls, seen: Seen) -> "Told":
        """Return what is in a journal; the samples of a document are all different ones."""
        samples = [output["text"] for place, output in seen.outputs.items() if place[1] == "samples"]
        assert len(set(samples)) == len(samples)
        outputs = {place: _without_number(place, output) for place, output in seen.outputs.items()}
        return cls(seen.documents, seen.outcomes, outputs, seen.calls)


def _without_number(place: Place, output: Any) -> Any:
    return {"text": output["text"].partition(" #")[0]} if place[1] == "samples" else output


def is_there(path: str) -> bool:
    return Path(path).exists()


def results(worker: Worker) -> dict[str, Any]:
    """Return what a worker has written of each document, the samples without their numbers."""
    lines = Path(worker.options.out).read_text(encoding="utf-8").splitlines()
    found = {}
    for line in lines:
        told = json.loads(line)
        samples = told["outputs"].get("samples", [])
        told["outputs"]["samples"] = [_without_number(("", "samples", 0), sample) for sample in samples]
        told["errors"] = sorted(told["errors"])
        found[told["document"]] = told
    assert len(found) == len(lines)
    return found


_uninterrupted: dict[int, tuple[Told, dict[str, Any]]] = {}


async def uninterrupted(folder: Path, documents: int) -> tuple[Told, dict[str, Any]]:
    """Return what a batch comes to that nobody disturbs: its journal, and its results."""
    if documents not in _uninterrupted:
        async with rig(folder / "uninterrupted", (0.0, 0.02)) as quiet:
            journal = str(quiet.folder / f"{documents}.db")
            worker = await quiet.finish(journal, documents=documents)
            seen = look(journal)
            assert quiet.billing.paid() == seen.calls
            _uninterrupted[documents] = Told.of(seen), results(worker)
    return _uninterrupted[documents]
