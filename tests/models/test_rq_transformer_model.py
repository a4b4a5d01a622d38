"""What is special about RQ-Transformer: code vectors of the tokenizer, and texts that it learns."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from builders import build, generate, random_codes, random_cond
from smalti.codes import Cond, Reads, Span
from smalti.models.rq_transformer import RQTransformer, RQTransformerConfig, tiny
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.tokenizers import rq_vae, vqgan

TEXT = replace(tiny(), classes=0, text_length=5, text_dim=7)
IDS = replace(TEXT, text_dim=1, text_vocab=11, text_weight=0.1)


def ids_of(batch: int) -> Cond:
    """Texts of ids; the first has two tokens of padding."""
    ids = torch.arange(batch * 5).view(batch, 5, 1) % 11
    mask = torch.ones(batch, 5, dtype=torch.bool)
    mask[0, :2] = False
    return Cond(text=ids.float(), text_mask=mask)


@pytest.mark.parametrize("shared", [True, False])
def test_it_takes_over_the_vectors_of_the_codes(shared):
    tokenizer = build(rq_vae.RQVAE, replace(rq_vae.tiny(), shared=shared))
    config = tiny().fitted(tokenizer, Reads(classes=3))
    assert (config.code_dim, config.shared_vectors, config.classes) == (4, shared, 3)
    model = build(RQTransformer, config)
    model.learn_from(tokenizer)
    codes = random_codes(model.spec, 2)
    vectors = tokenizer.quantize.embed(codes)  # (B, N, G, C)
    torch.testing.assert_close(model.head.seen.each(codes), vectors)
    held = model.code_mlp(vectors).sum(-2)
    torch.testing.assert_close(model.embed_codes(codes), held, rtol=1e-4, atol=1e-5)
    read = model.head.read(vectors.cumsum(-2)) + torch.cat(
        (model.head.positions[1:], torch.zeros(1, 32))
    )
    torch.testing.assert_close(model.head.behind(codes[..., :2]), read[..., :2, :])


def test_codes_that_are_no_stacks_are_refused():
    with pytest.raises(ValueError, match="a stack of codes at each position.*numbers below 32"):
        tiny().fitted(build(vqgan.VQGAN, vqgan.tiny()), Reads(classes=3))


@pytest.mark.parametrize("config", [TEXT, IDS], ids=["features", "ids"])
def test_models_of_texts_learn_and_draw(config):
    model = build(RQTransformer, config)
    cond = ids_of(2) if config.text_vocab else random_cond(model, 2)
    cond = replace(cond, drop=torch.tensor([False, True]))
    codes = random_codes(model.spec, 2)
    model.train().loss(codes, cond).mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    cond, noise = replace(cond, drop=None), Noise.request(0, 2)
    drawn = generate(model.eval(), cond, noise, Guidance(2.0))
    other = replace(cond, text=cond.text.flip(1))
    assert not torch.equal(drawn, generate(model, other, noise, Guidance(2.0)))
    padded = torch.where(cond.text_mask[..., None], cond.text, torch.full_like(cond.text, 3.0))
    assert torch.equal(generate(model, replace(cond, text=padded), noise, Guidance(2.0)), drawn)


@torch.no_grad()
def test_the_text_is_learned_too():
    """0.9 of an image's loss and 0.1 of its text's, each the mean of codes or tokens."""
    model = build(RQTransformer, IDS)
    codes, cond = random_codes(model.spec, 3), ids_of(3)
    cond = replace(cond, drop=torch.tensor([False, False, True]))
    image = model.eval().loss(codes, cond)
    x = model.sequence(codes, model.prepare(cond), Span.whole(16))
    ids = cond.text.squeeze(-1).long()
    logits = model.text_classifier(model.text_norm(x[:, :4]))
    first = F.cross_entropy(logits[0, 2:], ids[0, 3:])  # behind the padding
    second = F.cross_entropy(logits[1], ids[1, 1:])
    text = torch.stack((first, second, torch.tensor(0.0)))  # the third has no text
    torch.testing.assert_close(model.text_loss(x, cond), text)
    both = 0.9 * image + 0.1 * 3 * text[:, None]
    torch.testing.assert_close(model.train().loss(codes, cond), both)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text_length": 5}, "either classes or a text, got classes 5, text_length 5"),
        ({"vocabs": (32, 8)}, "one for each of 3 depths, the most of them 32, got"),
        ({"vocabs": (8, 8, 8)}, "the most of them 32"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"text_weight": 0.1}, "text_weight needs a text_vocab, got 0.1"),
        ({"classes": 0, "text_length": 5, "text_vocab": 9, "text_dim": 2}, "must be 1, got 2"),
    ],
)
def test_bad_settings(changes, words):
    with pytest.raises(ValueError, match=words):
        RQTransformerConfig(**{**vars(tiny()), **changes})
