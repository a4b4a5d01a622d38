"""Arguments as people give them: names, numbers of any library, other libraries' words.

Imports neither torch nor numpy: their scalars are recognised by what they can do.
"""

from __future__ import annotations

import math
import operator
import re
import typing
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from smalti.config import did_you_mean

# -- names


def an(name: str) -> str:
    """A name of a class or system behind the article that it is spoken with: "a VQGAN", "an
    OpenMAGVIT2". Capitals that are no syllable are spelled: "an LFQ" (el), "a MAR"."""
    first, second = name[:1], name[1:2]
    if first.isupper() and second.isupper() and not {first, second} & {*"AEIOU"}:
        vowel = first in "FHLMNRSX"
    else:
        vowel = first.lower() in "aeio" or (first in "Uu" and not re.match("[Uu][ns]i", name))
    return f"{'an' if vowel else 'a'} {name}"


def choose(name: str, names: Iterable[str], what: str) -> str:
    """The one of `names` that `name` is: exactly, or else in other case.

    Raises ValueError if it is none of them, or in other case several.
    """
    names = list(names)
    index = find(name, names, what)
    if index is None:
        near = did_you_mean(str(name), names)
        raise ValueError(f"{what} must be one of {', '.join(names)}, got {name!r}{near}")
    return names[index]


def choose_number(name: Any, names: Sequence[str], what: str) -> int:
    """The number of the one of `names` that `name` is.

    A text is an exact name, or else a number, or else a name in other case. An integer is a number.
    Raises ValueError for what is nothing of this, and for a text that could mean two things: "1"
    beside the name "01", or any number that is no name where all names are numbers.
    """
    if not isinstance(name, str):
        if isinstance(plain(name), bool) or not hasattr(plain(name), "__index__"):
            raise ValueError(f"a {what} must be a name or a number, got {name!r}")
        return _by_number(whole(name, what), names, what)
    index = None
    if name not in names and name.isascii() and name.isdecimal():
        index = _by_number_text(name, names, what)
    index = find(name, names, what) if index is None else index
    if index is None:
        raise ValueError(_unknown(name, names, what) + did_you_mean(name, names))
    return index


def find(name: Any, names: Sequence[str], what: str) -> int | None:
    """The number of the one of `names` that `name` is, exactly or else in other case; None if there
    is none. Raises ValueError if there are several."""
    same = [i for i, other in enumerate(names) if other == name]
    if not same and isinstance(name, str):
        same = [i for i, other in enumerate(names) if _folded(other) == _folded(name)]
    if len(same) > 1:
        meanings = " or ".join(f"{names[i]!r} (number {i})" for i in same)
        raise ValueError(f"{what} {name!r} could be {meanings}")
    return same[0] if same else None


def _folded(name: str) -> str:
    """Without case, and with accents in one spelling: file systems have two."""
    return unicodedata.normalize("NFC", name).casefold()


def _by_number(number: int, names: Sequence[str], what: str) -> int:
    if 0 <= number < len(names):
        return number
    text = str(number)
    named = f"; the {what} named {text!r} is number {names.index(text)}" if text in names else ""
    raise ValueError(_unknown(number, names, what) + named)


def _by_number_text(name: str, names: Sequence[str], what: str) -> int | None:
    """The number that the digits `name`, no name, are; None if they are too large."""
    number, numbers = int(name), [n for n in names if n.isascii() and n.isdecimal()]
    if number >= len(names):
        return None
    equal = [n for n in numbers if int(n) == number]
    if equal or len(numbers) == len(names):
        named = f"the {what} named {equal[0]!r}, or " if equal else ""
        raise ValueError(
            f"{what} {name!r} could be {named}number {name}, which is the {what} named "
            f"{names[number]!r}: give the name"
        )
    return number


def _unknown(name: Any, names: Sequence[str], what: str) -> str:
    listed = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"{what} must be one of 0 ... {len(names) - 1} or {listed}, got {name!r}"


# -- numbers


