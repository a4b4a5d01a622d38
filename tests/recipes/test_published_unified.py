"""Published recipes of text and pictures: their sizes, what they minimise, and that they fit."""

import pytest
import torch

from smalti import modules
from smalti.models.eye import TowerEyeConfig
from smalti.models.towers import TowerConfig
from smalti.models.unified import Marks
from smalti.recipes import RECIPES
from smalti.tokenizers.emu3_vq import Emu3VQConfig
from smalti.tokenizers.magvit2 import MAGVIT2Config
from smalti.tokenizers.rendered import RenderedConfig
from smalti.tokenizers.unitok import large
from smalti.tokenizers.vila_u import VILAUConfig
from smalti.tokenizers.vqgan import VQGAN, VQGANConfig

LLAMA_7B, LLAMA_3_8B, CODE_LLAMA_34B = 6_738_415_616, 8_030_261_248, 33_743_970_304
GEMMA_7B, PHI = 8_537_680_896, 1_418_270_720
DEEPSEEK_7B = 6_910_365_696


def ways(dim: int) -> int:
    """Weights of an MLP behind the eye, one behind the table of codes, the table, and a head."""
    return (1024 + 8 + 3 * dim + 5) * dim + 16384 * (8 + dim + 1)


SIZES = {
    # two tables of 65,536 rows in place of 32,000, and norms of queries and keys of each head
    "chameleon_7b": LLAMA_7B + 2 * 33_536 * 4096 + 32 * 4 * 4096,
    "chameleon_34b": CODE_LLAMA_34B + 2 * 33_536 * 8192 + 48 * 2 * (64 + 8) * 128,
    "liquid_7b": GEMMA_7B + 8192 * 3072,  # a row of the one table for each code
    # more rows of two tables and of a bias; norms of queries and keys, weights and biases
    "show_o": PHI + 7298 * (2 * 2048 + 1) + 24 * 4 * 64,
    "emu3": LLAMA_3_8B + 2 * 56_366 * 4096,
    "janus_pro_7b": DEEPSEEK_7B + ways(4096),
    # four ids more, a perceptron of 1024 numbers, and six layers 2560 wide with what is around them
    "vila_u_7b": LLAMA_7B
    + 2 * 4 * 4096
    + 1024 * 4096
    + 4096**2
    + 2 * 4096
    + 6 * (12 * 2560**2 + 13 * 2560)
    + (1024 + 4096 + 2 + 4 + 2) * 2560
    + 2561 * 16_384,
    # the same ids; attention of 64 numbers to 1024, the norm and the perceptron behind it; three
    # layers of Llama's, seven tables and one classifier
    "unitok_7b": LLAMA_7B
    + 2 * 4 * 4096
    + 64 * 3 * 1024
    + 2 * 1024
    + 1024 * 1025
    + 65 * 1024
    + 4 * 64
    + 2 * 1024
    + (2 * 1024 + 2 * 1025 * 2048 + 2049 * 1024)
    + 2 * 1024
    + 1025 * 4096
    + 4097 * 4096
    + 3 * (4 * 4096**2 + 3 * 4096 * 11_008 + 2 * 4096)
    + 4096
    + 7 * 4096 * 4096
    + 4097 * 4096,
    # two rows of two tables, and two layers before and behind
    "metamorph_8b": LLAMA_3_8B
    + 2 * 2 * 4096
    + (1152 * 4096 + 4096 + 4096**2 + 4096)
    + (4096**2 + 4096 + 4096 * 1152 + 1152),
}
"""Published counts of the language models that they are, and what is more or larger."""
TOKENIZERS = {
    "chameleon_7b": VQGANConfig(size=(512, 512), vocab=8192),
    "chameleon_34b": VQGANConfig(size=(512, 512), vocab=8192),
    "liquid_7b": VQGANConfig(size=(512, 512), vocab=8192),
    "show_o": MAGVIT2Config(),
    "emu3": Emu3VQConfig(size=(720, 720)),
    "janus_pro_7b": VQGANConfig(size=(384, 384)),
    "vila_u_7b": VILAUConfig(),
    "unitok_7b": large(),
    "metamorph_8b": RenderedConfig(),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name):
    recipe = RECIPES[name]()
    with torch.device("meta"):
        model = modules.module_of(recipe.model, modules.UNIFIED)
    count = sum(p.numel() for p in model.parameters())
    assert count == SIZES[name]
    assert f"{count / 1e9:.1f} B parameters" in (RECIPES[name].__doc__ or "")
    recipe.sampling.check(model)


@pytest.mark.parametrize("name", SIZES)
def test_pictures_and_words(name):
    recipe, codes = RECIPES[name](), TOKENIZERS[name].spec
    fitted = recipe.model.fitted(codes, recipe.vocab, Marks(0, (1,), 2))
    assert fitted.spec == recipe.model.spec == codes
    published = recipe.model.language.vocab
    assert 0 <= published - fitted.language.vocab + 2 < 200  # there some ids are of no use
    around = sum(len(part(codes)) for part in (fitted.wrapping.begin, fitted.wrapping.end))
    length = around + len(fitted.wrapping.plan(codes))
    assert length + 100 < recipe.row <= recipe.model.length  # a picture and its text


