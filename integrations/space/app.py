"""A page of Gradio, as a Space of Hugging Face has it: pictures that are seen while they grow.

`PIPELINE` is what it draws with, a folder, a name or a hub id; without it that is the model which
comes with smalti. `smalti serve` has a page of its own, with edits, that needs no Gradio.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import gradio as gr
from PIL import Image

from smalti.loading import load_pipeline

MOST = 4
"""Pictures at once."""
pipe = load_pipeline(os.environ.get("PIPELINE", "smalti/emoji64"))


def draw(what: str, n: float, seed: float, guidance: float) -> Iterator[list[Image.Image]]:
    """Pictures of a text or a class, as far as they are, until they are done."""
    try:
        for partial in pipe.stream([what], int(n), seed=int(seed), guidance=guidance):
            yield partial.images
    except ValueError as error:
        raise gr.Error(str(error)) from None


def page() -> gr.Blocks:
    """What is asked for, and what is drawn."""
    if pipe.text is None and not pipe.classes:
        raise SystemExit("this page draws from texts or classes, and the pipeline from maps")
    with gr.Blocks(title="smalti", analytics_enabled=False) as found:
        with gr.Row():
            if pipe.text is None:
                what = gr.Dropdown(pipe.classes, value=pipe.classes[0], label="class")
            else:
                what = gr.Textbox("", label="text")
            n = gr.Slider(1, MOST, 1, step=1, label="pictures")
            seed = gr.Number(0, precision=0, label="seed")
            own = pipe.sampling.guidance.scale
            guidance = gr.Slider(min(1, own), max(8, own), own, step=0.1, label="guidance")
        button = gr.Button("Draw", variant="primary")
        gallery = gr.Gallery(label="pictures", columns=2, format="png")
        if credit := pipe.info.get("credit"):
            gr.Markdown(f"Made with a model that learned: {credit}.")
        button.click(draw, [what, n, seed, guidance], gallery, api_name="draw")
    return found.queue(max_size=20)


demo = page()

if __name__ == "__main__":
    demo.launch()
