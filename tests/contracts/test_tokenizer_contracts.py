"""What every registered tokenizer promises, at its tiny size with random weights."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

import close
from builders import build, random_codes, tokenizers
from smalti import modules
from smalti.modules import load_module, save_module
from smalti.nn import conv
from smalti.tokenizers.dalle_dvae import DalleDVAE
from smalti.tokenizers.ibq import IBQTokenizer
from smalti.tokenizers.magvit2 import MAGVIT2
from smalti.tokenizers.maskgit_vqgan import MaskGITVQGAN
from smalti.tokenizers.renderer import FlowTokenizer

B = 2
CASES = tokenizers()
DISCRETE = [
    name for name, (_, config) in CASES.items() if config.spec.discrete and not config.spec.tables
]
"""Of one quantizer; those of a table for each grid have tests of their own."""
discrete = pytest.mark.parametrize("tokenizer", DISCRETE, indirect=True, scope="module")
CLAMPED = (MaskGITVQGAN,)
PRODUCTS = (IBQTokenizer,)
"""What takes the code with the largest product, not the nearest, and lets pictures train codes."""
LOGITS = (DalleDVAE,)
"""What takes the code with the largest logit, and lets pictures train those that are taken."""


def shown(tokenizer, images):
    """What `decode` makes of images that were rendered for training."""
    return images.clamp(-1, 1) if isinstance(tokenizer, CLAMPED) else images


def close_pixels(tokenizer, found, wanted, images):
    """Both are what the tokenizer makes of these images, but for rounding before it clamps them."""
    close.values(found, wanted, tokenizer, size=tokenizer(images).images.abs().max().item())


@pytest.fixture(params=CASES, scope="module")
def tokenizer(request):
    return build(*CASES[request.param])


@pytest.fixture
def images(tokenizer):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(B, 3, *tokenizer.config.size, generator=generator) * 2 - 1


@torch.no_grad()
def test_shapes_and_ranges(tokenizer, images):
    spec = tokenizer.spec
    codes = tokenizer.encode(images)
    assert codes.shape == spec.shape(B)
    assert codes.dtype == spec.empty(1).dtype
    if spec.discrete:
        assert 0 <= codes.min() and codes.max() < spec.vocab
        assert len(codes.unique()) > 1, "random images do not all have the same code"
    else:
        assert codes.isfinite().all() and codes.std(1).amin() > 1e-3, "every channel varies"
    assert tokenizer.size_of(spec) == tuple(tokenizer.config.size) == tokenizer.size
    pixels = tokenizer.decode(codes)
    assert pixels.shape == images.shape and pixels.dtype == torch.float32
    assert pixels.isfinite().all()
    if not tokenizer.map:  # what reconstructions are compared with
        assert torch.equal(tokenizer.seen(images), images)


@torch.no_grad()
def test_encode_is_deterministic_and_of_each_image_alone(tokenizer, images):
    codes = tokenizer.encode(images)
    assert torch.equal(codes, tokenizer.encode(images))
    alone = torch.cat([tokenizer.encode(one[None]) for one in images])
    if tokenizer.spec.discrete:
        assert torch.equal(codes, alone)
    else:
        close.values(codes, alone, tokenizer)
    pixels = torch.cat([tokenizer.decode(one[None]) for one in codes])
    close_pixels(tokenizer, tokenizer.decode(codes), pixels, images)


def nearest(tokenizer, latent, codes, width):
    """Check that codes (B, n) are the nearest ones to a latent (B, C, h, w), row by row: rows of
    the codebook, or those with the largest product; levels of each channel; their vectors in its
    place."""
    if isinstance(tokenizer, LOGITS):
        assert torch.equal(latent.flatten(2).argmax(1), codes)
        rows = tokenizer.quantize.embedding.weight[codes]  # (B, n, C)
        return rows.mT.unflatten(2, latent.shape[2:]).contiguous()
    if tokenizer.codebook is None:
        return levels(tokenizer, latent, codes)
    z, book = latent.double(), tokenizer.quantize.embedding.weight.double()
    products = isinstance(tokenizer, PRODUCTS)
    if tokenizer.quantize.l2_norm and not products:
        z, book = z / z.norm(dim=1, keepdim=True), book / book.norm(dim=1, keepdim=True)
    chosen = torch.empty_like(z)
    for b in range(B):
        for i, code in enumerate(codes[b].tolist()):
            row, column = divmod(i, width)
            cell = z[b, :, row, column]
            distances = -(book @ cell) if products else (book - cell).square().sum(1)
            assert distances[code] <= distances.min() + 1e-5
            chosen[b, :, row, column] = book[code]
    return chosen.float()


def levels(tokenizer, latent, codes):
    """Check that the digits of codes (B, n) are the nearest whole numbers to what a latent
    (B, K, h, w) is squashed to; their values in its place."""
    quantizer = tokenizer.quantize
    digits = quantizer.split(codes)  # (B, n, K)
    squashed = quantizer.bounded(latent.flatten(2).mT)
    lowest = torch.tensor(quantizer.levels) // 2
    assert (squashed - (digits - lowest)).abs().max() <= 0.5 + 1e-5
    assert digits.amin() >= 0 and (digits < torch.tensor(quantizer.levels)).all()
    return quantizer.values(digits).mT.unflatten(2, latent.shape[2:]).contiguous()


def signs(latent, codes, width):
    """Check that the bits (B, n, K c c) of each position are the signs of its c x c cells of a
    latent (B, K, c h, c w), row by row, and in a position channel by channel."""
    cells = round((codes.shape[2] / latent.shape[1]) ** 0.5)
    for i in range(codes.shape[1]):
        row, column = (cells * place for place in divmod(i, width))
        patch = latent[:, :, row : row + cells, column : column + cells]
        assert torch.equal(codes[:, i], (patch > 0).long().flatten(1))


@discrete
@torch.no_grad()
def test_codes_are_the_nearest_rows_or_the_signs_in_raster_order(tokenizer, images):
    codes = tokenizer.encode(images)
    if tokenizer.spec.depth and tokenizer.quantize.parts > 1:
        latent = each_table_codes_its_part(tokenizer, images, codes)
    elif tokenizer.spec.depth:
        latent = each_depth_codes_what_is_left(tokenizer, images, codes)
    elif len(tokenizer.spec.grids) > 1:
        latent = each_scale_codes_what_is_left(tokenizer, images, codes)
    elif tokenizer.spec.channels or isinstance(tokenizer, MAGVIT2):
        bits = codes if tokenizer.spec.channels else tokenizer.quantize.split(codes)
        signs(tokenizer.latent(images), bits, tokenizer.spec.grids[0][1])
        latent = tokenizer.quantize.decode(codes.unflatten(1, tokenizer.spec.grids[0]))
    else:
        latent = nearest(tokenizer, tokenizer.latent(images), codes, tokenizer.spec.grids[0][1])
    pixels = shown(tokenizer, tokenizer.render(latent))
    close_pixels(tokenizer, tokenizer.decode(codes), pixels, images)


def each_scale_codes_what_is_left(tokenizer, images, codes):
    """The same at every scale, of the latent less what the coarser scales' codes decode to."""
    quantizer, grids = tokenizer.quantize, tokenizer.spec.grids
    z, begin = tokenizer.latent(images), 0
    cells = z.shape[2] // grids[-1][0]
    for k, (height, width) in enumerate(grids):
        left = z - quantizer.decode(codes, k)
        left = F.interpolate(left, (cells * height, cells * width), mode="area")
        part = codes[:, begin : begin + height * width]
        if tokenizer.spec.channels:
            signs(left, part, width)
        else:
            nearest(tokenizer, left, part, width)
        begin += height * width
    return quantizer.decode(codes)


