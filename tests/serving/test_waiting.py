"""The line before an engine: its length, whose it is, and when to come again."""

from contextlib import ExitStack

import pytest

from milepost.errors import Exhausted
from milepost.resources.runs import Source
from milepost.serving.protocol import Generation
from milepost.serving.waiting import Waiting
from tests.serving.fakes import Clock

BASE = Source(name="b", path="/bases/b", hash="b" * 64)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def waiting(clock):
    return Waiting(2, clock)


def of(client, **given):
    return Generation(base=BASE, prompt="a", client=client, **given)


def test_a_full_line_refuses_and_says_when_to_return(waiting):
    with (
        waiting.place(of("a")),
        waiting.place(of("a")),
        pytest.raises(Exhausted, match="2 requests of this project wait") as caught,
        waiting.place(of("a")),
    ):
        pass
    assert (caught.value.retry_after_s, caught.value.code) == (1, "rate_limit_exceeded")


def test_each_client_has_a_line_of_its_own(waiting):
    with waiting.place(of("a")), waiting.place(of("a")), waiting.place(of("b")):
        pass


def test_a_place_is_free_once_the_answer_begins(waiting):
    with waiting.place(of("a")) as first, waiting.place(of("a")):
        first()
        first()
        with waiting.place(of("a")):
            pass


def test_a_place_is_free_once_who_waited_has_left(waiting):
    for _ in range(3):
        with waiting.place(of("a")):
            pass


def test_who_is_refused_is_sent_away_for_as_long_as_others_have_waited(waiting, clock):
    with waiting.place(of("a")) as answered:
        clock.now += 6.5
        answered()
    with ExitStack() as places:
        for _ in range(2):
            places.enter_context(waiting.place(of("a")))
        with pytest.raises(Exhausted, match="Try again in 7 s"):
            places.enter_context(waiting.place(of("a")))


def test_a_part_of_a_request_that_was_let_in_is_not_refused(waiting):
    with waiting.place(of("a")), waiting.place(of("a")), waiting.place(of("a", is_admitted=True)):
        pass
