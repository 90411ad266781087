"""The pipeline that is killed: it has every kind of step that pays for something, and one that pays for nothing."""

import os
import signal

from pydantic import BaseModel

from pipeline_engine import Document, Drop, Model, Pipeline, Policy, Retry, Timeout


class Facts(BaseModel):
    title: str
    topics: list[str]


class Said(BaseModel):
    text: str


class Grade(BaseModel):
    score: int
    by: str


SAMPLES = 3
"""How many equal calls each document makes."""
_FILLER = "Nothing here is like anything else, and all of it has to be read. "


def documents(number: int) -> list[Document]:
    """Return so many documents, each longer than what a journal repeats in a prompt."""
    keys = [f"doc-{n}" for n in range(number)]
    return [Document(key, {"key": key, "text": f"{key}: {_FILLER * 6}|part a|part b|part c"}) for key in keys]


def letters(poison: str | None = None) -> Pipeline:
    """Return the pipeline; the document called `poison` ends the process that works on it."""
    policy = Policy(
        retry=Retry(attempts=4, base_delay=0.01, max_delay=0.1, jitter="none", repair=2), timeout=Timeout(attempt=30.0)
    )
    pipeline = Pipeline("letters", inputs={"key": str, "text": str}, policy=policy)

    @pipeline.step(version="1")
    def parts(key: str, text: str) -> list[str]:
        if key == poison:
            os.kill(os.getpid(), signal.SIGKILL)
        return [f"{key}/notes/{n}" for n, _ in enumerate(text.split("|")[1:])]

    @pipeline.step
    def votes(key: str) -> list[str]:
        return [f"{key}/samples"] * SAMPLES

    @pipeline.llm("fast", Facts)
    def facts(key: str, text: str) -> str:
        return f"[[{key}/facts]]\nWhat is this about?\n{text}"

    @pipeline.llm("fast", Said, each=parts, on_error=Drop(at_most=1))
    def notes(part: str) -> str:
        return f"[[{part}]]\nTake a note."

    @pipeline.llm("fast", Said, each=votes)
    def samples(vote: str) -> str:
        return f"[[{vote}]]\nSay anything."

    @pipeline.llm(output=Grade, cascade=["weak", "strong"], accept=lambda grade: grade.score >= 5)
    def grade(key: str, text: str, facts: Facts) -> str:
        return f"[[{key}/grade]]\nGrade {facts.title}.\n{text}"

    @pipeline.llm("fast", Said, fallback=Said(text="neutral"))
    def tone(key: str, text: str) -> str:
        return f"[[{key}/tone]]\nWhich tone is it in?\n{text}"

    @pipeline.llm("fast", str)
    def summary(key: str, facts: Facts, notes: list[Said], grade: Grade, tone: Said) -> str:
        told = [facts.title, *(note.text for note in notes), f"{grade.score} by {grade.by}", tone.text]
        return f"[[{key}/summary]]\nSum up: {'; '.join(told)}"

    @pipeline.step
    def words(summary: str, samples: list[Said]) -> int:
        return len(summary.split()) + len(samples)

    @pipeline.llm("fast", Said)
    def risk(key: str, facts: Facts) -> str:
        return f"[[{key}/risk]]\nWhich risk is in {facts.title}?"

    return pipeline


def models(url: str, key: str) -> dict[str, Model]:
    """Return the models behind a provider's address."""
    return {
        role: Model(f"openai:{role}", base_url=url, api_key=key, temperature=1.0) for role in ("fast", "weak", "strong")
    }
