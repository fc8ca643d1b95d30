"""Files of training data with known defects, drawn by a seed: what is planted, in which lines, and what finds it.

Clean lines are of all four formats and as odd as good data is: many scripts, code, tools called in parallel, answers of
one letter, texts that look like JSON. `DEFECTS` spoil a line, `SPOILT_FILES` a whole file.
"""

from __future__ import annotations

import copy
import gzip
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from milepost.resources.methods import LineShape

CHAT, PAIR, PREFERENCE, REINFORCEMENT = (
    LineShape.CHAT,
    LineShape.COMPLETION,
    LineShape.PREFERENCE,
    LineShape.REINFORCEMENT,
)
MESSAGES = (CHAT, PREFERENCE, REINFORCEMENT)
ALL = tuple(LineShape)


@dataclass(frozen=True)
class Size:
    """How long a file is, and how many of its lines have the defect."""

    lines: int
    planted: int


FULL = Size(40, 3)

Line = dict[str, Any]


@dataclass(frozen=True)
class Planted:
    """A file, and the lines (from 1) that hold the defect; `kinds` are the words any of which tells of it."""

    name: str
    shape: LineShape
    content: bytes
    lines: tuple[int, ...]
    kinds: frozenset[str]


# ------------------------------------------------------------------------------------------------ clean lines

WORDS = [
    "river",
    "mountain",
    "letter",
    "engine",
    "garden",
    "window",
    "market",
    "bridge",
    "harbour",
    "planet",
    "copper",
    "violin",
    "ladder",
    "candle",
    "forest",
    "silver",
    "anchor",
    "meadow",
    "lantern",
    "compass",
    "saddle",
    "orchard",
    "pebble",
    "canyon",
    "thunder",
    "glacier",
    "meteor",
    "falcon",
    "badger",
    "walnut",
    "invoice",
    "refund",
    "ticket",
    "shipment",
    "password",
    "account",
    "balance",
    "contract",
    "vendor",
    "ledger",
    "quota",
    "region",
    "cluster",
    "replica",
    "index",
    "schema",
    "column",
    "trigger",
    "cursor",
    "commit",
    "branch",
    "merge",
    "deploy",
    "rollback",
    "latency",
    "cache",
    "shard",
    "partition",
    "token",
]
ODD = (
    "Größe über alles: «ja» – 12 °C",
    "数据库的索引可以加快查询速度。",
    "مرحبا، كيف يمكنني مساعدتك اليوم؟",
    "👩‍💻 ships it 🚀 (5/5)",
    'if (a["x"] == \'y\') { return "\\n"; } // no comment',
    "SELECT \"id\", 'a' FROM t WHERE x LIKE '%\\%' -- done",
    'The JSON is {"messages": [{"role": "user"}], "n": null},',
    "NaN is not a number, and None is a singleton in Python. True story.",
    "C:\\temp\\new\\table.txt and https://example.com/a?b=[1]&c={2}",
    "Line one.\nLine two,\n\n\tindented. “Quoted” and ‘single’.",
    "Voilà: naïve café, Ångström, łódź, ñandú, Ãlvaro’s Â£ sign",
    "None of the above",
    "# Title\n\n- item /* not a comment */\n- item // nor this\n",
)


def sentence(draw: random.Random, least: int = 8, most: int = 25) -> str:
    words = draw.choices(WORDS, k=draw.randint(least, most))
    words = [word if draw.random() < 0.9 else f"{word}{draw.randint(2, 9999)}" for word in words]
    return " ".join(words).capitalize() + draw.choice((".", "?", "!"))


def text(draw: random.Random) -> str:
    said = [sentence(draw) for _ in range(draw.randint(1, 3))]
    if draw.random() < 0.4:
        said.insert(draw.randint(0, len(said)), draw.choice(ODD).strip())
    return " ".join(said)


def answer(draw: random.Random) -> str:
    if draw.random() < 0.1:
        return draw.choice(("A", "42", "no", "positive", "7.5", "{}", "SELECT 1"))
    return text(draw)


TOOL_NAMES = ("get_weather", "search-docs", "createTicket", "lookup_account", "convert")


def tools(draw: random.Random) -> list[Line]:
    chosen = draw.sample(TOOL_NAMES, draw.randint(1, 3))
    return [
        {
            "type": "function",
            "function": {
                "name": name,
                "description": sentence(draw),
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"type": "string"}, "limit": {"type": "integer"}},
                    "required": ["city"],
                },
            },
        }
        for name in chosen
    ]


