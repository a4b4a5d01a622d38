"""Emu3: pictures say their size and are written line by line."""

import pytest
import torch

from smalti.codes import Cond, TokenSpec
from smalti.engine import mixed
from smalti.engine.step import Request
from smalti.models.emu3 import Emu3, tiny
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.text.sequence import Part, rows_of


@pytest.fixture
def model() -> Emu3:
    torch.manual_seed(0)
    return Emu3(tiny()).eval()


@pytest.mark.parametrize(("grid", "size"), [((2, 3), [27, 35, 28]), ((10, 1), [26, 25, 35, 26])])
def test_a_picture_says_its_size_and_ends_its_lines(model, grid, size):
    height, width = grid
    spec = TokenSpec((grid,), 16)
    ids = rows_of([[Part(torch.arange(height * width) % 16, spec)]], model.wrapping).ids[0]
    begin = [20, *size, 22]
    assert ids[: len(begin)].tolist() == begin and ids[-2:].tolist() == [24, 21]
    lines = ids[len(begin) : -2].view(height, width + 1)
    assert (lines[:, -1] == 23).all()
    assert torch.equal(lines[:, :-1].flatten(), torch.arange(height * width) % 16 + 4)


@pytest.mark.parametrize("grid", [(2, 3), (1, 5)])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_picture_is_drawn_with_its_lines(model, scale, grid):
    """Of its own grid, and of another."""
    model = model.at(TokenSpec((grid,), 16))
    document = [Part(torch.tensor([0, 40, 41]))]
    how = Request(Cond(labels=torch.zeros(1, dtype=torch.int64)), Noise.request(1, 1),
                  Guidance(scale))  # fmt: skip
    words = torch.zeros(model.vocab, dtype=torch.bool)
    drawn = list(mixed.stream(model, mixed.MixedRequest([document], how, words, first="picture")))
    done = drawn[-1]
    assert isinstance(done, mixed.Finished) and len(drawn) == grid[0] * grid[1] + 1
    # each code is as likely as the loop says, in the whole row with its ids between
    rows = rows_of([[*document, done.part]], model.wrapping)
    logits = model.logits(model.hidden(rows))[0]
    if scale != 1:
        other = rows_of([model.nothing([*document, done.part])], model.wrapping)
        away = model.logits(model.hidden(other))[0]
        logits = logits[2:]  # two ids of text fewer
        logits, rows = away + scale * (logits - away), other
    places = [i for i, cell in enumerate(rows.ids[0]) if 4 <= cell < 20]
    assert len(places) == grid[0] * grid[1]
    for event, place in zip(drawn, places, strict=False):
        assert isinstance(event, mixed.Drawing)
        logp = logits[place - 1, 4:20].log_softmax(-1)[rows.ids[0, place] - 4]
        torch.testing.assert_close(event.step.logp[0, -1], logp)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"line": 64}, "the vocabulary has 64 ids, got 64"),
        ({"digits": (1, 2)}, "digits must be 11 ids"),
        ({"frame": -1}, "frame must be 0 or more, got -1"),
    ],
)
def test_configurations_that_cannot_be(changes, words):
    with pytest.raises(ValueError, match=words):
        tiny(**changes)
