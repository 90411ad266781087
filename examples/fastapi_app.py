"""A web server: one runner for its process, runs that end with their clients, and replies relayed as they are written.

Start it with `uvicorn --app-dir examples fastapi_app:app`, and follow a reply with
`curl -N -H 'content-type: application/json' -d '{"document": "Tea is hot."}' http://localhost:8000/articles/stream`.
"""

import asyncio  # noqa: TID251 - the server's own loop
import os
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel

from pipeline_engine import Delta, OverloadError, Pipeline, Restarted, Runner

pipeline = Pipeline("article", inputs={"document": str})


@pipeline.llm("fast", str, stream=True)
def summary(document: str) -> str:
    return f"Summarise this document.\n\n{document}"


@pipeline.llm("fast", str)
def title(summary: str) -> str:
    return f"Give this summary a title.\n\n{summary}"


class Article(BaseModel):
    document: str


MODELS = {"fast": os.environ.get("FAST_MODEL", "offline:extractive")}
routes = APIRouter()


def create_app(models: Mapping[str, Any] = MODELS, *, max_pending: int = 500) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.runner = Runner(models=models, capacity=64, max_pending=max_pending).open()
        yield
        # The server has ended its requests by now. Whatever else was submitted has 20 s: less than a container gets.
        await asyncio.to_thread(app.state.runner.close, timeout=20)

    app = FastAPI(lifespan=lifespan)
    app.include_router(routes)
    app.add_exception_handler(OverloadError, refuse)
    return app


async def refuse(request: Request, error: Exception) -> JSONResponse:
    """Say at once that the server is full: a client that is told can go elsewhere."""
    return JSONResponse({"detail": "Too many documents are waiting."}, status_code=503, headers={"Retry-After": "2"})


async def wait_until_gone(request: Request) -> None:
    """Wait until the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


@routes.post("/articles")
async def answer(article: Article, request: Request) -> Response:
    future = request.app.state.runner.submit(pipeline, {"document": article.document}, timeout=120)
    run = asyncio.wrap_future(future)
    # A server tells a handler that its client has gone, but does not end it.
    gone = asyncio.create_task(wait_until_gone(request))
    try:
        await asyncio.wait({run, gone}, return_when=asyncio.FIRST_COMPLETED)
        return JSONResponse(run.result().to_dict()) if run.done() else Response(status_code=499)
    finally:
        run.cancel()  # which cancels the run on the engine, unless it is over
        gone.cancel()


async def follow(article: Article, request: Request) -> AsyncIterator[Any]:
    """Open the run before the response begins: as long as there is no status yet, it can still be a 503."""
    async with request.app.state.runner.stream(pipeline, {"document": article.document}, timeout=120) as events:
        yield events


@routes.post("/articles/stream", response_class=EventSourceResponse)
async def relay(events: Annotated[Any, Depends(follow)]) -> AsyncIterable[ServerSentEvent]:
    async for event in events:
        match event:
            case Delta(step, _item, text):
                yield ServerSentEvent(event="delta", data={"step": step, "text": text})
            case Restarted(step, _item):
                yield ServerSentEvent(event="restarted", data={"step": step})
    yield ServerSentEvent(event="result", data=events.result.to_dict())


app = create_app()
