"""Who is next: priorities, turns between runs, and places that are kept."""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from pipeline_engine.resilience.governor import Refusal
from pipeline_engine.schedule.queue import ReadyQueue


@dataclass(eq=False)
class Waiting:
    """Stand in the queue as a step run does."""

    group: str = "run"
    key: tuple = (1, -1, 0, -1)
    priority: int = 0
    gate: object = None
    tokens: float = 0.0
    ticket: int = field(default=0, repr=False)
    overtaken: int = field(default=0, repr=False)

    def launch(self):
        """Nobody is launched here."""
        return True


@dataclass(eq=False)
class Gate:
    """Let calls through up to a size; with size 0 nobody."""

    room: float = 0.0
    counts_tokens: bool = False

    def refusal(self, now, tokens=0.0):
        """Refuse what is larger than the room that is left."""
        return None if self.room > 0 and tokens <= self.room else Refusal("tokens", now + 1.0)


def filled(*entries):
    queue = ReadyQueue()
    for entry in entries:
        queue.push(entry)
    return queue


def order(queue):
    """Take out everything that waits, in order."""
    taken = []
    while (entry := queue.pop(0.0)) is not None:
        taken.append(entry)
    return taken


def test_nobody_waits_in_an_empty_queue():
    """The dispatcher asks before it takes a slot."""
    queue = ReadyQueue()

    assert (len(queue), queue.pop(0.0)) == (0, None)


def test_a_document_that_came_earlier_goes_first():
    """First come, first served: results of a batch arrive in about the order of its documents."""
    second, first = Waiting(key=(2, -9, 0, -1)), Waiting(key=(1, -1, 5, -1))

    assert order(filled(second, first)) == [first, second]


def test_within_a_document_the_longest_remaining_path_goes_first():
    """A step that others wait for is worth more than one that nobody needs."""
    leaf, root = Waiting(key=(1, -1, 0, -1)), Waiting(key=(1, -4, 1, -1))

    assert order(filled(leaf, root)) == [root, leaf]


def test_equal_paths_go_in_the_order_of_steps_and_items():
    """The same run gives the same trace."""
    late, early, item = Waiting(key=(1, -1, 2, -1)), Waiting(key=(1, -1, 1, 1)), Waiting(key=(1, -1, 1, 0))

    assert order(filled(late, early, item)) == [item, early, late]


def test_a_higher_priority_goes_first_whatever_its_key():
    """A person waits for the single run; nobody for the nightly batch."""
    batch, person = Waiting(group="batch", key=(1, -9, 0, -1)), Waiting(group="run", key=(7, -1, 0, -1), priority=1)

    assert order(filled(batch, person)) == [person, batch]


def test_groups_take_turns():
    """A small run that comes after a large batch must not wait for all of it."""
    large = [Waiting(group="large", key=(number, -1, 0, -1)) for number in range(3)]
    small = [Waiting(group="small", key=(number, -1, 0, -1)) for number in range(5, 7)]

    assert order(filled(*large, *small)) == [large[0], small[0], large[1], small[1], large[2]]


def test_turns_go_on_where_they_were():
    """A newcomer gets its turn after those who wait, and takes none from them."""
    first, second = Waiting(group="a", key=(1, -1, 0, -1)), Waiting(group="a", key=(2, -1, 0, -1))
    other = Waiting(group="b", key=(3, -1, 0, -1))
    queue = filled(first, second, other)
    assert queue.pop(0.0) is first
    newcomer = Waiting(group="c", key=(4, -1, 0, -1))
    queue.push(newcomer)

    assert order(queue) == [other, second, newcomer]


def test_who_comes_back_gets_its_place_again():
    """A retried step must not queue behind work that came later."""
    retried, later = Waiting(key=(1, -3, 0, -1)), Waiting(key=(1, -2, 1, -1))
    queue = filled(retried, later)
    assert queue.pop(0.0) is retried
    queue.push(retried)

    assert order(queue) == [retried, later]


def test_equals_are_served_in_the_order_they_came():
    """Requests of one item, such as parts of an embedding, have one key."""
    entries = [Waiting() for _ in range(5)]

    assert order(filled(*entries)) == entries


def test_who_withdraws_is_not_served():
    """A timed-out or cancelled step must not get a slot that nobody would give back."""
    gone, stays = Waiting(key=(1, -3, 0, -1)), Waiting(key=(1, -2, 0, -1))
    queue = filled(gone, stays)

    queue.withdraw(gone)

    assert len(queue) == 1
    assert order(queue) == [stays]
    assert (gone.ticket, stays.ticket, len(queue)) == (0, 0, 0)


def test_withdrawing_twice_counts_once():
    """A cancellation and a timeout may both do it."""
    gone, stays = Waiting(), Waiting()
    queue = filled(gone, stays)

    queue.withdraw(gone)
    queue.withdraw(gone)

    assert len(queue) == 1


def test_who_withdrew_may_come_back():
    """It waits once more, and once only."""
    entry = Waiting()
    queue = filled(entry)
    queue.withdraw(entry)
    queue.push(entry)

    assert len(queue) == 1
    assert order(queue) == [entry]


