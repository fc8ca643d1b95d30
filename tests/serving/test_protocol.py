import pytest
from pydantic import ValidationError

from milepost import errors
from milepost.resources.runs import Source
from milepost.serving.protocol import (
    FROM_ENGINE,
    LENGTH,
    TO_ENGINE,
    Answer,
    Cancel,
    Chunk,
    Generate,
    Generation,
    frame,
    to_error,
    to_failure,
)

BASE = Source(name="tiny", path="/bases/tiny", hash="b" * 64)
ADAPTER = Source(name="ft:tiny", path="/runs/1/step-1", hash="a1" * 32)


def body(framed: bytes) -> bytes:
    (length,) = LENGTH.unpack(framed[: LENGTH.size])
    assert length == len(framed) - LENGTH.size
    return framed[LENGTH.size :]


def test_a_request_comes_out_of_its_frame_as_it_went_in():
    request = Generate(
        id=3, generation=Generation(base=BASE, adapter=ADAPTER, messages=({"role": "user", "content": "hé"},), n=2)
    )
    assert TO_ENGINE.validate_json(body(frame(request))) == request


def test_a_cancel_comes_out_as_a_cancel():
    assert TO_ENGINE.validate_json(body(frame(Cancel(id=3)))) == Cancel(id=3)


def test_an_answer_comes_out_of_its_frame_as_it_went_in():
    answer = Answer(id=3, body=Chunk(index=1, text="a\nb", finish_reason="stop"))
    assert FROM_ENGINE.validate_json(body(frame(answer))) == answer


@pytest.mark.parametrize(
    "error",
    [
        errors.Invalid("too long", param="messages", code="context_length_exceeded"),
        errors.Corrupt("changed"),
        errors.Unavailable("gone"),
    ],
)
def test_an_error_is_itself_on_the_other_side(error):
    again = to_error(to_failure(error))
    assert (type(again), again.message, again.param, again.code) == (type(error), *vars(error).values())


@pytest.mark.parametrize("given", [{}, {"prompt": "a", "messages": ()}])
def test_a_generation_has_one_input(given):
    with pytest.raises(ValidationError, match="exactly one of messages and prompt"):
        Generation(base=BASE, **given)


def test_the_fingerprint_names_the_weights_that_answer():
    assert Generation(base=BASE, adapter=ADAPTER, prompt="a").fingerprint == "fp_a1a1a1a1a1a1"
    assert Generation(base=BASE, prompt="a").fingerprint == "fp_bbbbbbbbbbbb"
