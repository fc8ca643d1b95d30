"""The faults of tools: how they are declared, and whether the calls in a conversation fit them.

A declaration that OpenAI's chat API refuses is an error, and so is an answer to a call that nobody made. A call that
does not fit its declaration is a warning: it can be learnt, though hardly anyone means it to be.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator, Mapping
from typing import Any

from milepost.resources.faults import Fault, Faults, Messages, names, near, shown, unlike, wrong

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")

#: The tools of a line: name → its parameters' JSON schema, and `None` where the line declares none at all.
Declared = Mapping[str, Mapping[str, Any]] | None

_TOOL_FIX = 'Write {"type": "function", "function": {"name": "…", "parameters": {"type": "object", "properties": {…}}}}'


def check_tools(line: Mapping[str, Any]) -> Generator[Fault, None, Declared]:
    """The faults of what a line declares; returns the tools that could be understood."""
    declared: dict[str, Mapping[str, Any]] = {}
    for key in ("tools", "functions"):
        value = line.get(key)
        yield from unlike(value, list, f'the "{key}"')
        for index, tool in enumerate(value if isinstance(value, list) else (), start=1):
            place = f"tool {index}" if key == "tools" else f"function {index}"
            function = tool if key == "functions" else (yield from _tool(tool, place))
            if function is not None:
                yield from _function(function, place, declared)
    yield from unlike(line.get("parallel_tool_calls"), bool, 'the "parallel_tool_calls"')
    return declared if declared or line.get("tools") or line.get("functions") else None


def check_calls(messages: Messages, declared: Declared) -> Faults:
    """The faults of calls among their messages: each answer has a call, each call a tool and an answer."""
    made: set[str] = set()
    waiting: dict[str, int] = {}
    for index, message in enumerate(messages, start=1):
        if message["role"] == "tool":
            call_id = message.get("tool_call_id")
            if isinstance(call_id, str) and call_id not in made:
                yield _answers_nothing(call_id, index, made)
            waiting.pop(str(call_id), None)
            continue
        for call_id, asked in waiting.items():
            reason = f"message {asked} calls a tool ({shown(call_id)}) whose answer does not follow"
            fix = f'Add {{"role": "tool", "tool_call_id": {shown(call_id)}, "content": "…"}} after it'
            yield Fault("unanswered_call", reason, fix, True)
        waiting = {}
        for call_id, function in _calls_of(message):
            yield from _check_call(function, f"message {index}", declared)
            if call_id is not None:
                made.add(call_id)
                waiting[call_id] = index


def _tool(tool: Any, place: str) -> Generator[Fault, None, Any]:
    """The function of a tool, if it can be understood."""
    bad = list(wrong(tool, dict, place, _TOOL_FIX))
    yield from bad
    if bad:
        return None
    if tool.get("type") != "function":
        is_there = tool.get("type") is not None
        reason = f'the "type" of {place} is {shown(tool["type"]) if is_there else "missing"}'
        yield Fault("bad_tool_type", reason, 'Write "type": "function"')
    fix = _TOOL_FIX if "name" not in tool else 'Put "name" and "parameters" into "function": {…}'
    bad = list(wrong(tool.get("function"), dict, f'the "function" of {place}', fix))
    yield from bad
    return None if bad else tool["function"]


def _function(function: Any, place: str, declared: dict[str, Mapping[str, Any]]) -> Faults:
    bad = list(wrong(function, dict, place, 'Write {"name": "…", "parameters": {…}}'))
    yield from bad
    if bad:
        return
    yield from unlike(function.get("description"), str, f'the "description" of {place}')
    name, parameters = function.get("name"), function.get("parameters")
    yield from wrong(name, str, f'the "name" of {place}', "Add its name")
    yield from unlike(parameters, dict, f'the "parameters" of {place}')
    if isinstance(parameters, dict):
        yield from _parameters(parameters, place)
    if not isinstance(name, str):
        return
    if not NAME.fullmatch(name):
        reason = f"{place} has the name {shown(name)}; names are 1 to 64 of a-z, A-Z, 0-9, _ and -"
        better = re.sub(r"[^a-zA-Z0-9_-]+", "_", name)[:64].strip("_") or "look_up"
        yield Fault("bad_tool_name", reason, f'Rename it, "{better}" for one, here and in its calls')
    if name in declared:
        reason = f"{place} has the name {shown(name)}, as one before it has"
        yield Fault("tool_twice", reason, "Remove one of the two", True)
    declared[name] = parameters if isinstance(parameters, dict) else {}


def _parameters(schema: Mapping[str, Any], place: str) -> Faults:
    """A JSON schema of an object: what a call's arguments are held against."""
    if not schema:
        return
    if schema.get("type") != "object":
        kind = f"type {shown(schema['type'])}" if "type" in schema else "no type"
        reason = f'the "parameters" of {place} have {kind}; they must be a JSON schema of type "object"'
        fix = 'Write {"type": "object", "properties": {…}}'
        yield Fault("bad_parameters", reason, fix, is_warning="type" not in schema)
    yield from unlike(schema.get("properties"), dict, f'the "properties" of {place}')
    required, properties = schema.get("required"), schema.get("properties")
    yield from unlike(required, list, f'the "required" of {place}')
    if isinstance(required, list) and isinstance(properties, dict):
        known = [name for name in required if isinstance(name, str) and name not in properties]
        if known:
            reason = f"{place} requires {names(known)}, which its properties do not have"
            yield Fault("bad_required", reason, "Add it to the properties, or remove it from the required", True)


