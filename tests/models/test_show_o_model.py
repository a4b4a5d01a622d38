"""Show-o: how documents are written, what is hidden and learned, and how pictures are drawn."""

import pytest
import torch

from smalti.codes import Cond, Known, Turn
from smalti.engine import masked, mixed
from smalti.engine.step import Request
from smalti.models.show_o import ShowO, tiny
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.sampling.reveal import Reveal
from smalti.text.sequence import Part, fitted, rows_of

CODES = torch.tensor([0, 1, 2, 3, 14, 15])
HIDDEN = 20
"""The id of a hidden code."""


@pytest.fixture
def model() -> ShowO:
    torch.manual_seed(0)
    return ShowO(tiny()).eval()


def text(*ids: int, learned: bool = True) -> Part:
    return Part(torch.tensor(ids, dtype=torch.int64), learned=learned)


def picture(model: ShowO, learned: bool = True) -> Part:
    return Part(CODES, model.spec, learned)


def test_a_row_says_what_it_is_about(model):
    ids = [4, 5, 6, 7, 18, 19]
    drawn = [text(40, 41), picture(model)]
    read = [picture(model, False), text(42), text(43)]
    both = [picture(model, False), text(42), picture(model), text(1)]
    rows = [
        ([23, 0, 40, 41, 1, 21, *ids, 22], drawn),
        ([24, 21, *ids, 22, 0, 42, 43], read),
        ([24, 21, *ids, 22, 0, 42, 1, 21, *ids, 22, 0, 1], both),
        ([0, 40], [text(40)]),
        ([23, 0, 1, 21, *ids, 22], model.nothing(drawn)),
    ]
    for written, document in rows:
        assert rows_of([document], model.wrapping).ids[0].tolist() == written
        assert model.wrapping.size(document) == len(written)


def test_nothing_gives_a_picture_away_that_a_model_begins_by_itself(model):
    wrapping = tiny(learns_begin=True).wrapping
    ids = [4, 5, 6, 7, 18, 19]
    asked = [text(40, 41, learned=False), picture(model), text(1)]
    read = [picture(model, False), text(42, learned=False), picture(model)]
    rows = [
        ([0, 40, 41, 21, *ids, 22, 0, 1], asked),
        ([24, 21, *ids, 22, 0, 42, 21, *ids, 22], read),
        ([0, 21, *ids, 22], model.nothing(asked[:2])),
    ]
    for written, document in rows:
        assert rows_of([document], wrapping).ids[0].tolist() == written
        assert wrapping.size(document) == len(written)
    before = rows_of([[text(40, 41, learned=False)]], wrapping).ids[0].tolist()
    assert before == rows[0][0][:3], "what comes before a picture is the same without it"


def test_the_begin_of_a_picture_is_learned_where_it_is_asked_for():
    torch.manual_seed(0)
    model = ShowO(tiny(learns_begin=True)).eval()
    rows = rows_of([[text(40, 41, learned=False), picture(model)]], model.wrapping)
    noise = Noise.request(3, 1)
    term = model.terms(rows, noise)["text"]
    assert term.where[0].nonzero().flatten().tolist() == [3] and rows.ids[0, 3] == 21
    hidden = rows._replace(ids=rows.ids.masked_fill(model.hides(rows, noise), HIDDEN))
    logp = model.logits(model.read(hidden, 0, rows.ids.shape[1], None)).log_softmax(-1)[0]
    assert torch.isclose(term.values[0, 3], -logp[2, 21]), "said by the last id of the text"
    told = ShowO(tiny()).terms(rows_of([[text(40, learned=False), picture(model)]],
                                       tiny().wrapping), noise)  # fmt: skip
    assert not told["text"].where.any()


def test_what_a_row_is_about_is_seen_with_the_picture_that_it_begins_with(model):
    mask = rows_of([[picture(model, False), text(42)]], model.wrapping).mask()[0]
    assert mask[:9, :9].all() and not mask[:9, 9:].any()
    drawn = rows_of([[text(40), picture(model)]], model.wrapping).mask()[0]
    assert not drawn[:4, 4:].any() and drawn[4:].all()


def test_training_hides_a_share_of_each_picture_that_is_learned(model):
    document = [picture(model, False), text(40), picture(model), text(41), picture(model)]
    rows = rows_of([document] * 64, model.wrapping)
    hidden = model.hides(rows, Noise.request(0, 64))
    assert not hidden[:, :9].any(), "a picture that is only read is whole"
    counts = torch.stack([hidden[rows.spans == n].view(64, -1).sum(1) for n in (2, 3)])
    assert counts.sum() == hidden.sum() and counts.min() >= 1 and counts.max() == 6
    assert (counts[0] != counts[1]).any(), "each has a share of its own"
    assert 3 < counts.float().mean() < 4.7, "the mean of cos is 2 / pi, of 6 codes 3.8"
    where = hidden[rows.spans == 2].view(64, -1)[:, 1:-1].float().mean(0)
    assert where.min() > 0.4 and where.max() < 0.9, "any place is as likely as any other"


