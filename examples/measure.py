"""Measure a pipeline: how near its pictures are to real ones, at which guidance. A notebook.

python examples/measure.py

It takes `demo/pipeline`, which `smalti demo` leaves, and pictures that its training never saw.
"""

# %%
import tempfile
from pathlib import Path

import smalti
from smalti.eval.measure import measure
from smalti.eval.metrics import How
from smalti.eval.pipelines import bits
from smalti.eval.sets import open_set

PIPELINE, REFERENCE = "demo/pipeline", "emoji@held"

# %% [markdown]
# ## What it is measured against
# Pictures are brought to the size that the pipeline draws. The Fréchet wavelet distance (`fwd`)
# needs no network; less is nearer. `draws` are the bootstrap resamples behind each interval.

# %%
pipe = smalti.load(PIPELINE)
reference = open_set(REFERENCE, size=pipe.tokenizer.config.size[0])
how = How(draws=50)

# %% [markdown]
# ## Held-out bits
# How well the generator predicts the codes of these pictures. Nothing is drawn.

# %%
for number in bits(pipe, reference, how):
    print(f"{number.metric}: {number.value:.4g}")

# %% [markdown]
# ## Distances of drawn pictures
# The classes of the reference's pictures, at three scales of guidance.

# %%
distances = {}
for scale in (1.0, 2.0, 4.0):
    with tempfile.TemporaryDirectory() as folder:
        for i, image in enumerate(pipe(classes=reference.labels.tolist(), seed=0, guidance=scale)):
            image.save(Path(folder) / f"{i:05}.png")
        (number,) = measure(open_set(folder), reference, how)
    distances[scale] = number.value
    print(f"guidance {scale}: {number.metric} {number.value:.4g}, 95 % {number.interval}")