def each_depth_codes_what_is_left(tokenizer, images, codes):
    """The same at every depth, of what those before it left over, position by position."""
    quantizer, (grid, *_) = tokenizer.quantize, tokenizer.spec.grids
    left = tokenizer.latent(images).flatten(2).mT.double()  # (B, n, C)
    vectors = quantizer.embed(codes).double()  # (B, n, D, C)
    for d in range(tokenizer.spec.depth):
        book = quantizer.book(d).double()
        distances = (left[:, :, None] - book).square().sum(-1)  # (B, n, V)
        chosen = distances.gather(2, codes[..., d : d + 1])[..., 0]
        assert (chosen <= distances.amin(2) + 1e-5).all()
        assert torch.equal(vectors[:, :, d], book[codes[..., d]])
        left = left - vectors[:, :, d]
    return vectors.sum(2).float().mT.unflatten(2, grid).contiguous()


def each_table_codes_its_part(tokenizer, images, codes):
    """The same of each part of a latent, by the table that is for it."""
    quantizer, (grid, *_) = tokenizer.quantize, tokenizer.spec.grids
    z = tokenizer.latent(images).flatten(2).mT.double()  # (B, n, K c)
    parts = F.normalize(z.unflatten(2, (quantizer.parts, -1)), dim=-1)
    chosen = torch.empty_like(parts)
    for k in range(tokenizer.spec.depth):
        book = quantizer.book(k).double()
        cosines = parts[:, :, k] @ book.T  # (B, n, V)
        found = cosines.gather(2, codes[..., k : k + 1])[..., 0]
        assert (found >= cosines.amax(2) - 1e-5).all()
        chosen[:, :, k] = book[codes[..., k]]
    return chosen.flatten(2).float().mT.unflatten(2, grid).contiguous()


