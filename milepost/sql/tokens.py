"""The front of a statement, read token by token: our own words, and the parts that no dialect of sqlglot knows.

`'{{ name }}'` in a string is filled on the tree or the token, so a value stays a value whatever it contains; one that
has no value is refused before anything is sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import sqlglot
from sqlglot import exp
from sqlglot.errors import TokenError
from sqlglot.tokenizer_core import Token, TokenType

from milepost.errors import Invalid
from milepost.sql import dialect
from milepost.sql.dialect import Dialect
from milepost.sql.tree import every

PLACEHOLDER = re.compile(r"\{\{\s*(.*?)\s*\}\}")
OPENING = frozenset({TokenType.L_PAREN, TokenType.L_BRACE, TokenType.L_BRACKET})
CLOSING = frozenset({TokenType.R_PAREN, TokenType.R_BRACE, TokenType.R_BRACKET})


class Filler:
    """Values by name; remembers which were used, so that a misspelt one is not dropped in silence."""

    def __init__(self, params: Mapping[str, str], dialect_name: Dialect = "duckdb") -> None:
        self._params = params
        self._dialect = dialect_name
        self._unused = set(params)

    def text(self, text: str) -> str:
        """The text with its placeholders filled; those of graders, such as {{item.answer}}, are the API's own."""
        return PLACEHOLDER.sub(lambda found: found[0] if self._is_the_apis(found[1]) else self.value(found[1]), text)

    def _is_the_apis(self, name: str) -> bool:
        return name.startswith(("item.", "sample.")) and name not in self._params

    def value(self, name: str) -> str:
        if name not in self._params:
            raise Invalid(f"The placeholder `{name}` has no value.\nhint: --param {name}=VALUE", param=name)
        self._unused.discard(name)
        return self._params[name]

    def parse(self, text: str) -> exp.Expr:
        """The tree of a text in the statement's dialect, with its placeholders filled."""
        tree = dialect.parse(text, self._dialect)
        for node in every(tree, exp.Literal, exp.Placeholder):
            if isinstance(node, exp.Placeholder):
                if not node.this:
                    raise Invalid("A `?` has no name; write $name and give its value by that name")
                node.replace(exp.Literal.string(self.value(node.name)))
            elif node.is_string and PLACEHOLDER.search(node.this):
                node.replace(exp.Literal.string(self.text(node.this)))
        return tree

    def finish(self) -> None:
        if self._unused:
            name = min(self._unused)
            raise Invalid(
                f"The statement has no placeholder `{name}`; write '{{{{ {name} }}}}' for its value", param=name
            )


class Reader:
    """The tokens of one statement, one after another, and the text between any two."""

    def __init__(self, text: str, fill: Filler) -> None:
        self.text = text
        self._fill = fill
        self._at = 0
        try:
            self._tokens: list[Token] = sqlglot.tokenize(text, dialect="duckdb")
        except TokenError as error:
            raise Invalid(f"Cannot read the statement: {error}") from None
        while self._tokens and self._tokens[-1].token_type is TokenType.SEMICOLON:
            self._tokens.pop()

    def peek(self, ahead: int = 0) -> str:
        at = self._at + ahead
        return self._tokens[at].text if at < len(self._tokens) else ""

    def take(self, *words: str) -> bool:
        """Whether the next tokens are these words; if so they are taken."""
        if [self.peek(n).upper() for n in range(len(words))] != list(words):
            return False
        self._at += len(words)
        return True

    def expect(self, word: str, usage: str) -> None:
        if not self.take(word):
            raise Invalid(f"Expected {word} before `{self.peek() or 'the end'}`.\nhint: {usage}")

    def name(self, usage: str) -> str:
        text = self.peek()
        token = self._tokens[self._at] if text else None
        is_name = token and (token.token_type is TokenType.IDENTIFIER or re.fullmatch(r"[^\W\d]\w*", text))
        if not is_name or (token and token.token_type is TokenType.STRING):
            raise Invalid(f"Expected a name before `{text or 'the end'}`.\nhint: {usage}")
        self._at += 1
        return text

    def names(self, usage: str) -> tuple[str, ...]:
        names = [self.name(usage).lower()]
        while self.take("."):
            names.append(self.name(usage).lower())
        return tuple(names)

    def string(self, usage: str) -> str:
        token = self._tokens[self._at] if self.peek() else None
        if not token or token.token_type is not TokenType.STRING:
            raise Invalid(f"Expected a text in quotes before `{self.peek() or 'the end'}`.\nhint: {usage}")
        self._at += 1
        return self._fill.text(token.text)

    def until(self, *words: str) -> str:
        """The text up to one of the words outside brackets, or to the end."""
        depth, start = 0, self._at
        while self._at < len(self._tokens):
            kind, word = self._tokens[self._at].token_type, self.peek().upper()
            if depth == 0 and word in words and kind is not TokenType.STRING:
                break
            depth += (kind in OPENING) - (kind in CLOSING)
            self._at += 1
        taken = self._tokens[start : self._at]
        return self.text[taken[0].start : taken[-1].end + 1] if taken else ""

    def rest(self) -> str:
        return self.until()

    def end(self, usage: str) -> None:
        if self.peek():
            raise Invalid(f"`{self.peek()}` was not expected there.\nhint: {usage}")

    def cut(self, *words: str) -> bool:
        """Whether the statement ends with these words; if so they are taken off."""
        tail = self._tokens[-len(words) :]
        if [token.text.upper() for token in tail] != list(words) or any(t.token_type is TokenType.STRING for t in tail):
            return False
        self.text = self.text[: tail[0].start]
        del self._tokens[-len(words) :]
        return True
