"""In-painting and out-painting with every registered model; masks, seams, windows."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import close
from builders import models, pipeline, random_codes
from smalti.codes import TokenSpec
from smalti.data.transforms import Transform
from smalti.engine.step import Known
from smalti.pictures import to_pil
from smalti.pipeline import editing
from smalti.pipeline.editing import Extend, known_positions, seam, whole_cells, window_seed
from smalti.pipeline.pipeline import Pipeline
from smalti.pipeline.sampling import Sampling
from smalti.sampling.noise import Noise

PATCH = 4  # of the tiny tokenizers
KINDS = ("llamagen-grouped", "llamagen-text", "maskgit-oblong", "var-shared", "fluid", "hart")
"""One of each kind that editing tells apart: of a grid, its order and its codes, of texts, and of
what codes leave over. Each window is drawn as an in-painted picture is, and that every model is
asked for."""


def quick(name: str) -> Pipeline:
    if models()[name][1].spec.discrete:
        return pipeline(name)
    return pipeline(name, sampling=Sampling.of(head_steps="4"))  # enough to be told apart


PLACED = [n for n, (_, config) in models().items() if min(config.spec.grids[-1]) > 1]
"""Those of pictures with a lower right part: not of codes in one row."""


@pytest.fixture(params=PLACED, scope="module")
def pipe(request):
    return quick(request.param)


@pytest.fixture(scope="module")
def llama():
    return pipeline("llamagen")


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Low frequencies, so that a crop looks like its surroundings."""
    noise = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def fitting(pipe, seed: int = 0) -> Image.Image:
    """A picture of the model's size."""
    h, w = pipe.tokenizer.config.size
    return picture(w, h, seed)


def mask_of(image: Image.Image, left: int, top: int, right: int, bottom: int) -> Image.Image:
    mask = Image.new("L", image.size, 0)
    mask.paste(255, (left, top, right, bottom))
    return mask


def lower_right(image: Image.Image) -> Image.Image:
    """A mask that leaves the upper row of patches and the left column."""
    return mask_of(image, PATCH + 1, PATCH + 1, *image.size)


def array(images) -> np.ndarray:
    return np.stack([np.asarray(i) for i in images])


def asked(pipe) -> dict:
    if pipe.map is not None:
        return {"map": [[3] * pipe.map.spec.positions]}
    return {"text": ["a red heart"]} if pipe.text is not None else {"classes": [1]}


# -- in-painting


def test_inpainting_draws_around_known_codes(pipe):
    image = fitting(pipe)
    given_ = {"n": 2, "seed": 3, "temperature": 1.5, "known_first": False, **asked(pipe)}
    edited = pipe.edit(image, lower_right(image), **given_)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    codes = pipe.encode(pixels)
    h, w = pipe.model.spec.grids[-1]
    cells = torch.zeros(1, h, w, dtype=torch.bool)
    cells[:, 0] = cells[:, :, 0] = True
    known = known_positions(pipe.model.spec, cells)
    known = Known(codes.expand(2, *codes.shape[1:]), known.expand(2, -1))
    wanted = pipe(known=known, **given_)
    close.pixels(array(edited), array(wanted), pipe.tokenizer)  # decoded alone, in a batch
    assert not np.array_equal(array(edited)[0], array(edited)[1])


@pytest.mark.parametrize("name", KINDS)
def test_what_is_kept_is_bit_equal(name):
    pipe = quick(name)
    image = fitting(pipe)
    mask = lower_right(image)
    kept = np.asarray(mask) == 0
    plain = pipe.edit(image, mask, n=2, seed=1)
    exact = pipe.edit(image, mask, n=2, seed=1, keep_pixels=True)
    for rough, fine in zip(array(plain), array(exact), strict=True):
        assert np.array_equal(fine[kept], np.asarray(image)[kept])
        assert not np.array_equal(rough[kept], np.asarray(image)[kept])
        far = np.zeros_like(kept)
        far[PATCH + 3 :, PATCH + 3 :] = True  # beyond the seam of two pixels
        assert np.array_equal(fine[far], rough[far])


