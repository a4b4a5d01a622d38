import numpy as np
import pytest
from PIL import Image

from smalti.data.source import Example, Source, class_labels, describe, digest


class Pictures(Source):
    """A source of random pictures in memory, which counts how often each is decoded.

    Those of the indices `broken` cannot be.
    """

    def __init__(self, count, keys=None, side=(24, 40), seed=0, broken=()):
        rng = np.random.default_rng(seed)
        self.name = "pictures"
        self.skipped, self.broken = {}, set(broken)
        self.keys = keys or [f"p{i}" for i in range(count)]
        sizes = rng.integers(side[0], side[1] + 1, (count, 2))
        self.pixels = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in sizes]
        self.labels, self.classes = class_labels([int(i % 3) for i in range(count)], self.name)
        self.decoded = [0] * count

    def __len__(self):
        return len(self.keys)

    def __getitem__(self, i):
        self.decoded[i] += 1
        if i in self.broken:
            raise ValueError(f"cannot decode image {self.key(i)}: it is broken")
        return Example(Image.fromarray(self.pixels[i]), self.label(i), self.caption(i))

    def label(self, i):
        return int(self.labels[i])

    def caption(self, i):
        return f"picture {i}"

    def key(self, i):
        return self.keys[i]

    def size(self, i):
        return 0

    def fingerprint(self):
        return digest(describe(self))


@pytest.fixture
def pictures():
    return Pictures
