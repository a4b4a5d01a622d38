"""Text and pictures as ids of one vocabulary."""

import pytest
import torch

from smalti.codes import Cond
from smalti.engine import mixed
from smalti.engine.step import Request
from smalti.models.one_vocabulary import OneVocabulary, tiny
from smalti.sampling.noise import Noise
from smalti.text.sequence import Part, rows_of

ORDER = (3, 0, 1, 2, *range(15, 3, -1))


@pytest.fixture(params=[(), ORDER], ids=["in order", "permuted"])
def model(request) -> OneVocabulary:
    torch.manual_seed(0)
    return OneVocabulary(tiny(order=request.param)).eval()


def document(model: OneVocabulary, learned: bool = True) -> list[Part]:
    codes = torch.tensor([0, 1, 2, 3, 14, 15])
    return [Part(torch.tensor([40, 41])), Part(codes, model.spec, learned), Part(torch.tensor([3]))]


def test_every_code_has_an_id_of_its_own(model):
    codes = torch.arange(16)
    ids = model.wrapping.id_of(codes)
    assert sorted(ids.tolist()) == list(range(4, 20))
    assert torch.equal(model.config.wrapping.code_of(ids), codes)
    codes = model.config.wrapping.is_code(torch.arange(model.vocab), model.spec)
    assert torch.equal(codes.nonzero().flatten(), ids.sort().values)


@torch.inference_mode()
def test_drawn_codes_are_those_of_their_ids(model, monkeypatch):
    """Where the id of one code is the likeliest, that code is drawn, and its id is read next."""
    wanted = int(model.wrapping.id_of(torch.tensor(5)))
    logits = model.logits
    ids = torch.arange(model.vocab)
    monkeypatch.setattr(model, "logits", lambda h: logits(h) + 1e4 * (ids == wanted))
    how = Request(Cond(labels=torch.arange(1)), Noise.request(0, 1))
    nothing = torch.zeros(model.vocab, dtype=torch.bool)
    wish = mixed.MixedRequest([[Part(torch.tensor([40]))]], how, nothing, first="picture")
    read, seen = model.read, set[int]()

    def watched(rows, begin, end, cache):
        seen.update(rows.ids[0, begin:end].tolist())
        return read(rows, begin, end, cache)

    monkeypatch.setattr(model, "read", watched)
    *_, last = mixed.stream(model, wish)
    assert last.part.content.tolist() == [5] * 6
    assert seen == {40, model.config.begin, wanted}


def test_the_loss_is_of_what_is_learned(model):
    whole = rows_of([document(model)], model.wrapping)
    assert whole.ids[0, 2] == 20 and whole.ids[0, 9] == 21
    nats = model.loss(whole)
    assert (nats[0, 1:] > 0).all() and nats[0, 0] == 0
    read = model.loss(rows_of([document(model, learned=False)], model.wrapping))
    assert read[0].nonzero().flatten().tolist() == [1, 10]
    torch.testing.assert_close(read[0, [1, 10]], nats[0, [1, 10]])


def test_training_keeps_logits_small(model):
    """By the square of what all of them are divided by, of each id that is learned."""
    other = OneVocabulary(tiny(z_loss=0.5)).eval()
    other.load_state_dict(model.state_dict())
    rows = rows_of([document(model)], model.wrapping)
    nats = model.loss(rows)
    assert torch.equal(other.loss(rows), nats) and torch.equal(model.train().loss(rows), nats)
    size = other.logits(other.hidden(rows)).logsumexp(-1)[:, :-1]
    added = other.train().loss(rows)[:, 1:] - nats[:, 1:]
    torch.testing.assert_close(added, 0.5 * size.square() * (nats[:, 1:] > 0))


def test_padding_changes_nothing(model):
    alone = model.loss(rows_of([document(model)], model.wrapping))[0]
    for left in (False, True):
        long = [Part(torch.arange(40, 60))]
        both = rows_of([document(model), long], model.wrapping, left=left)
        nats = model.loss(both)[0]
        torch.testing.assert_close(nats[both.kept[0]], alone)
        assert not nats[~both.kept[0]].any()


def test_nothing_is_read_of_what_comes_after(model):
    first = rows_of([document(model)], model.wrapping)
    h = model.hidden(first)
    for i in range(1, first.ids.shape[1]):
        other = first._replace(ids=first.ids.clone())
        other.ids[0, i] = 50
        torch.testing.assert_close(model.hidden(other)[:, :i], h[:, :i])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"order": (0, 1)}, "order must hold each of the 16 codes once"),
        ({"order": (0,) * 16}, "order must hold each of the 16 codes once"),
        ({"first": 60}, "the vocabulary has 64 ids, got 75 among them"),
        ({"end": 64}, "the vocabulary has 64 ids, got 64 among them"),
        ({"begin": 19}, "begin must be no code's id, got 19"),
        ({"codes": 0}, "codes must be at least 1, got 0"),
    ],
)
def test_configurations_that_cannot_be(changes, words):
    with pytest.raises(ValueError, match=words):
        tiny(**changes)
