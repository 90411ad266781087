"""Plain threads: thirty-two of them share one runner, and with it a model's limits, its breaker and its connections."""

import logging
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import trio

from pipeline_engine import (
    Breaker,
    CircuitOpenError,
    Completion,
    Limits,
    OverloadError,
    Pipeline,
    Request,
    Runner,
    UnavailableError,
)


class Provider:
    """A stand-in for a provider, which counts what it is asked."""

    name = "example:provider"
    limits = Limits(max_concurrency=4)
    breaker = Breaker(failure_threshold=3, timeout=600)

    def __init__(self) -> None:
        self.calls = self.in_flight = self.most_in_flight = 0
        self.is_down = False

    async def complete(self, request: Request) -> Completion:
        self.calls += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await trio.sleep(0.01)
        self.in_flight -= 1
        if self.is_down:
            raise UnavailableError("failed (HTTP 502).", model=self.name, kind="server", status=502)
        return Completion(request.messages[0].text.upper())


pipeline = Pipeline("shout", inputs={"word": str})


@pipeline.llm("fast", str, retry=None, when_open="fail")
def shouted(word: str) -> str:
    return word


slow = Pipeline("slow", inputs={})
may_end = Event()


@slow.step
def waited() -> bool:
    return may_end.wait(timeout=10)


logging.getLogger("pipeline_engine").setLevel(logging.ERROR)  # that the breaker opens is expected here
provider = Provider()
models = {"fast": provider}

with Runner(max_pending=40) as runner, ThreadPoolExecutor(32) as threads:

    def shout(number: int) -> str:
        outcome = runner.run(pipeline, {"word": f"word {number}"}, models=models).outcome("shouted")
        return type(getattr(outcome, "error", outcome)).__name__

    endings = list(threads.map(shout, range(200)))
    print(f"{endings.count('Completed')} runs, at most {provider.most_in_flight} calls at once")

    provider.is_down, provider.calls = True, 0
    endings = [shout(number) for number in range(3)] + list(threads.map(shout, range(200)))
    refused = endings.count(CircuitOpenError.__name__)
    print(f"provider down: {provider.calls} calls made, {refused} runs told at once")

    waiting = [runner.submit(slow, {}) for _ in range(40)]
    try:
        runner.run(pipeline, {"word": "one more"}, models=models)
    except OverloadError as error:
        print(error)
    may_end.set()
    print(f"{sum(future.result()['waited'] for future in waiting)} runs ended well")
