"""Numbers as people read them: seconds, counts, and where the ticks of a time axis stand."""

from __future__ import annotations

from math import floor, inf, log10
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline_engine.values.usage import Cost, Usage

__all__ = ["count_text", "counted", "nice_ticks", "seconds_text", "spend_text", "tick_text", "tokens_text", "usd_text"]

_LONG_STEPS = (60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 43200, 86400)


def seconds_text(seconds: float, *, is_part: bool = False) -> str:
    """Return a duration with its unit, as exact as a reader needs it.

    Args:
        seconds: The duration.
        is_part: Whether it stands beside a whole of a second or more, and so keeps the unit of the whole.

    Example:
        >>> [seconds_text(seconds) for seconds in (0, 0.0042, 0.35, 4.2, 284.4, 7500)]
        ['0 s', '4.2 ms', '350 ms', '4.2 s', '4 min 44 s', '2 h 05 min']
        >>> seconds_text(0.2, is_part=True)
        '0.2 s'
    """
    # Values just below a border would round up to it: 59.97 is a minute, not "60.0 s".
    if seconds == inf:
        return "∞ s"
    if seconds < 0.000_05:
        return "0 s"
    if seconds < (0.05 if is_part else 0.999_5):
        return f"{seconds * 1000:.1f} ms" if seconds < 0.009_95 else f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def count_text(count: int) -> str:
    """Return a count that is short enough for a tile.

    Example:
        >>> [count_text(count) for count in (0, 9_500, 12_345, 3_400_000)]
        ['0', '9,500', '12.3 k', '3.4 M']
    """
    if count < 10_000:
        return f"{count:,}"
    return f"{count / 1000:.1f} k" if count < 999_950 else f"{count / 1_000_000:.1f} M"


def usd_text(usd: float) -> str:
    """Return an amount of money, as exact as a reader needs it.

    Example:
        >>> [usd_text(usd) for usd in (0, 0.00012, 0.0312, 0.5, 1234.5)]
        ['$0.00', '$0.0001', '$0.031', '$0.50', '$1,234.50']
    """
    if usd == 0 or usd >= 0.0995:
        return f"${usd:,.2f}"
    return f"${usd:.3f}" if usd >= 0.00995 else f"${usd:.4f}"


def tokens_text(usage: Usage) -> str:
    """Return the tokens spent; nothing if nobody counted.

    Example:
        >>> from pipeline_engine.values.usage import Usage
        >>> tokens_text(Usage(12_345, 678)), tokens_text(Usage())
        ('12.3 k tokens in, 678 out', '')
    """
    if not usage.input_tokens and not usage.output_tokens:
        return ""
    return f"{count_text(usage.input_tokens or 0)} tokens in, {count_text(usage.output_tokens or 0)} out"


def spend_text(cost: Cost, usage: Usage, usd_cap: float | None = None, tokens_cap: float | None = None) -> str:
    """Return what was spent so far, against a budget's caps if there are any; nothing if nothing was.

    Example:
        >>> from pipeline_engine.values.usage import Cost, Usage
        >>> spend_text(Cost(usd=0.12), Usage(9_000, 500), usd_cap=5)
        '$0.12 of $5.00 · 9,000 tokens in, 500 out'
        >>> spend_text(Cost(), Usage(9_000, 500), tokens_cap=1_000_000)
        '9,500 of 1.0 M tokens'
    """
    parts = []
    if usd_cap is not None:
        parts.append(f"{usd_text(cost.usd)} of {usd_text(usd_cap)}")
    elif cost.usd or cost.unpriced_calls:
        parts.append(str(cost))
    if tokens_cap is not None:
        spent = (usage.input_tokens or 0) + (usage.output_tokens or 0)
        parts.append(f"{count_text(spent)} of {count_text(round(tokens_cap))} tokens")
    else:
        parts.append(tokens_text(usage))
    return " · ".join(filter(None, parts))


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, in the singular or the plural.

    Example:
        >>> counted(1, "step"), counted(2, "step")
        ('1 step', '2 steps')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def nice_ticks(length: float, max_ticks: int) -> list[float]:
    """Return the round instants from 0 to `length` at which an axis has a tick, at most `max_ticks`.

    Example:
        >>> nice_ticks(4.2, 6)
        [0.0, 1.0, 2.0, 3.0, 4.0]
    """
    if length <= 0 or max_ticks < 2:
        return [0.0]
    least = length / (max_ticks - 1)
    long_steps = [step for step in _LONG_STEPS if step >= least]
    if least > 20 and long_steps:
        step: float = long_steps[0] if least > 30 else 30
    else:
        magnitude = 10.0 ** floor(log10(least))
        step = magnitude * next(factor for factor in (1, 2, 5, 10) if least <= factor * magnitude * (1 + 1e-9))
    return [round(index * step, 12) for index in range(floor(length / step + 1e-9) + 1)]


def tick_text(at: float) -> str:
    """Return the label of a tick, without digits that say nothing.

    Example:
        >>> [tick_text(at) for at in (0.0, 0.2, 1.0, 2.5, 90.0, 3600.0)]
        ['0', '200 ms', '1 s', '2.5 s', '1 min 30 s', '1 h']
    """
    if at == 0:
        return "0"
    if at < 1:
        return f"{at * 1000:g} ms"
    if at < 60:
        return f"{at:g} s"
    hours, rest = divmod(round(at), 3600)
    minutes, seconds = divmod(rest, 60)
    parts = ((hours, "h"), (minutes, "min"), (seconds, "s"))
    return " ".join(f"{count} {unit}" for count, unit in parts if count)
