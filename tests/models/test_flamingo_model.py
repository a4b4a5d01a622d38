"""What is special about Flamingo: who looks at which picture, and what stays as it is."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from smalti.data.document_batches import DocumentBatches, Packing
from smalti.models.flamingo import Flamingo, FlamingoConfig, tiny
from smalti.models.language import tiny as tiny_language
from smalti.models.one_vocabulary import place_of
from smalti.nn.perceiver import Resampler, ResamplerConfig
from smalti.runs.finetune import learn
from smalti.text.sequence import Part, Rows, packed, rows_of
from smalti.train.ema import Ema
from smalti.train.joint import JointConfig, batch_of, rows_in
from smalti.train.optim import OptimConfig, adamw


def made(gates: float = 0.5, **changes: Any) -> Flamingo:
    torch.manual_seed(0)
    model = Flamingo(tiny(**changes))
    model.init_weights()
    with torch.no_grad():
        for layer in model.layers:
            layer.get_parameter("attention_gate").fill_(gates)
            layer.get_parameter("ffn_gate").fill_(gates)
    return model.eval()


def text(*ids: int) -> Part:
    return Part(torch.tensor(ids))


def seen(model: Flamingo, seed: int) -> Part:
    torch.manual_seed(seed)
    features = torch.randn(model.spec.positions, model.spec.channels)
    return Part(features, model.spec, learned=False, seen=True)


def read(model: Flamingo, rows: Rows) -> Tensor:
    with torch.no_grad():
        return model.read(rows, 0, rows.ids.shape[1], None)


def test_a_picture_is_one_id_and_stands_beside_the_row():
    model = made()
    first, second = seen(model, 1), seen(model, 2)
    documents = [[text(1), first, text(3), second], [text(2, 3)]]
    rows = rows_of(documents, model.wrapping, left=True)
    assert rows.ids.tolist() == [[1, 64, 3, 64], [0, 0, 2, 3]]
    assert rows.beside is not None and rows.features is None and rows.vectors is None
    assert torch.equal(rows.beside[0], torch.stack([first.content, second.content]))
    assert not rows.beside[1].any() and not rows.learned[0, 1] and rows.learned[0, 2]
    taken = rows.take(torch.tensor([1, 0])).beside
    assert taken is not None and torch.equal(taken[1], rows.beside[0])


def test_places_that_stay_empty_are_no_pictures():
    model = made(resampler=replace(tiny().resampler, pictures=2))
    document = [text(1), seen(model, 1), text(3)]
    packing = Packing(model.wrapping, 7, 2, model.marks.pad)
    batches = DocumentBatches(range(4), [3] * 4, lambda i, chance: document, packing)
    for batch in (batches.batch(0), next(batches.evaluation(2))):
        rows = rows_in(batch)
        assert rows.ids.shape == (2, 7) and rows.beside is not None
        assert rows.beside.shape == (2, 2, model.spec.positions, model.spec.channels)
        assert read(model, rows).shape[:2] == (2, 7)


def test_gates_of_0_leave_the_language_model_as_it_was():
    model = made(gates=0.0)
    rows = rows_of([[text(1, 3), seen(model, 1), text(2, 5, 4)]], model.wrapping)
    with torch.no_grad():
        place = place_of(model.language, rows, 0, rows.ids.shape[1])
        alone = model.language(model.embed(rows.ids), place)
        ours = model.logits(read(model, rows))
    torch.testing.assert_close(ours[..., :64], model.language.logits(alone))  # one id less wide
    assert ours.shape[-1] == model.vocab == 65
    words = torch.tensor([[1, 3]])
    assert torch.equal(model.embed(words), model.language.embed(words))


def test_text_sees_the_last_picture_alone_or_all_before_it():
    for sees, through in (("last", False), ("all", True)):
        model = made(sees=sees)
        parts = [text(1), seen(model, 1), text(3, 2), seen(model, 2), text(5)]
        other = [*parts[:1], seen(model, 7), *parts[2:]]
        ours, theirs = (read(model, rows_of([d], model.wrapping))[0] for d in (parts, other))
        apart = (ours - theirs).abs().amax(-1) > 1e-6
        gaze = model.gaze(rows_of([parts], model.wrapping)).seen[0, :, ::3]  # of each picture
        behind = [through, True]
        wanted = [[through] * 2, [True, False], [True, False], [True, False], behind, behind]
        assert gaze.tolist() == wanted, sees
        assert apart[0] == through  # as upstream has it, where all are seen


def test_text_before_any_picture_finds_nothing_and_no_other_document_is_seen():
    model = made()
    documents = [[text(1), seen(model, 1), text(3)], [text(2, 1), seen(model, 2), text(4)]]
    rows = packed([documents], model.wrapping)
    gaze = model.gaze(rows)
    shown = gaze.seen[0, :, :: model.config.resampler.latents].int().tolist()
    assert shown == [[0, 0], [1, 0], [1, 0], [0, 0], [0, 0], [0, 1], [0, 1]]
    assert not gaze.level.any()
    context = model.context(rows)
    layer: Any = model.layers[0]
    x = torch.randn(1, 7, 32)
    found = layer.look(x, context, gaze)[0]
    assert not found[[0, 3, 4]].any() and found[[1, 2, 5, 6]].any(-1).all()


def test_latents_are_computed_once():
    model, calls = made(), list[int]()
    forward = model.resampler.forward

    def counted(features: Tensor) -> Tensor:
        calls.append(1)
        return forward(features)

    model.resampler.forward = counted  # type: ignore[method-assign]
    rows = rows_of([[seen(model, 1), text(1, 2, 3, 4)]], model.wrapping)
    cache = model.cache(1, 5)
    with torch.no_grad():
        for at in range(5):
            model.read(rows, at, at + 1, cache)
    assert len(calls) == 1


def test_training_moves_and_keeps_what_is_not_frozen_alone():
    model = made()
    learn(model)
    frozen = {n: p.clone() for n, p in model.named_parameters() if n.startswith("language.")}
    optimizer = adamw(model, OptimConfig(lr=1e-2))
    rows = rows_of([[seen(model, 1), text(1, 2, 3)]] * 2, model.wrapping)
    batch = batch_of(rows) | {"shuffle": torch.arange(2)}
    before = {n: p.clone() for n, p in model.named_parameters() if n not in frozen}
    JointConfig().objective(model.train())(batch, 0).totals["model"].backward()
    optimizer.step()
    assert all(torch.equal(model.get_parameter(n), p) for n, p in frozen.items())
    assert not any(torch.equal(model.get_parameter(n), p) for n, p in before.items())
    assert len(optimizer.state) == len(before) == len(Ema(model, 0.9).names)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"every": 3}, "every must be at most 2, the layers of the language model, got 3"),
        ({"picture": 3}, "picture must be an id that is added, 64 to 64, got 3"),
        ({"sees": "none"}, "sees must be one of last, all, got 'none'"),
        ({"added": 0}, "added must be"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


def test_tables_of_a_resampler_end():
    config = ResamplerConfig(4, 1, 1, 4, 2, 1, pictures=2, frames=1)
    with pytest.raises(ValueError, match="tells 2 pictures apart, got 3"):
        Resampler(config)(torch.zeros(1, 3, 1, 5, 4))
    with pytest.raises(ValueError, match="tells 1 frames apart, got 2"):
        Resampler(config)(torch.zeros(1, 2, 2, 5, 4))
    with pytest.raises(ValueError, match="resampler.latents must be"):
        replace(config, latents=0)


def test_a_trained_language_model_moves_the_added_ids():
    config = FlamingoConfig(tiny_language(), added=2, picture=65, every=1)
    found = config.speaking(tiny_language(vocab=90))
    assert found.picture == 91 and found.vocab == 92
