"""Reading vectors, which all providers send in much the same shape. Pure."""

from __future__ import annotations

import base64
import math
import sys
from array import array
from typing import TYPE_CHECKING, Any

from pipeline_engine.providers.adapters.reading import without
from pipeline_engine.providers.wire.replies import count_of, header_id
from pipeline_engine.values import Embeddings, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline_engine.providers.adapters.adapter import Endpoint, Reply

__all__ = ["read_embeddings"]


def read_embeddings(
    vectors: object, fields: Mapping[str, Any], tokens: object, reply: Reply, endpoint: Endpoint, count: int
) -> Embeddings:
    """Return the vectors in a reply, if there is one for each text and all are as long.

    Args:
        vectors: What stands in the place of the vectors, in the order of the texts.
        fields: The reply, parsed: it names the model that answered.
        tokens: What it says about the tokens of the texts.
        reply: The reply as it came.
        endpoint: Who was asked.
        count: How many texts were sent.

    Raises:
        UnavailableError: If these are no vectors, or not so many.
    """
    found = [_vector(vector) for vector in vectors] if isinstance(vectors, list) else []
    lengths = {len(vector) for vector in found}
    if len(found) != count or len(lengths) > 1 or 0 in lengths:
        lack = f"{len(found)} instead of {count} vectors" if len(found) != count else "something else than vectors"
        raise without(reply, endpoint, lack)
    asked = count_of(tokens)
    answered_by = fields.get("model")
    return Embeddings(
        tuple(found),
        # There is no reply in tokens: none are known to be spent on it, where any are known.
        Usage() if asked is None else Usage(asked, 0),
        answered_by if isinstance(answered_by, str) and answered_by else None,
        header_id(reply.headers),
    )


def _vector(value: object) -> list[float]:
    """Return a vector, given as numbers or as the base64 of little-endian floats; empty if it is none."""
    vector = _decimals(value) if isinstance(value, list) else _floats(value) if isinstance(value, str) else []
    # One number that is none would make every comparison with this vector another.
    return vector if math.isfinite(sum(vector)) else []


def _decimals(numbers: list[Any]) -> list[float]:
    try:
        return [*map(float, numbers)] if {*map(type, numbers)} <= {float, int} else []
    except OverflowError:
        return []


def _floats(text: str) -> list[float]:
    vector = array("f")
    try:
        vector.frombytes(base64.b64decode(text, validate=True))
    except ValueError:
        return []
    if sys.byteorder == "big":
        vector.byteswap()
    return vector.tolist()
