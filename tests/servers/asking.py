"""How the tests ask: models at the server, pipelines, and what their records count."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from pipeline_engine import Model, Pipeline, Policy, Retry, RunResult, Timeout
from pipeline_engine.values import AttemptFinished
from tests.servers.aimock import FIXTURES, KEY, Server

ROOT = Path(__file__).parents[2]
BOUND = 60.0
"""Seconds within which each test is over, or has failed."""
PROVIDERS = {
    "openai": "/v1",
    "openai-responses": "/v1",
    "azure": "",
    "anthropic": "",
    "gemini": "",
    "ollama": "",
}
"""Each provider's base URL after the server's address, as its own SDK takes it."""
MODES = {False: "whole", True: "streamed"}

_numbers = count(1)


class Tea(BaseModel):
    """What most of these tests ask for."""

    name: str
    grams: int


class Visit(NamedTuple):
    """Hold who asks the server, under a name by which it tells this test's requests from others."""

    server: Server
    test_id: str

    def model(self, provider: str, name: str = "tiny", *, key: str = KEY, **headers: str) -> Model:
        """Return a model at the server; `headers` tell the server how to misbehave."""
        named = {f"x-aimock-{header.replace('_', '-')}": value for header, value in headers.items()}
        return Model(
            f"{provider}:{name}",
            base_url=self.server.url + PROVIDERS[provider],
            api_key=key,
            extra_headers={"x-test-id": self.test_id, **named},
        )

    @property
    def journal(self) -> list[dict[str, Any]]:
        """Every request of this visit, as the server saw it."""
        return self.server.journal(self.test_id)


def visit(server: Server) -> Visit:
    """Return a visit under a new name."""
    return Visit(server, f"visit-{next(_numbers)}")


def tea_pipeline(prompt: str, *, stream: bool, attempts: int = 2, **timeouts: float) -> Pipeline:
    """Return a pipeline of one step, `tea`, that waits hardly at all before it tries again."""
    retry = Retry(attempts=attempts, base_delay=0.01, jitter="none")
    pipeline = Pipeline("tea", inputs={"name": str}, policy=Policy(retry=retry, timeout=Timeout(**timeouts)))

    @pipeline.llm("fast", Tea, stream=stream)
    def tea(name: str) -> str:
        return f"{prompt} {name}"

    return pipeline


def streamed(pipeline: Pipeline) -> Pipeline:
    """Return the same pipeline with `stream=True` at each step."""
    other = Pipeline(pipeline.name, inputs=pipeline.inputs, policy=pipeline.policy)
    for step in pipeline.steps:
        other._add(replace(step, stream=True))
    return other


def documents(number: int) -> list[str]:
    """Return pages of this repository that hold nothing by which the server tells one prompt from another."""
    entries = [entry for path in FIXTURES.glob("*.json") for entry in json.loads(path.read_text("utf-8"))["fixtures"]]
    known = [entry["match"]["userMessage"] for entry in entries if "userMessage" in entry["match"]]
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").rglob("*.md"))]
    return [text for text in texts if not any(words in text for words in known)][:number]


@dataclass(frozen=True)
class Counted:
    """What the records of some runs count."""

    attempts: int
    replays: int
    """Requests sent once more because a kept connection had died unanswered."""
    faults: Counter[str]
    """How often each kind of fault happened; with its status, where that tells more."""

    @classmethod
    def of(cls, results: Iterable[RunResult]) -> "Counted":
        """Count the attempts in the results' records."""
        finished = [record for result in results for record in result.records if isinstance(record, AttemptFinished)]
        faults = Counter(_named(record) for record in finished if record.fault is not None)
        return cls(len(finished), sum(record.replays for record in finished), faults)

    def __str__(self) -> str:
        named = ", ".join(f"{number} {name}" for name, number in sorted(self.faults.items()))
        return f"{self.attempts} attempts + {self.replays} replays; faults: {named or 'none'}"


def _named(record: AttemptFinished) -> str:
    fault = record.fault
    assert fault is not None
    return f"{fault.kind} {fault.status}" if fault.kind == "server" and fault.status else fault.kind


def faults_of(result: RunResult) -> list[str]:
    """Return the kind of each attempt's fault, in order; a good attempt is an empty one."""
    finished = [record for record in result.records if isinstance(record, AttemptFinished)]
    return ["" if record.fault is None else record.fault.kind for record in finished]
