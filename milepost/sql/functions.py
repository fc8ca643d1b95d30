"""Functions in SQL that ask a model: `chat(model, prompt [, options])`, `text_similarity`, `grade`; and `string_check`.

DuckDB calls them for some thousand rows at once, in a thread of its own: the calls of those rows are sent together,
each different one once in a statement. Nothing is sent that would go beyond the statement's budget. `string_check` is
an expression and asks nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

import orjson
from sqlglot import exp

from milepost.errors import Error, Exhausted, Invalid, Remote
from milepost.sql.calls import Call, Calls
from milepost.sql.catalog import Method, shipped
from milepost.sql.tree import every

if TYPE_CHECKING:
    import duckdb

    from milepost.sql.fetch import Fetcher

#: Our functions → DuckDB's names for what carries them out, and how many arguments they take.
CHAT, GRADE = "milepost_chat", "milepost_grade"
TAKES = {"chat": (2, 3), "grade": (2, 3), "text_similarity": (2, 3), "string_check": (2, 3)}
#: The POSTs that a SELECT may make through a function: they change nothing.
READS_BY_FUNCTION = frozenset({"chat.completions.create", "fine_tuning.alpha.graders.run"})
#: Options of chat() that are not for the API.
PROVIDER = "provider"

_tokens = count(1)


def rewrite(tree: exp.Query, providers: Sequence[str]) -> Calls | None:
    """Put what DuckDB calls for our functions, in place; whose API they call, None if there are none that do."""
    found = [call for call in every(tree, exp.Anonymous) if call.name.lower() in TAKES]
    asking, token = [], str(next(_tokens))
    for call in reversed(found):
        name, arguments = call.name.lower(), call.expressions
        least, most = TAKES[name]
        if not least <= len(arguments) <= most:
            raise Invalid(f"{name} takes {least} or {most} arguments, got {len(arguments)}")
        if name == "string_check":
            call.replace(_string_check(arguments))
        else:
            asking.append(call)
            call.replace(REWRITES[name](token, arguments))
    if not asking:
        return None
    named = {
        key.expression.name for key in every(tree, exp.PropertyEQ) if key.name == PROVIDER and key.expression.is_string
    }
    asked = sorted(named) or providers
    if len(asked) > 1:
        raise Invalid(
            f"Whose model is asked, {' or '.join(f'`{name}`' for name in asked)}, cannot be told.\n"
            "hint: chat(model, prompt, {'provider': '…'})"
        )
    return Calls(asked[0] if asked else "", token)


def _text(value: exp.Expr) -> exp.Expr:
    return exp.cast(value, "VARCHAR")


def _json(value: exp.Expr) -> exp.Expr:
    """A struct as JSON text; a text is JSON already."""
    if value.is_string:
        return value
    return _text(exp.Anonymous(this="to_json", expressions=[value]))


def _chat(token: str, arguments: list[exp.Expr]) -> exp.Expr:
    model, prompt, *options = arguments
    more = _json(options[0]) if options else exp.Literal.string("{}")
    return exp.Anonymous(this=CHAT, expressions=[exp.Literal.string(token), _text(model), _text(prompt), more])


def _grade(token: str, arguments: list[exp.Expr]) -> exp.Expr:
    grader, sample, *item = arguments
    more = _json(item[0]) if item else exp.Literal.string("{}")
    return exp.Anonymous(this=GRADE, expressions=[exp.Literal.string(token), _json(grader), _text(sample), more])


def _text_similarity(token: str, arguments: list[exp.Expr]) -> exp.Expr:
    sample, reference, *metric = arguments
    if metric and not metric[0].is_string:
        raise Invalid("The metric of text_similarity is a text, such as 'fuzzy_match' or 'rouge_l'")
    grader = {
        "type": "text_similarity",
        "name": "sql",
        "input": "{{sample.output_text}}",
        "reference": "{{item.reference}}",
        "evaluation_metric": metric[0].name if metric else "fuzzy_match",
    }
    item = exp.Struct(expressions=[exp.PropertyEQ(this=exp.to_identifier("reference"), expression=_text(reference))])
    return _grade(token, [exp.Literal.string(orjson.dumps(grader).decode()), sample, item])


def _string_check(arguments: list[exp.Expr]) -> exp.Expr:
    """1.0 or 0.0, as OpenAI's grader has it; NULL of NULL."""
    sample, reference, *operation = (*arguments[:2], *arguments[2:])
    word = operation[0].name.lower() if operation and operation[0].is_string else "eq" if not operation else ""
    if word not in CHECKS:
        raise Invalid(f"The operation of string_check is one of {', '.join(map(repr, CHECKS))}")
    return exp.cast(CHECKS[word](_text(sample), _text(reference)), "DOUBLE")


def _contains(sample: exp.Expr, reference: exp.Expr) -> exp.Expr:
    return exp.Anonymous(this="contains", expressions=[sample, reference])


CHECKS: dict[str, Callable[[exp.Expr, exp.Expr], exp.Expr]] = {
    "eq": lambda sample, reference: exp.EQ(this=sample, expression=reference),
    "ne": lambda sample, reference: exp.NEQ(this=sample, expression=reference),
    "like": _contains,
    "ilike": lambda sample, reference: _contains(exp.Lower(this=sample), exp.Lower(this=reference)),
}
REWRITES: dict[str, Callable[[str, list[exp.Expr]], exp.Expr]] = {
    "chat": _chat,
    "grade": _grade,
    "text_similarity": _text_similarity,
}


