"""What models of text and pictures minimise: the means of each kind, and their weights."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_trainer import CONFIG, fit, metrics
from torch import Tensor

from smalti import modules
from smalti.models.show_o import ShowO, tiny
from smalti.models.unified import Term, Unified
from smalti.sampling.noise import Noise
from smalti.text.sequence import Document, Part, Rows, packed, rows_of
from smalti.train.joint import JointConfig, alone_in, batch_of
from smalti.train.optim import OptimConfig, adamw

CODES = torch.tensor([0, 1, 2, 3, 14, 15])


class Itself(ShowO):
    """Loses of each id that is learned the id, and of each code that is learned the code."""

    def where(self, rows: Rows, noise: Noise) -> dict[str, Tensor]:
        return Unified.where(self, rows, noise)

    def terms(self, rows: Rows, noise: Noise) -> dict[str, Term]:
        text, codes = self.where(rows, noise).values()
        return {"text": Term(rows.ids.float(), text), "codes": Term(rows.ids - 4.0, codes)}


def text(*ids: int, learned: bool = True) -> Part:
    return Part(torch.tensor(ids), learned=learned)


def documents(model: Unified) -> list[list[Document]]:
    """Two rows: texts alone, a caption behind a picture, a picture behind its text."""
    shown, drawn = Part(CODES, model.spec, learned=False), Part(CODES, model.spec)
    return [
        [[text(40, 42)], [shown, text(43)]],
        [[text(44, learned=False), drawn, text(1)], [text(50)]],
    ]


def batch(rows: Rows) -> dict[str, Tensor]:
    return batch_of(rows) | {"shuffle": torch.arange(len(rows.ids))}


@pytest.mark.parametrize(
    ("config", "loss"),
    [
        # text 43, 1; alone 40, 42, 50; codes 0, 1, 2, 3, 14, 15
        (JointConfig(over="kinds"), (43 + 1 + 40 + 42 + 50) / 5 + 35 / 6),
        (JointConfig(alone=0.1, over="kinds"), 22 + 0.1 * 44 + 35 / 6),
        (JointConfig(text=2, alone=0, pictures=5, over="kinds"), 2 * 22 + 5 * 35 / 6),
        (JointConfig(text=3, alone=0.5), (3 * 44 + 0.5 * 132 + 35) / 11),
        (JointConfig(alone=1.0), (44 + 132 + 35) / 11),
    ],
)
def test_each_kind_is_a_mean_of_its_own(config, loss):
    model = Itself(tiny())
    found = config.objective(model)(batch(packed(documents(model), model.wrapping)), 0)
    assert found.totals["model"].item() == pytest.approx(loss, rel=1e-6)
    means = {"codes": 35 / 6}
    means |= {"text": 35.2} if config.alone is None else {"text": 22, "alone": 44}
    assert found.logs.keys() == {"loss", *means}
    assert all(found.logs[name].item() == pytest.approx(m) for name, m in means.items())


@pytest.mark.parametrize("over", ["positions", "kinds"])
@pytest.mark.parametrize("alone", [None, 0.1])
def test_parts_of_a_batch_lose_what_it_loses(over, alone):
    """The first row has no codes that are learned, the second has other numbers of all."""
    model = Itself(tiny())
    objective = JointConfig(text=2, pictures=5, over=over, alone=alone).objective(model)
    whole = batch(packed(documents(model), model.wrapping))
    mean = {"counts": objective.counts(whole) / 2}
    parts = [objective({k: v[i : i + 1] for k, v in whole.items()} | mean, 0) for i in (0, 1)]
    found = objective(whole, 0)
    assert found.totals["model"].item() == pytest.approx(
        sum(part.totals["model"].item() for part in parts) / 2
    )
    for name, value in found.logs.items():
        assert value.item() == pytest.approx(sum(part.logs[name].item() for part in parts) / 2)


def test_accumulated_parts_equal_one_batch(tmp_path):
    ends, losses = list[Tensor](), list[list[float]]()
    for parts in (1, 2):
        torch.manual_seed(0)
        model = ShowO(tiny())
        given = batch(packed(documents(model), model.wrapping))
        batches: Any = SimpleNamespace(batch=lambda step, given=given: given)
        optim = OptimConfig(lr=1e-2, eps=1e-3)  # so that small gradients count as they are
        config = replace(CONFIG, optim=optim, batch=2, steps=3, ema=0.0, accumulate=parts)
        objective = JointConfig(over="kinds").objective(model)
        fit(objective, batches, tmp_path / str(parts), config)
        losses.append([row["loss"] for row in metrics(tmp_path / str(parts))])
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert (ends[1] - ends[0]).abs().max() < 1e-5


def test_a_kind_that_a_batch_has_not_is_left_out():
    model, config = Itself(tiny()), JointConfig(alone=0.1, over="kinds")
    for parts, loss in ([[text(40, 42)]], 4.1), ([[Part(CODES, model.spec)]], 35 / 6):
        found = config.objective(model)(batch(packed([parts], model.wrapping)), 0)
        assert found.totals["model"].item() == pytest.approx(loss)


@pytest.mark.parametrize("name", sorted(modules.UNIFIED))
def test_documents_without_a_picture_are_told_from_others(name):
    entry = modules.UNIFIED[name]
    model = entry.module(entry.tiny())
    shown = Part(model.spec.empty(1)[0], model.spec, learned=False, seen=not model.config.drawing)
    plain, pictured = [text(3, 1)], [text(2), shown, text(1)]
    rows = packed([[plain, pictured, plain], [pictured], [plain]], model.wrapping)
    if rows.beside is not None:
        with pytest.raises(ValueError, match="alone must be None where pictures stand beside"):
            alone_in(rows)
        return
    lengths = [model.wrapping.size(document) for document in (plain, pictured)]
    whole = [1] * lengths[0] + [0] * lengths[1] + [1] * lengths[0]
    assert alone_in(rows)[0].tolist() == whole
    assert not alone_in(rows)[1].any()
    assert torch.equal(alone_in(rows)[2], rows.kept[2])
    single = rows_of([plain, pictured], model.wrapping)
    assert torch.equal(alone_in(single)[0], single.kept[0]) and not alone_in(single)[1].any()


@pytest.mark.parametrize("over", ["positions", "kinds"])
def test_without_it_weights_are_learned_as_before_to_the_bit(over):
    """The sum as it was: text and pictures, each with its weight."""

    def plain(model: ShowO, rows: Rows, seeds: Tensor) -> Tensor:
        terms = model.terms(rows, Noise(seeds, torch.zeros_like(seeds)))
        counts = {name: term.where.sum() for name, term in terms.items()}
        every = torch.stack(list(counts.values())).sum()
        total = torch.zeros(())
        for name, weight in (("text", 0.1), ("codes", 1.0)):
            count = every if over == "positions" else counts[name]
            value = (terms[name].values * terms[name].where).sum()
            total = total + weight * value / count.clamp(min=1)
        return total

    states = list[dict[str, Tensor]]()
    for before in (True, False):
        torch.manual_seed(0)
        model = ShowO(tiny()).train()
        given = batch(packed(documents(model), model.wrapping))
        objective = JointConfig(text=0.1, over=over).objective(model)  # type: ignore[arg-type]
        optimizer = adamw(model, OptimConfig(lr=1e-2))
        for step in range(3):
            rows = packed(documents(model), model.wrapping)
            loss = plain(model, rows, given["shuffle"]) if before else (
                objective(given, step).totals["model"]
            )  # fmt: skip
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        states.append(model.state_dict())
    assert all(torch.equal(t, states[1][name]) for name, t in states[0].items())


@pytest.mark.parametrize("value", [-0.1, float("nan"), "text"])
def test_a_weight_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match="alone must be"):
        JointConfig(alone=value)
