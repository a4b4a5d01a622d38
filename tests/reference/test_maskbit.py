"""MaskBit's tokenizer, generator and sampler against outputs of the official code, which speaks of
images in [0, 1]."""

import math
from typing import Any

import pytest
import torch
from golden import Vectors, float32, folders, load
from torch import Tensor
from torch.nn import functional as F

from builders import stream
from smalti.codes import Cond, Turn
from smalti.interop.projects.maskbit import bert_state, lfq_state
from smalti.models.maskbit import MaskBit, MaskBitConfig
from smalti.nn.groups import to_number
from smalti.sampling.chance import Chance
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.sampling.reveal import Reveal
from smalti.tokenizers.maskbit import MaskBitVQGAN, MaskBitVQGANConfig
from smalti.tokenizers.quantize.lfq import soft_codes

SMOOTHING = 0.1
"""Of upstream's losses."""


def tokenizer_config(told: dict[str, Any], side: int) -> MaskBitVQGANConfig:
    """Our settings of official ones."""
    assert told["quantizer_type"] == "lookup-free" and told["num_channels"] == 3
    assert told["codebook_size"] == 2 ** told["token_size"]
    assert told["num_resolutions"] == len(told["channel_mult"])
    decoder = told.get("num_res_blocks_decoder", told["num_res_blocks"])
    return MaskBitVQGANConfig(
        size=(side, side),
        channels=told["hidden_channels"],
        multipliers=tuple(told["channel_mult"]),
        blocks=told["num_res_blocks"],
        decoder_blocks=0 if decoder == told["num_res_blocks"] else decoder,
        strided=told["sample_with_conv"],
        bits=told["token_size"],
        temperature=told["entropy_loss_temperature"],
        entropy_rate=told["entropy_gamma"],
    )


def model_config(told: dict[str, Any], channels: int = 0) -> MaskBitConfig:
    """Our settings of official ones, of codes that are bits or, without `channels`, numbers."""
    side = told["img_size"] // told["input_stride"]
    return MaskBitConfig(
        grid=(side, side),
        vocab=2 if channels else told["codebook_size"],
        channels=channels,
        groups=told["codebook_splits"],
        classes=told["nclass"],
        layers=told["depth"],
        heads=told["heads"],
        dim=told["hidden_dim"],
        ffn_dim=told["mlp_dim"],
        prenorm=told["use_prenorm"],
        dropout=0.0,
    )