@pytest.mark.parametrize("name", KINDS)
def test_an_edit_depends_on_seed_and_number_alone(name):
    """In two windows, the second of which sees what the first drew."""
    pipe = quick(name)
    image = fitting(pipe)
    given = {"seed": 5, "extend": {"left": 5}, **asked(pipe)}
    wanted = array(pipe.edit(image, lower_right(image), n=2, **given))
    last = pipe.edit(image, lower_right(image), n=1, first=1, **given)
    close.pixels(array(last), wanted[1:], pipe.tokenizer)
    assert not np.array_equal(*wanted)


@pytest.mark.parametrize("name", KINDS)
def test_an_edit_of_many_windows_does_not_depend_on_its_batch(name):
    pipe = quick(name)
    image = fitting(pipe)
    given = {"seed": 5, "extend": {"left": 5, "top": 3}, **asked(pipe)}
    wanted = array(pipe.edit(image, lower_right(image), n=3, batch=2, **given))
    again = array(pipe.edit(image, lower_right(image), n=3, batch=1, **given))
    close.pixels(again, wanted, pipe.tokenizer)
    assert len(np.unique(wanted.reshape(3, -1), axis=0)) == 3


@pytest.mark.parametrize("name", KINDS)
def test_without_a_condition_the_null_one_is_used(name):
    pipe = quick(name)
    image = fitting(pipe)
    seen, draw = [], pipe.model.prepare

    def spy(cond, *orders):
        seen.append(cond)
        return draw(cond, *orders)

    pipe.model.prepare = spy
    try:
        (free,) = pipe.edit(image, lower_right(image))
        pipe.edit(image, lower_right(image), guidance=3.0, **asked(pipe))
    finally:
        del pipe.model.prepare
    with pytest.raises(ValueError, match=r"guidance 3.0 needs a (class|text) to lead to"):
        pipe.edit(image, lower_right(image), guidance=3.0)
    first, second = seen
    assert first.drop.tolist() == [True] and second.drop.tolist() == [False, True]
    assert free.info["smalti"]["guidance"] == 1.0
    if pipe.text is None:
        assert free.info["smalti"]["class"] is None
    else:
        assert free.info["smalti"]["text"] == "" and first.text_mask.all()


@pytest.mark.parametrize("first", [None, True, False])
@pytest.mark.parametrize("name", ["rar", "llamagen"])
def test_a_model_of_any_order_sees_all_that_is_known(name, first, monkeypatch):
    pipe = pipeline(name)
    image = fitting(pipe)
    mask = mask_of(image, 0, 0, 16, PATCH)  # the first row of patches
    seen, decode = [], pipe.decode

    def spy(codes):
        seen.append(codes)
        return decode(codes)

    monkeypatch.setattr(pipe, "decode", spy)
    monkeypatch.setattr(pipe, "encode", lambda images: random_codes(pipe.model.spec, 1, seed=6))
    pipe.edit(image, mask, known_first=first)
    changed = random_codes(pipe.model.spec, 1, seed=6)
    changed[:, 12:] += 1
    monkeypatch.setattr(pipe, "encode", lambda images: changed % pipe.model.spec.vocab)
    pipe.edit(image, mask, known_first=first)
    before, after = (codes[0, :4].tolist() for codes in seen)
    sees = name == "rar" if first is None else first
    assert (before != after) == sees


def test_orders_with_what_is_known_in_front():
    model = pipeline("llamagen-spiral").model
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[0, [5, 0]] = mask[1, 14] = True
    known = Known(model.spec.empty(2), mask)
    noise = Noise.request(0, 2)
    assert Sampling().orders(model, noise, known) is None
    found = Sampling.of(known_first=True).orders(model, noise, known)
    assert found is not None and found.shape == (2, 16)
    # up the right column from 15, along the top row, down, right, and inwards
    assert found[0, :4].tolist() == [0, 5, 15, 11] and found[1, :3].tolist() == [14, 15, 11]


