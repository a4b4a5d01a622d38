"""taming-transformers: VQGANs, the GPT and its sliding window against official outputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import float32, folders, grid_of, load, size_of
from greedy import draws, most_probable, replayed
from torch import Tensor

from builders import generate
from smalti.codes import Cond, Span, TokenSpec
from smalti.interop.pickles import Checkpoint
from smalti.interop.projects.taming import gpt_state, vqgan_sizes, vqgan_state
from smalti.models.taming import Taming, TamingConfig, window
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.tokenizers.vqgan import VQGAN


def model_of(
    config: dict[str, Any], weights: dict[str, Tensor], grid: tuple[int, int], prefix: int
) -> Taming:
    """A GPT of so many codes behind `prefix` codes of a condition. One code can be that of any
    class; several are a map, of the window's size if they are as many."""
    told, vocab = config["constructor"], config["constructor"]["vocab_size"]
    map_grid = grid if prefix == grid[0] * grid[1] else grid_of(prefix)
    condition: dict[str, Any] = {"classes": vocab}
    if prefix > 1:
        condition = {"classes": 0, "map_grid": map_grid, "map_vocab": vocab}
    ours = TamingConfig(
        grid=grid,
        vocab=vocab,
        layers=told["n_layer"],
        heads=told["n_head"],
        dim=told["n_embd"],
        unmasked=told.get("n_unmasked", 0),
        **condition,
    )
    model = Taming(ours).eval()
    model.load_state_dict(gpt_state(float32(weights), ours))
    return model


def cond_of(ids: Tensor) -> Cond:
    return Cond(labels=ids[:, 0]) if ids.shape[1] == 1 else Cond(map=ids)