DEEP = [name for name, (_, config) in CASES.items() if config.spec.depth > 1]
DEEP = [name for name in DEEP if build(*CASES[name]).levels > 1]


@pytest.mark.parametrize("tokenizer", DEEP, indirect=True)
@torch.no_grad()
def test_the_first_depths_alone_are_a_picture(tokenizer, images):
    codes, most = tokenizer.encode(images), tokenizer.spec.depth
    assert tokenizer.levels == most
    pictures = [tokenizer.preview(codes, d) for d in range(1, most + 1)]
    assert torch.equal(pictures[-1], tokenizer.decode(codes))
    for d, pixels in enumerate(pictures, 1):
        other = codes.clone()
        other[..., d:] = (other[..., d:] + 1) % tokenizer.spec.vocab
        assert torch.equal(tokenizer.preview(other, d), pixels), "finer codes do not matter"
    for coarse, fine in zip(pictures, pictures[1:], strict=False):
        assert (coarse - fine).abs().max() > 1e-3, "each depth does"


@torch.no_grad()
def test_a_depth_that_there_is_not_is_refused(tokenizer, images):
    codes, most = tokenizer.encode(images), tokenizer.levels
    for wrong in (-1, most + 1):
        with pytest.raises(ValueError, match=f"must be from [01] to {most}, got {wrong}"):
            tokenizer.preview(codes, wrong)


SCALED = [name for name, (module, _) in CASES.items() if module.pyramid]


@pytest.mark.parametrize("tokenizer", SCALED, indirect=True)
@torch.no_grad()
def test_the_first_scales_alone_are_a_picture(tokenizer, images):
    codes, sizes = tokenizer.encode(images), [h * w for h, w in tokenizer.spec.grids]
    for k in range(1, len(sizes) + 1):
        pixels = tokenizer.decode(codes, scales=k)
        assert pixels.shape == images.shape and pixels.isfinite().all()
        other = codes.clone()
        other[:, sum(sizes[:k]) :] = 0
        assert torch.equal(tokenizer.decode(other, scales=k), pixels), "finer scales do not matter"
        assert (tokenizer.decode(codes, scales=k - 1) - pixels).abs().max() > 1e-3, "scale k does"
    assert torch.equal(tokenizer.decode(codes, scales=len(sizes)), tokenizer.decode(codes))
    vectors = tokenizer.quantize.embed(codes)
    assert torch.equal(tokenizer.decode(vectors), tokenizer.decode(codes))
    for wrong in (-1, len(sizes) + 1):
        with pytest.raises(ValueError, match=f"from 0 to {len(sizes)}, got {wrong}"):
            tokenizer.decode(codes, scales=wrong)


@torch.no_grad()
def test_every_code_matters(tokenizer):
    codes = random_codes(tokenizer.spec, 1)
    before = tokenizer.decode(codes)
    for i in range(tokenizer.spec.positions):
        for change in changes(codes[:, i], tokenizer.spec, i):
            changed = codes.clone()
            changed[:, i] = change
            assert (tokenizer.decode(changed) - before).abs().max() > 1e-3


def changes(code, spec, place):
    """What else may stand in the place of a code (1, *trailing): another one; each channel else."""
    if spec.tables:
        first = spec.firsts[place]
        table = dict(zip(spec.firsts.unique().tolist(), spec.tables, strict=True))[int(first)]
        return [(code - first + 1) % table + first]
    if spec.discrete:
        return [(code + 1) % spec.vocab]
    return list(code + torch.eye(spec.channels)[:, None])


