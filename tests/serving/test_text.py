import random
from collections.abc import Sequence

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from milepost.modeling.template import load_chat
from milepost.serving.text import TextStream


def stream(content: Sequence[int], *stops: str, spell=lambda byte: bytes([byte]), **rest) -> tuple[list[str], bool]:
    """What is told after each token, and at the end. Tokens are bytes, as in the tiny model."""
    text = TextStream(spell, stops, **rest)
    told = []
    for token in content:
        told.append(text.push(token))
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
    assert "".join(told) == bytes(content).decode(errors="replace")


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


@pytest.fixture(params=["gemma", "llama 2"])
def fallback(tiny_base, tmp_path, request):
    """A base whose tokenizer writes spaces as `\u2581` and what it has no word for as bytes; Llama 2's strips a space."""
    for file in tiny_base.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    words = ["<unk>", "<|im_start|>", "<|im_end|>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *"ab"]
    vocab = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab, [], byte_fallback=True, unk_token="<unk>"))
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in words[:3]])
    strips = [decoders.Strip(" ", 1, 0)] if request.param == "llama 2" else []
    lead = [normalizers.Prepend("\u2581")] if strips else []
    tokenizer.normalizer = normalizers.Sequence([*lead, normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), *strips]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return load_chat(tmp_path)


@pytest.mark.parametrize("text", ["a😀 b", "a€é b", "  a", "é", "ab<|im_end|>"])
def test_of_a_tokenizer_that_falls_back_to_bytes_it_is_the_text_too(fallback, text):
    tokens = fallback.encode_text(text)
    told, _ = stream(tokens, spell=fallback.text_bytes, strips_space=fallback.strips_space)
    assert "".join(told) == fallback.decode(tokens) == text.replace("<|im_end|>", "")
    assert "\ufffd" not in "".join(told)


def test_of_a_tokenizer_that_falls_back_to_bytes_a_stop_string_is_found(fallback):
    told, is_stopped = stream(fallback.encode_text("a😀 b"), "😀", spell=fallback.text_bytes)
    assert ("".join(told).strip(), is_stopped) == ("a", True)


def test_a_token_is_looked_at_once_even_of_a_character_that_never_ends():
    looked_at = []

    def spell(token: int) -> bytes:
        looked_at.append(token)
        return b"\x80"

    tokens = range(100)
    assert "".join(stream(tokens, spell=spell)[0]) == "\ufffd" * 100
    assert looked_at == list(tokens)
