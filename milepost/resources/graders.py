"""Graders: what scores a model's answer, and what a run of one answers (reference/openai-contract.md §1.5, §2.7).

Everything the SDK can send is accepted; what cannot be served is refused by name, not ignored. What can be known of a
template without an item is checked here: its form, and its namespace.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Discriminator, Field, Tag
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


class StringCheckGrader(Frozen):
    """1 if the texts compare as `operation` says, else 0: `eq`, `ne`, `like` (contains), `ilike` (in any case)."""

    type: Literal["string_check"]
    name: str
    input: Template
    reference: Template
    operation: Literal["eq", "ne", "like", "ilike"]


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


class TextSimilarityGrader(Frozen):
    """How alike two texts are, from 0 to 1; `milepost.graders.text_similarity` defines each metric."""

    type: Literal["text_similarity"]
    name: str
    input: Template
    reference: Template
    evaluation_metric: Annotated[Metric, AfterValidator(_not_cosine)]
    pass_threshold: Annotated[float | None, Field(description="Accepted for evals' sake; changes nothing here.")] = None


def _refusing(refused: Mapping[str, type[BaseModel]]) -> BeforeValidator:
    """Types that are known so that they can be refused by name: each has a model that no value fits."""

    def refuse(value: Any) -> Any:
        kind = value.get("type") if isinstance(value, dict) else None
        if isinstance(kind, str) and kind in refused:
            refused[kind].model_validate(value)
        return value

    return BeforeValidator(refuse)


class InputText(Frozen):
    """A piece of a judge's prompt. Cache breakpoints change nothing in the answer."""

    type: Literal["input_text", "output_text", "text"]
    text: Template
    prompt_cache_breakpoint: dict[str, str] | None = None


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


class JudgeMessage(Frozen):
    """One turn of the judge's prompt."""

    role: Literal["user", "assistant", "system", "developer"]
    content: Content
    type: Literal["message"] | None = None

    @property
    def template(self) -> str:
        """The text of all parts: nothing is put between them."""
        pieces = self.content if isinstance(self.content, tuple) else (self.content,)
        return "".join(piece if isinstance(piece, str) else piece.text for piece in pieces)


class SamplingParams(Frozen):
    """How the judge answers. `max_completions_tokens` is OpenAI's spelling; `reasoning_effort` changes nothing here."""

    temperature: Annotated[float | None, Field(ge=0, le=2, description="Null is 1, as in chat completions.")] = None
    top_p: Annotated[float | None, Field(ge=0, le=1)] = None
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63)] = None
    max_completions_tokens: Annotated[int | None, Field(ge=1)] = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None


def _is_range(pair: tuple[float, float]) -> tuple[float, float]:
    low, high = pair
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise PydanticCustomError("range", "A range is two numbers, the lower one first")
    return pair


class ScoreModelGrader(Frozen):
    """A score that a model served here gives: a number, clipped to `range`."""

    type: Literal["score_model"]
    name: str
    model: Annotated[str, Field(min_length=1, description="A base model, an alias, a tuned model or any checkpoint.")]
    input: Annotated[tuple[JudgeMessage, ...], Field(min_length=1)]
    range: Annotated[tuple[float, float], AfterValidator(_is_range)] | None = None
    sampling_params: SamplingParams | None = None
    pass_threshold: Annotated[float | None, Field(description="Accepted for evals' sake; changes nothing here.")] = None


def _not_too_long(source: str) -> str:
    if (size := len(source.encode())) > MAX_SOURCE_BYTES:
        raise PydanticCustomError(
            "source", "It is {size} bytes long; {limit} are allowed", {"size": size, "limit": MAX_SOURCE_BYTES}
        )
    return source


class PythonGrader(Frozen):
    """`def grade(sample, item) -> float`, run in a sandbox (docs/explanation/python-graders.md)."""

    type: Literal["python"]
    name: str
    source: Annotated[str, AfterValidator(_not_too_long)]
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


class MultiGrader(Frozen):
    """A formula over other graders' rewards. `graders` is a map, a list or one grader, and is echoed as it was sent."""

    type: Literal["multi"]
    name: str
    graders: Annotated[
        Annotated[InMulti, Tag("one grader")]
        | Annotated[tuple[InMulti, ...], Field(min_length=1, max_length=MAX_GRADERS), Tag("graders in a list")]
        | Annotated[dict[str, InMulti], Field(min_length=1, max_length=MAX_GRADERS), Tag("graders in a map")],
        Discriminator(_kind_of_graders),
        AfterValidator(_name_variables),
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

    grader: Grader
    model_sample: Annotated[str, Field(description="The answer to be scored: `sample.output_text` of templates.")]
    item: Annotated[
        dict[str, Any] | None, Field(description="A line of the data set: the namespace `item` of templates.")
    ] = None


class GraderValidateRequest(Frozen):
    """The body of `POST /fine_tuning/alpha/graders/validate`."""

    grader: Grader


class GraderValidateResponse(Frozen):
    """The grader, as it was sent."""

    grader: Grader


class GraderErrors(Frozen):
    """What went wrong in a run: then the reward, or a part of it, is 0. `details` (ours) says it in words."""

    formula_parse_error: bool = False
    sample_parse_error: bool = False
    truncated_observation_error: bool = False
    unresponsive_reward_error: bool = False
    invalid_variable_error: bool = False
    other_error: bool = False
    python_grader_server_error: bool = False
    python_grader_server_error_type: str | None = None
    python_grader_runtime_error: bool = False
    python_grader_runtime_error_details: str | None = None
    model_grader_server_error: bool = False
    model_grader_server_error_details: str | None = None
    model_grader_refusal_error: bool = False
    model_grader_parse_error: bool = False
    details: str | None = None


class TokenUsage(Frozen):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int
    cached_tokens: int = 0

    def __add__(self, other: TokenUsage) -> TokenUsage:
        return TokenUsage(**{name: getattr(self, name) + getattr(other, name) for name in TokenUsage.model_fields})


class GraderRunMetadata(Frozen):
    """`token_usage` is the tokens of all judges together. `output` (ours) is what a python grader printed, in part."""

    name: str
    type: str
    errors: GraderErrors
    execution_time: Annotated[float, Field(description="Seconds.")]
    scores: dict[str, Any]
    token_usage: int | None
    sampled_model_name: str | None
    output: str | None = None


class GraderRunResponse(Frozen):
    """What a grader says of one answer."""

    reward: float
    metadata: GraderRunMetadata
    sub_rewards: dict[str, Any]
    model_grader_token_usage_per_model: dict[str, TokenUsage]
