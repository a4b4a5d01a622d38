"""NaN and infinity are refused wherever they would become a picture of noise without a word."""

import math

import numpy as np
import pytest
import torch

import smalti
from builders import build, models, pipeline, random_cond, tokenizers
from smalti.codes import Cond, Draw
from smalti.data.token_cache import TokenCache
from smalti.data.token_file import Encoding, write_cache
from smalti.data.transforms import to_uint8
from smalti.engine import LOOPS
from smalti.engine.step import Known, Request, Watch
from smalti.files import write_tensors
from smalti.models import llamagen
from smalti.modules import MODELS, load_module, save_module
from smalti.nn.finite import BLOCK, all_finite, count_bad, require_finite, require_finite_weights
from smalti.sampling.noise import Noise

BAD = (math.nan, math.inf, -math.inf)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", BAD)
def test_one_bad_element_is_seen_anywhere(dtype, value):
    x = torch.linspace(-6e4, 6e4, 999).to(dtype)  # whose sum would overflow in float16
    assert all_finite(x) and count_bad(x) == 0
    for place in (0, 500, 998):
        bad = x.clone()
        bad[place] = value
        assert not all_finite(bad) and count_bad(bad) == 1
        with pytest.raises(ValueError, match="^x must be finite numbers, got 1 of 999 that are"):
            require_finite(bad, "x")