@discrete
@torch.no_grad()
def test_training_forward_renders_what_encode_and_decode_do(tokenizer, images):
    out = tokenizer(images)
    codes = tokenizer.encode(images)
    assert torch.equal(out.quantized.codes.view_as(codes), codes)
    pixels = shown(tokenizer, out.images)
    close_pixels(tokenizer, pixels, tokenizer.decode(codes), images)
    book = tokenizer.quantize.decode(out.quantized.codes)
    torch.testing.assert_close(out.quantized.latent, book, rtol=0, atol=2e-6)


LEARNS = [name for name, (kind, _) in CASES.items() if not issubclass(kind, FlowTokenizer)]
"""Those that learn by pictures that come back: a renderer's training has a test of its own."""


@pytest.mark.parametrize("tokenizer", LEARNS, indirect=True, scope="module")
def test_gradient_reaches_every_parameter(tokenizer, images):
    tokenizer.train().zero_grad()
    out = tokenizer(images)
    loss = (out.images - images).square().mean()
    if tokenizer.distributions:
        loss = loss + out.posterior.kl().mean()
    elif tokenizer.spec.discrete or not tokenizer.scaled:
        loss = loss + sum(
            out.losses.values() if tokenizer.spec.tables else out.quantized.losses.values()
        )
    loss.backward()
    tokenizer.eval()
    learned = [(name, p) for name, p in tokenizer.named_parameters() if p.requires_grad]
    gradients = {name: p.grad for name, p in learned}
    tokenizer.zero_grad()
    # softmax does not see a constant in the keys, nor a norm one in a group of a single channel
    norms = [m for m in tokenizer.modules() if isinstance(m, torch.nn.GroupNorm)]
    single = any(m.num_groups == m.num_channels for m in norms)
    blind = ".bias" if single else ".k.bias"
    assert [name for name, grad in gradients.items() if grad is None] == []
    seen = {name: grad.abs().max() for name, grad in gradients.items() if not name.endswith(blind)}
    assert [name for name, largest in seen.items() if largest < 1e-7] == []


@discrete
def test_reconstruction_alone_passes_the_quantizer_straight_through(tokenizer, images):
    tokenizer.zero_grad()
    pictures = images.clone().requires_grad_()
    (tokenizer(pictures).images - images).square().mean().backward()
    assert pictures.grad is not None and pictures.grad.abs().max() > 1e-9
    grads = [weight.grad for weight in tokenizer.quantize.parameters()]
    if isinstance(tokenizer, PRODUCTS):
        assert all((grad.abs().amax(1) > 0).all() for grad in grads), "every code learns"
    elif isinstance(tokenizer, LOGITS):
        (grad,) = grads
        assert torch.equal((grad != 0).any(1).nonzero()[:, 0], tokenizer.encode(images).unique())
    else:
        assert not any(grad is not None for grad in grads), "only its own loss trains it"
    tokenizer.zero_grad()


@torch.no_grad()
def test_save_and_load_give_the_same_outputs(tokenizer, images, tmp_path):
    save_module(tokenizer, tmp_path / "tokenizer")
    loaded, _ = load_module(tmp_path / "tokenizer", modules.TOKENIZERS)
    assert loaded.config == tokenizer.config and loaded.spec == tokenizer.spec
    codes = tokenizer.encode(images)
    close.weights(loaded, tokenizer)
    assert torch.equal(loaded.encode(images), codes)
    close.values(loaded.decode(codes), tokenizer.decode(codes), tokenizer)


