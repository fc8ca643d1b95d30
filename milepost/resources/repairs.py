"""What a line that is not JSON, or a file that is not JSONL, most likely is, and what would mend it.

Lines are not guessed at: each repair is tried, and the one that makes the line JSON is the one that is told.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Callable, Iterator

import orjson

from milepost.resources.faults import Fault

#: Longer lines, and deeper ones, are not tried: trying takes time, and Python's own parser is no match for depth.
MAX_TRIED_BYTES, MAX_TRIED_DEPTH = 64 * 1024, 100

Repair = Callable[[str], str | None]


def diagnose(text: bytes, reason: str) -> Fault:
    """The fault of a line that is not JSON; `reason` is what its parser said of it."""
    if text.startswith(b"\xef\xbb\xbf"):
        return Fault("byte_order_mark", reason, "Remove the byte order mark (EF BB BF) before the line")
    try:
        words = text.decode()
    except UnicodeDecodeError:
        fix = "Save the file as UTF-8; if it is Windows-1252: iconv -f CP1252 -t UTF-8 FILE > NEW.jsonl"
        return Fault("not_utf8", reason, fix)
    if len(text) > MAX_TRIED_BYTES:
        return Fault("not_json", reason, "Write one JSON object a line (json.dumps)")
    if max(text.count(b"["), text.count(b"{")) > MAX_TRIED_DEPTH and _depth(words) > MAX_TRIED_DEPTH:
        return Fault("too_deep", reason, f"Nest less than {MAX_TRIED_DEPTH} levels deep")
    for kind, repair, fix in REPAIRS:
        mended = repair(words)
        if mended is not None and mended != words and _is_json(mended):
            return Fault(kind, reason, fix)
    return Fault("not_json", reason, _other(words))


def of_file(head: bytes) -> Fault | None:
    """What a file is, if its first bytes show that it is something else than JSONL."""
    for kind, is_it, reason, fix in FILES:
        if is_it(head):
            return Fault(kind, f"the file is {reason}", fix)
    return None


# ------------------------------------------------------------------------------------------------ lines


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        return False
    return True


def _depth(text: str) -> int:
    """How deep brackets nest, those in strings counted too: an upper bound that costs little."""
    depth = deepest = 0
    for letter in re.findall(r"[\[\]{}]", text):
        depth += 1 if letter in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


#: A JSON string. One that is open at the end matches too: else each of its quotes would be looked at to the end.
_STRING = r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)'


def _outside(pattern: str, new: str) -> Repair:
    """Replaces a pattern where it does not stand in a string."""
    either = re.compile(f"({_STRING})|{pattern}", re.DOTALL)

    def repair(text: str) -> str:
        return either.sub(lambda found: found[1] if found[1] is not None else new, text)

    return repair


def _first_of_many(text: str) -> str | None:
    """The first of several objects in one line, if what stands behind it begins like another."""
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return text[:end] if text[end:].lstrip(", \t").startswith("{") else None


def _python(text: str) -> str | None:
    """A dictionary as Python's print writes it."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd escapes in the text
            return json.dumps(ast.literal_eval(text))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


def _json_words(text: str) -> str:
    either = re.compile(rf"({_STRING})|\b(True|False|None|undefined)\b", re.DOTALL)
    words = {"True": "true", "False": "false"}
    return either.sub(lambda found: found[1] if found[1] is not None else words.get(found[2], "null"), text)


def _not_finite(text: str) -> str | None:
    found: list[str] = []
    try:
        value = json.loads(text, parse_constant=found.append)
    except (ValueError, RecursionError):
        return None
    return json.dumps(value) if found else None


def _surrogate(text: str) -> str | None:
    if not re.search(r"\\u[dD][89a-fA-F]", text):
        return None
    try:
        return json.dumps(json.loads(text)).replace("\\ud", "\\u0")
    except (ValueError, RecursionError):
        return None


def _raw_control(text: str) -> str | None:
    try:
        return json.dumps(json.loads(text, strict=False))
    except (ValueError, RecursionError):
        return None


def _closed(text: str) -> str | None:
    """With the string and the brackets closed that are open at its end."""
    closing: list[str] = []
    is_open = False
    for found in re.finditer(r'"(?:[^"\\]|\\.)*+(?:(?P<end>")|\\?\Z)|[\[\]{}]', text, re.DOTALL):
        if found[0] in _PAIRS:
            closing.append(_PAIRS[found[0]])
        elif found[0] in {"]", "}"}:
            if not closing or closing.pop() != found[0]:
                return None
        else:
            is_open = found["end"] is None
    if not closing:
        return None
    stem = text.removesuffix("\\") + ('"' if is_open else "")
    tries = (stem + middle + "".join(reversed(closing)) for middle in ("", "null", ":null"))
    return next(filter(_is_json, tries), None)


_PAIRS = {"[": "]", "{": "}"}


def _quoted_keys(text: str) -> str:
    either = re.compile(rf"({_STRING})|(?<=[{{,])(\s*)([A-Za-z_]\w*)(\s*:)", re.DOTALL)
    return either.sub(lambda found: found[0] if found[1] is not None else f'{found[2]}"{found[3]}"{found[4]}', text)


def _less_one_bracket(text: str) -> str | None:
    return text[:-1] if text.endswith(("}", "]")) else None


def _from_brace(text: str) -> str | None:
    start = text.find("{")
    return text[start:] if 0 < start <= 40 else None


def _escaped_badly(text: str) -> str:
    return re.sub(r'\\(?![\\"/bfnrtu])|\\u(?![0-9a-fA-F]{4})', r"\\\\", text)


