"""Who goes with whom: flights of equal calls, and what calls begin with in common."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipeline_engine import File, Image, Message, Text, fenced
from pipeline_engine.schedule.sharing import Flights, Warming, shared_prefix


class Call:
    """Stand for a step run, as far as flights look at it."""

    def __init__(self, name=""):
        self.name = name
        self.flight = None

    def __repr__(self):
        return f"Call({self.name!r})"


def calls(count):
    return [Call(str(number)) for number in range(count)]


def test_the_first_call_leads_and_the_others_follow():
    """One is sent, the others wait for its reply."""
    flights, (one, two, three) = Flights(), calls(3)

    assert [flights.join("key", call) for call in (one, two, three)] == [None, one, one]
    assert one.flight is two.flight is three.flight
    assert one.flight.leader is one


def test_other_keys_are_other_flights():
    """Only equal calls have equal replies."""
    flights, (one, two) = Flights(), calls(2)

    assert [flights.join("a", one), flights.join("b", two)] == [None, None]
    assert one.flight is not two.flight


def test_whoever_lands_hands_its_reply_to_the_followers_in_their_order():
    """First come, first served; and then the flight is over."""
    flights, (one, two, three) = Flights(), calls(3)
    for call in (one, two, three):
        flights.join("key", call)

    assert flights.land(one) == [two, three]
    assert [call.flight for call in (one, two, three)] == [None, None, None]
    assert not flights.join("key", Call()), "a call after the landing flies by itself"


def test_a_call_without_followers_lands_alone():
    """The usual case."""
    flights, (one,) = Flights(), calls(1)
    flights.join("key", one)
    assert flights.land(one) == []
    assert not flights._flights


def test_when_the_leader_leaves_the_first_follower_leads():
    """It must be sent now: somebody has to ask."""
    flights, (one, two, three) = Flights(), calls(3)
    for call in (one, two, three):
        flights.join("key", call)

    assert flights.leave(one) is two
    assert (one.flight, two.flight.leader) == (None, two)
    assert flights.land(two) == [three]


def test_when_a_follower_leaves_nobody_is_sent():
    """The leader's call goes on for the others."""
    flights, (one, two, three) = Flights(), calls(3)
    for call in (one, two, three):
        flights.join("key", call)

    assert flights.leave(two) is None
    assert flights.land(one) == [three]


def test_an_old_leader_joins_behind_those_who_waited():
    """It has failed: the others go before it."""
    flights, (one, two, three) = Flights(), calls(3)
    for call in (one, two, three):
        flights.join("key", call)
    flights.leave(one)

    assert flights.join("key", one)
    assert flights.leave(two) is three
    assert flights.leave(three) is one
    assert flights.leave(one) is None
    assert not flights._flights


def test_who_is_in_no_flight_may_leave_and_land_without_harm():
    """Withdrawing twice is cheaper than knowing that it was done."""
    flights, (one,) = Flights(), calls(1)
    assert flights.leave(one) is None
    assert flights.land(one) == []


class FlightsMachine(RuleBasedStateMachine):
    """Join, leave and land in any order, beside lists that say what must come of it."""

    def __init__(self):
        super().__init__()
        self.flights = Flights()
        self.model = {}  # key → calls, the leader first
        self.idle = calls(5)

    @rule(key=st.sampled_from("ab"), data=st.data())
    @precondition(lambda self: self.idle)
    def join(self, key, data):
        call = self.idle.pop(data.draw(st.integers(0, len(self.idle) - 1)))
        line = self.model.setdefault(key, [])
        assert (self.flights.join(key, call) is not None) is bool(line)
        line.append(call)

    @rule(data=st.data())
    @precondition(lambda self: any(self.model.values()))
    def leave(self, data):
        key = data.draw(st.sampled_from([key for key, line in self.model.items() if line]))
        line = self.model[key]
        place = data.draw(st.integers(0, len(line) - 1))
        call = line.pop(place)
        expected = line[0] if place == 0 and line else None
        assert self.flights.leave(call) is expected
        self.idle.append(call)

    @rule(data=st.data())
    @precondition(lambda self: any(self.model.values()))
    def land(self, data):
        key = data.draw(st.sampled_from([key for key, line in self.model.items() if line]))
        leader, *followers = self.model[key]
        assert self.flights.land(leader) == followers
        self.model[key] = []
        self.idle += [leader, *followers]

    @invariant()
    def everybody_is_where_the_lists_say(self):
        assert {key for key, line in self.model.items() if line} == set(self.flights._flights)
        for key, line in self.model.items():
            for call in line:
                assert call.flight is self.flights._flights[key]
            if line:
                assert line[0].flight.leader is line[0]
                assert list(line[0].flight.followers) == line[1:]
        assert all(call.flight is None for call in self.idle)


TestFlightsMachine = FlightsMachine.TestCase
TestFlightsMachine.settings = settings(max_examples=100, stateful_step_count=30)


# What calls begin with


def test_messages_without_shared_text_share_nothing():
    """Nothing is worth waiting for then."""
    assert shared_prefix((Message("system", "Be brief."), Message("user", "Hello"))) is None
    assert shared_prefix(()) is None


def test_the_beginning_goes_up_to_the_last_shared_text():
    """What comes after it differs from call to call, and does not count."""
    messages = (Message("system", "Be brief."), fenced("one", "two"), Message("user", "A question"))

    prefix = shared_prefix(messages)

    assert prefix == (("system", Text("Be brief.")), ("user", fenced("one").parts[0]), ("user", fenced("two").parts[0]))


def test_equal_beginnings_are_equal_whatever_follows():
    """That is what makes two calls alike for the provider's cache."""
    first = (fenced("text"), Message("user", "One?"))
    second = (fenced("text"), Message("user", "Two?"), Message("assistant", "No."))

    assert shared_prefix(first) == shared_prefix(second)
    assert hash(shared_prefix(first)) == hash(shared_prefix(second))


def test_another_beginning_makes_another_prefix():
    """A cache is read from the first token on: one other word before the document, and nothing is found."""
    question = Message("user", "One?")
    plain = shared_prefix((fenced("text"), question))

    assert shared_prefix((Message("system", "Be brief."), fenced("text"), question)) != plain
    assert shared_prefix((Message("user", "Read:"), fenced("text"), question)) != plain
    assert shared_prefix((fenced("text", "more"), question)) != plain
    assert shared_prefix((Message("assistant", *fenced("text").parts), question)) != plain


def test_pictures_and_files_before_the_shared_text_belong_to_it():
    """They are part of what the provider reads."""
    picture = Image(b"GIF89a", media_type="image/gif")
    paper = File(b"%PDF", "application/pdf")
    prefix = shared_prefix((Message("user", picture, paper, Text("text", is_shared=True), "One?"),))

    assert prefix == (("user", picture), ("user", paper), ("user", Text("text", is_shared=True)))
    assert hash(prefix) == hash(prefix)


def test_nobody_goes_ahead_at_first():
    """Whoever comes first does."""
    warming = Warming()
    assert (warming.is_warm, warming.leader, warming.waiting) == (False, None, {})
