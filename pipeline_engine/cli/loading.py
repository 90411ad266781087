"""Finds the pipeline that a user names: in a .py file or in an importable module."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import re
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_engine.cli.failing import CommandError, short_path
from pipeline_engine.declare import Pipeline
from pipeline_engine.text import sentence_list

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

__all__ = ["load_pipeline"]

_FILE = re.compile(r"(?P<place>.+\.py)(?::(?P<name>\w+))?", re.DOTALL)
_MODULE = re.compile(r"(?P<place>[^\W\d]\w*(?:\.[^\W\d]\w*)*)(?::(?P<name>\w+))?")
# Frames of these say nothing about the user's own code.
_OTHERS_CODE = ("<frozen ", str(Path(__file__).parent.parent), str(Path(importlib.__file__).parent))


def load_pipeline(named: str) -> Pipeline:
    """Return the one pipeline in the file or module that `named` says.

    Args:
        named: `file.py`, `package.module`, or either with `:name`.

    Raises:
        CommandError: If there is no such file or module, it cannot be imported, or it does not hold
            exactly one pipeline.
    """
    if as_file := _FILE.fullmatch(named):
        place, name = as_file["place"], as_file["name"]
        module = _import_file(place)
    elif (as_module := _MODULE.fullmatch(named)) and not Path(named).exists():
        place, name = as_module["place"], as_module["name"]
        module = _import_module(place)
    else:
        raise CommandError(_not_a_pipeline(named))
    return _only_pipeline(module, place, name)


def _not_a_pipeline(named: str) -> str:
    path = Path(named)
    if path.is_dir():
        files = sorted(path.glob("[!_]*.py"))
        hint = f"Name a file in it, such as {str(files[0])!r}." if files else "Name a .py file."
        return f"{named!r} is a folder. {hint}"
    if path.with_name(f"{path.name}.py").is_file():
        return f"{named!r} is no pipeline file. Did you mean '{path}.py'?"
    return f"{named!r} is neither a .py file nor the name of a module. Write file.py, or package.module."


# Importing


def _import_file(place: str) -> ModuleType:
    path = Path(place).absolute()
    if not path.is_file():
        raise CommandError(_no_such_file(Path(place)))
    root, name = _module_name(path)
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    # As `python file.py` has it: the file can import what lies beside it.
    sys.path.insert(0, str(root))
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise CommandError(f"pipeline file {place!r} cannot be imported.")
    module = importlib.util.module_from_spec(spec)
    loader = spec.loader
    sys.modules[name] = module  # types that are named as text are looked up there

    def execute() -> ModuleType:
        loader.exec_module(module)
        return module

    try:
        return _guarded(execute, f"pipeline file {place!r}")
    except CommandError:
        sys.modules.pop(name, None)
        raise


def _no_such_file(path: Path) -> str:
    what = f"pipeline file {str(path)!r}"
    if path.is_dir():
        return f"{what} is a folder. Name a file in it."
    beside = [file.stem for file in path.parent.glob("*.py")] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.stem, beside, n=1)
    hint = f"Did you mean {str(path.with_stem(near[0]))!r}?" if near else "Check the path and the folder you run from."
    return f"{what} does not exist. {hint}"


def _module_name(path: Path) -> tuple[Path, str]:
    """Return the folder to import from, and the name under which to import the file there."""
    folder, parts = path.parent, [path.stem]
    while (folder / "__init__.py").is_file() and folder != folder.parent:
        parts.insert(0, folder.name)
        folder = folder.parent
    if len(parts) > 1 and all(part.isidentifier() for part in parts):
        return folder, ".".join(parts)
    # A file called json.py must not take the place of a module that others import.
    return path.parent, f"pipeline_file_{path.stem}"


def _import_module(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # a console script does not look where it is run, `python -m` does
    return _guarded(lambda: importlib.import_module(name), f"module {name!r}")


def _guarded(load: Callable[[], ModuleType], what: str) -> ModuleType:
    """Import, and say in one line what is wrong if that fails: the file is the user's own code."""
    try:
        return load()
    except SyntaxError as error:
        code = (error.text or "").strip()
        line = f" `{code}`" if code else ""
        place = f"{short_path(error.filename or '?')}:{error.lineno}"
        raise CommandError(f"{what} is not valid Python: {place}: {error.msg}.{line}") from error
    except ImportError as error:
        origin = _place_of(error)
        hint = "Check its name, or install it." if origin else "Check the name and the folder you run from."
        said = f"{error} ({origin})" if origin else str(error)
        raise CommandError(f"{what} cannot be imported: {said}. {hint}") from error
    except SystemExit as error:
        place = _place_of(error) or "?"
        hint = 'Put what shall not run at import under `if __name__ == "__main__":`.'
        raise CommandError(f"{what} ends the program when it is imported ({place}). {hint}") from error
    except Exception as error:
        place = _place_of(error) or "?"
        said = f"{type(error).__name__}: {error}".rstrip(": ")
        raise CommandError(f"{what} cannot be imported: {said} ({place}). See --debug for the traceback.") from error


def _place_of(error: BaseException) -> str | None:
    """Return `file:line` of the last code of the user's own that led to the error."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_OTHERS_CODE)
    ]
    return f"{short_path(frames[-1].filename)}:{frames[-1].lineno}" if frames else None


# Choosing


def _only_pipeline(module: ModuleType, place: str, name: str | None) -> Pipeline:
    found: dict[str, Pipeline] = {key: value for key, value in vars(module).items() if isinstance(value, Pipeline)}
    if name is not None:
        if name in found:
            return found[name]
        raise CommandError(_no_such_name(module, place, name, found))
    # Several names for one pipeline are one; an underscore says that it is for inside.
    public = {id(value): key for key, value in reversed(found.items()) if not key.startswith("_")}
    if len(public) == 1:
        return found[next(iter(public.values()))]
    if not public:
        raise CommandError(f"{place!r} has no pipeline at its top level. Declare one there: pipeline = Pipeline(…).")
    names = [key for key in found if key in public.values()]
    raise CommandError(
        f"{place!r} has {len(names)} pipelines: {sentence_list(names)}. Name one of them: {place}:{names[0]}."
    )


def _no_such_name(module: ModuleType, place: str, name: str, found: dict[str, Pipeline]) -> str:
    its = f"Its pipelines are {sentence_list(list(found))}." if len(found) > 1 else ""
    its = f"Its pipeline is {next(iter(found))!r}." if len(found) == 1 else its
    its = its or "It has none at its top level."
    if hasattr(module, name):
        return f"{name!r} in {place!r} is a {type(getattr(module, name)).__name__}, not a Pipeline. {its}"
    return f"{place!r} has no {name!r}. {its}"