def called(draw: random.Random, declared: list[Line]) -> list[Line]:
    """An assistant's calls and what the tools answered."""
    ids = [f"call_{draw.randrange(16**8):08x}" for _ in range(draw.randint(1, 2))]
    calls = [
        {
            "id": call_id,
            "type": "function",
            "function": {
                "name": draw.choice(declared)["function"]["name"],
                "arguments": json.dumps({"city": draw.choice(WORDS), "limit": draw.randint(1, 9)}),
            },
        }
        for call_id in ids
    ]
    answers = [{"role": "tool", "tool_call_id": call_id, "content": draw.choice(("", text(draw)))} for call_id in ids]
    return [{"role": "assistant", "content": draw.choice((None, text(draw))), "tool_calls": calls}, *answers]


def conversation(draw: random.Random, declared: list[Line] | None, *, ends_with_answer: bool) -> list[Line]:
    messages: list[Line] = [{"role": draw.choice(("system", "system", "developer")), "content": "Be brief and kind."}]
    for turn in range(draw.randint(1, 3)):
        if turn:
            messages.append({"role": "assistant", "content": answer(draw)} | draw.choice(({}, {}, {"weight": 0})))
        content = text(draw)
        messages.append({"role": "user", "content": content} | draw.choice(({}, {}, {"name": "anna"})))
        if draw.random() < 0.2:
            messages[-1]["content"] = [{"type": "text", "text": content}]
    if declared and ends_with_answer:
        messages += called(draw, declared)
    if ends_with_answer:
        messages.append({"role": "assistant", "content": answer(draw)} | draw.choice(({}, {}, {"weight": 1})))
    return messages


def clean_line(draw: random.Random, shape: LineShape) -> Line:
    declared = tools(draw) if draw.random() < 0.3 else None
    extra: Line = {"tools": declared, "parallel_tool_calls": draw.random() < 0.5} if declared else {}
    if shape is CHAT:
        return {"messages": conversation(draw, declared, ends_with_answer=True), **extra}
    if shape is PAIR:
        return {"prompt": text(draw), "completion": " " + answer(draw)}
    if shape is REINFORCEMENT:
        asked = conversation(draw, declared, ends_with_answer=False)
        return {"messages": asked, **extra, "answer": answer(draw), "meta": {"level": draw.randint(1, 5)}}
    good, bad = answer(draw), text(draw)
    return {
        "input": {"messages": conversation(draw, declared, ends_with_answer=False), **extra},
        "preferred_output": [{"role": "assistant", "content": good}],
        "non_preferred_output": [{"role": "assistant", "content": bad}],
    }


def clean_lines(draw: random.Random, shape: LineShape, count: int = FULL.lines) -> list[Line]:
    return [clean_line(draw, shape) for _ in range(count)]


def write(lines: list[Line | bytes], draw: random.Random) -> bytes:
    """As different tools write: with and without blanks and escapes, CRLF, a last line without its end."""
    ascii_only, compact, end = draw.random() < 0.5, draw.random() < 0.5, draw.choice((b"\n", b"\n", b"\r\n"))
    separators = (",", ":") if compact else None
    written = [
        line if isinstance(line, bytes) else json.dumps(line, ensure_ascii=ascii_only, separators=separators).encode()
        for line in lines
    ]
    return end.join(written) + draw.choice((b"", end))


# ------------------------------------------------------------------------------------------------ spoilt lines

Spoil = Callable[[random.Random, Line], "Line | bytes"]


def raw(change: Callable[[random.Random, str], str | bytes]) -> Spoil:
    """Spoils the text of a line."""

    def spoil(draw: random.Random, line: Line) -> bytes:
        found = change(draw, json.dumps(line, ensure_ascii=False))
        return found if isinstance(found, bytes) else found.encode("utf-8", "surrogatepass")

    return spoil


def at(role: str | None, change: Callable[[random.Random, Line], Any]) -> Spoil:
    """Spoils one message of a role, or the line's last one."""

    def spoil(draw: random.Random, line: Line) -> Line:
        messages = messages_of(line)
        mine = [message for message in messages if role is None or message["role"] == role]
        if not mine:
            mine = [{"role": role, "content": text(draw)}]
            messages.insert(1, mine[0])
            if role == "assistant":  # between the system's and a user's message, an answer needs a question
                messages.insert(1, {"role": "user", "content": text(draw)})
        change(draw, mine[-1])
        return line

    return spoil


