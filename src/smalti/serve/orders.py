"""What a request for pictures asks for, by the names that OpenAI's images have, and our own.

Fields of OpenAI's that change nothing here are taken and left; any that is unknown is refused, as
one that is misspelt would be ignored. Settings of drawing have their own names (`guidance`,
`top_k`, ...), and those that other servers give them.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

from smalti.arguments import refuse_unknown, several
from smalti.config import settings_of
from smalti.engine.waiting import NO_PREVIEWS, Previews
from smalti.pipeline.pipeline import Pipeline
from smalti.pipeline.sampling import Sampling
from smalti.pipeline.unified import UnifiedPipeline
from smalti.serve.errors import Refused, invalid, missing

Drawer = Pipeline | UnifiedPipeline
Format = Literal["png", "jpeg", "webp"]
IDLE = (
    *("user", "safety_identifier", "moderation", "quality", "input_fidelity"),
    *("complexity", "frame_count", "frame_duration_ms", "response_format", "background"),
)
"""Fields of OpenAI's that change no picture here."""
SYNONYMS = {
    "guidance_scale": "guidance",
    "cfg_scale": "guidance",
    "num_inference_steps": "steps",
    "negative_prompt": "negative",
}
OWN = ("class", "style", "seed", "first", "negative")
THEIR_STYLES = ("vivid", "natural")
"""Styles of OpenAI's, which change nothing here."""
PLAIN = ("model", "prompt", "map", "n", "size", "stream", "partial_images", "preview_every")
SHAPE = ("output_format", "output_compression")
SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", re.ASCII)
LARGEST = 4
"""Times the pixels of a model's own size, of models that draw others."""
SIDE = 2048
"""Pixels of a side of a picture that is resampled, at most."""
PROMPT = 32_000
"""Letters of a prompt at most."""


@dataclass(frozen=True)
class Output:
    """How a picture is sent."""

    format: Format = "png"
    compression: int = 90
    """Quality of a JPEG or WEBP, 0 to 100."""
    url: bool = False
    """Whether its address is sent in place of it."""


@dataclass(frozen=True)
class Order:
    """A request that can be served."""

    n: int
    wanted: dict[str, Any]
    """Conditions, seed, size and settings, as a pipeline takes them."""
    first: int
    output: Output
    stream: bool
    previews: Previews
    seed: int
    others: tuple[int, ...] = ()
    """Seeds of the second picture and those behind it; (): all have the same."""
    fit: tuple[int, int] | None = None
    """Width and height to which pictures are resampled; None: they stay as they are."""


def order_of(
    given: Mapping[str, Any],
    pipeline: Drawer,
    most: int = 10,
    others: tuple[str, ...] = (),
    map: Image.Image | None = None,
    fit: bool = False,
) -> Order:
    """Read the fields of a request; `others` are those that its route reads for itself, `map` is
    the map that it brings. With `fit`, sizes that are not drawn are those of what is resampled.

    Raises Refused, naming the field, for what is unknown, missing or cannot be, and ValueError for
    a pipeline that draws nothing.
    """
    fields = {SYNONYMS.get(name, name): value for name, value in given.items()}
    fields = {name: value for name, value in fields.items() if value is not None}
    settings = settings_of(Sampling)
    try:
        refuse_unknown(fields, [*PLAIN, *SHAPE, *OWN, *settings, *others, *IDLE], ())
    except ValueError as error:
        raise Refused(400, "unsupported_parameter", str(error)) from None
    _refuse_what_is_not_made(fields)
    pipeline.require_drawing()
    n = _count(fields, most)
    stream = truth_of(fields, "stream")
    previews = _previews(fields) if stream else NO_PREVIEWS
    seeds = _seeds(fields, not others and isinstance(pipeline, Pipeline))
    wanted = {name: plain(fields[name]) for name in settings if name in fields}
    if map is None and pipeline.map is None:
        wanted |= _conditions(fields, pipeline, not others)
    else:
        wanted |= _mapped(fields, pipeline, map, not others)
    size, resampled = _size(fields, pipeline, fit, bool(others))
    wanted |= size | {"seed": seeds[0]}
    first = number_of(fields, "first", 0, 0, 2**32 - 1 - most)
    for name in ("classes", "text"):  # picture i of a pipeline has condition i modulo their number
        if len(each := wanted.get(name) or ()) > 1:
            wanted[name] = [each[(i - first) % n] for i in range(n)]
    output = _output(fields)
    return Order(n, wanted, first, output, stream, previews, seeds[0], seeds[1:], resampled)


