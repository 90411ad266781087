"""A JSON schema in a provider's strict subset: every property required, few keywords. Pure.

Providers that promise to keep to a schema accept only such ones. What the subset cannot say is told
in the description instead, where the model reads it; the reply is validated against the full type anyway.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

__all__ = ["OPENAI_SUBSET", "Subset", "strict_schema"]

_KEPT = frozenset(
    {"type", "title", "description", "enum", "const", "multipleOf", "minimum", "maximum"}
    | {"exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems"}
)
# Told in another way, or nothing that a model would need to know.
_SILENT = frozenset({"additionalProperties", "$schema", "$id", "$comment", "deprecated", "readOnly", "writeOnly"})
_FORMATS = frozenset(("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"))
_DEFINITIONS = "#/$defs/"
_JSON_TYPES: tuple[tuple[type, str], ...] = (
    (bool, "boolean"),  # before int, which it is one of
    (str, "string"),
    (int, "integer"),
    (float, "number"),
    (type(None), "null"),
)


class _NotStrictError(Exception):
    """The schema says something that the subset has no words for, such as an object with free keys."""


@dataclass(frozen=True, slots=True)
class Subset:
    """Say which part of JSON Schema a provider's strict mode knows."""

    takes: Callable[[str, Any], bool]
    """Whether it knows this keyword with this value: `format` is often known with some values only."""
    is_recursive: bool
    """Whether a definition may refer to itself, be it through others."""
    max_unions: int | None = None
    """How many times a value may be of one of several types; None if that is not limited."""


def _is_openais(key: str, value: object) -> bool:
    if key == "format":
        return value in _FORMATS
    # Looking ahead or behind cannot be compiled into a grammar; pydantic writes such patterns for decimals.
    is_plain = key == "pattern" and isinstance(value, str) and re.search(r"\(\?(?!:)|\\\d", value) is None
    return is_plain or key in _KEPT


OPENAI_SUBSET = Subset(takes=_is_openais, is_recursive=True)
"""What OpenAI's strict mode knows, and with it most servers that are compatible."""


def strict_schema(schema: Mapping[str, Any], subset: Subset = OPENAI_SUBSET) -> dict[str, Any] | None:
    """Return `schema` rewritten for a strict mode, or None if that cannot be done.

    What cannot be done: objects with keys of the model's choice, tuples, values of any type, a root that
    is not an object, and what goes beyond the subset's bounds. The order of properties stays: models
    write them in this order.

    Example:
        >>> strict_schema({"type": "object", "properties": {"name": {"type": "string", "maxLength": 9}}})
        {'type': 'object', 'properties': {'name': {'type': 'string', 'description': '(maxLength: 9)'}}, \
'required': ['name'], 'additionalProperties': False}
        >>> strict_schema({"type": "object", "additionalProperties": {"type": "string"}}) is None
        True
    """
    key = id(schema), id(subset)
    known = _KNOWN.get(key)
    if known is None:
        while len(_KNOWN) >= _MAX_KNOWN:
            del _KNOWN[next(iter(_KNOWN))]
        known = _KNOWN[key] = schema, subset, _rewritten(schema, subset)
    return known[2]


def _rewritten(schema: Mapping[str, Any], subset: Subset) -> dict[str, Any] | None:
    definitions = schema.get("$defs", {})
    rewriting = _Rewriting(definitions if isinstance(definitions, Mapping) else {}, subset)
    try:
        root = rewriting.rewrite(rewriting.followed(schema), frozenset())
        if root.get("type") != "object":
            return None
        named = rewriting.definitions()
    except (_NotStrictError, RecursionError):
        return None
    if _is_cyclic(named) and not subset.is_recursive:
        return None
    whole = {**root, "$defs": named} if named else root
    is_small = subset.max_unions is None or _unions_in(whole) <= subset.max_unions
    return whole if is_small else None


_MAX_KNOWN = 256
_KNOWN: dict[tuple[int, int], tuple[Mapping[str, Any], Subset, dict[str, Any] | None]] = {}
"""What has been rewritten, by the identities of schema and subset, which are kept alive here: every call of a step asks
for the same one, and rewriting it takes longer than all the rest of the request."""


