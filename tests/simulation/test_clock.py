"""The virtual clock of simulations: exact instants, and an order that does not depend on trio's dice."""

import math

import trio

from pipeline_engine.simulation import VirtualClock


def run(main):
    clock = VirtualClock()
    return trio.run(main, clock, clock=clock)


def test_sleepers_wake_in_the_order_of_their_instants():
    """A clock that rounds would make two schedules of one."""
    woken = []

    async def main(clock):
        async def sleeper(seconds):
            await clock.sleep(seconds)
            woken.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            for seconds in (0.3, 1e6, 0.1, 0.2):
                nursery.start_soon(sleeper, seconds)

    run(main)

    assert woken == [0.1, 0.2, 0.3, 1e6]


def test_of_one_instant_each_sleeper_is_done_before_the_next_one_wakes():
    """Who frees a slot first decides who gets it: that must not be drawn anew in each run."""
    events = []

    async def main(clock):
        async def sleeper(number):
            await clock.sleep(1.0, (number,))
            events.append(f"{number} wakes")
            await trio.lowlevel.checkpoint()
            events.append(f"{number} is done")

        async with trio.open_nursery() as nursery:
            for number in (3, 1, 2):
                nursery.start_soon(sleeper, number)

    run(main)

    assert events == [f"{number} {what}" for number in (1, 2, 3) for what in ("wakes", "is done")]


def test_what_trio_has_to_do_at_an_instant_comes_before_its_sleepers():
    """A limit that lets a call through and a call that ends at that instant have one order, not two."""
    events = []

    async def main(clock):
        async def by_trio():
            await trio.sleep(1.0)
            events.append("trio")

        async def by_clock():
            await clock.sleep(1.0)
            events.append("clock")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(by_clock)
            nursery.start_soon(by_trio)

    run(main)

    assert events == ["trio", "clock"]


def test_a_sleeper_that_is_cancelled_leaves_at_once():
    """Second calls and stopped runs cancel what still sleeps."""

    async def main(clock):
        with trio.move_on_after(2.0) as scope:
            await clock.sleep(math.inf)
        return scope.cancelled_caught, trio.current_time()

    assert run(main) == (True, 2.0)


def test_those_that_a_timeout_ends_at_one_instant_end_one_by_one():
    """A timeout that meets many calls at once is the usual case, with latencies that do not vary."""
    ended = []

    async def main(clock):
        async def call(number):
            with trio.move_on_at(5.0) as scope:
                await clock.sleep(60.0, (number,), deadline=5.0)
            ended.append((number, scope.cancelled_caught, trio.current_time()))
            await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            for number in (2, 3, 1):
                nursery.start_soon(call, number)

    run(main)

    assert ended == [(1, True, 5.0), (2, True, 5.0), (3, True, 5.0)]