def test_scales_have_no_order():
    pipe = pipeline("var")
    with pytest.raises(ValueError, match="orders are for models of one grid; this one has 3"):
        pipe.edit(fitting(pipe), lower_right(fitting(pipe)), known_first=True)


def test_pictures_of_mixtures_keep_known_codes(monkeypatch):
    pipe = pipeline("var")
    image, decode, seen = fitting(pipe), pipe.decode, []
    monkeypatch.setattr(pipe, "decode", lambda codes: (seen.append(codes), decode(codes))[1])
    sharp, smooth = (
        pipe.edit(image, lower_right(image), smooth=smooth)[0] for smooth in (False, True)
    )
    codes, vectors = seen
    assert smooth.info["smalti"]["smooth"] and vectors.is_floating_point()
    # of two by two only the upper left is more than half kept; row by row of four by four
    lower = [False] * 3 + [True] * 4 + [True, False, False, False] * 3
    known = torch.tensor([True, True, *lower])
    assert torch.equal(pipe.model.embed(codes)[:, known], vectors[:, known])
    assert not np.array_equal(np.asarray(sharp), np.asarray(smooth))


def test_metadata_say_what_was_asked(llama):
    image = fitting(llama)
    mask = lower_right(image)
    extend = {"left": 2}
    one, two = llama.edit(image, mask, classes=["1", 3], extend=extend, seed=4, keep_pixels=True)
    tag = one.info["smalti"]
    assert (tag["class"], tag["class_name"], tag["seed"], tag["index"]) == (1, "1", 4, 0)
    assert two.info["smalti"]["class"] == 3 and two.info["smalti"]["index"] == 1
    edit = tag["edit"]
    assert edit["extend"] == {"left": 2, "right": 0, "top": 0, "bottom": 0} and edit["keep_pixels"]
    (other,) = llama.edit(fitting(llama, 1), None, extend=extend)
    assert other.info["smalti"]["edit"].keys() == {"image", "extend", "keep_pixels"}
    assert other.info["smalti"]["edit"]["image"] != edit["image"]


def test_texts_lead_away_from_a_negative_one_alone():
    pipe = pipeline("llamagen-text")
    image = fitting(pipe)
    (edited,) = pipe.edit(image, lower_right(image), negative="a face", guidance=2.0)
    tag = edited.info["smalti"]
    assert (tag["text"], tag["negative"], tag["guidance"]) == ("", "a face", 2.0)


# -- pictures and masks as files have them


