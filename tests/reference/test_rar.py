"""RAR against outputs of the official code."""

from pathlib import Path

import pytest
import torch
from golden import Vectors, float32, folders, grid_of, load
from greedy import draws, most_probable, replayed

from official_settings import rar_config
from smalti.codes import Cond
from smalti.engine.causal import spans
from smalti.interop.projects.rar import rar_state
from smalti.models.rar import RAR
from smalti.sampling.guidance import Guidance
from smalti.sampling.orders import arrange


@pytest.mark.parametrize("folder", folders("rar"))
@torch.no_grad()
def test_rar(folder: Path):
    config, weights, io = load(folder)
    made = config["constructor"]
    model = RAR(rar_config(made, grid_of(made["generator"]["image_seq_len"]))).eval()
    model.load_state_dict(rar_state(float32(weights), model.config))
    check_rar(model, io)


@torch.no_grad()
def check_rar(model: RAR, io: Vectors) -> None:
    """Compare a generator with every golden tensor."""
    codes, labels = io["token_ids"], io["class_ids"]
    cond, vocab, classes = Cond(labels=labels), model.config.vocab, model.config.classes
    io.check("condition_token_ids", labels + vocab + 1)
    io.check("none_token_ids", torch.full_like(labels, vocab + 1 + classes))
    assert model.cls_embedding.num_embeddings == classes + 1

    # upstream also predicts something behind the last code, which it discards
    (everything,) = spans([model.spec.positions])
    orders = {"raster": None, "perm": io.get("orders")}
    for name in io.runs("tf_logits_(.+)"):
        order = orders[name.removeprefix("uncond_")]
        sequence, condition = arrange(codes, order), cond
        if name.startswith("uncond_"):
            condition = cond.null()
        h = model.hidden(sequence, model.prepare(condition, order), everything)
        golden = io[f"tf_logits_{name}"]
        io.check(f"tf_logits_{name}", torch.cat((model.head.logits(h), golden[:, -1:]), 1))
        io.check(f"tf_labels_{name}", sequence)
        for training in (False, True):  # which may take different paths through attention
            with torch.set_grad_enabled(training):
                loss = model.loss(codes, condition, orders=order).detach()
            io.check(f"tf_loss_{name}", loss.mean())
    for name in io.runs("gen_(.+)_args"):
        check_run(model, cond, name, io)
    io.done()


def check_run(model: RAR, cond: Cond, name: str, io: Vectors) -> None:
    """A greedy run; a guidance of 0 means none upstream, and nobody reads its scales."""
    scale, power, temperature = io[f"gen_{name}_args"].tolist()
    guidance = Guidance(scale, "power-cosine", power=power) if scale else Guidance()
    steps = len(spans(model.blocks()))
    scales = torch.tensor([guidance.scale_at(i, steps) for i in range(steps)])
    golden = io.get(f"gen_{name}_cfg_scale_per_step")
    if scale and golden is not None:
        io.check(f"gen_{name}_cfg_scale_per_step", scales)
    tokens = io[f"gen_{name}_tokens"]
    logits = torch.cat(replayed(model, cond, guidance, tokens), 1)
    for count in io.runs(rf"gen_{name}_logits_first(\d+)"):
        first = logits[:, : int(count)] / temperature
        io.check(f"gen_{name}_logits_first{count}", first)
    draws(model, cond, guidance, tokens, most_probable(logits, tokens), temperature)
