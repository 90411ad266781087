"""The real stack from an engine to a socket, and what must hold after every fault."""

import json
import logging
import traceback
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from pipeline_engine import Engine, Model, Pipeline, Retry, RunResult, Timeout
from pipeline_engine.values import (
    AttemptFinished,
    AttemptStarted,
    Completed,
    Failed,
    Fault,
    RepairAsked,
    RunStarted,
    StepFinished,
    WaitEnded,
    WaitStarted,
)
from tests.faults.proxy import Link, Proxy
from tests.faults.servers import Answer, Provider

SOON = 5.0
"""Seconds within which everything here happens, or the test has failed."""
RETRY = Retry(attempts=2, base_delay=0.001, jitter="none")
TIMEOUT = Timeout(connect=1.0, attempt=SOON)


@dataclass(frozen=True)
class Ran:
    """How one document's run ended, and how it came to it."""

    result: RunResult

    @property
    def status(self) -> str:
        """How the run ended."""
        return self.result.status

    @property
    def value(self) -> Any:
        """The step's output."""
        outcome = self.result.outcome("answer")
        assert isinstance(outcome, Completed), outcome
        return outcome.value

    @property
    def via(self) -> str | None:
        """What the output came from, if not from the step's own way."""
        outcome = self.result.outcome("answer")
        assert isinstance(outcome, Completed), outcome
        return outcome.via

    @property
    def error(self) -> Any:
        """Why the step failed."""
        outcome = self.result.outcome("answer")
        assert isinstance(outcome, Failed), outcome
        return outcome.error

    @property
    def finished(self) -> list[AttemptFinished]:
        """Every attempt's end."""
        return [record for record in self.result.records if isinstance(record, AttemptFinished)]

    @property
    def attempts(self) -> int:
        """How many attempts were started; each of them has ended, too."""
        started = sum(isinstance(record, AttemptStarted) for record in self.result.records)
        assert started == len(self.finished)
        return started

    @property
    def faults(self) -> list[Fault | None]:
        """What each attempt ended with."""
        return [record.fault for record in self.finished]

    @property
    def kinds(self) -> list[str | None]:
        """The kind of each attempt's fault; None if it succeeded."""
        return [fault and fault.kind for fault in self.faults]

    @property
    def replays(self) -> list[int]:
        """How often each attempt was sent once more below."""
        return [record.replays for record in self.finished]

    @property
    def repairs(self) -> list[tuple[str, ...]]:
        """What the model was told before each repair."""
        return [record.reasons for record in self.result.records if isinstance(record, RepairAsked)]

    @property
    def waits(self) -> list[float]:
        """The seconds of each back-off."""
        begun = [record.at for record in self.result.records if isinstance(record, WaitStarted)]
        ended = [record.at for record in self.result.records if isinstance(record, WaitEnded)]
        return [end - begin for begin, end in zip(begun, ended, strict=True)]

    @property
    def took(self) -> float:
        """The seconds from the run's start to the step's end."""
        started = next(record.at for record in self.result.records if isinstance(record, RunStarted))
        return next(record.at for record in self.result.records if isinstance(record, StepFinished)) - started


def asking(
    output: Any = str,
    *,
    retry: Retry | None = RETRY,
    timeout: Timeout = TIMEOUT,
    prompt: str = "Answer.",
    **options: Any,
) -> Pipeline:
    """Return a pipeline of one step that asks one model."""
    pipeline = Pipeline("faulty", inputs={"document": str})

    @pipeline.llm("fast", output, retry=retry, timeout=timeout.over(TIMEOUT), **options)
    def answer(document: str) -> str:
        return f"{prompt}\n\n{document}"

    return pipeline