def test_what_has_no_such_numbers():
    for x in (torch.ones(3, dtype=torch.int64), torch.ones(2, dtype=torch.bool), torch.ones(0, 4)):
        assert all_finite(x)
    big = torch.full((2, BLOCK // 2 + 7), math.nan)
    assert count_bad(big) == big.numel()
    require_finite_weights({}, "x")


def broken(value=math.nan):
    model = build(llamagen.LlamaGen, llamagen.tiny())
    with torch.no_grad():
        model.layers[1].feed_forward.w2.weight[0, :3] = value
        model.norm.weight[0] = value
    return model


WORDS = r"layers.1.feed_forward.w2.weight holds 3 values of \d+ that are NaN or infinite in float32"


@pytest.mark.parametrize("value", BAD)
def test_a_module_is_neither_written_nor_loaded(tmp_path, value):
    with pytest.raises(ValueError, match=f"m is not written: {WORDS}, and 1 more of "):
        save_module(broken(value), tmp_path / "m")
    assert not list(tmp_path.iterdir())
    save_module(build(llamagen.LlamaGen, llamagen.tiny()), tmp_path / "m")
    write_tensors(tmp_path / "m" / "model.safetensors", broken(value).state_dict())
    with pytest.raises(ValueError, match=f"model.safetensors: {WORDS}"):
        load_module(tmp_path / "m", MODELS)
    loaded, _ = load_module(tmp_path / "m", MODELS, verify=False)
    assert not loaded.norm.weight[0].isfinite()


def test_a_dtype_that_cannot_hold_the_weights(tmp_path):
    model = build(llamagen.LlamaGen, llamagen.tiny())
    with torch.no_grad():
        model.norm.weight[2] = 1e6
    save_module(model, tmp_path / "m")
    with pytest.raises(ValueError, match=r"norm.weight holds 1 values of 32 .* in float16$"):
        load_module(tmp_path / "m", MODELS, dtype=torch.float16)
    assert load_module(tmp_path / "m", MODELS, dtype=torch.bfloat16)[0].norm.weight.isfinite().all()


def test_a_pipeline_keeps_what_was_there(tmp_path):
    pipe = pipeline("llamagen")
    pipe.save_pretrained(tmp_path / "p")
    mark = smalti.load(tmp_path / "p").fingerprint
    with torch.no_grad():
        pipe.model.norm.weight[0] = math.nan
    with pytest.raises(ValueError, match="norm.weight holds 1 values of 32"):
        pipe.save_pretrained(tmp_path / "p")
    assert smalti.load(tmp_path / "p").fingerprint == mark
    assert [p.name for p in tmp_path.iterdir()] == ["p"]


def stream(model, known=None):
    cond = Cond(labels=torch.tensor([1, 2])) if model.reads.classes else random_cond(model, 2)
    return LOOPS[model.loop](model, Request(cond, Noise.request(0, 2), known=known))


@pytest.mark.parametrize("name", models())
def test_no_model_draws_from_what_is_no_number(name):
    model = build(*models()[name])
    first = next(stream(model))
    assert first.done == 1
    with torch.no_grad():
        parts, ends = dict(model.named_modules()), ("proj", "parts.0.proj", "out")
        ends = [f"head.{end}" for end in ends] + ["predict"]  # of a head without weights
        last = next(parts[end] for end in ends if end in parts)
        last.weight[0, 0] = math.nan
    drawn = "log-probabilities of drawn codes" if model.spec.discrete else "drawn codes"
    with pytest.raises(ValueError, match=rf"^step 1 of \d+: {drawn} must be finite numbers, got"):
        next(stream(model))


@pytest.mark.parametrize("value", BAD)
def test_one_logit_is_enough(value, monkeypatch):
    model = build(llamagen.LlamaGen, llamagen.tiny())
    logits = model.head.logits

    def spoilt(h):
        found = logits(h)
        found[..., 7] = value
        return found

    monkeypatch.setattr(model.head, "logits", spoilt)
    with pytest.raises(ValueError, match="step 1 of 16: log-prob.* got 2 of 2 that are NaN"):
        next(stream(model))


def test_a_device_that_would_have_to_wait_is_asked_once():
    """On a device without values every look is an error."""
    spec = build(llamagen.LlamaGen, llamagen.tiny()).spec
    watch = Watch(spec, 3)
    draw = Draw(*(torch.ones(2, 1, device="meta") for _ in range(3)))
    watch.see(draw)
    watch.see(draw)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        watch.see(draw)


def test_known_codes_that_are_no_numbers():
    model = build(*models()["mar"])
    codes = model.spec.empty(2)
    codes[1, 3, 0] = math.nan
    known = Known(codes, torch.zeros(2, model.spec.positions, dtype=torch.bool))
    with pytest.raises(ValueError, match="known codes must be finite numbers, got 1 of"):
        next(stream(model, known))


@pytest.mark.parametrize("name", tokenizers())
def test_no_tokenizer_gives_codes_of_what_is_no_number(name):
    tokenizer = build(*tokenizers()[name])
    images = torch.zeros(1, 3, *tokenizer.config.size)
    assert tokenizer.encode(images).shape == tokenizer.spec.shape(1)
    first = [w for n, w in tokenizer.named_parameters() if not n.startswith("quantize.")][:1]
    if not first:  # pixels themselves are coded
        images[0, 0, 0, 0] = math.nan
        with pytest.raises(ValueError, match="pixels must be numbers"):
            tokenizer.encode(images)
        return
    with torch.no_grad():
        first[0].view(-1)[0] = math.nan
    with pytest.raises(ValueError, match="latents of the tokenizer must be finite numbers, got"):
        tokenizer.encode(images)


@pytest.mark.parametrize("value", BAD)
def test_pixels(value):
    x = torch.zeros(1, 3, 2, 2)
    assert to_uint8(x).unique().tolist() == [128]
    x[0, 1, 0, 1] = value
    with pytest.raises(ValueError, match="pixels must be finite numbers, got 1 of 12 that are NaN"):
        to_uint8(x)


def test_a_picture_of_no_numbers_is_not_drawn():
    pipe = pipeline("llamagen")
    with torch.no_grad():
        pipe.tokenizer.decoder.conv_out.bias[0] = math.inf
    with pytest.raises(ValueError, match="pixels must be finite numbers, got"):
        pipe(n=1)


def test_features_of_captions(tmp_path):
    spec, path = pipeline("llamagen").tokenizer.spec, tmp_path / "codes.arrow"
    codes = np.zeros((1, spec.positions), np.int64)
    text = {"type": "t5", "config": {"length": 4, "dim": 2}, "fingerprint": "c"}
    encoding = Encoding(spec, 1, "a", {}, "x", "b", [], text)
    words = np.ones((3, 2), np.float32)
    write_cache(path, [(codes, -1, "a cat", False, "cat.png", words)], encoding)
    assert TokenCache(path).text([0])[0].sum() == 6
    for value in (math.nan, 1e6):  # float16 ends at 65504
        spoilt = words.copy()
        spoilt[1, 1] = value
        with pytest.raises(ValueError, match="features of 'cat.png' must be finite numbers"):
            write_cache(path, [(codes, -1, "a cat", False, "cat.png", spoilt)], encoding)
    content = path.read_bytes()
    good, bad = np.full(6, 1, np.float16).tobytes(), np.full(6, np.nan, np.float16).tobytes()
    assert content.count(good) == 1
    path.write_bytes(content.replace(good, bad))
    with pytest.raises(ValueError, match="damaged: features of cat.png are no numbers"):
        TokenCache(path).text([0])