def plain(value: Any) -> Any:
    """A scalar of numpy or torch as Python's own; an array of one axis as a tuple; else itself."""
    if not hasattr(value, "tolist"):
        return value
    value = value.tolist()
    return tuple(value) if isinstance(value, list) else value


def several(values: Any) -> list[Any]:
    """One value or several, in whatever holds them, as a list; a text is one."""
    values = plain(values)
    one = isinstance(values, str | bytes) or not isinstance(values, Iterable)
    return [values] if one else list(values)


def whole(value: Any, what: str, least: int | None = None) -> int:
    """An integer of Python, numpy or torch. Raises ValueError for anything else, booleans and
    floats included, and for less than `least`."""
    number = plain(value)
    if isinstance(number, bool) or not hasattr(number, "__index__"):
        raise ValueError(f"{what} must be a whole number, got {number!r}")
    number = operator.index(number)
    if least is not None and number < least:
        raise ValueError(f"{what} must be at least {least}, got {number}")
    return number


def fitting(value: Any, what: str, types: Iterable[Any]) -> Any:
    """A setting of one of the `types`, as Python's own value; an integer is a float as well, and
    where a text is wanted, numbers are that of them. Where one of several types is a tuple,
    the others are those of what it holds.

    Raises ValueError for anything else and for numbers that are not finite.
    """
    value, types = plain(value), set(types)
    if each := {kind for kind in types if typing.get_origin(kind) is tuple}:
        types -= each
        if isinstance(value, list | tuple):
            return tuple(fitting(v, what, types) for v in value)
    if types <= {str, type(None)} and type(value) not in types:
        numbers = value if isinstance(value, list | tuple) else (value,)
        if not numbers or not all(type(number) in (int, float) for number in numbers):
            raise ValueError(f"{what} must be a text, got {value!r}")
        return ",".join(map(str, numbers))
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, float) and not math.isfinite(number):
            raise ValueError(f"{what} must be a finite number, got {number}")
    wider = types | ({int} if float in types else set())
    if type(value) not in wider and types <= {int, float, bool, type(None)}:
        kinds = {float: "a number", int: "a whole number", bool: "True or False"}
        words = next(word for kind, word in kinds.items() if kind in types)
        raise ValueError(f"{what} must be {words}, got {value!r}")
    return value


def sides(value: Any, what: str) -> tuple[int, int]:
    """Height and width in pixels: two numbers, one for both, or a text such as "48x32" or "48".

    Raises ValueError for anything else.
    """
    typed = isinstance(value, str) and re.fullmatch("[0-9]+(x[0-9]+)?", value)
    each = [int(side) for side in value.split("x")] if typed else several(value)
    if len(each) not in (1, 2) or isinstance(value, str) and not typed:
        raise ValueError(f"{what} must be a height and a width, such as 48x32, got {value!r}")
    height, width = (whole(side, what, 1) for side in (each[0], each[-1]))
    return height, width


def by(size: Sequence[int]) -> str:
    """Height and width as they are typed: 48x32."""
    height, width = size
    return f"{height}x{width}"


# -- other libraries' words

_GUIDANCE = ("guidance", "u + s * (c - u), 1 is off")
_COUNT = ("n", "the number of images in all, classes or prompts in turn")
_SEED = ("seed", "a whole number; image i of a seed is always the same")
_STEPS = (
    "steps",
    "of models that reveal codes in steps; head_steps is of continuous codes; others take one step "
    "for each code or scale",
)
_SIZE = ("size", "height and width of the pictures in pixels")
_OWN_SIZE = ("", "pictures have the size that the model learned; extend, in an edit, goes beyond")
_RANDOM = ("temperature", "codes are always drawn at random; top_k 1 takes the likeliest")
_LENGTH = ("", "an image has as many codes as the model learned")
_RESULT = ("", "images are a list of PIL pictures; pipe.codes and pipe.decode give tensors")
_HUB = ("", "the Hugging Face client reads it from its environment: HF_HOME, HF_HUB_OFFLINE, ...")
_WEIGHTS = ("", "weights are always safetensors, loaded without a second copy")