#: Tried in this order: a fault's word, what would mend it, and how that is said.
REPAIRS: tuple[tuple[str, Repair, str], ...] = (
    ("comma_after_line", lambda text: text.rstrip(", \t") if text.endswith(",") else None, "Remove the comma after it"),
    (
        "several_objects",
        _first_of_many,
        "Put each object on a line of its own: jq -c . FILE > NEW.jsonl",
    ),
    ("trailing_comma", _outside(r",(?=\s*[\]}])", ""), "Remove the comma before the closing bracket"),
    (
        "not_finite",
        _not_finite,
        "JSON has no NaN and no Infinity: write null, or leave the key out (json.dumps(…, allow_nan=False) finds them)",
    ),
    (
        "lone_surrogate",
        _surrogate,
        "An escape such as \\ud83d is half a character: write both, or the character itself (ensure_ascii=False)",
    ),
    (
        "raw_control_character",
        _raw_control,
        "Escape control characters in strings: a tab is \\t, a line break \\n (json.dumps does)",
    ),
    ("bad_escape", _escaped_badly, "A backslash is written \\\\ in JSON (json.dumps does)"),
    (
        "python_repr",
        _python,
        "This is Python, not JSON: write it with json.dumps(line), which gives double quotes, true, false and null",
    ),
    (
        "python_words",
        _json_words,
        "Write true, false and null, as JSON does",
    ),
    (
        "smart_quotes",
        lambda text: re.sub("[\u201c\u201d\u201e\u201f\u00ab\u00bb]", '"', text),
        'Replace typographic quotes with straight ones: "',
    ),
    ("comment", _outside(r"//.*\Z|/\*[^*]*+\*/|#.*\Z", ""), "Remove the comment: JSON has none"),
    ("unquoted_key", _quoted_keys, 'Write keys in double quotes: "messages"'),
    ("text_before", _from_brace, "Remove what stands before the first {"),
    ("one_bracket_too_many", _less_one_bracket, "Remove the last bracket: it closes nothing"),
    (
        "cut_off",
        _closed,
        "The line ends in the middle: was the file cut off, or does a raw line break stand in a string (write \\n)?",
    ),
)


def _other(text: str) -> str:
    if re.match(r"\s*[}\]]", text) or text.endswith(("{", "[", ",")):
        return "Write each object on one line: jq -c . FILE > NEW.jsonl"
    if not text.startswith("{"):
        return 'Write one JSON object a line, such as {"messages": [{"role": "user", "content": "…"}, …]}'
    return 'Write the line with json.dumps(line): a " in a text must be \\"'


# ------------------------------------------------------------------------------------------------ files


def _starts(*marks: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(marks)


def _is_html(head: bytes) -> bool:
    return head.lstrip()[:200].lower().startswith((b"<!doctype html", b"<html", b"<?xml"))


def _lines(head: bytes) -> Iterator[bytes]:
    return (line.strip() for line in head.removeprefix(b"\xef\xbb\xbf").splitlines() if line.strip())


def _is_utf16(head: bytes) -> bool:
    return head.startswith((b"\xff\xfe", b"\xfe\xff")) or (len(head) > 3 and 0 in head[:2] and head[:4].count(0) == 2)


def _is_array(head: bytes) -> bool:
    first = next(_lines(head), b"")
    return first.startswith(b"[") and (first in (b"[", b"[ {") or re.match(rb"\[\s*\{", first) is not None)


def _is_pretty(head: bytes) -> bool:
    first, second = [*_lines(head), b"", b""][:2]
    return first == b"{" and second.startswith((b'"', b"'", b"}"))


def _is_csv(head: bytes) -> bool:
    first = next(_lines(head), b"")
    names = [name.strip(b' "').lower() for name in re.split(rb"[,;\t]", first)]
    known = {b"prompt", b"completion", b"role", b"content", b"messages", b"question", b"answer", b"input", b"output"}
    return len(names) > 1 and not first.startswith((b"{", b"[")) and bool(known & set(names))


_FROM_CSV = (
    "Write one JSON object a line: "
    'python -c "import csv, json, sys; [print(json.dumps(r)) for r in csv.DictReader(sys.stdin)]" < FILE'
)

#: What files are instead: a word, a test on their first bytes, what they are, and how to make JSONL of them.
FILES: tuple[tuple[str, Callable[[bytes], bool], str, str], ...] = (
    ("gzip", _starts(b"\x1f\x8b"), "compressed with gzip", "Unpack it first: gunzip -c FILE > NEW.jsonl"),
    (
        "zip",
        _starts(b"PK\x03\x04"),
        "a ZIP archive (or an Excel or Word file)",
        "Unpack it, or export the sheet, and write one JSON object a line",
    ),
    ("zstd", _starts(b"\x28\xb5\x2f\xfd"), "compressed with zstd", "Unpack it first: zstd -dc FILE > NEW.jsonl"),
    (
        "parquet",
        _starts(b"PAR1"),
        "a Parquet file",
        "duckdb -c \"COPY 'FILE' TO 'NEW.jsonl' (FORMAT json)\"",
    ),
    ("pdf", _starts(b"%PDF"), "a PDF", "Write one JSON object a line"),
    ("utf16", _is_utf16, "UTF-16 text", "Save it as UTF-8: iconv -f UTF-16 -t UTF-8 FILE > NEW.jsonl"),
    ("html", _is_html, "a web page: was an error page downloaded in its place?", "Fetch the file again"),
    ("json_array", _is_array, "one JSON array", "Write one object a line: jq -c '.[]' FILE > NEW.jsonl"),
    (
        "pretty_printed",
        _is_pretty,
        "JSON over several lines",
        "Write each object on one line: jq -c . FILE > NEW.jsonl",
    ),
    (
        "csv",
        _is_csv,
        "a table (CSV)",
        _FROM_CSV,
    ),
)
