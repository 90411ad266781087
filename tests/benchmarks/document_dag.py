"""The five steps of the document pipeline, doing nothing: shared by the engine, by hand-written trio and by Hamilton.

Hamilton reads this very module as its graph, so it holds the steps and nothing that looks like one.
"""

from pydantic import BaseModel

__all__ = ["Answer", "category", "keywords", "quality", "summary", "title"]


class Answer(BaseModel):
    """What every step returns: as small as a validated output gets."""

    text: str
    score: float


_ANSWER = {"text": "an answer", "score": 0.5}


async def title(document: str) -> Answer:
    return _ANSWER


async def keywords(document: str) -> Answer:
    return _ANSWER


async def category(document: str) -> Answer:
    return _ANSWER


async def summary(document: str, title: Answer, keywords: Answer) -> Answer:
    return _ANSWER


async def quality(document: str, title: Answer, category: Answer) -> Answer:
    return _ANSWER
