"""Likelihood with condition dropout, and the objective of tokenizers: which loss reaches what."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from builders import build, random_codes
from smalti.codes import Cond
from smalti.data.transforms import to_float
from smalti.eval.likelihood import likelihood
from smalti.models import llamagen, maskgit
from smalti.text import byte_words as byte_level
from smalti.text.byte_words import ByteEncoder
from smalti.tokenizers import ibq, maskgit_vqgan, multiscale_vqvae, open_magvit2, vqgan
from smalti.tokenizers.multiscale_vqvae import MultiScaleVQVAE
from smalti.train.codebook_care import CodebookConfig
from smalti.train.gan import discriminator_loss, generator_loss
from smalti.train.masked_loss import MaskedConfig
from smalti.train.objectives import (
    Likelihood,
    LikelihoodConfig,
    ReconstructionConfig,
    ReconstructionObjective,
)

GAN = ReconstructionConfig(
    perceptual="none",
    gan_start=0,
    gan_channels=8,
    gan_layers=1,
    codebook=CodebookConfig(kmeans=False, patience=0),
)


ONE = (vqgan.VQGAN, vqgan.tiny())
SEVERAL = (MultiScaleVQVAE, multiscale_vqvae.tiny())
both = pytest.mark.parametrize("tokenizer", [ONE, SEVERAL], ids=["one scale", "several"])


def objective(config: ReconstructionConfig = GAN, tokenizer=ONE) -> ReconstructionObjective:
    torch.manual_seed(0)
    module, shape = tokenizer
    return ReconstructionObjective(module(shape), config).train()


def pictures(count: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"images": torch.randint(256, (count, 3, 16, 16), generator=generator).byte()}


def gradients(loss: torch.Tensor, module: nn.Module) -> list[torch.Tensor | None]:
    return list(
        torch.autograd.grad(loss, list(module.parameters()), retain_graph=True, allow_unused=True)
    )


@both
@pytest.mark.parametrize("adaptive", [False, True])
def test_no_total_reaches_the_other_optimizers_parameters(adaptive, tokenizer):
    trained = objective(replace(GAN, gan_adaptive=adaptive), tokenizer)
    totals = trained(pictures(), 0).totals
    modules = trained.optimized()
    assert totals.keys() == modules.keys() == {"model", "discriminator"}
    for name, module in modules.items():
        assert all(g is not None for g in gradients(totals[name], module))
        (other,) = totals.keys() - {name}
        assert all(g is None for g in gradients(totals[other], module))


@pytest.mark.parametrize("kind", ["hinge", "vanilla", "non-saturating"])
@pytest.mark.parametrize("adaptive", [False, True])
@both
def test_one_backward_equals_two_separate_passes(kind, adaptive, tokenizer):
    config = replace(GAN, gan=kind, gan_adaptive=adaptive, gan_weight=0.3)
    trained, batch = objective(config, tokenizer), pictures()
    model, critic = copy.deepcopy(trained.model), copy.deepcopy(trained.discriminator)
    losses = trained(batch, 0)
    torch.stack(list(losses.totals.values())).sum().backward()

    images = to_float(batch["images"])
    result = model(images)
    pixel = F.mse_loss(result.images, images)
    parts = result.quantized.losses
    judged = generator_loss(kind, critic(result.images))
    weight = 1.0
    if adaptive:
        last = model.decoder.conv_out.weight
        norms = [torch.autograd.grad(v, last, retain_graph=True)[0].norm() for v in (pixel, judged)]
        weight = (norms[0] / (norms[1] + 1e-4)).item()
    total = pixel + parts["codebook"] + 0.25 * parts["commitment"] + 0.3 * weight * judged
    # six scales are summed up in another order
    atol = 1e-7 if isinstance(model, vqgan.VQGAN) else 1e-6
    wanted = torch.autograd.grad(total, list(model.parameters()))
    for gradient, parameter in zip(wanted, trained.model.parameters(), strict=True):
        assert torch.allclose(parameter.grad, gradient, rtol=1e-4, atol=atol)

    loss = discriminator_loss(kind, critic(images), critic(result.images.detach()))
    wanted = torch.autograd.grad(loss, list(critic.parameters()))
    for gradient, parameter in zip(wanted, trained.discriminator.parameters(), strict=True):
        assert torch.allclose(parameter.grad, gradient, rtol=1e-4, atol=1e-7)
    assert losses.logs["discriminator"].item() == pytest.approx(loss.item(), rel=1e-5)


def test_the_discriminator_waits_for_its_start():
    trained = objective(replace(GAN, gan_start=7))
    before = trained(pictures(), 6)
    assert list(before.totals) == ["model"] and "adversarial" not in before.logs
    assert list(trained(pictures(), 7).totals) == ["model", "discriminator"]
    assert objective(replace(GAN, gan_weight=0.0)).optimized().keys() == {"model"}


def test_images_too_small_for_the_discriminator():
    with pytest.raises(ValueError, match="images of 16 pixels are too small.*needs 24.*gan-layers"):
        objective(replace(GAN, gan_layers=3))


def test_warm_up_passes_the_codebook_by_and_then_starts_it_from_latents():
    codebook = CodebookConfig(warmup=2, samples=2, patience=0)
    trained = objective(replace(GAN, gan_weight=0.0, codebook=codebook))
    quantizer = trained.model.quantize
    loss = trained(pictures(), 0).totals["model"]
    with torch.no_grad():
        quantizer.embedding.weight.normal_()
    again = trained(pictures(), 1)
    assert torch.equal(again.totals["model"], loss)
    assert gradients(loss, quantizer) == [None]
    assert "usage" not in again.logs and trained.advice({"loss": 1.0}) is None
    assert trained.care.filled.item() == 4 == 2 * 32 // 16  # maps of 4 x 4: the pool is full
    before = quantizer.embedding.weight.detach().clone()
    logs = trained(pictures(), 2).logs
    assert not torch.equal(quantizer.embedding.weight, before)
    rows = quantizer.rows(trained.model.latent(to_float(pictures()["images"]))).detach()
    assert (
        quantizer.distances(rows).amin(1).mean()
        < 0.5 * torch.cdist(rows, F.normalize(before, dim=1)).square().amin(1).mean()
    )
    assert "usage" in logs


def test_warm_up_passes_all_scales_by_and_then_starts_them():
    codebook = CodebookConfig(warmup=2, samples=2, patience=0)
    trained = objective(replace(GAN, gan_weight=0.0, codebook=codebook), SEVERAL)
    model, images = trained.model, to_float(pictures()["images"])
    total = trained(pictures(), 0).totals["model"]
    assert total.item() == pytest.approx(
        F.mse_loss(model.render(model.latent(images)), images).item(), rel=1e-6
    )
    assert set(gradients(total, model.quantize)) == {None}
    z = model.latent(images).detach()
    before = [model.quantize.distances(r).amin(1).mean() for r in model.quantize.compared(z)]
    trained(pictures(), 1)
    logs = trained(pictures(), 2).logs
    after = [model.quantize.distances(r).amin(1).mean() for r in model.quantize.compared(z)]
    assert all(a < 0.5 * b for a, b in zip(after, before, strict=True))
    names = [f"{meter}{scale}" for meter in ("usage", "perplexity") for scale in trained.care.names]
    assert trained.care.names == ["1x1", "2x2", "3x3", "4x4"] and set(names) < {
        name.replace("_", "") for name in logs
    }
    values = {name: value.item() for name, value in logs.items()}
    assert trained.advice(values | {"usage": 0.9, "usage_3x3": 0.05}) is not None
    assert trained.advice({"loss": 1.0}) is None


def test_weights_and_psnr_of_the_reconstruction():
    config = replace(GAN, gan_weight=0.0, pixel="l1", pixel_weight=3.0, commitment=0.0)
    trained, batch = objective(replace(config, quantizer_weight=0.0)), pictures()
    losses, images = trained(batch, 0), to_float(batch["images"])
    out = trained.model(images).images
    assert losses.totals["model"].item() == pytest.approx(3 * (out - images).abs().mean().item())
    mse = ((out - images) / 2).square().mean()
    assert losses.logs["psnr"].item() == pytest.approx(-10 * mse.log10().item(), rel=1e-5)


def test_entropy_loss_joins_when_it_has_a_weight():
    plain = objective(replace(GAN, gan_weight=0.0))(pictures(), 0)
    both = objective(replace(GAN, gan_weight=0.0, entropy=0.5))(pictures(), 0)
    assert "entropy" not in plain.logs
    assert (both.totals["model"] - plain.totals["model"]).item() == pytest.approx(
        0.5 * both.logs["entropy"].item(), rel=1e-3
    )


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_condition_dropout(share):
    torch.manual_seed(0)
    model = llamagen.LlamaGen(llamagen.tiny()).eval()
    nn.init.normal_(model.head.proj.weight)
    codes, labels = random_codes(model.spec, 6), torch.arange(6) % 5
    cond = Cond(labels=labels)
    wanted = model.loss(codes, cond.null() if share else cond).mean()
    batch = {"codes": codes, "labels": labels, "chance": torch.linspace(0, 0.999, 6)}
    found = Likelihood(model, LikelihoodConfig(share))(batch, 0)
    assert found.totals["model"].item() == pytest.approx(wanted.item(), rel=1e-6)
    assert found.logs["loss"].item() == found.totals["model"].item()


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_bad_condition_dropout(share):
    with pytest.raises(ValueError, match=rf"\[0, 1\], got {share}"):
        Likelihood(llamagen.LlamaGen(llamagen.tiny()), LikelihoodConfig(share))


# -- captions


def captioned(cond_dropout: float = 0.0) -> Likelihood:
    small = replace(llamagen.tiny(), classes=0, text_length=12, text_dim=16)
    model, encoder = build(llamagen.LlamaGen, small), build(ByteEncoder, byte_level.tiny())
    return Likelihood(model, LikelihoodConfig(cond_dropout), encoder).train()


def captions(objective: Likelihood, texts: list[str]) -> dict[str, torch.Tensor]:
    model, encoder = objective.model["generator"], objective.model["encoder"]
    return {
        "codes": random_codes(model.spec, len(texts)),
        "labels": torch.zeros(len(texts), dtype=torch.int64),
        "text_tokens": encoder.tokenize(texts),
        "chance": torch.linspace(0, 0.999, len(texts)),
    }


def test_a_learned_encoder_trains_with_the_generator():
    objective = captioned()
    batch = captions(objective, ["a red heart", "ein Stern", "", "mond"])
    objective(batch, 0).totals["model"].backward()
    assert objective.optimized() == {"model": objective.model}
    names = {n.split(".")[0] for n, p in objective.model.named_parameters()}
    assert names == {"generator", "encoder"}
    assert all(p.grad.abs().sum() > 0 for p in objective.model.parameters())
    assert len(objective.state_dict()) == len(objective.model.state_dict())  # nothing twice


def test_the_loss_on_captions_falls():
    objective = captioned()
    batch = captions(objective, ["a red heart", "ein Stern", "青い円", "mond"])
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    losses = []
    for step in range(40):
        loss = objective(batch, step).totals["model"]
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


@torch.no_grad()
def test_chances_drop_captions_and_empty_ones_are_dropped_always():
    objective = captioned(0.5).eval()
    model, encoder = objective.model["generator"], objective.model["encoder"]
    batch = captions(objective, ["a red heart", "star", "mond", ""])  # chances 0, 1/3, 2/3, 1
    cond = Cond.of_text(*encoder(batch["text_tokens"]))
    drop = torch.tensor([True, True, False, True])
    wanted = model.loss(batch["codes"], replace(cond, drop=drop)).mean()
    assert objective(batch, 0).logs["loss"].item() == pytest.approx(wanted.item(), rel=1e-6)
    cached = {k: v for k, v in batch.items() if k != "text_tokens"}
    features, mask = encoder(batch["text_tokens"])
    frozen = Likelihood(model, LikelihoodConfig(0.5))
    found = frozen(cached | {"text": features, "text_mask": mask}, 0).logs["loss"]
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)
    held_out = likelihood(model, [batch], encoder=encoder)["nats_per_token"]
    plain = model.loss(batch["codes"], replace(cond, drop=torch.tensor([False] * 3 + [True])))
    assert held_out == pytest.approx(plain.mean().item(), rel=1e-6)


def test_advice_names_only_options_that_the_tokenizer_has():
    for module, config in (
        (vqgan.VQGAN, vqgan.tiny()),
        (maskgit_vqgan.MaskGITVQGAN, maskgit_vqgan.tiny()),
    ):
        plain = replace(config, l2_norm=False) if module is vqgan.VQGAN else config
        trained = ReconstructionObjective(module(plain), GAN)
        text = trained.advice({"usage": 0.01}) or ""
        assert ("--model.l2-norm" in text) == hasattr(config, "l2_norm")
        assert "--model.vocab" in text


def test_care_for_a_table_is_refused_where_there_is_none():
    """What a recipe has by default is none that was asked for, nor is a warm-up that follows the
    steps."""
    signs = build(open_magvit2.OpenMAGVIT2LFQ, open_magvit2.tiny())
    for care in (CodebookConfig(), CodebookConfig(warmup=3), CodebookConfig(False, 7, 0)):
        goal = replace(GAN, gan_weight=0.0, codebook=care)
        assert goal.objective(signs, seed=0, steps=10).care is None
    for care in (CodebookConfig(patience=50), CodebookConfig(True, patience=0)):
        goal = replace(GAN, gan_weight=0.0, codebook=care)
        with pytest.raises(ValueError, match="which an OpenMAGVIT2LFQ does not have, got Codebook"):
            goal.objective(signs, seed=0, steps=10)


def test_the_joint_loss_is_weighed():
    model = build(ibq.IBQTokenizer, ibq.tiny()).train()
    images = torch.rand(2, 3, *model.size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    care = CodebookConfig(kmeans=False, patience=0)
    losses = []
    for weight in (0.0, 0.7):
        goal = ReconstructionConfig(
            perceptual="none", gan_weight=0.0, entropy=0.1, joint=weight, codebook=care
        )
        losses.append(goal.objective(model, seed=0, steps=10)({"images": images}, 0))
    terms = losses[1].logs
    more = losses[1].totals["model"] - losses[0].totals["model"]
    torch.testing.assert_close(more.detach(), 0.7 * terms["joint"], rtol=1e-4, atol=1e-5)
    assert terms["joint"] > 0 and {"codebook", "commitment", "entropy"} <= terms.keys()


def test_smoothing_reaches_every_code_of_a_stack():
    model = build(maskgit.MaskGIT, replace(maskgit.tiny(), depth=2))
    MaskedConfig(smoothing=0.2).objective(model, None, 0)
    heads = [m for m in model.head.modules() if hasattr(m, "smoothing")]
    assert len(heads) >= 1 and all(head.smoothing == 0.2 for head in heads)
    codes, cond = random_codes(model.spec, 2), Cond(torch.tensor([0, 1]))
    smoothed = model.train().loss(codes, cond)
    for head in heads:
        head.smoothing = 0.0
    assert not torch.allclose(smoothed, model.loss(codes, cond))
