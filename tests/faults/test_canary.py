"""The key of a provider is on the wire and nowhere else: whatever is printed, written, pickled or raised."""

import copy
import dataclasses
import json
import logging
import os
import pickle
import ssl
import sys

import httpx2
import pytest
import trio
import trio.testing

from pipeline_engine import Document, Model, PlanError, Retry, Runner, run_batch_async
from pipeline_engine.providers import Secret, open_model, providers
from pipeline_engine.providers.transport import PoolTransport
from tests.faults.proxy import Link, Toxics
from tests.faults.rig import TIMEOUT, asking, shown
from tests.faults.servers import chat, claude, delta, error, event, ollama, raw, reply, spoken, streamed

QUICK = Retry(attempts=2, base_delay=0.001, jitter="none", repair=1, max_throttled=1)

HOSTILE = {
    "a refused key": error(401, "Incorrect API key provided: @KEY@"),
    "a plain text": reply(b"Bearer @KEY@", 500, {"content-type": "text/plain"}),
    "a page": reply(b"<html>Bearer @KEY@</html>", 502, {"content-type": "text/html"}),
    "no JSON": reply(b"@KEY@"),
    "a long text": reply(b"x" * 180 + b"@KEY@" * 20),
    "no choices": reply(b'{"key": "@KEY@"}'),
    "an error in a success": reply(b'{"error": {"message": "@KEY@", "type": "@KEY@", "code": "@KEY@"}}'),
    "a refusal": chat(None, message={"refusal": "I will not say @KEY@"}),
    "a redirect": reply(b"", 307, {"location": "https://elsewhere.example/?key=@KEY@"}),
    "a request id": error(500, "It went wrong", {"x-request-id": "@KEY@"}),
    "a media type": reply(b"?", 200, {"content-type": "text/@KEY@"}),
    "a hint": error(429, "Slow down", {"retry-after": "@KEY@", "date": "@KEY@"}),
    "an encoding": reply(b"?", 200, {"content-encoding": "@KEY@"}),
    "a bad head": raw(b"@KEY@\r\n\r\n", then="close"),
}
"""Answers of a server that sends back what it was given, wherever there is room for it."""


def echoing(answer):
    """Return an answer that gives the key back even where it is no HTTP."""
    pieces = answer.pieces
    return answer.with_(
        pieces=lambda received: [part.replace(b"@KEY@", received.key.encode()) for part in pieces(received)]
    )


@pytest.mark.parametrize("name", HOSTILE)
async def test_no_failure_shows_a_key_that_the_server_sends_back(rig, name):
    """Errors go to logs, pages, journals and tickets; what a server echoes goes with them."""
    server = await rig.serve(echoing(HOSTILE[name]))
    ran = await rig.run(server, asking(retry=QUICK))

    assert ran.status == "failed"
    assert server.requests[0].key == rig.key


@pytest.mark.parametrize("place", ["an event", "an error event", "an error after tokens"])
async def test_no_broken_stream_shows_it(rig, place):
    """A stream is quoted from another place in the code than a whole reply."""
    answers = {
        "an event": streamed(b"data: @KEY@\n\n", framing="close"),
        "an error event": streamed(event({"message": "@KEY@"}, "error"), framing="close"),
        "an error after tokens": streamed(delta("Hel"), event({"error": {"message": "@KEY@"}}), framing="close"),
    }
    server = await rig.serve(echoing(answers[place]))
    ran = await rig.run(server, asking(stream=True, retry=QUICK))

    assert ran.status == "failed"


async def test_timeouts_refusals_and_bugs_do_not_show_it(rig):
    """Their tracebacks end in the frames of a client that holds the key."""
    server = await rig.serve(raw(then="hang"))
    dead = "http://127.0.0.1:9/v1"

    def check(text):
        raise LookupError(text)

    bug = asking(check=check, retry=QUICK)
    answering = await rig.serve(chat())
    silent = await rig.run(server, asking(retry=QUICK, timeout=dataclasses.replace(TIMEOUT, attempt=0.05)))
    refused = await rig.run(dead, asking(retry=QUICK))
    wrong = await rig.run(answering, bug)

    assert {ran.status for ran in (silent, refused, wrong)} == {"failed"}


