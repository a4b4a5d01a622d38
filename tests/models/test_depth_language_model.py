"""Language models whose pictures are stacks of codes: how these are read, learned and drawn."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from builders import build
from smalti.codes import Cond, TokenSpec
from smalti.engine import mixed
from smalti.engine.step import Request
from smalti.models.depth_language import DepthLanguage, tiny, tiny_joined
from smalti.models.unified import Marks
from smalti.sampling.filters import Filters
from smalti.sampling.noise import Noise
from smalti.text.sequence import Part, rows_of
from smalti.tokenizers import rq_vae, unitok

KINDS = {"sum": tiny, "joined": tiny_joined}


@pytest.fixture(params=KINDS)
def model(request) -> DepthLanguage:
    return shaken(build(DepthLanguage, KINDS[request.param]()))


def shaken(model: DepthLanguage) -> DepthLanguage:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def picture(model: DepthLanguage, seed: int = 0, learned: bool = True) -> Part:
    generator = torch.Generator().manual_seed(seed)
    shape = model.spec.shape(1)[1:]
    codes = torch.randint(0, model.spec.vocab, shape, generator=generator)
    return Part(codes, model.spec, learned)


def text(*ids: int, learned: bool = True) -> Part:
    return Part(torch.tensor(ids), learned=learned)


@torch.no_grad()
def test_what_stands_in_a_row(model):
    """Words as words, and pictures by their vectors, each by itself, wherever they stand."""
    first, second = picture(model), picture(model, 1)
    rows = rows_of([[text(3, 4), first, text(5), second], [second]], model.wrapping, left=True)
    x = model.inputs(rows, 0, rows.ids.shape[1])
    words = rows.kept & ~rows.drawn
    assert torch.equal(x[words], model.language.embed(rows.ids[words]))
    count = model.spec.positions
    alone = [by_hand(model, part.content) for part in (first, second, second)]
    torch.testing.assert_close(x[rows.drawn], torch.cat(alone))
    for cut in (3, 3 + count // 2, 4 + count):  # in parts, as it is drawn
        parts = torch.cat((model.inputs(rows, 0, cut), model.inputs(rows, cut, x.shape[1])), 1)
        torch.testing.assert_close(parts, x)


def by_hand(model: DepthLanguage, codes: Tensor) -> Tensor:
    """The vectors (N, D) of a picture (N, G), code by code."""
    config, book = model.config, model.book.vectors.view(-1, model.spec.vocab, model.book.dim)
    each = [book[0 if config.shared else g][codes[:, g]] for g in range(config.depth)]
    if config.reads == "sum":
        return model.into(sum(each[1:], each[0]))
    return model.into(model.projection(torch.cat(each, -1)[None])[0])


@torch.no_grad()
def test_a_stack_is_read_without_those_after_it(model):
    one, other = picture(model), picture(model)
    other.content[-1] = (other.content[-1] + 1) % model.spec.vocab
    found = [model.inputs(rows_of([[p]], model.wrapping), 0, 8)[0] for p in (one, other)]
    assert torch.equal(found[0][:6], found[1][:6]) and not torch.equal(found[0][6], found[1][6])


@torch.no_grad()
def test_the_loss_of_a_stack_is_that_of_the_state_before_it(model):
    part = picture(model)
    rows = rows_of([[text(3, 4), part, text(5)], [text(7), picture(model, 1, learned=False)]],
                   model.wrapping)  # fmt: skip
    h, terms = model.read(rows, 0, rows.ids.shape[1], None), model.terms(rows, Noise.request(0, 2))
    count = model.spec.positions
    wanted = model.head.losses(h[:1, 2 : 2 + count], part.content[None]).mean(-1)
    codes, words = terms["codes"], terms["text"]
    assert codes.where.sum(1).tolist() == [count, 0]
    torch.testing.assert_close(codes.values[0, 3 : 3 + count], wanted[0])
    assert not codes.values[~codes.where].any()
    # the id behind a picture is learned from its last stack
    end = 3 + count
    nats = F.cross_entropy(model.logits(h[0, end - 1]), torch.tensor(model.config.end))
    torch.testing.assert_close(words.values[0, end], nats)
    assert words.where[0].tolist() == [False, True, True] + [False] * count + [True, True]


def test_rows_without_pictures_have_a_loss_of_text_alone(model):
    rows = rows_of([[text(3, 4, 5)]], model.wrapping)
    assert rows.codes is None
    terms = model.terms(rows, Noise.request(0, 1))
    assert not terms["codes"].where.any() and terms["text"].where.sum() == 2


def test_all_weights_have_gradients_whatever_stands_in_a_batch(model):
    """As processes that learn together need it: of rows without a picture, and with one that is
    only read."""
    model.train()
    for document in ([text(3, 4, 5)], [picture(model, learned=False), text(3, 4)]):
        model.zero_grad()
        terms = model.terms(rows_of([document], model.wrapping), Noise.request(0, 1))
        torch.stack([(t.values * t.where).sum() for t in terms.values()]).sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        assert float(terms["codes"].values.detach().abs().sum()) == 0


def test_training_keeps_logits_of_codes_small():
    model = shaken(build(DepthLanguage, tiny_joined(z_loss=0.5)))
    plain = replace(model.config, z_loss=0.0)
    h, codes = torch.randn(5, 32), picture(model).content[:5]
    assert torch.equal(model.losses(h, codes), model.head.losses(h[None], codes[None])[0])
    logits = torch.stack(model.head.logits(h[None], codes[None]), 2)[0]
    wanted = model.head.losses(h[None], codes[None])[0] + 0.5 * logits.logsumexp(-1).square()
    model.train()
    torch.testing.assert_close(model.losses(h, codes), wanted)
    model.config = plain
    torch.testing.assert_close(model.losses(h, codes), model.head.losses(h[None], codes[None])[0])


@torch.inference_mode()
def test_filters_are_of_each_code(model):
    """The likeliest first and last codes; the one between is any."""
    how = Request(
        Cond(labels=torch.arange(4)), Noise.request(0, 4), filters=Filters(top_k=(1, 0, 1))
    )
    words = torch.zeros(model.vocab, dtype=torch.bool)
    wish = mixed.MixedRequest([[text(3)]] * 4, how, words, first="picture")
    drawn = [e.part.content for e in mixed.stream(model, wish) if isinstance(e, mixed.Finished)]
    codes = torch.stack(drawn)  # (4, N, G)
    assert (codes[:, 0, 0] == codes[0, 0, 0]).all() and len(codes[:, 0, 1].unique()) > 1
    rows = rows_of([[text(3), Part(part, model.spec)] for part in codes], model.wrapping)
    h = model.read(rows, 0, rows.ids.shape[1], None)[:, 1 : 1 + model.spec.positions]
    first, _, last = model.head.logits(h, codes)
    assert torch.equal(codes[..., 0], first.argmax(-1)) and torch.equal(
        codes[..., 2], last.argmax(-1)
    )


def test_guidance_compares_with_what_stands_for_no_text():
    model = build(DepthLanguage, tiny(nothing=(7, 8)))
    first, last = model.nothing([text(3, 4), picture(model)])
    assert first.content.tolist() == [1, 7, 8] and not first.learned and last.silent
    assert model.pictures([text(3), picture(model), text(4), picture(model)])[1].spec is not None


@pytest.mark.parametrize("shared", [False, True])
def test_a_tokenizer_decides_what_its_vectors_are(shared):
    for make, kind, config in (
        (tiny, rq_vae.RQVAE, replace(rq_vae.tiny(), shared=shared)),
        (tiny_joined, unitok.UniTok, replace(unitok.tiny(), depth=4, vocab=16)),
    ):
        tokenizer = build(kind, config)
        wish = make().fitted(tokenizer.spec, 50, Marks(0, (1,), 2))
        wish = wish.with_codebook(tokenizer.codebook)
        assert wish.spec == tokenizer.spec and (wish.begin, wish.language.vocab) == (50, 52)
        assert wish.shared == (shared and make is tiny)
        model = build(DepthLanguage, wish)
        model.learn_from(tokenizer.codebook)
        codes = torch.randint(0, config.vocab, (5, config.depth))
        assert torch.equal(model.book.each(codes), tokenizer.quantize.embed(codes))
        assert "head.seen.vectors" not in dict(model.named_parameters())


def test_what_cannot_be_is_refused():
    for changes, message in (
        ({"begin": 64}, "begin must be below the 64 ids of the vocabulary, got 64"),
        ({"nothing": (3, 99)}, "nothing must be below the 64 ids of the vocabulary, got 99"),
        ({"depth": 0}, "depth must be"),
        ({"z_loss": -1.0}, "z_loss must be"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny(**changes)
    with pytest.raises(ValueError, match="heads must divide the wider side, 12, got 5"):
        tiny_joined(heads=5)
    with pytest.raises(ValueError, match="writes pictures of one grid of codes out of 16, 3 at"):
        tiny().fitted(TokenSpec(((2, 3),), 16), 50, Marks())


@pytest.mark.slow
def test_what_is_learned_is_drawn(model):
    """A document by heart: its picture is then the likeliest one, read and drawn stack by stack."""
    torch.manual_seed(0)
    model.init_weights()
    document = [text(3, 4, learned=False), picture(model, 3), text(5)]
    rows = rows_of([document], model.wrapping)
    optimizer, loss = torch.optim.AdamW(model.train().parameters(), lr=3e-3), torch.tensor(9.0)
    for _ in range(120):
        terms = model.terms(rows, Noise.request(0, 1))
        loss = torch.stack([(term.values * term.where).sum() for term in terms.values()]).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.5  # of 18 codes and two ids
    with torch.inference_mode():
        how = Request(Cond(labels=torch.arange(1)), Noise.request(0, 1), filters=Filters(top_k=1))
        words = torch.zeros(model.vocab, dtype=torch.bool)
        wish = mixed.MixedRequest([document[:1]], how, words, first="picture")
        *_, last = mixed.stream(model.eval(), wish)
    assert isinstance(last, mixed.Finished)
    assert torch.equal(last.part.content, document[1].content)