@pytest.mark.parametrize("size", [(40, 24), (17, 90), (9, 9), (16, 16), (600, 300)])
def test_a_picture_of_another_size_is_handled_as_in_training(llama, size):
    image = picture(*size)
    edit = editing.plan(llama.tokenizer, image, None, {"left": 1}, True)
    assert np.array_equal(edit.pixels[0].numpy(), Transform(16)(image, None))
    middle = [n // 2 for n in size]
    mask = mask_of(image, *middle, middle[0] + 1, middle[1] + 1)  # a single pixel
    painted = editing.plan(llama.tokenizer, image, mask, None, True).painted
    rows, columns = painted.nonzero().T
    per = max(1, round(16 / min(size)))
    assert 1 <= len(rows) <= 4 * per**2  # it lies in up to four pixels of the model
    assert (
        (7 <= rows).all() and (rows <= 10).all() and (7 <= columns).all() and (columns <= 10).all()
    )


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_masks_of_every_mode(llama, mode):
    image = fitting(llama)
    mask = lower_right(image)
    wanted = np.asarray(mask) > 127
    if mode == "I;16":
        given = Image.fromarray(np.asarray(mask).astype(np.uint16) * 257)
    else:
        given = mask.convert(mode)
    edit = editing.plan(llama.tokenizer, image, given, None, False)
    assert np.array_equal(edit.painted.numpy(), wanted)


def test_grey_is_painted_from_128_and_transparent_is_painted(llama):
    image = fitting(llama)
    levels = np.zeros((16, 16), np.uint8)
    levels[:, 8:12], levels[:, 12:] = 127, 128
    edit = editing.plan(llama.tokenizer, image, Image.fromarray(levels), None, False)
    assert edit.painted.sum(0).tolist() == [0] * 12 + [16] * 4
    holes = Image.new("RGBA", (16, 16), "black")
    holes.paste((0, 0, 0, 0), (0, 0, 16, 5))
    edit = editing.plan(llama.tokenizer, image, holes, None, False)
    assert edit.painted.sum(1).tolist() == [16] * 5 + [0] * 11


@pytest.mark.parametrize(
    "mode", ["RGBA", "LA", "RGBa", "La", "P", "1", "L", "RGB", "P of bytes", "PA"]
)
def test_where_a_mask_is_transparent_decides_whatever_its_colours(llama, mode):
    """A photo with a hole is a mask: its bright parts are kept."""
    image = fitting(llama)
    if mode in ("RGBA", "LA", "RGBa", "La"):
        alpha = np.full((16, 16), 255, np.uint8)
        alpha[:5] = [[0], [1], [64], [127], [0]]
        alpha[6] = 128  # an edge that is more opaque than not
        photo = np.full((16, 16), 200, np.uint8)
        photo[8:] = 0
        mask = Image.merge("LA", [Image.fromarray(photo), Image.fromarray(alpha)])
        mask = mask if mode in ("LA", "La") else mask.convert("RGBA")
        mask = mask.convert(mode) if mask.mode != mode else mask
    else:  # a colour, or a share for each colour of a palette, that is transparent: tRNS in a PNG
        levels = np.full((16, 16), 255, np.uint8)
        levels[:5] = 0
        mask = Image.fromarray(levels).convert("L" if mode == "PA" else mode.split()[0])
        black = {"RGB": (0, 0, 0), "P of bytes": bytes([0] + [255] * 255)}
        mask.info["transparency"] = black.get(mode, 0)
        if mode == "PA":  # a palette of colours with alpha
            mask = mask.convert("RGBA").quantize(2)
            assert mask.palette.mode == "RGBA"
    edit = editing.plan(llama.tokenizer, image, mask, None, False)
    assert edit.painted.sum(1).tolist() == [16] * 5 + [0] * 11


def test_a_mask_with_an_opaque_alpha_is_a_grey_one(llama):
    image = fitting(llama)
    mask = lower_right(image).convert("RGBA")
    edit = editing.plan(llama.tokenizer, image, mask, None, False)
    assert np.array_equal(edit.painted.numpy(), np.asarray(lower_right(image)) > 127)


def test_a_photo_with_a_hole_paints_the_hole(tmp_path):
    """A mask as OpenAI's editing takes it, twice the model's size, through a file."""
    pipe = pipeline("llamagen")
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (32, 32, 4), dtype=np.uint8)
    photo[..., 3] = 255
    photo[8:16, 16:24, 3] = 0  # 64 of 1,024 pixels
    Image.fromarray(photo).save(tmp_path / "alpha.png")
    edit = editing.plan(pipe.tokenizer, photo[..., :3], tmp_path / "alpha.png", None, True)
    assert edit.painted.sum() == 16 and edit.painted[4:8, 8:12].all()
    with pytest.raises(ValueError, match="nothing to edit: .*; its transparent parts are one if"):
        pipe.edit(tmp_path / "alpha.png")


