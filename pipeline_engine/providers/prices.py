"""What calls cost by the public price lists. The only file that knows genai-prices."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from pipeline_engine.providers.addresses import host_of
from pipeline_engine.providers.profiles import PROFILES
from pipeline_engine.values import Cost, Usage

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal

    from genai_prices.types import ModelInfo, ModelPrice, StartDateConstraint, TieredPrices, TimeOfDateConstraint

__all__ = ["ListPrice", "list_price"]

_LISTS = {
    "anthropic": "anthropic",
    "azure": "azure",
    "gemini": "google",
    "openai": "openai",
    "openai-responses": "openai",
}
"""For each provider the name of its list."""
_THIS_MACHINE = frozenset({"127.0.0.1", "::1", "localhost"})
_MOST_TOKENS = 10**12
"""No call has that many: such a count is a mistake, and a mistake is not priced."""


def list_price(
    model: str, answered_by: str | None = None, *, base_url: str | None = None
) -> Callable[[Usage], Cost] | None:
    """Return how the public price list prices a call, or None if no list knows: unknown is not zero.

    Nothing is fetched: the lists are those of the installed genai-prices, which is imported with the first
    model that a list may know. They hold for the standard service; that batches are cheaper, or a priority
    tier dearer, is not seen in a `Usage`.

    An `offline:` model costs nothing, and neither does one that Ollama runs on this machine, because nobody
    sends a bill. What Ollama's cloud costs per call is told nowhere.

    Args:
        model: The model as `"provider:model"`.
        answered_by: The model that the provider says has answered. It is priced first; on Azure it alone is,
            since deployments are named freely.
        base_url: Where the call went, if it may be another server than the provider's own. Its prices stand
            in no list, even if it gives its model a name that does.

    Example:
        >>> price = list_price("openai:gpt-4o-mini")
        >>> price is not None and price(Usage(input_tokens=1000, output_tokens=100)).is_known
        True
        >>> print(list_price("openai:qwen3-8b"))
        None
    """
    provider, _, name = model.partition(":")
    if base_url is not None and not _is_own(provider, base_url):
        return None
    if provider == "offline":
        return _free
    if provider == "ollama":
        return None if name.endswith(("-cloud", ":cloud")) else _free
    if provider not in _LISTS:
        return None
    found = _listed(_LISTS[provider], answered_by) if answered_by else None
    return found if found is not None or provider == "azure" else _listed(_LISTS[provider], name)


def _is_own(provider: str, base_url: str) -> bool:
    """Return whether this is the server that the provider's price is for."""
    host = host_of(base_url)
    if provider == "ollama":
        return host in _THIS_MACHINE
    return provider not in PROFILES or PROFILES[provider].is_own(host)


def _free(_usage: Usage) -> Cost:
    return Cost()


@dataclass(frozen=True, slots=True)
class _Rates:
    """US dollars per million tokens; None for tokens that have no price."""

    above: int
    """They hold for requests of more tokens than this."""
    input: float | None
    output: float | None
    cache_read: float | None
    cache_write: float | None

    def cost(self, usage: Usage) -> Cost:
        """Return what a call cost; unknown if tokens that have a price are unknown, or none has been told."""
        asked, replied = _count(usage.input_tokens), _count(usage.output_tokens)
        read, written = _count(usage.cache_read_tokens or 0), _count(usage.cache_write_tokens or 0)
        if asked is None or read is None or written is None or self.input is None:
            return Cost(unpriced_calls=1)
        if self.output is None:
            if replied:
                return Cost(unpriced_calls=1)
            paid_output = 0.0  # vectors: there is no reply that could be billed
        elif replied is None:
            return Cost(unpriced_calls=1)
        else:
            paid_output = replied * self.output
        # Without a price of their own, tokens that went through the cache are tokens like others.
        saved = 0.0
        if read and self.cache_read is not None:
            saved += read * (self.input - self.cache_read)
        if written and self.cache_write is not None:
            saved += written * (self.input - self.cache_write)
        # The parts may contradict the total: then the parts are believed, as nobody bills below nothing.
        full = max(asked, read + written) * self.input + paid_output
        return Cost((full - saved) / 1e6, saved / 1e6)


def _count(tokens: int | None) -> int | None:
    return tokens if tokens is not None and 0 <= tokens <= _MOST_TOKENS else None


class ListPrice:
    """Price the calls of one model, at the prices of the moment and by the length of the request."""

    __slots__ = ("_terms",)

    def __init__(self, model: ModelInfo) -> None:
        prices = model.prices
        self._terms: tuple[tuple[StartDateConstraint | TimeOfDateConstraint | None, tuple[_Rates, ...]], ...]
        if isinstance(prices, list):
            self._terms = tuple((term.constraint, _rates(term.prices)) for term in reversed(prices))
        else:
            self._terms = ((None, _rates(prices)),)

    @property
    def is_known(self) -> bool:
        """Whether tokens have a price: some models are billed by seconds or characters."""
        return any(rates.input is not None for _, brackets in self._terms for rates in brackets)

    def __call__(self, usage: Usage, at: datetime | None = None) -> Cost:
        """Return what a call cost, and what the prompt cache saved: below zero where it was only filled.

        Args:
            usage: Its tokens.
            at: When it was made; just now if not given. Some prices begin on a date, or hold at night.
        """
        brackets = self._brackets(at)
        asked = usage.input_tokens or 0
        # Crossing a bound applies its rates to all tokens of the request, and not to those above it.
        return next((rates for rates in brackets if asked > rates.above), brackets[-1]).cost(usage)

    def _brackets(self, at: datetime | None) -> tuple[_Rates, ...]:
        if len(self._terms) > 1:
            moment = at or datetime.now(tz=UTC)
            for constraint, brackets in self._terms:
                if constraint is None or constraint.active(moment):
                    return brackets
        return self._terms[-1][1]


def _rates(prices: ModelPrice) -> tuple[_Rates, ...]:
    """Return the rates by the length of the request, those of the longest first."""
    kinds = [prices.input_mtok, prices.output_mtok, prices.cache_read_mtok, prices.cache_write_mtok]
    bounds = {0, *(tier.start for price in kinds for tier in getattr(price, "tiers", ()))}
    return tuple(_Rates(above, *(_rate(price, above) for price in kinds)) for above in sorted(bounds, reverse=True))


def _rate(price: Decimal | TieredPrices | None, above: int) -> float | None:
    """Return the price that holds above so many tokens."""
    from genai_prices.types import TieredPrices

    if not isinstance(price, TieredPrices):
        return None if price is None else float(price)
    return float(next((tier.price for tier in reversed(price.tiers) if tier.start <= above), price.base))


@lru_cache(maxsize=1024)
def _listed(list_id: str, name: str) -> ListPrice | None:
    """Return the price of a model by its name, or None if the list does not know it."""
    # Imported here: it takes as long as importing everything else.
    from genai_prices.data import providers

    provider = next((provider for provider in providers if provider.id == list_id), None)
    # Some providers sell models of others, at those others' prices.
    model = None if provider is None else provider.find_model(name, all_providers=providers)
    price = None if model is None else ListPrice(model)
    return price if price is not None and price.is_known else None
