import math

import pytest
import torch

from builders import random_codes
from smalti.codes import TokenSpec
from smalti.eval.codebook import histogram, histograms, parts, perplexity, unigram_bits, usage
from smalti.eval.likelihood import likelihood
from smalti.eval.reconstruction import latent_std, psnr, reconstruction
from smalti.models import llamagen
from smalti.tokenizers.kl_vae import Posterior


def test_psnr_by_hand():
    images = torch.zeros(3, 3, 2, 2, dtype=torch.uint8)
    others = images.clone()
    others[1] += 51  # a fifth of the range: mse 1 / 25
    others[2, 0, 0, 0] = 255  # one of twelve values: mse 1 / 12
    found = psnr(images, others).tolist()
    assert found[0] == math.inf
    assert found[1:] == pytest.approx([10 * math.log10(25), 10 * math.log10(12)])
    assert psnr(others, images).tolist() == found


def test_histogram_usage_and_perplexity():
    counts = histogram(torch.tensor([[0, 1, 1], [3, 0, 1]]), 8)
    assert counts.tolist() == [2, 3, 0, 1, 0, 0, 0, 0]
    assert usage(counts) == 3 / 8
    entropy = -sum(p * math.log(p) for p in (2 / 6, 3 / 6, 1 / 6))
    assert perplexity(counts) == pytest.approx(math.exp(entropy))
    assert perplexity(torch.ones(16)) == pytest.approx(16)
    assert perplexity(torch.tensor([9, 0, 0])) == pytest.approx(1)


def test_unigram_bits_count_every_code_once_more():
    train = torch.tensor([0, 0, 0, 1])  # plus one each: 4, 2, 1, 1 of 8
    bits = [unigram_bits(histogram(train, 4), torch.tensor([code])) for code in range(4)]
    assert bits == pytest.approx([1, 2, 3, 3])
    assert unigram_bits(histogram(train, 4), torch.tensor([[0, 1], [2, 3]])) == pytest.approx(9 / 4)


def batches(spec, sizes):
    codes = random_codes(spec, sum(sizes))
    labels = torch.arange(sum(sizes)) % 5
    for c, y in zip(codes.split(sizes), labels.split(sizes), strict=True):
        yield {"codes": c, "labels": y}


def test_an_untrained_model_needs_log2_vocab_bits():
    model = llamagen.LlamaGen(llamagen.tiny()).eval()
    found = likelihood(model, batches(model.spec, [3, 4]))
    assert found["bits_per_token"] == pytest.approx(5, rel=1e-6)
    assert found["nats_per_token"] == pytest.approx(math.log(32), rel=1e-6)
    assert found["bits_per_image"] == pytest.approx(80, rel=1e-6)
    assert found["images"] == 7


def test_batches_of_different_sizes_weigh_by_their_images():
    torch.manual_seed(0)
    model = llamagen.LlamaGen(llamagen.tiny()).eval()
    torch.nn.init.normal_(model.head.proj.weight)
    found = likelihood(model, batches(model.spec, [1, 6]))
    assert found["nats_per_token"] == pytest.approx(
        likelihood(model, batches(model.spec, [7]))["nats_per_token"], rel=1e-6
    )
    with pytest.raises(ValueError, match="no codes"):
        likelihood(model, [])


class Halves:
    """A tokenizer that writes down whether an image is bright and gives back grey or itself."""

    spec = llamagen.tiny().spec

    def __init__(self, back: float | None) -> None:
        self.back = back

    def seen(self, images):
        return images

    def encode(self, images):
        self.images = images
        return (images.mean((1, 2, 3)) > 0).long()[:, None].expand(-1, 16)

    def decode(self, codes):
        return self.images if self.back is None else torch.full_like(self.images, self.back)


