"""Configurations and requests that cannot work say what they were given and what is allowed."""

from dataclasses import replace

import pytest
import torch

from builders import build, generate, random_codes
from smalti.codes import Cond, TokenSpec
from smalti.engine.step import Known
from smalti.models import ibq, llamagen
from smalti.sampling.noise import Noise
from smalti.tokenizers import (
    dcae,
    fsq,
    kl_vae,
    maskgit_vqgan,
    multiscale_vqvae,
    open_magvit2,
    vqgan,
)
from smalti.tokenizers import ibq as ibq_tokenizer
from smalti.tokenizers import infinity as infinity_vae
from smalti.train.kl import KLConfig


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"heads": 0}, "heads must be at least 1, got 0"),
        ({"dim": 0}, "dim must be at least 1, got 0"),
        ({"vocab": -1}, "vocab must be at least 1, got -1"),
        ({"multiple_of": 0}, "multiple_of must be at least 1, got 0"),
        ({"grid": (4, 0)}, r"grid must be two positive integers, got \(4, 0\)"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"drop_path": -0.1}, r"drop_path must be in \[0, 1\), got -0.1"),
        ({"kv_heads": -1}, "kv_heads must divide heads 2, got -1"),
        ({"kv_heads": 4}, "kv_heads must divide heads 2, got 4"),
        ({"dim": 30}, r"dim must be a multiple of 4 \* heads, got 30, 2"),
        ({"classes": 0}, "either classes or a text, got classes 0, text_length 0"),
    ],
)
def test_llamagen(bad, message):
    with pytest.raises(ValueError, match=message):
        replace(llamagen.tiny(), **bad)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"patch": 0}, "patch must be at least 1, got 0"),
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"blocks": 0}, "blocks must be at least 1, got 0"),
        ({"latent": 0}, "latent must be at least 1, got 0"),
        ({"dim": 0}, "dim must be at least 1, got 0"),
        ({"vocab": 1}, "vocab must be at least 2, got 1"),
        ({"multipliers": ()}, r"multipliers must be one or more positive integers, got \(\)"),
        ({"multipliers": (1, 0)}, r"positive integers, got \(1, 0\)"),
        ({"decoder_multipliers": (1, 0, 2)}, r"of the decoder, \(1, 0, 2\)"),
        ({"decoder_multipliers": (1, 2)}, r"as many as multipliers \(1, 2, 2\), got \(1, 2\)"),
        ({"dropout": 1.5}, r"dropout must be in \[0, 1\), got 1.5"),
        ({"size": (16, 18)}, r"size must be multiples of 4 pixels, got \(16, 18\)"),
    ],
)
def test_vqgan(bad, message):
    with pytest.raises(ValueError, match=message):
        replace(vqgan.tiny(), **bad)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            {"scales": ((1, 1), (2, 2))},
            r"must be \(4, 4\), which is size \(16, 16\) / 4, got \(2, 2\)",
        ),
        ({"size": (16, 32)}, r"must be \(4, 8\), which is size \(16, 32\) / 4, got \(4, 4\)"),
        ({"scales": ((2, 2), (1, 1), (4, 4))}, r"ascend, got \(1, 1\) behind \(2, 2\)"),
        ({"scales": ()}, r"pairs of positive integers, got \(\)"),
        ({"kernel": 2}, "odd and positive, got 2"),
        ({"phis": -1}, "phis must be 0 .* got -1"),
        ({"phi_ratio": -0.5}, r"\[0, 1\], got -0.5"),
        ({"vocab": 1}, "got 1, 4"),
        ({"dim": 0}, "got 32, 0"),
        ({"blocks": 0}, "blocks must be at least 1, got 0"),
    ],
)
def test_multiscale_vqvae(bad, message):
    with pytest.raises(ValueError, match=message):
        replace(multiscale_vqvae.tiny(), **bad)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            {"scales": ((1, 1), (2, 2))},
            r"must be \(4, 4\), which is size \(16, 16\) / 4, got \(2, 2\)",
        ),
        ({"cells": 3}, r"size must be multiples of 12 pixels, got \(16, 16\)"),
        ({"cells": 2}, r"must be \(2, 2\), which is size \(16, 16\) / 8, got \(4, 4\)"),
        ({"scales": ((2, 2), (1, 1), (4, 4))}, r"ascend, got \(1, 1\) behind \(2, 2\)"),
        ({"scales": ()}, r"pairs of positive integers, got \(\)"),
        ({"bits": 0}, "bits must be at least 1, got 0"),
        ({"cells": 0}, "cells must be at least 1, got 0"),
        ({"blocks": 0}, "blocks must be at least 1, got 0"),
    ],
)
def test_infinity_vae(bad, message):
    with pytest.raises(ValueError, match=message):
        replace(infinity_vae.tiny(), **bad)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"blocks": 0}, "blocks must be at least 1, got 0"),
        ({"dim": 0}, "dim must be at least 1, got 0"),
        ({"vocab": 1}, "vocab must be at least 2, got 1"),
        ({"multipliers": ()}, r"multipliers must be one or more positive integers, got \(\)"),
        ({"multipliers": (1, 0)}, r"positive integers, got \(1, 0\)"),
        ({"dropout": -0.5}, r"dropout must be in \[0, 1\), got -0.5"),
        ({"size": (16, 18)}, r"size must be multiples of 4 pixels, got \(16, 18\)"),
    ],
)
def test_maskgit_vqgan(bad, message):
    with pytest.raises(ValueError, match=message):
        replace(maskgit_vqgan.tiny(), **bad)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"latent": 0}, "latent must be at least 1, got 0"),
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"multipliers": (1, 0)}, r"positive integers, got \(1, 0\)"),
        ({"group": 0}, "group must be at least 1, got 0"),
        ({"group": 3}, r"multiples of 12 pixels, which make one code, got \(16, 16\)"),
        ({"size": (16, 18)}, r"size must be multiples of 4 pixels, got \(16, 18\)"),
        ({"size": (16, 20), "group": 2}, r"multiples of 8 pixels, .* got \(16, 20\)"),
        ({"scale": 0.0}, "scale must be a positive number, got 0.0"),
        ({"scale": -0.5}, "scale must be a positive number, got -0.5"),
        ({"scale": float("nan")}, "scale must be a positive number, got nan"),
        ({"scale": float("inf")}, "scale must be a positive number, got inf"),
    ],
)
def test_kl_vae(bad, message):
    with pytest.raises(ValueError, match=message):
        replace(kl_vae.tiny(), **bad)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"widths": ()}, r"widths must be one or more positive integers, got \(\)"),
        ({"widths": (4, 8)}, r"blocks must be of the 2 levels of widths, got \(1, 1, 1\)"),
        ({"blocks": (1, 0, 1)}, r"positive, but that the first and the last .* got \(1, 0, 1\)"),
        ({"activations": ("relu",)}, r"activations must be of the 3 levels of widths, got \('relu"),
        ({"activations": ("tanh",) * 3}, "activations must be of silu, relu, gelu, mish, got tanh"),
        ({"attention_at": (3,)}, r"attention_at must be of the levels \[1, 2, 4\], got \(3,\)"),
        ({"kernels": ((4, 2),)}, r"one of the levels \[1, 2, 4\] and an odd number, got \(\(4, 2"),
        (
            {"widths": (4, 8, 48)},
            r"a multiple of that of the next, got widths \(4, 8, 48\)",
        ),
    ],
)
def test_half_of_dcae(bad, message):
    with pytest.raises(ValueError, match=message):
        replace(dcae.tiny().encoder, **bad)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"latent": 0}, "latent must be at least 1, got 0"),
        ({"latent": 5}, "multiple of latent 5, which shortcuts ask for, got 16, 16"),
        ({"scale": -1.0}, "scale must be a positive number, got -1.0"),
        ({"size": (16, 18)}, r"size must be multiples of 4 pixels, got \(16, 18\)"),
        ({"head_dim": 17}, r"no more than the widths with attention, \[16\], got 17"),
        ({"last_activation": "tanh"}, "last_activation must be one of silu, relu, gelu, mish, got"),
        ({"encoder": dcae.HalfConfig((8,), (1,), ())}, r"as many levels, got widths \(8,\), \(4, "),
    ],
)
def test_dcae(bad, message):
    with pytest.raises(ValueError, match=message):
        replace(dcae.tiny(), **bad)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"patch": 0}, "patch must be at least 1, got 0"),
        ({"blocks": 0}, "blocks must be at least 1, got 0"),
        ({"bits": 0}, "bits must be at least 1, got 0"),
        ({"entropy_group": 0}, "entropy_group must be at least 1, got 0"),
        ({"multipliers": ()}, r"multipliers must be one or more positive integers, got \(\)"),
        ({"size": (16, 18)}, r"size must be multiples of 4 pixels, got \(16, 18\)"),
    ],
)
def test_open_magvit2_lfq(bad, message):
    with pytest.raises(ValueError, match=message):
        replace(open_magvit2.tiny(), **bad)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"vocab": 1}, "vocab must be at least 2, got 1"),
        ({"dim": 0}, "dim must be at least 1, got 0"),
        ({"temperature": 0.0}, "temperature must be a positive number, got 0.0"),
        ({"decoder_multipliers": (1, 2)}, r"as many as multipliers \(1, 2, 2\), got \(1, 2\)"),
        ({"size": (16, 18)}, r"size must be multiples of 4 pixels, got \(16, 18\)"),
    ],
)
def test_ibq_tokenizer(bad, message):
    with pytest.raises(ValueError, match=message):
        replace(ibq_tokenizer.tiny(), **bad)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"levels": ()}, r"levels must be one or more integers from 2 to 512, .* got \(\)"),
        ({"levels": (8, 1)}, r"levels must be .*, got \(8, 1\)"),
        ({"latent": 0}, "latent must be at least 1, got 0"),
        ({"size": (16, 18)}, r"size must be multiples of 4 pixels, got \(16, 18\)"),
    ],
)
def test_fsq(bad, message):
    with pytest.raises(ValueError, match=message):
        replace(fsq.tiny(), **bad)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"classes": 0}, "classes must be at least 1, got 0"),
        ({"vocab": 1}, "vocab must be at least 2, got 1"),
        ({"channels": -1}, "channels must be 0 or more, got -1"),
        ({"gate": 0.0}, "gate must be a positive number, got 0.0"),
        ({"dim": 30}, r"dim must be a multiple of 4 \* heads, got 30, 2"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_ibq(bad, message):
    with pytest.raises(ValueError, match=message):
        replace(ibq.tiny(), **bad)


@pytest.mark.parametrize("weight", [-1e-6, float("nan")])
def test_kl_weight(weight):
    with pytest.raises(ValueError, match=f"kl_weight must be 0 or more, got {weight}"):
        KLConfig(kl_weight=weight)


@pytest.mark.parametrize("bad", [{"vocab": -1}, {"depth": -2}, {"channels": -3}])
def test_token_spec(bad):
    with pytest.raises(ValueError, match=f"0 or more, got .*{next(iter(bad.values()))}"):
        TokenSpec(**{"grids": ((2, 2),), "vocab": 4} | bad)


@pytest.mark.parametrize("labels", [[0, 5], [-1, 2]])
def test_labels_that_are_no_class(labels):
    model = build(llamagen.LlamaGen, llamagen.tiny())
    message = rf"labels must be in \[0, 5\), got {min(labels)} to {max(labels)}"
    with pytest.raises(ValueError, match=message):
        generate(model, Cond(labels=torch.tensor(labels)), Noise.request(0, 2))


def test_known_codes_of_another_shape():
    model = build(llamagen.LlamaGen, llamagen.tiny())
    cond, noise = Cond(labels=torch.tensor([0, 1])), Noise.request(0, 2)
    codes, mask = random_codes(model.spec, 2), torch.ones(2, 16, dtype=torch.bool)
    assert torch.equal(generate(model, cond, noise, known=Known(codes, mask)), codes)
    for bad in (mask[:1], mask[:, :4], mask.long(), mask[0]):
        with pytest.raises(ValueError, match=r"mask of known codes must be \(2, 16\) bool, got"):
            generate(model, cond, noise, known=Known(codes, bad))
    with pytest.raises(ValueError, match=r"known codes must be \(2, 16\), got \(1, 16\)"):
        generate(model, cond, noise, known=Known(codes[:1], mask))
