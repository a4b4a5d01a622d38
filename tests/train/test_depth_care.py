"""Care of the tables of several depths, and codes that are moving averages."""

from dataclasses import replace

import pytest
import torch

from builders import build
from smalti.tokenizers import fsq
from smalti.tokenizers.quantize.residual import ResidualQuantizer
from smalti.tokenizers.quantize.vq import VectorQuantizer
from smalti.tokenizers.rq_vae import RQVAE, tiny
from smalti.train.code_averages import CodeAverages
from smalti.train.codebook_care import CodebookCare, CodebookConfig
from smalti.train.objectives import ReconstructionConfig

DEPTH, VOCAB = 3, 16


def setup(shared: bool, **config) -> tuple[ResidualQuantizer, CodebookCare]:
    quantizer = build(lambda v: ResidualQuantizer(v, 2, DEPTH, shared), VOCAB)
    made = CodebookConfig(**config)
    return quantizer, CodebookCare(quantizer, made, grids=((2, 2),), depth=DEPTH)


def latents(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 2, 2, 2, generator=torch.Generator().manual_seed(seed))


def left(quantizer, z) -> list[float]:
    """The mean square of what each depth codes, and of what the last one leaves over."""
    codes = quantizer.encode(z)
    parts = [z, *(z - quantizer.partial(codes, d) for d in range(1, DEPTH + 1))]
    return [part.square().mean().item() for part in parts]


@pytest.mark.parametrize("shared", [True, False])
def test_every_depth_starts_from_centres_of_what_is_left(shared):
    quantizer, care = setup(shared, samples=64)
    z = latents(400)
    care.collect(z)
    care.start(quantizer, 0)
    rest = left(quantizer, z[-100:])
    shrinks = [after / before for before, after in zip(rest, rest[1:], strict=False)]
    assert all(share < (0.55 if shared else 0.25) for share in shrinks), shrinks
    weight = quantizer.embedding.weight.detach()
    assert len(weight.unique(dim=0)) == len(weight) == (VOCAB if shared else DEPTH * VOCAB)


def test_meters_of_each_depth_and_of_all_tables():
    _, care = setup(False, kmeans=False)
    codes = torch.tensor([[[0, 0, 0], [0, 1, 1], [0, 0, 2], [0, 1, 3]]])  # (1, 4, D)
    for _ in range(100):
        care.observe(codes.view(1, 2, 2, DEPTH))
    meters = {name: value.item() for name, value in care.meters().items()}
    shares = [meters[f"usage_depth{d}"] for d in range(DEPTH)]
    assert shares == pytest.approx([1 / 16, 2 / 16, 4 / 16])
    assert meters["usage"] == pytest.approx(7 / 48)
    spread = [meters[f"perplexity_depth{d}"] for d in range(DEPTH)]
    assert spread == pytest.approx([1, 2, 4], rel=1e-5)
    assert meters["perplexity"] == pytest.approx(7 / 3, rel=1e-5)
    _, shared = setup(True, kmeans=False)
    for _ in range(100):
        shared.observe(codes)
    assert shared.meters()["usage"].item() == pytest.approx(4 / 16)


