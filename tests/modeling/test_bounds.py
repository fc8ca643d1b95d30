"""Chat templates that are up to no good: each is refused, and soon, whatever it would read or use up."""

from __future__ import annotations

import time

import pytest

from milepost.errors import Invalid
from milepost.modeling import bounds
from milepost.modeling.template import Chat, load_chat

MESSAGES = [{"role": "user", "content": "Who?"}]


@pytest.fixture
def chat(tiny_base, tmp_path):
    def chat(source: str) -> Chat:
        folder = tmp_path / "base"
        folder.mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
            (folder / name).write_bytes((tiny_base / name).read_bytes())
        (folder / "chat_template.jinja").write_text(source)
        return load_chat(folder)

    return chat


#: What would read, run or change what is not the template's.
ESCAPES = {
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals of a function": "{{ raise_exception.__globals__ }}",
    "code of a filter": "{{ messages | map(attribute='__class__') | list }}",
    "attribute by filter": "{{ (messages | attr('append')).__self__.__class__ }}",
    "class by format": "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "class by format_map": "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "undefined's own": "{{ nothing.__init__.__globals__['__builtins__'] }}",
    "the loop's own": "{% for m in messages %}{{ loop._iterator.gi_frame.f_globals }}{% endfor %}",
    "the template's own": "{{ self.__init__.__globals__ }}",
    "cycler's globals": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "joiner's globals": "{{ joiner.__init__.__globals__ }}",
    "namespace's globals": "{{ namespace.__init__.__globals__ }}",
    "changing a list": "{{ messages.append(1) }}",
    "changing a message": "{{ messages[0].update({'role': 'x'}) }}",
    "another template": "{% include '/etc/passwd' %}",
    "importing": "{% import 'os' as os %}{{ os.getcwd() }}",
    "extending": "{% extends '/etc/passwd' %}",
}

#: What would use up memory or time.
GLUTTONS = {
    "a long range": "{{ range(10 ** 9) | list }}",
    "a long text": "{{ 'a' * 10 ** 9 }}",
    "a long list": "{{ [1] * 10 ** 9 }}",
    "the number first": "{{ 10 ** 9 * 'a' }}",
    "a great power": "{{ 9 ** (9 ** 9) }}",
    "great products": "{% set n = namespace(x=9) %}{% for _ in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}{{ n.x }}",
    "doubling": "{% set n = namespace(x='ab') %}{% for _ in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "doubling by ~": "{% set n = namespace(x='ab') %}{% for _ in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "doubling by join": "{% set n = namespace(x='ab') %}{% for _ in range(60) %}{% set n.x = [n.x, n.x] | join %}{% endfor %}",
    "doubling by str.join": "{% set n = namespace(x='ab') %}{% for _ in range(60) %}{% set n.x = ''.join([n.x, n.x]) %}{% endfor %}",
    "squaring by replace": "{% set n = namespace(x='aa') %}{% for _ in range(60) %}{% set n.x = n.x | replace('a', n.x) %}{% endfor %}",
    "squaring by str.replace": "{% set n = namespace(x='aa') %}{% for _ in range(60) %}{% set n.x = n.x.replace('a', n.x) %}{% endfor %}",
    "centred": "{{ 'a' | center(10 ** 9) }}",
    "justified": "{{ 'a'.ljust(10 ** 9) }}",
    "filled": "{{ 'a'.zfill(10 ** 9) }}",
    "indented": "{{ 'a\nb' | indent(10 ** 9) }}",
    "a wide number": "{{ '%999999999d' % 1 }}",
    "a width beside it": "{{ '%*d' % (999999999, 1) }}",
    "a wide format": "{{ '{:999999999}'.format(1) }}",
    "a wide filter": "{{ '%999999999d' | format(1) }}",
    "tabs": "{{ ('\t' * 100000).expandtabs(9999) }}",
    "much said": "{% for _ in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
    "loops in loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "loops in lists": "{% for a in range(99999) %}{{ range(99999) | map('string') | list | length }}{% endfor %}",
    "a loop that calls itself": "{% for a in [[]] recursive %}{{ loop([[], []]) }}{% endfor %}",
    "a macro that calls itself": "{% macro m(n) %}{{ m(n + 1) }}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
}


@pytest.mark.parametrize("escape", ESCAPES)
def test_a_template_reads_nothing_but_what_it_is_given(chat, escape):
    try:
        said = chat(ESCAPES[escape]).render(MESSAGES, add_generation_prompt=False)
    except Invalid:
        return
    assert said == "" or ("class" not in said and "root:" not in said and "built" not in said), said


@pytest.mark.parametrize("glutton", GLUTTONS)
def test_a_template_takes_no_more_than_its_bounds(chat, glutton, monkeypatch):
    monkeypatch.setattr(bounds, "MOST_S", 0.2)
    began = time.thread_time()
    with pytest.raises(Invalid, match="The model's chat template does not take these messages"):
        chat(GLUTTONS[glutton]).render(MESSAGES, add_generation_prompt=False)
    assert time.thread_time() - began < 2


def test_an_ordinary_template_is_what_it_was(chat):
    source = (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ loop.index ~ '/' ~ loop.length }}"
        "{{ ' ' + m.role | upper }}{{ ': %s' % m.content }}{{ ' | ' if not loop.last }}{% endfor %}{{ ' (' ~ ns.n ~ ')' }}"
    )
    two = [*MESSAGES, {"role": "assistant", "content": "Me."}]
    assert chat(source).render(two, add_generation_prompt=False) == "1/2 USER: Who? | 2/2 ASSISTANT: Me. (2)"
