"""Which of many pictures are kept: those that fit their prompt best."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from smalti import loading
from smalti.cli.best import best, check_choice

COLOURS = {"red": 0, "green": 1}


class Colours:
    """Towers whose features are the mean colours of pictures, and colours by name."""

    towers = SimpleNamespace(config=SimpleNamespace(size=4))

    def see(self, images):
        assert images.shape[1:] == (3, 4, 4) and images.dtype == torch.uint8
        return images.float().mean((2, 3))

    def read(self, texts):
        return torch.eye(3)[[COLOURS[text] for text in texts]]


def picture(number: int, text: str, red: int, green: int) -> Image.Image:
    image = Image.new("RGB", (8, 8), (red, green, 0))
    image.info["smalti"] = {"index": number, "text": text}
    return image


def numbers(images) -> list[int]:
    return [image.info["smalti"]["index"] for image in images]


def test_the_best_of_each_prompt_are_kept(monkeypatch):
    monkeypatch.setattr(loading, "load_towers", lambda path, device: Colours())
    reds, greens = (10, 250, 90, 200), (30, 20, 240, 10)
    images = [picture(2 * i, "red", red, 255) for i, red in enumerate(reds)]
    images += [picture(2 * i + 1, "green", 255, green) for i, green in enumerate(greens)]
    images.sort(key=lambda image: image.info["smalti"]["index"])

    prompts = [image.info["smalti"]["text"] for image in images]

    def kept(n):
        return numbers(best(images, n, prompts, "towers", "cpu"))

    assert kept(2) == [2, 5]
    assert kept(3) == [2, 5, 6], "two of the first prompt, as without a choice"
    assert sorted(kept(8)) == list(range(8))
    with pytest.raises(ValueError, match="--best-of is of pictures of a prompt or a class"):
        best(images, 2, [""] * 8, "towers", "cpu")


def test_a_choice_needs_towers():
    check_choice(1, None)
    check_choice(4, "towers")
    for wrong in ((4, None), (1, "towers")):
        with pytest.raises(ValueError, match="--best-of K, above 1, and --towers DIR go together"):
            check_choice(*wrong)
    with pytest.raises(ValueError, match="--best-of must be at least 1, got 0"):
        check_choice(0, None)
