"""Janus: which part of a row goes which way, and what guidance compares with."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from smalti.codes import Cond, TokenSpec
from smalti.engine import causal, mixed
from smalti.engine.step import Request
from smalti.models.janus import Janus, JanusConfig, tiny
from smalti.models.unified import Marks
from smalti.sampling.filters import Filters
from smalti.sampling.noise import Noise
from smalti.text.sequence import Document, Part, rows_of
from smalti.train.joint import JointConfig, batch_of


@pytest.fixture
def model() -> Janus:
    torch.manual_seed(0)
    made = Janus(tiny())
    made.init_weights()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made.eval()


def text(*ids: int) -> Part:
    return Part(torch.tensor(ids))


def codes(model: Janus) -> Part:
    torch.manual_seed(1)
    return Part(torch.randint(0, model.spec.vocab, (model.spec.positions,)), model.spec)


def seen(model: Janus) -> Part:
    torch.manual_seed(2)
    spec = model.config.sight.spec
    return Part(torch.randn(spec.empty(1)[0].shape), spec, learned=False, seen=True)


def touched(model: Janus, document: Document, kind: str) -> set[str]:
    """Which parts beside the language model have a gradient of what a document loses of a kind."""
    model.zero_grad()
    term = model.terms(rows_of([document], model.wrapping), Noise.request(0, 1))[kind]
    (term.values * term.where).sum().backward()
    grads = {n: p.grad for n, p in model.named_parameters() if not n.startswith("language")}
    return {n.partition(".")[0] for n, grad in grads.items() if grad is not None and grad.any()}


def test_pictures_go_one_way_in_and_another_way_out(model):
    read = [seen(model), text(3, 4)]
    assert touched(model, read, "text") == {"aligner"}
    drawn = [text(3), codes(model)]
    out = {"code_embeddings", "code_aligner", "code_proj", "code_head"}
    assert touched(model, drawn, "codes") == out
    assert touched(model, [*drawn, text(5)], "text") == {"code_embeddings", "code_aligner"}
    assert touched(model, [seen(model), text(3), codes(model)], "codes") == {*out, "aligner"}


def test_every_weight_has_a_gradient_whatever_stands_in_a_batch(model):
    """Else processes whose batches differ would wait for each other."""
    terms = model.terms(rows_of([[text(1, 3)]], model.wrapping), Noise.request(0, 1))
    torch.stack([(term.values * term.where).sum() for term in terms.values()]).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_it_learns_to_say_what_the_eye_sees_and_to_draw_what_is_said(model):
    """Four pictures, each in both forms."""
    torch.manual_seed(3)
    spec, marks = model.config.sight.spec, model.marks
    names = [text(3 + i, 10 - i) for i in range(4)]
    forms = [torch.randn(spec.empty(1)[0].shape) for _ in names]
    drawn = [torch.randint(0, model.spec.vocab, (model.spec.positions,)) for _ in names]
    shown = [[text(marks.start), Part(f, spec, learned=False, seen=True)] for f in forms]
    asked = [[text(marks.start), name] for name in names]
    documents = [[*some, name, text(1)] for some, name in zip(shown, names, strict=True)]
    pictures = zip(asked, drawn, strict=True)
    documents += [[*some, Part(codes, model.spec)] for some, codes in pictures]
    objective = JointConfig(over="kinds").objective(model.train())
    batch = batch_of(rows_of(documents, model.wrapping)) | {"shuffle": torch.arange(8)}
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for step in range(60):
        losses = objective(batch, step).totals["model"]
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()
    model.eval()
    how = Request(
        Cond(labels=torch.arange(4)), Noise.request(0, 4), filters=Filters(temperature=0.0)
    )
    words = torch.ones(model.vocab, dtype=torch.bool)
    wish = mixed.MixedRequest(shown, how, words, (1,), Filters(temperature=0.0), most=4, pictures=0)
    first = replace(wish, documents=asked, most=0, pictures=1, first="picture")
    for request, wanted in ((wish, [name.content for name in names]), (first, drawn)):
        with torch.no_grad():
            events = [e for e in mixed.stream(model, request) if isinstance(e, mixed.Finished)]
        found = {event.row: event.part.content.tolist() for event in events}
        assert [found[i] for i in range(4)] == [content.tolist() for content in wanted]


@torch.no_grad()
def test_a_code_is_no_id_of_text(model):
    """Whatever stands in the row: the losses are over the ids of text, or over all codes."""
    rows = rows_of([[text(1, 3), codes(model), text(2)]], model.wrapping)
    terms = model.terms(rows, Noise.request(0, 1))
    learned = [int(term.where.sum()) for term in terms.values()]
    assert learned == [1 + 2 + 1, model.spec.positions]  # a 3, around the picture, and a 2
    h = model.read(rows, 0, rows.ids.shape[1], None)
    where = terms["codes"].where[0].nonzero().flatten()
    logits = model.code_logits(h[0, where - 1])
    labels = rows.ids[0, where] - model.vocab
    nats = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(terms["codes"].values[0, where], nats)
    assert rows.ids.max() >= model.vocab


def test_guidance_compares_with_padding_of_the_same_length(model):
    marks, picture = model.marks, codes(model)
    document = [text(marks.start, 3, 4), seen(model), text(5), picture]
    rows = rows_of(
        [document, model.nothing(document), model.pictures(document)], model.wrapping, left=True
    )
    before = rows.ids[:, : -len(picture.content) - 2]
    pad, begin, end = marks.pad, model.config.begin, model.config.end
    assert before[0].tolist() == [marks.start, 3, 4, begin, *[-2] * 4, end, 5]
    assert before[1].tolist() == [marks.start, *[pad] * 9]
    assert before[2].tolist() == [marks.start, pad, pad, begin, *[-2] * 4, end, pad]
    assert rows.kept.all() and torch.equal(rows.ids[0, -8:], rows.ids[1, -8:])
    assert torch.equal(rows.positions[0], rows.positions[1])
    bare = [text(7), picture]  # what begins it is no mark
    assert [part.content.tolist() for part in model.nothing(bare)[:-1]] == [[pad]]


@torch.no_grad()
def test_a_penalty_knows_the_ids_of_text_alone(model):
    """Behind a picture, whose codes have ids above those of text."""
    rows = rows_of([[text(1, 3), codes(model), text(2)]], model.wrapping)
    writer = model.writer(rows, 1, torch.ones(1, model.vocab).bool(), 2.0)
    context = writer.prepare(Cond(labels=torch.arange(1)))
    writer.read(context, rows.ids.shape[1])
    there = writer.there(context, torch.zeros(1, model.vocab))
    assert there[0].nonzero().flatten().tolist() == [1, 2, 3, model.config.begin, model.config.end]


@torch.no_grad()
def test_a_penalty_makes_what_is_there_less_likely(model, monkeypatch):
    """Whichever sign its logit has."""
    logits = torch.full((2, 1, model.vocab), -9.0)
    logits[0, 0, [1, 5]] = torch.tensor([2.0, 1.5])
    logits[1, 0, [2, 6]] = torch.tensor([-2.0, -3.0])
    monkeypatch.setattr(model, "logits", lambda h: logits)
    rows = rows_of([[text(1, 2, 3), Part(torch.zeros(1).long())]] * 2, model.wrapping)
    wish = Request(Cond(labels=torch.arange(2)), Noise.request(0, 2), filters=Filters(0.0))
    for penalty, wanted in ((1.0, [1, 2]), (1.2, [1, 2]), (2.0, [5, 6])):
        writer = model.writer(rows, 1, torch.ones(2, model.vocab).bool(), penalty)
        *_, last = causal.stream(writer, wish)
        assert last.codes[:, 0].tolist() == wanted, penalty


def test_tokenizers_and_eye_decide_the_rest():
    marks = Marks(0, (1,), 2)
    config = tiny().fitted(TokenSpec(((4, 4),), 99), 300, marks)
    assert config.language.vocab == 302 and (config.begin, config.end) == (300, 301)
    assert config.spec == TokenSpec(((4, 4),), 99) and config.marks == marks
    sight = replace(config.sight, spec=TokenSpec(((3, 3),), channels=7))
    assert config.seeing(sight).sight == sight
    with pytest.raises(ValueError, match="of any length; the eye gives 3 x 3 .* of length 1"):
        config.seeing(replace(sight, unit=True))
    with pytest.raises(ValueError, match="Janus writes pictures of one grid of codes out of 16"):
        tiny().fitted(TokenSpec(((4, 4),), channels=4), 300, marks)
    written: Tensor = Janus(config).written
    assert written.sum() == 300 and not written[300:].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seen_dim": 0}, "seen_dim must be at least 1, got 0"),
        ({"seen_grid": (2, 0)}, "seen_grid must be two positive integers"),
        ({"begin": 64}, "the vocabulary has 64 ids, begin is 64"),
        ({"code_layers": 0}, "code_layers must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        tiny(**change)


def test_the_defaults_are_those_of_janus():
    config = JanusConfig()
    assert config.sight.spec.positions == config.spec.positions == 576
    assert config.language.dim == 2048 and config.sight.spec.channels == 1024