# --- while a statement runs -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Asking:
    """What one statement has asked so far; DuckDB's threads come in by `ask`."""

    provider: str
    fetcher: Fetcher
    budget: int
    loop: asyncio.AbstractEventLoop
    on_end: Callable[[], object]
    error: Error | None = None
    _answers: dict[tuple[str, ...], asyncio.Task[Any]] = field(default_factory=dict)
    _waiting: set[Future[Any]] = field(default_factory=set)

    def ask(self, name: str, rows: Sequence[tuple[str | None, ...]]) -> list[Any]:
        """The answer to each row; NULL where an argument is NULL."""
        waiting: Future[None] = asyncio.run_coroutine_threadsafe(self._ask(name, rows), self.loop)
        self._waiting.add(waiting)
        try:
            waiting.result()
        except CancelledError:
            raise InterruptedError from None
        except Error as error:
            self.error = self.error or error
            raise
        finally:
            self._waiting.discard(waiting)
        keys = [None if None in row else (name, *(part or "" for part in row)) for row in rows]
        return [self._answers[key].result() if key else None for key in keys]

    def cancel(self) -> None:
        """End what is in flight, and with it the threads that wait for it."""
        self.on_end()
        for task in self._answers.values():
            task.cancel()
        for waiting in list(self._waiting):
            waiting.cancel()

    async def _ask(self, name: str, rows: Sequence[tuple[str | None, ...]]) -> None:
        wanted = dict.fromkeys((name, *(part or "" for part in row)) for row in rows if None not in row)
        new = [key for key in wanted if key not in self._answers]
        if len(self._answers) + len(new) > self.budget:
            raise Exhausted(
                f"The statement would ask a model {len(self._answers) + len(new)} times; its budget is {self.budget}."
                "\nhint: --budget N, or MILEPOST_SQL_BUDGET"
            )
        self._answers |= {key: asyncio.create_task(self._answer(key)) for key in new}
        await asyncio.gather(*(self._answers[key] for key in wanted))

    async def _answer(self, key: tuple[str, ...]) -> Any:
        name, *arguments = key
        call, read = CALLS[name](self.provider, arguments)
        try:
            return read(await self.fetcher.send(call))
        except Remote as error:
            if not self.fetcher.go_on:
                raise
            self.fetcher.errors.append(error)
            return None
        except (KeyError, IndexError, TypeError):
            raise Remote(f"{call.method.http} {call.method.url} answered without what was asked for") from None


def _chat_call(provider: str, arguments: Sequence[str]) -> tuple[Call, Callable[[Any], Any]]:
    model, prompt, options = arguments
    given = {"temperature": 0, **_options("chat", options)}
    given.pop(PROVIDER, None)
    messages = [{"role": "user", "content": prompt}]
    if system := given.pop("system", None):
        messages.insert(0, {"role": "system", "content": system})
    given |= {"model": model, "messages": given.get("messages", messages)}
    call = _call(provider, _method("chat", "completions", "create"), given)
    return call, lambda answer: answer["choices"][0]["message"]["content"]


def _grade_call(provider: str, arguments: Sequence[str]) -> tuple[Call, Callable[[Any], Any]]:
    grader, sample, item = arguments
    given: dict[str, Any] = {"grader": _options("grade", grader), "model_sample": sample}
    if values := _options("grade", item):
        given["item"] = values
    return _call(provider, _method("fine_tuning", "alpha_graders", "run"), given), lambda answer: answer["reward"]


def _call(provider: str, method: Method, given: Mapping[str, Any]) -> Call:
    known = {name: value for name, value in given.items() if method.parameter(name)}
    more = {name: value for name, value in given.items() if name not in known}
    return Call(provider, method, tuple((known | ({"extra_body": more} if more else {})).items()), is_repeatable=True)


def _method(service: str, resource: str, name: str) -> Method:
    return shipped().method(shipped().table("openai", service, resource), name)


def _options(function: str, text: str) -> dict[str, Any]:
    try:
        options = orjson.loads(text)
    except orjson.JSONDecodeError:
        options = None
    if not isinstance(options, dict):
        raise Invalid(f"{function} wants a struct or a JSON object, got {text[:60]!r}")
    return {name: value for name, value in options.items() if value is not None}


CALLS: dict[str, Callable[[str, Sequence[str]], tuple[Call, Callable[[Any], Any]]]] = {
    CHAT: _chat_call,
    GRADE: _grade_call,
}


def install(database: duckdb.DuckDBPyConnection, running: Mapping[str, Asking]) -> list[Callable[..., Any]]:
    """Make the functions known to DuckDB; each call finds its statement in `running` by the token.

    They live as long as the connection they were made with: it must be the session's own, and what is returned kept.
    """
    import pyarrow as pa
    from duckdb.func import FunctionNullHandling, PythonUDFType

    def runs(name: str, kind: Any) -> Callable[..., Any]:
        def function(token: Any, one: Any, two: Any, three: Any) -> Any:
            rows = zip(*(argument.to_pylist() for argument in (one, two, three)), strict=True)
            return pa.array(running[token[0].as_py()].ask(name, list(rows)), kind)

        return function

    made = []
    for name, result, kind in ((CHAT, "VARCHAR", pa.string()), (GRADE, "DOUBLE", pa.float64())):
        made.append(runs(name, kind))
        database.create_function(
            name,
            made[-1],
            ["VARCHAR"] * 4,
            result,
            type=PythonUDFType.ARROW,
            null_handling=FunctionNullHandling.SPECIAL,
            side_effects=True,  # else DuckDB would call it while it plans
        )
    return made
