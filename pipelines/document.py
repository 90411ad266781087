"""Title, keywords, category, summary and a quality score for a document: five steps, at most two deep."""

from typing import Literal

from pydantic import BaseModel, Field

from pipeline_engine import Pipeline, Policy, Retry, Timeout


class Title(BaseModel):
    text: str


class Keywords(BaseModel):
    items: list[str] = Field(max_length=10)


class Category(BaseModel):
    label: Literal["report", "reference", "how-to", "news", "other"]


class Summary(BaseModel):
    text: str


class Quality(BaseModel):
    score: float = Field(ge=0, le=1)


pipeline = Pipeline(
    "document",
    inputs={"document": str},
    policy=Policy(retry=Retry(attempts=4), timeout=Timeout(attempt=60, step=300)),
)


# These three need the document alone, so they start at once and together.
@pipeline.llm("fast", Title)
def title(document: str) -> str:
    return f"Give this document a short factual title.\n\n{document[:8000]}"


@pipeline.llm("fast", Keywords)
def keywords(document: str) -> str:
    return f"Name up to ten keywords.\n\n{document[:8000]}"


# A category is worth having, but not worth failing for: without an answer it is "other".
@pipeline.llm("fast", Category, fallback=Category(label="other"))
def category(document: str) -> str:
    return f"Classify this document.\n\n{document[:8000]}"


# A parameter named like a step is a need. This one starts when title and keywords are there, whatever
# the category is doing.
@pipeline.llm("strong", Summary)
def summary(document: str, title: Title, keywords: Keywords) -> str:
    return f"Summarise “{title.text}” around {', '.join(keywords.items)}.\n\n{document}"


@pipeline.llm("fast", Quality)
def quality(document: str, title: Title, category: Category) -> str:
    return f"From 0 to 1, how well does “{title.text}” fit this {category.label}?\n\n{document[:8000]}"
