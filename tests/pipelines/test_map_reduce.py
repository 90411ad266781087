"""Chunks are read at the same time, a few may be lost, and the summary waits for all."""

from pipeline_engine import Failed, RejectedError, run_pipeline, run_pipeline_async
from pipeline_engine.providers.scripted import ScriptedModel
from pipeline_engine.values import current_step
from pipelines.map_reduce import chunks, notes, pipeline, summary

SUMMARY = {"text": "All of it.", "key_points": ["one"]}


def paragraphs(count):
    """A text of which each paragraph is a chunk of its own."""
    return "".join(f"Part {number}. {'x' * 5000}\n\n" for number in range(count))


def noted(request):
    return {"points": [f"fact {current_step().item}"]}


async def test_chunks_are_read_at_the_same_time_and_joined_in_order(virtual_clock):
    """Forty chunks take as long as the slowest of them; the order is that of the document."""
    model = ScriptedModel(
        {"notes": noted, "summary": SUMMARY},
        latency=lambda context: 4.0 if context.step == "summary" else 3.0 - (context.item or 0) * 0.5,
    )

    result = await run_pipeline_async(pipeline, {"document": paragraphs(4)}, models={"fast": model, "strong": model})

    assert [(span.started_at, span.ended_at) for span in result.trace.items("notes")] == [
        (0.0, 3.0),
        (0.0, 2.5),
        (0.0, 2.0),
        (0.0, 1.5),
    ]
    assert (result.trace["summary"].started_at, result.trace["summary"].ended_at) == (3.0, 7.0)
    assert [note.points for note in result[notes]] == [["fact 0"], ["fact 1"], ["fact 2"], ["fact 3"]]
    assert model.requests[-1].messages[-1].text.endswith("- fact 0\n- fact 1\n- fact 2\n- fact 3")


async def test_chunks_share_the_slots_there_are(virtual_clock):
    """A long document alone must not open a hundred connections."""
    model = ScriptedModel({"notes": noted, "summary": SUMMARY}, latency=1.0)

    result = await run_pipeline_async(
        pipeline, {"document": paragraphs(5)}, models={"fast": model, "strong": model}, capacity=2
    )

    assert [span.started_at for span in result.trace.items("notes")] == [0.0, 0.0, 1.0, 1.0, 2.0]
    assert result.trace["summary"].started_at == 3.0


async def test_a_tenth_of_the_chunks_may_be_lost(virtual_clock):
    """One page that no model will read does not cost the other nineteen."""

    def refuses_first(request):
        if current_step().item == 0:
            return RejectedError("will not read this.", model="scripted:model", kind="refused")
        return noted(request)

    model = ScriptedModel({"notes": refuses_first, "summary": SUMMARY}, latency=1.0)
    bound = {"fast": model, "strong": model}

    long = await run_pipeline_async(pipeline, {"document": paragraphs(20)}, models=bound)
    short = await run_pipeline_async(pipeline, {"document": paragraphs(9)}, models=bound)

    assert long.status == "completed"
    assert len(long[notes]) == 19
    assert short.status == "failed"
    assert isinstance(short.outcome(notes), Failed)


async def test_joined_chunks_are_the_document(virtual_clock):
    """Nothing is lost on the way."""
    model = ScriptedModel({"notes": noted, "summary": SUMMARY})
    document = paragraphs(3) + "The end."

    result = await run_pipeline_async(pipeline, {"document": document}, models={"fast": model, "strong": model})

    assert "".join(result[chunks]) == document


def test_it_runs_offline():
    """Without a key and without a network, on any machine."""
    text = "Tea is made of leaves. The leaves are boiled in water. Hot water takes the taste of the leaves.\n\n" * 100
    offline = "offline:extractive"

    result = run_pipeline(pipeline, {"document": text}, models={"fast": offline, "strong": offline})

    assert result.status == "completed"
    assert len(result[notes]) == len(result[chunks]) == 2
    assert result[summary].text
