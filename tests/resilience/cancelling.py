"""Cancel a task at each of its checkpoints in turn: what is held across one of them shows as a leak."""

import itertools

import trio
import trio.testing

__all__ = ["Victim", "cancel_everywhere", "run_virtually"]


class Victim(trio.abc.Instrument):
    """Cancel what it runs at its k-th step: when it has come to a checkpoint, or when it is about to go on."""

    def __init__(self, step, moment):
        self.step = step
        self.moment = moment
        self.scope = trio.CancelScope()
        self.is_hit = False
        self._steps = 0
        self._task = None

    async def run(self, function, *arguments):
        self._task = trio.lowlevel.current_task()
        trio.lowlevel.add_instrument(self)
        try:
            with self.scope:
                return await function(*arguments)
        finally:
            trio.lowlevel.remove_instrument(self)

    def before_task_step(self, task):
        self._count(task, "about to go on")

    def after_task_step(self, task):
        self._count(task, "at a checkpoint")

    def _count(self, task, moment):
        if task is self._task and moment == self.moment:
            self._steps += 1
            if self._steps == self.step:
                self.is_hit = True
                self.scope.cancel()


def cancel_everywhere(scenario):
    """Run `scenario(victim)` once for each moment at which its victim can be cancelled; return their number."""
    count = 0
    for moment in ("at a checkpoint", "about to go on"):
        for step in itertools.count(1):
            victim = Victim(step, moment)
            run_virtually(scenario, victim)
            if not victim.is_hit:
                break
            count += 1
    return count


def run_virtually(function, *arguments):
    """Run on a clock of its own that jumps: hypothesis needs a new one for each example."""
    return trio.run(function, *arguments, clock=trio.testing.MockClock(autojump_threshold=0))