def messages_of(line: Line) -> list[Line]:
    found: list[Line] = line["input"]["messages"] if "input" in line else line["messages"]
    return found


def whole(change: Callable[[random.Random, Line], Any]) -> Spoil:
    def spoil(draw: random.Random, line: Line) -> Line:
        change(draw, line)
        return line

    return spoil


def with_tools(change: Callable[[Line], Any], *, calls: bool = True) -> Spoil:
    """Gives a line two tools, and a conversation that calls one and ends with an answer; then spoils it."""

    def spoil(draw: random.Random, line: Line) -> Line:
        asked = line.get("input", line)
        declared = [
            {
                "type": "function",
                "function": {
                    "name": name,
                    "parameters": {
                        "type": "object",
                        "properties": {"city": {"type": "string"}},
                        "required": ["city"],
                    },
                },
            }
            for name in ("get_weather", "find_route")
        ]
        call = {
            "id": "call_a1",
            "type": "function",
            "function": {"name": "get_weather", "arguments": '{"city": "Ulm"}'},
        }
        asked["tools"] = declared
        asked["messages"] = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": text(draw)},
        ]
        if calls:
            asked["messages"] += [
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "call_a1", "content": text(draw)},
            ]
        if "answer" in line or "input" in line:
            asked["messages"].append({"role": "user", "content": text(draw)})
        else:
            asked["messages"].append({"role": "assistant", "content": text(draw)})
        change(asked)
        return line

    return spoil


def function(asked: Line) -> Line:
    found: Line = asked["tools"][0]["function"]
    return found


def call(asked: Line) -> Line:
    found: Line = next(m for m in asked["messages"] if m.get("tool_calls"))["tool_calls"][0]
    return found


def calling(**changes: Any) -> Callable[[Line], None]:
    return lambda asked: call(asked)["function"].update(changes)


def rename(old: str, new: str) -> Callable[[random.Random, Line], None]:
    def change(_: random.Random, value: Line) -> None:
        value[new] = value.pop(old)

    return change


def setting(**values: Any) -> Callable[[random.Random, Line], None]:
    return lambda _, value: value.update(values)


def dropping(key: str) -> Callable[[random.Random, Line], None]:
    return lambda _, value: value.pop(key)


def swap(old: str, new: str) -> Callable[[random.Random, str], str]:
    return lambda _, written: written.replace(old, new, 1)


