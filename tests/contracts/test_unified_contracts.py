"""What every model of text and pictures in one sequence keeps to, by the loop that draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from smalti import modules
from smalti.codes import Cond, Known
from smalti.engine import mixed
from smalti.engine.step import Request
from smalti.models import depth_language, illume
from smalti.models.unified import Unified
from smalti.pipeline.sampling import Sampling
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.sampling.orders import shuffled
from smalti.sampling.solvers import Solver
from smalti.text.sequence import Part, packed, rows_of

WORDS = 4
"""Ids of text, from 0, that every tiny model has."""
CONFIGS = {name: entry.tiny() for name, entry in modules.UNIFIED.items()}
CONFIGS["illume, seen"] = illume.tiny(seen=(12, 4), seen_grids=((1, 2), (2, 3)))
CONFIGS["metamorph, softmax"] = replace(
    CONFIGS["metamorph"], form="unit softmax", projector="softmax", head_layers=1
)
CONFIGS["transfusion_paper, linear"] = replace(CONFIGS["transfusion_paper"], patches="linear")
CONFIGS["depth_language, joined"] = depth_language.tiny_joined()
CONFIGS["unifluid, raster"] = replace(CONFIGS["unifluid"], order="raster")


DRAWING = sorted(name for name, config in CONFIGS.items() if config.drawing)
"""Those that draw; all others read pictures and write text."""
draws = pytest.mark.parametrize("model", DRAWING, indirect=True)


@pytest.fixture(params=sorted(CONFIGS))
def model(request: pytest.FixtureRequest) -> Unified:
    """A tiny model whose weights are large enough to tell ids apart."""
    torch.manual_seed(0)
    made = modules.module_of(CONFIGS[request.param], modules.UNIFIED)
    made = made.eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def picture(model: Unified, seed: int = 0) -> Part:
    """Some codes; of a model that draws none, what an eye sees."""
    if not model.config.drawing:
        return given(model, seed)
    like = model.spec.empty(1)[0]
    torch.manual_seed(seed)
    if model.spec.discrete:
        return Part(torch.randint(0, model.spec.vocab, like.shape), model.spec)
    return Part(torch.randn(like.shape), model.spec)


def given(model: Unified, seed: int = 0) -> Part:
    """A picture that is only read: what an eye sees where the model has one, else codes."""
    if model.sight is None:
        return replace(picture(model, seed), learned=False)
    torch.manual_seed(seed)
    spec = model.sight.spec
    return Part(torch.randn(spec.empty(1)[0].shape), spec, learned=False, seen=True)


def text(*ids: int) -> Part:
    return Part(torch.tensor(ids))


def some(model: Unified) -> list[list[Part]]:
    """Documents of unequal lengths."""
    return [[text(1, 3)], [text(2, 1, 0, 3), given(model, 1), picture(model), text(3)]]


def asked(model: Unified, documents: Sequence[Sequence[Part]], **settings: Any) -> Any:
    """A request of these documents."""
    count = len(documents)
    how = Request(
        Cond(labels=torch.arange(count)), Noise.request(3, count), solver=Solver(steps="3")
    )
    drawing = {
        n: settings.pop(n) for n in ("guidance", "filters", "known", "orders") if n in settings
    }
    words = torch.arange(model.vocab) < WORDS
    return mixed.MixedRequest(documents, replace(how, **drawing), words, **settings)


def finished(model: Unified, request: Any) -> list[list[Part]]:
    """The parts that each document goes on with."""
    found = [list[Part]() for _ in request.documents]
    for event in mixed.stream(model, request):
        if isinstance(event, mixed.Finished):
            found[event.row].append(event.part)
    return found


def forgetful(model: Unified) -> Unified:
    """The model without a cache: it reads all anew at each step."""
    read = model.read

    def whole(rows: Any, begin: int, end: int, cache: Any, *times: Any) -> Tensor:
        return read(rows, 0, end, None, *times)[:, begin:end]

    model.read = whole  # type: ignore[method-assign]
    return model


def close(a: Tensor, b: Tensor, apart: float = 1e-4) -> None:
    torch.testing.assert_close(a, b, rtol=apart, atol=apart)


def test_reading_in_parts_is_reading_at_once(model: Unified):
    rows = rows_of(some(model), model.wrapping, left=True)
    length, cache = rows.ids.shape[1], model.cache(*rows.ids.shape)
    whole = model.read(rows, 0, length, None)
    for cut in (1, 3, length - 1):  # nowhere within a picture
        parts = [model.read(rows, 0, cut, cache), model.read(rows, cut, length, cache)]
        close(torch.cat(parts, 1)[rows.kept], whole[rows.kept])


@draws
def test_drawing_behind_a_cache_is_drawing_anew(model: Unified):
    """Texts and pictures, with guidance of three branches. A span that is denoised is as near as
    1e-5; of vectors that are drawn one after another, each carries on the rounding before it."""
    apart = 1e-5 if model.draws_by == "denoised" else 1e-4
    guidance = Guidance(2.0, pictures=1.5) if model.draws_by == "causal" else Guidance(2.0)
    request = asked(
        model, some(model), guidance=guidance, filters=Filters(top_k=3) if model.filtered
        else Filters(), most=5, pictures=1, first="picture",
    )  # fmt: skip
    ours = finished(model, request)
    slow = finished(forgetful(model), request)
    assert [len(parts) for parts in ours] == [len(parts) for parts in slow] != [0, 0]
    for mine, theirs in zip(sum(ours, []), sum(slow, []), strict=True):
        if mine.spec is None or mine.spec.discrete:
            assert torch.equal(mine.content, theirs.content)
        else:
            close(mine.content, theirs.content, apart)


def test_writing_behind_a_cache_and_in_a_batch_is_writing_anew_and_alone(model: Unified):
    documents = some(model)
    ours = finished(model, asked(model, documents, most=5, pictures=0))
    assert all(len(parts) == 1 and len(parts[0].content) == 5 for parts in ours)
    for i, document in enumerate(documents):
        alone = asked(model, [document], most=5, pictures=0)
        alone = replace(alone, how=replace(alone.how, noise=Noise.request(3, 1, i)))
        assert torch.equal(finished(model, alone)[0][0].content, ours[i][0].content)
    slow = finished(forgetful(model), asked(model, documents, most=5, pictures=0))
    for mine, theirs in zip(ours, slow, strict=True):
        assert torch.equal(mine[0].content, theirs[0].content)


@draws
def test_a_document_is_the_same_alone(model: Unified):
    documents = some(model)
    request = asked(model, documents, guidance=Guidance(2.0), most=4, pictures=2, first="picture")
    together = finished(model, request)
    for i, document in enumerate(documents):
        alone = asked(model, [document], guidance=Guidance(2.0), most=4, pictures=2,
                      first="picture")  # fmt: skip
        alone = replace(alone, how=replace(alone.how, noise=Noise.request(3, 1, i)))
        for mine, theirs in zip(finished(model, alone)[0], together[i], strict=True):
            close(mine.content.float(), theirs.content.float())


@draws
def test_where_guidance_is_1_no_second_branch_is_missed(model: Unified, monkeypatch):
    guidance = Guidance(2.0, "interval", start=0.3, stop=0.7)
    request = asked(model, some(model), guidance=guidance, pictures=1, first="picture")
    ours = finished(model, request)
    monkeypatch.setattr(Guidance, "alone", lambda self, *_: self.off)
    for mine, theirs in zip(sum(ours, []), sum(finished(model, request), []), strict=True):
        close(mine.content.float(), theirs.content.float())


@draws
def test_known_codes_stay_and_are_seen(model: Unified):
    documents, given = some(model), picture(model, 7).content
    mask = torch.zeros(2, model.spec.positions, dtype=torch.bool)
    mask[:, : model.spec.positions // 2] = True
    codes = torch.stack([given, given])
    plain = asked(model, documents, pictures=1, first="picture")
    held = finished(model, asked(model, documents, first="picture", known=Known(codes, mask)))
    free = finished(model, plain)
    for parts, others in zip(held, free, strict=True):
        close(parts[0].content[mask[0]].float(), given[mask[0]].float())
        assert not torch.equal(parts[0].content[~mask[0]], others[0].content[~mask[0]])


def test_models_that_know_orders_draw_in_them(model: Unified):
    """As they do without a cache; others refuse orders."""
    if not model.any_order:
        with pytest.raises(ValueError, match="order random is for models that know orders"):
            Sampling.of(order="random").check(model)
        return
    orders = shuffled(Noise.request(7, 2), model.spec.positions)
    request = asked(
        model, some(model), guidance=Guidance(2.0), orders=orders, most=3, pictures=2,
        first="picture",
    )  # fmt: skip
    ours, usual = finished(model, request), finished(model, asked(model, some(model),
                           guidance=Guidance(2.0), first="picture"))  # fmt: skip
    assert not torch.allclose(ours[0][0].content, usual[0][0].content, atol=1e-2)
    slow = finished(forgetful(model), request)
    for mine, theirs in zip(sum(ours, []), sum(slow, []), strict=True):
        close(mine.content.float(), theirs.content.float())


def test_documents_of_a_row_do_not_see_each_other(model: Unified):
    documents = [
        [text(1, 3), given(model, 2), picture(model)],
        [text(2, 1, 0), picture(model, 1), text(3, 2)],
    ]
    both = packed([documents], model.wrapping)
    found = model.read(both, 0, both.ids.shape[1], None)
    apart = [rows_of([document], model.wrapping) for document in documents]
    alone = [model.read(rows, 0, rows.ids.shape[1], None)[0] for rows in apart]
    close(found[0], torch.cat(alone))


def test_what_comes_later_changes_no_loss_before(model: Unified):
    """Of text; a picture that is seen whole changes what is around it alone."""
    noise = Noise.request(0, 1)
    losses = list[Tensor]()
    for last in (1, 2):
        rows = rows_of([[text(1, 3), picture(model), text(2, last)]], model.wrapping)
        terms = model.terms(rows, noise)
        losses.append(torch.stack([term.values * term.where for term in terms.values()]))
    close(losses[0][..., :-1], losses[1][..., :-1])
    assert not torch.equal(losses[0][..., -1], losses[1][..., -1])


def test_training_reaches_every_weight(model: Unified):
    model.train().requires_grad_(True)
    document = [text(1, 3), given(model, 1), text(2), picture(model), text(2, 1)]
    terms = model.terms(rows_of([document, document], model.wrapping), Noise.request(0, 2))
    assert tuple(terms) == model.kinds
    sum((term.values * term.where).sum() for term in terms.values()).backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still


def test_every_weight_has_a_gradient_whatever_stands_in_a_batch(model: Unified):
    """If it is zero: processes whose batches differ would wait for each other."""
    model.train().requires_grad_(True)
    for document in ([text(1, 3, 2)], [given(model), text(3, 1)], [text(1), picture(model)]):
        model.zero_grad()
        terms = model.terms(rows_of([document], model.wrapping), Noise.request(0, 1))
        torch.stack([(t.values * t.where).sum() for t in terms.values()]).sum().backward()
        without = [n for n, p in model.named_parameters() if p.grad is None]
        assert not without, [part.spec for part in document]
        assert all(p.grad.isfinite().all() for p in model.parameters())


def test_only_what_is_learned_has_a_loss(model: Unified):
    parts = [replace(part, learned=False) for part in (text(1, 3), given(model), picture(model))]
    terms = model.terms(rows_of([[*parts, text(2)]], model.wrapping), Noise.request(0, 1))
    assert sum(int(term.where.sum()) for term in terms.values()) == 1


def test_what_is_learned_is_known_before_rows_are_read(model: Unified):
    rows, noise = packed([some(model), some(model)[1:]], model.wrapping), Noise.request(3, 2)
    where, terms = model.where(rows, noise), model.terms(rows, noise)
    assert list(where) == list(terms) == list(model.kinds)
    for name, term in terms.items():
        assert torch.equal(where[name], term.where), name


@draws
def test_a_stop_ends_and_no_picture_comes_that_does_not_fit(model: Unified):
    begin = model.wrapping.begin(model.spec)[0]
    logits = model.logits

    def biased(h: Tensor) -> Tensor:
        found = logits(h).clone()
        found[..., begin] += 1e4
        found[..., 3] += 1e3
        return found

    model.logits = biased  # type: ignore[method-assign]
    document, needed = [text(1)], model.wrapping.length(picture(model))
    kinds = [part.spec is None for part in finished(model, asked(
        model, [document], most=3, pictures=1))[0]]  # fmt: skip
    assert kinds == [False, True]
    short = asked(model, [document], most=3, pictures=1, length=needed)
    assert [p.content.tolist() for p in finished(model, short)[0]] == [[3, 3, 3]]
    stopped = asked(model, [document], most=3, pictures=0, stops=(3,))
    events = list(mixed.stream(model, stopped))
    assert [(e.part.content.tolist(), e.cut) for e in events] == [([], False)]  # type: ignore[union-attr]


@draws
def test_a_document_that_is_full_ends(model: Unified):
    """Behind a picture that leaves no room for text, and before one that no longer fits."""
    begin, logits, calls = model.wrapping.begin(model.spec)[0], model.logits, [0]
    document = [text(1)]
    whole = model.wrapping.size([*document, picture(model)])
    full = asked(model, [document], most=3, pictures=1, first="picture", length=whole)
    assert [part.spec is None for part in finished(model, full)[0]] == [False]

    def one_word_and_a_picture(h: Tensor) -> Tensor:
        found = logits(h).clone()
        found[..., 3 if not calls[0] else begin] += 1e4
        calls[0] += 1
        return found

    model.logits = one_word_and_a_picture  # type: ignore[method-assign]
    begun = asked(model, [document], most=whole, pictures=1, length=whole)
    assert [part.content.tolist() for part in finished(model, begun)[0]] == [[3]]


@draws
def test_what_cannot_go_on_is_refused(model: Unified):
    with pytest.raises(ValueError, match="leaves no room for text"):
        finished(model, asked(model, [[text(1, 2, 3)]], most=2, length=3))
    with pytest.raises(ValueError, match="a picture more makes a document of"):
        finished(model, asked(model, [[text(1)]], pictures=1, first="picture", length=3))
    nothing = replace(
        asked(model, [[text(1)]], most=2, pictures=0), words=torch.zeros(model.vocab).bool()
    )
    with pytest.raises(ValueError, match="no id that may be written"):
        finished(model, nothing)


@draws
def test_broken_weights_are_named(model: Unified):
    with torch.no_grad():
        next(iter(model.parameters())).fill_(torch.nan)
    with pytest.raises(ValueError, match="step 1 of"):
        finished(model, asked(model, [[text(1)]], pictures=1, first="picture"))
