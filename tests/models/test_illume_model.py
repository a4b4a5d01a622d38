"""ILLUME+: two levels in one row, drawn from their own tables, what an eye sees, what guidance
compares with."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from smalti.codes import Cond, TokenSpec
from smalti.engine import mixed
from smalti.engine.step import Request
from smalti.models import dual_eye
from smalti.models.dual_eye import DualEye
from smalti.models.eye import Sight
from smalti.models.illume import Illume, IllumeConfig, tiny
from smalti.models.one_vocabulary import tiny as one_vocabulary
from smalti.models.unified import Marks
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.text.sequence import Part, rows_of

CODES = torch.tensor([0, 5, 3, 1, 6, 15, 7, 8, 6, 9])
ROW = [23, 4, 9, 22, 7, 5, 22, 24, 25, 10, 19, 11, 22, 12, 10, 13, 22, 26]
"""What is written of these codes between the begin and the end of a picture."""


@pytest.fixture
def model() -> Illume:
    torch.manual_seed(0)
    return Illume(tiny()).eval()


def shaken(config: IllumeConfig) -> Illume:
    torch.manual_seed(0)
    model = Illume(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def test_meaning_stands_before_pixels_line_by_line(model):
    ids = rows_of([[Part(CODES, model.spec)]], model.wrapping).ids[0].tolist()
    assert ids == [27, 28, 20, *ROW, 21]
    written = torch.tensor(ROW)
    inside = model.wrapping.is_code(written, model.spec)
    assert torch.equal(model.wrapping.code_of(written[inside]), CODES)


def test_one_level_is_written_alone():
    config = tiny(semantic_codes=16, levels=((23, 24),))
    assert config.spec == TokenSpec(((2, 3),), 16)
    codes = torch.tensor([0, 15, 1, 2, 3, 4])
    ids = rows_of([[Part(codes, config.spec)]], config.wrapping).ids[0].tolist()
    assert ids == [27, 28, 20, 23, 4, 19, 5, 22, 6, 7, 8, 22, 24, 21]


def draw(model: Illume, guidance: float = 1.0, **filters: object) -> list[mixed.Event]:
    how = Request(Cond(labels=torch.arange(4)), Noise.request(1, 4), Guidance(guidance),
                  Filters(**filters))  # type: ignore[arg-type] # fmt: skip
    words = torch.zeros(model.vocab, dtype=torch.bool)
    documents = [[Part(torch.tensor([0, 1, 2]))]] * 4
    return list(mixed.stream(model, mixed.MixedRequest(documents, how, words, first="picture")))


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_codes_of_a_level_are_of_its_own_table(guidance):
    model = shaken(tiny())
    found = [e.part.content for e in draw(model, guidance) if isinstance(e, mixed.Finished)]
    assert len(found) == 4
    first, second = model.spec.by_table(torch.stack(found))  # which refuses others
    assert len(first.unique()) > 2 and len(second.unique()) > 2


def test_each_level_has_filters_of_its_own():
    model = shaken(tiny())
    greedy, mixed_ones = (
        torch.stack([e.part.content for e in draw(model, **f) if isinstance(e, mixed.Finished)])
        for f in ({"top_k": (1, 1)}, {"top_k": (1, 0)})
    )
    assert torch.equal(greedy[:, :4], mixed_ones[:, :4])
    assert not torch.equal(greedy[:, 4:], mixed_ones[:, 4:])
    with pytest.raises(ValueError, match="top_k must be one value, or one for each of the 2"):
        draw(model, top_k=(1, 2, 3))


def test_a_code_is_as_likely_as_the_loop_says():
    model = shaken(tiny())
    events = draw(model)
    done = [e for e in events if isinstance(e, mixed.Finished)]
    steps = [e.step for e in events if isinstance(e, mixed.Drawing)]
    rows = rows_of([[Part(torch.tensor([0, 1, 2])), done[0].part]], model.wrapping)
    logits = model.logits(model.hidden(rows))[0]
    places = [i for i, id in enumerate(rows.ids[0].tolist()) if 4 <= id < 20 and i > 2]
    for k, place in enumerate(places):
        table = slice(4, 10) if k < 4 else slice(10, 20)
        logp = logits[place - 1, table].log_softmax(-1)[rows.ids[0, place] - table.start]
        torch.testing.assert_close(steps[k].logp[0, -1], logp, rtol=1e-4, atol=1e-4)


# -- what guidance compares with


def test_nothing_is_a_text_that_asks_for_any_picture(model):
    last = Part(CODES, model.spec)
    before, picture = model.nothing([Part(torch.tensor([0, 2, 1])), last])
    assert before.content.tolist() == [0, 1, 3] and not before.learned
    assert torch.equal(picture.content, CODES) and picture.silent


def test_an_edit_is_compared_with_giving_the_picture_back(model):
    source, target = Part(CODES, model.spec, learned=False), Part(CODES.roll(1), model.spec)
    for way in (model.nothing, model.pictures):
        start, seen, text, last = way([Part(torch.tensor([0])), source, Part(torch.tensor([3])),
                                       replace(target, content=CODES)])  # fmt: skip
        assert start.content.tolist() == [0] and text.content.tolist() == [2]
        assert seen is source and torch.equal(last.content, source.content) and last.silent


# -- what an eye sees


def test_both_levels_are_read_through_projectors_of_their_own():
    config = tiny(seen=(12, 4), seen_grids=((1, 2), (2, 3)))
    model = shaken(config)
    assert model.sight == Sight(TokenSpec(((1, 2), (2, 3)), channels=12))
    features = torch.randn(8, 12)
    features[2:, 4:] = 0
    part = Part(features, model.sight.spec, learned=False, seen=True)
    rows = rows_of([[Part(torch.tensor([0, 3])), part, Part(torch.tensor([1]))]], model.wrapping)
    ids = rows.ids[0].tolist()
    assert ids == [0, 3, 27, 28, 20, 23, -2, -2, 22, 24, 25, -2, -2, -2, 22, -2, -2, -2, 22, 26,
                   21, 1]  # fmt: skip
    embedded = model.embed(rows, 0, len(ids))[0][torch.tensor(ids) == -2]
    first, second = model.projectors
    wanted = torch.cat((first(features[:2]), second(features[2:, :4])))
    torch.testing.assert_close(embedded, wanted)
    cut = model.embed(rows, 12, len(ids))[0]  # what is read behind a cache knows its level
    torch.testing.assert_close(cut, model.embed(rows, 0, len(ids))[0, 12:])


def test_every_weight_has_a_gradient_whatever_stands_in_a_batch():
    """Else processes whose batches differ would wait for each other."""
    model = Illume(tiny(seen=(12, 4), seen_grids=((1, 2), (2, 3)))).train()
    rows = rows_of([[Part(torch.tensor([1, 3]))]], model.wrapping)
    terms = model.terms(rows, Noise.request(0, 1))
    torch.stack([(term.values * term.where).sum() for term in terms.values()]).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@torch.no_grad()
def test_the_eye_gives_features_that_are_not_quantized():
    torch.manual_seed(0)
    eye = DualEye(dual_eye.tiny()).eval()
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    seen = eye.encode(images)
    assert seen.shape == (2, 4 + 16, 12) == eye.sight.spec.shape(2)
    torch.testing.assert_close(seen[:, :4], eye.vit(images).flatten(2).mT)
    torch.testing.assert_close(seen[:, 4:, :4], eye.encoder(images).flatten(2).mT)
    assert not seen[:, 4:, 4:].any()
    for parameter in eye.vit.parameters():
        assert not parameter.requires_grad
    assert isinstance(eye.encoder, nn.Module)


def test_an_eye_of_other_numbers_is_refused():
    config = tiny(seen=(12, 4), seen_grids=((1, 2), (2, 3)))
    other = Sight(TokenSpec(((2, 2), (4, 4)), channels=12))
    assert config.seeing(other).seen_grids == ((2, 2), (4, 4))
    with pytest.raises(ValueError, match="the model reads 2 x 2 and 4 x 4 vectors of 12 numbers"):
        config.seeing(replace(other, spec=replace(other.spec, channels=9)))
    with pytest.raises(ValueError, match="the model reads 2 levels; the eye gives 2 x 2 vectors"):
        config.seeing(Sight(TokenSpec(((2, 2),), channels=12)))
    with pytest.raises(ValueError, match="Illume reads pictures as the codes that it draws"):
        tiny().seeing(other)


# -- configurations


def test_ids_follow_the_words():
    spec = TokenSpec(((2, 2), (4, 4)), 30, tables=(10, 20))
    config = tiny().fitted(spec, 100, Marks())
    assert config.spec == spec and config.language.vocab == 100 + 9 + 30
    ids = [config.begin, config.end, config.line, *config.sides, *sum(config.levels, ())]
    assert ids == list(range(100, 109)) and config.first == 109
    one = tiny().fitted(TokenSpec(((3, 3),), 10), 100, Marks())
    assert one.spec == TokenSpec(((3, 3),), 10) and len(one.levels) == 1


def test_codes_of_other_kinds_are_refused():
    for spec in (TokenSpec(((1, 1), (2, 2)), 8), TokenSpec(((2, 2),), channels=4)):
        with pytest.raises(ValueError, match="Illume writes pictures of one grid"):
            tiny().fitted(spec, 100, Marks())
    two = TokenSpec(((1, 1), (2, 2)), 8, tables=(4, 4))
    with pytest.raises(ValueError, match="writes pictures of one grid .* gives 2 of codes out of"):
        one_vocabulary().fitted(two, 100, Marks())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"line": 64}, "the vocabulary has 64 ids, got 64"),
        ({"levels": ((23, 24),)}, "levels must have the ids around each of 2 levels"),
        ({"semantic_codes": 17}, "semantic_codes must be at most codes 16, got 17"),
        ({"seen": (12,), "seen_grids": ((1, 1),)}, r"seen must be 2 positive numbers, got \(12,\)"),
        ({"restore": (99,)}, "the vocabulary has 64 ids, got 99"),
    ],
)
def test_configurations_that_cannot_be(changes, words):
    with pytest.raises(ValueError, match=words):
        tiny(**changes)


def test_the_published_ids_lie_in_the_padded_table():
    config = IllumeConfig()
    assert (
        config.first + config.codes == 282_776 < config.language.vocab == 151_936 + 7 + 32 + 131_072
    )
    assert config.spec.positions == 18 * 18 + 32 * 32
