"""Fills a JSON schema from a text: the name of each field says what is looked for, its type how it is given."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline_engine.providers.offline import labels, measures, sentences
from pipeline_engine.providers.offline.words import content_stems, name_words, shortened, stem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pipeline_engine.providers.offline.analysis import Analysis

__all__ = ["UnfillableError", "fill"]

_MAX_DEPTH = 8
_DEFAULT_ITEMS = {"keyphrases": 10, "sentences": 5, "headings": 10, "objects": 3}

# What a name asks for, by any of its words; the first kind that has one decides.
_KINDS: Mapping[str, frozenset[str]] = {
    "date": frozenset({"date", "day", "deadline"}),
    "email": frozenset({"email", "mail"}),
    "url": frozenset({"url", "link", "website", "homepage", "uri"}),
    "headings": frozenset({"heading", "headings", "section", "sections", "chapter", "chapters", "outline"}),
    "title": frozenset({"title", "titles", "headline", "subject", "caption", "name"}),
    "keyphrases": frozenset(
        {
            *(
                "keyword",
                "keywords",
                "keyphrase",
                "keyphrases",
                "tag",
                "tags",
                "topic",
                "topics",
                "term",
                "terms",
                "theme",
            ),
            *("themes", "concept", "concepts", "entity", "entities", "names", "categories", "subjects", "technologies"),
            *("skills", "products", "hashtags", "words", "phrases", "labels", "areas", "category", "product", "entry"),
        }
    ),
    "summary": frozenset(
        {
            *("summary", "abstract", "description", "overview", "gist", "synopsis", "digest", "tldr", "notes", "note"),
            *("points", "point", "highlights", "facts", "fact", "findings", "finding", "quotes", "quote", "sentences"),
            *("claims", "claim", "takeaways", "takeaway", "insights", "insight", "statements", "bullets", "conclusion"),
            *("explanation", "reason", "evidence", "key_points", "body", "paragraph"),
        }
    ),
}
_PLAIN = frozenset(
    {"text", "value", "item", "items", "result", "output", "content", "answer", "list", "data", "response"}
)
_COUNTED = {"one": 1, "single": 1, "1": 1, "two": 2, "2": 2, "three": 3, "3": 3, "four": 4, "4": 4, "five": 5, "5": 5}
_SENTENCES = re.compile(r"\b(one|single|two|three|four|five|[1-5])[- ]sentences?\b", re.IGNORECASE)
_ISO_DATE = re.compile(r"\b\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])\b")
_EMAIL = re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}\b")
_URL = re.compile(r"https?://[^\s<>\"'()\[\]]{1,500}[\w/]")
_NUMBERS = re.compile(r"\b\d[\d.,-]{0,30}\b")
_FORMATS = {"date": _ISO_DATE, "email": _EMAIL, "uri": _URL}


class UnfillableError(ValueError):
    """Raised when a schema asks for what cannot be extracted; the message names the field."""


def fill(schema: Mapping[str, Any], name: str, document: Analysis, others: Sequence[str] = ()) -> Any:
    r"""Return a value that fits `schema`, extracted from `document`.

    Args:
        schema: A JSON schema, as pydantic writes it.
        name: The name of the output type, such as "Title": a hint for fields called "text" or "items".
        document: The text that is read.
        others: Other texts that the step was given; numbers say how well they fit the document.

    Raises:
        UnfillableError: If a required field cannot be filled.

    Example:
        >>> from pipeline_engine.providers.offline.analysis import analyse
        >>> schema = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
        >>> fill(schema, "Title", analyse("# Tea\n\nTea is hot."))
        {'text': 'Tea'}
    """
    return _Filler(schema, document, tuple(others)).value(schema, _Field(name, (name,)))


@dataclass(frozen=True, slots=True)
class _Field:
    """Where in the schema a value stands."""

    path: str
    """As a message names it."""
    names: tuple[str, ...]
    """The names that tell what is asked for, nearest first."""
    description: str = ""
    depth: int = 0
    place: int | None = None
    """The index among several objects, each of which takes another part of the text."""

    @property
    def words(self) -> list[str]:
        """The words of the nearest name that says something."""
        telling = (name_words(name) for name in self.names)
        return next((words for words in telling if not set(words) <= _PLAIN), [])

    @property
    def kind(self) -> str | None:
        """What the names ask for, else what the description does."""
        asked = (*(name_words(name) for name in self.names), re.findall(r"[a-z]+", self.description.lower()))
        for words in asked:
            # The last word names the thing: a "summary title" is a title.
            for word in reversed(words):
                for kind, known in _KINDS.items():
                    if word in known:
                        return kind
        return None

    def child(self, name: str) -> _Field:
        return replace(
            self, path=f"{self.path}.{name}", names=(name, *self.names), description="", depth=self.depth + 1
        )


class _Filler:
    def __init__(self, root: Mapping[str, Any], document: Analysis, others: tuple[str, ...]) -> None:
        self._root = root
        self._document = document
        self._others = others

    def value(self, schema: Mapping[str, Any], field: _Field) -> Any:
        if field.depth > _MAX_DEPTH:
            raise UnfillableError(f"field {field.path!r} nests more than {_MAX_DEPTH} levels deep")
        schema = self._resolved(schema)
        field = replace(field, description=str(schema.get("description") or field.description))
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._choice(schema["enum"], field)
        for union in ("anyOf", "oneOf"):
            if union in schema:
                return self._first_of([{**_shared(schema), **option} for option in schema[union]], field)
        types = schema.get("type")
        if isinstance(types, list):
            return self._first_of([{**schema, "type": one} for one in types], field)
        return self._typed(types or _implied(schema), schema, field)

    def _resolved(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """Return the schema with its `$ref` and a single `allOf` put in place."""
        merged = dict(schema)
        for _ in range(_MAX_DEPTH):
            if "$ref" in merged:
                reference = str(merged.pop("$ref"))
                target: Any = self._root
                for key in reference.removeprefix("#").strip("/").split("/") if reference != "#" else ():
                    target = (
                        target.get(key.replace("~1", "/").replace("~0", "~"), {}) if isinstance(target, dict) else {}
                    )
                merged = {**target, **merged}
            elif len(merged.get("allOf", ())) == 1:
                merged = {**merged["allOf"][0], **{key: value for key, value in merged.items() if key != "allOf"}}
            else:
                break
        return merged

    def _first_of(self, options: Sequence[Mapping[str, Any]], field: _Field) -> Any:
        can_be_null = any(option.get("type") == "null" for option in options)
        first_error: UnfillableError | None = None
        for option in options:
            if option.get("type") == "null":
                continue
            try:
                return self.value(option, replace(field, depth=field.depth + 1))
            except UnfillableError as error:
                first_error = first_error or error
        if can_be_null:
            return None
        raise first_error or UnfillableError(f"field {field.path!r} has no type that can be filled")

    def _typed(self, kind: str, schema: Mapping[str, Any], field: _Field) -> Any:
        if kind == "object":
            return self._object(schema, field)
        if kind == "array":
            return self._array(schema, field)
        if kind == "string":
            return self._string(schema, field)
        if kind in {"number", "integer"}:
            return self._number({**schema, "type": kind}, field)
        if kind == "boolean":
            return self._is_told(field)
        if kind == "null":
            return None
        raise UnfillableError(f"field {field.path!r} has type {kind!r}, which is not known")

    def _object(self, schema: Mapping[str, Any], field: _Field) -> dict[str, Any]:
        required = set(schema.get("required", ()))
        filled: dict[str, Any] = {}
        for name, part in schema.get("properties", {}).items():
            child = field.child(name)
            try:
                filled[name] = self.value(part, child)
            except UnfillableError:
                if name in required:
                    raise
        return filled

    def _array(self, schema: Mapping[str, Any], field: _Field) -> list[Any]:
        if "prefixItems" in schema:
            parts = enumerate(schema["prefixItems"])
            return [self.value(part, replace(field.child(str(index)), place=index)) for index, part in parts]
        items = self._resolved(schema.get("items") or {"type": "string"})
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        found: list[Any] = []
        for value in self._items(items, field, least, most):
            if most is not None and len(found) >= most:
                break
            if value not in found:
                found.append(value)
        if len(found) < least:
            reason = f"asks for {least} items, and the text gives {len(found)}"
            raise UnfillableError(f"field {field.path!r} {reason}")
        return found

    def _items(self, items: Mapping[str, Any], field: _Field, least: int, most: int | None) -> Iterator[Any]:
        """Give values for a list, best first; more than a default number only where the schema asks for them."""
        if options := [*items.get("enum", ())]:
            for _ in range(min(len(options), max(1, least))):
                chosen = self._choice(options, field)
                options.remove(chosen)
                yield chosen
            return
        if _implied(items) != "string" or {"const", "format", "pattern"} & set(items):
            count = most if most is not None and most < 3 else max(least, _DEFAULT_ITEMS["objects"])
            for place in range(count):
                try:
                    yield self.value(items, replace(field, depth=field.depth + 1, place=place))
                except UnfillableError:
                    if place == 0 and field.depth < _MAX_DEPTH - 1:
                        raise
                    return
            return
        kind = field.kind if field.kind in {"keyphrases", "headings"} else None
        kind = kind or ("keyphrases" if field.kind == "title" else "sentences")
        count = _DEFAULT_ITEMS[kind] if most is None else most
        longest = items.get("maxLength")
        ordered = {
            "keyphrases": self._document.keyphrases,
            "headings": self._document.headings,
            "sentences": self._sentences(field, count),
        }
        # What the name asks for comes first; the rest fills up where too little was found.
        candidates = [*ordered[kind][:count]] or [*self._document.keyphrases[:count]]
        for text in candidates:
            if len(text) >= items.get("minLength", 0) and (longest is None or len(text) <= longest):
                yield text

    def _sentences(self, field: _Field, count: int) -> list[str]:
        """Return the best sentences; those that have a word of the field's name stand before others."""
        named = {stem(word) for word in field.words}
        scores = [
            score * (3 if named & set(content_stems(sentence)) else 1)
            for sentence, score in zip(self._document.sentences, self._document.scores, strict=True)
        ]
        return sentences.pick(self._document.sentences, scores, count)

    def _string(self, schema: Mapping[str, Any], field: _Field) -> str:
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        form, pattern = schema.get("format"), schema.get("pattern")
        if form or pattern:
            return self._formed(form, pattern, field, least, most)
        text = self._text(field, most)
        if len(text) < least:
            text = self._document.summary(8, most)
        if len(text) < least:
            text = " ".join((self._document.title, *self._document.cleaned.prose))
        text = shortened(text, most)
        if len(text) < least:
            raise UnfillableError(f"field {field.path!r} asks for {least} characters, and the text gives {len(text)}")
        return text

    def _text(self, field: _Field, most: int | None) -> str:
        kind = field.kind
        document = self._document
        if kind in {"date", "email", "url"}:
            form = _FORMATS["uri" if kind == "url" else kind]
            found = form.search(document.text)
            if found:
                return found[0]
        if field.place is not None:
            parts = document.keyphrases if kind in {"title", "keyphrases"} else self._sentences(field, 10)
            if field.place < len(parts):
                return parts[field.place]
            raise UnfillableError(f"field {field.path!r} asks for more than the text gives")
        if kind in {"title", "headings"}:
            return document.title
        if kind == "keyphrases":
            return document.keyphrases[0] if document.keyphrases else document.title
        asked = _SENTENCES.search(field.description)
        return document.summary(_COUNTED[asked[1].lower()] if asked else 3, most)

    def _formed(self, form: str | None, pattern: str | None, field: _Field, least: int, most: int | None) -> str:
        """Return what stands in the text in a given form, such as a date or a part number."""
        document = self._document
        known = _FORMATS.get(form or "")
        found = [*dict.fromkeys(match[0] for match in known.finditer(document.text))] if known else []
        if pattern and not form:
            found = [document.title, *document.keyphrases, *_NUMBERS.findall(document.text[:20_000])]
            found += document.text[:20_000].split()[:3000]
        fitting = [text for text in found if least <= len(text) <= (most or 500) and _matches(pattern, text)]
        place = field.place or 0
        if place >= len(fitting):
            asked = f"format {form!r}" if form else f"pattern {pattern!r}"
            raise UnfillableError(f"field {field.path!r} asks for a text of {asked}, and none was found")
        return fitting[place]

    def _choice(self, options: Sequence[Any], field: _Field) -> Any:
        numbers = [option for option in options if isinstance(option, int | float) and not isinstance(option, bool)]
        if numbers and len(numbers) == len(options):
            ordered = sorted(numbers)
            return ordered[min(int(self._share * len(ordered)), len(ordered) - 1)]
        named = {str(option): option for option in options if option is not None}
        if not named:
            return None
        if set(named) == {"True", "False"}:
            return self._is_told(field)
        return named[labels.nearest_label([*named], self._document.terms, field.description)]

    @property
    def _share(self) -> float:
        return measures.agreement(self._document, self._others)

    def _number(self, schema: Mapping[str, Any], field: _Field) -> float | int:
        exact = measures.number_named(field.words, self._document.text[:20_000])
        number = measures.fitted(self._share, schema, exact=exact)
        if number is None:
            raise UnfillableError(f"field {field.path!r} has bounds between which there is no number")
        return number

    def _is_told(self, field: _Field) -> bool:
        """Return whether the words of a yes-or-no field occur in the text."""
        asked = [
            word for word in field.words if word not in {"is", "has", "are", "can", "should", "needs", "was", "does"}
        ]
        return bool(asked) and all(stem(word) in self._document.terms for word in asked)


def _shared(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {key: schema[key] for key in ("description", "title") if key in schema}


def _implied(schema: Mapping[str, Any]) -> str:
    """Return the type of a schema, which `properties` or `items` may tell where `type` does not."""
    if isinstance(kind := schema.get("type"), str):
        return kind
    if "properties" in schema:
        return "object"
    if "items" in schema:
        return "array"
    return "any" if {"enum", "const", "anyOf", "oneOf", "$ref"} & set(schema) else "string"


def _matches(pattern: str | None, text: str) -> bool:
    if pattern is None:
        return True
    try:
        return re.search(pattern, text[:200]) is not None
    except re.error:
        return False
