"""The program of a worker process: calls functions by name; arguments and results are JSON lines.

It reads one line `{"module", "file", "name", "arguments", "keywords"}` for each call and answers
with `{"result"}` or `{"error", "message"}`. Nothing is unpickled, and only functions that the
process imports itself are called.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import io
import json
import os
import signal
import sys
import traceback
import typing
from typing import Any

__all__ = ["main"]


def _load(module: str, file: str) -> Any:
    if module in sys.modules and module != "__main__":
        return sys.modules[module]
    if module != "__main__":
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            is_own = error.name is not None and f"{module}.".startswith(f"{error.name}.")
            if not is_own:
                raise
    # The caller's script, or a pipeline file that is in no package: loaded by its path under a
    # name of its own, so that `if __name__ == "__main__"` stays false.
    name = f"pipeline_engine_worker_{module.strip('_')}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} cannot be imported.")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    sys.path.insert(0, os.path.dirname(file))  # noqa: PTH120 - no need to load pathlib here
    spec.loader.exec_module(loaded)
    return loaded


def _function(module: str, file: str, name: str) -> Any:
    found = _load(module, file)
    for part in name.split("."):
        found = getattr(found, part)
    # The module's name usually holds what the decorator left: the step.
    return getattr(found, "function", found)


def _call(request: dict[str, Any]) -> Any:
    from pydantic import TypeAdapter
    from pydantic_core import PydanticSerializationError

    function = _function(request["module"], request["file"], request["name"])
    hints = typing.get_type_hints(inspect.unwrap(function), include_extras=True)
    parameters = list(inspect.signature(function).parameters.values())

    def typed(name: str, value: Any) -> Any:
        return TypeAdapter(hints[name]).validate_python(value) if name in hints else value

    arguments = [
        typed(parameter.name, value) for parameter, value in zip(parameters, request["arguments"], strict=False)
    ]
    keywords = {name: typed(name, value) for name, value in request["keywords"].items()}
    result = function(*arguments, **keywords)
    try:
        return TypeAdapter(hints.get("return", Any)).dump_python(result, mode="json", by_alias=True, round_trip=True)
    except PydanticSerializationError as error:
        raise _UnserialisableError(str(error)) from error


class _UnserialisableError(Exception):
    """The function returned what has no JSON form."""


def main() -> None:
    """Serve calls until standard input ends."""
    # What the function prints must not get between the answers: it goes to standard error, line by line.
    # What it starts must not read the requests: it finds an empty standard input.
    # Ctrl-C reaches the whole group of processes: the engine ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    for line in requests:
        try:
            answer: dict[str, Any] = {"result": _call(json.loads(line))}
            text = json.dumps(answer)
        except _UnserialisableError as error:
            text = json.dumps({"unserialisable": str(error)})
        except Exception as error:  # noqa: BLE001 - whatever the function raises crosses as text
            trace = traceback.format_exc(limit=-3)
            arguments = [
                part if isinstance(part, str | int | float | bool | None) else str(part) for part in error.args
            ]
            text = json.dumps(
                {"error": type(error).__name__, "message": str(error), "arguments": arguments, "trace": trace}
            )
        answers.write(text + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
