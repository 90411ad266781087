"""Steps that turn texts into vectors: in batches, each a call with a slot and retries of its own."""

import pytest
import trio

from pipeline_engine import (
    Completed,
    Completion,
    Cost,
    Engine,
    Failed,
    Model,
    OutputError,
    Pipeline,
    PlanError,
    Policy,
    Price,
    RejectedError,
    Retry,
    Skipped,
    StepCodeError,
    StepTimeoutError,
    Stopped,
    Timeout,
    UnavailableError,
    Usage,
    compile_pipeline,
    current_step,
)
from pipeline_engine.testing import Reply, ScriptedModel, in_turn
from pipeline_engine.values import (
    AttemptFinished,
    AttemptStarted,
    Embeddings,
    StepFinished,
    StepMapped,
    StepReady,
)

DOWN = UnavailableError("broke down.", model="scripted:model", kind="server", status=500)
NO = RejectedError("said no.", model="scripted:model", kind="invalid", status=400)
EXACT = Retry(attempts=4, jitter="none")


def lengths(texts):
    return [[float(len(text))] for text in texts]


def embedding(**options):
    pipeline = Pipeline("vectors", inputs={"texts": list[str]})

    @pipeline.embed("embedder", **options)
    def vectors(texts: list[str]) -> list[str]:
        return texts

    return pipeline


def letters(count):
    """Return texts of one letter, two letters, and so on."""
    return ["x" * length for length in range(1, count + 1)]


async def run(pipeline, model, texts, *, capacity=8, **options):
    async with Engine(models={"embedder": model}, capacity=capacity, seed=0) as engine:
        result = await engine.run(pipeline, {"texts": texts}, **options)
        statistics = engine.statistics()
        assert (statistics.in_flight, statistics.ready, statistics.timers) == (0, 0, 0)
    return result


def attempts(result):
    return sorted((r.at, r.item, r.attempt) for r in result.records if isinstance(r, AttemptStarted))


async def test_texts_are_sent_in_batches_as_large_as_the_model_takes(autojump_clock):
    """A provider refuses one text too many, and a call for each text costs the night."""
    model = ScriptedModel({"vectors": lengths}, latency=2.0, max_texts=3)

    result = await run(embedding(), model, letters(8))

    # Batches that start at one instant may arrive in any order.
    assert sorted(model.texts) == [letters(8)[:3], letters(8)[3:6], letters(8)[6:]]
    assert result["vectors"] == [[float(length)] for length in range(1, 9)]
    assert attempts(result) == [(0.0, 0, 1), (0.0, 1, 1), (0.0, 2, 1)]
    assert result.trace.makespan == 2.0


async def test_each_batch_takes_one_slot(autojump_clock):
    """A hundred batches at once would overrun the provider that the capacity protects."""
    model = ScriptedModel({"vectors": lengths}, latency=2.0, max_texts=1)

    result = await run(embedding(), model, letters(5), capacity=2)

    assert attempts(result) == [(0.0, 0, 1), (0.0, 1, 1), (2.0, 2, 1), (2.0, 3, 1), (4.0, 4, 1)]
    assert result.trace.makespan == 6.0


async def test_the_order_is_that_of_the_texts_whatever_ends_first(autojump_clock):
    """A vector at the wrong place is found by no test and misleads every search."""
    model = ScriptedModel({"vectors": lambda texts: Reply(lengths(texts), latency=10.0 - len(texts[0]))}, max_texts=2)

    result = await run(embedding(), model, letters(7))

    ended = [r.item for r in result.records if isinstance(r, StepFinished) and r.item is not None]
    assert ended == [3, 2, 1, 0]
    assert result["vectors"] == [[float(length)] for length in range(1, 8)]