class _Rewriting:
    """One rewriting, and the definitions that it has met on its way."""

    def __init__(self, definitions: Mapping[str, Any], subset: Subset) -> None:
        self._definitions = definitions
        self._subset = subset
        self._needed: list[str] = []

    def definitions(self) -> dict[str, Any]:
        """Return the definitions that are still referred to; rewriting one may call for others."""
        rewritten: dict[str, Any] = {}
        for name in self._needed:  # grows while it is read
            rewritten[name] = self.rewrite(self._definitions[name], frozenset())
        return {name: rewritten[name] for name in self._definitions if name in rewritten}

    def followed(self, node: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return `node`, or the definition that it refers to with the node's own words on top."""
        reference = node.get("$ref")
        if reference is None:
            return node
        own = {key: value for key, value in node.items() if key not in {"$ref", "$defs"}}
        return {**self._definitions[self._name(reference)], **own}

    def rewrite(self, node: object, within: frozenset[str]) -> dict[str, Any]:
        """Return one schema of the subset.

        Args:
            node: The schema.
            within: The definitions being written out in full right now: a recursive one must not be again.
        """
        if not isinstance(node, Mapping):
            raise _NotStrictError
        if "$ref" in node:
            return self._reference(node, within)
        if "allOf" in node:
            return self.rewrite(_merged(node), within)
        if "patternProperties" in node or "prefixItems" in node:
            raise _NotStrictError
        if "const" in node and not self._subset.takes("const", node["const"]):
            node = {**{key: value for key, value in node.items() if key != "const"}, "enum": [node["const"]]}
        rewritten: dict[str, Any] = {}
        notes: list[str] = []
        for key, value in node.items():
            if self._subset.takes(key, value):
                rewritten[key] = value
            elif key == "enum":
                raise _NotStrictError  # without its values a schema would say something else
            elif key not in _SILENT:
                notes += _note(key, value)
        choices = node.get("anyOf", node.get("oneOf"))
        if choices is not None:
            rewritten["anyOf"] = [self.rewrite(choice, within) for choice in choices]
        elif "type" not in rewritten:
            rewritten["type"] = _type_of_values(node)
        types = rewritten.get("type")
        types = types if isinstance(types, list) else [types]
        if "object" in types:
            rewritten |= self._object(node, within)
        if "array" in types:
            rewritten["items"] = self.rewrite(node.get("items"), within)
        if notes:
            told = f"({', '.join(notes)})"
            words = rewritten.get("description")
            rewritten["description"] = f"{words} {told}" if words else told
        return rewritten

    def _object(self, node: Mapping[str, Any], within: frozenset[str]) -> dict[str, Any]:
        properties = node.get("properties")
        if not isinstance(properties, Mapping):
            raise _NotStrictError
        return {
            "properties": {name: self.rewrite(value, within) for name, value in properties.items()},
            "required": list(properties),
            "additionalProperties": False,
        }

    def _reference(self, node: Mapping[str, Any], within: frozenset[str]) -> dict[str, Any]:
        name = self._name(node["$ref"])
        # The subset allows no words beside a reference: where there are some, the definition is written out.
        has_own_words = any(key not in _SILENT | {"$ref", "title", "default"} for key in node)
        if has_own_words and name not in within:
            return self.rewrite(self.followed(node), within | {name})
        if name not in self._needed:
            self._needed.append(name)
        return {"$ref": node["$ref"]}

    def _name(self, reference: object) -> str:
        name = reference.removeprefix(_DEFINITIONS) if isinstance(reference, str) else ""
        if name not in self._definitions or not isinstance(self._definitions[name], Mapping):
            raise _NotStrictError
        return name


def _merged(node: Mapping[str, Any]) -> Mapping[str, Any]:
    parts = node["allOf"]
    if not isinstance(parts, list) or len(parts) != 1 or not isinstance(parts[0], Mapping):
        raise _NotStrictError
    return {**parts[0], **{key: value for key, value in node.items() if key != "allOf"}}


def _note(key: str, value: object) -> Iterable[str]:
    if value is None or not isinstance(value, str | int | float) or len(str(value)) > 200:
        return ()
    return (f"{key}: {json.dumps(value, ensure_ascii=False)}",)


def _type_of_values(node: Mapping[str, Any]) -> str | list[str]:
    values = [node["const"]] if "const" in node else node.get("enum", [])
    names = dict.fromkeys(next((name for kind, name in _JSON_TYPES if isinstance(value, kind)), "") for value in values)
    if not names or "" in names:
        raise _NotStrictError
    return next(iter(names)) if len(names) == 1 else list(names)


def _nodes_in(schema: object) -> Iterator[Mapping[str, Any]]:
    """Yield every object in a schema, of which some are no schemas but maps of them."""
    if isinstance(schema, Mapping):
        yield schema
    children = schema.values() if isinstance(schema, Mapping) else schema if isinstance(schema, list) else ()
    for child in children:
        yield from _nodes_in(child)


def _references_in(schema: Mapping[str, Any]) -> list[str]:
    references = (node.get("$ref") for node in _nodes_in(schema))
    return [reference.removeprefix(_DEFINITIONS) for reference in references if isinstance(reference, str)]


def _is_cyclic(definitions: Mapping[str, Any]) -> bool:
    try:
        TopologicalSorter({name: _references_in(schema) for name, schema in definitions.items()}).prepare()
    except CycleError:
        return True
    return False


def _unions_in(schema: Mapping[str, Any]) -> int:
    return sum(isinstance(node.get("anyOf"), list) or isinstance(node.get("type"), list) for node in _nodes_in(schema))