def test_a_group_that_withdrew_leaves_no_turn_behind():
    """An aborted batch must not slow the others."""
    gone = [Waiting(group="gone", key=(number, -1, 0, -1)) for number in range(3)]
    stays = [Waiting(group="stays", key=(number, -1, 0, -1)) for number in range(2)]
    queue = filled(*gone, *stays)
    for entry in gone:
        queue.withdraw(entry)

    assert order(queue) == stays


def test_a_stalled_model_holds_up_nobody_else():
    """One provider's outage must not stop the calls to another, nor the functions."""
    stalled, well = Gate(0.0), Gate(1.0)
    first, second, third = Waiting(gate=stalled), Waiting(gate=well, key=(2, -1, 0, -1)), Waiting(key=(3, -1, 0, -1))
    queue = filled(first, second, third)

    assert order(queue) == [second, third]
    assert (len(queue), queue.waiting(stalled), queue.gates) == (1, 1, [stalled])
    stalled.room = 1.0
    assert order(queue) == [first]


def test_a_call_that_is_too_large_is_overtaken_by_one_that_fits():
    """A long document at the head must not waste the tokens that short ones could use."""
    gate = Gate(10.0, counts_tokens=True)
    large, small = Waiting(gate=gate, tokens=11.0), Waiting(gate=gate, tokens=10.0, key=(2, -1, 0, -1))
    queue = filled(large, small)

    assert order(queue) == [small]
    assert queue.pop(0.0) is None
    gate.room = 11.0
    assert order(queue) == [large]


def test_tokens_are_saved_for_a_call_that_was_overtaken_too_often():
    """A stream of short documents must not starve a long one."""
    gate = Gate(10.0, counts_tokens=True)
    large = Waiting(gate=gate, tokens=11.0)
    smalls = [Waiting(gate=gate, tokens=1.0, key=(2 + place, -1, 0, -1)) for place in range(100)]
    queue = filled(large, *smalls)

    assert len(order(queue)) == 64
    gate.room = 11.0
    assert order(queue) == [large, *smalls[64:]]


def test_who_left_its_gate_for_another_has_no_place_at_the_first_any_more():
    """A call that fell back to another model must not start by the first one's permission."""
    first, second = Gate(0.0), Gate(0.0)
    entry = Waiting(gate=first)
    queue = filled(entry)
    queue.withdraw(entry)
    entry.gate = second
    queue.push(entry)
    first.room = 1.0

    assert queue.pop(0.0) is None
    second.room = 1.0
    assert queue.pop(0.0) is entry


class QueueMachine(RuleBasedStateMachine):
    """Hold the queue against a plain list of who waits, and count the turns that each group was passed over."""

    entries = Bundle("entries")

    def __init__(self):
        super().__init__()
        self.queue = ReadyQueue()
        self.gates = [None, Gate(1.0), Gate(0.0)]
        self.waiting = []
        self.number = 0
        # For each group that waits, how often others were served since it began to.
        self.passed = {}

    @rule(
        target=entries,
        group=st.sampled_from("abc"),
        priority=st.integers(0, 1),
        document=st.integers(1, 3),
        remaining=st.integers(1, 3),
        gate=st.integers(0, 2),
    )
    def arrive(self, group, priority, document, remaining, gate):
        self.number += 1
        entry = Waiting(group, (document, -remaining, self.number, -1), priority, self.gates[gate])
        self.enter(entry)
        return entry

    @rule(entry=entries)
    def come_back(self, entry):
        if entry not in self.waiting:
            self.enter(entry)

    def enter(self, entry):
        self.queue.push(entry)
        self.waiting.append(entry)
        self.passed.setdefault((entry.priority, entry.group), {})

    @rule(entry=entries)
    def withdraw(self, entry):
        self.queue.withdraw(entry)
        if entry in self.waiting:
            self.leave(entry)

    def leave(self, entry):
        self.waiting.remove(entry)
        if not any((other.priority, other.group) == (entry.priority, entry.group) for other in self.waiting):
            del self.passed[entry.priority, entry.group]

    @rule(gate=st.integers(1, 2))
    def change(self, gate):
        self.gates[gate].room = 1.0 - self.gates[gate].room
        self.passed = {place: {} for place in self.passed}  # who could not go had no turn to lose

    @rule()
    def pop(self):
        entry = self.queue.pop(0.0)
        able = [other for other in self.waiting if other.gate is None or other.gate.room > 0]
        if entry is None:
            assert able == []
            return
        assert entry in able
        assert entry.priority == max(other.priority for other in able)
        own = [other for other in able if (other.priority, other.group) == (entry.priority, entry.group)]
        assert entry.key == min(other.key for other in own)
        self.leave(entry)
        waiting = {(other.priority, other.group) for other in able if other is not entry}
        for (priority, group), turns in self.passed.items():
            if priority == entry.priority and group != entry.group and (priority, group) in waiting:
                turns[entry.group] = turns.get(entry.group, 0) + 1
                assert turns[entry.group] == 1, f"{entry.group} was served twice while {group} waited"
        if (entry.priority, entry.group) in self.passed:
            self.passed[entry.priority, entry.group] = {}

    @invariant()
    def lengths_agree(self):
        assert len(self.queue) == len(self.waiting)
        assert all(entry.ticket for entry in self.waiting)


QueueMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=50)
TestQueueAgainstAList = QueueMachine.TestCase