def forms(pixels: np.ndarray) -> dict:
    """uint8 pixels (H, W, 3) in every form that is a picture."""
    stored = io.BytesIO()
    Image.fromarray(pixels).save(stored, format="PNG")
    first = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    return {
        "array": pixels,
        "channels first": pixels.transpose(2, 0, 1),
        "RGBA array": np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)]),
        "floats": pixels / 255,
        "tensor": first,
        "batch of one": first[None],
        "channels last": torch.from_numpy(pixels.copy()),
        "float tensor": (first / 255).requires_grad_(),
        "bytes": stored.getvalue(),
        "file": io.BytesIO(stored.getvalue()),
    }


@pytest.mark.parametrize("form", forms(np.zeros((1, 1, 3), np.uint8)))
def test_pictures_and_masks_in_every_form(llama, form):
    image = np.asarray(fitting(llama))
    mask = np.dstack([np.asarray(lower_right(fitting(llama)))] * 3)
    edit = editing.plan(llama.tokenizer, forms(image)[form], forms(mask)[form], None, False)
    assert np.array_equal(edit.pixels[0].permute(1, 2, 0).numpy(), image)
    assert np.array_equal(edit.painted.numpy(), mask[..., 0] > 0)


def test_masks_of_truths_and_shares(llama):
    image, wanted = fitting(llama), np.asarray(lower_right(fitting(llama))) > 0
    for mask in (wanted, torch.from_numpy(wanted)[None], wanted[..., None] * 1.0):
        painted = editing.plan(llama.tokenizer, image, mask, None, False).painted
        assert np.array_equal(painted.numpy(), wanted)
    with pytest.raises(ValueError, match="the mask covers nothing: .*; its largest value is 125"):
        editing.plan(llama.tokenizer, image, wanted * 0.49, None, False)


def test_what_is_no_picture_is_named(llama, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for bad, words in (
        ("x.png", "^no such file: x.png$"),
        (tmp_path, "is a folder, not a picture"),
        ("https://example.org/x.png", "is an address: download the picture and give its file"),
        (Path("https://example.org/x.png"), "^https:/example.org/x.png is an address"),
        (b"text", "cannot decode image the image: not a picture, or empty"),
        (None, "the image must be a PIL image, a file, .*, got NoneType"),
        (np.zeros((16, 16, 3)) - 1, r"floats in \[0, 1\], got float64 from -1.0 to -1.0"),
    ):
        with pytest.raises(ValueError, match=words):
            llama.edit(bad, extend={"left": 1})


def test_an_edit_is_made_of_public_calls(llama, monkeypatch):
    """Of a pipeline it needs `encode`, `drawn` and `decode`, which anyone may call."""
    image, calls = fitting(llama), []
    for name in ("encode", "drawn", "decode"):
        real = getattr(llama, name)
        monkeypatch.setattr(
            llama, name, lambda *a, _n=name, _f=real, **k: (calls.append(_n), _f(*a, **k))[1]
        )
    edited = llama.edit(image, lower_right(image), seed=np.int64(3), n=torch.tensor(2))
    assert calls == ["encode", "drawn", "decode", "decode"]
    assert [e.info["smalti"]["index"] for e in edited] == [0, 1]
    wanted = editing.edit(llama, image, lower_right(image), seed=3, n=2)
    assert np.array_equal(array(edited), array(wanted))


def test_files_do_as_well_as_pictures(llama, tmp_path):
    image = fitting(llama)
    image.save(tmp_path / "image.png")
    lower_right(image).save(tmp_path / "mask.png")
    wanted = llama.edit(image, lower_right(image), seed=1)
    found = llama.edit(tmp_path / "image.png", str(tmp_path / "mask.png"), seed=1)
    assert np.array_equal(array(found), array(wanted))
    assert found[0].info["smalti"] == wanted[0].info["smalti"]


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.data())
def test_a_patch_with_a_painted_pixel_is_painted(h, w, p, data):
    flags = data.draw(st.lists(st.integers(0, 12), min_size=h * w * p * p, max_size=h * w * p * p))
    keep = torch.tensor(flags).view(h * p, w * p) > 0
    cells = whole_cells(keep, (p, p))
    assert cells.shape == (h, w)
    for y in range(h):
        for x in range(w):
            assert cells[y, x] == keep[y * p : y * p + p, x * p : x * p + p].all()