def test_reconstruction():
    images = torch.tensor([0, 255, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 8, 8)
    parts = [{"images": images[:2]}, {"images": images[2:]}]
    found = reconstruction(Halves(None), parts)
    assert found["psnr"] == 100 and found["usage"] == 2 / 32 and found["images"] == 3
    assert found["perplexity"] == pytest.approx(math.exp(math.log(3) - 2 / 3 * math.log(2)))
    grey = reconstruction(Halves(0.0), parts)["psnr"]  # 128: 128 from black, 127 from white
    one, two = (-20 * math.log10(d / 255) for d in (128, 127))
    assert grey == pytest.approx((one + 2 * two) / 3)
    with pytest.raises(ValueError, match="no images"):
        reconstruction(Halves(None), [])


def test_usage_of_each_scale():
    tokenizer = Halves(0.0)
    tokenizer.spec = TokenSpec(((1, 1), (1, 3)), 8)
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    tokenizer.images = images.float()
    tokenizer.encode = lambda images: torch.tensor([[0, 1, 2, 3], [0, 1, 1, 1]])
    found = reconstruction(tokenizer, [{"images": images}] * 2)
    assert (found["usage"], found["usage_1x1"], found["usage_1x3"]) == (4 / 8, 1 / 8, 3 / 8)
    assert found["perplexity_1x1"] == pytest.approx(1)
    spread = math.exp(-sum(p * math.log(p) for p in (4 / 6, 1 / 6, 1 / 6)))
    assert found["perplexity_1x3"] == pytest.approx(spread)


class Normal:
    """A tokenizer whose only latent is the mean of an image, with a standard deviation of 0.5."""

    spec = TokenSpec(((1, 1),), channels=1)
    distributions = True

    def posterior(self, images):
        mean = images.mean((1, 2, 3)).view(-1, 1, 1, 1)
        return Posterior(mean, torch.full_like(mean, 2 * math.log(0.5)))

    def spread(self, images):
        posterior = self.posterior(images)
        return posterior.mean, posterior.logvar.exp()

    def seen(self, images):
        return images

    def encode(self, images):
        self.images = images
        return self.posterior(images).mean.flatten(1)[:, :, None]

    def decode(self, codes):
        return self.images


def test_reconstruction_of_continuous_codes():
    images = torch.tensor([0, 255, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 8, 8)
    found = reconstruction(Normal(), [{"images": images[:1]}, {"images": images[1:]}])
    assert found.keys() == {"psnr", "ssim", "l1", "kl", "std", "images"} and found["psnr"] == 100
    black = 0.5 * (1 + 0.25 - 1 - math.log(0.25))  # of means -1 and nearly 1
    assert found["kl"] == pytest.approx(black, rel=0.01) and found["std"] == pytest.approx(0.5)


def test_standard_deviation_of_latents():
    images = torch.tensor([0, 255, 255, 0], dtype=torch.uint8).view(4, 1, 1, 1)
    images = images.expand(4, 3, 8, 8)
    parts = [{"images": images[:1]}, {"images": images[1:]}]
    assert latent_std(Normal(), parts) == pytest.approx(math.sqrt(1 + 0.25), rel=0.01)
    assert latent_std(Normal(), [{"images": images[1:3]}]) == pytest.approx(0.5, rel=1e-6)
    with pytest.raises(ValueError, match="no images to measure"):
        latent_std(Normal(), [])
    broken = Normal()
    broken.posterior = lambda images: Posterior(*torch.full((2, len(images), 1, 1, 1), math.nan))
    with pytest.raises(ValueError, match="deviation of latents must be a positive number, got nan"):
        latent_std(broken, parts)


def test_reconstruction_of_several_depths():
    tokenizer = Halves(0.0)
    tokenizer.spec = TokenSpec(((1, 2),), 8, depth=2)
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    tokenizer.images = images.float()
    tokenizer.encode = lambda images: torch.tensor([[[0, 4], [0, 5]]])
    found = reconstruction(tokenizer, [{"images": images}])
    assert (found["usage"], found["usage_depth0"], found["usage_depth1"]) == (3 / 8, 1 / 8, 2 / 8)
    assert (found["entropy_bits"], found["entropy_bits_depth1"]) == pytest.approx((1.5, 1))
    assert (found["l1"], found["psnr"]) == pytest.approx((128 / 255, -20 * math.log10(128 / 255)))
    assert found["ssim"] == pytest.approx(1e-4 / ((128 / 255) ** 2 + 1e-4))


def test_codes_are_counted_in_all_by_scale_and_by_depth():
    spec = TokenSpec(grids=((1, 1), (2, 2)), vocab=4, depth=2)
    codes = torch.tensor([[[0, 3], [1, 1], [1, 2], [1, 2], [0, 2]]])  # (B, N, D)
    found = {name: count.tolist() for name, count in parts(histograms(codes, spec), spec).items()}
    assert found == {
        "": [2, 4, 3, 1],
        "_1x1": [1, 0, 0, 1],
        "_2x2": [1, 4, 3, 0],
        "_depth0": [2, 3, 0, 0],
        "_depth1": [0, 1, 3, 1],
    }