@pytest.mark.parametrize(
    ("name", "optim", "rows", "weights"),
    [
        ("chameleon_7b", (1e-4, (0.9, 0.95), 1e-5, 0.1, 1.0, 4000), (4096, 2048), (1.0, 1.0)),
        ("chameleon_34b", (1e-4, (0.9, 0.95), 1e-5, 0.1, 1.0, 4000), (4096, 3072), (1.0, 1.0)),
        ("liquid_7b", (2e-5, (0.9, 0.999), 1e-8, 0.0, 1.0, 1758), (2048, 1024), (1.0, 1.0)),
        ("show_o", (1e-4, (0.9, 0.999), 1e-8, 0.01, 1.0, 5000), (388, 1152), (1.0, 1.0)),
        ("vila_u_7b", (5e-5, (0.9, 0.999), 1e-8, 0.0, 1.0, 3000), (8192, 512), (1.0, 1.0)),
        ("unitok_7b", (5e-5, (0.9, 0.999), 1e-8, 0.0, 1.0, 1200), (2048, 1024), (1.0, 1.0)),
        ("emu3", (5e-5, (0.9, 0.95), 1e-8, 0.1, 1.0, 2000), (9216, 512), (1.0, 0.5)),
        ("janus_1b", (1e-4, (0.9, 0.95), 1e-8, 0.0, 1.0, 5000), (4096, 512), (1.0, 1.0)),
        ("janus_pro_7b", (1e-4, (0.9, 0.95), 1e-8, 0.0, 1.0, 5000), (4096, 512), (1.0, 1.0)),
    ],
)
def test_numbers_of_training(name, optim, rows, weights):
    recipe = RECIPES[name]()
    o, train, goal = recipe.train.optim, recipe.train, recipe.objective
    assert (o.lr, o.betas, o.eps, o.weight_decay, o.clip, o.warmup) == optim
    assert (recipe.row, train.batch) == rows and goal.cond_dropout == 0.1
    assert (goal.text, goal.pictures) == weights and train.recompute
    assert goal.alone == (0.1 if name == "show_o" else None)


def test_the_published_show_o_is_told_what_to_draw_and_the_small_one_decides_it():
    published, small = RECIPES["show_o"](), RECIPES["shapes_show_o"]()
    assert published.objective.over == small.objective.over == "kinds"
    assert not published.model.wrapping.learns_begin and small.model.wrapping.learns_begin


def test_chameleons_have_what_keeps_them_stable():
    small, large = RECIPES["chameleon_7b"]().model, RECIPES["chameleon_34b"]().model
    assert small.z_loss == large.z_loss == 1e-5
    assert (small.language.dropout, large.language.dropout) == (0.1, 0.0)
    assert (small.language.order, large.language.order) == ("pre", "swin")


def test_a_janus_and_its_eye_have_the_published_sizes():
    """Janus-Pro-1B has 2.09 B parameters, of which its language model has 1.65 B."""
    recipe = RECIPES["janus_pro_1b"]()
    tower = TowerConfig(24, 16, 1024, 4096, "none")
    eye = TowerEyeConfig(size=384, patch=16, vision=tower)
    with torch.device("meta"):
        model = modules.module_of(recipe.model, modules.UNIFIED)
        parts = (model, modules.module_of(eye, modules.EYES), VQGAN(VQGANConfig(size=(384, 384))))
    counts = [sum(p.numel() for p in part.parameters()) for part in parts]
    assert counts[0] == 1_652_656_128 + ways(2048) and f"{counts[0] / 1e9:.1f}" == "1.7"
    pool = 1024 + 2 * 1024 * 4096 + 4096 + 1024 + 4 * (1024 + 1) * 1024 + 2 * 1024
    assert f"{(sum(counts) + pool) / 1e9:.2f}" == "2.09"
    assert recipe.model.sight == eye.sight


def test_metamorph_is_trained_as_published():
    recipe = RECIPES["metamorph_8b"]()
    o, goal = recipe.train.optim, recipe.objective
    assert (o.lr, o.schedule, o.weight_decay) == (3.74e-5, "cosine", 0.0)
    assert (recipe.row, recipe.train.batch) == (4096, 6 * 256)
    assert o.warmup == 0.03 * recipe.train.steps
    assert (goal.text, goal.pictures, goal.over, goal.cond_dropout) == (1.0, 1.0, "kinds", 0.0)
    renderer = RECIPES["metamorph_renderer"]()
    assert renderer.model.spec == recipe.model.spec
    with torch.device("meta"):
        made = modules.module_of(renderer.model, modules.TOKENIZERS)
    size = sum(p.numel() for p in made.renderer.parameters())
    assert f"{size / 1e9:.1f} billion parameters" in (RECIPES["metamorph_renderer"].__doc__ or "")
