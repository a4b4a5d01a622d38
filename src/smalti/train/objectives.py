"""What is minimised: one objective for generators, one for tokenizers that quantize, and what it
shares with that of the KL-VAE (`train.kl`). What both say is in `train/base.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from smalti.arguments import an
from smalti.config import check
from smalti.data.transforms import to_float
from smalti.sampling.noise import Noise
from smalti.sampling.orders import order, shuffled
from smalti.text.encoders import condition
from smalti.train.base import Batch, CodingConfig, Losses, Objective, ObjectiveConfig
from smalti.train.code_meter import CodeMeter
from smalti.train.codebook_care import CodebookCare, CodebookConfig
from smalti.train.gan import (
    GanLoss,
    PatchGAN,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
)
from smalti.train.perceptual import perceptual
from smalti.train.relaxed import RelaxedConfig


@dataclass(frozen=True)
class LikelihoodConfig(ObjectiveConfig):
    LOOP: ClassVar[str] = "causal"

    random_until: int = 0
    """Step up to which a raster model learns each sample in another random order."""
    random_end: int = 0
    """Step from which it learns its own order alone; the share falls linearly in between."""

    def __post_init__(self) -> None:
        check(self, shares=("cond_dropout",))
        if not 0 <= self.random_until <= self.random_end:
            raise ValueError(
                "random orders must satisfy 0 <= random_until <= random_end, "
                f"got {self.random_until}, {self.random_end}"
            )

    def objective(self, model: Any, encoder: Any | None, seed: int) -> Likelihood:
        """What a model, and a text encoder that learns with it, minimise."""
        return Likelihood(model, self, encoder, seed)

    def random_share(self, step: int) -> float:
        """Share of the samples of a step that are learned in random orders (RAR's annealing)."""
        if step < self.random_until:
            return 1.0
        if step >= self.random_end:
            return 0.0
        return (self.random_end - step) / (self.random_end - self.random_until)


class Likelihood(Objective):
    """Mean negative log-likelihood of codes (nats per position), or the diffusion loss of
    continuous ones, with condition dropout.

    A text `encoder` is trained together with the model.
    """

    def __init__(
        self, model: Any, config: LikelihoodConfig, encoder: Any | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        if config.random_end and len(model.spec.grids) > 1:
            raise ValueError(
                "random orders are for models of one grid: "
                f"random_end must be 0, got {config.random_end}"
            )
        self.model = model
        if encoder is not None:
            self.model = nn.ModuleDict({"generator": model, "encoder": encoder})
        self.config, self.seed = config, seed
        self._parts: tuple[Any, Any] = model, encoder  # a tuple registers nothing twice

    def forward(self, batch: Batch, step: int) -> Losses:
        model, encoder = self._parts
        cond = condition(batch, encoder).dropped(batch["chance"] < self.config.cond_dropout)
        share, noise, orders = self.config.random_share(step), None, None
        if share or model.random_loss:  # else nothing random is left to decide
            common = Noise.request(self.seed, 1, first=step)
            noise = Noise(batch["shuffle"], torch.zeros_like(batch["shuffle"]), common)
            orders = self.orders(noise, share) if share else None
        loss = model.loss(model.spec.widened(batch["codes"]), cond, orders, noise).mean()
        return Losses({"model": loss}, {"loss": loss.detach()})

    def orders(self, noise: Noise, share: float) -> Tensor:
        """An order for each sample, (b, N): random ones in about this share of them."""
        model, _ = self._parts
        shuffles, usual = shuffled(noise, model.spec.positions), model.order()
        usual = order("row-major", model.spec.grids[0]) if usual is None else usual
        chosen = noise.uniform(noise.seeds.new_zeros(1)) < share  # (b, 1)
        return torch.where(chosen, shuffles, usual.to(noise.seeds.device))


@dataclass(frozen=True)
class PictureConfig(CodingConfig):
    """What any tokenizer loses by the pictures it gives back."""

    pixel: Literal["l1", "l2", "kinds"] = "l2"
    """Distance of pixels: l1 is absolute, l2 squared; of a segmentation kinds, the cross-entropy
    of each kind."""
    pixel_weight: float = 1.0
    """Weight of the pixel loss."""
    perceptual: str = "lpips"
    """none, lpips (weights from the hub) or a folder with its two weight files."""
    perceptual_weight: float = 1.0
    """Weight of the perceptual loss."""
    gan: GanLoss = "hinge"
    """Which adversarial loss."""
    gan_weight: float = 0.5
    """0 trains without a discriminator."""
    gan_start: int = 20000
    """Step at which the discriminator sets in."""
    gan_adaptive: bool = False
    """Scale the adversarial loss to the gradient of the others at the last layer."""
    gan_channels: int = 64
    """Channels of the discriminator's first layer."""
    gan_layers: int = 3
    """Layers of the discriminator after the first."""

    def note(self, steps: int) -> str:
        if not self.gan_weight or self.gan_start < steps:
            return ""
        start = f"objective.gan_start {self.gan_start}"
        return f"no discriminator takes part: {start} is not before the last of {steps} steps"


def check_kinds(model: Any, config: PictureConfig) -> None:
    """Raise ValueError unless kinds are compared of a tokenizer of kinds, and of no other."""
    if (config.pixel == "kinds") != bool(model.kinds):
        right = "kinds" if model.kinds else "l1 or l2"
        raise ValueError(f"objective.pixel must be {right} for this tokenizer, got {config.pixel}")
    if model.kinds and (config.gan_weight or config.perceptual != "none"):
        raise ValueError(
            "kinds are no pictures that a network judges: objective.gan_weight must be 0 and "
            f"perceptual none, got {config.gan_weight}, {config.perceptual}"
        )


@dataclass(frozen=True)
class ReconstructionConfig(PictureConfig):
    quantizer_weight: float = 1.0
    """Pulls codes towards latents; works on the codebook alone."""
    commitment: float = 0.25
    """Pulls latents towards codes."""
    entropy: float = 0.0
    """Weight of the entropy loss: sure assignments, all codes equally often."""
    joint: float = 1.0
    """Pulls codes and latents together, of quantizers in which a latent moves all codes."""
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    relaxed: RelaxedConfig = field(default_factory=RelaxedConfig)
    """Of quantizers that draw their codes in training."""

    @property
    def idle(self) -> dict[str, str]:
        """The fields that do nothing as the others stand, and the field that each is a part of."""
        return {f"codebook.{name}": f"codebook.{of}" for name, of in self.codebook.idle.items()}

    def objective(
        self, model: Any, seed: int, steps: int, begun: bool = False
    ) -> ReconstructionObjective:
        """What a tokenizer minimises in so many steps; one that has `begun` knows its codes.

        Raises ValueError as `checked` does.
        """
        return ReconstructionObjective(model, self.checked(model, steps, begun), seed)

    def checked(self, model: Any, steps: int, begun: bool) -> Self:
        """The same with care as a tokenizer needs it that learns for so many steps.

        Raises ValueError if there would be no codebook by the end, or nothing to learn before it,
        or if care is asked for where no table is, or of several scales or depths where there is
        one, or for weights that do nothing beside it.
        """
        care = replace(self.codebook, kmeans=False) if begun else self.codebook
        if model.codebook is None and self.codebook.chosen:
            raise ValueError(
                "objective.codebook is care for a table of codes, which "
                f"{an(type(model).__name__)} does not have, got {self.codebook}"
            )
        if model.codebook is not None and self.codebook.share != CodebookConfig.share:
            levels = len(model.spec.grids) * max(model.spec.depth, 1)
            if levels == model.codebook.tables:
                raise ValueError(
                    "objective.codebook.share is of several scales or depths of one table, of "
                    f"which {an(type(model).__name__)} has one, got {self.codebook.share}"
                )
        if care.decay and self.quantizer_weight != ReconstructionConfig.quantizer_weight:
            raise ValueError(
                "objective.quantizer_weight does nothing where codes are moving averages, by "
                f"objective.codebook.decay {care.decay}, got {self.quantizer_weight}"
            )
        if model.codebook is not None and care.kmeans and care.warmup >= steps:
            raise ValueError(
                f"objective.codebook.warmup must be below train.steps {steps}, got {care.warmup}"
            )
        if model.codebook is not None and care.kmeans and care.warmup:
            table = {id(p) for p in model.codebook.parameters()}
            if all(id(p) in table for p in model.parameters()):
                raise ValueError(
                    "objective.codebook.warmup must be 0 for a tokenizer that has nothing to learn "
                    f"but its codebook, got {care.warmup}"
                )
        return replace(self, codebook=care)


class PictureObjective(Objective):
    """Pixel, perceptual and adversarial losses of a tokenizer, which has a `last_layer`."""

    model: Any
    """An `ImageTokenizer` with what the losses of its kind ask for."""

    def __init__(self, model: Any, config: PictureConfig) -> None:
        super().__init__()
        self.model, self.config = model, config
        check_kinds(model, config)
        self.perceptual = perceptual(config.perceptual) if config.perceptual_weight else None
        self.discriminator = None
        if config.gan_weight:
            self.discriminator = PatchGAN(config.gan_channels, config.gan_layers)
            if min(model.config.size) < self.discriminator.smallest:
                raise ValueError(
                    f"images of {min(model.config.size)} pixels are too small for a PatchGAN of "
                    f"{config.gan_layers} layers, which needs {self.discriminator.smallest}: take "
                    "fewer --objective.gan-layers, or --objective.gan-weight 0"
                )

    def optimized(self) -> dict[str, nn.Module]:
        modules: dict[str, nn.Module] = {"model": self.model}
        if self.discriminator is not None:
            modules["discriminator"] = self.discriminator
        return modules

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.perceptual is not None:
            self.perceptual.eval()
        return self

    def _reconstruction(self, out: Tensor, images: Tensor, logs: dict[str, Tensor]) -> Tensor:
        """Weighted pixel and perceptual loss. The log "psnr" is in dB, of a [0, 1] range."""
        out = out.float()
        if self.config.pixel == "kinds":
            pixel = F.binary_cross_entropy_with_logits(out, images)
            mse = 4 * F.mse_loss(out.sigmoid(), images)  # of a range of 1, not 2
        else:
            mse = F.mse_loss(out, images)
            pixel = mse if self.config.pixel == "l2" else F.l1_loss(out, images)
        logs["pixel"] = pixel.detach()
        logs["psnr"] = -10 * (mse.detach() / 4).log10()
        total = self.config.pixel_weight * pixel
        if self.perceptual is not None:
            distance = self.perceptual(out, images).mean()
            logs["perceptual"] = distance.detach()
            total = total + self.config.perceptual_weight * distance
        return total

    def _judged(
        self,
        step: int,
        images: Tensor,
        out: Tensor,
        reconstruction: Tensor,
        total: Tensor,
        logs: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        """The totals of all optimizers, of the model's `total` without an adversary."""
        if self.discriminator is None or step < self.config.gan_start:
            return {"model": total}
        total = total + self._adversarial(out, reconstruction, logs)
        return {"model": total, "discriminator": self._discriminate(images, out.detach(), logs)}

    def _adversarial(self, out: Tensor, reconstruction: Tensor, logs: dict[str, Tensor]) -> Tensor:
        assert self.discriminator is not None
        # detached parameters: this loss must not reach the discriminator
        frozen = {n: p.detach() for n, p in self.discriminator.named_parameters()}
        logits = functional_call(self.discriminator, frozen, (out,))
        loss = generator_loss(self.config.gan, logits.float())
        logs["adversarial"] = loss.detach()
        if self.config.gan_adaptive:
            weight = adaptive_weight(reconstruction, loss, self.model.last_layer)
            logs["adversarial_weight"] = weight
            loss = loss * weight
        return self.config.gan_weight * loss

    def _discriminate(self, real: Tensor, fake: Tensor, logs: dict[str, Tensor]) -> Tensor:
        assert self.discriminator is not None
        real_logits = self.discriminator(real).float()
        fake_logits = self.discriminator(fake).float()
        loss = discriminator_loss(self.config.gan, real_logits, fake_logits)
        logs["discriminator"] = loss.detach()
        return loss


class ReconstructionObjective(PictureObjective):
    """Losses of pictures and of the quantizer, after LlamaGen.

    `model` is a tokenizer with `latent`, `quantize` and `render`, as `VQGAN` has. One whose codes
    need no table (`codebook` is None) has nothing to be kept alive, but its codes are counted.
    """

    def __init__(self, model: Any, config: ReconstructionConfig, seed: int = 0) -> None:
        super().__init__(model, config)
        self.config = config
        self.care = self.meter = None
        if model.codebook is not None:
            spec = model.spec
            self.care = CodebookCare(model.codebook, config.codebook, seed, spec.grids, spec.depth)
            self.shown = ("usage", *(f"usage_{name}" for name in self.care.names))
        else:
            self.meter, self.shown = CodeMeter(model.spec), ("usage",)

    def forward(self, batch: Batch, step: int) -> Losses:
        images, config, care = to_float(batch["images"]), self.config, self.care
        target = self.model.target(images)
        if self.model.relaxed:
            self.model.quantize.temperature = config.relaxed.temperature_at(step)
        if (meter := care or self.meter) is not None:
            meter.begin(step)
        starts = care is not None and config.codebook.kmeans and step == config.codebook.warmup
        if care is not None and starts and care.first:
            with torch.no_grad():
                care.collect(self.model.latent(images))
            care.start(self.model.codebook, step)
        if care is not None and care.warming_up(step):
            return self._warmup(images, target, care)
        z = self.model.latent(images)  # (B, C, h, w)
        if care is not None:
            # before the codebook is used: a graph must not see its rows change
            care.settle(self.model.codebook)
            care.restart(self.model.codebook, z.detach(), step)
        quantized = self.model.quantize(z, entropy=config.entropy > 0)
        out = self._made(quantized.latent.to(z.dtype))
        logs: dict[str, Tensor] = {}
        total = reconstruction = self._reconstruction(out, target, logs)
        total = total + self._quantizing(quantized.losses, logs)
        totals = self._judged(step, target, out, reconstruction, total, logs)
        beside = self._beside(batch, quantized.latent, logs)
        logs["loss"] = sum(beside.values(), total).detach()
        if care is not None:
            care.average(self.model.codebook, z.detach(), quantized.codes)
        if (meter := care or self.meter) is not None:
            meter.observe(quantized.codes)
            logs |= meter.meters()
        return Losses(totals | beside, logs)

    def _made(self, latent: Tensor) -> Tensor:
        """What is compared with images: what becomes of what stands for codes (B, C, h, w)."""
        return self.model.render(latent)

    def _quantizing(self, losses: dict[str, Tensor], logs: dict[str, Tensor]) -> Tensor | float:
        """The losses of the quantizer, weighted."""
        config, total = self.config, 0.0
        weights = {
            "codebook": config.quantizer_weight,
            "commitment": config.commitment,
            "entropy": config.entropy,
            "joint": config.joint,
            "kl": config.relaxed.kl,
        }
        if config.codebook.decay:  # codes are averages, which no gradient moves
            weights["codebook"] = 0.0
        for name, loss in losses.items():
            if weights[name]:
                total = total + weights[name] * loss
            logs[name] = loss.detach()
        return total

    def _beside(self, batch: Batch, latent: Tensor, logs: dict[str, Tensor]) -> dict[str, Tensor]:
        """What else is minimised, of what stands for codes (B, C, h, w), by optimizer: nothing."""
        return {}

    def _warmup(self, images: Tensor, target: Tensor, care: CodebookCare) -> Losses:
        """Plain autoencoding, before there is a codebook."""
        z = self.model.latent(images)
        care.collect(z.detach())
        logs: dict[str, Tensor] = {}
        latent = self.model.quantize.unquantized(z).to(z.dtype)
        total = self._reconstruction(self._made(latent), target, logs)
        return Losses({"model": total}, logs | {"loss": total.detach()})

    def advice(self, logs: dict[str, float]) -> str | None:
        if self.care is None or "usage" not in logs:
            return None
        directions = any(f.name == "l2_norm" for f in fields(self.model.config))
        return self.care.advice(logs, self.model.codebook, directions)