def test_the_loss_is_of_text_that_is_next_and_of_codes_that_are_hidden(model):
    rows = rows_of([[text(40, 41), picture(model)]], model.wrapping)
    noise = Noise.request(3, 1)
    terms, hidden = model.terms(rows, noise), model.hides(rows, noise)
    assert torch.equal(terms["codes"].where, hidden)
    assert terms["text"].where[0].nonzero().flatten().tolist() == [2, 3, 4], "its end too"
    seen = rows._replace(ids=rows.ids.masked_fill(hidden, HIDDEN))
    logp = model.logits(model.read(seen, 0, rows.ids.shape[1], None)).log_softmax(-1)[0]
    for i in (2, 3, 4):
        assert torch.isclose(terms["text"].values[0, i], -logp[i - 1, rows.ids[0, i]])
    for i in hidden[0].nonzero().flatten():
        assert torch.isclose(terms["codes"].values[0, i], -logp[i, rows.ids[0, i]])


def test_padding_changes_nothing(model):
    document = [text(40, 41), picture(model)]
    alone = rows_of([document], model.wrapping)
    h = model.read(alone, 0, alone.ids.shape[1], None)[0]
    long = [text(*range(40, 60)), picture(model)]
    for left in (False, True):
        rows = rows_of([document, long], model.wrapping, left=left)
        padded = model.read(rows, 0, rows.ids.shape[1], None)[0]
        torch.testing.assert_close(padded[rows.kept[0]], h)


def test_behind_what_is_read_once_codes_are_as_in_the_whole_row(model):
    documents = [[text(40, 41), picture(model)], [text(42), picture(model)]]
    rows = rows_of(documents, model.wrapping, left=True)
    drawer = model.picture(rows)
    context = drawer.prepare(Cond(labels=torch.arange(2)))
    places = rows.ids.shape[1] - 7 + torch.arange(6)
    for shown in (0, 3):
        known = torch.zeros(2, 6, dtype=torch.bool)
        known[:, :shown] = True
        codes = CODES.expand(2, -1)
        h = drawer.hidden(codes, context, Turn(known, None, 6))
        whole = rows._replace(ids=rows.ids.clone())
        whole.ids[:, places] = torch.where(known, codes + 4, HIDDEN)
        expected = model.read(whole, 0, whole.ids.shape[1], None)[:, places]
        torch.testing.assert_close(h, expected)
        wanted = torch.tensor([[5, 1], [0, 4]])
        some = drawer.hidden(codes, context, Turn(known, wanted, 6))
        torch.testing.assert_close(some, h.gather(1, wanted[..., None].expand(-1, -1, 32)))
    before = [keys[:, :, : drawer.begin].clone() for keys in context.cache.keys]
    drawer.hidden(CODES.flip(0).expand(2, -1), context, Turn(known, None, 6))
    for mine, keys in zip(before, context.cache.keys, strict=True):
        assert torch.equal(mine, keys[:, :, : drawer.begin]), "what is before is only read"


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_third_loop_draws_by_revealing(model, scale):
    known = Known(CODES[None], torch.tensor([[True, False, True, False, False, False]]))
    how = Request(
        Cond(labels=torch.zeros(1, dtype=torch.int64)),
        Noise.request(1, 1),
        Guidance(scale),
        reveal=Reveal(3, "show-o", model.confidence),
        known=known,
    )
    words = torch.zeros(model.vocab, dtype=torch.bool)
    wish = mixed.MixedRequest([[text(40, 41)]], how, words, first="picture")
    *steps, done = mixed.stream(model, wish)
    assert isinstance(done, mixed.Finished) and len(steps) == 3
    codes = done.part.content
    assert codes[[0, 2]].tolist() == [0, 2] and ((codes >= 0) & (codes < 16)).all()
    shown = [int(step.step.ready.sum()) for step in steps if isinstance(step, mixed.Drawing)]
    assert shown[0] > 2 and shown == sorted(shown) and shown[-1] == 6
    again = list(mixed.stream(model, wish))[-1]
    assert isinstance(again, mixed.Finished) and torch.equal(again.part.content, codes)


def test_positions_may_be_revealed_in_an_order(model):
    rows = rows_of([[text(40), picture(model)]], model.wrapping, left=True)
    request = Request(
        Cond(labels=torch.zeros(1, dtype=torch.int64)),
        Noise.request(1, 1),
        reveal=Reveal(6),
        orders=torch.arange(6).flip(0),
    )
    steps = list(masked.stream(model.picture(rows), request))
    assert [step.ready[0].long().argmax().item() for step in steps] == [5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"first": 60}, "the vocabulary has 64 ids, first needs 76"),
        ({"end": 64}, "the vocabulary has 64 ids, end needs 64"),
        ({"draws": 20}, "draws must be no code's id, got 20"),
        ({"sentence": (0, 99)}, "the vocabulary has 64 ids, sentence needs 99"),
        ({"codes": 0}, "codes must be at least 1, got 0"),
    ],
)
def test_configurations_that_cannot_be(changes, words):
    with pytest.raises(ValueError, match=words):
        tiny(**changes)


@pytest.mark.parametrize("length", range(1, 26))
def test_what_fits_is_counted_with_what_stands_around_it(model, length):
    document = [text(40, 41, 42), picture(model), text(43, 44), picture(model)]
    parts = fitted(document, model.wrapping, length)
    ids = rows_of([parts], model.wrapping).ids if parts else torch.zeros(1, 0)
    assert ids.shape[1] == model.wrapping.size(parts) <= length
    more = document[: len(parts) + 1]
    whole = all(part is given for part, given in zip(parts, document, strict=False))
    assert not whole or len(parts) == 4 or model.wrapping.size(more) > length