def test_dead_codes_of_a_table_move_onto_what_its_depth_sees():
    quantizer, care = setup(False, kmeans=False, patience=5)
    with torch.no_grad():
        quantizer.embedding.weight.copy_(torch.randn(DEPTH * VOCAB, 2) * 0.3)
        quantizer.embedding.weight[VOCAB + 3] = 50.0  # of the second depth: never the nearest
    z, before = latents(60), quantizer.embedding.weight.detach().clone()
    for _ in range(7):
        care.observe(quantizer.encode(z))
    rows = quantizer.compared(z)
    care.restart(quantizer, z, 10)
    after = quantizer.embedding.weight.detach()
    moved = (after != before).any(1).nonzero().flatten().tolist()
    assert VOCAB + 3 in moved
    for code in moved:
        assert (after[code] - rows[code // VOCAB]).abs().amax(-1).min() < 1e-6
    assert (care.moved[moved] == 0).all() and care.moved.max() == 7


def test_advice_names_the_depth():
    quantizer, care = setup(False, kmeans=False)
    logs = {"usage": 0.6, "usage_depth0": 1.0, "usage_depth1": 0.05, "usage_depth2": 0.75}
    text = care.advice(logs, quantizer) or ""
    assert text.startswith("only 1 of 16 codes are in use at depth 1 (5%)")
    assert "entropy" in text and "--model.vocab 4" in text and "idle" not in text
    shared, care = setup(True, kmeans=False)
    assert "give such depths idle codes sooner" in (care.advice(logs, shared) or "")


def test_averages_are_those_of_the_latents_of_a_code():
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    averages, sums, mass = CodeAverages(weight, 0.9), weight.clone(), torch.ones(3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        rows, codes = torch.randn(40, 2, generator=generator), torch.arange(40) % 2
        averages.update(rows, codes)
        for code in range(3):
            found = rows[codes == code]
            mass[code] = 0.9 * mass[code] + 0.1 * len(found)
            sums[code] = 0.9 * sums[code] + 0.1 * found.sum(0)
    table = weight.clone()
    averages.place(table)
    torch.testing.assert_close(table, sums / mass[:, None])
    torch.testing.assert_close(table[2], weight[2])  # an unused code stays where it is
    averages.mass[2] = 0
    averages.sums[2] = 0
    averages.place(table)
    torch.testing.assert_close(table[2], weight[2])
    averages.move(torch.tensor([2]), torch.tensor([[7.0, 8.0]]))
    averages.place(table)
    assert table[2].tolist() == [7.0, 8.0]


def test_averaged_tables_follow_the_latents_of_their_depths():
    quantizer, care = setup(False, kmeans=False, decay=0.9)
    z, before = latents(200), 0.0
    for step in range(40):
        care.settle(quantizer)
        rest = left(quantizer, z)[-1]
        before = rest if not step else before
        care.average(quantizer, z, quantizer.encode(z))
    assert rest < 0.5 * before
    codes, rows = quantizer.encode(z), quantizer.compared(z)
    for depth in range(DEPTH):
        found = codes[..., depth].flatten()
        common = found.bincount(minlength=VOCAB).argmax()
        mean = rows[depth][found == common].mean(0)
        table = quantizer.embedding.weight[depth * VOCAB + common]
        torch.testing.assert_close(table, mean, rtol=0, atol=0.1)


@pytest.mark.parametrize("shared", [True, False])
def test_training_with_averages_moves_codes_without_gradients(shared):
    model = build(RQVAE, replace(tiny(), shared=shared))
    goal = ReconstructionConfig(
        perceptual="none", gan_weight=0.0, codebook=CodebookConfig(kmeans=False, decay=0.9)
    ).objective(model, seed=0, steps=10)
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    table = model.quantize.embedding.weight
    for step in range(2):
        start = table.detach().clone()
        losses = goal({"images": images}, step)
        losses.totals["model"].backward()
        assert table.grad is None
        assert {"codebook", "commitment", "usage_depth2"} <= losses.logs.keys()
    assert not torch.equal(table, start), "the averages of the first step are now the codes"
    state = goal.state_dict()
    assert "care.averages.sums" in state and state["care.averages.sums"].shape == table.shape


def test_a_resumed_training_goes_on_with_its_averages():
    """All that averages are is in the state of the objective."""
    config = ReconstructionConfig(
        perceptual="none", gan_weight=0.0, codebook=CodebookConfig(kmeans=False, decay=0.9)
    )
    goal = config.objective(build(RQVAE, tiny()), seed=0, steps=10)
    again = config.objective(build(RQVAE, tiny(), seed=1), seed=0, steps=10)
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    goal({"images": images}, 0)
    again.load_state_dict(goal.state_dict())
    for step in (1, 2):
        losses = [g({"images": images}, step).totals["model"].item() for g in (goal, again)]
        assert losses[0] == losses[1]
    assert torch.equal(goal.model.quantize.embedding.weight, again.model.quantize.embedding.weight)


def test_averages_that_are_asked_of_no_table_are_refused():
    asked = CodebookConfig(kmeans=False, patience=0, decay=0.9)
    goal = ReconstructionConfig(perceptual="none", gan_weight=0.0, codebook=asked)
    with pytest.raises(ValueError, match="objective.codebook is care for a table of codes"):
        goal.objective(build(fsq.FSQ, fsq.tiny()), seed=0, steps=10)


def test_settings_that_do_nothing_beside_others_are_refused():
    goal = ReconstructionConfig(perceptual="none", gan_weight=0.0)
    apart = build(RQVAE, replace(tiny(), shared=False))
    shares = replace(goal, codebook=CodebookConfig(share=0.5, warmup=0))
    with pytest.raises(ValueError, match=r"share is of several scales or depths .*, got 0\.5"):
        shares.objective(apart, seed=0, steps=10)
    assert shares.objective(build(RQVAE, tiny()), seed=0, steps=10).care is not None
    averaged = replace(goal, quantizer_weight=0.5, codebook=CodebookConfig(decay=0.9, warmup=0))
    with pytest.raises(ValueError, match="codebook.decay 0.9, got 0.5"):
        averaged.objective(apart, seed=0, steps=10)


def test_one_code_at_each_position_may_be_averaged_as_well():
    quantizer = build(lambda v: VectorQuantizer(v, 2, l2_norm=False), VOCAB)
    care = CodebookCare(quantizer, CodebookConfig(kmeans=False, decay=0.9), grids=((2, 2),))
    z = latents(200)
    errors = []
    for _ in range(30):
        care.settle(quantizer)
        errors.append((z - quantizer.decode(quantizer.encode(z))).square().mean().item())
        care.average(quantizer, z, quantizer.encode(z))
    assert errors[-1] < 0.6 * errors[0]
    assert "averages.mass" not in CodebookCare(quantizer, CodebookConfig()).state_dict()