def _previews(fields: Mapping[str, Any]) -> Previews:
    """Pictures on the way, by one of the two fields that say how many."""
    count = number_of(fields, "partial_images", 0, 0, 3)
    every = number_of(fields, "preview_every", 0, 0, 1 << 20)
    if count and every:
        raise invalid("give partial_images or preview_every, not both", "preview_every")
    return Previews(count, every)


def listed(fields: Mapping[str, Any], name: str) -> Sequence[Any] | None:
    """A field that is a list, one for each picture; None if it is none."""
    value = plain(fields.get(name))
    return value if isinstance(value, list | tuple) else None


def _count(fields: Mapping[str, Any], most: int) -> int:
    """How many pictures: `n`, or as many as lists say. Raises Refused for lists of others."""
    lists = {name: listed(fields, name) for name in ("seed", "class")}
    counts = {name: len(values) for name, values in lists.items() if values is not None}
    n = number_of(fields, "n", next(iter(counts.values()), 1), 1, most)
    for name, count in counts.items():
        if count != n:
            raise invalid(f"{name} is one, or a list of n, {n} here, got {count}", name)
    return n


def _seeds(fields: Mapping[str, Any], several: bool) -> tuple[int, ...]:
    """The seed of all pictures, or of each, where there may be `several`."""
    given = listed(fields, "seed") if several else None
    each = [fields] if given is None else [{"seed": seed} for seed in given]
    usual = secrets.randbits(31)
    return tuple(number_of(one, "seed", usual, -(2**63), 2**63 - 1) for one in each)


def _refuse_what_is_not_made(fields: Mapping[str, Any]) -> None:
    if fields.get("background", "auto") not in ("auto", "opaque"):
        raise invalid("background is opaque here", "background")


def _conditions(fields: Mapping[str, Any], pipeline: Drawer, needed: bool) -> dict[str, Any]:
    """What is drawn: a text, or the class that a prompt names; nothing, where none is `needed`."""
    prompt, negative = (text_of(fields, name) for name in ("prompt", "negative"))
    if pipeline.reads_texts:
        if prompt is None and fields.get("class") is None and needed:
            raise missing("prompt")
        given = {"text": _worded(fields, pipeline, prompt), "negative": negative}
        return {name: value for name, value in given.items() if value is not None}
    if negative is not None:
        raise Refused(400, "unsupported_parameter", "this model draws classes", "negative")
    assert isinstance(pipeline, Pipeline)  # all others read texts
    named = fields.get("class", prompt)
    if named is None and not needed:
        return {}
    if named is None:
        raise missing("prompt")
    where = "class" if "class" in fields else "prompt"
    return {"classes": [_class(o, pipeline, where) for o in listed(fields, "class") or [named]]}


def _class(named: Any, pipeline: Pipeline, where: str) -> int:
    """The number of a class that a field names."""
    if isinstance(named, str):
        named = re.sub(r"^\s*class:", "", named).strip()
    if not isinstance(named, int | str) or isinstance(named, bool):
        raise invalid(f"class must be a name or a number, got {named!r}", where)
    try:
        return pipeline.class_id(named)
    except ValueError as error:
        raise invalid(str(error), where) from None


def _mapped(
    fields: Mapping[str, Any], pipeline: Drawer, map: Image.Image | None, needed: bool
) -> dict[str, Any]:
    """The map that is drawn from; nothing, where none is given and none is `needed`."""
    if pipeline.map is None:
        raise Refused(400, "unsupported_parameter", "this model draws from no maps", "map")
    texts = {name: (text_of(fields, name) or "").strip() for name in ("prompt", "negative")}
    for name, given in (texts | {"class": fields.get("class", "")}).items():
        if given != "":
            message = f"this model draws from maps alone: {name} must be empty"
            raise Refused(400, "unsupported_parameter", message, name)
    if map is not None:
        return {"map": [map]}
    if needed:
        kind = "picture whose edges are taken" if pipeline.map.map == "edges" else pipeline.map.map
        message = f"map is missing: this model draws from one, a {kind}"
        raise Refused(400, "missing_required_parameter", message, "map")
    return {}


