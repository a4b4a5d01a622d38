"""A pipeline with the call shape of diffusers, so that a notebook changes one import.

    from smalti import DiffusersPipeline

    pipe = DiffusersPipeline.from_pretrained("llamagen-t2i-256", torch_dtype="bfloat16")
    image = pipe(prompt="a red flower", guidance_scale=4.0, generator=generator).images[0]

diffusers itself is not needed. Its arguments are translated to those of `Pipeline`, and an argument
that has no meaning here is refused. Pipelines of text and pictures are not taken.
B pictures, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypedDict, Unpack, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from smalti.arguments import plain, several, whole
from smalti.config import did_you_mean
from smalti.pipeline.pipeline import Pipeline
from smalti.pipeline.request import Wanted

OUTPUTS = ("pil", "np", "pt")
SEEDS = 1 << 31
"""Seeds are drawn below it."""


class Called(TypedDict, total=False):
    """What a call takes, by diffusers' names."""

    negative_prompt: str | Sequence[str] | None
    """What guidance leads away from; empty texts are none."""
    style: str | None
    """What stands behind each prompt, of a pipeline that knows styles."""
    height: int | None
    width: int | None
    """Pixels, of a pipeline that draws other sizes than its own."""
    num_inference_steps: int | None
    """Steps of a masked model; None: the pipeline's own."""
    guidance_scale: float | None
    """At most 1 is off, as in diffusers; None: the pipeline's own."""
    num_images_per_prompt: int
    generator: torch.Generator | Sequence[torch.Generator] | None
    """Where seeds come from: one for all pictures, or one for each; None: torch's own."""
    output_type: str
    """pil, np, (B, H, W, 3) in [0, 1], or pt, (B, 3, H, W) in [0, 1]."""
    return_dict: bool
    """Whether the answer has `.images`; else it is a tuple of them."""
    callback_on_step_end: Callable[[DiffusersPipeline, int, int, dict[str, Any]], Any] | None
    """Called with this pipeline, the number of the step, how many there are, and a dictionary of
    the pictures so far, `images`. If it sets `_interrupt` of the pipeline, drawing ends there."""


@dataclass
class ImagePipelineOutput:
    """What a call gives."""

    images: list[Image.Image] | np.ndarray | Tensor


class DiffusersPipeline:
    """A pipeline that is called as those of diffusers are. `pipeline` is the `Pipeline` that
    draws."""

    load: ClassVar[Callable[..., Pipeline]]
    """`smalti.load` of a pipeline of pictures, set where that is."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self._interrupt = False

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str,
        *,
        revision: str | None = None,
        device: str | torch.device | None = None,
        torch_dtype: str | torch.dtype | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> Self:
        """Load a pipeline by a folder, a name or a hub id, as `smalti.load` does. Raises ValueError
        as that does."""
        wanted = torch_dtype if dtype is None else dtype
        return cls(cls.load(pretrained_model_name_or_path, device, wanted, revision=revision))

    def to(self, *places: Any, **named: Any) -> Self:
        """Move to a device, bring the weights to a dtype, or both; returns itself."""
        self.pipeline.to(*places, **named)
        return self

    @property
    def device(self) -> torch.device:
        return self.pipeline.device

    @property
    def dtype(self) -> torch.dtype:
        return self.pipeline.dtype

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        class_labels: int | str | Sequence[int | str] | None = None,
        **called: Unpack[Called],
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draw pictures; those of one prompt stand one after another.

        Args:
            prompt: texts, for a pipeline that draws from texts, or else names of classes.
            class_labels: classes, by number or name.
            called: the other arguments of diffusers, see `Called`.
        Raises ValueError, which names what is allowed, for an argument that has no meaning here.
        """
        for name in called:
            if name not in (known := Called.__annotations__):
                near = did_you_mean(name, known)
                raise ValueError(f"a call takes {', '.join(known)}, got {name}{near}")
        output = called.get("output_type", "pil")
        if output not in OUTPUTS:
            raise ValueError(f"output_type must be one of {', '.join(OUTPUTS)}, got {output!r}")
        wanted, count = self._wanted(prompt, class_labels, called)
        self._interrupt = False
        images = self._drawn(wanted, count, called)
        made = ImagePipelineOutput(_as(images, output))
        return made if called.get("return_dict", True) else (made.images,)

    def _wanted(self, prompt: Any, labels: Any, called: Called) -> tuple[Wanted, int]:
        """What the pipeline is asked for, and how many pictures that is."""
        if (prompt is None) == (labels is None):
            raise ValueError("give prompt or class_labels, and not both")
        each = whole(called.get("num_images_per_prompt", 1), "num_images_per_prompt", 1)
        given = several(prompt if labels is None else labels)
        texts = labels is None and self.pipeline.text is not None
        wanted = Wanted(text=given) if texts else Wanted(classes=given)
        others = several(called.get("negative_prompt"))
        if any(other not in (None, "") for other in others):
            wanted["negative"] = others * len(given) if len(others) == 1 else others
        for name, condition in wanted.items():  # those of a prompt stand side by side
            wanted[name] = [one for one in several(condition) for _ in range(each)]
        if (style := called.get("style")) is not None:
            wanted["style"] = style
        if (scale := called.get("guidance_scale")) is not None:
            off = isinstance(scale := plain(scale), int | float) and scale <= 1
            wanted["guidance"] = 1.0 if off else scale
        if (steps := called.get("num_inference_steps")) is not None:
            wanted["steps"] = steps
        height, width = called.get("height"), called.get("width")
        if height is not None or width is not None:
            wanted["size"] = (height or width or 0, width or height or 0)
        return wanted, len(given) * each

    def _drawn(self, wanted: Wanted, count: int, called: Called) -> list[Image.Image]:
        """The pictures, of one seed or of one each."""
        generator, callback = called.get("generator"), called.get("callback_on_step_end")
        if generator is None or isinstance(generator, torch.Generator):
            return self._pictures({**wanted, "seed": _seed(generator)}, count, callback)
        if len(generator) != count:
            raise ValueError(f"give one generator or {count}, one a picture, got {len(generator)}")
        images = list[Image.Image]()
        for i, one in enumerate(generator):
            conditions = {
                name: several(value)[i : i + 1]
                for name, value in wanted.items()
                if name in ("text", "classes", "negative")
            }
            alone = cast(Wanted, {**wanted, **conditions, "seed": _seed(one)})
            images += self._pictures(alone, 1, callback)
        return images

    def _pictures(self, wanted: Wanted, count: int, callback: Any) -> list[Image.Image]:
        if callback is None:
            return self.pipeline(n=count, **wanted)
        images = list[Image.Image]()
        for part in self.pipeline.stream(n=count, **wanted):
            images = part.images
            callback(self, part.step - 1, part.total, {"images": images})
            if self._interrupt:
                break
        return images


def _seed(generator: torch.Generator | None) -> int:
    """A seed that a generator gives, which goes on, so that the next call draws other pictures."""
    where = None if generator is None else generator.device
    return int(torch.randint(SEEDS, (), generator=generator, device=where))


def _as(images: list[Image.Image], output: str) -> Any:
    """Pictures as `output_type` wants them."""
    if output == "pil":
        return images
    pixels = np.stack([np.asarray(image, np.float32) / 255 for image in images])  # (B, H, W, 3)
    return pixels if output == "np" else torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