async def test_a_batch_is_tried_again_by_itself(autojump_clock):
    """The batches that are there must not be paid for again."""
    model = ScriptedModel({"vectors": lengths}, latency=2.0, max_texts=2)
    broken = {("xxx", "xxxx"): in_turn(DOWN, DOWN, lengths)}
    model.script["vectors"] = lambda texts: broken.get(tuple(texts), lengths(texts))

    result = await run(embedding(retry=EXACT), model, letters(6))

    assert attempts(result) == [(0.0, 0, 1), (0.0, 1, 1), (0.0, 2, 1), (3.0, 1, 2), (7.0, 1, 3)]
    assert result["vectors"] == [[float(length)] for length in range(1, 7)]
    assert result.trace.makespan == 9.0


async def test_a_batch_has_timeouts_of_its_own(autojump_clock):
    """One batch that hangs is sent again while the others go on."""
    hangs = iter([Reply(None, latency=99.0)])
    model = ScriptedModel({"vectors": lambda texts: next(hangs, Reply(lengths(texts), latency=1.0))}, max_texts=2)

    result = await run(embedding(retry=EXACT, timeout=5), model, letters(4))

    assert attempts(result) == [(0.0, 0, 1), (0.0, 1, 1), (6.0, 0, 2)]
    fault = next(r.fault for r in result.records if isinstance(r, AttemptFinished) and r.fault)
    assert (fault.kind, fault.is_transient) == (StepTimeoutError.__name__, True)
    assert len(result["vectors"]) == 4


async def test_a_batch_that_fails_fails_the_step_and_withdraws_those_that_wait(autojump_clock):
    """A list with a hole is no list; what is not on the wire yet need not be paid for."""
    seconds = {"x": 1.0, "xx": 1.5, "xxx": 3.0, "y": 2.0}
    model = ScriptedModel(
        {"vectors": lambda texts: Reply(NO if texts == ["xx"] else lengths(texts), latency=seconds[texts[0]])},
        max_texts=1,
    )

    result = await run(embedding(), model, [*letters(3), *"yyyyy"], capacity=3)

    # At 1 the first one ends and the fourth starts, at 1.5 the second one fails: what is on the wire may finish.
    assert result.outcome("vectors") == Failed(NO)
    assert sorted(texts[0] for texts in model.texts) == ["x", "xx", "xxx", "y"]
    assert result.trace.makespan == 3.0
    outcomes = {r.item: type(r.outcome) for r in result.records if isinstance(r, StepFinished) and r.item is not None}
    assert outcomes == {0: Completed, 1: Failed, 2: Completed, 3: Completed} | dict.fromkeys(range(4, 8), Skipped)


async def test_a_batch_that_backs_off_is_withdrawn_too(autojump_clock):
    """Its step has failed, so its next attempt could not help."""
    model = ScriptedModel(
        {"vectors": lambda texts: Reply(NO, latency=2.0) if texts == ["xx"] else Reply(DOWN, latency=1.0)},
        max_texts=1,
    )

    result = await run(embedding(retry=Retry(attempts=4, base_delay=30.0, jitter="none")), model, letters(2))

    assert result.outcome("vectors") == Failed(NO)
    assert result.trace.makespan == 2.0
    assert len(model.texts) == 2


async def test_no_texts_need_no_call(autojump_clock):
    """An empty document is nothing to fail on."""
    model = ScriptedModel({"vectors": lengths}, latency=2.0)

    result = await run(embedding(), model, [])

    assert result["vectors"] == []
    assert (model.texts, result.trace.makespan, result.status) == ([], 0.0, "completed")


async def test_any_sequence_of_texts_will_do(autojump_clock):
    """A generator that is read twice would lose every text without a word."""
    pipeline = Pipeline("vectors", inputs={"texts": list[str]})

    @pipeline.embed("embedder")
    def vectors(texts: list[str]):
        return (text.upper() for text in texts)

    model = ScriptedModel({"vectors": lengths})

    result = await run(pipeline, model, ["a", "bc"])

    assert model.texts == [["A", "BC"]]
    assert result["vectors"] == [[1.0], [2.0]]


