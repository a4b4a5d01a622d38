"""Change one thing of a model and see what it does to held-out bits. A notebook.

python examples/one_thing.py

It takes the tokenizer that `examples/train_own.py` leaves, and trains two generators on its codes.
"""

# %%
from dataclasses import replace
from pathlib import Path

from smalti.recipes.base import DataConfig
from smalti.recipes.llamagen import emoji_llamagen
from smalti.runs.run import train

SOURCE, OUT = "emoji", Path("runs/one-thing")
TOKENIZER, STEPS, DIM = "runs/own-notebook/tokenizer/tokenizer", 1000, 192

# %% [markdown]
# ## Two runs that differ in one thing
# A recipe is a frozen dataclass, so that a variant is one `replace`. Data, seed and steps are the
# same; here the second generator draws codes from the outside of the picture to its middle.

# %%
base = emoji_llamagen()
base = replace(
    base,
    data=DataConfig(source=SOURCE),
    tokenizer=TOKENIZER,
    model=replace(base.model, dim=DIM),
    train=replace(base.train, steps=STEPS),
)
variants = {
    "row-major": base,
    "spiral-in": replace(base, model=replace(base.model, order="spiral-in")),
}
reports = {name: train(recipe, OUT / name) for name, recipe in variants.items()}

# %% [markdown]
# ## What it did
# The codes are the same, so that their bits compare. One seed says little: train with another
# `train.seed` before you believe a small difference. What is no field of a recipe is a file of its
# own: `docs/adding-a-model.md`.

# %%
bits = {name: report["held_out_bits_per_token"] for name, report in reports.items()}
for name, value in bits.items():
    print(f"{name}: {value:.3f} bits per held-out code")
