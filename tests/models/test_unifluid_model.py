"""UniFluid: rows, orders, both losses, and pictures that are drawn vector by vector."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from builders import build
from plain_head import plain_sample
from plain_language import plain_layers
from smalti.codes import Cond, Known
from smalti.engine import mixed
from smalti.engine.step import Request
from smalti.heads.diffusion import TRAINING, DiffusionConfig
from smalti.models.language import tiny as tiny_language
from smalti.models.unifluid import ORDER, UniFluid, tiny
from smalti.pipeline.sampling import Sampling
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.sampling.orders import order, shuffled
from smalti.sampling.solvers import Solver
from smalti.text.sequence import IGNORED, SEEN, VECTOR, Part, Rows, packed, rows_of

CAUSAL = torch.ones(1, 99, 99, dtype=torch.bool).tril()


@pytest.fixture
def model() -> UniFluid:
    return build(UniFluid, tiny())


def text(*ids: int, learned: bool = True) -> Part:
    return Part(torch.tensor(ids), learned=learned)


def picture(model: UniFluid, seed: int = 0, learned: bool = True) -> Part:
    torch.manual_seed(seed)
    return Part(torch.randn(model.spec.positions, model.spec.channels), model.spec, learned)


def given(model: UniFluid, seed: int = 7) -> Part:
    torch.manual_seed(seed)
    spec = model.config.sight.spec
    return Part(torch.randn(spec.positions, spec.channels), spec, False, seen=True)


def test_a_row_holds_what_is_seen_and_what_is_drawn(model):
    rows = rows_of([[given(model), text(1, 3), picture(model), text(2)]], model.wrapping)
    assert rows.ids[0].tolist() == [20, *[SEEN] * 4, 21, 1, 3, 20, *[VECTOR] * 6, 21, 2]
    assert rows.targets[0, 6:].tolist() == [1, 3, 20, *[IGNORED] * 6, 21, 2]
    assert rows.positions[0].tolist() == list(range(17))
    assert torch.equal(rows.mask(), CAUSAL[:, :17, :17])


def inputs(model: UniFluid, rows: Rows) -> Tensor:
    """What stands at each position of one row, (1, L, D), written out."""
    found = list[Tensor]()
    cells = rows.cells[0, :, 0] * model.config.grid[1] + rows.cells[0, :, 1]
    ids = rows.ids[0].tolist()
    for i, word in enumerate(ids):
        if word == SEEN:
            assert rows.features is not None
            x = model.aligner(rows.features[0, i])
        elif word == VECTOR:
            assert rows.vectors is not None
            x = model.vector_proj(rows.vectors[0, i]) + model.cell_pos.weight[cells[i]]
        else:
            x = model.language.tok_embeddings.weight[word]
        if ids[i + 1 : i + 2] == [VECTOR]:
            x = x + model.next_pos.weight[cells[i + 1]]
        found.append(x)
    return torch.stack(found)[None]


@torch.no_grad()
def test_losses_are_those_of_a_slow_reading(model):
    """A row of two pictures, each in an order of its own, with what is seen of a third."""
    document = [given(model), text(1, 3), picture(model), text(2), picture(model, 1)]
    rows, noise = rows_of([document], model.wrapping), Noise.request(5, 1)
    terms, moved = model.terms(rows, noise), model.reordered(rows, noise)
    length = rows.ids.shape[1]
    h = plain_layers(model.language, inputs(model, moved), CAUSAL[:, :length, :length])[0]
    nats = -model.logits(h).log_softmax(-1)
    where = terms["text"].where[0]
    assert where.nonzero().flatten().tolist() == [6, 7, 8, 15, 16, 17, 24]
    for i in where.nonzero().flatten().tolist():
        torch.testing.assert_close(terms["text"].values[0, i], nats[i - 1, rows.ids[0, i]])
    learned = terms["diffusion"].where[0]
    assert learned.nonzero().flatten().tolist() == [*range(9, 15), *range(18, 24)]
    repeat, channels = model.head.config.repeat, model.spec.channels
    for i in learned.nonzero().flatten().tolist():
        slot = torch.tensor([i - 1])
        t = (noise.uniform(slot, repeat, TRAINING)[0, 0].double() * 1000).long()
        eps = noise.normal(slot, repeat * channels, TRAINING).view(repeat, channels)
        parts = model.head.errors(h[i - 1], moved.vectors[0, i], t, eps)
        mean = sum(part.mean() for part in parts.values())
        torch.testing.assert_close(terms["diffusion"].values[0, i], mean, rtol=1e-4, atol=1e-5)


def test_each_picture_is_learned_in_an_order_of_its_own(model):
    pictures = [picture(model), picture(model, 1)]
    document = [pictures[0], text(3), given(model), pictures[1]]
    rows = packed([[document, [text(1), pictures[0]]]] * 200, model.wrapping)
    moved = model.reordered(rows, Noise.request(1, 200))
    assert torch.equal(moved.ids, rows.ids) and torch.equal(moved.features, rows.features)
    seen = rows.seen
    assert torch.equal(moved.cells[seen], rows.cells[seen]), "what is only seen stays as it is"
    cells = (moved.cells[..., 0] * 3 + moved.cells[..., 1])[rows.drawn].view(200, 3, 6)
    vectors = moved.vectors[rows.drawn].view(200, 3, 6, 4)
    for i, part in enumerate([*pictures, pictures[0]]):
        assert torch.equal(vectors[:, i], part.content[cells[:, i]]), "each with its cell"
    assert torch.equal(cells.sort(-1).values, torch.arange(6).expand(200, 3, 6))
    assert len({tuple(each) for each in cells[:, 0].tolist()}) > 120, "of 720 orders"
    assert (cells[:, 0] != cells[:, 1]).any(1).float().mean() > 0.9
    first = cells[..., 0].flatten().bincount(minlength=6) / 600
    assert 0.1 < first.min() and first.max() < 0.24, "any is first as often as any other"


def test_in_raster_order_nothing_moves():
    model = build(UniFluid, tiny(order="raster"))
    rows = rows_of([[text(1), picture(model)]], model.wrapping)
    assert model.reordered(rows, Noise.request(1, 1)) is rows and not model.any_order


def test_an_order_is_no_number_that_draws(model):
    """Orders of training, and times and noises of the head, have addresses of their own."""
    noise, slots = Noise.request(0, 1), torch.arange(40)
    assert len({ORDER, TRAINING, 0}) == 3
    assert not torch.equal(noise.uniform(slots, step=ORDER), noise.uniform(slots, step=TRAINING))


def wish(model: UniFluid, documents: list[list[Part]], **how: object) -> mixed.MixedRequest:
    """A picture behind each document."""
    count = len(documents)
    request = Request(
        Cond(labels=torch.arange(count)), Noise.request(3, count), solver=Solver(steps="4")
    )
    words = torch.zeros(model.vocab, dtype=torch.bool)
    return mixed.MixedRequest(documents, replace(request, **how), words, first="picture")


def drawn(model: UniFluid, request: mixed.MixedRequest) -> Tensor:
    """The pictures (B, N, C)."""
    events = [e for e in mixed.stream(model, request) if isinstance(e, mixed.Finished)]
    found = {e.row: e.part.content for e in events}
    return torch.stack([found[i] for i in range(len(request.documents))])


@torch.no_grad()
def slow(model: UniFluid, document: list[Part], cells: list[int], scale: float) -> Tensor:
    """A picture (N, C) behind a document whose vectors are drawn in an order of cells: all is read
    anew for each of them, and the head is written out."""
    noise, width = Noise.request(3, 1), model.config.grid[1]
    content = torch.zeros(len(cells), model.spec.channels)
    for i in range(len(cells)):
        states = list[Tensor]()
        whole = [*document, Part(content, model.spec)]
        for branch in (whole, model.nothing(whole)):
            rows = rows_of([branch], model.wrapping)
            begin = rows.ids.shape[1] - 1 - len(cells)
            for j, cell in enumerate(cells):
                rows.cells[0, begin + j] = torch.tensor([cell // width, cell % width])
                rows.vectors[0, begin + j] = content[cell]
            x = inputs(model, rows)[:, : begin + i]
            mask = CAUSAL[:, : begin + i, : begin + i]
            states.append(plain_layers(model.language, x, mask)[0, -1])
        numbers = noise.normal(torch.tensor([i]), 5 * model.spec.channels)
        numbers = numbers.view(5, 1, model.spec.channels)
        content[cells[i]] = plain_sample(model.head, torch.stack(states), scale, numbers, "4", 1.0)[
            0
        ]
    return content


@pytest.mark.parametrize("cells", [[0, 1, 2, 3, 4, 5], [4, 0, 5, 2, 3, 1]])
def test_a_picture_is_that_of_the_slow_way(model, cells):
    document = [given(model), text(1, 3)]
    orders = torch.tensor([cells])
    asked = wish(model, [document], guidance=Guidance(2.0), orders=orders)
    ours = drawn(model, asked)[0]
    torch.testing.assert_close(ours, slow(model, document, cells, 2.0), rtol=1e-3, atol=1e-3)
    if cells == sorted(cells):
        plain = drawn(model, wish(model, [document], guidance=Guidance(2.0)))[0]
        assert torch.equal(ours, plain), "row by row is its own order"


def test_rows_are_drawn_each_in_its_order_as_they_are_alone(model):
    documents = [[text(1)], [text(2, 3, 1), given(model)]]
    orders = shuffled(Noise.request(9, 2), 6)
    both = drawn(model, wish(model, documents, orders=orders, guidance=Guidance(2.0)))
    for i in range(2):
        alone = wish(model, documents[i : i + 1], orders=orders[i], guidance=Guidance(2.0))
        alone = replace(alone, how=replace(alone.how, noise=Noise.request(3, 1, i)))
        torch.testing.assert_close(drawn(model, alone)[0], both[i], rtol=1e-4, atol=1e-4)
    row_by_row = drawn(model, wish(model, documents, guidance=Guidance(2.0)))
    assert not torch.allclose(row_by_row, both, atol=1e-2)


def test_what_is_known_is_seen_first(model):
    """The last two vectors are given: then the first one depends on them, which it does not in
    raster order."""
    mask, noise = torch.tensor([[False] * 4 + [True] * 2]), Noise.request(3, 1)
    some = [Known(picture(model, seed).content[None], mask) for seed in (1, 2)]
    orders = Sampling().orders(model, noise, some[0])
    assert orders is not None and orders.tolist() == [[4, 5, 0, 1, 2, 3]]
    behind = [drawn(model, wish(model, [[text(1)]], known=known))[0] for known in some]
    assert torch.equal(behind[0][:4], behind[1][:4])
    first = [drawn(model, wish(model, [[text(1)]], known=k, orders=orders))[0] for k in some]
    assert not torch.allclose(first[0][:4], first[1][:4], atol=1e-3)
    assert torch.equal(first[0][4:], some[0].codes[0, 4:])
    raster = build(UniFluid, tiny(order="raster"))
    assert Sampling().orders(raster, noise, some[0]) is None


def test_settings_of_orders_are_for_models_that_learned_them(model):
    noise = Noise.request(3, 2)
    for name in ("random", "spiral-in"):
        sampling = Sampling.of(order=name)
        sampling.check(model)
        found = sampling.orders(model, noise)
        assert found is not None and found.sort(-1).values[..., -1].max() == 5
    assert torch.equal(Sampling.of(order="spiral-in").orders(model, noise), order(
        "spiral-in", (2, 3)))  # fmt: skip
    with pytest.raises(ValueError, match="order random is for models that know orders"):
        Sampling.of(order="random").check(build(UniFluid, tiny(order="raster")))


def test_later_vectors_change_nothing_before(model):
    rows = rows_of([[text(1, 3), picture(model), text(2)]], model.wrapping)
    length = rows.ids.shape[1]
    before = model.read(rows, 0, length, None)
    other = rows._replace(vectors=rows.vectors.clone(), cells=rows.cells.clone())
    other.vectors[0, 6] += 1
    after = model.read(other, 0, length, None)
    torch.testing.assert_close(after[0, :6], before[0, :6])
    assert ((after - before)[0, 6:].abs().amax(-1) > 1e-3).all(), "all that come later see it"
    other.cells[0, 6] = torch.tensor([0, 0])  # 5 is told which comes next
    assert ((model.read(other, 0, length, None) - before)[0, 5].abs() > 1e-3).any()


def test_each_loss_has_its_gradient(model):
    model.train().requires_grad_(True)
    document = [given(model), text(1, 3), picture(model), text(2, 1)]
    rows = rows_of([document] * 2, model.wrapping)
    reached = dict[str, set[str]]()
    for name, term in model.terms(rows, Noise.request(0, 2)).items():
        model.zero_grad()
        (term.values * term.where).sum().backward(retain_graph=True)
        some = [n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()]
        reached[name] = {n.split(".")[0] for n in some}
        assert ("language.output.weight" in some) == (name == "text")
    shared = {"language", "aligner", "vector_proj", "cell_pos", "next_pos"}
    assert reached == {"text": shared, "diffusion": shared | {"head"}}


@pytest.mark.slow
def test_it_learns_to_draw_in_any_order_and_to_say_what_it_sees():
    """Four texts, the picture of each, and what an eye sees of it."""
    torch.manual_seed(0)
    model = UniFluid(tiny(head=DiffusionConfig("flow", 1, 32))).train()
    pictures = torch.randn(4, *model.spec.shape(1)[1:]).sign()
    words = [[1, 3], [3, 1], [2, 3], [0, 2]]
    drawing = [[text(*ids), Part(p, model.spec)] for ids, p in zip(words, pictures, strict=True)]
    reading = [[given(model, i), text(*ids)] for i, ids in enumerate(words)]
    rows = rows_of([*drawing * 3, *reading], model.wrapping)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(120):
        terms = model.terms(rows, Noise.request(step, 16)).values()
        loss = sum((t.values * t.where).sum() / t.where.sum() for t in terms)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval().requires_grad_(False)
    documents, solver = [document[:1] for document in drawing], Solver(steps="10")
    for orders in (None, shuffled(Noise.request(9, 4), 6)):
        found = drawn(model, wish(model, documents, solver=solver, orders=orders))
        assert (found.sign() == pictures).float().mean() > 0.95
    said = model.logits(model.read(rows, 0, rows.ids.shape[1], None))[12:].argmax(-1)
    assert said[:, 5:7].tolist() == words


def test_rows_without_pictures_and_without_text_have_losses(model):
    """And every weight a gradient: processes whose batches differ would wait for each other."""
    model.train().requires_grad_(True)
    for document, names in (([text(1, 3, 2)], {"text"}), ([picture(model)], {"diffusion"})):
        rows = rows_of([document], model.wrapping)
        rows = rows._replace(learned=rows.learned & (rows.drawn | (document[0].spec is None)))
        terms = model.terms(rows, Noise.request(0, 1))
        assert {n for n, t in terms.items() if t.where.any()} == names
        sum(t.values.sum() for t in terms.values()).backward()
        assert all(p.grad is not None for p in model.parameters())
        model.zero_grad()


def test_a_flow_draws_too():
    model = build(UniFluid, tiny(head=DiffusionConfig("flow", 1, 16)))
    found = drawn(model, wish(model, [[text(1)]], solver=Solver("midpoint", "2")))
    assert found.shape == (1, 6, 4) and found.isfinite().all()
    model.check_solver(Solver("euler", "5"))
    with pytest.raises(ValueError, match="solved by euler, midpoint, got 'ddim'"):
        model.check_solver(Solver("ddim"))


def test_new_weights_of_pictures_are_as_large_as_those_of_ids():
    for scale in (1.0, 8.0):
        language = tiny_language(dim=256, heads=4, embedding_scale=scale)
        model = UniFluid(tiny(language=language, channels=16, grid=(16, 16), seen_dim=64))
        model.init_weights()
        rows = rows_of(
            [[given(model), Part(torch.randn(256, 16), model.spec)]], model.wrapping
        )  # fmt: skip
        x = model.embed(rows, 0, rows.ids.shape[1])[0]
        want = 0.02 * scale
        alone = x[:1].std().item()
        assert alone == pytest.approx(want, rel=0.3)
        assert x[rows.drawn[0]][:-1].std().item() == pytest.approx(3**0.5 * want, rel=0.15)
        assert 0.3 * want < x[rows.seen[0]].std().item() < 1.2 * want


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"end": 64}, "below the 64 ids of the vocabulary, got 20 and 64"),
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"seen_layers": 0}, "seen_layers must be at least 1, got 0"),
        ({"grid": (0, 3)}, "grid must be"),
        ({"order": "spiral"}, "order must be one of random, raster, got 'spiral'"),
    ],
)
def test_settings_that_cannot_be(bad, message):
    with pytest.raises(ValueError, match=message):
        tiny(**bad)
