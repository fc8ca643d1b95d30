"""The faults of messages: each by itself, what its text looks like, and who speaks when."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Generator, Mapping
from typing import Any

from milepost.resources.faults import Fault, Faults, Messages, extra, near, shown, unlike, wrong

MESSAGE_KEYS = frozenset(
    {"role", "content", "name", "function_call", "tool_calls", "tool_call_id", "weight", "refusal"}
)
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
#: Whose message is a system prompt.
SYSTEM_ROLES = frozenset({"system", "developer"})

#: Keys of a message that only an assistant may carry.
ASSISTANT_KEYS = ("weight", "tool_calls", "function_call", "refusal")

#: What people call the roles elsewhere.
ROLE_NAMES = {"human": "user", "bot": "assistant", "gpt": "assistant", "model": "assistant", "ai": "assistant"}


def check_messages(value: Any, *, name: str = "messages") -> Generator[Fault, None, Messages]:
    """The faults of a list of messages; returns them if each could be understood, else nothing."""
    bad = list(wrong(value, list, f'"{name}"', f'Write "{name}": [{{"role": "user", "content": "…"}}, …]'))
    if not bad and not value:
        bad = [Fault("no_messages", f'"{name}" is empty', "Remove the line, or add its messages")]
    yield from bad
    if bad:
        return ()
    is_whole = True
    for index, message in enumerate(value, start=1):
        place = f"message {index}" if name == "messages" else f"{name} message {index}"
        if not isinstance(message, dict):
            fix = 'Write each message as {"role": "…", "content": "…"}'
            yield from wrong({} if message is None else message, dict, place, fix)
            is_whole = False
            continue
        for fault in _message(message, place):
            is_whole = is_whole and (fault.is_warning or fault.kind not in _UNREADABLE)
            yield fault
    return value if is_whole else ()


#: Faults after which nothing can be said of a message's place among the others.
_UNREADABLE = {"missing_role", "unknown_role"}


def _message(message: dict[str, Any], place: str) -> Faults:
    if "role" not in message:
        meant = next((key for key in message if near(key, ["role"])), None)
        role = _likely_role(message)
        fix = f'Rename "{meant}" to "role"' if meant else f'Add "role": "{role}"'
        yield Fault("missing_role", f"{place} Discriminator 'role' is missing in value", fix)
        return
    role = message["role"]
    if role not in ROLES:
        reason = f"{place} has role {shown(role)}; roles are {', '.join(ROLES)}"
        yield Fault("unknown_role", reason, f'Write "role": "{_meant_role(role)}"')
        return
    yield from extra(message, MESSAGE_KEYS, f"{place} ")
    for key in ASSISTANT_KEYS:
        if role != "assistant" and message.get(key) is not None:
            reason = f'{place} has "{key}", which only an assistant message may have; its role is {role}'
            yield Fault("not_of_this_role", reason, f'Remove "{key}", or make the role "assistant"')
    yield from _weight(message, place)
    yield from _calls(message, place)
    yield from _content(message, place)
    yield from _identity(message, place)


def _likely_role(message: Mapping[str, Any]) -> str:
    if message.get("tool_call_id"):
        return "tool"
    return "assistant" if any(key in message for key in ASSISTANT_KEYS) else "user"


def _meant_role(role: Any) -> str:
    name = str(role).strip().lower() if isinstance(role, str) else ""
    if name in ROLES:
        return name
    found = difflib.get_close_matches(name[:60], ROLES, n=1, cutoff=0.5)
    return ROLE_NAMES.get(name) or (found[0] if found else "user")


def _weight(message: Mapping[str, Any], place: str) -> Faults:
    weight = message.get("weight")
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
        fix = 'Write "weight": 0 to leave the message out of the loss, or remove it'
        yield Fault("bad_weight", f"{place} has weight {shown(weight)}; it must be 0 or 1", fix)


def _calls(message: Mapping[str, Any], place: str) -> Faults:
    """The shape of calls; whether they fit the tools is `tools.check_calls`."""
    calls = message.get("tool_calls")
    yield from unlike(calls, list, f'the "tool_calls" of {place}')
    for call in calls if isinstance(calls, list) else ():
        name = f"a tool call of {place}"
        fix = 'Write {"id": "call_…", "type": "function", "function": {"name": "…", "arguments": "{…}"}}'
        bad = list(wrong(call, dict, name, fix))
        yield from bad
        if not bad:
            yield from _call(call.get("function"), name)
            yield from wrong(call.get("id"), str, f'the "id" of {name}', 'Add "id": "call_1", unlike its neighbours')
            if call.get("type", "function") != "function":
                reason = f'the "type" of {name} is {shown(call["type"])}'
                yield Fault("bad_tool_type", reason, 'Write "type": "function"')
    if message.get("function_call") is not None:
        yield from _call(message["function_call"], f'the "function_call" of {place}')


def _call(call: Any, name: str) -> Faults:
    bad = list(wrong(call, dict, f"the function of {name}", 'Write "function": {"name": "…", "arguments": "{…}"}'))
    yield from bad
    if not bad:
        yield from wrong(call.get("name"), str, f'"name" of {name}', 'Add "name": the function that is called')
        fix = 'Write the arguments as JSON text: "arguments": "{\\"city\\": \\"Paris\\"}" (json.dumps)'
        yield from wrong(call.get("arguments"), str, f'"arguments" of {name}', fix)


def _content(message: Mapping[str, Any], place: str) -> Faults:
    content = message.get("content")
    if content is None:
        if not (message.get("tool_calls") or message.get("function_call")):
            meant = next((key for key in message if key not in MESSAGE_KEYS and near(key, ["content"])), None)
            fix = f'Rename "{meant}" to "content"' if meant else 'Add "content": "…", or remove the message'
            yield Fault("missing_content", f"{place} has no content", fix)
        return
    if isinstance(content, list):
        for part in content:
            yield from _part(part, place)
    else:
        yield from wrong(content, str, f"the content of {place}", 'Write "content": "…"')
    yield from check_text(text_of(content), place, message["role"])


def _part(part: Any, place: str) -> Faults:
    name = f"a content part of {place}"
    bad = list(wrong(part, dict, name, 'Write {"type": "text", "text": "…"}'))
    yield from bad
    if bad:
        return
    if part.get("type") != "text":
        reason = f"{place} has a content part of type {shown(part.get('type'))}; only text is trained"
        yield Fault("not_text", reason, "Remove the part, or leave the line out")
    else:
        yield from wrong(part.get("text"), str, f"the text of {name}", 'Write {"type": "text", "text": "…"}')


def _identity(message: Mapping[str, Any], place: str) -> Faults:
    """Who speaks: an optional name, and for the answer of a tool the call it answers."""
    yield from unlike(message.get("name"), str, f'the "name" of {place}')
    needed = {"tool": "tool_call_id", "function": "name"}.get(message["role"])
    if needed is not None and not (needed == "name" and message.get("name") is not None):
        fix = f'Add "{needed}": that of the call this message answers'
        yield from wrong(message.get(needed), str, f'the "{needed}" of {place}', fix)


# ------------------------------------------------------------------------------------------------ texts

#: Control characters, the mark of bytes that were no text, and UTF-8 that was read as Latin-1 or Windows-1252.
_GARBLED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd]|â€[™œ\x9d\x9c“”¦\u02dc]|Ã[\x80-\xbf©¨¤¶¼ª«±§]|Â[\xa0«»°]")
#: What export scripts leave where there was nothing.
_PLACEHOLDERS = frozenset(
    {"nan", "none", "null", "undefined", "n/a", "na", "todo", "tbd", "...", "…", "[object object]"}
)


def text_of(content: Any) -> str:
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(text for text in parts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def check_text(text: str, place: str, role: str) -> Faults:
    """Warnings of what a message says. Of blanks at its edges for an assistant only: they would be learnt."""
    bare = text.strip()
    if not bare:
        if role != "tool":  # a tool may well have nothing to say
            yield Fault("empty_content", f"{place} ({role}) is empty", "Write its text, or remove the line", True)
        return
    if found := _GARBLED.search(text):
        reason = f"{place} has garbled text ({found[0]!a} at character {found.start() + 1})"
        fix = "Read the source as UTF-8, and remove control characters"
        yield Fault("garbled_text", reason, fix, True)
    if role == "assistant":
        if len(bare) != len(text):
            reason = f"{place} begins or ends with blanks, which would be learnt"
            yield Fault("blank_edges", reason, "Strip the text of the assistant's messages", True)
        if len(bare) < 20 and bare.lower() in _PLACEHOLDERS:
            reason = f"{place} says {shown(bare)}: is an answer missing?"
            yield Fault("placeholder", reason, "Write the answer, or remove the line", True)


# ------------------------------------------------------------------------------------------------ conversations


def check_turns(messages: Messages) -> Faults:
    """Warnings of who speaks when."""
    roles = [message["role"] for message in messages]
    if not SYSTEM_ROLES & set(roles):
        fix = "Add the system message that you will send in use, if any"
        yield Fault("missing_system", "has no system message", fix, True)
    if "user" not in roles:
        fix = 'Add the question the answer is to: {"role": "user", "content": "…"}'
        yield Fault("missing_user", "has no user message", fix, True)
    for index, (before, role) in enumerate(itertools.pairwise(roles), start=2):
        if before == role and role in {"user", "assistant"}:
            reason = f"message {index} has the same role as the one before it ({role})"
            yield Fault("same_role_twice", reason, "Join the two, or add what was said between them", True)
        if role in SYSTEM_ROLES and before not in SYSTEM_ROLES:
            reason = f"message {index} has role {role}, but is not the first"
            yield Fault("system_not_first", reason, "Move it to the front", True)


def check_end(messages: Messages) -> Faults:
    if (role := messages[-1]["role"]) != "assistant":
        reason = f"ends with a message of role {role}, from which nothing is learnt"
        yield Fault("assistant_not_last", reason, "Remove it, or add the assistant's answer", True)


def check_prompt_end(messages: Messages, name: str) -> Faults:
    if (role := messages[-1]["role"]) == "assistant":
        reason = f"{name} ends with a message of role {role}, not with what is to be answered"
        yield Fault("prompt_ends_with_answer", reason, "End it with the user's message", True)


def check_answers(messages: Messages) -> Faults:
    answers = [message for message in messages if message["role"] == "assistant"]
    if not answers:
        reason = "has no assistant message: there is nothing to learn from it"
        yield Fault("no_answer", reason, 'Add {"role": "assistant", "content": "…"}')
    elif all(message.get("weight") == 0 for message in answers):
        reason = "has weight 0 on every assistant message: there is nothing to learn from it"
        yield Fault("nothing_weighted", reason, 'Remove "weight": 0 from the answers to learn')
