"""RAR against outputs of the official code.

Tolerances: 1e-5 on teacher-forced logits, 1e-5 * 2 * scale on guided logits; tokens are exact.
"""

from pathlib import Path

import pytest
import torch
from golden import folders, load

from smalti.codes import Cond
from smalti.engine.causal import generate, spans
from smalti.interop.rar import rar_config, rar_state
from smalti.models.rar import RAR
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.sampling.orders import arrange


def close(ours: torch.Tensor, golden: torch.Tensor, atol: float) -> None:
    torch.testing.assert_close(ours.reshape(golden.shape), golden, rtol=0, atol=atol)


@pytest.mark.parametrize("folder", folders("rar"))
@torch.no_grad()
def test_rar(folder: Path):
    config, weights, io = load(folder)
    model = RAR(rar_config(config["constructor"])).eval()
    model.load_state_dict(rar_state(weights, model.config))
    check_rar(model, io)


@torch.no_grad()
def check_rar(model: RAR, io) -> None:
    """Compare a generator with every golden tensor."""
    codes, cond = io["token_ids"], Cond(labels=io["class_ids"])
    vocab, classes = model.config.vocab, model.config.classes
    assert torch.equal(io["condition_token_ids"], cond.labels + vocab + 1)
    assert (io["none_token_ids"] == vocab + 1 + classes).all()
    assert model.cls_embedding.num_embeddings == classes + 1

    # upstream also predicts something behind the last code, which it discards
    (everything,) = spans([model.spec.positions])
    for name, order in (("raster", None), ("perm", io["orders"])):
        sequence = arrange(codes, order)
        assert torch.equal(sequence, io[f"tf_labels_{name}"])
        h = model.hidden(sequence, model.prepare(cond, order), everything)
        close(model.head.logits(h), io[f"tf_logits_{name}"][:, :-1], 1e-5)
        for training in (False, True):  # which may take different paths through attention
            with torch.set_grad_enabled(training):
                loss = model.loss(codes, cond, orders=order).detach()
            close(loss.mean(), io[f"tf_loss_{name}"], 1e-5)
    h = model.hidden(codes, model.prepare(cond.null()), everything)
    close(model.head.logits(h), io["tf_logits_uncond_raster"][:, :-1], 1e-5)

    for name in ("pow", "const"):
        scale, power, temperature = io[f"gen_{name}_args"].tolist()
        guidance = Guidance(scale, "power-cosine", power=power)
        steps = spans(model.blocks)
        scales = torch.tensor([guidance.scale_at(i, len(steps)) for i in range(len(steps))])
        close(scales, io[f"gen_{name}_cfg_scale_per_step"], 1e-4)
        first, golden = [], io[f"gen_{name}_logits_first3"]
        branches, tokens = guidance.branches(cond), model.spec.empty(cond.batch)
        prepared, cache = model.prepare(branches), model.cache(branches.batch)
        for i, span in enumerate(steps[: golden.shape[1]]):
            guide = guidance.at(i, len(steps))
            h = model.hidden(guide.tile(tokens), prepared, span, cache)
            first.append(guide.merge(model.head.logits(h)) / temperature)
            tokens[:, span.slots] = first[-1].argmax(-1)
        close(torch.cat(first, 1), golden, 1e-5 * max(1, 2 * scale))
        greedy, noise = Filters(temperature, top_k=1), Noise.request(0, cond.batch)
        for bucket in (1, 8):
            drawn = generate(model, cond, noise, guidance, greedy, bucket=bucket)
            assert torch.equal(drawn, io[f"gen_{name}_tokens"])
    io.done()
