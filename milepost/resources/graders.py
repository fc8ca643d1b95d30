"""Graders: what scores a model's answer, and what a run of one answers (reference/openai-contract.md §1.5, §2.7).

Everything the SDK can send is accepted; what cannot be served is refused by name, not ignored. What can be known of a
template without an item is checked here: its form, and its namespace.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from milepost.resources.base import Frozen

#: `source` of a python grader, in bytes.
MAX_SOURCE_BYTES = 256 * 1024

#: A step is `.name`, `["name"]` or `[0]`.
STEP = r"""(?:\.\w[\w-]*|\[(?:\d{1,9}|"[^"\[\]{}]+"|'[^'\[\]{}]+')\])"""
#: What stands between `{{` and `}}`.
VARIABLE = re.compile(rf"\s*(item|sample)({STEP}*)\s*")


def split_template(template: str) -> list[str]:
    """Text, variable, text, variable …, text. Raises `ValueError` if the last `{{` is not closed.

    By hand, since an expression would look for the end of each of a million `{{` to the end of the text.
    """
    pieces, place = [], 0
    while (start := template.find("{{", place)) >= 0:
        end = template.index("}}", start + 2)
        pieces += [template[place:start], template[start + 2 : end]]
        place = end + 2
    return [*pieces, template[place:]]


def _fits(template: str) -> str:
    try:
        pieces = split_template(template)
    except ValueError:
        raise PydanticCustomError("template", "A template is opened with `{{` and not closed with `}}`") from None
    for inside in pieces[1::2]:
        if VARIABLE.fullmatch(inside) is None:
            raise PydanticCustomError(
                "template",
                "`{found}` is not a template: write `{example}`, with the namespace `item` or `sample`",
                {"found": "{{" + inside[:60] + "}}", "example": "{{ item.answer }}"},
            )
    return template


Template = Annotated[str, AfterValidator(_fits)]


class AsSent(Frozen):
    """Answered as it was sent: what was left out stays out."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)


#: Neither `true` nor a text is a number; graders are read as Python objects, where pydantic would take them for one.
Number = Annotated[float, Field(strict=True)]
Whole = Annotated[int, Field(strict=True)]
Name = Annotated[str, Field(description="A name for people, and for the formula of a multi grader.", examples=["same"])]
Input = Annotated[
    Template, Field(description="The text that is scored, a template.", examples=["{{ sample.output_text }}"])
]
Reference = Annotated[
    Template, Field(description="The text it is compared with, a template.", examples=["{{ item.answer }}"])
]


class StringCheckGrader(AsSent):
    """1 if the texts compare as `operation` says, else 0: `eq`, `ne`, `like` (contains), `ilike` (in any case)."""

    type: Annotated[Literal["string_check"], Field(description="The type of grader, always `string_check`.")]
    name: Name
    input: Input
    reference: Reference
    operation: Annotated[
        Literal["eq", "ne", "like", "ilike"], Field(description="How the texts are compared.", examples=["eq"])
    ]


def _not_cosine(metric: str) -> str:
    if metric == "cosine":
        raise PydanticCustomError(
            "not_served", "It compares embeddings, and this server has no embedding model. Use another metric"
        )
    return metric


Metric = Literal[
    "cosine",
    "fuzzy_match",
    "bleu",
    "gleu",
    "meteor",
    "rouge_1",
    "rouge_2",
    "rouge_3",
    "rouge_4",
    "rouge_5",
    "rouge_l",
]


class TextSimilarityGrader(AsSent):
    """How alike two texts are, from 0 to 1; `milepost.graders.text_similarity` defines each metric."""

    type: Annotated[Literal["text_similarity"], Field(description="The type of grader, always `text_similarity`.")]
    name: Name
    input: Input
    reference: Reference
    evaluation_metric: Annotated[
        Metric,
        AfterValidator(_not_cosine),
        Field(description="How likeness is measured. `cosine` is refused: there is no embedding model."),
    ]
    pass_threshold: Annotated[Number | None, Field(description="Accepted for evals' sake; changes nothing here.")] = (
        None
    )


def _refusing(refused: Mapping[str, type[BaseModel]]) -> BeforeValidator:
    """Types that are known so that they can be refused by name: each has a model that no value fits."""

    def refuse(value: Any) -> Any:
        kind = value.get("type") if isinstance(value, dict) else None
        if isinstance(kind, str) and kind in refused:
            refused[kind].model_validate(value)
        return value

    return BeforeValidator(refuse)


class InputText(AsSent):
    """A piece of a judge's prompt. Cache breakpoints change nothing in the answer."""

    type: Annotated[Literal["input_text", "output_text", "text"], Field(description="The type of the piece.")]
    text: Annotated[Template, Field(description="The text, a template.")]
    prompt_cache_breakpoint: Annotated[
        dict[str, str] | None, Field(description="Accepted, and changes nothing here.")
    ] = None


def _no_media(_kind: str) -> str:
    raise PydanticCustomError("not_served", "Judges read text only: leave the part out, or describe it in text")


class InputMedia(BaseModel):
    """An image or a sound."""

    type: Annotated[str, AfterValidator(_no_media)]


def _kind_of_content(content: Any) -> str:
    return "a text" if isinstance(content, str) else "a list" if isinstance(content, list | tuple) else "a part"


Text = Annotated[Template, Tag("a text")]
Part = Annotated[
    InputText, _refusing(dict.fromkeys(("input_image", "input_audio", "image_url"), InputMedia)), Tag("a part")
]
Piece = Annotated[Text | Part, Discriminator(_kind_of_content)]
Content = Annotated[Text | Part | Annotated[tuple[Piece, ...], Tag("a list")], Discriminator(_kind_of_content)]


class JudgeMessage(AsSent):
    """One turn of the judge's prompt."""

    role: Annotated[Literal["user", "assistant", "system", "developer"], Field(description="Who says it.")]
    content: Annotated[Content, Field(description="What is said: a template, a piece, or several pieces.")]
    type: Annotated[Literal["message"] | None, Field(description="The type of the turn.")] = None

    @property
    def template(self) -> str:
        """The text of all parts: nothing is put between them."""
        pieces = self.content if isinstance(self.content, tuple) else (self.content,)
        return "".join(piece if isinstance(piece, str) else piece.text for piece in pieces)


class SamplingParams(AsSent):
    """How the judge answers. `max_completions_tokens` is OpenAI's spelling; `reasoning_effort` changes nothing here."""

    temperature: Annotated[Number | None, Field(ge=0, le=2, description="Null is 1, as in chat completions.")] = None
    top_p: Annotated[
        Number | None, Field(ge=0, le=1, description="Draw from the likeliest tokens of this share; null is 1.")
    ] = None
    seed: Annotated[
        Whole | None, Field(ge=-(2**63), lt=2**63, description="The same seed and prompt give the same score.")
    ] = None
    max_completions_tokens: Annotated[
        Whole | None, Field(ge=1, description="Most tokens of the judge's answer; null is the rest of its context.")
    ] = None
    reasoning_effort: Annotated[
        Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None,
        Field(description="Accepted, and changes nothing here."),
    ] = None


def _is_range(pair: tuple[float, float]) -> tuple[float, float]:
    low, high = pair
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise PydanticCustomError("range", "A range is two numbers, the lower one first")
    return pair


class ScoreModelGrader(AsSent):
    """A score that a model served here gives: a number, clipped to `range`."""

    type: Annotated[Literal["score_model"], Field(description="The type of grader, always `score_model`.")]
    name: Name
    model: Annotated[str, Field(min_length=1, description="A base model, an alias, a tuned model or any checkpoint.")]
    input: Annotated[tuple[JudgeMessage, ...], Field(min_length=1, description="What the judge is asked.")]
    range: Annotated[
        Annotated[tuple[Number, Number], AfterValidator(_is_range)] | None,
        Field(description="The lowest score and the highest; null is 0 and 1."),
    ] = None
    sampling_params: Annotated[SamplingParams | None, Field(description="How the judge answers.")] = None
    pass_threshold: Annotated[Number | None, Field(description="Accepted for evals' sake; changes nothing here.")] = (
        None
    )


def _not_too_long(source: str) -> str:
    if (size := len(source.encode())) > MAX_SOURCE_BYTES:
        raise PydanticCustomError(
            "source", "It is {size} bytes long; {limit} are allowed", {"size": size, "limit": MAX_SOURCE_BYTES}
        )
    return source


class PythonGrader(AsSent):
    """`def grade(sample, item) -> float`, run in a sandbox (docs/explanation/python-graders.md)."""

    type: Annotated[Literal["python"], Field(description="The type of grader, always `python`.")]
    name: Name
    source: Annotated[
        str, AfterValidator(_not_too_long), Field(description="The program, which defines `grade`; at most 256 kB.")
    ]
    image_tag: Annotated[
        str | None, Field(description="Accepted and ignored: graders run with this server's own Python.")
    ] = None


def _no_labels(_kind: str) -> str:
    raise PydanticCustomError(
        "not_served",
        "A label_model grader gives a label, not a reward: graders of fine-tuning are string_check, text_similarity, "
        "score_model, python and multi. Ask a score_model for a number instead",
    )


class LabelModel(BaseModel):
    """A grader of evals only."""

    type: Annotated[str, AfterValidator(_no_labels)]


def _no_nesting(_kind: str) -> str:
    raise PydanticCustomError(
        "not_served", "A multi grader cannot hold another: name its graders here, and join the formulas"
    )


class NestedMulti(BaseModel):
    """A multi grader within another."""

    type: Annotated[str, AfterValidator(_no_nesting)]


Single = StringCheckGrader | TextSimilarityGrader | ScoreModelGrader | PythonGrader
InMulti = Annotated[Single, Field(discriminator="type"), _refusing({"label_model": LabelModel, "multi": NestedMulti})]

#: Functions of a formula, so no names for graders.
FUNCTIONS = ("min", "max", "abs", "floor", "ceil", "exp", "sqrt", "log")
FORMULA_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _kind_of_graders(graders: Any) -> str:
    """A map may hold a grader under the key `type`; the type of a grader itself is a string."""
    if isinstance(graders, list | tuple):
        return "graders in a list"
    is_one = isinstance(graders, dict) and isinstance(graders.get("type"), str)
    return "one grader" if is_one or isinstance(graders, BaseModel) else "graders in a map"


def _name_variables(graders: Any) -> Any:
    names = [name for name, _ in _named(graders)]
    for name in names:
        if FORMULA_NAME.fullmatch(name) is None or name in FUNCTIONS or names.count(name) > 1:
            raise PydanticCustomError(
                "formula_name",
                "`{name}` cannot stand in a formula: each grader of a multi grader needs a name of its own, of "
                "letters, digits and _, that is none of the functions ({functions})",
                {"name": name[:60], "functions": ", ".join(FUNCTIONS)},
            )
    return graders


def _named(graders: Any) -> list[tuple[str, Any]]:
    """Variable → grader: a map's keys, else the graders' own names."""
    if isinstance(graders, Mapping):
        return list(graders.items())
    return [(grader.name, grader) for grader in (graders if isinstance(graders, tuple) else (graders,))]


MAX_GRADERS = 64


class MultiGrader(AsSent):
    """A formula over other graders' rewards. `graders` is a map, a list or one grader, and is echoed as it was sent."""

    type: Annotated[Literal["multi"], Field(description="The type of grader, always `multi`.")]
    name: Name
    graders: Annotated[
        Annotated[InMulti, Tag("one grader")]
        | Annotated[tuple[InMulti, ...], Field(min_length=1, max_length=MAX_GRADERS), Tag("graders in a list")]
        | Annotated[dict[str, InMulti], Field(min_length=1, max_length=MAX_GRADERS), Tag("graders in a map")],
        Discriminator(_kind_of_graders),
        AfterValidator(_name_variables),
        Field(description="The graders that the formula joins: by name, in a list, or one."),
    ]
    calculate_output: Annotated[str, Field(description="For example `0.8 * quality + 0.2 * min(style, 1)`.")]

    @property
    def named(self) -> dict[str, Single]:
        """Variable of the formula → grader, in the order they were sent."""
        return dict(_named(self.graders))


#: Every type a grader of fine-tuning may have.
AnyGrader = Single | MultiGrader
Grader = Annotated[AnyGrader, Field(discriminator="type"), _refusing({"label_model": LabelModel})]


class GraderRunRequest(Frozen):
    """The body of `POST /fine_tuning/alpha/graders/run`."""

    grader: Annotated[Grader, Field(description="How the answer is scored.")]
    model_sample: Annotated[
        str, Field(description="The answer to be scored: `sample.output_text` of templates.", examples=["42"])
    ]
    item: Annotated[
        dict[str, Any] | None,
        Field(description="A line of the data set: the namespace `item` of templates.", examples=[{"answer": "42"}]),
    ] = None


class GraderValidateRequest(Frozen):
    """The body of `POST /fine_tuning/alpha/graders/validate`."""

    grader: Annotated[Grader, Field(description="The grader to look over.")]


class GraderValidateResponse(Frozen):
    """The grader, as it was sent."""

    grader: Annotated[Grader, Field(description="The grader.")]


class GraderErrors(Frozen):
    """What went wrong in a run: then the reward, or a part of it, is 0. `details` (ours) says it in words."""

    formula_parse_error: Annotated[bool, Field(description="The formula could not be worked out.")] = False
    sample_parse_error: Annotated[bool, Field(description="The answer is not what a template wants of it.")] = False
    truncated_observation_error: Annotated[bool, Field(description="Something was cut before it was scored.")] = False
    unresponsive_reward_error: Annotated[bool, Field(description="The grader gave no reward in time.")] = False
    invalid_variable_error: Annotated[bool, Field(description="A template names what is not there.")] = False
    other_error: Annotated[bool, Field(description="Something else went wrong.")] = False
    python_grader_server_error: Annotated[bool, Field(description="The sandbox failed, not the program.")] = False
    python_grader_server_error_type: Annotated[str | None, Field(description="How the sandbox failed.")] = None
    python_grader_runtime_error: Annotated[bool, Field(description="The program raised, or gave no number.")] = False
    python_grader_runtime_error_details: Annotated[str | None, Field(description="Its traceback.")] = None
    model_grader_server_error: Annotated[bool, Field(description="The judge could not be asked.")] = False
    model_grader_server_error_details: Annotated[str | None, Field(description="Why it could not be asked.")] = None
    model_grader_refusal_error: Annotated[bool, Field(description="The judge refused to answer.")] = False
    model_grader_parse_error: Annotated[bool, Field(description="The judge's answer has no number.")] = False
    details: Annotated[str | None, Field(description="What went wrong, in words. Ours: OpenAI's answers lack it.")] = (
        None
    )


class TokenUsage(Frozen):
    """Tokens that a judge read and wrote."""

    prompt_tokens: Annotated[int, Field(description="Tokens of what it was asked.")]
    total_tokens: Annotated[int, Field(description="Both together.")]
    completion_tokens: Annotated[int, Field(description="Tokens of what it answered.")]
    cached_tokens: Annotated[int, Field(description="Tokens that were not computed anew; 0 here.")] = 0

    def __add__(self, other: TokenUsage) -> TokenUsage:
        return TokenUsage(**{name: getattr(self, name) + getattr(other, name) for name in TokenUsage.model_fields})


class GraderRunMetadata(Frozen):
    """`token_usage` is the tokens of all judges together. `output` (ours) is what a python grader printed, in part."""

    name: Annotated[str, Field(description="The grader's name.", examples=["same"])]
    type: Annotated[str, Field(description="The grader's type.", examples=["string_check"])]
    errors: Annotated[GraderErrors, Field(description="What went wrong; all false if nothing did.")]
    execution_time: Annotated[float, Field(description="Seconds.", examples=[0.003])]
    scores: Annotated[dict[str, Any], Field(description="Always empty.", examples=[{}])]
    token_usage: Annotated[int | None, Field(description="Tokens of all judges together.", examples=[None])]
    sampled_model_name: Annotated[str | None, Field(description="The judge, if there is one.", examples=[None])]
    output: Annotated[
        str | None, Field(description="What a python grader printed, in part. Ours: OpenAI's answers lack it.")
    ] = None


class GraderRunResponse(Frozen):
    """What a grader says of one answer."""

    reward: Annotated[float, Field(description="The score.", examples=[1.0])]
    metadata: Annotated[GraderRunMetadata, Field(description="How it came about.")]
    sub_rewards: Annotated[
        dict[str, Any], Field(description="Of a multi grader, the rewards its formula joined.", examples=[{}])
    ]
    model_grader_token_usage_per_model: Annotated[
        dict[str, TokenUsage], Field(description="Tokens of each judge.", examples=[{}])
    ]