def test_known_positions_of_one_grid_are_its_patches():
    keep = torch.tensor([[[True, False, False]], [[False, True, True]]])
    assert known_positions(TokenSpec(((1, 3),), 8), keep).tolist() == [[1, 0, 0], [0, 1, 1]]


def test_known_positions_of_a_pyramid():
    spec = TokenSpec(((1, 1), (1, 3), (2, 2), (4, 4)), 8)
    keep = torch.ones(1, 4, 4, dtype=torch.bool)
    keep[:, 2:, 2:] = False  # a quarter
    keep[:, 0, 0] = False
    found = known_positions(spec, keep)[0]
    assert found[:1].all() and found[1:4].all()  # three positions at most
    # the bilinear resize reads the middle four of each quarter's cells: 3 of 4 and 0 of 4
    assert found[4:8].tolist() == [True, True, True, False]
    assert torch.equal(found[8:], keep.flatten())


def test_half_is_not_known():
    spec = TokenSpec(((2, 2), (4, 4)), 8)
    keep = torch.zeros(1, 4, 4, dtype=torch.bool)
    keep[:, :, ::2] = True
    assert known_positions(spec, keep)[0, :4].tolist() == [False] * 4


@pytest.mark.parametrize("keep", [torch.ones(1, 3, 4, dtype=torch.bool), torch.ones(1, 4, 4)])
def test_a_mask_of_another_grid_is_refused(keep):
    with pytest.raises(ValueError, match=r"keep must be \(B, 4, 4\) bool, got"):
        known_positions(TokenSpec(((4, 4),), 8), keep)


# -- seams


def test_a_constant_difference_fades_over_the_seam():
    drawn, given_ = torch.full((1, 3, 5, 9), 100).byte(), torch.full((1, 3, 5, 9), 140).byte()
    keep = torch.zeros(5, 9, dtype=torch.bool)
    keep[:, 0] = True
    result = seam(drawn, given_, keep, 3)
    assert result[0, 1].tolist() == [[140, 130, 120, 110, 100, 100, 100, 100, 100]] * 5


@given(st.integers(0, 2**31), st.integers(1, 5))
def test_a_seam_keeps_what_is_kept_and_what_is_far(seed, width):
    generator = torch.Generator().manual_seed(seed)
    drawn, given_ = torch.randint(256, (2, 2, 3, 12, 10), generator=generator).byte()
    keep = torch.rand(12, 10, generator=generator) < 0.05
    result = seam(drawn, given_, keep, width)
    assert torch.equal(result[..., keep], given_[..., keep])
    ys, xs = keep.nonzero().T
    y, x = torch.meshgrid(torch.arange(12), torch.arange(10), indexing="ij")
    away = torch.maximum((y[..., None] - ys).abs(), (x[..., None] - xs).abs())
    far = (away > width).all(-1)
    assert torch.equal(result[..., far], drawn[..., far])
    assert torch.equal(seam(drawn, drawn, keep, width), drawn)


# -- out-painting


@pytest.mark.parametrize("name", KINDS)
def test_every_side_grows_around_the_given_picture(name):
    pipe = quick(name)
    image = fitting(pipe)
    w, h = image.size
    (larger,) = pipe.edit(
        image, extend={"left": 3, "right": 2, "top": 4, "bottom": 1}, keep_pixels=True, seed=2
    )
    assert larger.size == (w + 5, h + 5)
    inner = np.asarray(larger)[4 : 4 + h, 3 : 3 + w]
    assert np.array_equal(inner, np.asarray(image))


