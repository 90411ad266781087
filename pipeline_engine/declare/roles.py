"""Which model: the roles that a pipeline names, and the models that a caller binds to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline_engine.values import CompletionModel

__all__ = ["Model", "ModelChain", "Role"]


@dataclass(frozen=True, slots=True)
class Role:
    """Name a role, where a plain string would be taken for a value, as in `fallback=`.

    Example:
        >>> Role("strong")
        Role(name='strong')
    """

    name: str
    """The name that `models=` binds."""


@dataclass(frozen=True, slots=True)
class Model:
    """Describe a model and how to call it.

    The key is read from the environment variable that the provider's own tools use, unless
    `api_key` is given. It never appears in a `repr`.

    Example:
        >>> Model("openai:gpt-4o-mini", temperature=0, api_key="sk-secret")
        Model(name='openai:gpt-4o-mini', base_url=None, temperature=0, max_tokens=None, seed=None)
    """

    name: str
    """As `"provider:model"`."""
    base_url: str | None = None
    """The address of a compatible server, as that provider's own SDK takes it."""
    api_key: str | None = field(default=None, repr=False)
    """The key, if it is not in the environment."""
    temperature: float | None = None
    """How varied the replies are; the provider's default if not given."""
    max_tokens: int | None = None
    """The longest reply in tokens; the provider's default if not given."""
    seed: int | None = None
    """For providers that can repeat themselves."""


ModelChain = str | Model | CompletionModel | Sequence[str | Model | CompletionModel]
"""What a role can be bound to: one model, or several that are tried in order."""