async def test_what_nobody_expected_does_not_show_it(rig):
    """A bug, a lack of memory or an interrupt leaves through all frames, and these have the request in their hands."""

    class Broken(ssl.SSLContext):
        def wrap_bio(self, *_arguments, **_options):
            raise RuntimeError("nobody expected this")

    class Raising(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request):
            raise RuntimeError("nobody expected this")

    address = "https://127.0.0.1:9/v1"
    server = await rig.serve()
    reached = address.replace("9", str(server.port))
    own = await rig.run(
        reached, asking(retry=QUICK), transport=PoolTransport(ssl_context=Broken(ssl.PROTOCOL_TLS_CLIENT))
    )
    foreign = await rig.run(address, asking(retry=QUICK), transport=Raising())

    assert [str(ran.error) for ran in (own, foreign)] == ["nobody expected this"] * 2


async def test_a_run_that_is_cancelled_does_not_show_it(rig):
    """A cancellation passes through every frame between the caller and the socket."""
    server = await rig.serve(raw(then="hang"))
    async with rig.engine() as engine:
        with trio.move_on_after(0.1):
            await rig.ask(engine, server)
        stopped = await engine.run(asking(), {"document": "x"}, models={"fast": rig.model(server)}, timeout=0.05)
        rig.assert_result_hidden(stopped)

    assert stopped.status == "stopped"


async def test_what_goes_wrong_in_a_sink_does_not_show_it(rig, caplog):
    """Somebody else's code may raise where records pass by, and its traceback is logged."""

    class Sink:
        def open_run(self, started):
            def read(record):
                raise RuntimeError(repr(record))

            return read

    server = await rig.serve(HOSTILE["a refused key"])
    async with rig.engine(sinks=[Sink()]) as engine:
        await rig.ask(engine, server)

    assert "RuntimeError" in caplog.text


# What is looked at


async def test_no_part_of_an_engine_or_a_model_shows_it(rig):
    """Debuggers and error reporters print whatever they find."""
    server = await rig.serve()
    async with rig.engine() as engine:
        await rig.ask(engine, server)
        seen = [engine, vars(engine), engine.bind(asking(), {"fast": rig.model(server)})]
        texts = [*map(repr, seen), *_insides(engine, 4)]
    rig.assert_hidden("the engine", *texts)


def _insides(value, depth):
    """Yield the `repr` of everything that hangs on an object of ours, some levels down."""
    yield repr(value)
    if depth == 0:
        return
    if isinstance(value, dict):
        parts = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        parts = [*value]
    elif type(value).__module__.startswith("pipeline_engine"):
        parts = [*getattr(value, "__dict__", {}).values()]
        # The places where a key is held on purpose are closed by their own `repr`, and end the walk.
        slots = () if isinstance(value, Secret | Model) else getattr(type(value), "__slots__", ())
        parts += [getattr(value, name, None) for name in slots]
    else:
        return
    for part in parts:
        if not isinstance(part, str | bytes | int | float | None):
            yield from _insides(part, depth - 1)


def test_a_model_that_can_be_called_shows_nothing(rig_key):
    """`repr(vars(model))` is what a debugger's panel shows."""
    model = _opened(rig_key)
    texts = [
        repr(model),
        str(model),
        f"{model}",
        repr(vars(model)),
        repr(copy.copy(model)),
        repr(vars(copy.copy(model))),
    ]

    assert [text for text in texts if "CANARY" in text] == []


def test_a_declared_model_shows_nothing(rig_key):
    """It stands in the user's own code, whose tracebacks show it with all other locals."""
    model = Model("openai:m", api_key=rig_key, extra_headers={"x-key": rig_key})
    texts = [repr(model), str(model), f"{model}", f"{model!r:>10}", repr([model]), repr({"fast": model})]

    assert [text for text in texts if "CANARY" in text] == []


def _opened(key):
    return open_model("openai:m", base_url="http://127.0.0.1:9/v1", api_key=key, environ={})


@pytest.mark.parametrize(
    "make",
    [Secret, _opened, lambda key: Model("openai:m", api_key=key)],
    ids=["Secret", "HttpModel", "Model"],
)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_that_holds_a_key_is_pickled(rig_key, make, protocol):
    """Pickles go to queues, caches and other machines; who reads one has the key."""
    with pytest.raises(TypeError, match=r"cannot be pickled|cannot pickle"):
        pickle.dumps(make(rig_key), protocol)


