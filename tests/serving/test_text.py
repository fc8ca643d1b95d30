import random

import pytest

from milepost.serving.text import TextStream


def decode(tokens):
    """Tokens are bytes, as in the tiny model."""
    return bytes(tokens).decode(errors="replace")


def stream(content: bytes, *stops: str) -> tuple[list[str], bool]:
    """What is told after each byte, and at the end."""
    text = TextStream(decode, stops)
    told = []
    for byte in content:
        told.append(text.push(byte))
        if text.is_stopped:
            return told, True
    return [*told, text.flush()], text.is_stopped


def test_text_is_told_as_it_is_made():
    assert stream(b"abc") == (["a", "b", "c", ""], False)


def test_a_character_is_told_when_its_last_byte_has_come():
    assert stream("a€😀".encode()) == (["a", "", "", "€", "", "", "", "😀", ""], False)


def test_a_character_never_finished_is_told_at_the_end():
    assert stream("€".encode()[:2]) == (["", "", "\ufffd"], False)


@pytest.mark.parametrize("seed", range(20))
def test_joined_it_is_the_text_of_all_tokens(seed):
    content = random.Random(seed).choices([0x41, 0x80, 0xAC, 0xC3, 0xE2, 0x82, 0xED, 0xA0, 0xF0, 0x9F, 0x98], k=200)
    told, _ = stream(bytes(content))
    assert "".join(told) == decode(content)


def test_a_stop_string_ends_the_text_before_it():
    assert stream(b"one END two", "END") == (["o", "n", "e", " ", "", "", ""], True)


def test_the_beginning_of_a_stop_string_is_told_when_it_goes_on_otherwise():
    assert stream(b"aENb", "END") == (["a", "", "", "ENb", ""], False)


def test_the_beginning_of_a_stop_string_is_told_at_the_end():
    assert stream(b"aEN", "END") == (["a", "", "", "EN"], False)


def test_a_stop_string_that_begins_anew_within_itself_is_found():
    assert stream(b"aab aaab", "aaab") == (["", "", "aab", " ", "", "", "", ""], True)


def test_the_first_of_several_stop_strings_wins():
    assert stream(b"x--y##z", "##", "--") == (["x", "", ""], True)


def test_a_stop_string_may_be_of_characters_of_several_bytes():
    assert stream("a€€b".encode(), "€€") == (["a", "", "", "", "", "", ""], True)
