"""LlamaGen's crops and its conversion of samples to pixels, bit for bit."""

from pathlib import Path

import pytest
import torch
from golden import folders, load

from smalti.data.transforms import Transform, center_crop, resize, ten_crop, to_float, to_uint8


@pytest.mark.parametrize("folder", folders("llamagen_preprocess"))
def test_llamagen_preprocess(folder: Path):
    config, _, io = load(folder)
    size, ratio = config["constructor"]["size"], config["constructor"]["crop_range"]
    images = sorted(name for name in io if name.startswith("image_"))
    assert images
    for name in images:
        index = name.removeprefix("image_")
        image = io[name].numpy()
        square = center_crop(image, size)
        io.check(f"center_crop_{index}", torch.from_numpy(square))
        ten = torch.from_numpy(ten_crop(image, size, ratio)).movedim(-1, 1)
        io.check(f"ten_crop_{index}", to_float(ten), 2e-7)
        if ratio == 1.1:
            views = Transform(size, crop="ten").views(_picture(image))
            assert torch.equal(torch.from_numpy(views), ten)
    if "samples" in io:
        samples = io["samples"]
        io.check("samples_uint8", to_uint8(samples).movedim(1, -1))
        small = to_uint8(resize(samples, config["constructor"]["resize"])).movedim(1, -1)
        # truncation turns a difference in the last float bit into one level, where threads differ
        off = (small.int() - io["samples_resized_uint8"].int()).abs()
        assert off.max() <= 1 and (off > 0).float().mean() < 1e-3
    io.done()


def _picture(pixels):
    from PIL import Image

    return Image.fromarray(pixels)
