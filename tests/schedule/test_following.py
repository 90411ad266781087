"""Events on their way to one reader: in order, bounded for pieces, never lost and never late."""

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from pipeline_engine.schedule.following import Follower
from pipeline_engine.values import Completed, Delta, RunFinished, StepFinished, StepReady


def piece(number):
    return Delta("step", None, str(number))


async def told(follower):
    return [event async for event in iterate(follower)]


async def iterate(follower):
    while (event := await follower.next()) is not None:
        yield event


async def test_events_come_in_the_order_in_which_they_were_told(autojump_clock):
    """Words out of order are no text."""
    follower = Follower()
    for number in range(5):
        follower.tell(piece(number))
    follower.close()
    assert await told(follower) == [piece(number) for number in range(5)]
    assert await follower.next() is None


async def test_a_reader_wakes_at_the_instant_of_the_event(autojump_clock):
    """Streaming is for people who look on."""
    follower = Follower()
    seen = []

    async def read():
        while (event := await follower.next()) is not None:
            seen.append((trio.current_time(), event))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        for number in range(3):
            await trio.sleep(1.0)
            follower.tell(piece(number))
        await trio.sleep(1.0)
        follower.close()
    assert seen == [(1.0, piece(0)), (2.0, piece(1)), (3.0, piece(2))]


async def test_only_outcomes_among_the_records_are_events():
    """The rest is for the trace."""
    follower = Follower()
    finished = StepFinished(1.0, "step", None, Completed("x"))
    for record in (StepReady(0.0, "step", None, None), finished, RunFinished(1.0, "completed")):
        follower.read(record)
    follower.close()
    assert await told(follower) == [finished]


async def test_what_was_told_before_the_end_is_still_read_after_it():
    """The last words are the ones that matter."""
    follower = Follower()
    follower.tell(piece(1))
    follower.close()
    assert await follower.next() == piece(1)
    assert await follower.next() is None
    assert await follower.next() is None


async def test_closing_wakes_a_reader_that_waits(autojump_clock):
    """Else it would wait for an event that never comes."""
    follower = Follower()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.next)
        await trio.testing.wait_all_tasks_blocked()
        follower.close()


async def test_it_is_full_when_as_many_wait_as_may():
    """The bound of the memory that a slow reader can cost."""
    follower = Follower(max_waiting=3)
    fullness = []
    for number in range(4):
        fullness.append(follower.is_full)
        follower.tell(piece(number))
    assert fullness == [False, False, False, True]
    assert follower.is_full
    await follower.next()
    assert follower.is_full  # outcomes never wait, so there may be more than the bound
    await follower.next()
    assert not follower.is_full


async def test_a_writer_waits_until_there_is_room(autojump_clock):
    """So a slow reader slows the provider, through the connection."""
    follower = Follower(max_waiting=2)
    follower.tell(piece(0))
    follower.tell(piece(1))
    went_on = []

    async def write():
        await follower.wait_for_room()
        went_on.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await trio.sleep(5.0)
        assert went_on == []
        await follower.next()
    assert went_on == [5.0]


async def test_there_is_no_waiting_where_there_is_room():
    """The usual case costs nothing."""
    follower = Follower(max_waiting=1)
    await follower.wait_for_room()
    assert not follower.is_full


async def test_every_writer_that_waits_goes_on_one_after_the_other(autojump_clock):
    """Many replies, one reader: a writer that is not woken would hang for ever."""
    follower = Follower(max_waiting=1)
    follower.tell(piece("first"))
    went_on = []

    async def write(name):
        await follower.wait_for_room()
        assert not follower.is_full
        follower.tell(piece(name))
        went_on.append((trio.current_time(), name))

    with trio.fail_after(100.0):
        async with trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(write, name)
            for _ in range(3):
                await trio.sleep(1.0)
                await follower.next()
    assert [at for at, _name in went_on] == [1.0, 2.0, 3.0]
    assert sorted(name for _at, name in went_on) == ["a", "b", "c"]


async def test_a_writer_that_is_cancelled_leaves_the_others_their_place(autojump_clock):
    """A call that timed out must not take the wake-up of another with it."""
    follower = Follower(max_waiting=1)
    follower.tell(piece("first"))
    went_on = []

    async def write(name, patience):
        with trio.move_on_after(patience):
            await follower.wait_for_room()
            follower.tell(piece(name))
            went_on.append((trio.current_time(), name))

    with trio.fail_after(100.0):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, "impatient", 1.0)
            nursery.start_soon(write, "patient", 50.0)
            await trio.sleep(5.0)
            await follower.next()
    assert went_on == [(5.0, "patient")]


async def test_two_readers_share_the_events_and_both_end(autojump_clock):
    """It is made for one, but a second one must not hang for ever."""
    follower = Follower()
    seen = []

    async def read():
        while (event := await follower.next()) is not None:
            seen.append(event)

    with trio.fail_after(100.0):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            for number in range(4):
                follower.tell(piece(number))
                await trio.sleep(1.0)
            follower.close()
    assert seen == [piece(number) for number in range(4)]


async def test_a_reader_that_gives_up_loses_nothing(autojump_clock):
    """`move_on_after` around the next event is how one shows a spinner."""
    follower = Follower()
    with trio.move_on_after(1.0) as scope:
        await follower.next()
    assert scope.cancelled_caught
    follower.tell(piece(1))
    assert await follower.next() == piece(1)


@given(
    st.integers(1, 4),
    st.lists(st.integers(0, 6), min_size=1, max_size=5),
    st.sampled_from([0.0, 1.0]),
    st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=5, max_size=5),
)
def test_nothing_is_lost_or_out_of_order_for_any_writers_and_readers(bound, counts, reading, writing):
    """Whatever the speeds: each writer's pieces come all, in their order, and no more wait than may."""
    follower = Follower(max_waiting=bound)
    most = 0

    async def write(name, count, pause):
        nonlocal most
        for number in range(count):
            await trio.sleep(pause)
            await follower.wait_for_room()
            follower.tell(Delta(name, number, ""))
            most = max(most, len(follower._events))

    async def write_all():
        async with trio.open_nursery() as nursery:
            for place, count in enumerate(counts):
                nursery.start_soon(write, str(place), count, writing[place])
        follower.close()

    async def main():
        seen = []
        with trio.fail_after(1e6):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write_all)
                async for event in iterate(follower):
                    seen.append((event.step, event.item))
                    await trio.sleep(reading)
        return seen

    seen = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert sorted(seen) == [(str(place), number) for place, count in enumerate(counts) for number in range(count)]
    for place in range(len(counts)):
        own = [number for name, number in seen if name == str(place)]
        assert own == sorted(own)
    assert most <= bound