@pytest.mark.parametrize("name", KINDS)
def test_extensions_make_larger_pictures_that_hold_the_given_one(name):
    pipe = quick(name)
    image = fitting(pipe)
    w, h = image.size
    rough = pipe.edit(image, extend={"bottom": h - PATCH}, seed=2)
    assert rough[0].size == (w, 2 * h - PATCH)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    (back,) = to_pil(pipe.decode(pipe.encode(pixels)))
    assert np.array_equal(np.asarray(rough[0])[:h], np.asarray(back))


sides = st.integers(0, 12)


@given(st.builds(Extend, sides, sides, sides, sides))
def test_windows_cover_the_canvas_and_each_sees_a_patch(extend):
    size = 16
    height, width = size + extend.top + extend.bottom, size + extend.left + extend.right
    known = np.zeros((height, width), bool)
    known[extend.top : extend.top + size, extend.left : extend.left + size] = True
    new = []
    for y, x in extend.windows():
        window = known[extend.top + y :, extend.left + x :][:size, :size]
        assert window.shape == (size, size)
        cells = whole_cells(torch.from_numpy(window.copy()), (PATCH, PATCH))
        assert cells.any() and not window.all()
        new.append((bool(y and x), (~window).sum()))
        window[:] = True
    assert known.all()
    assert [corner for corner, _ in new] == sorted(corner for corner, _ in new)
    added = [count for corner, count in new if not corner]
    assert added == sorted(added)


def test_no_window_draws_with_the_noise_of_another(llama, monkeypatch):
    seeds, draw = [], llama.drawn

    def spy(part, *rest):
        seeds.append(part.seed)
        return draw(part, *rest)

    monkeypatch.setattr(llama, "drawn", spy)
    image = fitting(llama)
    llama.edit(image, lower_right(image), extend={"left": 4, "bottom": 4}, seed=7)
    assert seeds[0] == 7 and len(set(seeds)) == 4


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 8))
def test_seeds_of_windows_are_seeds(seed, window):
    assert -(2**63) <= window_seed(seed, window) < 2**63
    assert (window_seed(seed, window) == seed) == (window == 0)


def test_a_window_sees_what_an_earlier_one_drew(llama, monkeypatch):
    seen, paint = [], editing._redraw

    def spy(images, keep, *rest):
        drawn = paint(images, keep, *rest)
        seen.append((images.clone(), keep.clone(), drawn))
        return drawn

    monkeypatch.setattr(editing, "_redraw", spy)
    (whole,) = llama.edit(fitting(llama), extend={"left": 8, "top": 4})
    (top, _, _), (left, _, _), (corner, keep, drawn) = seen
    pixels = torch.from_numpy(np.array(whole)).permute(2, 0, 1)[None]
    assert torch.equal(corner[..., keep], pixels[..., :16, :16][..., keep])
    assert keep.sum() == 16 * 16 - 8 * 4
    # from here on a repeated edge: columns of one colour
    assert (left[..., :8] == left[..., 8:9]).all() and (top[..., :4, :] == top[..., 4:5, :]).all()
    far = pixels[..., :2, :6]  # beyond the seam
    assert torch.equal(far, drawn[..., :2, :6])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("left=16,top=8", {"left": 16, "top": 8}), (" right = 3 ", {"right": 3}), ("x=1", {"x": 1})],
)
def test_extensions_as_text(text, wanted):
    assert Extend.parse(text) == wanted


@pytest.mark.parametrize("text", ["", "left", "left=", "left=-1", "left=1.5", "left=1,left=2", ","])
def test_bad_extensions_as_text(text):
    with pytest.raises(ValueError, match="extend is like left=16,top=8, each side once, got"):
        Extend.parse(text)


# -- mistakes


