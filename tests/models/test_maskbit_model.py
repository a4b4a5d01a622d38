"""What is special about MaskBit: it has no table, and groups of bits are hidden by themselves."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from builders import build, generate, random_codes, random_cond, stream
from smalti.codes import Cond, Reads, TokenSpec, Turn
from smalti.engine.step import Known
from smalti.eval.likelihood import likelihood
from smalti.models import maskgit
from smalti.models.mar import MAR
from smalti.models.mar import tiny as mar_tiny
from smalti.models.maskbit import MaskBit, MaskBitConfig, published, tiny
from smalti.sampling.noise import Noise
from smalti.sampling.reveal import Reveal
from smalti.train.masked_loss import MaskedConfig

B = 3


@pytest.fixture(scope="module")
def model():
    return build(MaskBit, tiny())


def tokenizer(spec: TokenSpec):
    """What a configuration reads of a tokenizer."""
    return SimpleNamespace(spec=spec)


@pytest.mark.parametrize("bits", [10, 12, 14, 16, 18])
def test_published_sizes(bits):
    with torch.device("meta"):
        model = MaskBit(published(bits))
    parameters = sum(p.numel() for p in model.parameters())
    assert round(parameters / 1e6) in (305, 306)
    # bits are read by K rows and written by 2^(K / 2) of each half
    read, written = model.bit_proj.weight, model.predict.weight
    assert tuple(read.shape) == (1024, bits) and tuple(written.shape) == (
        2 * 2 ** (bits // 2),
        1024,
    )
    assert (parameters - read.numel() - written.numel() - written.shape[0]) == 304_652_288


def test_hidden_groups_are_zeros_and_the_others_signs(model):
    codes = torch.tensor([[[1, 0, 1, 1, 1, 0]] * 16])
    units = model.split(codes)
    assert units.shape == (1, 32) and units[0, :2].tolist() == [1 + 4, 1 + 2]
    known = torch.ones(1, 32, dtype=torch.bool)
    known[0, 1] = known[0, 2] = known[0, 6] = known[0, 7] = False
    read = model.bits(units, known)
    assert read[0, 0].tolist() == [1, -1, 1, 0, 0, 0]
    assert read[0, 1].tolist() == [0, 0, 0, 1, 1, -1]
    assert read[0, 2].tolist() == [1, -1, 1, 1, 1, -1]
    assert read[0, 3].tolist() == [0] * 6
    assert torch.equal(model.join(units), codes)


@torch.no_grad()
def test_half_of_a_code_is_read(model):
    """What stands in one group of a position changes the prediction of the other one."""
    cond = model.prepare(Cond(labels=torch.tensor([1])))
    known = torch.zeros(1, 32, dtype=torch.bool)
    known[0, 10] = True
    found = [
        model.hidden(torch.full((1, 32), n), cond, Turn(known, torch.tensor([[11]]), 1))
        for n in range(8)
    ]
    assert torch.cat(found).flatten(1).unique(dim=0).shape[0] == 8


def test_a_step_shows_halves_of_codes(model):
    """Where the surest groups are shown, some positions are known in part, and the end is whole."""
    cond, noise = random_cond(model, B), Noise.request(0, B)
    reveal, split = Reveal(6, "linear", confidence=2.0), model.split
    before = torch.zeros(B, 32, dtype=torch.int64)
    for i, step in enumerate(stream(model, cond, noise, reveal=reveal)):
        whole = step.ready.repeat_interleave(2, 1)
        assert torch.equal(split(step.codes)[whole & (before > 0)], before[whole & (before > 0)])
        before = split(step.codes)
        if i == 2:
            assert ((before > 0) & ~whole).any(), "some position is known in part"
    assert step.ready.all()


def test_numbers_are_drawn_as_their_bits(model):
    """A model of numbers below 2^K with the same weights draws the numbers of the bits."""
    numbers = MaskBit(replace(tiny(), vocab=64, channels=0)).eval()
    numbers.load_state_dict(model.state_dict())
    cond, noise = random_cond(model, B), Noise.request(0, B)
    places = 2 ** torch.arange(6)
    codes = random_codes(model.spec, B)
    mask = torch.rand(B, 16) < 0.3
    for known in (None, mask):
        given = None if known is None else Known(codes, mask)
        bits = generate(model, cond, noise, known=given)
        given = None if known is None else Known((codes * places).sum(-1), mask)
        assert torch.equal((bits * places).sum(-1), generate(numbers, cond, noise, known=given))
    with torch.no_grad():
        loss = numbers.loss((codes * places).sum(-1), cond)
        assert torch.equal(loss, model.loss(codes, cond))


def test_a_position_costs_what_its_groups_cost_together():
    """As initialised every bit costs one bit, whatever the groups: K bits of a position."""
    torch.manual_seed(0)
    for groups in (1, 2, 3, 6):
        fresh = MaskBit(replace(tiny(), groups=groups)).eval()
        torch.nn.init.zeros_(fresh.predict.weight)
        batch = {
            "codes": random_codes(fresh.spec, 4),
            "labels": torch.zeros(4, dtype=torch.int64),
        }
        found = likelihood(fresh, [batch])
        assert found["bits_per_token_bound"] == pytest.approx(6)
        assert found["bits_per_image_bound"] == pytest.approx(6 * 16)


@pytest.mark.parametrize("kind", ["maskbit", "maskgit"])
def test_known_codes_count_in_training_alone(kind):
    made = MaskBit(tiny()) if kind == "maskbit" else maskgit.MaskGIT(maskgit.tiny())
    codes, cond = random_codes(made.spec, B), random_cond(made, B)
    known = torch.rand(B, made.spec.positions * made.parts) < 0.5
    made.eval()
    plain = made.loss(codes, cond, known)
    everything = made.loss(codes, cond, known)
    assert not plain[known].any() and plain[~known].all()
    MaskedConfig(masking="arccos", known_weight=0.25).objective(made, None, 0)
    assert torch.equal(made.eval().loss(codes, cond, known), everything)
    trained = made.train().loss(codes, cond, known)
    torch.testing.assert_close(trained[~known], plain[~known])
    assert (trained[known] > 0).all()
    made.known_weight = 1.0
    torch.testing.assert_close(made.loss(codes, cond, known)[known] / 4, trained[known])


def test_the_objective_is_a_mean_over_what_counts():
    made = MaskBit(tiny())
    torch.nn.init.zeros_(made.predict.weight)  # every group costs 3 bits
    batch = {
        "codes": random_codes(made.spec, 64),
        "labels": torch.zeros(64, dtype=torch.int64),
        "chance": torch.rand(64),
        "shuffle": torch.arange(64),
    }
    nats = torch.tensor(8.0).log()
    for weight in (0.0, 0.5, 1.0):
        goal = MaskedConfig(masking="arccos", known_weight=weight).objective(made.train(), None, 0)
        losses = goal(batch, 3)
        torch.testing.assert_close(losses.logs["loss"], nats)
        # the usual number of hidden groups stands for this batch's
        near = 1e-5 if weight == 1 else 0.3
        torch.testing.assert_close(losses.totals["model"], nats, rtol=0, atol=near)
    with pytest.raises(ValueError, match="known_weight is for models .* must be 0, got 1.0"):
        MaskedConfig(known_weight=1.0).objective(MAR(mar_tiny()), None, 0)
    with pytest.raises(ValueError, match="known_weight must be 0 or more, got -1"):
        MaskedConfig(known_weight=-1)


def test_training_hides_as_many_as_the_arccos_says():
    counts = MaskedConfig(masking="arccos").counts
    uniform = torch.tensor([0.0, 0.5, 1 - 2**-24])
    assert counts(uniform, 300).tolist() == [300, 200, 1]
    share = counts(torch.arange(10_000) / 10_000, 512).double().mean() / 512
    assert share.item() == pytest.approx(2 / torch.pi, abs=2e-3)


@pytest.mark.parametrize(
    ("spec", "groups"),
    [
        (TokenSpec(((3, 5),), 2, channels=18), 2),
        (TokenSpec(((3, 5),), 2, channels=9), 3),
        (TokenSpec(((3, 5),), 2, channels=7), 7),
        (TokenSpec(((3, 5),), 2, channels=1), 1),
        (TokenSpec(((3, 5),), 1024), 2),
        (TokenSpec(((3, 5),), 512), 3),
    ],
)
def test_codes_of_any_power_of_two(spec, groups):
    found = tiny().fitted(tokenizer(spec), Reads(classes=7))
    assert (found.spec, found.groups, found.classes) == (spec, groups, 7)
    assert MaskBit(found).predict.out_features == groups * 2 ** (int(spec.bits) // groups)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (TokenSpec(((4, 4),), 1000), "needs codes of bits or .* gives numbers below 1000"),
        (TokenSpec(((4, 4),), 64, depth=2), "needs codes of bits or .* gives 2 numbers below 64"),
        (TokenSpec(((4, 4),), channels=6), "predicts discrete codes, but .* continuous"),
        (TokenSpec(((1, 1), (4, 4)), 64), "predicts one grid of codes, but .* gives 2 grids"),
    ],
)
def test_codes_that_it_cannot_predict(spec, message):
    with pytest.raises(ValueError, match=message) as refused:
        tiny().fitted(tokenizer(spec), Reads(classes=5))
    assert str(refused.value).startswith("MaskBit ") and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"groups": 4}, "groups must divide the 6 bits of a code, got 4"),
        ({"groups": 0}, "groups must be at least 1, got 0"),
        ({"vocab": 24, "channels": 0}, "a vocabulary that is a power of two, got 24"),
        ({"vocab": 3}, "groups of bits are of codes of bits or of one number"),
        ({"channels": -1}, "channels must be 0 or more, got -1"),
        ({"heads": 5}, "dim must be a multiple of heads, got 32, 5"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_bad_configs(bad, message):
    with pytest.raises(ValueError, match=message):
        replace(tiny(), **bad)


def test_the_published_config_is_the_default():
    assert published() == MaskBitConfig()


# -- texts in the place of the class


@pytest.fixture(scope="module")
def texts():
    return build(MaskBit, replace(tiny(), classes=0, text_length=5, text_dim=12))


def turn_of(model, rows: int) -> Turn:
    known = torch.zeros(rows, model.spec.positions * model.parts, dtype=torch.bool)
    known[:, ::2] = True
    return Turn(known, None, 2)


def test_a_published_model_has_what_it_had(model):
    """One row of a table for each class and none for texts; its class is the last token."""
    names = {name.partition(".")[0] for name, _ in model.named_parameters()}
    assert {"cls_embedding", "pos"} <= names and not {"null", "text_proj"} & names
    assert model.pos.shape[0] == model.spec.positions + 1
    prepared = model.prepare(Cond.of_labels(torch.tensor([3, -1])))
    wanted = model.cls_embedding.weight[[3, model.config.classes]]
    assert torch.equal(prepared.condition[:, 0], wanted) and prepared.visible is None


def test_padding_is_not_seen_and_words_are(texts):
    codes = texts.split(random_codes(texts.spec, 2))
    features = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[False, False, True, True, True]] * 2)

    def logits(given, mask=mask, drop=None):
        cond = Cond.of_text(given, mask)
        cond = cond if drop is None else replace(cond, drop=drop)
        prepared = texts.prepare(cond)
        return texts.hidden(codes, prepared, turn_of(texts, 2))

    whole = logits(features)
    other = features.clone()
    other[:, :2] += 5.0
    assert torch.allclose(logits(other), whole, atol=1e-5)
    other[:, 3] += 5.0
    assert not torch.allclose(logits(other), whole, atol=1e-2)
    dropped = torch.tensor([True, False])
    assert not torch.allclose(logits(features, drop=dropped)[0], whole[0], atol=1e-3)
    assert torch.allclose(logits(features, drop=dropped)[1], whole[1], atol=1e-5)


def test_what_a_text_model_asks_for(texts):
    assert texts.reads == Reads(0, 5, 12) and texts.pos.shape[0] == texts.spec.positions + 5
    with pytest.raises(ValueError, match="text-conditional: give text and text_mask"):
        texts.prepare(Cond.of_labels(torch.tensor([1])))
    with pytest.raises(ValueError, match="either classes or a text, got classes 3, text_length 5"):
        replace(tiny(), classes=3, text_length=5)