WORDS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("prompt", "prompts", "caption", "captions"), ("text", "a prompt or several")),
    **dict.fromkeys(
        ("negative_prompt", "negative_prompts", "uncond_prompt"),
        ("negative", "a prompt that guidance leads away from"),
    ),
    **dict.fromkeys(
        ("guidance_scale", "cfg_scale", "cfg", "cfg_weight", "guidance_strength", "scale"),
        _GUIDANCE,
    ),
    **dict.fromkeys(("generator", "random_seed", "manual_seed", "rng", "latents"), _SEED),
    **dict.fromkeys(
        ("num_images_per_prompt", "num_images", "num_samples", "num_return_sequences"), _COUNT
    ),
    **dict.fromkeys(("samples", "n_samples", "num"), _COUNT),
    "batch_size": ("batch", "images drawn at a time; n is how many in all"),
    **dict.fromkeys(("num_inference_steps", "num_steps", "num_iter", "timesteps"), _STEPS),
    "num_sampling_steps": ("head_steps", "steps of the solver of continuous codes"),
    **dict.fromkeys(
        ("class_labels", "class_label", "labels", "label", "class_ids", "class_id", "y"),
        ("classes", "names or numbers"),
    ),
    **dict.fromkeys(("height", "width", "image_size", "resolution"), _SIZE),
    "size": _OWN_SIZE,
    **dict.fromkeys(("output_type", "return_dict", "return_tensors"), _RESULT),
    "do_sample": _RANDOM,
    **dict.fromkeys(("num_beams", "repetition_penalty", "typical_p", "min_p"), _RANDOM),
    **dict.fromkeys(("max_new_tokens", "max_length", "min_length", "min_new_tokens"), _LENGTH),
    "mask_image": ("mask", "in an edit; white or transparent is painted anew"),
    **dict.fromkeys(("init_image", "input_image"), ("image", "the picture to edit")),
    "strength": ("mask", "in an edit; what it covers is drawn wholly anew, the rest is kept"),
    **dict.fromkeys(
        ("callback", "callback_on_step_end", "streamer"),
        ("", "pipe.stream gives the images on the way"),
    ),
    **dict.fromkeys(("torch_dtype", "precision", "variant"), ("dtype", "of the weights")),
    **dict.fromkeys(("device_map", "cuda"), ("device", "auto, cpu, cuda, cuda:1 or mps")),
    **dict.fromkeys(
        ("cache_dir", "local_files_only", "token", "use_auth_token", "force_download"), _HUB
    ),
    **dict.fromkeys(
        ("use_safetensors", "low_cpu_mem_usage", "load_in_8bit", "load_in_4bit"), _WEIGHTS
    ),
    "trust_remote_code": ("", "nothing is run that comes with weights"),
}
"""What other libraries call it: our word ("" where there is none), and what it means."""


def in_our_words(word: str, allowed: Iterable[str], dashes: str = "") -> str:
    """What to say of an argument that is not known: our word for it where it is among `allowed`,
    or the nearest one that is, or ""."""
    allowed = list(allowed)
    ours, meaning = WORDS.get(word.replace("-", "_"), (None, ""))
    if ours not in allowed:  # a word of ours may have no counterpart in some calls
        ours, meaning = WORDS.get(ours or "", (ours, meaning))
    if ours == "":
        return f"{dashes}{word} has no counterpart here: {meaning}"
    if ours in allowed:
        ours = ours.replace("_", "-") if dashes else ours
        return f"{dashes}{word} is {dashes}{ours} here: {meaning}"
    return ""


def refuse_unknown(given: Iterable[str], known: Sequence[str], others: Sequence[str]) -> None:
    """Raise ValueError for the first of the settings of drawing that is not `known`; `others` are
    arguments of some calls."""
    for name in given:
        if name in known:
            continue
        if name in others:
            raise ValueError(f"{name} is an argument of other calls, not of this one")
        near = did_you_mean(name, [*known, *others])
        told = in_our_words(name, [*known, *others])
        raise ValueError(told or f"sampling has {', '.join(known)}, got {name}{near}")
