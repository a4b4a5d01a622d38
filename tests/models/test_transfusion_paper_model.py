"""Transfusion as its paper has it: rows, sizes, noise, losses, and pictures that are drawn."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from builders import build
from plain_language import plain_layers
from smalti.codes import Cond
from smalti.engine import mixed
from smalti.engine.step import Request
from smalti.models.transfusion_paper import (
    SIZES,
    TransfusionPaper,
    TransfusionPaperConfig,
    UNetPatches,
    points,
    tiny,
)
from smalti.nn.unfilled import unfilled
from smalti.sampling.noise import Noise
from smalti.sampling.solvers import Solver
from smalti.text.sequence import IGNORED, Part, rows_of
from smalti.tokenizers import kl_vae
from smalti.tokenizers.kl_vae import KLVAE

LINEAR = replace(tiny(), patches="linear")


@pytest.fixture
def model() -> TransfusionPaper:
    return build(TransfusionPaper, LINEAR)


def text(*ids: int, learned: bool = True) -> Part:
    return Part(torch.tensor(ids), learned=learned)


def picture(model: TransfusionPaper, learned: bool = True, seed: int = 0) -> Part:
    torch.manual_seed(seed)
    return Part(torch.randn(model.spec.positions, model.spec.channels), model.spec, learned)


def test_a_row_is_a_picture_between_two_ids_and_each_vector_has_a_position(model):
    rows = rows_of([[text(1, 3), picture(model), text(2)]], model.wrapping)
    assert rows.ids[0].tolist() == [1, 3, 62, *[-1] * 6, 63, 2]
    assert rows.targets[0].tolist() == [IGNORED, 3, 62, *[IGNORED] * 6, 63, 2]
    assert rows.positions[0].tolist() == list(range(11))
    mask = rows.mask()[0]
    assert mask[3:9, :9].all() and not mask[3:9, 9:].any()  # all of itself, nothing behind it
    assert torch.equal(mask[:3], torch.ones(3, 11).tril().bool())
    assert torch.equal(mask[9:], torch.ones(11, 11).tril().bool()[9:])


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes(name):
    """The language model has as many weights as its name says, the U-Net 0.27 billion more."""
    with unfilled():
        made = TransfusionPaper(TransfusionPaperConfig(SIZES[name]))
    trunk, unet = (
        sum(p.numel() for p in part.parameters()) / 1e9 for part in (made.language, made.patches)
    )
    assert trunk == pytest.approx(float(name[:-1]), rel=0.04)
    assert round(unet, 2) in (0.27, 0.28)


def test_the_noise_of_a_timestep():
    """Nichol and Dhariwal's cosine: all of the picture at first, nothing of it in the end."""
    table = points(1000).double()
    assert (table.square().sum(1) - 1).abs().max() < 1e-6
    signal = [math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) for t in (0, 1, 500, 900)]
    for t, at in ((0, 1), (499, 2), (899, 3)):
        assert table[t, 0].item() == pytest.approx(signal[at] / signal[0], rel=1e-3)
    assert table[999, 0] < 1e-4


@torch.no_grad()
def test_losses_are_those_of_a_slow_reading(model):
    """A row of a text, a noisy picture and a text, whose vectors are made and compared by hand."""
    given, timestep = picture(model), 300
    rows = rows_of([[text(1, 3), given, text(2, 0)]], model.wrapping)
    noise = torch.randn(1, 12, 8)
    text_nats, errors = model.losses(rows, rows.drawn * timestep, noise)
    a, b = points(1000)[timestep]
    patches, language = model.patches, model.language
    seen = a * given.content + b * noise[0, 3:9]
    vectors = patches.into(seen + patches.time(torch.tensor([timestep])))
    x = torch.cat(
        [language.embed(torch.tensor(i)) for i in ([1, 3, 62], [63, 2, 0])]
    ).view(2, 3, -1)  # fmt: skip
    row = torch.cat((x[0], vectors, x[1]))[None]
    h = plain_layers(language, row, rows.mask())[0]
    error = (patches.out(h[3:9]) - noise[0, 3:9]).square().mean(1)
    torch.testing.assert_close(errors[0, 3:9], error, rtol=1e-4, atol=1e-5)
    assert not errors[0, :3].any() and not errors[0, 9:].any()
    nats = -model.logits(h).log_softmax(-1)
    for position, word in ((1, 3), (2, 62), (9, 63), (10, 2), (11, 0)):
        assert text_nats[0, position].item() == pytest.approx(
            nats[position - 1, word].item(), rel=1e-4
        )
    assert text_nats.count_nonzero() == 5