def _worded(fields: Mapping[str, Any], pipeline: Drawer, prompt: str | None) -> list[str] | None:
    """The text that is drawn: a prompt or the name of a class, and a style behind it. A style is
    left where the pipeline knows none, as OpenAI's own are."""
    words, named, style = pipeline.wording, fields.get("class"), text_of(fields, "style")
    where = "class"
    if named is not None and prompt is not None:
        raise invalid("give a prompt or a class, not both", where)
    if style in THEIR_STYLES or not words.styles:
        style = None
    if prompt is None and named is None:
        if style is not None:
            raise invalid("a style needs a prompt, or a class", "style")
        return None
    try:
        text = words.prompts(prompt, plain(named), None)
        where = "style"
        return words.prompts(text, None, style) if style is not None else several(text)
    except ValueError as error:
        raise invalid(str(error), where) from None


def text_of(fields: Mapping[str, Any], name: str) -> str | None:
    """A field that is a text. Raises Refused, as the others do, for what is none."""
    text = fields.get(name)
    if text is None:
        return None
    if not isinstance(text, str):
        raise invalid(f"{name} must be a text", name)
    if len(text) > PROMPT:
        raise invalid(f"{name} may have {PROMPT:,} letters, got {len(text):,}", name)
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise invalid(f"{name} holds letters that are none", name)
    return text


def _size(
    fields: Mapping[str, Any], pipeline: Drawer, fit: bool, edited: bool
) -> tuple[dict[str, Any], tuple[int, int] | None]:
    """Height and width that are drawn, where that is not the pipeline's own size; and width and
    height to which it is resampled, as the field has them, where that may be: of what the model
    does not draw, and of edits, which have the size of their picture."""
    size = fields.get("size", "auto")
    if size in ("auto", ""):
        return {}, None
    found = SIZE.fullmatch(size) if isinstance(size, str) else None
    if found is None:
        raise invalid(f"size is auto or like 256x256, got {size!r}", "size")
    pixels, (height, width) = (int(found[2]), int(found[1])), pipeline.tokenizer.size
    resampled = (pixels[1], pixels[0]) if fit and max(pixels) <= SIDE else None
    if edited and resampled is not None:
        return {}, resampled
    if pixels == (height, width):
        return {}, None
    others = pipeline.model.any_grid
    try:
        if pixels[0] * pixels[1] > LARGEST * height * width:
            raise ValueError("another size")
        pipeline.spec_of(pixels)
    except ValueError:
        if resampled is not None:
            return {}, resampled
        also = f", or another of up to {LARGEST} times its pixels" * others
        message = f"size is auto or {width}x{height}{also}, got {size}"
        raise Refused(400, "unsupported_size", message, "size") from None
    return {"size": pixels}, None


def _output(fields: Mapping[str, Any]) -> Output:
    wanted = fields.get("output_format", "png")
    if wanted not in ("png", "jpeg", "webp"):
        raise invalid(
            f"output_format is png, jpeg or webp, got {wanted!r}",
            "output_format",
        )
    answer = fields.get("response_format", "b64_json")
    if answer not in ("b64_json", "url"):
        raise invalid(
            f"response_format is b64_json or url, got {answer!r}",
            "response_format",
        )
    return Output(wanted, number_of(fields, "output_compression", 90, 0, 100), answer == "url")


def number_of(fields: Mapping[str, Any], name: str, usual: int, least: int, most: int) -> int:
    """A field that is a whole number."""
    value = plain(fields.get(name, usual))
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise invalid(
            f"{name} must be a whole number from {least} to {most}, got {value!r}",
            name,
        )
    return value


def truth_of(fields: Mapping[str, Any], name: str) -> bool:
    """A field that is true or false."""
    value = plain(fields.get(name, False))
    if not isinstance(value, bool):
        raise invalid(f"{name} must be true or false, got {value!r}", name)
    return value


def plain(value: Any) -> Any:
    """A value as JSON has it; forms send texts."""
    if not isinstance(value, str) or len(value) > 4096:
        return value
    try:
        found = json.loads(value, parse_constant=lambda word: value)
    except (ValueError, RecursionError):
        return value
    return tuple(found) if isinstance(found, list) else found
