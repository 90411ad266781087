"""One runner shared by the threads of a work queue: each piece of work has a status and may be tried again."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count

from pydantic import BaseModel

from pipeline_engine import Pipeline, Request, Retry, RunError, Runner, UnavailableError
from pipeline_engine.testing import ScriptedModel


class Verdict(BaseModel):
    is_toxic: bool


pipeline = Pipeline("moderation", inputs={"comment": str})


@pipeline.llm("fast", Verdict, retry=Retry(attempts=2, base_delay=0.01))
def verdict(comment: str) -> str:
    return f"Is this comment toxic?\n\n{comment}"


def answers() -> Callable[[Request], object]:
    """Comment 7 meets three failures in a row: one more than its first try has attempts."""
    calls_for_7 = count(1)

    def answer(request: Request) -> object:
        if "comment 7" in request.messages[0].text and next(calls_for_7) <= 3:
            return UnavailableError("failed (HTTP 502).", model="scripted:model", kind="server", status=502)
        return Verdict(is_toxic="9" in request.messages[0].text)

    return answer


COMMENTS = {number: f"comment {number}" for number in range(12)}
history: dict[int, list[str]] = {number: ["queued"] for number in COMMENTS}


def perform(runner: Runner, number: int, tries: int = 3) -> None:
    """Do what a worker of Sidekiq or Celery does: a status before, a status after, some tries in between."""
    for _ in range(tries):
        history[number].append("processing")
        result = runner.run(pipeline, {"comment": COMMENTS[number]})
        try:
            result.raise_for_failure()
        except RunError as error:
            history[number].append(f"failed ({error.errors[0].__cause__})")
        else:
            history[number].append(f"completed, toxic: {result[verdict].is_toxic}")
            return


model = ScriptedModel({"verdict": answers()}, latency=0.03)
with Runner(models={"fast": model}, capacity=8) as runner, ThreadPoolExecutor(max_workers=5) as workers:
    list(workers.map(lambda number: perform(runner, number), COMMENTS))

for number, statuses in history.items():
    print(f"{number:>2}", " → ".join(statuses))