def _calls_of(message: Mapping[str, Any]) -> Iterator[tuple[str | None, Mapping[str, Any]]]:
    """(id, function) of the calls of a message that are whole; those of the older `function_call` have no id."""
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict) and isinstance(call.get("function"), dict):
            call_id = call.get("id")
            yield (call_id if isinstance(call_id, str) else None), call["function"]
    if isinstance(older := message.get("function_call"), dict):
        yield None, older


def _check_call(function: Mapping[str, Any], place: str, declared: Declared) -> Faults:
    name, text = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not isinstance(text, str):
        return  # told already
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = f'the "arguments" of the call of {shown(name)} in {place} are not JSON ({shown(text)}: {error})'
        yield Fault("arguments_not_json", reason, "Write them with json.dumps(arguments)")
        return
    if not isinstance(arguments, dict):
        reason = f'the "arguments" of the call of {shown(name)} in {place} are no JSON object ({shown(text)})'
        yield Fault("arguments_no_object", reason, 'Write them as "{\\"name\\": value}"', True)
    if declared is None:
        reason = f"{place} calls {shown(name)}, but the line declares no tools"
        yield Fault("no_tools", reason, 'Add "tools": [{"type": "function", "function": {…}}] to the line', True)
    elif name not in declared:
        meant = near(name, list(declared))
        reason = f"{place} calls {shown(name)}, which is none of the line's tools: {names(declared)}"
        fix = f'Write "{meant}"' if meant else 'Declare it in "tools"'
        yield Fault("undeclared_tool", reason, fix, True)
    elif isinstance(arguments, dict):
        yield from _fits(arguments, declared[name], f"the call of {shown(name)} in {place}")


def _fits(arguments: Mapping[str, Any], schema: Mapping[str, Any], place: str) -> Faults:
    """Whether the names of arguments are those the schema requires and has. Values are not looked at."""
    required, properties = schema.get("required"), schema.get("properties")
    needed = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
    if missing := [name for name in needed if name not in arguments]:
        reason = f"{place} lacks the required {names(missing)}"
        yield Fault("missing_argument", reason, f"Add {names(missing)} to its arguments", True)
    if isinstance(properties, dict) and properties and not schema.get("additionalProperties"):
        for name in arguments:
            if name not in properties:
                meant = near(name, list(properties))
                reason = f"{place} has an argument {shown(name)} that the tool does not have"
                fix = f'Rename it to "{meant}"' if meant else f"Remove it, or add it to the tool: {names(properties)}"
                yield Fault("unknown_argument", reason, fix, True)


def _answers_nothing(call_id: str, index: int, made: set[str]) -> Fault:
    reason = f'message {index} answers the call {shown(call_id)} ("tool_call_id"), which no message before it made'
    meant = min(made) if len(made) == 1 else near(call_id, sorted(made))
    fix = f'Write "tool_call_id": "{meant[:60]}"' if meant else "Add the assistant's message with the call before it"
    return Fault("answers_no_call", reason, fix)
