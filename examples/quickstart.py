"""Quickstart: draw from a pipeline, watch it draw, and paint half of a picture anew. A notebook.

python examples/quickstart.py

It takes the model that comes with smalti and writes pictures into `quickstart`. `PIPELINE` may be
another one of classes, such as `demo/pipeline`, which `smalti demo` leaves.
"""

# %%
from pathlib import Path

from PIL import Image

import smalti
from smalti.pictures import grid, named_grid, save_png

PIPELINE, OUT = "smalti/emoji64", Path("quickstart")

# %% [markdown]
# ## Draw
# A pipeline is a folder, a name or a hub id. One of classes takes their names or numbers, one of
# texts takes prompts, such as the names of the classes that it knows. Image i of a seed is always
# the same.

# %%
pipe = smalti.load(PIPELINE)
OUT.mkdir(exist_ok=True)
names = (pipe.classes or list(pipe.wording.classes))[:4]
save_png(named_grid(pipe(names, n=2 * len(names), seed=1), names, zoom=2), OUT / "drawn.png", {})

# %% [markdown]
# ## Guidance
# Three rows of the same noise: without guidance, with a little, and with much.

# %%
rows = [image for scale in (1.0, 2.0, 4.0) for image in pipe(names, seed=1, guidance=scale)]
save_png(grid(rows, columns=len(names), zoom=2), OUT / "guidance.png", {})

# %% [markdown]
# ## Watch
# The picture on the way, every 16 codes or every scale, as far as it is drawn.

# %%
steps = [partial.images[0] for partial in pipe.stream(names[:1], seed=1)]
save_png(grid(steps, columns=len(steps), zoom=2), OUT / "steps.png", {})

# %% [markdown]
# ## Edit
# What the mask paints white is drawn anew; what it leaves black stays, pixel by pixel.

# %%
picture = steps[-1]
mask = Image.new("L", picture.size)
mask.paste(255, (0, picture.height // 2, *picture.size))
edited = pipe.edit(picture, mask, classes=names[:1], n=3, seed=2, keep_pixels=True)
save_png(grid([picture, mask.convert("RGB"), *edited], columns=5, zoom=2), OUT / "edited.png", {})
print(f"{OUT}: drawn.png, guidance.png, steps.png, edited.png")