def vqgan_of(config: dict[str, Any], weights: dict[str, Tensor], image: Tensor) -> VQGAN:
    """A VQGAN for images of the size of `image` (B, C, H, W), of C planes."""
    told = config["constructor"]["ddconfig"]
    checkpoint = Checkpoint(Path("golden"), float32(weights), {})
    ours = replace(vqgan_sizes(checkpoint), size=size_of(image), dropout=told.get("dropout", 0.0))
    levels = range(len(told["ch_mult"]))
    at = {2**i for i in levels if told["resolution"] // 2**i in told["attn_resolutions"]}
    assert set(ours.attention_at) == at
    assert ours.planes == image.shape[1] == told["in_channels"]
    model = VQGAN(ours).eval()
    model.load_state_dict(vqgan_state(float32(weights)))
    return model


@pytest.mark.parametrize("folder", folders("taming_vqgan"))
@torch.no_grad()
def test_vqgan(folder: Path):
    config, weights, io = load(folder)
    model = vqgan_of(config, weights, io["image"])
    encoded = model.encoder(io["image"])
    io.check("encoder_out", encoded)
    latent = model.quant_conv(encoded)
    io.check("latent_pre_quant", latent)
    io.check("indices", model.quantize.encode(latent))
    quantized = model.quantize(latent)
    io.check("quantized_ste", quantized.latent)
    to_codes, to_latents = quantized.losses["codebook"], quantized.losses["commitment"]
    io.check("quant_loss_legacy", to_latents + 0.25 * to_codes)
    io.check("quant_loss_fixed", 0.25 * to_latents + to_codes)
    codes = io["codes"].unflatten(1, model.spec.grids[0])
    io.check("codes_latent", model.quantize.decode(codes))
    for name, vectors in (
        ("codes_image", model.quantize.decode(codes)),
        ("reconstruction", quantized.latent),
    ):
        io.check(name, model.decoder(model.post_quant_conv(vectors)))
    if model.config.planes == 3:
        io.check("indices", model.encode(io["image"]))
        io.check("codes_image", model.decode(io["codes"]))
    io.done()


@pytest.mark.parametrize("folder", folders("taming_gumbel_vqgan"))
@torch.no_grad()
def test_gumbel_vqgan(folder: Path):
    config, weights, io = load(folder)
    model = vqgan_of(config, weights, io["image"])
    quantize = model.quantize
    quantize.temperature = config["constructor"]["temperature_used"]
    latent = model.quant_conv(model.encoder(io["image"]))
    io.check("latent", latent)
    logits = quantize.logits(latent)
    io.check("logits", logits)
    noise, codes = io["gumbel_noise"], quantize.encode(latent)
    io.check("indices_argmax", codes)
    io.check("soft_assignment", quantize.relaxed(logits, noise))
    io.check("codes_latent", quantize.decode(codes))
    drawn = quantize(latent, noise=noise)
    io.check("indices_noisy", drawn.codes)
    io.check("quantized_noisy", drawn.latent)
    weight = config["constructor"].get("kl_weight", 1e-8)
    io.check("kl_loss", weight * drawn.losses["kl"])
    io.check("codes_image", model.decoder(model.post_quant_conv(quantize.decode(codes))))
    io.check("decode_noisy", model.decoder(model.post_quant_conv(drawn.latent)))
    io.done()


@pytest.mark.parametrize("folder", folders("taming_gpt"))
@torch.no_grad()
def test_gpt(folder: Path):
    config, weights, io = load(folder)
    codes, cond = io["token_ids"], cond_of(io["cond_ids"])
    model = model_of(config, weights, grid_of(codes.shape[1]), io["cond_ids"].shape[1])
    whole = Span.whole(model.spec.positions)
    io.check("tf_logits", model.head.logits(model.hidden(codes, model.prepare(cond), whole)))
    io.check("tf_loss", model.loss(codes, cond).mean())

    greedy = io["greedy_tokens"]
    logits = torch.cat(replayed(model, cond, Guidance(), greedy), 1)
    io.check("greedy_logits", logits)
    sure = most_probable(logits, greedy)
    assert sure.any()
    draws(model, cond, Guidance(), greedy, sure)

    top_k, top_p, temperature = io["sample_args"].tolist()
    sampled = io["sample_tokens"]
    logits = torch.cat(replayed(model, cond, Guidance(), sampled), 1)
    probs = Filters(temperature, int(top_k), top_p)(logits).softmax(-1)
    io.check("sample_probs", probs)
    sums = probs.cumsum(-1)
    wanted = (sums >= io["sample_uniforms"][..., None] * sums[..., -1:]).int().argmax(-1)
    assert torch.equal(wanted, sampled)
    io.done()


@torch.no_grad()
def plainly(model: Taming, cond_ids: Tensor, start: Tensor, first: list[Tensor]) -> Tensor:
    """The sweep as upstream has it: every cell by a forward pass over the whole window."""
    codes, (_, height, width), (h, w) = start.clone(), start.shape, model.config.grid
    whole = Span.whole(h * w)
    for i in range(height):
        local_i = i if i <= h // 2 else h - (height - i) if height - i < h // 2 else h // 2
        for j in range(width):
            local_j = j if j <= w // 2 else w - (width - j) if width - j < w // 2 else w // 2
            rows = slice(i - local_i, i - local_i + h)
            columns = slice(j - local_j, j - local_j + w)
            condition = Cond(map=cond_ids[:, rows, columns].flatten(1))
            seen = codes[:, rows, columns].flatten(1)
            logits = model.head.logits(model.hidden(seen, model.prepare(condition), whole))
            first.append(logits[:, local_i * w + local_j])
            codes[:, i, j] = first[-1].argmax(-1)
    return codes


@pytest.mark.parametrize("folder", folders("taming_window"))
@torch.no_grad()
def test_window(folder: Path):
    config, weights, io = load(folder)
    cond_ids, start, windows = io["cond_ids"], io["start_ids"], io["windows"]
    grid = (start.shape[1], start.shape[2])
    rows, columns = (windows[:, 2:4].amax(0) + 1).tolist()  # the last cell has the last place
    assert 2 * rows * columns <= config["constructor"]["block_size"]
    model = model_of(config, weights, (rows, columns), rows * columns)
    h, w = model.config.grid
    for slot, (i, j, local_i, local_j, row, column) in enumerate(windows.tolist()):
        cells, local = window(grid, (h, w), slot)
        assert slot == i * grid[1] + j and int(local) == local_i * w + local_j
        assert divmod(int(cells[0]), grid[1]) == (row, column)
    spec = TokenSpec((grid,), model.spec.vocab)
    cond = Cond(map=cond_ids.flatten(1))
    prepared = model.prepare(cond, None, spec)
    h = model.hidden(start.flatten(1), prepared, Span.whole(1), model.cache(1, spec))
    io.check("first_logits", model.head.logits(h))
    noise, filters = Noise.request(0, len(start)), Filters(top_k=1)
    drawn = generate(model, cond, noise, filters=filters, spec=spec)
    io.check("greedy_ids", drawn.view_as(start))
    io.done()


@torch.no_grad()
def test_window_equals_the_plain_way():
    """Without golden vectors, on a small window, with a picture larger in both ways."""
    torch.manual_seed(0)
    config = TamingConfig(
        grid=(4, 6), vocab=16, classes=0, map_grid=(4, 6), map_vocab=16, layers=2, heads=2, dim=16
    )
    model = Taming(config).eval()
    torch.nn.init.normal_(model.head.proj.weight)
    torch.nn.init.normal_(model.positions)
    cond_ids = torch.randint(16, (1, 7, 9))
    logits = list[Tensor]()
    wanted = plainly(model, cond_ids, torch.zeros_like(cond_ids), logits)
    spec = TokenSpec(((7, 9),), 16)
    cond = Cond(map=cond_ids.flatten(1))
    drawn = generate(model, cond, Noise.request(0, 1), filters=Filters(top_k=1), spec=spec)
    assert torch.equal(drawn.view_as(wanted), wanted)
    h = model.hidden(drawn, model.prepare(cond, None, spec), Span.whole(63))
    torch.testing.assert_close(model.head.logits(h), torch.stack(logits, 1))