class Rig:
    """Hold servers, proxies and a key that must turn up nowhere."""

    def __init__(self, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture, folder: Path) -> None:
        self.key = f"sk-CANARY-{uuid.uuid4()}"
        self._nursery = nursery
        self._caplog = caplog
        self._folder = folder
        self._heard: list[Provider | Proxy] = []
        caplog.set_level(logging.DEBUG, logger="pipeline_engine")

    def __repr__(self) -> str:
        return "<Rig>"

    async def serve(self, *script: Answer, path: str = "/v1", **options: Any) -> Provider:
        """Open a scripted provider."""
        provider = Provider(*script, path=path)
        await self._nursery.start(lambda task_status: provider.serve(**options, task_status=task_status))
        self._heard.append(provider)
        return provider

    async def spoil(self, provider: Provider, *links: Link) -> Proxy:
        """Open a proxy in front of a provider."""
        scheme, _, path = provider.base_url.partition(f"://127.0.0.1:{provider.port}")
        proxy = Proxy(provider.port, *links, scheme=scheme, path=path)
        await self._nursery.start(lambda task_status: proxy.serve(task_status=task_status))
        self._heard.append(proxy)
        return proxy

    def model(self, where: Provider | Proxy | str, name: str = "openai:m", **options: Any) -> Model:
        """Return the model behind an address, with the key for it."""
        base_url = where if isinstance(where, str) else where.base_url
        return Model(name, base_url=base_url, api_key=self.key, **options)

    @asynccontextmanager
    async def engine(self, *, capacity: int = 4, transport: Any = None, **options: Any) -> AsyncIterator[Engine]:
        """Open an engine; after it was closed no slot is taken, no connection is open, and no log has the key."""
        with trio.fail_after(2 * SOON):
            async with Engine(capacity=capacity, seed=1, transport=transport, **options) as engine:
                yield engine
                self.assert_idle(engine)
                self.assert_hidden("the engine", repr(engine))
            if transport is not None:
                await transport.aclose()
            with trio.fail_after(SOON):
                for heard in self._heard:
                    await heard.connections.wait_closed()
        self.assert_hidden("the logs", self._caplog.text)

    async def run(
        self,
        where: Provider | Proxy | str | Model | Sequence[Model],
        pipeline: Pipeline | None = None,
        *,
        document: str = "Some text.",
        **options: Any,
    ) -> Ran:
        """Run one document on an engine of its own."""
        async with self.engine(**options) as engine:
            return await self.ask(engine, where, pipeline, document=document)

    async def ask(
        self,
        engine: Engine,
        where: Provider | Proxy | str | Model | Sequence[Model],
        pipeline: Pipeline | None = None,
        *,
        document: str = "Some text.",
    ) -> Ran:
        """Run one document; nothing of what it leaves behind has the key."""
        model = self.model(where) if isinstance(where, Provider | Proxy | str) else where
        result = await engine.run(pipeline or asking(), {"document": document}, models={"fast": model}, key="a.txt")
        self.assert_result_hidden(result)
        self.assert_hidden("the model", repr(model))
        return Ran(result)

    @staticmethod
    def assert_idle(engine: Engine) -> None:
        """Nothing is taken, waits, or is timed."""
        statistics = engine.statistics()
        assert (statistics.in_flight, statistics.ready, statistics.timers) == (0, 0, 0)

    def assert_result_hidden(self, result: RunResult) -> None:
        """Whatever a result can be turned into, the key is not in it."""
        page = result.trace.to_html(self._folder / f"{uuid.uuid4()}.html").read_text(encoding="utf-8")
        self.assert_hidden("the page", page)
        self.assert_hidden("the waterfall", result.trace.waterfall(width=200))
        self.assert_hidden("the result", repr(result), json.dumps(result.to_dict()), result.reason)
        self.assert_hidden("the records", *map(repr, result.records), *map(repr, result.calls("answer")))
        for error in result.errors:
            self.assert_hidden("an error", shown(error))

    def assert_hidden(self, where: str, *texts: str) -> None:
        """No part of the key is in any of these texts."""
        for text in texts:
            for part in ("CANARY", self.key[-12:]):
                place = text.find(part)
                # The words around it, and not the whole text: it may be a page of a megabyte.
                assert place < 0, f"{where}: …{text[max(0, place - 200) : place + 60]}…"


def shown(error: BaseException) -> str:
    """Return everything that a log, a debugger or an error reporter might print of an error and its causes."""
    trace = traceback.TracebackException.from_exception(error, capture_locals=True, max_group_width=100)
    lines, seen, chain = [*trace.format()], set(), [error]
    for link in chain:
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        chain += [link.__cause__, link.__context__, *getattr(link, "exceptions", ())]
        lines += [str(link), repr(link), repr(vars(link)), repr(link.args)]
        frame = link.__traceback__
        while frame is not None:
            lines += [repr(value) for value in _values(frame.tb_frame.f_locals)]
            frame = frame.tb_next
    return "\n".join(lines)


def _values(scope: Mapping[str, Any]) -> list[Any]:
    return [value for name, value in scope.items() if name != "self" or not isinstance(value, Rig)]