@pytest.mark.parametrize(
    ("extend", "words"),
    [
        ({"lefft": 3}, "extend has left, right, top, bottom, got 'lefft'; did you mean 'left'"),
        ({"left": -1}, "extend left must be 0 or more pixels, got -1"),
        ({"top": 1.5}, "extend top must be 0 or more pixels, got 1.5"),
        ({"right": 13}, "extend right can be 12 pixels at most, got 13"),
        ({"bottom": 0}, "nothing to edit: give a mask, an extension, or both"),
        (None, "nothing to edit"),
    ],
)
def test_extensions_are_checked(llama, extend, words):
    with pytest.raises(ValueError, match=words):
        llama.edit(fitting(llama), extend=extend)


def test_masks_are_checked(llama):
    image = fitting(llama)

    def refused(mask, words, picture=image):
        with pytest.raises(ValueError, match=words):
            llama.edit(picture, mask)

    refused(Image.new("L", (16, 15)), "the mask has 16 x 15 pixels, the image 16 x 16")
    refused(Image.new("L", (16, 16)), "the mask covers nothing: .* must be white")
    refused(Image.new("L", (16, 16), 255), "covers everything .* use smalti sample")
    refused(Image.new("RGBA", (16, 16)), r"covers everything \(transparent counts as white\)")
    refused(Image.new("F", (16, 16)), "the mask holds float pixels, .*; the image is of mode RGB")
    refused(np.zeros((16, 16)), "the mask covers nothing: .*; its largest value is 0")
    refused(5, "the mask must be a PIL image, a file, bytes, an array or a tensor, got int; .* RGB")
    refused(np.zeros((16, 16), int), "array of uint8, bool or floats .*, got int64 from 0 to 0")
    refused(np.full((16, 16), np.nan), "floats in .*, got float64 from nan to nan")
    refused(torch.full((16, 16), 255.0), r"floats in \[0, 1\], got float32 from 255.0 to 255.0")
    refused(np.zeros(16), r"must be an array \(H, W\), .*, got \(16,\)")
    refused(np.zeros((2, 16, 16, 3)), r"must be an array \(H, W\), .*, got \(2, 16, 16, 3\)")
    faint = Image.new("LA", (16, 16), (255, 128))
    refused(faint, "covers nothing: .* transparent, alpha below 128; its largest value is 127")
    high = Image.fromarray(np.eye(16).astype(np.uint16))
    high.info["transparency"] = 1
    refused(high, "the mask has 16 bits and a transparent colour: save it with 8")
    points = Image.new("L", (16, 16))
    for i in range(256):
        if i % 16 % PATCH == i // 16 % PATCH == 0:
            points.putpixel((i % 16, i // 16), 255)
    refused(points, "leaves no whole patch of 4 x 4 pixels; .*smalti sample")
    wide = picture(40, 16)
    refused(mask_of(wide, 0, 0, 5, 16), "covers nothing of the middle part .* 16 x 16", wide)


def test_small_pictures_are_refused(llama):
    for size in ((3, 30), (30, 3)):
        with pytest.raises(ValueError, match=rf"patch of the model: {size[0]} x {size[1]} pixels"):
            llama.edit(picture(*size), extend={"left": 1})
    assert len(llama.edit(picture(4, 4), extend={"left": 1})) == 1


def test_other_arguments_are_checked_as_for_drawing(llama):
    image = fitting(llama)
    for bad, words in (
        ({"classes": ["cherry"]}, "class must be one of"),
        ({"text": "a star"}, "draws classes, not texts, got 'a star'"),
        ({"negative": "a star"}, "draws classes, not texts, got 'a star'"),
        ({"guidance": -1.0}, "-1"),
        ({"topk": 1}, "sampling has .*; did you mean 'top_k'"),
        ({"mask_image": image}, "mask_image is mask here: in an edit; white or transparent is"),
        ({"known": None}, "known is an argument of other calls, not of this one"),
        ({"n": 0}, "at least 1"),
    ):
        with pytest.raises(ValueError, match=words):
            llama.edit(image, lower_right(image), **bad)
    with pytest.raises(ValueError, match="draws from texts, not classes"):
        pipeline("llamagen-text").edit(image, lower_right(image), classes=[0])
