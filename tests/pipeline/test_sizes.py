"""Pictures of another size than the one that a pipeline learned."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import close
from builders import build, models, random_codes
from builders import pipeline as small
from smalti.cli.drawing import as_drawn
from smalti.cli.main import main
from smalti.data.decode import LARGEST
from smalti.data.transforms import to_uint8
from smalti.engine import stream
from smalti.engine.step import Known
from smalti.pictures import to_pil
from smalti.pipeline.pipeline import Pipeline
from smalti.tokenizers.infinity import schedule

BUILT = {name: build(*one) for name, one in models().items()}
FREE = [name for name, m in BUILT.items() if m.any_grid]
BOUND = [name for name, m in BUILT.items() if not (m.any_grid or m.windows)]
STEPS = 8
"""Of models that reveal codes."""


def pixels(images) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images])


def asked(pipe: Pipeline, count: int = 3) -> dict:
    if pipe.text is not None:
        return {"text": ["a heart", "b", "a cat"][:count]}
    if pipe.map is not None:
        return {"map": [[3] * pipe.map.spec.positions] * count}
    return {"classes": list(range(count))}


def size_of(pipe: Pipeline) -> tuple[int, int]:
    """Another size than the pipeline's own, of another ratio: of scales a published one."""
    (h, w), *scales = pipe.model.spec.grids
    h, w = schedule(1.333)[-1] if scales else (w + 2, h)
    return h * pipe.tokenizer.factor, w * pipe.tokenizer.factor


@pytest.fixture(params=FREE)
def pipe(request) -> Pipeline:
    pipe = small(request.param)
    if pipe.model.draws_by == "masked":
        pipe.sampling = pipe.sampling.changed(steps=STEPS)
    return pipe


def test_there_are_models_of_any_size():
    assert {"llamagen", "llamagen-text", "llamagen-bits", "infinity"} <= set(FREE)


def test_another_size(pipe):
    size, conditions, own = size_of(pipe), asked(pipe), pipe.model.spec
    images = pipe(**conditions, size=size, seed=3)
    assert [image.size for image in images] == [(size[1], size[0])] * 3
    assert len(np.unique(pixels(images).reshape(3, -1), axis=0)) == 3
    spec = pipe.spec_of(size)
    assert spec == replace(own, grids=spec.grids) and pipe.tokenizer.size_of(spec) == size
    codes = pipe.codes(pipe.asked(**conditions), size=size, seed=3)
    assert codes.shape == spec.shape(3)
    close.pixels(pixels(to_pil(pipe.decode(codes, spec))), pixels(images), pipe.tokenizer)
    tags = [image.info["smalti"] for image in images]
    assert [tag["size"] for tag in tags] == [list(size)] * 3


def test_another_size_is_what_the_loop_draws_on_its_grid(pipe):
    """Against the engine, asked for the grid by hand."""
    size = size_of(pipe)
    (part,) = pipe.drawing(pipe.asked(**asked(pipe)), seed=3).parts(3, 0, None)
    assert part.spec is None, "its own size"
    request = replace(pipe._request(part, None), spec=pipe.tokenizer.spec_of(size))
    *_, last = stream(pipe.model, request)
    assert torch.equal(pipe.codes(pipe.asked(**asked(pipe)), size=size, seed=3), last.codes)


def test_numbers_batches_and_streams_agree(pipe):
    size = size_of(pipe)
    conditions, several = asked(pipe) | {"size": size, "seed": 5}, len(pipe.model.spec.grids) > 1
    wanted = pixels(pipe(n=3, **conditions))
    close.pixels(pixels(pipe(n=3, batch=2, **conditions)), wanted, pipe.tokenizer)
    parts = pipe(n=1, **conditions) + pipe(n=2, first=1, **conditions)
    close.pixels(pixels(parts), wanted, pipe.tokenizer)
    *before, last = pipe.stream(n=3, every=None if several else 5, **conditions)
    assert np.array_equal(pixels(last.images), wanted)
    masked = pipe.model.draws_by == "masked"
    assert last.total == (STEPS if masked else len(pipe.model.blocks(pipe.spec_of(size))))
    assert before and all(pixels(part.images).shape == wanted.shape for part in before)
    assert last.images[1].info["smalti"]["size"] == list(size)


def test_the_own_size_is_as_if_none_were_given(pipe):
    wanted = pipe(**asked(pipe), seed=2)
    height, width = pipe.tokenizer.size
    for size in ((height, width), [height, width], f"{height}x{width}"):
        images = pipe(**asked(pipe), seed=2, size=size)
        assert np.array_equal(pixels(images), pixels(wanted))
        assert [i.info["smalti"] for i in images] == [i.info["smalti"] for i in wanted]
    assert "size" not in wanted[0].info["smalti"]
    assert pipe.spec_of(None) == pipe.spec_of(pipe.tokenizer.size) == pipe.model.spec


def test_a_picture_is_drawn_again_from_what_it_says(pipe):
    size = size_of(pipe)
    image = pipe(**asked(pipe, 1), n=1, first=4, size=size, seed=2, temperature=0.9)[0]
    tag = image.info["smalti"]
    again = pipe(n=1, first=tag["index"], **as_drawn(tag))[0]
    assert np.array_equal(np.asarray(again), np.asarray(image))
    assert again.info["smalti"] == tag


