"""Train on your own pictures, step by step, and look at each part. A notebook.

python examples/train_own.py

`SOURCE` may be folder:PATH, with a sub-folder for each class. Run again, it goes on.
"""

# %%
from dataclasses import replace
from pathlib import Path

import smalti
from smalti.pictures import grid, save_png
from smalti.recipes.base import DataConfig
from smalti.recipes.llamagen import emoji_llamagen, emoji_vqgan
from smalti.runs.run import train

SOURCE, OUT = "emoji", Path("runs/own-notebook")
STEPS, CHANNELS, DIM = 800, 48, 192  # of the tokenizer; its width; that of the generator

# %% [markdown]
# ## A tokenizer
# It learns to write pictures as codes. A tenth of the pictures is held out; what comes back of
# these is measured in dB.

# %%
data, recipe = DataConfig(source=SOURCE), emoji_vqgan()
share = STEPS / recipe.train.steps
recipe = replace(
    recipe,
    data=data,
    model=replace(recipe.model, channels=CHANNELS),
    train=replace(recipe.train, steps=STEPS),
)
tokenizer = train(recipe, OUT / "tokenizer")
print(f"held-out pictures come back at {tokenizer['held_out_psnr']:.2f} dB")

# %% [markdown]
# ## A generator
# It learns to write such codes. Fewer bits per held-out code mean that it predicts them better.

# %%
recipe = emoji_llamagen()
recipe = replace(
    recipe,
    data=data,
    tokenizer=str(OUT / "tokenizer" / "tokenizer"),
    model=replace(recipe.model, dim=DIM),
    train=replace(recipe.train, steps=round(recipe.train.steps * share)),
)
generator = train(recipe, OUT / "generator")
print(f"a held-out code takes {generator['held_out_bits_per_token']:.2f} bits")

# %%
pipe = smalti.load(OUT / "generator" / "pipeline")
save_png(grid(pipe(n=16, seed=1), zoom=2), OUT / "samples.png", {})
