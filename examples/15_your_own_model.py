"""Any object with `async def complete(request)` is a model: wrap the client you have."""

import json

import trio

from pipeline_engine import Completion, Pipeline, RateLimitError, Request, UnavailableError, Usage, run_pipeline


class HouseBusyError(Exception):
    """What the client of some in-house server raises."""


class HouseClient:
    """That client, as it might be: it speaks dicts, and refuses every other call."""

    def __init__(self) -> None:
        self.calls = 0

    async def generate(self, prompt: str, schema: dict | None) -> dict:
        self.calls += 1
        await trio.sleep(0.02)
        if self.calls % 2:
            raise HouseBusyError("busy")
        return {"text": json.dumps({"value": ["sea", "moon"]}), "tokens": (len(prompt) // 4, 8)}


class HouseModel:
    """Translate: requests to the client's arguments, its replies to completions, its errors to ours."""

    name = "house:tiny"

    def __init__(self, client: HouseClient) -> None:
        self._client = client

    async def complete(self, request: Request) -> Completion:
        prompt = "\n\n".join(message.text for message in request.messages)
        schema = dict(request.schema) if request.schema else None
        try:
            reply = await self._client.generate(prompt, schema)
        except HouseBusyError as error:
            raise RateLimitError("is busy.", model=self.name, kind="rate_limited", retry_after=0.05) from error
        except OSError as error:
            raise UnavailableError("cannot be reached.", model=self.name, kind="connect") from error
        return Completion(reply["text"], usage=Usage(*reply["tokens"]))


pipeline = Pipeline("keywords", inputs={"document": str})


@pipeline.llm("fast", list[str])
def keywords(document: str) -> str:
    return f"Name the keywords.\n\n{document}"


result = run_pipeline(pipeline, {"document": "The moon pulls the sea."}, models={"fast": HouseModel(HouseClient())})
print(result[keywords], result.usage)
print("attempts:", [call.error or "answered" for call in result.calls(keywords)])
