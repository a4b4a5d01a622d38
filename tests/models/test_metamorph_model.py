"""MetaMorph's settings, what it takes of its tokenizers, and what it loses."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from smalti.codes import TokenSpec
from smalti.models.metamorph import MetaMorph, tiny
from smalti.models.unified import Marks
from smalti.nn.features import formed
from smalti.pipeline.sampling import Sampling
from smalti.sampling.noise import Noise
from smalti.text.sequence import Part, rows_of

SPEC = TokenSpec(((3, 4),), channels=10, form="unit")


def test_it_takes_grid_and_width_of_its_tokenizer():
    config = tiny().fitted(SPEC, 300, Marks(0, (1,), 2))
    assert config.spec == SPEC and config.language.vocab == 302
    assert (config.begin, config.end, config.marks.stops) == (300, 301, (1,))
    model = MetaMorph(config)
    assert not model.written[300:].any() and model.written[:300].all()


@pytest.mark.parametrize("form", ["plain", "softmax", "unit softmax"])
def test_features_of_another_form_are_refused(form):
    with pytest.raises(ValueError, match=r"of 8 numbers \(unit\), the tokenizer gives 1 of codes"):
        tiny().check_spec(replace(SPEC, form=form))
    assert tiny(form=form).check_spec(replace(SPEC, form=form)) == (3, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"end": 64}, "begin and end must be below the 64 ids of the vocabulary, got 62 and 64"),
        ({"projector_layers": 0}, "as wide as words, 32, got channels 8"),
        ({"head_layers": 0}, "head_layers must be at least 1, got 0"),
        ({"projector": "relu"}, "projector must be one of gelu, softmax, got 'relu'"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"head_steps": "5"},
            "head_steps 5 is for continuous codes; this model draws them without",
        ),
        ({"top_k": 3}, "top_k 3 is for discrete codes; this model draws continuous ones"),
        ({"temperature": 0.5}, "temperature 0.5 is for models that draw at random; this one does"),
        ({"steps": 4}, "steps 4 is for masked models"),
    ],
)
def test_what_is_drawn_at_random_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampling.of(**settings).check(MetaMorph(tiny()))


@torch.no_grad()
def test_each_feature_is_said_by_the_state_before_it():
    """The first by that of the id which begins the picture; only those that are learned."""
    torch.manual_seed(0)
    model = MetaMorph(tiny()).eval()
    pictures = formed(torch.randn(2, 6, 8), "unit")
    seen, drawn = (
        Part(p, model.spec, learned) for p, learned in zip(pictures, (0, 1), strict=True)
    )
    rows = rows_of([[Part(torch.tensor([5])), seen, drawn]], model.wrapping)
    term = model.terms(rows, Noise.request(0, 1))["features"]
    assert term.where[0].nonzero().flatten().tolist() == list(range(10, 16))
    h = model.read(rows, 0, rows.ids.shape[1], None)
    said = F.normalize(model.head(h[0, 9:15]), dim=-1)
    wanted = -(said * pictures[1]).sum(-1)
    torch.testing.assert_close(term.values[0, 10:16], wanted)
    assert not term.values[0, :10].any()


def test_it_learns_in_bfloat16():
    model = MetaMorph(tiny())
    picture = Part(formed(torch.randn(6, 8), "unit"), model.spec)
    rows = rows_of([[Part(torch.tensor([5])), picture]], model.wrapping)
    exact = model.terms(rows, Noise.request(0, 1))["features"]
    with torch.autocast("cpu", torch.bfloat16):
        found = model.terms(rows, Noise.request(0, 1))["features"]
    torch.testing.assert_close(found.values, exact.values, rtol=0, atol=0.05)