def under(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors of a part."""
    found = float32(weights).items()
    return {k.removeprefix(f"{name}."): t for k, t in found if k.startswith(f"{name}.")}


@pytest.fixture(params=folders("maskbit"))
def case(request):
    config, weights, io = load(request.param)
    made = config["constructor"]
    tokenizer = MaskBitVQGAN(tokenizer_config(made["tokenizer"], made["generator"]["img_size"]))
    tokenizer.eval().load_state_dict(lfq_state(under(weights, "tokenizer")))
    state = bert_state(under(weights, "generator"))
    models = [
        MaskBit(model_config(made["generator"], n)) for n in (made["tokenizer"]["token_size"], 0)
    ]
    for model in models:
        model.eval().load_state_dict(state)
    return made, tokenizer, models, io


@torch.no_grad()
def test_maskbit(case):
    made, tokenizer, models, io = case
    check_tokenizer(tokenizer, made["tokenizer"], io)
    for model in models:
        check_model(model, io)
        check_sampler(model, tokenizer, made["sampling"], io)
    io.done()


def check_tokenizer(model: MaskBitVQGAN, told: dict[str, Any], io: Vectors) -> None:
    """Compare a tokenizer with every golden tensor."""
    images = io["image"] * 2 - 1
    io.check("latent", model.latent(images))
    codes = model.encode(images)
    io.check("indices", to_number(codes))
    out = model(images, entropy=True)
    assert torch.equal(out.quantized.codes.flatten(1, 2), codes)
    io.check("quantized", out.quantized.latent)
    io.check("reconstruction", (out.images + 1) / 2)
    io.check("reconstruction", (model.decode(codes) + 1) / 2)
    losses = out.quantized.losses
    commitment = told["commitment_cost"] * losses["commitment"]
    lost = lost_below(model, out.latent)
    entropy = told["entropy_loss_weight"] * (losses["entropy"] - lost)
    io.check("commitment_loss", commitment)
    # a difference of two entropies, of at most log 2 nats of each bit
    most = told["entropy_loss_weight"] * model.spec.bits * math.log(2)
    io.check("train_entropy_loss", entropy, size=most)
    io.check("train_quantizer_loss", commitment + entropy, size=most or commitment.item())


def lost_below(model: MaskBitVQGAN, latent: Tensor) -> Tensor:
    """What upstream's entropy of a position misses of ours, which is exact: it raises probabilities
    below 1e-5 to that before their logarithm."""
    rows = latent.movedim(1, -1).flatten(0, -2)  # (P, K)
    p = soft_codes(rows.double(), model.config.temperature)  # (P, 2^K)
    exact, clamped = (-(p * p.clamp(min=least).log()).sum(-1).mean() for least in (1e-300, 1e-5))
    torch.testing.assert_close(model.quantize.entropies(latent)[0].double(), exact)
    assert 0 <= exact - clamped <= p.shape[1] * 1e-5 / math.e
    return (exact - clamped).float()


def official_codes(model: MaskBit, codes: Tensor) -> Tensor:
    """Official numbers of our codes."""
    return codes if not model.spec.channels else to_number(codes)


def check_model(model: MaskBit, io: Vectors) -> None:
    """Compare a generator with every golden tensor but those of the sampler."""
    groups, hidden = io["split_codes"], io["mask"].bool()  # (B, N, m)
    units, known = groups.flatten(1), ~hidden.flatten(1)
    codes = model.join(units)
    io.check("codes", official_codes(model, codes))
    assert torch.equal(model.split(codes), units)
    mask = model.groups.sizes[0]
    io.check("input_groups", groups.masked_fill(hidden, mask))
    io.check("input_bits", model.bits(units, known))
    cond, turn = Cond(labels=io["class_ids"]), Turn(known, None, units.shape[1])
    logits = model.hidden(units, model.prepare(cond), turn)
    io.check("logits", logits)
    io.check("logits_uncond", model.hidden(units, model.prepare(cond.null()), turn))
    likelihood = F.cross_entropy(logits[~known], units[~known], reduction="none")
    torch.testing.assert_close(model.loss(codes, cond, known)[~known], likelihood)
    model.train()  # the model has no dropout
    model.head.smoothing = SMOOTHING
    io.check("masked_loss", model.loss(codes, cond, known).sum() / (~known).sum())
    model.known_weight = 1.0
    io.check("mlm_loss", model.loss(codes, cond, known).mean())
    model.eval()


class Replayed(Noise):
    """The random numbers of a recorded run, under the addresses of ours."""

    def __init__(self, uniforms: Tensor, gumbels: Tensor) -> None:
        batch = torch.arange(uniforms.shape[1])
        super().__init__(torch.zeros_like(batch), batch)
        self.uniforms, self.gumbels = uniforms, gumbels  # (steps, B, U)

    def uniform(self, slots: Tensor, width: int = 0, step: Any = 0) -> Tensor:
        """What codes are drawn by in even steps, what their confidence is changed by in odd ones:
        numbers whose Gumbel noise is the recorded one."""
        assert width < 2 and slots.tolist() == list(range(self.uniforms.shape[-1]))
        found = self.uniforms[step // 2]
        if step % 2:
            found = (-(-self.gumbels[step // 2].double()).exp()).exp()
        return found.unsqueeze(-1) if width else found


def check_sampler(
    model: MaskBit, tokenizer: MaskBitVQGAN, told: dict[str, Any], io: Vectors
) -> None:
    """Replay the recorded run."""
    guidance = guidance_of(told)
    schedule = shares(told, math.prod(io["sample_u"].shape[2:]))
    reveal = Reveal(told["num_steps"], schedule, confidence=told["randomize_temperature"])
    predicted = remembered(model, temperatures(told))
    noise = Replayed(io["sample_u"].flatten(2), io["sample_gumbel"].flatten(2))
    cond = Cond(labels=io["class_ids"])
    *_, last = stream(model, cond, noise, guidance, reveal=reveal)
    io.check("sample_groups", torch.stack(predicted))
    codes = last.drawn
    assert torch.equal(model.split(codes), predicted[-1])
    io.check("sample_codes", official_codes(model, codes))
    given = model.join(io["split_codes"].flatten(1))
    if model.spec.channels:
        io.check("sample_image", (tokenizer.decode(codes) + 1) / 2)
        io.check("codes_image", (tokenizer.decode(given) + 1) / 2)


def guidance_of(told: dict[str, Any]) -> Guidance:
    """Our guidance of the recorded run; the linear one never reaches its scale."""
    scale, steps = told["guidance_scale"], told["num_steps"]
    kind = told["guidance_annealing"]
    if kind == "linear":
        return Guidance(scales=tuple(1 + scale * i / steps for i in range(steps)), schedule="list")
    schedule = {"cosine": "power-cosine", "none": "constant"}[kind]
    return Guidance(1 + scale, schedule, power=told["scale_pow"])


def temperatures(told: dict[str, Any]) -> list[float]:
    """The temperature of each step of the recorded run, which may fall from 1.3 to 0.5."""
    steps = told["num_steps"]
    if not told["use_sampling_annealing"]:
        return [told["softmax_temperature"]] * steps
    return [0.5 + 0.8 * (1 - (i + 1) / steps) for i in range(steps)]


def test_steps_of_other_runs():
    """The official code's numbers of guidance that rises evenly, and of temperatures that fall."""
    told = {"num_steps": 4, "guidance_scale": 5.0, "guidance_annealing": "linear", "scale_pow": 3.0}
    guidance = guidance_of(told)
    scales = [guidance.scale_at(i, 4) for i in range(4)]
    assert scales == pytest.approx([1 + 5.0 * s for s in (0, 0.25, 0.5, 0.75)])
    told |= {"softmax_temperature": 0.9, "use_sampling_annealing": True}
    assert temperatures(told) == pytest.approx([1.1, 0.9, 0.7, 0.5])
    assert temperatures(told | {"use_sampling_annealing": False}) == [0.9] * 4


def shares(told: dict[str, Any], units: int) -> str:
    """Our schedule of the recorded run: arccos, or of others, which upstream rounds otherwise, the
    share of units that is hidden after each step."""
    ratios = {
        "root": lambda r: 1 - r**0.5,
        "square": lambda r: 1 - r**2,
        "cosine": lambda r: (r * math.pi * 0.5).cos(),
        "linear": lambda r: 1 - r,
    }
    steps, name = told["num_steps"], told["mask_schedule_strategy"]
    if name == "arccos":
        return name
    counts = [
        float((ratios[name](torch.tensor(i / steps)) * units).floor()) for i in range(1, steps)
    ]
    return ",".join(map(str, [(count + 0.5) / units for count in counts] + [0]))


def remembered(model: MaskBit, temperatures: list[float]) -> list[Tensor]:
    """A list to which each draw of the model, at its own temperature, adds its groups (B, U), known
    ones as they are."""
    found, draw = list[Tensor](), model.draw

    def remembering(units: Tensor, cond: Any, turn: Turn, cache: None, chance: Chance) -> Any:
        filters = Filters(temperatures[len(found)])
        drawn = draw(units, cond, turn, cache, chance._replace(filters=filters))
        found.append(torch.where(turn.known, units, drawn.codes))
        return drawn

    model.draw = remembering
    return found