def test_an_image_of_another_size_is_refused(tokenizer, images):
    height, width = tokenizer.config.size
    for wrong in (images[..., : width // 2], images[:, :1], images.repeat(1, 1, 2, 1)):
        with pytest.raises(ValueError, match=rf"images must be \(B, 3, {height}, {width}\), got"):
            tokenizer.encode(wrong)


def elsewhere(spec):
    """The same codes on another grid, of several the last one."""
    height, width = spec.grids[-1]
    return replace(spec, grids=(*spec.grids[:-1], (height + 1, 2 * width)))


FREE = [name for name, (module, _) in CASES.items() if module.any_grid]
BOUND = [name for name in CASES if name not in FREE]
free = pytest.mark.parametrize("tokenizer", FREE, indirect=True, scope="module")
bound = pytest.mark.parametrize("tokenizer", BOUND, indirect=True, scope="module")


@free
@torch.no_grad()
def test_another_grid_is_that_of_a_tokenizer_of_its_size(tokenizer):
    spec = elsewhere(tokenizer.spec)
    size = tokenizer.size_of(spec)
    scales = {"scales": spec.grids} if len(spec.grids) > 1 else {}
    wanted = type(tokenizer)(replace(tokenizer.config, size=size, **scales)).eval()
    wanted.load_state_dict(tokenizer.state_dict())
    assert wanted.spec == spec and size != tokenizer.size
    images = torch.rand(B, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.equal(tokenizer.encode(images, spec), wanted.encode(images))
    codes = random_codes(spec, B)
    pixels = tokenizer.decode(codes, spec)
    assert pixels.shape == images.shape and torch.equal(pixels, wanted.decode(codes))
    if tokenizer.distributions:
        assert torch.equal(tokenizer.moments(images, spec), wanted.moments(images))


@free
def test_images_and_codes_that_do_not_fit_the_grid_are_refused(tokenizer, images):
    spec = elsewhere(tokenizer.spec)
    height, width = tokenizer.size_of(spec)
    with pytest.raises(ValueError, match=rf"images must be \(B, 3, {height}, {width}\), got"):
        tokenizer.encode(images, spec)
    others = replace(spec, channels=spec.channels + 1), replace(spec, grids=spec.grids * 2)
    for wrong in others:
        with pytest.raises(ValueError, match=f"{type(tokenizer).__name__} gives TokenSpec.*, got"):
            tokenizer.decode(random_codes(wrong, B), wrong)


@free
def test_a_size_has_the_codes_of_its_grid(tokenizer):
    (height, width), factor = tokenizer.size, tokenizer.factor
    assert tokenizer.spec_of((height, width)) == tokenizer.spec
    if len(tokenizer.spec.grids) == 1:  # those of scales have schedules of their own
        spec = elsewhere(tokenizer.spec)
        assert tokenizer.spec_of(tokenizer.size_of(spec)) == spec
    for wrong in (0, *([height + 1] if factor > 1 else ())):
        with pytest.raises(ValueError, match=f"^size must be .*, got {wrong}x{width}$"):
            tokenizer.spec_of((wrong, width))


@bound
def test_a_tokenizer_of_fixed_grids_has_one_size(tokenizer):
    height, width = tokenizer.size
    assert tokenizer.spec_of((height, width)) == tokenizer.spec
    with pytest.raises(ValueError, match=f"size must be {height}x{width}, the only one of this "):
        tokenizer.spec_of((height, 2 * width))


@bound
@torch.no_grad()
def test_a_tokenizer_of_fixed_grids_refuses_others(tokenizer, images):
    spec = elsewhere(tokenizer.spec)
    for refused in (
        lambda: tokenizer.encode(images, spec),
        lambda: tokenizer.decode(random_codes(spec, B), spec),
    ):
        with pytest.raises(ValueError, match=f"{type(tokenizer).__name__} gives TokenSpec.*, got"):
            refused()
    codes = tokenizer.encode(images, tokenizer.spec)
    assert torch.equal(codes, tokenizer.encode(images))
    assert torch.equal(tokenizer.decode(codes, tokenizer.spec), tokenizer.decode(codes))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_pixels_that_are_no_numbers_are_refused(tokenizer, images, bad):
    wrong = images.clone()
    wrong[1, 2, -1, -1] = bad
    with pytest.raises(ValueError, match=r"pixels must be numbers.*NaN or inf in images \[1\]"):
        tokenizer.encode(wrong)


@torch.no_grad()
def test_decoders_are_their_plain_ways(tokenizer, images, monkeypatch):
    """Four kernels, and strips of maps, are what repeated pixels and whole maps are."""
    codes = tokenizer.encode(images)
    found = tokenizer.decode(codes)
    monkeypatch.setattr(conv, "LARGE", 1)
    monkeypatch.setattr(conv, "STRIP", 500)
    in_strips = tokenizer.decode(codes)
    monkeypatch.setattr(conv, "LARGE", 1 << 62)
    monkeypatch.setattr(
        conv.Upsample, "forward", lambda layer, x: layer.conv(F.interpolate(x, scale_factor=2.0))
    )
    plain = tokenizer.decode(codes)
    close_pixels(tokenizer, found, plain, images)
    close_pixels(tokenizer, in_strips, plain, images)
