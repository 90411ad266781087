"""CPU-heavy steps in worker processes, which are killed for real when their time is up."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import trio
from pydantic_core import PydanticSerializationError, to_json

from pipeline_engine.errors import StepCodeError

if TYPE_CHECKING:
    from pipeline_engine.schedule.step_run import StepRun

__all__ = ["ProcessExecutor"]

_LINE_CAP = 256 * 1024 * 1024


class _Worker:
    """A process that serves one call at a time."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._received = bytearray()

    @classmethod
    async def start(cls) -> _Worker:
        command = [sys.executable, "-m", "pipeline_engine.schedule.process_worker"]
        return cls(await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    async def ask(self, line: bytes) -> dict[str, Any]:
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError("a worker has pipes")
        await self._process.stdin.send_all(line + b"\n")
        while b"\n" not in self._received:
            part = await self._process.stdout.receive_some(1 << 20)
            if not part or len(self._received) > _LINE_CAP:
                code = await self._process.wait()
                raise ChildProcessError(f"the step's process ended with exit code {code} before it answered.")
            self._received += part
        text, _, rest = bytes(self._received).partition(b"\n")
        self._received = bytearray(rest)
        answer: dict[str, Any] = json.loads(text)
        return answer

    async def kill(self) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 5.0):
            self._process.kill()
            await self._process.wait()
            if self._process.stdin is not None:
                await self._process.stdin.aclose()
            if self._process.stdout is not None:
                await self._process.stdout.aclose()


class ProcessExecutor:
    """Keep worker processes warm: starting one takes longer than most calls."""

    def __init__(self) -> None:
        self._idle: list[_Worker] = []

    async def run(self, step_run: StepRun) -> Any:
        """Return what the function returns, as JSON has it. On cancellation the process is killed."""
        step = step_run.step
        request = {
            "module": step.function.__module__,
            "file": step.declaration.file,
            "name": step.function.__qualname__,
            "arguments": list(step_run.arguments),
            "keywords": step_run.keywords or {},
        }
        try:
            line = to_json(request)
        except PydanticSerializationError as error:
            reason = f"got an argument that cannot cross to its process as JSON: {error}. Pass plain values or models."
            raise StepCodeError(step.name, "function", reason) from error
        worker = await self._take()
        try:
            answer = await worker.ask(line)
        except BaseException:
            await worker.kill()
            raise
        self._idle.append(worker)
        if "unserialisable" in answer:
            reason = "returned a value that cannot cross from its process as JSON: "
            raise StepCodeError(
                step.name, "function", f"{reason}{answer['unserialisable']}. Return plain values or models."
            )
        if "error" in answer:
            raise _raised(answer)
        return answer["result"]

    async def _take(self) -> _Worker:
        """Return a worker that is alive: the system may have killed an idle one for its memory."""
        while self._idle:
            worker = self._idle.pop()
            if worker.is_alive:
                return worker
            await worker.kill()
        return await _Worker.start()

    async def aclose(self) -> None:
        """End the idle processes; busy ones end with their steps."""
        while self._idle:
            await self._idle.pop().kill()


def _raised(answer: dict[str, Any]) -> Exception:
    """Return the error of the other process: a builtin exception as itself, any other by name."""
    kind = getattr(builtins, answer["error"], None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            error: Exception = kind(*answer["arguments"])
        except TypeError:
            error = RuntimeError(f"{answer['error']}: {answer['message']}")
    else:
        error = RuntimeError(f"{answer['error']}: {answer['message']}")
    error.add_note("In the step's process:\n" + answer["trace"])
    return error
