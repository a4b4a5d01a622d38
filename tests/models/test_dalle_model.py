"""What is special about DALL-E: what layers see, paddings of their own, the text's loss."""

from dataclasses import replace

import pytest
import torch

from builders import build, random_codes, random_cond
from smalti.codes import Cond, Reads, Span
from smalti.models import imagegpt, llamagen, rq_transformer
from smalti.models.dalle import DALLE, DALLEConfig, tiny
from smalti.models.raster_stack import place_of
from smalti.nn.unfilled import unfilled
from smalti.recipes.dalle import dalle_12b
from smalti.tokenizers import dalle_dvae, rq_vae

OBLONG = replace(tiny(), grid=(4, 5), text_length=3)
MODEL = build(DALLE, OBLONG)


def seen_by_definition(kind: str, query: int, key: int) -> bool:
    """Whether a position of the sequence sees another one, by the words of the paper."""
    words, (_, width), most = OBLONG.text_length, OBLONG.grid, OBLONG.square // 2
    if key > query:
        return False
    if key < words:
        return True
    mine, theirs = query - words, key - words
    if kind == "row":
        return mine - theirs < width
    if kind == "column":
        return mine % width == theirs % width
    rows, columns = mine // width - theirs // width, mine % width - theirs % width
    return rows <= most and abs(columns) <= most


@pytest.mark.parametrize("kind", ["row", "column", "square"])
def test_what_a_layer_sees(kind):
    n = MODEL.spec.positions
    span, count = Span(torch.arange(n), n, 0), OBLONG.text_length + n - 1
    cells = torch.arange(MODEL.spec.positions)[None]
    place = place_of(span, OBLONG.text_length, None)
    found = MODEL.seen(span, place, cells)[kind][0, 0]
    for query in range(count):
        wanted = [seen_by_definition(kind, query, key) for key in range(count)]
        assert found[query].tolist() == wanted, query


def test_which_layer_sees_what():
    four = ["row", "column", "row", "row"]
    assert DALLEConfig().sights == [*(four * 16)[:63], "square"]
    assert tiny().sights == ["row", "column", "square"]


def test_the_published_model_has_12_billion_parameters():
    recipe = dalle_12b()
    with torch.device("meta"), unfilled():
        model, codes = DALLE(recipe.model), dalle_dvae.DalleDVAE(dalle_dvae.DalleDVAEConfig())
    parameters = sum(p.numel() for p in model.parameters())
    assert round(parameters / 1e9, 1) == 12.3 and model.spec == codes.spec
    assert recipe.model.fitted(codes, Reads(0, 256, 1, 16384)) == recipe.model
    assert (recipe.text.length, recipe.text.vocab) == (256, 16384)
    assert recipe.sampling.guidance.off and recipe.objective.cond_dropout == 0


def some_texts() -> Cond:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    return Cond(text=torch.tensor([[5.0, 7, 9], [5, 7, 9]])[..., None], text_mask=mask)


@torch.no_grad()
def test_each_place_without_a_token_holds_its_own_padding():
    prefix = MODEL.prepare(some_texts()).prefix - MODEL.text_positions
    torch.testing.assert_close(prefix[0, 0], MODEL.text.weight[5])
    torch.testing.assert_close(prefix[0, 1], MODEL.text.weight[7])
    torch.testing.assert_close(prefix[1, 1:], MODEL.paddings[1:])
    torch.testing.assert_close(prefix[0, 2], MODEL.paddings[2])
    nothing = replace(some_texts(), text_mask=torch.zeros(2, 3, dtype=torch.bool))
    dropped = MODEL.prepare(some_texts().null()).prefix
    assert torch.equal(dropped, MODEL.prepare(nothing).prefix)
    torch.testing.assert_close(dropped - MODEL.text_positions, MODEL.paddings.expand(2, -1, -1))


@torch.no_grad()
def test_the_text_is_learned_a_little():
    """In training an eighth of the loss is that of the one pair of tokens that there is."""
    model = build(DALLE, replace(OBLONG, text_weight=0.125))
    codes, cond = random_codes(model.spec, 2), some_texts()
    plain = model.loss(codes, cond)
    learned = model.train().loss(codes, cond)
    states = model.sequence(codes, model.prepare(cond), Span.whole(model.spec.positions))
    logits = model.text_head.logits(states[:1, :1])[0, 0]
    text = -logits.log_softmax(-1)[7]
    torch.testing.assert_close(learned, 0.875 * plain + 0.125 * text)
    dropped = model.loss(codes, cond.null())
    torch.testing.assert_close(dropped, 0.875 * model.eval().loss(codes, cond.null()))
    silent = build(DALLE, replace(OBLONG, text_weight=0.0)).train()
    assert not hasattr(silent, "text_head")
    torch.testing.assert_close(silent.loss(codes, cond), silent.eval().loss(codes, cond))


@torch.no_grad()
def test_drawn_in_another_order_the_loss_is_of_each_cell():
    codes, cond = random_codes(MODEL.spec, 2), random_cond(MODEL, 2)
    order = torch.arange(MODEL.spec.positions)
    torch.testing.assert_close(MODEL.loss(codes, cond, order), MODEL.loss(codes, cond))
    assert (MODEL.loss(codes, cond, order.flip(0)) - MODEL.loss(codes, cond)).abs().max() > 1e-3


def test_ids_and_features_are_not_mistaken():
    codes = build(dalle_dvae.DalleDVAE, dalle_dvae.tiny())
    ids, features = Reads(0, 12, 1, 270), Reads(0, 12, 16)
    found = tiny().fitted(codes, ids)
    assert (found.text_length, found.text_vocab, found.grid) == (12, 270, (8, 8))
    for reads in (features, Reads(3)):
        with pytest.raises(ValueError, match="DALL-E draws from texts as ids of tokens: take a"):
            tiny().fitted(codes, reads)
    with pytest.raises(ValueError, match="LlamaGen reads features of texts, but the text encoder"):
        llamagen.tiny().fitted(codes, ids)
    with pytest.raises(ValueError, match="ImageGPT reads features of texts"):
        imagegpt.tiny().fitted(codes, ids)
    stacks = build(rq_vae.RQVAE, rq_vae.tiny())
    assert rq_transformer.tiny().fitted(stacks, ids).text_vocab == 270
    assert rq_transformer.tiny().fitted(stacks, features).text_vocab == 0


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"square": 4}, "square must be an odd number, got 4"),
        ({"text_length": 0}, "text_length must be at least 1, got 0"),
        ({"text_weight": 1.0}, r"text_weight must be in \[0, 1\), got 1.0"),
        ({"dim": 33}, "dim must be a multiple of heads, got 33, 2"),
    ],
)
def test_bad_configs(bad, message):
    with pytest.raises(ValueError, match=message):
        replace(tiny(), **bad)


def test_a_label_is_no_text():
    with pytest.raises(ValueError, match="this model is text-conditional: give text"):
        MODEL.prepare(Cond(labels=torch.zeros(1, dtype=torch.int64)))
