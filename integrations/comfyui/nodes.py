"""The nodes: load a pipeline, draw, edit, encode and decode, and draw on a server."""

from __future__ import annotations

import base64
import io as memory
import os
from typing import Any

import comfy.utils
import torch
from comfy_api.latest import ComfyExtension, io
from PIL import Image
from torch import Tensor

from smalti.loading import load_pipeline
from smalti.pipeline.editing import edit
from smalti.pipeline.pipeline import Pipeline

from .drawing import (
    LEFT,
    SIDE,
    Watched,
    conditions,
    images_of,
    masks_of,
    pictures_of,
    settings_of,
    unless_cancelled,
)

CATEGORY = "smalti"
KEY = "SMALTI_API_KEY"
"""The variable that holds the key of a server: what is typed into a node is stored with every
picture."""
MOST = 2**53 - 1
"""The largest seed that a page of ComfyUI can hold."""
Smalti = io.Custom("SMALTI_PIPELINE")
Codes = io.Custom("SMALTI_CODES")


def prompt_inputs() -> list[io.Input]:
    """What is drawn, and which picture of it."""
    tip = "A text, or the name or number of a class, as the pipeline draws them."
    return [
        io.String.Input("prompt", multiline=True, default="", tooltip=tip),
        io.String.Input("negative", default="", tooltip="What guidance leads away from (texts)."),
        io.Int.Input("seed", default=0, min=0, max=MOST, control_after_generate=True),
    ]


def setting_inputs() -> list[io.Input]:
    """How it is drawn; -1 leaves a setting as the pipeline has it."""
    tip = "-1: as the pipeline has it"
    numbers = {"default": float(LEFT), "min": float(LEFT), "tooltip": tip, "optional": True}
    counts = {"default": LEFT, "min": LEFT, "tooltip": tip, "optional": True}
    return [
        io.Float.Input("guidance", max=100.0, step=0.1, **numbers),
        io.Float.Input("temperature", max=10.0, step=0.05, **numbers),
        io.Int.Input("top_k", max=1 << 20, **counts),
        io.Float.Input("top_p", max=1.0, step=0.01, **numbers),
        io.Int.Input("steps", max=4096, **counts),
    ]


def schema(
    node: str, title: str, about: str, inputs: list[io.Input], output: io.Output
) -> io.Schema:
    """What a page of ComfyUI shows of a node."""
    return io.Schema(
        node_id=node,
        display_name=title,
        category=CATEGORY,
        description=about,
        inputs=inputs,
        outputs=[output],
    )


class Load(io.ComfyNode):
    """A pipeline of a folder or of the Hugging Face hub."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "SmaltiLoad",
            "Load smalti pipeline",
            "Loads tokenizer, generator and text encoder. Nothing in it is executed.",
            [
                io.String.Input("pipeline", tooltip="A folder, or an id of the Hugging Face hub."),
                io.Combo.Input("device", options=["auto", "cpu", "cuda"], default="auto"),
                io.Combo.Input("dtype", options=["auto", "float32", "bfloat16"], default="auto"),
            ],
            Smalti.Output("SMALTI_PIPELINE", display_name="pipeline"),
        )

    @classmethod
    def execute(cls, pipeline: str, device: str, dtype: str) -> io.NodeOutput:
        return io.NodeOutput(load_pipeline(pipeline.strip(), device, dtype))


class Draw(io.ComfyNode):
    """Pictures of a text or a class."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "SmaltiDraw",
            "Draw (smalti)",
            "Draws pictures and shows them while they grow. Picture i of a seed is the "
            "same whatever n and batch are.",
            [
                Smalti.Input("pipeline"),
                *prompt_inputs(),
                io.Int.Input("n", default=1, min=1, max=256),
                io.Int.Input("batch", default=8, min=1, max=256, optional=True),
                *setting_inputs(),
            ],
            io.Image.Output("IMAGE", display_name="images"),
        )

    @classmethod
    def execute(
        cls, pipeline: Pipeline, prompt: str, negative: str, seed: int, n: int, batch: int = 8,
        **settings: Any,
    ) -> io.NodeOutput:  # fmt: skip
        pipe, wanted = Watched.of(pipeline), conditions(pipeline, prompt, negative)
        if pipeline.map is not None:
            raise ValueError("this pipeline draws from maps, which this node does not take")
        if not prompt.strip():
            such = f"a class, such as {pipeline.classes[0]!r}" if pipeline.classes else "a text"
            raise ValueError(f"prompt must be {such}, got none")
        drawn = pipe(n=n, batch=batch, seed=seed, **wanted, **settings_of(**settings))
        return io.NodeOutput(images_of(drawn))


