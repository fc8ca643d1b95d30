"""How to draw bytes that get past the first check of each reader: almost what it wants, with a twist."""

from __future__ import annotations

import json
import re

from hypothesis import strategies as st

# ------------------------------------------------------------------------------------------------ JSON

#: Texts of scalars: what is JSON, what nearly is, and what parsers disagree about.
SCALARS = st.sampled_from(
    [
        "null", "true", "0", "1", "-0", "-1", "1.5", "1e999", "1e-999", "0.1e1", "9007199254740993", "-9223372036854775809",
        "18446744073709551616", "1" * 400, "NaN", "-Infinity", "undefined", "True", "'a'", "", '""', '"\\u0000"',
        '"\\ud83d"', '"\\ud83d\\ude00"', '"\\udc00\\ud800"', '"\x00"', '"\x7f"', '"\u2028"', '"\ufeff"', '"a\tb"', '"\\x"', '"',
        '"<|im_end|>"', '"<|im_start|>assistant"', '"{{ 7 * 7 }}"', '"{% raise %}"', '"user"', '"assistant"', '"system"', '"tool"',
        '"text"', '"auto"', '"fine-tune"', '"tiny-random-llama"', '"supervised"', '"dpo"', '"reinforcement"', '"string_check"',
        '"python"', '"multi"', '"text_similarity"', '"score_model"', '"function"', '"json_object"', '"json_schema"', '"upload_1"',
    ]
)  # fmt: skip
KEYS = st.sampled_from(
    [
        "messages", "role", "content", "prompt", "completion", "input", "preferred_output", "non_preferred_output", "tools",
        "tool_calls", "tool_call_id", "function", "function_call", "functions", "name", "arguments", "parameters", "properties",
        "required", "type", "text", "weight", "parallel_tool_calls", "id", "answer", "", "a", "\\u0000", "\\ud800", "$", "model",
        "training_file", "method", "supervised", "dpo", "reinforcement", "grader", "graders", "hyperparameters", "n_epochs",
        "metadata", "seed", "n", "stop", "temperature", "top_p", "max_tokens", "logit_bias", "stream", "stream_options", "suffix",
        "response_format", "operation", "reference", "source", "calculate_output", "evaluation_metric", "model_sample", "item",
        "sampling_params", "range", "image_tag", "bytes", "filename", "mime_type", "purpose", "part_ids", "md5", "expires_after",
    ]
)  # fmt: skip