@pytest.fixture
def rig_key():
    """A key that is easy to find."""
    return "sk-CANARY-0c6d1a2e-7d7e-4a0c-9f5a-5b1f0e6f9a11"


@pytest.mark.parametrize("key", ["sk-CANARY\nx", "sk-CANARY x", "sk-CANARY-ü", "sk-CANARY\x00"])
async def test_a_key_that_cannot_be_sent_is_refused_without_being_shown(rig, key):
    """Half of a copied line is still half of a key."""
    async with rig.engine() as engine:
        with pytest.raises(PlanError) as caught:
            await engine.run(asking(), {"document": "x"}, models={"fast": Model("openai:m", api_key=key)})

    rig.assert_hidden("the refusal", str(caught.value), repr(caught.value), repr(vars(caught.value)))


@pytest.mark.parametrize("address", ["https://user:sk-CANARY@host.example/v1", "https://host.example/v1?key=sk-CANARY"])
async def test_an_address_with_a_password_is_refused_without_being_shown(rig, address):
    """Some put it there, and an address is the last thing that anybody thinks of hiding."""
    model = Model("openai:m", base_url=address, api_key="k")
    async with rig.engine() as engine:
        with pytest.raises(PlanError) as caught:
            await engine.run(asking(), {"document": "x"}, models={"fast": model})

    rig.assert_hidden("the refusal", str(caught.value), repr(caught.value), repr(vars(caught.value)))
    rig.assert_hidden("the declared model", repr(model))


# Other providers put it elsewhere


@pytest.mark.parametrize(
    ("name", "path", "answer", "header"),
    [
        ("openai", "/v1", chat(), "authorization"),
        ("openai-responses", "/v1", reply(b'{"status": "completed", "output": []}'), "authorization"),
        ("anthropic", "", claude(), "x-api-key"),
        ("ollama", "", ollama(), "authorization"),
        ("gemini", "", reply(b'{"candidates": []}'), "x-goog-api-key"),
        ("azure", "/openai/v1", chat(), "api-key"),
    ],
)
async def test_every_provider_gets_it_in_a_header_and_nowhere_else(rig, name, path, answer, header):
    """An address with a key in it stands in every log between here and there."""
    if name not in providers():
        pytest.skip(f"there is no provider {name!r} yet")
    refusing = error(401, "@KEY@ is wrong")
    server = await rig.serve(refusing, answer, path=path)
    model = rig.model(server, f"{name}:m")
    ran = await rig.run(model)
    await rig.run(model)

    for request in server.requests:
        assert rig.key in request.headers[header]
        assert rig.key not in request.target
        assert rig.key.encode() not in request.body
    assert "[secret]" in ran.faults[0].message


# What is written


async def test_a_batch_writes_and_tells_nothing_of_it(rig, tmp_path):
    """The file with the results and the page are what is handed on."""
    answers = [chat(), *map(echoing, HOSTILE.values())]
    server = await rig.serve(*answers)
    out = tmp_path / "results.jsonl"
    documents = [Document(f"{number}.txt", {"document": f"Text {number}."}) for number in range(len(answers))]
    async with rig.engine(capacity=1) as engine:
        models = {"fast": rig.model(server)}
        batch = await run_batch_async(asking(retry=None), documents, models=models, out=out, engine=engine)

    assert batch.counts == {"completed": 1, "failed": len(answers) - 1}
    texts = [
        out.read_text(encoding="utf-8"),
        repr(batch),
        repr(batch.failed),
        repr(batch.trace),
        repr([*batch.results]),
    ]
    rig.assert_hidden("the batch", *texts)
    for result in batch.sample:
        rig.assert_result_hidden(result)


async def test_a_runner_and_its_futures_do_not_show_it(rig):
    """In web servers and workers the exception of a future is what is reported."""
    server = await rig.serve(HOSTILE["a refused key"])
    model = rig.model(server)

    def work():
        with Runner(models={"fast": model}) as runner:
            future = runner.submit(asking(), {"document": "x"})
            return repr(runner), repr(vars(runner)), future.result(10), repr(future)

    *texts, result, future = await trio.to_thread.run_sync(work)
    rig.assert_hidden("the runner", *texts, future)
    rig.assert_result_hidden(result)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever it is, it is searched
        result.raise_for_failure()
    rig.assert_hidden("the error of the run", shown(caught.value))


