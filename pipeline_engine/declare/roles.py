"""Which model: the roles that a pipeline names, and the models that a caller binds to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Any, Literal, SupportsIndex

from pipeline_engine.declare.limits import Breaker, Limits
from pipeline_engine.declare.policies import Inherit, Timeout
from pipeline_engine.values import CompletionModel, Cost, EmbeddingModel, Usage

__all__ = ["Model", "ModelChain", "Price", "Role"]


@dataclass(frozen=True, slots=True)
class Role:
    """Name a role, where a plain string would be taken for a value, as in `fallback=`.

    Example:
        >>> Role("strong")
        Role(name='strong')
    """

    name: str
    """The name that `models=` binds."""


_MOST_TOKENS = 10**12


@dataclass(frozen=True, slots=True)
class Price:
    """Say what a model costs, in US dollars per million tokens.

    Raises:
        ValueError: If a price is negative or no number.

    Example:
        >>> price = Price(input_usd=2.5, output_usd=10, cached_usd=1.25)
        >>> price.cost(Usage(input_tokens=1_000_000, output_tokens=0, cache_read_tokens=400_000))
        Cost(usd=2.0, saved_usd=0.5, unpriced_calls=0)
    """

    input_usd: float
    """For tokens of requests."""
    output_usd: float
    """For tokens of replies."""
    cached_usd: float | None = None
    """For tokens of requests that the provider's prompt cache served; `input_usd` if not given."""

    def __post_init__(self) -> None:
        for name, value in ((part.name, getattr(self, part.name)) for part in fields(self)):
            if value is not None and (not isfinite(value) or value < 0):
                raise ValueError(f"Price({name}={value}): a price is zero or more US dollars per million tokens.")

    def cost(self, usage: Usage) -> Cost:
        """Return what a call cost, and what the prompt cache saved; unknown tokens make an unknown cost."""
        if not self.input_usd and not self.output_usd:
            return Cost()  # whatever was used, it was free
        asked = usage.input_tokens if self.input_usd else 0
        replied = usage.output_tokens if self.output_usd else 0
        cached = usage.cache_read_tokens or 0
        # Whoever counts less than nothing, or more than any model can read, has not counted.
        if (
            asked is None
            or replied is None
            or not all(0 <= count <= _MOST_TOKENS for count in (asked, replied, cached))
        ):
            return Cost(unpriced_calls=1)
        cached_usd = self.input_usd if self.cached_usd is None else self.cached_usd
        saved = min(cached, asked) * (self.input_usd - cached_usd)
        full = asked * self.input_usd + replied * self.output_usd
        return Cost((full - saved) / 1e6, saved / 1e6)


@dataclass(frozen=True, slots=True, repr=False)
class Model:
    """Describe a model and how to call it.

    The key is read from the environment variable that the provider's own tools use, unless
    `api_key` is given. It never appears in a `repr`, and neither do the values of `extra_headers`.

    Example:
        >>> Model("openai:gpt-4o-mini", temperature=0, api_key="sk-secret")
        Model('openai:gpt-4o-mini', temperature=0)
    """

    name: str
    """As `"provider:model"`."""
    base_url: str | None = None
    """The address of a compatible server, as that provider's own SDK takes it."""
    api_key: str | None = None
    """The key, if it is not in the environment."""
    temperature: float | None = None
    """How varied the replies are; the provider's default if not given."""
    max_tokens: int | None = None
    """The longest reply in tokens; the provider's default if not given."""
    seed: int | None = None
    """For providers that can repeat themselves."""
    timeout: Timeout | float | None = None
    """Timeouts of calls to this model, where neither the step nor its pipeline says otherwise."""
    price: Price | None = None
    """What it costs, where the public price lists do not know it or you pay another price."""
    structured_output: Literal["schema", "json", "prompt"] | None = None
    """How it is made to answer in JSON: by its provider's schema mode, which is the default; by a mode that
    promises JSON of any shape; or by instructions alone."""
    extra_body: Mapping[str, Any] | None = field(default=None, hash=False)
    """Further fields of each request, under their names on the wire."""
    extra_headers: Mapping[str, str] | None = field(default=None, hash=False)
    """Further headers of each request."""
    transport: Any = field(default=None, hash=False)
    """An `httpx2.AsyncBaseTransport` of your own for this model, such as one that goes through a proxy."""
    limits: Limits | None = None
    """How much it may be asked, over everything that an engine runs."""
    breaker: Breaker | None = None
    """When it is left alone after failures; never if not given."""

    def __post_init__(self) -> None:
        name: Any = self.name
        if not isinstance(name, str):
            raise TypeError(
                f'Model(…) takes "provider:model", not {name!r}. Bind an object that is a model as it is, '
                "with its own limits= and breaker=."
            )
        if isinstance(self.timeout, int | float) and not isinstance(self.timeout, bool):
            object.__setattr__(self, "timeout", Timeout(attempt=self.timeout))
        elif not isinstance(self.timeout, Timeout | None):
            raise TypeError(f"timeout= takes a Timeout(…) or seconds, not {self.timeout!r}.")
        if not isinstance(self.limits, Limits | None):
            raise TypeError(f"limits= takes a Limits(…), not {self.limits!r}.")
        if not isinstance(self.breaker, Breaker | None):
            raise TypeError(f"breaker= takes a Breaker(…), not {self.breaker!r}.")
        if isinstance(self.timeout, Timeout) and not isinstance(self.timeout.step, Inherit):
            raise ValueError(
                "Model(timeout=Timeout(step=…)): that one bounds a step over all its models. Put it there."
            )

    def __repr__(self) -> str:
        shown = []
        for part in fields(self)[1:]:
            value = getattr(self, part.name)
            if value is None or part.name == "api_key":
                continue
            # An address with a user or a query is refused when the model is opened; what is in it may be a password.
            is_hidden = part.name == "extra_headers" or (part.name == "base_url" and ("@" in value or "?" in value))
            shown.append(f"{part.name}={'…' if is_hidden else repr(value)}")
        return f"Model({', '.join([repr(self.name), *shown])})"

    def __copy__(self) -> Model:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Model:
        return self

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        if self.api_key is not None or self.extra_headers is not None:
            raise TypeError(
                f"model {self.name!r} holds a key and cannot be pickled. "
                "Let the other side read it from its own environment."
            )
        return object.__reduce_ex__(self, protocol)


ModelChain = str | Model | CompletionModel | EmbeddingModel | Sequence[str | Model | CompletionModel | EmbeddingModel]
"""What a role can be bound to: one model, or several that are tried in order."""
