"""How much may be spent: a cap on money or tokens."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Literal

from pipeline_engine.declare.roles import Model
from pipeline_engine.values import CompletionModel

__all__ = ["Budget"]


@dataclass(frozen=True, slots=True)
class Budget:
    """Cap what a run, a batch or a document may spend on models.

    The most that a call may cost is reserved before it is sent, and settled with what it did cost: for
    models with `max_tokens` the spend never passes the cap. Without `max_tokens` the length of the reply
    is estimated from earlier ones of the same step, and the cap may be passed by what the estimate missed.

    Raises:
        ValueError: If neither cap is given, or one is not positive.

    Example:
        >>> Budget(usd=5)
        Budget(usd=5, tokens=None, on_exhausted='stop')
    """

    usd: float | None = None
    """US dollars."""
    tokens: float | None = None
    """Tokens of requests and replies together."""
    on_exhausted: Literal["stop", "fail"] | Model | CompletionModel = "stop"
    """What becomes of a call that does not fit any more: "stop" starts nothing more, lets the calls in flight
    finish, and leaves the rest `Stopped`; "fail" fails the step with a `BudgetError`, after which its other
    fallbacks are tried; a `Model`, or an object that is one, is asked instead, as long as it fits."""

    def __post_init__(self) -> None:
        if self.usd is None and self.tokens is None:
            raise ValueError("Budget(): give usd=, tokens=, or both.")
        for name, value in (("usd", self.usd), ("tokens", self.tokens)):
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"Budget({name}={value!r}): a cap is a number, such as 5.")
            if not isfinite(value) or value <= 0:
                raise ValueError(
                    f"Budget({name}={value!r}): a cap is a positive number; leave it out where there is none."
                )
        is_model = isinstance(self.on_exhausted, Model | CompletionModel)
        if not is_model and self.on_exhausted not in ("stop", "fail"):
            raise ValueError(f'Budget(on_exhausted={self.on_exhausted!r}): "stop", "fail", or a Model(…).')
