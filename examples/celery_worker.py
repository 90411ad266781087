"""A Celery worker: one runner for all of its threads, and another try of the whole job where that may help.

Start it with `celery --workdir examples --app celery_worker worker --pool=threads --concurrency=32`. The threads only
wait; what bounds the calls is the runner. Broker and results: CELERY_BROKER_URL and CELERY_RESULT_BACKEND.
"""

import os
from typing import Any

from celery import Celery, Task
from celery.signals import worker_init, worker_shutdown

from pipeline_engine import Pipeline, PipelineEngineError, Policy, Retry, Runner

pipeline = Pipeline("article", inputs={"document": str}, policy=Policy(retry=Retry(attempts=2, base_delay=0.5)))


@pipeline.llm("fast", str)
def summary(document: str) -> str:
    return f"Summarise this document.\n\n{document}"


@pipeline.llm("fast", str)
def title(summary: str) -> str:
    return f"Give this summary a title.\n\n{summary}"


app = Celery("articles")
runner = Runner(models={"fast": os.environ.get("FAST_MODEL", "offline:extractive")}, capacity=64)


# With --pool=prefork: worker_process_init and worker_process_shutdown, since a runner does not survive a fork.
@worker_init.connect
def open_runner(**_: Any) -> None:
    runner.open()


@worker_shutdown.connect
def close_runner(**_: Any) -> None:
    runner.close(timeout=20)


@app.task(bind=True, acks_late=True, max_retries=5, default_retry_delay=60)
def summarise(self: Task, key: str, document: str) -> dict[str, Any]:
    """Steps try their calls again within the run; what is down for longer is tried again as a job, a minute later."""
    try:
        result = runner.run(pipeline, {"document": document}, key=key, timeout=600)
        result.raise_for_failure()
    except PipelineEngineError as error:
        if not error.is_transient:  # a refusal, a wrong key, a bug: it would end the same way
            raise
        raise self.retry(exc=error) from error
    return dict(result.outputs)