def mid(draw: random.Random, written: str) -> int:
    return draw.randint(len(written) // 3, 2 * len(written) // 3)


def inside(written: str, what: str) -> str:
    """Puts raw text into the line's last string that is long enough to be a text."""
    place = written.rindex('."' if '."' in written else '"}')
    return written[:place] + what + written[place:]


def mojibake(draw: random.Random, message: Line) -> None:
    message["content"] = "It’s “fine” – naïve café".encode().decode("cp1252", "replace") + " " + text(draw)


JSON = frozenset({"not_json", "not_utf8"})

#: name → (formats, spoils a line, words any of which tells of it)
DEFECTS: dict[str, tuple[tuple[LineShape, ...], Spoil, frozenset[str]]] = {
    # --- text that is not JSON
    "comma after the object": (ALL, raw(lambda _, t: t + ","), frozenset({"comma_after_line"})),
    "comma before a bracket": (ALL, raw(lambda _, t: t[:-1] + ",}"), frozenset({"trailing_comma"})),
    "Python's repr": (ALL, lambda _, line: repr(line).encode(), frozenset({"python_repr"})),
    "None for null": (
        MESSAGES,
        raw(swap('"role": "user"', '"name": None, "role": "user"')),
        frozenset({"python_words", "python_repr"}),
    ),
    "NaN": (ALL, raw(lambda _, t: t[:-1] + ', "score": NaN}'), frozenset({"not_finite"})),
    "Infinity": (ALL, raw(lambda _, t: t[:-1] + ', "score": -Infinity}'), frozenset({"not_finite"})),
    "typographic quotes": (ALL, raw(swap('"', "“")), frozenset({"smart_quotes"})),
    "two objects in a line": (ALL, raw(lambda _, t: t + t), frozenset({"several_objects"})),
    "two objects, a comma between": (ALL, raw(lambda _, t: f"{t}, {t}"), frozenset({"several_objects"})),
    "raw tab in a string": (ALL, raw(lambda _, t: inside(t, "\t")), frozenset({"raw_control_character"})),
    "raw NUL in a string": (ALL, raw(lambda _, t: inside(t, "\x00")), frozenset({"raw_control_character"})),
    "line cut off": (ALL, raw(lambda d, t: t[: mid(d, t)]), frozenset({"cut_off", "not_json"})),
    "closing bracket missing": (ALL, raw(lambda _, t: t[:-1]), frozenset({"cut_off"})),
    "a bracket too many": (ALL, raw(lambda _, t: t + "}"), frozenset({"one_bracket_too_many"})),
    "unescaped quote": (ALL, raw(lambda _, t: inside(t, '"hm" ')), frozenset({"not_json"})),
    "bad escape": (ALL, raw(lambda _, t: inside(t, "\\d")), frozenset({"bad_escape"})),
    "unquoted key": (
        ALL,
        raw(lambda _, t: "{" + t[1:].replace('"', "", 2)),
        frozenset({"unquoted_key"}),
    ),
    "comment after the line": (ALL, raw(lambda _, t: t + " // checked"), frozenset({"comment"})),
    "text before the object": (ALL, raw(lambda _, t: "data: " + t), frozenset({"text_before"})),
    "byte order mark in the middle": (ALL, raw(lambda _, t: "\ufeff" + t), frozenset({"byte_order_mark"})),
    "Latin-1 bytes": (ALL, raw(lambda _, t: inside(t, "é").encode("latin-1", "replace")), frozenset({"not_utf8"})),
    "lone surrogate": (ALL, raw(lambda _, t: inside(t, "\\ud83d")), frozenset({"lone_surrogate"})),
    "a list, not an object": (ALL, lambda _, line: json.dumps([line]).encode(), frozenset({"not_a_dictionary"})),
    "a string, not an object": (
        ALL,
        lambda _, line: json.dumps(json.dumps(line)).encode(),
        frozenset({"not_a_dictionary"}),
    ),
    "nested too deep": (
        ALL,
        raw(lambda _, t: t[:-1] + ', "x": ' + "[" * 300 + "]" * 300 + "}"),
        frozenset({"too_deep"}),
    ),
    "key twice": (
        (CHAT, REINFORCEMENT),
        raw(lambda _, t: '{"messages": [], ' + t[1:]),
        frozenset({"repeated_key"}),
    ),
    # --- shapes
    "no known key": (ALL, whole(lambda d, line: (line.clear(), line.update(text=text(d)))), frozenset({"no_shape"})),
    "messages misspelt": ((CHAT, REINFORCEMENT), whole(rename("messages", "mesages")), frozenset({"no_shape"})),
    "ShareGPT's conversations": ((CHAT,), whole(rename("messages", "conversations")), frozenset({"no_shape"})),
    "completion missing": ((PAIR,), whole(dropping("completion")), frozenset({"no_shape"})),
    "completion misspelt": ((PAIR,), whole(rename("completion", "completions")), frozenset({"no_shape"})),
    "completion is a number": ((PAIR,), whole(setting(completion=7)), frozenset({"wrong_type"})),
    "prompt is null": ((PAIR,), whole(setting(prompt=None)), frozenset({"missing"})),
    "extra key of a pair": ((PAIR,), whole(setting(source="web")), frozenset({"extra_key"})),
    "extra key of a chat": ((CHAT,), whole(setting(source="web")), frozenset({"extra_key"})),
    "extra key of a preference": ((PREFERENCE,), whole(setting(score=1)), frozenset({"extra_key"})),
    "a line of another format": (
        (CHAT, PREFERENCE, REINFORCEMENT),
        lambda d, _: clean_line(d, PAIR),
        frozenset({"other_shape"}),
    ),
    "a chat among pairs": ((PAIR,), lambda d, _: clean_line(d, CHAT), frozenset({"other_shape"})),
    "field of the grader missing": ((REINFORCEMENT,), whole(dropping("answer")), frozenset({"missing_field"})),
    "an answer in the prompt": (
        (REINFORCEMENT, PREFERENCE),
        lambda d, line: (messages_of(line).append({"role": "assistant", "content": text(d)}), line)[1],
        frozenset({"prompt_ends_with_answer"}),
    ),
    # --- messages
    "messages empty": ((CHAT, REINFORCEMENT), whole(setting(messages=[])), frozenset({"no_messages"})),
    "messages a string": ((CHAT, REINFORCEMENT), whole(setting(messages="Hello")), frozenset({"wrong_type"})),
    "messages null": ((CHAT, REINFORCEMENT), whole(setting(messages=None)), frozenset({"missing"})),
    "message a string": (
        MESSAGES,
        lambda d, line: (messages_of(line).append("Hello"), line)[1],
        frozenset({"wrong_type"}),
    ),
    "role missing": (MESSAGES, at("user", dropping("role")), frozenset({"missing_role"})),
    "role unknown": (MESSAGES, at("user", setting(role="human")), frozenset({"unknown_role"})),
    "role in capitals": (MESSAGES, at("user", setting(role="User")), frozenset({"unknown_role"})),
    "role null": (MESSAGES, at("user", setting(role=None)), frozenset({"unknown_role"})),
    "content misspelt": (
        MESSAGES,
        at("user", rename("content", "contents")),
        frozenset({"extra_key", "missing_content"}),
    ),
    "content missing": (MESSAGES, at("user", dropping("content")), frozenset({"missing_content"})),
    "content null": (MESSAGES, at("user", setting(content=None)), frozenset({"missing_content"})),
    "content a number": (MESSAGES, at("user", setting(content=42)), frozenset({"wrong_type"})),
    "content a dictionary": (MESSAGES, at("user", setting(content={"text": "Hi"})), frozenset({"wrong_type"})),
    "an image": (
        MESSAGES,
        at("user", setting(content=[{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}])),
        frozenset({"not_text"}),
    ),
    "a text part without text": (MESSAGES, at("user", setting(content=[{"type": "text"}])), frozenset({"missing"})),
    "name a number": (MESSAGES, at("user", setting(name=3)), frozenset({"wrong_type"})),
    "extra key of a message": (MESSAGES, at("user", setting(timestamp=1)), frozenset({"extra_key"})),
    "weight of a user": (MESSAGES, at("user", setting(weight=1)), frozenset({"not_of_this_role"})),
    "weight a half": ((CHAT,), at("assistant", setting(weight=0.5)), frozenset({"bad_weight"})),
    "weight true": ((CHAT,), at("assistant", setting(weight=True)), frozenset({"bad_weight"})),
    "weight a string": ((CHAT,), at("assistant", setting(weight="1")), frozenset({"bad_weight"})),
    "weight 0 everywhere": (
        (CHAT,),
        whole(lambda _, line: [m.update(weight=0) for m in line["messages"] if m["role"] == "assistant"]),
        frozenset({"nothing_weighted"}),
    ),
    "no answer": (
        (CHAT,),
        whole(setting(messages=[{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Is it on?"}])),
        frozenset({"no_answer"}),
    ),
    "ends with the user": (
        (CHAT,),
        lambda d, line: (line["messages"].append({"role": "user", "content": text(d)}), line)[1],
        frozenset({"assistant_not_last"}),
    ),
    "no user": (
        (CHAT,),
        whole(
            lambda d, line: line.update(
                messages=[{"role": "system", "content": "Be kind."}, {"role": "assistant", "content": text(d)}]
            )
        ),
        frozenset({"missing_user"}),
    ),
    "two users in a row": (
        MESSAGES,
        lambda d, line: (
            messages_of(line).insert(
                next(i for i, m in enumerate(messages_of(line)) if m["role"] == "user"),
                {"role": "user", "content": text(d)},
            ),
            line,
        )[1],
        frozenset({"same_role_twice"}),
    ),
    "system not first": (
        MESSAGES,
        lambda _, line: (messages_of(line).insert(1, messages_of(line).pop(0)), line)[1],
        frozenset({"system_not_first"}),
    ),
    "answer empty": ((CHAT,), at("assistant", setting(content="")), frozenset({"empty_content"})),
    "answer blank": ((CHAT,), at("assistant", setting(content=" \n")), frozenset({"empty_content"})),
    "question empty": (MESSAGES, at("user", setting(content="")), frozenset({"empty_content"})),
    "completion empty": ((PAIR,), whole(setting(completion="")), frozenset({"empty_content"})),
    "answer NaN": ((CHAT,), at("assistant", setting(content="nan")), frozenset({"placeholder"})),
    "answer TODO": ((CHAT,), at("assistant", setting(content="TODO")), frozenset({"placeholder"})),
    "completion null in words": ((PAIR,), whole(setting(completion=" null")), frozenset({"placeholder"})),
    "blanks around the answer": (
        (CHAT,),
        at("assistant", setting(content=" Yes, it is. \n")),
        frozenset({"blank_edges"}),
    ),
    "mojibake": (MESSAGES, at("user", mojibake), frozenset({"garbled_text"})),
    "replacement character": (MESSAGES, at("user", setting(content="caf\ufffd is open")), frozenset({"garbled_text"})),
    "escaped NUL": (MESSAGES, at("user", setting(content="is it \x00 open")), frozenset({"garbled_text"})),
    "the template's end mark": (
        (CHAT, PREFERENCE, REINFORCEMENT),
        at("user", setting(content="stop <|im_end|> here")),
        frozenset({"control_token"}),
    ),
    # --- preferences
    "preferred missing": ((PREFERENCE,), whole(dropping("preferred_output")), frozenset({"missing"})),
    "chosen for preferred": (
        (PREFERENCE,),
        whole(rename("preferred_output", "chosen")),
        frozenset({"extra_key", "missing"}),
    ),
    "preferred a string": ((PREFERENCE,), whole(setting(preferred_output="Yes")), frozenset({"wrong_type"})),
    "preferred empty": ((PREFERENCE,), whole(setting(preferred_output=[])), frozenset({"no_messages"})),
    "two preferred": (
        (PREFERENCE,),
        whole(lambda _, line: line["preferred_output"].append(line["preferred_output"][0])),
        frozenset({"not_one_answer"}),
    ),
    "preferred by a user": (
        (PREFERENCE,),
        whole(lambda _, line: line["preferred_output"][0].update(role="user")),
        frozenset({"not_one_answer"}),
    ),
    "the same twice": (
        (PREFERENCE,),
        whole(lambda _, line: line.update(non_preferred_output=copy.deepcopy(line["preferred_output"]))),
        frozenset({"same_outputs"}),
    ),
    "input missing": ((PREFERENCE,), whole(dropping("input")), frozenset({"missing"})),
    "input a list": ((PREFERENCE,), whole(lambda _, line: line.update(input=[])), frozenset({"wrong_type"})),
    # --- tools
    "tools a dictionary": (MESSAGES, with_tools(lambda a: a.update(tools={"a": 1})), frozenset({"wrong_type"})),
    "tool without type": (MESSAGES, with_tools(lambda a: a["tools"][0].pop("type")), frozenset({"bad_tool_type"})),
    "tool of another type": (
        MESSAGES,
        with_tools(lambda a: a["tools"][0].update(type="web")),
        frozenset({"bad_tool_type"}),
    ),
    "tool without function": (MESSAGES, with_tools(lambda a: a["tools"][0].pop("function")), frozenset({"missing"})),
    "tool written flat": (
        MESSAGES,
        with_tools(lambda a: a["tools"].__setitem__(0, {"type": "function", **function(a)})),
        frozenset({"missing"}),
    ),
    "tool without name": (MESSAGES, with_tools(lambda a: function(a).pop("name")), frozenset({"missing"})),
    "tool name with blanks": (
        MESSAGES,
        with_tools(lambda a: function(a).update(name="get weather")),
        frozenset({"bad_tool_name"}),
    ),
    "tool name with dots": (
        MESSAGES,
        with_tools(lambda a: function(a).update(name="weather.get")),
        frozenset({"bad_tool_name"}),
    ),
    "tool name of 65": (
        MESSAGES,
        with_tools(lambda a: function(a).update(name="w" * 65)),
        frozenset({"bad_tool_name"}),
    ),
    "parameters a string": (
        MESSAGES,
        with_tools(lambda a: function(a).update(parameters="city")),
        frozenset({"wrong_type"}),
    ),
    "parameters of type string": (
        MESSAGES,
        with_tools(lambda a: function(a).update(parameters={"type": "string"})),
        frozenset({"bad_parameters"}),
    ),
    "parameters without type": (
        MESSAGES,
        with_tools(lambda a: function(a)["parameters"].pop("type")),
        frozenset({"bad_parameters"}),
    ),
    "properties a list": (
        MESSAGES,
        with_tools(lambda a: function(a)["parameters"].update(properties=["city"])),
        frozenset({"wrong_type"}),
    ),
    "required but not there": (
        MESSAGES,
        with_tools(lambda a: function(a)["parameters"].update(required=["city", "day"])),
        frozenset({"bad_required"}),
    ),
    "a tool twice": (
        MESSAGES,
        with_tools(lambda a: a["tools"].append(copy.deepcopy(a["tools"][0]))),
        frozenset({"tool_twice"}),
    ),
    "parallel_tool_calls a string": (
        MESSAGES,
        with_tools(lambda a: a.update(parallel_tool_calls="yes")),
        frozenset({"wrong_type"}),
    ),
    "calls a string": (
        MESSAGES,
        with_tools(lambda a: next(m for m in a["messages"] if "tool_calls" in m).update(tool_calls="get_weather")),
        frozenset({"wrong_type"}),
    ),
    "call without id": (MESSAGES, with_tools(lambda a: call(a).pop("id")), frozenset({"missing"})),
    "call without function": (MESSAGES, with_tools(lambda a: call(a).pop("function")), frozenset({"missing"})),
    "call without name": (MESSAGES, with_tools(lambda a: call(a)["function"].pop("name")), frozenset({"missing"})),
    "call without arguments": (
        MESSAGES,
        with_tools(lambda a: call(a)["function"].pop("arguments")),
        frozenset({"missing"}),
    ),
    "arguments a dictionary": (MESSAGES, with_tools(calling(arguments={"city": "Ulm"})), frozenset({"wrong_type"})),
    "arguments not JSON": (
        MESSAGES,
        with_tools(calling(arguments="{'city': 'Ulm'}")),
        frozenset({"arguments_not_json"}),
    ),
    "arguments cut off": (MESSAGES, with_tools(calling(arguments='{"city": "U')), frozenset({"arguments_not_json"})),
    "arguments a list": (MESSAGES, with_tools(calling(arguments='["Ulm"]')), frozenset({"arguments_no_object"})),
    "argument missing": (MESSAGES, with_tools(calling(arguments="{}")), frozenset({"missing_argument"})),
    "argument misspelt": (
        MESSAGES,
        with_tools(calling(arguments='{"citty": "Ulm"}')),
        frozenset({"unknown_argument", "missing_argument"}),
    ),
    "call of an unknown tool": (MESSAGES, with_tools(calling(name="get_wether")), frozenset({"undeclared_tool"})),
    "calls but no tools": (MESSAGES, with_tools(lambda a: a.pop("tools")), frozenset({"no_tools"})),
    "answer to no call": (
        MESSAGES,
        with_tools(lambda a: next(m for m in a["messages"] if m["role"] == "tool").update(tool_call_id="call_b2")),
        frozenset({"answers_no_call"}),
    ),
    "tool answer without id": (
        MESSAGES,
        with_tools(lambda a: next(m for m in a["messages"] if m["role"] == "tool").pop("tool_call_id")),
        frozenset({"missing"}),
    ),
    "call not answered": (
        MESSAGES,
        with_tools(lambda a: a["messages"].remove(next(m for m in a["messages"] if m["role"] == "tool"))),
        frozenset({"unanswered_call"}),
    ),
    "calls of a user": (
        MESSAGES,
        at("user", setting(tool_calls=[])),
        frozenset({"not_of_this_role"}),
    ),
}


# ------------------------------------------------------------------------------------------------ repeated lines


def _as_text(line: Line) -> Line:
    """The message whose text is changed to make a near duplicate: long enough that a word is a small part of it."""
    return messages_of(line)[1] if "prompt" not in line else line


def _long(draw: random.Random, line: Line) -> None:
    told = " ".join(sentence(draw, 12, 20) for _ in range(4))
    holder = _as_text(line)
    holder["prompt" if "prompt" in line else "content"] = told


def _change(line: Line, change: Callable[[str], str]) -> None:
    holder, key = _as_text(line), "prompt" if "prompt" in line else "content"
    holder[key] = change(holder[key])


def _one_word(draw: random.Random) -> Callable[[str], str]:
    def change(told: str) -> str:
        words = told.split()
        words[draw.randrange(len(words))] = draw.choice(WORDS)
        return " ".join(words)

    return change


#: name → how a copy of a line differs from it; an exact copy is told as such.
REPEATS: dict[str, tuple[frozenset[str], Callable[[random.Random], Callable[[str], str]]]] = {
    "a line twice": (frozenset({"exact"}), lambda _: lambda told: told),
    "twice, in capitals": (frozenset({"near"}), lambda _: str.upper),
    "twice, other blanks and marks": (
        frozenset({"near"}),
        lambda _: lambda told: told.replace(" ", "  ").replace(".", " ;").replace("?", "…"),
    ),
    "twice, a word changed": (frozenset({"near"}), _one_word),
    "twice, a word added": (frozenset({"near"}), lambda draw: lambda told: f"{draw.choice(WORDS)} {told}"),
}


# ------------------------------------------------------------------------------------------------ spoilt files


def _records(content: bytes) -> list[Any]:
    return [json.loads(line) for line in content.splitlines() if line.strip()]


#: name → what is done to a whole clean file, the word that tells of it
SPOILT_FILES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "one JSON array": (lambda content: json.dumps(_records(content)).encode(), "json_array"),
    "an array over many lines": (
        lambda content: b"[\n" + b",\n".join(json.dumps(r).encode() for r in _records(content)) + b"\n]",
        "json_array",
    ),
    "pretty-printed": (
        lambda content: "\n".join(json.dumps(r, indent=2) for r in _records(content)).encode(),
        "pretty_printed",
    ),
    "UTF-16": (lambda content: content.decode().encode("utf-16"), "utf16"),
    "UTF-16 without a mark": (lambda content: content.decode().encode("utf-16-le"), "utf16"),
    "gzip": (gzip.compress, "gzip"),
    "a ZIP archive": (lambda content: b"PK\x03\x04" + content, "zip"),
    "a table": (
        lambda content: b"prompt,completion\n" + b"\n".join(b'"Is it on?","Yes, it is."' for _ in _records(content)),
        "csv",
    ),
    "a web page": (lambda _: b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n", "html"),
    "no line breaks": (lambda content: b"".join(json.dumps(r).encode() for r in _records(content)), "several_objects"),
    "empty": (lambda _: b"", "empty"),
    "blank": (lambda _: b"\n \n\r\n", "empty"),
}


#: Each defect of a line, with each format that can have it.
PLACES = [(name, shape) for name, (shapes, *_) in DEFECTS.items() for shape in shapes]


def planted(seed: int, size: Size = FULL) -> Iterator[Planted]:
    """Every defect of a line, in each format that can have it, in some lines of a file that is clean otherwise."""
    for name, shape in PLACES:
        yield plant(seed, name, shape, size)


def plant(seed: int, name: str, shape: LineShape, size: Size = FULL) -> Planted:
    """One of those files."""
    _, spoil, kinds = DEFECTS[name]
    draw = random.Random(f"{seed} {name} {shape}")
    lines: list[Line | bytes] = [*clean_lines(draw, shape, size.lines)]
    places = sorted(draw.sample(range(1, size.lines), size.planted))  # a mark before the first line is none
    for place in places:
        line = lines[place]
        assert isinstance(line, dict)
        lines[place] = spoil(draw, copy.deepcopy(line))
    return Planted(name, shape, write(lines, draw), tuple(place + 1 for place in places), kinds)


def repeated(seed: int, size: Size = FULL) -> Iterator[Planted]:
    """Files in which some lines repeat another; told are the lines of the copies."""
    for name, (kinds, differ) in REPEATS.items():
        for shape in ALL:
            draw = random.Random(f"{seed} {name} {shape}")
            lines = clean_lines(draw, shape, size.lines)
            for line in lines:
                _long(draw, line)
            copies = []
            for line in draw.sample(lines, size.planted):
                copies.append(copy.deepcopy(line))
                _change(copies[-1], differ(draw))
            numbers = tuple(range(len(lines) + 1, len(lines) + 1 + size.planted))
            yield Planted(name, shape, write([*lines, *copies], draw), numbers, kinds)


def clean(seed: int, count: int = FULL.lines) -> Iterator[Planted]:
    """A clean file of each format."""
    for shape in ALL:
        draw = random.Random(f"{seed} clean {shape}")
        yield Planted("clean", shape, write([*clean_lines(draw, shape, count)], draw), (), frozenset())
