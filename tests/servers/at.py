"""Run the document pipeline at a server that runs already: `python -m tests.servers.at URL --key KEY openai …`.

Each provider named is spoken to at that address, whole and streamed: a proxy or an engine speaks several protocols.
"""

import argparse
from collections import Counter
from urllib.parse import urlsplit

import trio

from pipeline_engine import Engine, Failed, Model, Pipeline, RunResult
from pipelines.document import pipeline
from tests.servers.asking import MODES, PROVIDERS, Counted, documents, streamed

plain = Pipeline("plain", inputs={"document": str})


@plain.llm("fast", str, truncated="keep")
def first(document: str) -> str:
    """You answer in plain words."""
    return f"Say what this is about.\n\n{document[:2000]}"


@plain.llm("strong", str, truncated="keep")
def second(document: str, first: str) -> str:
    return f"Say it more briefly.\n\n{first[:2000]}\n\n{document[:2000]}"


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("url", help="the server's address, without a path")
    parser.add_argument("providers", nargs="+", choices=PROVIDERS)
    parser.add_argument("--key", default="")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--documents", type=int, default=20)
    parser.add_argument("--max-tokens", type=int, default=4000)
    parser.add_argument("--structured-output", choices=["schema", "json", "prompt"], default=None)
    parser.add_argument("--plain", action="store_true", help="ask for text, where the server knows no schema")
    parser.add_argument("--capacity", type=int, default=64)
    arguments = parser.parse_args()
    if urlsplit(arguments.url).hostname not in {"127.0.0.1", "localhost", "::1"}:
        parser.error("only servers on the loopback are asked from here.")
    return arguments


async def run(arguments: argparse.Namespace, provider: str, *, stream: bool) -> None:
    """Run all documents and print what came of them."""
    model = Model(
        f"{provider}:{arguments.model}",
        base_url=arguments.url + PROVIDERS[provider],
        api_key=arguments.key,
        max_tokens=arguments.max_tokens,
        structured_output=arguments.structured_output,
    )
    whole = plain if arguments.plain else pipeline
    dag = streamed(whole) if stream else whole
    results: list[RunResult] = []

    async def run_one(engine: Engine, text: str) -> None:
        results.append(await engine.run(dag, {"document": text}))

    started = trio.current_time()
    async with (
        Engine(models={"fast": model, "strong": model}, capacity=arguments.capacity, seed=1) as engine,
        trio.open_nursery() as nursery,
    ):
        for text in documents(arguments.documents):
            nursery.start_soon(run_one, engine, text)
    seconds = trio.current_time() - started
    ended = dict(Counter(result.status for result in results))
    print(
        f"{provider:16} {MODES[stream]:8} {len(results)} documents in {seconds:4.1f} s: {ended}; {Counted.of(results)}"
    )
    outcomes = [result.outcome(step.name) for result in results for step in whole.steps]
    errors = Counter(str(outcome.error)[:300] for outcome in outcomes if isinstance(outcome, Failed))
    for error, number in errors.most_common(5):
        print(f"    {number} × {error}")


def main() -> None:
    arguments = parsed()
    for provider in arguments.providers:
        for stream in MODES:
            trio.run(lambda provider=provider, stream=stream: run(arguments, provider, stream=stream))


if __name__ == "__main__":
    main()
