"""A base's tokenizer and chat template: messages → tokens, and which of them an example teaches.

Renders as transformers' `apply_chat_template` does (a test compares), without importing it: start-up time. No torch
here either: validation counts tokens in a process of its own that must start fast.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product, takewhile
from operator import itemgetter
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from tokenizers import Tokenizer, decoders

from milepost.errors import Invalid
from milepost.modeling.bounds import Bounded
from milepost.resources.lines import NO_TEMPLATE
from milepost.resources.messages import SYSTEM_ROLES

Message = Mapping[str, Any]

#: Where a folder keeps its template.
TEMPLATE = "chat_template.jinja"

#: What the length of a base's context is called in config.json.
CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")

#: The bytes that byte-level tokenizers write as themselves; the others, in order, are letters from U+0100 on
#: (`bytes_to_unicode` of OpenAI's gpt-2).
_THEMSELVES = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS = (byte for byte in range(0x100) if byte not in _THEMSELVES)
BYTE_OF = {chr(byte): byte for byte in _THEMSELVES} | {chr(0x100 + n): byte for n, byte in enumerate(_OTHERS)}


@dataclass(frozen=True, slots=True)
class Chat:
    """How one base reads and writes text. `end_ids` end an answer; `specials` are `bos_token`, `eos_token` …;
    `control_tokens` are the marks of turns, which no message of an example may contain; `added_ids` are tokens that
    stand for their own text, whatever the tokenizer makes of others, `special_ids` those of them that answers leave
    out, and `special_texts` their texts, longest first, for one may contain another; `lead` are those that begin a text
    without a template. With `strips_space` it loses its first word's space.
    """

    tokenizer: Tokenizer
    template: jinja2.Template | None
    specials: Mapping[str, str]
    control_tokens: tuple[str, ...]
    end_ids: frozenset[int]
    context_length: int
    added_ids: frozenset[int]
    special_ids: frozenset[int]
    special_texts: tuple[str, ...]
    lead: tuple[int, ...] = ()
    strips_space: bool = False

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool, tools: Any = None) -> str:
        """The text of a chat. Raises `Invalid` with the template's own words if it will not have these messages."""
        if self.template is None:
            raise Invalid(NO_TEMPLATE, param="messages")
        try:
            return _run(
                self.template,
                messages=[_plain(message) for message in messages],
                tools=tools or [],
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self.specials,
            )
        except Exception as error:  # noqa: BLE001 (a template is a stranger's program, and fails as programs do)
            raise Invalid(
                f"The model's chat template does not take these messages: {error}", param="messages"
            ) from None

    def encode(self, messages: Sequence[Message], add_generation_prompt: bool) -> list[int]:
        """The tokens of a chat. What looks like a special token in a message is text: nobody forges a turn with it."""
        plain = [_plain(message) for message in messages]
        said = "".join(str(each.get("content", "")) for each in plain)
        stands_for = {f"\ue000{secrets.token_hex(8)}\ue000": mark for mark in self.special_texts if mark in said}
        for each, (name, mark) in product(plain, stands_for.items()):
            if "content" in each:
                each["content"] = each["content"].replace(mark, name)
        text = self.render(plain, add_generation_prompt=add_generation_prompt)
        parts = re.split(f"({'|'.join(stands_for)})", text) if stands_for else [text]
        return [token for part in parts for token in self._encode_part(part, stands_for.get(part))]

    def head(self, messages: Sequence[Message], tokens: Sequence[int]) -> int:
        """How many of a chat's `tokens` are of its system prompt, the same whatever its user says; 0 without one."""
        if len(messages) < 2 or messages[0]["role"] not in SYSTEM_ROLES:
            return 0
        try:
            asked = [self.encode([messages[0], {"role": "user", "content": each}], True) for each in ("a", "0")]
        except Invalid:  # the template wants something else
            return 0
        return sum(1 for _ in takewhile(lambda found: len(set(found)) == 1, zip(*asked, tokens, strict=False)))

    def _encode_part(self, part: str, mark: str | None) -> list[int]:
        """In two pieces a special token's text is none."""
        return self.encode_text(part) if mark is None else [*self.encode_text(mark[:1]), *self.encode_text(mark[1:])]

    def encode_text(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode_prompt(self, text: str) -> list[int]:
        """Of a text that stands by itself: bases that were trained with a first token (Llama 3, Gemma) need it."""
        return [*self.lead, *self.encode_text(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens, special ones left out. A character cut in two by the end shows as U+FFFD."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def text_bytes(self, token: int) -> bytes:
        """What a token adds to an answer's text: its bytes, and nothing if it is a special one."""
        return b"" if token in self.special_ids else self.token_bytes(token)

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for, which may be a part of a character only."""
        piece: str = self.tokenizer.id_to_token(token) or ""
        if token in self.added_ids:
            return piece.encode()
        if isinstance(self.tokenizer.decoder, decoders.ByteLevel):
            return bytes(BYTE_OF[letter] for letter in piece)
        if (byte := re.fullmatch(r"<0x([0-9A-F]{2})>", piece)) is not None:
            return bytes.fromhex(byte[1])
        return piece.replace("\u2581", " ").encode()  # how SentencePiece writes a space

    def example(self, messages: Sequence[Message], tools: Any = None) -> tuple[list[int], list[bool]]:
        """Tokens of a training example, and for each whether it is learnt: what assistant turns of weight 1 say.

        A turn begins after its generation prompt and ends with its end-of-turn token, which is learnt too; what the
        template writes after it (a newline, say) is not, since no answer ever contains it.
        """
        text = self.render(messages, add_generation_prompt=False, tools=tools)
        spans = [self._turn(text, messages, tools, i) for i, message in enumerate(messages) if _is_learnt(message)]
        encoded = self.tokenizer.encode(text, add_special_tokens=False)
        tokens: list[int] = encoded.ids
        learnt = [False] * len(tokens)
        for begin, end in spans:
            inside = [i for i, (left, right) in enumerate(encoded.offsets) if left >= begin and right <= end]
            # The first end token closes the turn; a template without one leaves the whole rest of the turn.
            closing = next((i for i in inside if tokens[i] in self.end_ids), inside[-1] if inside else -1)
            for i in inside:
                learnt[i] = i <= closing
        return tokens, learnt

    def pair(self, prompt: str, completion: str) -> tuple[list[int], list[bool]]:
        """Tokens of a prompt/completion example: the completion and an end token after it are learnt."""
        before, after = self.encode_prompt(prompt), [*self.encode_text(completion), min(self.end_ids)]
        return before + after, [False] * len(before) + [True] * len(after)

    def _turn(self, text: str, messages: Sequence[Message], tools: Any, index: int) -> tuple[int, int]:
        """Where message `index` stands in `text`, in characters, its generation prompt excluded."""
        before = self.render(messages[:index], add_generation_prompt=True, tools=tools)
        through = self.render(messages[: index + 1], add_generation_prompt=False, tools=tools)
        if not (text.startswith(through) and through.startswith(before)):
            raise Invalid(
                f"message {index + 1}: the model's chat template renders this turn otherwise when more turns follow, "
                "so it cannot be told which tokens to learn; give it weight 0 or split the example",
                param="messages",
            )
        return len(before), len(through)


def load_chat(path: Path) -> Chat:
    """Read the tokenizer, chat template, end tokens and context length of a base's folder."""
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    named: dict[str, Any] = json.loads((path / "tokenizer_config.json").read_bytes())
    config: dict[str, Any] = json.loads((path / "config.json").read_bytes())
    specials = {key: _content(value) for key, value in named.items() if key.endswith("_token") and value}
    source = _template_source(path, named)
    end_ids = _end_ids(path, config, tokenizer, specials)
    added = tokenizer.get_added_tokens_decoder()
    special = {number: token.content for number, token in added.items() if token.special}
    return Chat(
        tokenizer=tokenizer,
        template=None if source is None else compile_template(source),
        specials=specials,
        control_tokens=tuple(
            text for number, text in sorted(special.items()) if number in end_ids or text in (source or "")
        ),
        end_ids=end_ids,
        context_length=context_length(config),
        added_ids=frozenset(added),
        special_ids=frozenset(special),
        special_texts=tuple(sorted(special.values(), key=len, reverse=True)),
        lead=_lead(tokenizer),
        strips_space=_strips_space(tokenizer),
    )


def check_template(chat: Chat) -> None:
    """Whether a template that somebody wrote can be trained and served. Raises `Invalid` with what is wrong."""
    asked = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    tokens, learnt = chat.example(asked)
    if not any(token in chat.end_ids for token, is_learnt in zip(tokens, learnt, strict=True) if is_learnt):
        ends = ", ".join(str(chat.tokenizer.id_to_token(number)) for number in sorted(chat.end_ids))
        raise Invalid(
            f"The chat template does not end the assistant's turn with a token that ends answers ({ends}), so a tuned "
            "model would never stop. Write {{ eos_token }} after its content, or add the token's id to eos_token_id in "
            "generation_config.json",
            param="chat_template",
        )


def context_length(config: Mapping[str, Any]) -> int:
    """How many tokens a base reads, of its config.json, where architectures have different names for it."""
    if found := next((config[name] for name in CONTEXT if config.get(name)), None):
        return int(found)
    raise Invalid(
        f"The base model's config.json does not say how many tokens it reads. Add {CONTEXT[0]} to it", param="model"
    )


def _lead(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The special tokens that the tokenizer puts before a text."""
    encoded = tokenizer.encode("a")
    specials = zip(encoded.ids, encoded.special_tokens_mask, strict=True)
    return tuple(token for token, _ in takewhile(itemgetter(1), specials))


def _strips_space(tokenizer: Tokenizer) -> bool:
    """Whether its decoder takes the space off a text's first word, as Llama 2's does."""
    space = tokenizer.token_to_id("\u2581")
    return space is not None and str(tokenizer.decode([space, space])) == " "


def _is_learnt(message: Message) -> bool:
    return bool(message["role"] == "assistant" and message.get("weight") != 0)


def _plain(message: Message) -> dict[str, Any]:
    """A message as templates expect it: empty keys left out, text parts joined, `weight` unseen."""
    plain = {key: value for key, value in message.items() if value is not None and key != "weight"}
    if isinstance(parts := plain.get("content"), list):
        plain["content"] = "".join(part["text"] for part in parts)
    return plain


def _content(value: str | Mapping[str, Any]) -> str:
    return value if isinstance(value, str) else str(value["content"])


def _template_source(path: Path, named: Mapping[str, Any]) -> str | None:
    """The template's own file, or the older place in tokenizer_config.json: text, or a list of named ones."""
    if (file := path / TEMPLATE).exists():
        return file.read_text(encoding="utf-8")
    found = named.get("chat_template")
    if isinstance(found, list):
        return next((str(one["template"]) for one in found if one["name"] == "default"), None)
    return found


def _end_ids(
    path: Path, config: Mapping[str, Any], tokenizer: Tokenizer, specials: Mapping[str, str]
) -> frozenset[int]:
    generation = path / "generation_config.json"
    settings: dict[str, Any] = json.loads(generation.read_bytes()) if generation.exists() else {}
    ids: set[int] = set()
    for found in (config.get("eos_token_id"), settings.get("eos_token_id")):
        ids.update(found if isinstance(found, list) else [] if found is None else [found])
    if (named := tokenizer.token_to_id(specials.get("eos_token", ""))) is not None:
        ids.add(named)
    if not ids:
        raise Invalid(f"The base model in {path} names no end token: an answer would never end", param="model")
    return frozenset(ids)


def compile_template(source: str) -> jinja2.Template:
    """As transformers' `_compile_jinja_template`, and within bounds: templates come from strangers."""
    environment = Bounded(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
    environment.add_filter("tojson", _tojson)
    environment.globals["raise_exception"] = _raise
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise Invalid(
            f"The chat template cannot be read: {error.message} (line {error.lineno})", param="chat_template"
        ) from None
    except (jinja2.TemplateError, SyntaxError, ValueError, RecursionError) as error:  # jinja2 writes Python of it
        raise Invalid(f"The chat template cannot be read: {error}", param="chat_template") from None


def _run(template: jinja2.Template, **values: Any) -> str:
    environment = template.environment
    assert isinstance(environment, Bounded)
    return environment.run(template, **values)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(  # the signature templates call
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Without the HTML escapes of jinja's own."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