def _array(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(items, max_size=4).map(lambda found: f"[{','.join(found)}]")


def _object(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Keys may stand twice."""
    pairs = st.lists(st.tuples(KEYS, items), max_size=5)
    return pairs.map(lambda found: "{" + ",".join(f'"{key}":{value}' for key, value in found) + "}")


def _deep(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    def nest(value: str, depth: int, *, is_list: bool) -> str:
        opening, closing = ("[", "]") if is_list else ('{"a":', "}")
        return opening * depth + value + closing * depth

    return st.builds(nest, inner, st.sampled_from([2, 101, 260, 1500]), is_list=st.booleans())


VALUES = st.recursive(
    SCALARS | st.text(max_size=8).map(json.dumps),
    lambda inner: _array(inner) | _object(inner) | _deep(inner),
    max_leaves=12,
)


def edited(seeds: list[str], pieces: st.SearchStrategy[str], token: str) -> st.SearchStrategy[str]:
    """A seed with some of its tokens left out, doubled, or put in the place of others."""
    compiled = re.compile(token, re.DOTALL)

    @st.composite
    def draw_one(draw: st.DrawFn) -> str:
        tokens = compiled.findall(draw(st.sampled_from(seeds)))
        for _ in range(draw(st.integers(0, 4))):
            at = draw(st.integers(0, max(len(tokens) - 1, 0)))
            tokens[at : at + draw(st.integers(0, 2))] = draw(st.lists(pieces, max_size=2))
        return "".join(tokens)

    return draw_one()


_JSON_TOKEN = r'"(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s\[\]{},:"]+|\s+'

# ------------------------------------------------------------------------------------------------ training data

LINES = [
    '{"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Who?"},{"role":"assistant","content":"Me.","weight":1}]}',
    '{"messages":[{"role":"user","content":[{"type":"text","text":"a"}]},{"role":"assistant","content":"b"}],"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{"x":{}},"required":["x"]}}}]}',
    '{"messages":[{"role":"user","content":"a"},{"role":"assistant","tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{\\"x\\":1}"}}]},{"role":"tool","tool_call_id":"c","content":"1"},{"role":"assistant","content":"b"}]}',
    '{"prompt":"2+2=","completion":" 4"}',
    '{"input":{"messages":[{"role":"user","content":"a"}],"tools":[]},"preferred_output":[{"role":"assistant","content":"b"}],"non_preferred_output":[{"role":"assistant","content":"c"}]}',
    '{"messages":[{"role":"user","content":"a"}],"answer":"b","choices":[1,2]}',
]
ENDS = st.sampled_from(["\n", "\r\n", "\r", "\n\n", " \t\n", "\x00\n", "\u2028", "\x85\n", "\ufeff\n", ""])
_LINE = st.sampled_from(LINES) | edited(LINES, VALUES, _JSON_TOKEN) | VALUES | st.text(max_size=20)


def _encoded(text: str, how: str) -> bytes:
    return text.encode(how, "surrogatepass")


_FILE = st.lists(st.tuples(_LINE, ENDS), max_size=14).map(lambda found: "".join(line + end for line, end in found))
JSONL = st.builds(
    lambda mark, text, how, tail: mark + _encoded(text, how) + tail,
    st.sampled_from([b"", b"\xef\xbb\xbf", b"\x1f\x8b", b"\x00"]),
    _FILE,
    st.sampled_from(["utf-8"] * 8 + ["utf-16", "utf-8-sig", "utf-32"]),
    st.sampled_from([b"", b"\xff", b"\xed\xa0\x80", b"\x00" * 64, b'{"messages":']),
)

# ------------------------------------------------------------------------------------------------ forms

_NAMES = st.sampled_from(
    ["file", "purpose", "expires_after[anchor]", "expires_after[seconds]", "", 'a"b', "a\x00", "\ud800", "日本"]
)
_HEADERS = st.sampled_from(
    [
        'Content-Disposition: form-data; name="{0}"',
        'Content-Disposition: form-data; name="{0}"; filename="{0}"',
        "content-disposition: form-data; name={0}; filename={0}",
        "Content-Disposition: form-data; filename*=UTF-8''%00%ff{0}; name=\"{0}\"",
        'Content-Disposition: form-data; name*0="fi"; name*1="le"',
        "Content-Disposition: form-data",
        'Content-Disposition: form-data; name="{0}"\r\nContent-Transfer-Encoding: base64',
        'Content-Disposition: form-data; name="{0}"\r\n continued: yes',
        "Content-Disposition:",
        ": {0}",
        "",
    ]
)  # fmt: skip
_CONTENTS = st.sampled_from(
    [b"fine-tune", b"3600", b"created_at", b"--x", b"\r\n--x", b"", b"\x00", b"a" * 2000, b"\xff"]
) | st.binary(max_size=30)
_PARTS = st.tuples(st.sampled_from([b"--x\r\n", b"--x\n", b"--y\r\n", b"--x", b""]), _HEADERS, _NAMES, _CONTENTS)


def _form(pieces: int, kind: bytes, parts: list, end: bytes) -> bytes:
    said = b""
    for opening, header, name, content in parts:
        said += opening + header.format(name).encode("utf-8", "surrogatepass") + b"\r\n\r\n" + content + b"\r\n"
    return bytes([pieces]) + kind + b"\n" + said + end


FORMS = st.builds(
    _form,
    st.integers(0, 255),
    st.sampled_from([b"multipart/form-data; boundary=x"] * 8)
    | st.sampled_from(
        [
            b"multipart/form-data", b"multipart/form-data; boundary=", b'multipart/form-data; boundary="x"', b"", b"\xff", b"text/plain",
            b"multipart/form-data; boundary=" + b"x" * 500, b"multipart/form-data; boundary=\x00", b"multipart/form-data; boundary*=utf-8''%ff",
        ]
    ),
    st.lists(_PARTS, max_size=4) | st.lists(_PARTS, min_size=1, max_size=1).map(lambda found: found * 40),
    st.sampled_from([b"--x--\r\n", b"--x--", b"--x", b"", b"--x--\r\nafter"]),
)  # fmt: skip

# ------------------------------------------------------------------------------------------------ templates

_SOURCES = [
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' }}{% endfor %}",
    "{%- macro show(value) -%}{{ value | tojson }}{%- endmacro -%}{{ show(tools) }}{{ messages[0].content[1:] | upper }}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n // 2 }}{{ raise_exception('no') }}",
    "{{ messages[-1]['tool_calls'][0].function.arguments | length }}{{ bos_token }}{% if add_generation_prompt %}x{% endif %}",
]
_JINJA = st.sampled_from(
    [
        "{{", "}}", "{%", "%}", "{#", "#}", "'", '"', "|", "(", ")", "[", "]", "~", "+", "*", "/", "%", "**", " in ", " is ", " not ",
        "messages", "message", "loop.index", "none", "1", "0", "-1", "99", "1e400", "''", "'%d'", "'%s' % 1", "'{0.__class__}'.format(1)",
        "tojson", "length", "int", "float", "join", "map(attribute='x')", "sort", "groupby('a')", "batch(0)", "indent(-1)", "center(9)",
        "round(400)", "slice(0)", "first", "last", "min", "sum", "random", "xmlattr", "urlize", "wordwrap(0)", "truncate(1)", "dictsort",
        "__class__", "__mro__", "().__class__", "self", "cycler()", "lipsum()", "dict(a=1)", "range(9)", "namespace()", "joiner()",
        "{% break %}", "{% include 'a' %}", "{% import 'a' as b %}", "{% extends 'a' %}", "{% block a %}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% set x = x %}", "{% for a in 1 %}", "{% for a, b in [[1]] %}", "{% endfor %}", "{% if %}", "{% raw %}", "\x00", "\ud800",
    ]
)  # fmt: skip
_WORD = r"\{\{|\}\}|\{%-?|-?%\}|\w+|\s+|."
SOURCES = edited(_SOURCES, _JINJA | st.text(max_size=4), _WORD).map(lambda text: _encoded(text, "utf-8"))

# ------------------------------------------------------------------------------------------------ SQL

STATEMENTS = [
    "SELECT id, created_at, metrics FROM openai.fine_tuning.job_checkpoints WHERE fine_tuning_job_id = 'ftjob-1'",
    "SELECT json_extract(metrics, '$.train_loss') AS loss, date(created_at, 'unixepoch', '+1 month') FROM openai.fine_tuning.job_checkpoints c JOIN openai.fine_tuning.jobs j ON j.id = c.fine_tuning_job_id ORDER BY 1 LIMIT 3",
    "WITH x AS (SELECT id FROM openai.fine_tuning.jobs WHERE status = 'succeeded') SELECT count(*) FROM openai.fine_tuning.job_events WHERE fine_tuning_job_id IN (SELECT id FROM x)",
    "INSERT INTO openai.vector_stores.vector_stores (name, metadata) VALUES ('a', {'k': 'v'}), ('b', NULL) RETURNING id, name",
    "UPDATE openai.vector_stores.vector_stores SET name = name || '!' WHERE id = 'vs_1' RETURNING name",
    "DELETE FROM openai.files.files WHERE purpose = 'batch' LIMIT 1",
    "EXEC openai.fine_tuning.jobs.cancel @fine_tuning_job_id = 'ftjob-1', @x = 1 + 1 RETURNING id",
    "EXPLAIN ANALYZE SELECT strftime('%s', now()) - created_at FROM openai.files.files f WHERE f.bytes > 10",
    "SHOW EXTENDED METHODS IN openai.fine_tuning.jobs LIKE 'c%'",
    "DESCRIBE METHOD openai.fine_tuning.jobs.create",
    "AWAIT TIMEOUT '1 second' EVERY '1 second' SELECT id, status FROM openai.fine_tuning.jobs WHERE id = 'ftjob-1'",
    "CREATE OR REPLACE VIEW v(a) AS SELECT id FROM openai.files.files",
    "CREATE MATERIALIZED VIEW m AS SELECT unnest(range(3)) AS n UNION ALL VALUES (1)",
    "SELECT to_jsonl(SELECT id FROM openai.fine_tuning.jobs), 7 / 2, [1, 2][1], {'a': 1}.a, 'x' LIKE '_'",
    "SELECT chat('gpt-4o-mini', 'Who?'), string_check('a', 'b', 'eq') FROM openai.fine_tuning.jobs LIMIT 1",
    "INSERT /*+ AWAIT TIMEOUT=1s */ INTO openai.files.files (file, purpose) VALUES (file('a.jsonl'), 'fine-tune') ON ERROR CONTINUE",
    "ATTACH 'http://127.0.0.1:1/v1' AS other (KEY 'K')",
    "SELECT * EXCLUDE (id) FROM openai.fine_tuning.jobs j, LATERAL (SELECT j.id AS x) WHERE j.created_at BETWEEN 1 AND 2 GROUP BY ALL HAVING count(*) > 1 QUALIFY row_number() OVER () = 1",
    "PIVOT openai.files.files ON purpose USING count(*)",
    "SELECT 1; SELECT 2",
]  # fmt: skip
_WORDS = st.sampled_from(
    [
        "SELECT", "FROM", "WHERE", "GROUP BY", "HAVING", "ORDER BY", "LIMIT", "OFFSET", "UNION", "EXCEPT", "WITH", "RECURSIVE", "AS", "ON", "USING",
        "JOIN", "LEFT", "NATURAL", "ASOF", "LATERAL", "CROSS", "IN", "EXISTS", "NOT", "NULL", "IS", "BETWEEN", "LIKE", "CASE", "WHEN", "THEN", "END",
        "RETURNING", "VALUES", "INSERT INTO", "UPDATE", "SET", "DELETE", "EXEC", "SHOW", "TABLES", "VIEWS", "DESCRIBE", "EXPLAIN", "ANALYZE", "AWAIT",
        "TIMEOUT", "EVERY", "CREATE", "VIEW", "TABLE", "DROP", "REFRESH", "ATTACH", "DETACH", "ON ERROR CONTINUE", "DISTINCT", "QUALIFY", "WINDOW",
        "openai", "openai.files.files", "openai.fine_tuning.jobs", "openai.fine_tuning.job_events", "openai.fine_tuning", "openai.nothing.here", "a.b.c.d",
        "fine_tuning_job_id", "id", "status", "created_at", "metrics", "hyperparameters", "*", "COLUMNS(*)", "x", '"x"', '""', "[x]", "`x`", "main.x",
        "date(", "datetime(", "json_extract(", "strftime(", "file(", "to_jsonl(", "chat(", "grade(", "count(", "unnest(", "range(", "repeat('x', 3)",
        "'ftjob-1'", "''", "'", '"', "'{{ x }}'", "{{ x }}", "'{{ item.a }}'", "$x", "?", ":x", "@x", "@@json", "$$a$$", "0", "-1", "1e400", "1.", "0x1f",
        "99999999999999999999999999", "DATE '0000-01-01'", "INTERVAL 1 DAY", "TRUE", "[1,2]", "{'a': 1}", "(", ")", "((((((", ",", ";", ";;", ".", "..",
        "=", "<>", "::", "::JSON", "->", "->>", "||", "/", "//", "%", "**", "!", "~", "--", "/*", "*/", "\n", "\t", "\x00", "\ufeff", "\u2028", "\udcff",
    ]
)  # fmt: skip
_SQL_TOKEN = r"'[^']*'|\"[^\"]*\"|\w+|\s+|."
SQL = (
    edited(STATEMENTS, _WORDS | st.text(max_size=3), _SQL_TOKEN)
    | st.lists(_WORDS, max_size=12).map(" ".join)
    | st.text(max_size=40)
).map(lambda text: text.encode("utf-8", "surrogateescape" if _is_escaped(text) else "surrogatepass"))


def _is_escaped(text: str) -> bool:
    return not any(
        "\ud800" <= letter <= "\udbff" or "\udc00" <= letter < "\udc80" or "\udcff" < letter <= "\udfff"
        for letter in text
    )


# ------------------------------------------------------------------------------------------------ bodies, directories

BODIES = [
    '{"model":"tiny-random-llama","training_file":"file-1","method":{"type":"supervised","supervised":{"hyperparameters":{"n_epochs":1}}},"metadata":{"a":"b"}}',
    '{"model":"tiny-random-llama","messages":[{"role":"user","content":"Hi"}],"n":2,"stop":["a"],"logit_bias":{"5":1},"stream":true}',
    '{"model":"tiny-random-llama","prompt":["a",[1,2]],"max_tokens":3,"best_of":2}',
    '{"filename":"a.jsonl","bytes":10,"mime_type":"text/jsonl","purpose":"fine-tune","expires_after":{"anchor":"created_at","seconds":3600}}',
    '{"grader":{"type":"string_check","name":"a","operation":"eq","input":"{{sample.output_text}}","reference":"{{item.answer}}"},"model_sample":"a","item":{"answer":"a"}}',
    '{"grader":{"type":"multi","name":"m","calculate_output":"a + 1","graders":{"a":{"type":"text_similarity","name":"a","evaluation_metric":"bleu","input":"a","reference":"b"}}},"model_sample":"a"}',
    '{"part_ids":["part_1"],"md5":"0"}',
]  # fmt: skip
JSON_BODIES = st.builds(
    lambda route, text: bytes([route]) + _encoded(text, "utf-8"),
    st.integers(0, 13),
    edited(BODIES, VALUES, _JSON_TOKEN) | VALUES,
)

_WRITTEN = [
    '{"child_seq":1001,"at":1,"level":"info","type":"message","message":"a","data":{}}\n{"child_seq":1002,"at":1,"message":"b"}\n',
    '{"heartbeat":1.5,"pid":3,"phase":"training","step":2,"eta_s":1.0}',
    '{"outcome":"succeeded","step":2}',
    '{"wanted":"pause","lease_until":null}',
]
WRITTEN = st.builds(
    lambda text, cut, tail: _encoded(text, "utf-8")[: cut or None] + tail,
    edited(_WRITTEN, VALUES | st.sampled_from(["\n", "\x00", "\r", "\x1c", "\x85", "\u2028"]), _JSON_TOKEN) | VALUES,
    st.just(0) | st.integers(0, 200),
    st.sampled_from([b"", b"\n", b"\x00" * 40, b"\x00\n", b"\xff\n"]),
)

SHAPES: dict[str, st.SearchStrategy[bytes]] = {
    "lines": JSONL,
    "forms": FORMS,
    "template": _LINE.map(lambda text: _encoded(text, "utf-8"))
    | edited(BODIES[1:2], VALUES, _JSON_TOKEN).map(lambda text: _encoded(text, "utf-8")),
    "template_source": SOURCES,
    "sql": SQL,
    "bodies": JSON_BODIES,
    "directory": WRITTEN,
}

_TEMPLATE_SEEDS = [*LINES, BODIES[1]]
_FORM = (
    b'\xffmultipart/form-data; boundary=x\n--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc\r\n--x--\r\n'
)
#: Where the search begins.
SEEDS: dict[str, list[bytes]] = {
    "lines": [*(line.encode() for line in LINES), "\n".join(LINES[:1] * 12).encode()],
    "forms": [_FORM],
    "template": [line.encode() for line in _TEMPLATE_SEEDS],
    "template_source": [source.encode() for source in _SOURCES],
    "sql": [statement.encode() for statement in STATEMENTS],
    "bodies": [bytes([route]) + body.encode() for route, body in zip((0, 1, 2, 3, 5, 5, 6), BODIES, strict=True)],
    "directory": [text.encode() for text in _WRITTEN],
}