class Edit(io.ComfyNode):
    """Parts of pictures painted anew, or more at their sides."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        sides = {"default": 0, "min": 0, "max": 4096, "optional": True}
        return schema(
            "SmaltiEdit",
            "Edit (smalti)",
            "Paints what is masked anew, or goes on beyond the edges; picture i of a "
            "batch is picture i of the seed. It is brought to the model's size first.",
            [
                Smalti.Input("pipeline"),
                io.Image.Input("image"),
                *prompt_inputs(),
                io.Mask.Input("mask", optional=True),
                *[io.Int.Input(side, **sides) for side in ("left", "right", "top", "bottom")],
                io.Boolean.Input("keep_pixels", default=True, optional=True),
                *setting_inputs(),
            ],
            io.Image.Output("IMAGE", display_name="images"),
        )

    @classmethod
    def execute(
        cls, pipeline: Pipeline, image: Tensor, prompt: str, negative: str, seed: int,
        mask: Tensor | None = None, left: int = 0, right: int = 0, top: int = 0, bottom: int = 0,
        keep_pixels: bool = True, **settings: Any,
    ) -> io.NodeOutput:  # fmt: skip
        sides = {"left": left, "right": right, "top": top, "bottom": bottom}
        extend = {side: pixels for side, pixels in sides.items() if pixels}
        pipe, drawn = Watched.of(pipeline), list[Image.Image]()
        how = conditions(pipeline, prompt, negative) | settings_of(**settings) | {"seed": seed}
        for i, (one, hole) in enumerate(
            zip(pictures_of(image), masks_of(mask, image), strict=True)
        ):
            drawn += edit(
                pipe, one, hole, extend=extend or None, keep_pixels=keep_pixels, n=1, first=i, **how
            )
        return io.NodeOutput(images_of(drawn))


class Encode(io.ComfyNode):
    """The codes of pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "SmaltiEncode",
            "Encode (smalti)",
            "Codes of pictures, which are brought to the model's size.",
            [Smalti.Input("pipeline"), io.Image.Input("image")],
            Codes.Output("SMALTI_CODES", display_name="codes"),
        )

    @classmethod
    def execute(cls, pipeline: Pipeline, image: Tensor) -> io.NodeOutput:
        return io.NodeOutput(torch.cat([pipeline.encode(one) for one in pictures_of(image)]))


class Decode(io.ComfyNode):
    """The pictures of codes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "SmaltiDecode",
            "Decode (smalti)",
            "Pictures of codes.",
            [Smalti.Input("pipeline"), Codes.Input("codes")],
            io.Image.Output("IMAGE", display_name="images"),
        )

    @classmethod
    def execute(cls, pipeline: Pipeline, codes: Tensor) -> io.NodeOutput:
        pixels = pipeline.decode(codes)  # (B, 3, H, W), uint8
        return io.NodeOutput(pixels.permute(0, 2, 3, 1).float().cpu() / 255)


class ServerDraw(io.ComfyNode):
    """Pictures that `smalti serve` draws, or any server of OpenAI's images."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "SmaltiServerDraw",
            "Draw on a smalti server",
            f"Nothing is computed here. A key is read from the variable {KEY}.",
            [
                io.String.Input("address", default="http://127.0.0.1:8000/v1"),
                io.String.Input("model", default="", tooltip="Empty: the server's first."),
                *prompt_inputs(),
                io.Int.Input("n", default=1, min=1, max=10),
                *setting_inputs(),
            ],
            io.Image.Output("IMAGE", display_name="images"),
        )

    @classmethod
    async def execute(
        cls, address: str, model: str, prompt: str, negative: str, seed: int, n: int,
        **settings: Any,
    ) -> io.NodeOutput:  # fmt: skip
        from openai import APIConnectionError, AsyncOpenAI  # only here

        server = AsyncOpenAI(base_url=address.rstrip("/"), api_key=os.environ.get(KEY) or "none")
        more = settings_of(**settings) | {"seed": seed}
        more |= {"negative": negative.strip()} if negative.strip() else {}
        named = {"model": model.strip()} if model.strip() else {}
        done, bar, shown = dict[int, Image.Image](), comfy.utils.ProgressBar(4 * n), 0
        asked = server.images.generate(
            prompt=prompt, n=n, stream=True, partial_images=3, extra_body=more, **named
        )
        try:
            async with server, await unless_cancelled(asked) as events:
                while event := await unless_cancelled(anext(events, None)):
                    picture = Image.open(memory.BytesIO(base64.b64decode(event.b64_json)))
                    shown = min(shown + 1, 4 * n - 1)
                    if event.type.endswith("completed"):
                        done[getattr(event, "index", len(done))] = picture
                    bar.update_absolute(shown, 4 * n, ("JPEG", picture, SIDE))
        except APIConnectionError:
            raise ValueError(f"no server answers at {address}") from None
        bar.update_absolute(4 * n)
        return io.NodeOutput(images_of([done[i] for i in sorted(done)]))


class SmaltiNodes(ComfyExtension):
    """All of them."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [Load, Draw, Edit, Encode, Decode, ServerDraw]


async def comfy_entrypoint() -> SmaltiNodes:
    """What ComfyUI asks for."""
    return SmaltiNodes()
