"""Which of many pictures are kept: those that fit their prompt best."""

import json
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from builders import pipeline
from small_systems import mistake, said
from smalti.cli.best import best, check_choice
from smalti.pipeline.pipeline import Pipeline

COLOURS = {"red": 0, "green": 1}


class Colours:
    """Towers whose features are the mean colours of pictures, and colours by name."""

    towers = SimpleNamespace(config=SimpleNamespace(size=4))

    def see(self, images):
        assert images.shape[1:] == (3, 4, 4) and images.dtype == torch.uint8
        return images.float().mean((2, 3))

    def fits(self, text):
        return True

    def read(self, texts):
        return torch.eye(3)[[COLOURS[text] for text in texts]]


def picture(number: int, text: str, red: int, green: int) -> Image.Image:
    image = Image.new("RGB", (8, 8), (red, green, 0))
    image.info["smalti"] = {"index": number, "text": text}
    return image


def numbers(images) -> list[int]:
    return [image.info["smalti"]["index"] for image in images]


def test_the_best_of_each_prompt_are_kept():
    reds, greens = (10, 250, 90, 200), (30, 20, 240, 10)
    images = [picture(2 * i, "red", red, 255) for i, red in enumerate(reds)]
    images += [picture(2 * i + 1, "green", 255, green) for i, green in enumerate(greens)]
    images.sort(key=lambda image: image.info["smalti"]["index"])

    prompts = [image.info["smalti"]["text"] for image in images]

    def kept(n):
        return numbers(best(images, n, prompts, Colours()))

    assert kept(2) == [2, 5]
    assert kept(3) == [2, 5, 6], "two of the first prompt, as without a choice"
    assert sorted(kept(8)) == list(range(8))
    with pytest.raises(ValueError, match="--best-of is of pictures of a prompt or a class"):
        best(images, 2, [""] * 8, Colours())


def test_a_choice_needs_towers():
    check_choice(1, None)
    check_choice(4, "towers")
    for wrong in ((4, None), (1, "towers")):
        with pytest.raises(ValueError, match="--best-of K, above 1, and --towers DIR go together"):
            check_choice(*wrong)
    with pytest.raises(ValueError, match="--best-of must be at least 1, got 0"):
        check_choice(0, None)


def test_each_that_is_kept_has_as_many_to_choose_from(tmp_path, monkeypatch, capsys):
    read = list[str]()

    class Counting(Colours):
        def read(self, texts):
            read.extend(texts)
            return torch.ones(len(texts), 3)

    pipeline("llamagen-text").save_pretrained(tmp_path / "pipe")
    command = ("sample", tmp_path / "pipe", "--text", "a", "b", "c", "--n", 2, "--best-of", 2)
    out = ("--out", tmp_path / "kept", "--towers")
    with monkeypatch.context() as never:
        never.setattr(Pipeline, "__call__", None)
        assert "nowhere is neither a folder" in mistake(capsys, *command, *out, "nowhere")
    monkeypatch.setattr("smalti.loading.load_towers", lambda path, device: Counting())
    told = json.loads(said(capsys, *command, *out, "towers", "--json"))
    assert [image["text"] for image in told["images"]] == ["a", "b"]
    assert Counter(read) == {"a": 2, "b": 2}


def test_a_picture_that_is_drawn_again_is_not_another(tmp_path, capsys):
    command = ("sample", tmp_path, "--like", "a.png", "--out", tmp_path / "b.png")
    for more in (("--n", 4), ("--text", "a cat"), ("--seed", 3), ("--first", 1)):
        told = mistake(capsys, *command, *more)
        assert f"with its own condition and seed: {more[0]} cannot be given with it" in told