PIPELINE = """
from pipeline_engine import Pipeline, Retry, Timeout

pipeline = Pipeline("notes", inputs={"document": str})


@pipeline.llm("fast", str, retry=Retry(attempts=2, base_delay=0.001), timeout=Timeout(connect=1, attempt=2))
def answer(document: str) -> str:
    return f"Answer.\\n\\n{document}"
"""

COMMANDS = {
    "completed": chat(),
    "failing": HOSTILE["a refused key"],
    "breaking": HOSTILE["a plain text"],
    "strange": HOSTILE["a bad head"],
    "nobody": None,
}


@pytest.mark.parametrize("name", COMMANDS)
async def test_the_command_line_shows_and_writes_nothing_of_it(rig, name, tmp_path):
    """It has the key from the environment, as everybody has it there; and it is asked for tracebacks."""
    answer = COMMANDS[name]
    base_url = "http://127.0.0.1:9/v1"
    if answer is not None:
        base_url = (await rig.serve(echoing(answer))).base_url
    (tmp_path / "notes.py").write_text(PIPELINE)
    (tmp_path / "a.md").write_text("Some text.")
    arguments = [
        "run",
        "notes.py",
        "a.md",
        "--model",
        "fast=openai:m",
        "--out",
        "o.jsonl",
        "--report",
        "r.html",
        "--debug",
    ]
    environ = {
        **os.environ,
        "OPENAI_API_KEY": rig.key,
        "OPENAI_BASE_URL": base_url,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-m", "pipeline_engine", *arguments]
    with trio.fail_after(20):
        ended = await trio.run_process(
            command, capture_stdout=True, capture_stderr=True, check=False, cwd=tmp_path, env=environ
        )
    written = {path.name: path.read_bytes().decode("utf-8", "replace") for path in tmp_path.iterdir() if path.is_file()}

    assert ended.returncode == (0 if name == "completed" else 1), ended.stderr.decode()
    assert {"o.jsonl", "r.html"} <= written.keys()
    rig.assert_hidden("the screen", ended.stdout.decode(), ended.stderr.decode())
    rig.assert_hidden("the files", *written.values())
    assert json.loads(written["o.jsonl"])["status"] == ("completed" if name == "completed" else "failed")


async def test_a_bad_key_in_the_environment_is_not_shown_by_the_command_line(rig, tmp_path):
    """A line break that was copied with it is the commonest way to have one."""
    (tmp_path / "notes.py").write_text(PIPELINE)
    (tmp_path / "a.md").write_text("Some text.")
    environ = {**os.environ, "OPENAI_API_KEY": f"{rig.key} {rig.key}", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [
        sys.executable,
        "-m",
        "pipeline_engine",
        "run",
        "notes.py",
        "a.md",
        "--model",
        "fast=openai:m",
        "--debug",
    ]
    ended = await trio.run_process(
        command, capture_stdout=True, capture_stderr=True, check=False, cwd=tmp_path, env=environ
    )

    assert ended.returncode == 2
    assert "OPENAI_API_KEY" in ended.stderr.decode()
    rig.assert_hidden("the screen", ended.stdout.decode(), ended.stderr.decode())


# The tests must be able to fail


async def test_the_canary_is_found_where_it_is(rig, caplog):
    """A search that finds nothing anywhere proves nothing."""
    logging.getLogger("pipeline_engine").debug("the key is %s", rig.key)
    with pytest.raises(AssertionError, match="the logs"):
        async with rig.engine():
            pass

    def leak():
        secret = rig.key  # noqa: F841 - a local, as careless code has them
        raise ValueError("nothing in the message")

    with pytest.raises(ValueError, match="nothing") as caught:
        leak()
    with pytest.raises(AssertionError, match="an error"):
        rig.assert_hidden("an error", shown(caught.value))


async def test_a_connection_that_is_left_open_is_noticed(rig):
    """The same for the search for open sockets."""
    server = await rig.serve(spoken())
    proxy = await rig.spoil(server, Link(down=Toxics(latency=0.0)))
    port = int(proxy.base_url.rsplit(":", 1)[1].split("/")[0])
    async with await trio.open_tcp_stream("127.0.0.1", port):
        await trio.testing.wait_all_tasks_blocked(0.02)
        with trio.move_on_after(0.05) as scope:
            await proxy.connections.wait_closed()

    assert scope.cancelled_caught