def test_a_picture_that_is_only_read_has_little_noise(model):
    """Each picture is at one timestep: any, or one below `seen_to`."""
    rows = rows_of(
        [[picture(model, False), text(3), picture(model)]] * 400, model.wrapping
    )  # fmt: skip
    seen, losses = list[Tensor](), model.losses

    def noted(rows, times, noise):
        seen.append(times)
        return losses(rows, times, noise)

    model.losses = noted
    terms = model.terms(rows, Noise.request(0, 400))
    (times,) = seen
    count = model.spec.positions
    read, drawn = times[:, 1 : 1 + count], times[:, 4 + count : 4 + 2 * count]
    for some, most in ((read, 500), (drawn, 1000)):
        assert (some == some[:, :1]).all() and 0.9 * most < some.max() < most
        assert some.float().mean().item() == pytest.approx(most / 2, rel=0.1)
    assert not times[:, 0].any()
    assert not terms["noise"].where[:, : 2 + count].any() and terms["noise"].where[:, -2].all()


def test_a_unet_sees_the_latent_of_the_tokenizer():
    """Vectors of 2 x 2 cells, as a KL-VAE groups them, are cells again, and all come back."""
    vae = build(KLVAE, replace(kl_vae.tiny(), group=2, latent=2, size=(16, 24)))
    latent = torch.randn(3, 2, 4, 6)
    codes = vae.codes(latent)
    patches = build(UNetPatches, tiny(grid=(2, 3), channels=8))
    given, made = list[Tensor](), list[Tensor]()
    patches.down.conv_in.register_forward_hook(lambda _, args, __: given.append(args[0]))
    patches.up.conv_out.register_forward_hook(lambda _, __, out: made.append(out))
    seen = patches(codes, torch.tensor([5, 6, 7]))
    noise = patches.noise(seen.vectors, seen)
    assert torch.equal(given[0], latent * vae.config.scale)
    assert seen.vectors.shape == (3, 6, 32) and noise.shape == codes.shape
    back = KLVAE.codes(vae, made[0]) / vae.config.scale
    torch.testing.assert_close(noise, back)
    later = patches.noise(seen.vectors, patches(codes, torch.tensor([5, 6, 900])))
    assert torch.equal(later[:2], noise[:2]) and not torch.equal(later[2], noise[2])


@pytest.mark.parametrize("solver", ["ancestral", "ddim", "dpm"])
def test_who_knows_the_noise_draws_the_picture(model, solver):
    """Of what it draws it says where the noise in it is; every solver finds the picture."""
    goal, state = picture(model).content, dict[str, Tensor]()
    patches = model.patches

    class Oracle(torch.nn.Module):
        def forward(self, x, times):
            a, b = points(1000)[times].unbind(-1)
            state["noise"] = (x - a.view(-1, 1, 1) * goal) / b.view(-1, 1, 1)
            return patches(x, times)

        def noise(self, h, seen):
            return state["noise"]

    model.patches = Oracle()
    for content in drawn(model, Solver(solver, "20")):
        torch.testing.assert_close(content, goal, rtol=1e-3, atol=2e-2)


@pytest.mark.parametrize(("clip", "low", "high"), [(2.0, 0.0, 2.0), (0.0, 100.0, math.inf)])
def test_what_is_drawn_is_no_larger_than_is_allowed(clip, low, high):
    """A model that knows nothing finds numbers of thousands where all is noise."""
    made = build(TransfusionPaper, replace(LINEAR, clip=clip))
    for content in drawn(made, Solver("ancestral", "20")):
        assert low < content.abs().max() <= high * 1.001


def drawn(model: TransfusionPaper, solver: Solver) -> list[Tensor]:
    """The pictures behind two texts."""
    how = Request(Cond(labels=torch.arange(2)), Noise.request(0, 2), solver=solver)
    words = torch.zeros(model.vocab, dtype=torch.bool)
    wish = mixed.MixedRequest([[text(1)], [text(2, 3)]], how, words, first="picture")
    found = [e.part.content for e in mixed.stream(model, wish) if isinstance(e, mixed.Finished)]
    assert len(found) == 2
    return found


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"seen_to": 1001}, "seen_to must be at most timesteps 1000, got 1001"),
        ({"end": 64}, "below the 64 ids of the vocabulary, got 62 and 64"),
        ({"patch": 3}, "patch of a U-Net must be 2, 4, 8 or so on, got 3"),
        ({"channels": 6}, "vectors of 2 x 2 cells have a multiple of 4 numbers, got 6"),
        ({"blocks": 0}, "blocks must be at least 1, got 0"),
    ],
)
def test_settings_that_cannot_be(bad, message):
    with pytest.raises(ValueError, match=message):
        tiny(**bad)
