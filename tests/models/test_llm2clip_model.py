"""What is special about LLM2CLIP: how a language model makes vectors of texts, and an adapter."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.models.language import tiny as tiny_language
from smalti.models.llm2clip import LLM2CLIP, Sentences, SentencesConfig, tiny, tiny_sentences
from smalti.models.towers import Towers
from smalti.models.towers import tiny as tiny_towers
from smalti.runs.finetune import learn
from smalti.text.words import Words
from smalti.train.pairs import Captions, CaptionsConfig, PairsConfig

IDS = torch.tensor([[5, 9, 7, 1, 2, 2], [8, 1, 2, 2, 2, 2], [4, 3, 6, 11, 12, 1]])
"""Ended by 1, filled up with 2."""


def made(**changes: Any) -> Sentences:
    torch.manual_seed(0)
    found = Sentences(replace(tiny_sentences(), **changes)).eval()
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return found


@torch.no_grad()
@pytest.mark.parametrize("causal", [False, True])
def test_words_see_all_of_a_text_or_what_is_before_them_and_never_padding(causal: bool):
    model = made(causal=causal)
    whole = model(IDS)
    alone = model(IDS[1:2, :2])
    torch.testing.assert_close(whole[1, :2], alone[0], rtol=1e-4, atol=1e-5)
    other = IDS.clone()
    other[2, 4] = 30
    apart = (model(other) - whole)[2].abs().amax(-1) > 1e-6
    assert apart[4:].all() and bool(apart[:4].any()) == (not causal)


@torch.no_grad()
def test_what_stands_for_a_text():
    mean, last = made(), made(pooling="last")
    hidden = mean(IDS)
    wanted = torch.stack([hidden[0, :4].mean(0), hidden[1, :2].mean(0), hidden[2].mean(0)])
    torch.testing.assert_close(mean.pooled(hidden, IDS), wanted)
    torch.testing.assert_close(mean.read(IDS), F.normalize(wanted, dim=-1))
    assert torch.equal(last.pooled(hidden, IDS), hidden[torch.arange(3), [3, 1, 5]])


@torch.no_grad()
def test_the_adapter_reads_the_vector_of_a_text():
    torch.manual_seed(0)
    towers = LLM2CLIP(tiny()).eval()
    reader = towers.text
    vector = reader.sentences.pooled(reader(IDS), IDS)
    (layer,) = reader.layers
    inner = layer.norm(vector)
    x = vector + layer.w2(F.gelu(layer.w1(inner)))
    wanted = F.normalize(reader.head(reader.norm(x)), dim=-1)
    torch.testing.assert_close(towers.read(IDS), wanted)
    text = replace(tiny().text, unit=True)
    unit = LLM2CLIP(tiny(text=text)).eval()
    unit.load_state_dict(towers.state_dict())
    assert not torch.allclose(unit.read(IDS), towers.read(IDS))


def test_the_language_model_is_left_as_it_is():
    towers = LLM2CLIP(tiny())
    learn(towers)
    goal = PairsConfig("softmax").objective(towers.train())
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    goal({"images": images, "text_tokens": IDS}, 0).totals["model"].backward()
    for name, parameter in towers.named_parameters():
        assert (parameter.grad is None) == name.startswith("text.sentences."), name


def test_the_loss_of_captions_is_the_cross_entropy_of_scaled_cosines():
    class Fixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Parameter(torch.randn(300, 5))

        def read(self, ids: Tensor) -> Tensor:
            return F.normalize(self.table[ids[:, 0]], dim=-1)

    torch.manual_seed(0)
    model, others = Fixed(), torch.tensor([[20], [21], [22]])
    ids = torch.tensor([[10], [11], [10]])  # the first and the last say the same
    batch = {"text_tokens": ids, "other_tokens": others}
    losses = Captions(model, CaptionsConfig(scale=7.0))(batch, 0)
    cosines = 7 * model.read(ids) @ model.read(others).T
    nats = [
        cosines[0, :2].logsumexp(0) - cosines[0, 0],
        cosines[1].logsumexp(0) - cosines[1, 1],
        cosines[2, 1:].logsumexp(0) - cosines[2, 2],
    ]
    torch.testing.assert_close(losses.totals["model"], torch.stack(nats).mean())


def test_towers_take_a_trained_language_model_and_its_words():
    words = Words.train(["a red circle", "two small hearts"], 290)
    sentences = SentencesConfig(tiny_language(vocab=320), causal=True, pad=0)
    config = tiny().reading_by(sentences).fitted(words)
    mine = config.text.sentences
    assert (mine.language.vocab, mine.causal, mine.pad) == (320, True, words.pad)
    assert (config.vocab, config.start, config.stop) == (words.vocab, None, words.stop)
    towers, given = LLM2CLIP(config), Sentences(mine)
    towers.take(given)
    assert torch.equal(towers.text.sentences.read(IDS), given.read(IDS))
    with pytest.raises(ValueError, match="not by a language model: leave --language out"):
        tiny_towers().reading_by(sentences)
    with pytest.raises(NotImplementedError):
        Towers(tiny_towers()).take(given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: replace(tiny_sentences(), pooling="max"), "pooling must be one of mean, last"),
        (lambda: replace(tiny().text, layers=-1), "text.layers must be"),
        (lambda: CaptionsConfig(scale=0.0), "objective.scale must be"),
    ],
)
def test_bad_settings_are_refused(change: Any, message: str):
    with pytest.raises(ValueError, match=message):
        change()