@pytest.mark.parametrize(
    ("vectors", "reason"),
    [
        ([], "the model gave 0 vectors for 2 texts"),
        ([[1.0]], "the model gave 1 vectors for 2 texts"),
        ([[1.0], [2.0], [3.0]], "the model gave 3 vectors for 2 texts"),
    ],
)
async def test_a_wrong_number_of_vectors_is_an_output_error(autojump_clock, vectors, reason):
    """Nobody could say which text lacks its vector; asking again would give the same."""
    model = ScriptedModel({"vectors": vectors}, latency=1.0)

    result = await run(embedding(retry=EXACT), model, ["a", "b"])

    error = result.outcome("vectors").error
    assert isinstance(error, OutputError)
    assert error.reasons == (reason,)
    assert len(model.texts) == 1


async def test_what_is_no_embeddings_is_an_output_error(autojump_clock):
    """A model of one's own is easily written wrong."""

    class Wrong:
        max_texts = 10

        async def embed(self, texts, *, connect_timeout=None):
            return [[1.0] for _ in texts]

    result = await run(embedding(), Wrong(), ["a"])

    error = result.outcome("vectors").error
    assert isinstance(error, OutputError)
    assert error.reasons == ("the model's embed() returned a list",)


async def test_consumers_get_a_list_of_vectors(autojump_clock):
    """Batches are the provider's business; nobody else hears of them."""
    pipeline = Pipeline("search", inputs={"texts": list[str]})

    @pipeline.embed("embedder")
    def vectors(texts: list[str]) -> list[str]:
        return texts

    @pipeline.step
    async def total(vectors: list[list[float]]) -> float:
        return sum(vector[0] for vector in vectors)

    @pipeline.step(each=vectors)
    async def doubled(vector: list[float]) -> float:
        return vector[0] * 2

    result = await run(pipeline, ScriptedModel({"vectors": lengths}, max_texts=2), letters(5))

    assert result[total] == 15.0
    assert result[doubled] == [2.0, 4.0, 6.0, 8.0, 10.0]
    assert result.outcome(vectors) == Completed([[1.0], [2.0], [3.0], [4.0], [5.0]])


def test_a_consumer_of_another_type_is_a_problem():
    """Found before the first text is paid for."""
    pipeline = embedding()

    @pipeline.step
    def wrong(vectors: list[str]) -> int:
        return len(vectors)

    with pytest.raises(PlanError) as caught:
        compile_pipeline(pipeline)
    assert [problem.code for problem in caught.value.problems] == ["PE104"]


async def test_the_records_tell_of_batches_as_of_items(autojump_clock):
    """One grammar for all that is divided: the waterfall draws it without knowing."""
    result = await run(embedding(), ScriptedModel({"vectors": lengths}, latency=1.0, max_texts=2), letters(3))

    own = [record for record in result.records if getattr(record, "step", None) == "vectors"]
    assert [record.item for record in own if isinstance(record, StepReady)] == [None, 0, 1]
    ended = [record.item for record in own if isinstance(record, StepFinished)]
    assert (set(ended[:2]), ended[2:]) == ({0, 1}, [None])
    assert [record.width for record in own if isinstance(record, StepMapped)] == [2]
    span = result.trace["vectors"]
    assert (span.width, span.attempts, span.duration) == (2, 2, 1.0)
    assert [(item.item, item.duration) for item in result.trace.items("vectors")] == [(0, 1.0), (1, 1.0)]


async def test_usage_and_cost_are_summed_over_the_batches(autojump_clock):
    """A bill is one number."""
    used = Usage(input_tokens=1_000_000, output_tokens=0)
    model = ScriptedModel(
        {"vectors": lambda texts: Reply(lengths(texts), usage=used)}, max_texts=2, price=Price(0.5, 0.0)
    )

    result = await run(embedding(), model, letters(5))

    assert result.usage == Usage(input_tokens=3_000_000, output_tokens=0)
    assert result.cost == Cost(usd=1.5)
    assert result.trace["vectors"].usage == result.usage
    assert result.calls("vectors") == ()


