"""What the nodes do, without what they look like: pictures as ComfyUI has them, and pipelines that
show what they are drawing and stop when they are told to.

An IMAGE is float32 in [0, 1], (B, H, W, 3); a MASK float32 in [0, 1], (B, H, W) or (H, W), 1 where
it is painted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

import comfy.model_management as management
import comfy.utils
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from smalti.engine import stream
from smalti.engine.step import Known, Step
from smalti.pipeline.coded import preview
from smalti.pipeline.pipeline import Pipeline
from smalti.pipeline.request import Part

T = TypeVar("T")
PREVIEWS = 4
"""Pictures on the way, of all steps of a batch."""
SIDE = 512
"""Pixels of a preview at most."""
LEFT = -1
"""Of a setting that is left as the pipeline has it."""
LOOK = 0.2
"""Seconds after which who waits looks whether it is cancelled."""


class Watched(Pipeline):
    """A pipeline that tells ComfyUI how far it is, and stops between two steps if that is asked."""

    @staticmethod
    def of(pipe: Pipeline) -> Watched:
        """The same pipeline, watched. Its weights are shared."""
        return Watched(
            pipe.tokenizer, pipe.model, pipe.classes, pipe.sampling, pipe.info, pipe.text, pipe.map
        )

    def drawn(self, part: Part, known: Known | None = None) -> Tensor:
        """As `Pipeline.drawn`. Raises ComfyUI's InterruptProcessingException."""
        codes, bar, shown = self.model.draws(part.spec).empty(len(part.asked), self.device), None, 0
        for step in stream(self.model, self._request(part, known)):
            management.throw_exception_if_processing_interrupted()
            bar = bar or comfy.utils.ProgressBar(step.total)
            codes, share = step.drawn, step.done * (PREVIEWS + 1) // step.total
            seen = self._seen(step, part) if shown < share <= PREVIEWS else None
            bar.update_absolute(step.done, step.total, seen)
            shown = share
        return codes

    def _seen(self, step: Step, part: Part) -> tuple[str, Image.Image, int]:
        """The first picture on the way, as ComfyUI takes it."""
        vectors = None if step.vectors is None else step.vectors[:1]
        ready = step.ready.view(-1, step.ready.shape[-1])[:1]
        first = step._replace(codes=step.codes[:1], vectors=vectors, ready=ready)
        return "JPEG", preview(self.tokenizer, first, part.spec)[0], SIDE


async def unless_cancelled(waiting: Awaitable[T]) -> T:
    """What is waited for, however long that is. Raises ComfyUI's InterruptProcessingException."""
    task = asyncio.ensure_future(waiting)
    try:
        while not task.done():
            management.throw_exception_if_processing_interrupted()
            await asyncio.wait({task}, timeout=LOOK)
        return task.result()
    finally:
        task.cancel()


def images_of(pictures: list[Image.Image]) -> Tensor:
    """Pictures of one size as an IMAGE."""
    array = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    return torch.from_numpy(array).float() / 255


def pictures_of(image: Tensor) -> list[Image.Image]:
    """The pictures of an IMAGE. Raises ValueError for what is none."""
    if image.dim() != 4 or image.shape[-1] not in (3, 4):
        raise ValueError(f"an image is (B, H, W, 3), got {tuple(image.shape)}")
    array = (image[..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return [Image.fromarray(one) for one in array]


def masks_of(mask: Tensor | None, image: Tensor) -> list[Image.Image | None]:
    """A mask for each picture of an IMAGE; None if nothing is masked, as of a picture without
    transparency. Raises ValueError if they do not fit each other."""
    count, height, width = image.shape[:3]
    if mask is None or not bool((mask > 0.5).any()):
        return [None] * count
    mask = mask[None] if mask.dim() == 2 else mask
    if mask.shape[1:] != (height, width) or len(mask) not in (1, count):
        raise ValueError(f"the mask is {tuple(mask.shape)}, the image {tuple(image.shape[:3])}")
    array = ((mask > 0.5).to(torch.uint8) * 255).cpu().numpy()
    return [Image.fromarray(one) for one in np.broadcast_to(array, (count, height, width))]


def settings_of(**given: float) -> dict[str, Any]:
    """Settings of drawing, without those that are left as the pipeline has them."""
    return {name: value for name, value in given.items() if value != LEFT}


def conditions(pipe: Pipeline, prompt: str, negative: str) -> dict[str, Any]:
    """What is drawn: a text, or the class that a prompt names; without a prompt, nothing."""
    what = "classes" if pipe.text is None else "text"
    given = {what: prompt.strip(), "negative": negative.strip()}
    return {name: [said] for name, said in given.items() if said}