@pytest.mark.parametrize("order", ["random", "spiral-in"])
def test_orders_are_those_of_the_grid(order):
    pipe = small("llamagen")
    images = pipe([0, 1], size=(24, 8), order=order, seed=1)
    assert pixels(images).shape == (2, 24, 8, 3)
    assert not np.array_equal(pixels(images), pixels(pipe([0, 1], size=(24, 8), seed=1)))
    images = pipe([0], size=(24, 8), known_first=True, known=None)
    assert pixels(images).shape == (1, 24, 8, 3)


@pytest.mark.parametrize("known_first", [False, True])
def test_known_codes_are_on_the_grid_of_the_size(known_first):
    pipe = small("llamagen")
    spec = pipe.spec_of((24, 8))
    codes, mask = random_codes(spec, 2), torch.rand(2, spec.positions) < 0.5
    drawn = pipe.codes([0, 1], size=(24, 8), known=Known(codes, mask), known_first=known_first)
    assert torch.equal(drawn[mask], codes[mask]) and not torch.equal(drawn, codes)
    with pytest.raises(ValueError, match=r"known codes must be \(2, 16\), got \(2, 12\)"):
        pipe.codes([0, 1], known=Known(codes, mask))


def test_what_is_not_drawn_yet_is_grey():
    early = next(small("llamagen").stream(n=2, size=(24, 8), every=5))  # 2 rows of 2 and a cell
    images = pixels(early.images)
    assert images.shape == (2, 24, 8, 3)
    assert (images[:, 12:] == 128).all() and (images[:, 8:12, 4:] == 128).all()
    assert images[:, :8].std() > 5 and images[:, 8:12, :4].std() > 5


def test_codes_are_decoded_on_their_grid():
    pipe = small("llamagen")
    codes, spec = pipe.codes([0, 1], size="24x8"), pipe.spec_of("24x8")
    with torch.inference_mode():
        assert torch.equal(pipe.decode(codes, spec), to_uint8(pipe.tokenizer.decode(codes, spec)))


@pytest.mark.parametrize("name", BOUND)
def test_a_model_of_one_size_refuses_others(name):
    model = BUILT[name]
    pipe = small(name)
    height, width = pipe.tokenizer.size
    words = f"^size must be {height}x{width}, the only one that .* draws, got {height}x{2 * width}$"
    with pytest.raises(ValueError, match=words):
        pipe(size=(height, 2 * width), n=1, **asked(pipe, 1))
    assert pipe.spec_of((height, width)) == model.spec


def test_a_tokenizer_of_one_size_refuses_others():
    pipe = small("llamagen")
    pipe.tokenizer.any_grid = False
    with pytest.raises(ValueError, match="size must be 16x16, the only one of this VQGAN, got 8x8"):
        pipe(0, size=8)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((24, 9), "^size must be multiples of 4 pixels, got 24x9$"),
        ("24", None),
        ("24x", "size must be a height and a width, such as 48x32, got '24x'"),
        (0, "size must be at least 1, got 0"),
        (1.5, "size must be a whole number, got 1.5"),
    ],
)
def test_sizes_that_cannot_be(size, words):
    pipe = small("llamagen")
    if words is None:
        assert pipe(0, size=size)[0].size == (24, 24)
        return
    for refused in (lambda: pipe(0, size=size), lambda: next(pipe.stream(0, n=1, size=size))):
        with pytest.raises(ValueError, match=words):
            refused()


def test_no_picture_is_drawn_that_cannot_be_read_again():
    """Pillow takes files of more pixels for bombs, and so does what reads pictures here."""
    pipe, side = small("llamagen"), 4 * 3345  # 13380 squared is a little more
    assert LARGEST == 2 * Image.MAX_IMAGE_PIXELS and side**2 > LARGEST
    with pytest.raises(ValueError, match="size may be 178,956,970 pixels"):
        pipe.spec_of((side, side))
    assert pipe.spec_of((side, side - 8)).positions == 3345 * 3343


def test_edits_are_of_the_own_size():
    pipe, hole = small("llamagen"), np.zeros((16, 16), bool)
    hole[8:] = True
    image = pipe(0, n=1)[0]
    with pytest.raises(ValueError, match="edited at size 16x16, the model's own, got 24x8"):
        pipe.edit(image, hole, classes=0, size=(24, 8))
    (edited,) = pipe.edit(image, hole, classes=0, size=(16, 16))
    assert "size" not in edited.info["smalti"]
    assert np.array_equal(np.asarray(edited), np.asarray(pipe.edit(image, hole, classes=0)[0]))


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("infinity", "80x68", "size must be one of 16x16, 44x88, .* 80x60, .*444x148, got 80x68"),
        ("infinity", "640x480", "size must be one of .*, got 640x480"),
        ("var", "32x32", "size must be 16x16, the only one that var draws, got 32x32"),
        ("llamagen", "15x16", "size must be multiples of 4 pixels, got 15x16"),
        ("llamagen", "100000x100000", "may be 178,956,970 pixels, .*, got 100000x100000"),
    ],
)
def test_at_the_command_line_a_size_that_there_is_not_is_one_line(
    name, size, words, tmp_path, capsys
):
    """Another aspect ratio, and another number of pixels, of a model of published schedules."""
    small(name).save_pretrained(tmp_path / "p")
    ask = ["--text", "a heart"] if name == "infinity" else []
    out = tmp_path / "a.png"
    with pytest.raises(SystemExit) as stop:
        main(["sample", str(tmp_path / "p"), *ask, "--size", size, "--out", str(out)])
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("smalti")]
    assert stop.value.code == 2 and re.search(words, line) and not out.exists()