async def test_current_step_tells_where_it_runs(autojump_clock):
    """The function is asked once for the step, the model once for each batch."""
    seen = []
    pipeline = Pipeline("vectors", inputs={"texts": list[str]})

    @pipeline.embed("embedder", timeout=30)
    def vectors(texts: list[str]) -> list[str]:
        context = current_step()
        seen.append((context.step, context.item, context.attempt, context.document))
        return texts

    class Watching:
        max_texts = 2

        async def embed(self, texts, *, connect_timeout=None):
            context = current_step()
            seen.append((context.step, context.item, context.attempt, context.deadline))
            return Embeddings(tuple(lengths(texts)))

    await run(pipeline, Watching(), letters(3), key="a.txt")

    assert seen == [("vectors", None, 0, "a.txt"), ("vectors", 0, 1, 30.0), ("vectors", 1, 1, 30.0)]


async def test_the_connect_timeout_reaches_the_model(autojump_clock):
    """Only whoever opens the connection can keep it."""
    seen = []

    class Watching:
        max_texts = 2

        async def embed(self, texts, *, connect_timeout=None):
            seen.append(connect_timeout)
            return Embeddings(tuple(lengths(texts)))

    await run(embedding(), Watching(), ["a"])
    await run(embedding(timeout=Timeout(connect=3)), Watching(), ["a"])
    await run(embedding(timeout=None), Watching(), ["a"])

    assert seen == [10, 3, None]


async def test_a_run_that_ends_stops_all_batches(autojump_clock):
    """Those on the wire and those that wait for a slot."""
    model = ScriptedModel({"vectors": lengths}, latency=10.0, max_texts=1)

    result = await run(embedding(), model, letters(4), capacity=2, timeout=5.0)

    assert result.status == "stopped"
    assert result.outcome("vectors") == Stopped("the run's timeout of 5 s")
    ended = {r.item: type(r.outcome) for r in result.records if isinstance(r, StepFinished)}
    assert ended == dict.fromkeys([0, 1, 2, 3, None], Stopped)


async def test_a_condition_can_skip_it(autojump_clock):
    """No vectors are needed for what nobody will search."""
    model = ScriptedModel({"vectors": lengths})
    result = await run(embedding(when=lambda texts: len(texts) > 3), model, ["a"])
    assert result.outcome("vectors") == Skipped("when", is_by_choice=True)
    assert model.texts == []


# Mistakes in the function


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (
            "one text",
            "the function of step 'vectors' returned a str. Return a list of texts.",
        ),
        (
            None,
            "the function of step 'vectors' returned nothing (is a `return` missing?). Return a list of texts.",
        ),
        (
            [1, 2],
            "the function of step 'vectors' returned a list that holds an int. Return a list of texts.",
        ),
    ],
)
async def test_what_is_no_list_of_texts_is_a_bug_in_the_function(autojump_clock, returned, message):
    """A str is a sequence of letters, each of which would be embedded and paid for."""
    pipeline = Pipeline("vectors", inputs={"texts": list[str]})
    pipeline.embed("embedder", name="vectors", retry=EXACT)(lambda texts: returned)
    model = ScriptedModel({"vectors": lengths})

    result = await run(pipeline, model, ["a"])

    error = result.outcome("vectors").error
    assert isinstance(error, StepCodeError)
    assert str(error) == message
    assert model.texts == []


async def test_an_exception_in_the_function_is_neither_retried_nor_hidden(autojump_clock):
    """It is a bug in the pipeline, as in a prompt."""
    pipeline = Pipeline("vectors", inputs={"texts": list[str]})
    pipeline.embed("embedder", name="vectors", retry=EXACT)(lambda texts: texts[5])

    result = await run(pipeline, ScriptedModel({"vectors": lengths}), ["a"])

    assert str(result.outcome("vectors").error) == (
        "the function of step 'vectors' raised IndexError: list index out of range. Correct the pipeline's code."
    )


# Problems


def binding_problems(pipeline, model):
    engine = Engine(models={"embedder": model})
    with pytest.raises(PlanError) as caught:
        engine.bind(pipeline)
    return [(problem.code, problem.message) for problem in caught.value.problems]


class OnlyVectors:
    name = "fake:vectors"
    max_texts = 10

    async def embed(self, texts, *, connect_timeout=None):
        return Embeddings(tuple(lengths(texts)))


class OnlyWords:
    name = "fake:words"

    async def complete(self, request):
        return Completion("words")


