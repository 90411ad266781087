"""What a function is known by: its source as far as it makes a difference, so that a journal sees when it has changed.

Comments, docstrings, type annotations and line breaks make none. Functions of the same package that it calls and
plain constants that it uses count as part of it; a list or a dict does where its name is in capitals, as constants
have it: others may be somebody's cache. What lies in other packages, and what a value does behind a name, does
not count: for these there is `version=`.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from hashlib import sha256
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["fingerprint"]

_CONSTANTS = (str, bytes, int, float, bool, type(None))


def fingerprint(function: Callable[..., Any] | type) -> str | None:
    """Return the hash of what a function or class does, as far as its source tells; None if there is no source.

    Example:
        >>> def first(text: str) -> str:
        ...     return text[:10]
        >>> def second(text):
        ...     return text[:10]  # a comment makes no difference, and neither does a name
        >>> fingerprint(first) == fingerprint(second)
        True
        >>> fingerprint(eval("lambda text: text[:10]")) is None
        True
    """
    digest = sha256()
    for part in _parts(function, set()):
        if part is None:
            return None
        digest.update(part.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    return digest.hexdigest()[:32]


def _parts(thing: Any, seen: set[int]) -> Iterator[str | None]:
    """Yield what makes a difference, always in the same order; None for what nobody can tell."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, functools.partial):
        yield from _parts(thing.func, seen)
        yield from _value_parts("arguments", [*thing.args, *sorted(thing.keywords.items())], seen)
        return
    function = inspect.unwrap(thing) if callable(thing) else thing
    if not isinstance(function, FunctionType | type):
        method = getattr(function, "__func__", None)
        yield from _parts(method if method is not None else type(function), seen)
        return
    yield _normalised_source(function)
    if isinstance(function, type):
        return
    yield from _value_parts("defaults", list(function.__defaults__ or ()), seen)
    yield from _value_parts("defaults", sorted((function.__kwdefaults__ or {}).items()), seen)
    names = dict.fromkeys(_names_in(function.__code__))
    for name in names:
        if name in function.__globals__:
            yield from _named_parts(name, function.__globals__[name], function, seen)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # it is not filled yet
            continue
        yield from _named_parts(name, value, function, seen)


def _names_in(code: CodeType) -> Iterator[str]:
    """Yield the names that a function looks up, those of the functions inside it too."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


def _named_parts(name: str, value: Any, function: FunctionType, seen: set[int]) -> Iterator[str | None]:
    if isinstance(value, ModuleType):
        yield f"{name} is module {value.__name__}"
    elif isinstance(value, FunctionType | type | functools.partial):
        own_package = (function.__module__ or "").partition(".")[0]
        if (getattr(value, "__module__", None) or "").partition(".")[0] == own_package:
            yield f"{name} is"
            yield from _parts(value, seen)
        else:
            yield f"{name} is {getattr(value, '__qualname__', name)}"
    elif isinstance(value, list | dict | set) and name != name.upper():
        yield f"{name}:{type(value).__qualname__}"
    else:
        yield from _value_parts(name, value, seen)


def _value_parts(name: str, value: Any, seen: set[int]) -> Iterator[str | None]:
    if isinstance(value, _CONSTANTS):
        yield f"{name}={value!r}"
    elif isinstance(value, list | tuple):
        yield f"{name}=[{len(value)}"
        for part in value:
            yield from _value_parts("", part, seen)
    elif isinstance(value, set | frozenset):
        yield f"{name}={{{', '.join(sorted(map(repr, value)))}}}" if _is_plain(value) else name
    elif isinstance(value, dict):
        yield f"{name}={{{len(value)}"
        for key, part in value.items():
            yield from _value_parts(repr(key) if isinstance(key, _CONSTANTS) else "", part, seen)
    else:
        yield f"{name}:{type(value).__qualname__}"  # never its repr, which may hold an address


def _is_plain(values: set[Any] | frozenset[Any]) -> bool:
    return all(isinstance(value, _CONSTANTS) for value in values)


def _normalised_source(function: FunctionType | type) -> str | None:
    """Return a function's source without what makes no difference."""
    try:
        source = textwrap.dedent(inspect.getsource(function))
        tree = ast.parse(source)
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    found = _definition(tree, function)
    if found is None:
        return None
    if isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef):
        found.name = "_"  # what it is called makes no difference
    return ast.unparse(_Plain().visit(found))


def _definition(tree: ast.Module, function: FunctionType | type) -> ast.AST | None:
    """Return the part of some lines of source that is the function: a lambda stands somewhere inside of them."""
    if not isinstance(function, FunctionType) or function.__name__ != "<lambda>":
        return tree.body[0] if tree.body else None
    lambdas = [node for node in ast.walk(tree) if isinstance(node, ast.Lambda)]
    return lambdas[0] if len(lambdas) == 1 else None  # which of several it is, nobody can tell


class _Plain(ast.NodeTransformer):
    """Take away what a function does not do: decorators, annotations, docstrings."""

    def _without(self, node: Any) -> Any:
        node.decorator_list = []
        node.body = _without_docstring(node.body)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        return self.generic_visit(node)

    visit_FunctionDef = visit_AsyncFunctionDef = _without  # noqa: N815 - the names that ast calls

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        # A model's fields are its annotations: they stay. What its decorators do may matter, too.
        node.body = _without_docstring(node.body)
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> Any:
        node.annotation = None
        return node


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return body[1:] or [ast.Pass()] if is_docstring else body
