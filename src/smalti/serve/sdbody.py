"""What clients of AUTOMATIC1111's web UI send, read for our own routes, and what they are told."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageFilter, ImageOps

from smalti.data.decode import to_rgb
from smalti.serve.answers import Output, file_of, fitted
from smalti.serve.edits import Edit, Variation
from smalti.serve.errors import invalid, missing
from smalti.serve.orders import SIDE, Drawer
from smalti.serve.shared import Shared
from smalti.serve.talker import Talker
from smalti.serve.uploads import from_text, picture

Size = tuple[int, int]
"""Width and height in pixels."""
OURS = ("temperature", "top_k", "top_p", "schedule", "order", "first", "class")
"""Fields of our own that are taken too."""
IDLE = ("enable_hr", "restore_faces", "tiling", "styles")
"""What nothing here does; those that only say how the web UI works are not even named."""


@dataclass(frozen=True)
class Init:
    """A picture that is brought, of the size in which it is wanted back, and what is done to it."""

    base: Image.Image
    mask: Image.Image | None
    """White where it is painted anew, with a soft edge."""
    edit: Edit


def init_of(body: Mapping[str, Any], most: int) -> Init:
    """Read what an edit does: without a mask, a variation. Pictures have at most `most` pixels.

    A mask is white where it is painted, and so is what is opaque in one with transparency: the
    opposite of OpenAI's. Raises Refused for what is missing or cannot be.
    """
    given = body.get("init_images")
    if not isinstance(given, list) or not given:
        raise missing("init_images")
    if len(given) > 1:
        raise invalid(f"init_images holds one picture here, got {len(given)}", "init_images")
    image = to_rgb(_read(given[0], "init_images", most), "the image")
    base = _to(image, size_of(body) or image.size, body.get("resize_mode"))
    mask = body.get("mask")
    if mask is None:
        strength = _number(body, "denoising_strength", 0.75, 0, 1) or 1e-9
        return Init(base, None, Variation(base, None, None, False, strength))
    mask = _to(_painted(_read(mask, "mask", most)), base.size, body.get("resize_mode"))
    if _number(body, "inpainting_mask_invert", 0, 0, 1):
        mask = ImageOps.invert(mask)
    mask = mask.point([0] * 128 + [255] * 128)
    soft = mask.filter(ImageFilter.GaussianBlur(_number(body, "mask_blur", 4, 0, 64)))
    return Init(base, soft, Edit(base, mask, None, False))


def _read(given: Any, name: str, most: int) -> Image.Image:
    if not isinstance(given, str):
        raise invalid(f"{name} must be pictures in base64", name)
    return picture(from_text(given, name), name, most)


def _to(image: Image.Image, size: Size, mode: Any) -> Image.Image:
    """A picture of a size: stretched, or with `resize_mode` 1 or 2 cut."""
    return ImageOps.fit(image, size) if mode in (1, 2) else image.resize(size)


def _painted(mask: Image.Image) -> Image.Image:
    if "A" in mask.getbands() and (alpha := mask.getchannel("A")).getextrema() != (255, 255):
        return alpha
    return mask.convert("L")


def size_of(body: Mapping[str, Any]) -> Size | None:
    """The size that is asked for. Raises Refused for one that cannot be."""
    if body.get("width") is None and body.get("height") is None:
        return None
    width, height = (body.get(name) for name in ("width", "height"))
    for name, side in (("width", width), ("height", height)):
        if type(side) is not int or not 1 <= side <= SIDE:
            raise invalid(f"{name} must be a whole number from 1 to {SIDE}, got {side!r}", name)
    return width, height  # type: ignore[return-value] - both are whole


def _number(body: Mapping[str, Any], name: str, usual: float, least: float, most: float) -> float:
    value = usual if body.get(name) is None else body[name]
    if not isinstance(value, int | float) or not least <= value <= most:
        raise invalid(f"{name} must be from {least} to {most}, got {value!r}", name)
    return float(value)


def fields_of(body: Mapping[str, Any], pipeline: Drawer) -> tuple[dict[str, Any], list[str]]:
    """A request by the names that `order_of` reads, and the names of what this model has not.

    Its size is not among them: clients ask for 512x512 whatever the model is, so pictures are drawn
    at the model's own size and resampled.
    """
    left = [name for name in IDLE if body.get(name)]
    counts = [1 if body.get(name) is None else body[name] for name in ("batch_size", "n_iter")]
    whole = all(type(count) is int for count in counts)
    fields: dict[str, Any] = {name: body[name] for name in OURS if name in body}
    fields |= {"n": counts[0] * counts[1] if whole else counts, "guidance": body.get("cfg_scale")}
    fields["prompt"] = body.get("prompt") or None
    fields["seed"] = None if body.get("seed") in (-1, "-1", "") else body.get("seed")
    if pipeline.model.draws_by == "masked":
        steps, positions = body.get("steps"), pipeline.model.spec.positions
        fields["steps"] = min(steps, positions) if type(steps) is int else steps
    elif body.get("steps") is not None:
        left.append("steps")
    if pipeline.reads_texts:
        fields["negative"] = body.get("negative_prompt") or None
    elif body.get("negative_prompt"):
        left.append("negative_prompt")
    return fields, left


def pictures_of(drawn: Sequence[Image.Image], size: Size | None, init: Init | None) -> list[str]:
    """PNGs in base64, of the size that is wanted."""
    images = [image if size is None else _resampled(image, size, init) for image in drawn]
    return [base64.b64encode(file_of(image, Output())).decode() for image in images]


def _resampled(image: Image.Image, size: Size, init: Init | None) -> Image.Image:
    """A picture of a size: of one that was brought, in the middle of it, as that is what was seen;
    of any other, cut."""
    if init is None:
        return fitted(image, size)
    whole, part = init.base.copy(), ImageOps.contain(image, size)
    whole.info["smalti"] = image.info.get("smalti")
    left, top = ((a - b) // 2 for a, b in zip(size, part.size, strict=True))
    box = (left, top, left + part.width, top + part.height)
    whole.paste(part, box, None if init.mask is None else init.mask.crop(box))
    return whole


def hash_of(one: Shared | Talker) -> str:
    """By which clients know a model."""
    return one.pipeline.fingerprint[:10]


def told(body: Mapping[str, Any]) -> dict[str, Any]:
    """A request without its pictures."""
    return {name: value for name, value in body.items() if name not in ("init_images", "mask")}


def info_of(
    body: Mapping[str, Any],
    one: Shared | Talker,
    seed: int,
    drawn: Sequence[Image.Image],
    size: Size | None,
) -> dict[str, Any]:
    """What is told of pictures, as clients read it, and under `smalti` what they do not know of."""
    own = next((image.size for image in drawn), size or (0, 0))
    width, height = size or own
    common = {name: str(body.get(name) or "") for name in ("prompt", "negative_prompt")}
    facts = {
        "Sampler": "smalti",
        "CFG scale": body.get("cfg_scale"),
        "Seed": seed,
        "Size": f"{width}x{height}",
        "Model": one.name,
    }
    if own != (width, height):
        facts["Drawn at"] = "{}x{}".format(*own)
    lines = [common["prompt"], f"Negative prompt: {common['negative_prompt']}"]
    text = "\n".join([*lines, ", ".join(f"{name}: {value}" for name, value in facts.items())])
    about = [image.info.get("smalti", {}) for image in drawn]
    listed = {f"all_{k}s": [v] * len(drawn) for k, v in (common | {"seed": seed}).items()}
    return {
        **common,
        **listed,
        "seed": seed,
        "width": width,
        "height": height,
        "cfg_scale": body.get("cfg_scale"),
        "batch_size": len(drawn),
        "sampler_name": "smalti",
        "sd_model_name": one.name,
        "sd_model_hash": hash_of(one),
        "infotexts": [text] * len(drawn),
        "smalti": {"drawn_at": "{}x{}".format(*own), "pictures": about},
    }


def progress_of(share: float, passed: float, works: int, ended: bool) -> dict[str, Any]:
    """How far a client's requests are, 0 to 1, after so many seconds."""
    return {
        "progress": round(share, 4),
        "eta_relative": round(passed * (1 - share) / share, 2) if share else 0.0,
        "state": {
            "skipped": False,
            "interrupted": ended,
            "job": "smalti" if works else "",
            "job_count": works,
            "job_no": 0,
            "sampling_step": round(100 * share),
            "sampling_steps": 100 if works else 0,
        },
        "current_image": None,
        "textinfo": None,
    }


def lists_of(shared: Sequence[Shared | Talker]) -> dict[str, list[dict[str, Any]]]:
    """What there is to choose from, by the names of its routes; but for models, one of each."""
    named = [(one.name, hash_of(one)) for one in shared]
    model = {"model_name": None, "model_path": None, "model_url": None}
    return {
        "sd-models": [
            {"title": name, "model_name": name, "hash": mark, "filename": name}
            for name, mark in named
        ],
        "samplers": [{"name": "smalti", "aliases": [], "options": {}}],
        "schedulers": [{"name": "automatic", "label": "Automatic", "aliases": None}],
        "upscalers": [{"name": "None", "scale": 1} | model],
        "latent-upscale-modes": [],
        "sd-vae": [],
    }