def test_a_chain_of_models_is_a_problem():
    """Vectors of two models cannot be compared: a fallback would poison the index."""
    assert binding_problems(embedding(), [OnlyVectors(), OnlyVectors()]) == [
        (
            "PE202",
            (
                "step 'vectors' makes vectors, but its role 'embedder' is bound to 'fake:vectors' and 'fake:vectors'. "
                "Bind one of them."
            ),
        )
    ]


def test_a_model_without_vectors_is_a_problem():
    """Found when it is bound, not with the first document of the night."""
    assert binding_problems(embedding(), OnlyWords()) == [
        ("PE202", "step 'vectors' makes vectors, which 'fake:words' does not. Bind an embedding model.")
    ]


def test_a_model_of_vectors_alone_answers_no_prompts():
    """The other way round it is as wrong."""
    pipeline = Pipeline("asking", inputs={"document": str})
    pipeline.llm("embedder", str, name="ask")(lambda document: document)
    [(code, message)] = binding_problems(pipeline, OnlyVectors())
    assert code == "PE202"
    assert message == "step 'ask' is bound to 'fake:vectors', which only makes vectors. Bind another model."


def test_a_model_that_takes_no_texts_is_a_problem():
    """No batch is small enough for it, and dividing by it would never end."""
    model = OnlyVectors()
    model.max_texts = 0
    [(code, _message)] = binding_problems(embedding(), model)
    assert code == "PE202"


async def test_a_model_of_vectors_alone_will_do(autojump_clock):
    """One method and one number are all that is asked of it."""
    result = await run(embedding(), OnlyVectors(), ["abc"])
    assert result["vectors"] == [[3.0]]


def test_inside_a_pipeline_that_is_mapped_it_is_a_problem():
    """PE118: each item would be a batch of its own, which is what batches are against."""
    inner = embedding()
    outer = Pipeline("outer", inputs={"documents": list[list[str]]})
    outer.include(inner, prefix="in", each="documents")
    with pytest.raises(PlanError) as caught:
        compile_pipeline(outer)
    assert [(problem.code, problem.message) for problem in caught.value.problems] == [
        (
            "PE118",
            (
                "step 'in_vectors' makes vectors inside a pipeline that is mapped with each=. "
                "Collect the texts in a step outside, and embed them all at once."
            ),
        )
    ]


async def test_inside_an_included_pipeline_it_works(autojump_clock):
    """Taken over as it is, under another name."""
    outer = Pipeline("outer", inputs={"texts": list[str]}, policy=Policy(retry=EXACT))
    outer.include(embedding(), prefix="in")
    result = await run(outer, ScriptedModel({"in_vectors": lengths}), ["ab"])
    assert result["in_vectors"] == [[2.0]]


@pytest.mark.parametrize("fallback", [Model("openai:x"), "step"])
def test_nothing_falls_back_to_vectors_of_another_model(fallback):
    """PE105: they could not be compared with those of the first."""
    pipeline = embedding()
    vectors = pipeline.steps[0]

    @pipeline.step(fallback=vectors if fallback == "step" else fallback)
    def other(texts: list[str]) -> list[list[float]]:
        return []

    with pytest.raises(PlanError) as caught:
        compile_pipeline(pipeline)
    assert [problem.code for problem in caught.value.problems] == ["PE105"]


async def test_two_documents_share_the_slots_batch_by_batch(autojump_clock):
    """A document with a thousand texts must not hold up one with a single text for ever."""
    model = ScriptedModel({"vectors": lengths}, latency=1.0, max_texts=1)
    ended = {}
    async with Engine(models={"embedder": model}, capacity=2) as engine, trio.open_nursery() as nursery:

        async def one(name, texts, priority):
            await engine.run(embedding(), {"texts": texts}, priority=priority)
            ended[name] = trio.current_time()

        nursery.start_soon(one, "long", letters(6), 0)
        await trio.sleep(0.5)
        nursery.start_soon(one, "short", letters(1), 1)
    assert ended == {"short": 2.0, "long": 4.0}
