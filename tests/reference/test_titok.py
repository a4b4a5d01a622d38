"""TiTok, TA-TiTok and their generators against outputs of the official code, which speaks of images
in [0, 1]."""

import ast
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, close, float32, folders, load
from torch import Tensor

from builders import build, stream
from smalti.codes import Cond, Turn
from smalti.interop.pickles import Checkpoint
from smalti.interop.projects.titok import (
    TiTokFiles,
    generator_sizes,
    generator_state,
    ramp,
    tokens_sizes,
    tokens_state,
)
from smalti.models import titok
from smalti.models.titok import TiTokGenerator, TiTokGeneratorConfig
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.sampling.reveal import Reveal
from smalti.tokenizers.kinds import tokenizer_of
from smalti.tokenizers.titok import ProxyConfig, TiTok, TiTokConfig, TokensConfig, TrunkConfig
from smalti.tokenizers.titok_vae import TiTokVAE, TiTokVAEConfig


def trunk(made: dict[str, Any], name: str) -> TrunkConfig:
    sizes = made.get("replaced_constants", {})
    sizes = sizes.get(made["model"]["vq_model"][f"vit_{name}_model_size"], sizes)
    return TrunkConfig(sizes["layers"], sizes["heads"], sizes["width"])


def tokens_config(made: dict[str, Any], reads: bool = False) -> TokensConfig:
    """Our settings of official ones, of a tokenizer whose decoder reads texts or does not."""
    told, size = made["model"]["vq_model"], made["dataset"]["preprocessing"]["crop_size"]
    legacy, constants = told.get("is_legacy", True), made["replaced_constants"]
    proxy = ProxyConfig()
    if legacy:
        pixels = constants["pixel_decoder"]
        assert pixels["num_resolutions"] == len(pixels["channel_mult"])
        widths = [pixels["hidden_channels"] * m for m in pixels["channel_mult"]]
        first = math.gcd(*widths)  # a file tells widths alone
        levels = tuple(width // first for width in widths)
        proxy = ProxyConfig(*constants["pixel_codebook"], first, levels, pixels["num_res_blocks"])
    patch, shown = told["vit_enc_patch_size"], told["vit_dec_patch_size"]
    text = (told.get("text_context_length", 77), told.get("text_embed_dim", 768)) if reads else ()
    known: dict[str, Any] = {
        "size": (size, size),
        "patch": patch,
        "decoder_patch": 0 if shown == patch else shown,
        "tokens": told["num_latent_tokens"],
        "dim": told["token_size"],
        "encoder": trunk(made, "enc"),
        "decoder": trunk(made, "dec"),
        "scrambled": legacy,
        "proxy": proxy,
        **dict(zip(("text_length", "text_dim"), text, strict=False)),
    }
    if told.get("quantize_mode", "vq") == "vae":
        return TiTokVAEConfig(**known)
    return TiTokConfig(**known, vocab=told["codebook_size"], l2_norm=told["use_l2_norm"])


FAMILIES = ("titok", "titok_rgb", "titok_vae", "tatitok")
TOKENIZERS = [folder for family in FAMILIES for folder in folders(family)]


@pytest.mark.parametrize("folder", TOKENIZERS)
@torch.no_grad()
def test_titok(folder: Path):
    config, weights, io = load(folder)
    shape = tokens_config(config["constructor"], reads=config["family"] == "tatitok")
    whole = any(name.startswith("pixel_decoder.") for name in weights)
    if shape.encoder.heads == shape.decoder.heads and (whole or not shape.proxy.vocab):
        options = TiTokFiles(folder, tokenizer_heads=shape.encoder.heads)
        norm = getattr(shape, "l2_norm", True)
        found = tokens_sizes(Checkpoint(folder, weights, {}), replace(options, l2_norm=norm))
        assert found == shape
    model = tokenizer_of(shape).eval()
    state = tokens_state(float32(weights), shape)
    mine = {} if whole else {n: t for n, t in model.state_dict().items() if n not in state}
    assert all(n.startswith(("pixel_decoder.", "proxy_codes.")) for n in mine)
    model.load_state_dict(state | mine)
    check_tokenizer(model, config, io)


def check_tokenizer(model: Any, config: dict[str, Any], io: Vectors) -> None:
    """Compare a tokenizer with every golden tensor."""
    latent = model.latent(io["image"] * 2 - 1)
    io.check("latent", latent)
    check = check_codes if isinstance(model, TiTok) else check_posterior
    check(model, config, io)
    io.done()


def shown(model: Any, latent: Tensor, io: Vectors) -> Tensor:
    """What upstream decodes of latents: pictures, or in the first stage logits of codes."""
    text = io.get("text_features")
    return (model.render(latent, text) + 1) / 2


def check_codes(model: TiTok, config: dict[str, Any], io: Vectors) -> None:
    images, grid, text = io["image"] * 2 - 1, model.decoder.grid, io.get("text_features")
    io.check("indices", model.encode(images))
    quantized = model.quantize(model.latent(images))
    io.check("quantized", quantized.latent)
    cost = config["constructor"]["model"]["vq_model"]["commitment_cost"]
    io.check("codebook_loss", quantized.losses["codebook"])
    io.check("commitment_loss", cost * quantized.losses["commitment"])
    codes = io["codes"].flatten(1)
    staged = config["constructor"]["model"]["vq_model"].get("finetune_decoder", True)
    if model.config.proxy.vocab:
        logits = model.decoder.logits(quantized.latent, text).mT.unflatten(2, grid)
        io.check("pixel_logits", logits)
    if model.config.proxy.vocab and not staged:  # upstream gives what it learns
        io.check("decoded", logits)
        given = model.quantize.decode(io["codes"].view(len(codes), 1, -1))
        io.check("codes_image", model.decoder.logits(given, text).mT.unflatten(2, grid))
        return
    io.check("decoded", shown(model, quantized.latent, io))
    io.check("codes_image", (model.decode(codes, text=text) + 1) / 2)


def check_posterior(model: TiTokVAE, config: dict[str, Any], io: Vectors) -> None:
    images, text = io["image"] * 2 - 1, io.get("text_features")
    posterior = model.posterior(images)
    io.check("mean", posterior.mean)
    io.check("std", posterior.std)
    close(posterior.kl(), io["kl"].sum(1))
    sample = posterior.sample(io["eps"])
    io.check("sample", sample)
    io.check("decoded_sample", shown(model, sample, io))
    io.check("decoded_mean", (model.decode(model.encode(images), text=text) + 1) / 2)


# -- generators


def generator_config(made: dict[str, Any]) -> TiTokGeneratorConfig:
    """Our settings of official ones."""
    told = made["model"]["generator"]
    uvit = told["model_type"] == "UViT"  # upstream builds two halves and one between them
    return TiTokGeneratorConfig(
        grid=(1, told["image_seq_len"]),
        vocab=made["model"]["vq_model"]["codebook_size"],
        classes=told["condition_num_classes"],
        network=told["model_type"].lower(),
        layers=told["num_hidden_layers"] // 2 * 2 if uvit else told["num_hidden_layers"],
        heads=told["num_attention_heads"],
        dim=told["hidden_size"],
        ffn_dim=told["intermediate_size"],
        dropout=told["dropout"],
    )


def bare(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the "model." of a BERT, which converting leaves out."""
    return {name.removeprefix("model."): t for name, t in float32(weights).items()}


GENERATORS = [*folders("titok_generator_uvit"), *folders("titok_generator_vit")]


@pytest.mark.parametrize("folder", GENERATORS)
@torch.no_grad()
def test_generators(folder: Path):
    config, weights, io = load(folder)
    shape, state = generator_config(config["constructor"]), bare(weights)
    found = generator_sizes(Checkpoint(folder, state, {}), shape.heads)
    assert replace(found, dropout=shape.dropout) == shape
    model = TiTokGenerator(shape).eval()
    model.load_state_dict(generator_state(state))
    check_generator(model, config, io)


def check_generator(model: TiTokGenerator, config: dict[str, Any], io: Vectors) -> None:
    """Compare a generator with every golden tensor."""
    ids, cond = io["input_ids"], Cond(labels=io["class_ids"])
    known = ids < model.config.vocab
    turn = Turn(known, None, ids.shape[1])
    for name, asked in (("logits", cond), ("logits_uncond", cond.null())):
        h = model.hidden(ids * known, model.prepare(asked), turn)
        io.check(name, model.head.logits(h))
    for run in io.runs(r"gen_(.+)_ids"):
        told = config["io_tensors"][f"gen_{run}_ids"]["meaning"]
        check_run(model, ast.literal_eval(told), run, io)
    io.done()


RUN = {
    **{"guidance_scale": 3.0, "guidance_decay": "constant", "guidance_scale_pow": 3.0},
    **{"randomize_temperature": 4.5, "softmax_temperature_annealing": False},
    "num_sample_steps": 8,
}
"""Of the official `generate`, where a run leaves them out."""


def check_run(model: TiTokGenerator, told: dict[str, Any], run: str, io: Vectors) -> None:
    """Replay a recorded run."""
    told = RUN | told
    steps, scale = told["num_sample_steps"], told["guidance_scale"]
    numbers = io[f"gen_{run}_u_sample"], io[f"gen_{run}_u_conf"]
    count = model.spec.positions
    lengths = [math.floor(count * math.acos(i / steps) / (math.pi / 2)) for i in range(1, steps)]
    shares = ",".join(map(str, [(n + 0.5) / count for n in lengths] + [0]))
    reveal = Reveal(steps, shares, confidence=told["randomize_temperature"])
    cond = Cond(labels=io["class_ids"])
    replay(model, numbers[0])
    noise = Doubts(numbers[1])
    filters = Filters(1.3, final_temperature=0.5)  # as the published evaluation has it
    falls = {"filters": filters} if told["softmax_temperature_annealing"] else {}
    *_, last = stream(model, cond, noise, guided(told, steps, scale), reveal=reveal, **falls)
    io.check(f"gen_{run}_ids", last.drawn)


def guided(told: dict[str, Any], steps: int, scale: float) -> Guidance:
    """Our guidance of upstream's."""
    decay = told["guidance_decay"]
    if decay == "power-cosine":
        return Guidance(scale, decay, power=told["guidance_scale_pow"])
    scales = ramp(scale, steps) if decay == "linear" else (1 + scale,) * steps
    return Guidance(1 + scale, "list", scales=scales)


class Doubts(Noise):
    """Recorded numbers in the place of those of how sure the model is."""

    def __init__(self, uniforms: Tensor) -> None:
        batch = torch.arange(uniforms.shape[1])
        super().__init__(torch.zeros_like(batch), batch)
        self.uniforms = uniforms  # (steps, B, N)

    def uniform(self, slots: Tensor, width: int = 0, step: Any = 0) -> Tensor:
        assert step % 2 and not width
        return self.uniforms[step // 2]


def replay(model: TiTokGenerator, uniforms: Tensor) -> None:
    """Have codes drawn by recorded Gumbel noise, (steps, B, N, V)."""
    if not hasattr(model, "drawn_by_chance"):
        model.drawn_by_chance = model.draw
    draw = model.drawn_by_chance

    def by(noise: Any, logits: Tensor, *_: int) -> tuple[Tensor, Tensor]:
        numbers = uniforms[noise.step].clamp(min=1e-20).double()
        codes = (logits.double() - (-numbers.log()).log()).argmax(-1)
        return codes, logits.log_softmax(-1).gather(-1, codes.unsqueeze(-1)).squeeze(-1)

    def replaying(codes: Tensor, cond: Any, turn: Turn, cache: None, chance: Any) -> Any:
        return draw(codes, cond, turn, cache, chance._replace(noise=chance.noise._replace(by=by)))

    model.draw = replaying


# -- a softmax temperature that falls, of which there are no recorded runs


@pytest.mark.parametrize("network", ["vit", "uvit"])
@torch.no_grad()
def test_a_temperature_that_falls_as_in_the_published_evaluation(network: Any):
    model = build(TiTokGenerator, replace(titok.tiny(), network=network))
    cond, count, steps = Cond(labels=torch.tensor([1, 4, 0])), model.spec.positions, 5
    numbers = torch.Generator().manual_seed(0)
    draws = torch.rand(steps, 3, count, model.config.vocab, generator=numbers)
    doubts = torch.rand(steps, 3, count, generator=numbers)
    replay(model, draws)
    reveal = Reveal(steps, "arccos", confidence=4.0)
    found = list[Tensor]()
    for last in (0.5, None):
        filters = Filters(1.3, final_temperature=last)
        *_, step = stream(model, cond, Doubts(doubts), filters=filters, reveal=reveal)
        found.append(step.drawn)
    assert torch.equal(found[0], annealed(model, cond, draws, doubts, 4.0))
    assert not torch.equal(*found), "the temperature of each step counts"


def annealed(
    model: TiTokGenerator, cond: Cond, draws: Tensor, doubts: Tensor, noise: float
) -> Tensor:
    """Codes (B, N) of a run without guidance whose softmax temperature falls from 1.3 to 0.5, one
    step after another, from uniform numbers (steps, B, N, V) and (steps, B, N)."""
    steps, (batch, count) = len(draws), doubts.shape[1:]
    prepared, codes = model.prepare(cond), torch.zeros(batch, count, dtype=torch.int64)
    hidden = torch.ones(batch, count, dtype=torch.bool)
    for i in range(steps):
        done = (i + 1) / steps
        weight = noise * (1 - done)
        logits = model.head.logits(model.hidden(codes, prepared, Turn(~hidden, None, count)))
        logits = logits / (0.5 + 0.8 * (1 - done))
        drawn = (logits - weight * (-draws[i].log()).log()).argmax(-1)  # (B, N)
        sure = logits.gather(-1, drawn.unsqueeze(-1)).squeeze(-1)
        sure = torch.where(hidden, sure, torch.inf) - weight * (-doubts[i].log()).log()
        codes = torch.where(hidden, drawn, codes)
        if i == steps - 1:
            return codes
        left = math.floor(count * math.acos(done) / (math.pi / 2))
        cut = sure.sort(1).values[:, max(1, left) - 1].unsqueeze(1)
        hidden = sure <= cut
        codes = codes.masked_fill(hidden, 0)
    return codes
