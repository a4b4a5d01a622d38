"""The loop: it learns, it resumes bit for bit, it cuts batches, it stops at NaN."""

import json
import math
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn

from builders import build, models, random_codes
from smalti.models import llamagen
from smalti.nn.finite import NotFinite
from smalti.runs import ladder
from smalti.tokenizers import dcae, multiscale_vqvae, vit_vqgan, vqgan
from smalti.tokenizers.multiscale_vqvae import MultiScaleVQVAE
from smalti.train import checkpoint
from smalti.train.autoencoding import AutoencodingConfig
from smalti.train.base import Losses
from smalti.train.codebook_care import CodebookConfig
from smalti.train.objectives import (
    Likelihood,
    LikelihoodConfig,
    ReconstructionConfig,
    ReconstructionObjective,
)
from smalti.train.optim import OptimConfig, weight_decay_at
from smalti.train.parallel import World, sent, shard
from smalti.train.product_share import ProductShare
from smalti.train.recomputing import kept
from smalti.train.settings import TrainConfig
from smalti.train.trainer import Trainer, TrainingStopped, step_seed

WORLD = World(0, 1, torch.device("cpu"))
CONFIG = TrainConfig(
    steps=12,
    batch=8,
    optim=OptimConfig(lr=3e-3, warmup=2, schedule="cosine"),
    precision="fp32",
    ema=0.9,
    log_every=1,
    eval_every=0,
    preview_every=0,
    save_every=5,
    device="cpu",
)


class Cut(Exception):
    """What ends a run in the middle."""


class Codes:
    """Batches as a function of the step, with an error at one step."""

    def __init__(self, cut: int | None = None) -> None:
        self.cut = cut

    def batch(self, step):
        if step == self.cut:
            raise Cut
        spec = llamagen.tiny().spec
        codes = random_codes(spec, 8, seed=step % 2)
        chance = (torch.arange(8) * 3 + step) % 8 / 8
        return {"codes": codes, "labels": torch.arange(8) % 5, "chance": chance}

    def names(self, step):
        return [f"{step}-{i}" for i in range(8)]


class Pixels(Codes):
    def batch(self, step):
        if step == self.cut:
            raise Cut
        generator = torch.Generator().manual_seed(step % 3)
        return {"images": torch.randint(256, (8, 3, 16, 16), generator=generator).byte()}


def generator(seed: int = 0, dropout: float = 0.2, cond_dropout: float = 0.3) -> Likelihood:
    torch.manual_seed(seed)
    model = llamagen.LlamaGen(replace(llamagen.tiny(), dropout=dropout))
    return Likelihood(model, LikelihoodConfig(cond_dropout))


def tokenizer(seed: int = 0, model: nn.Module | None = None) -> ReconstructionObjective:
    """With all that has state: k-means, restarts, a discriminator and its batch norms."""
    torch.manual_seed(seed)
    config = ReconstructionConfig(
        perceptual="none",
        gan_start=4,
        gan_channels=8,
        gan_layers=1,
        codebook=CodebookConfig(warmup=2, samples=2, patience=3),
    )
    return ReconstructionObjective(model or vqgan.VQGAN(vqgan.tiny()), config)


def scales(seed: int = 0) -> ReconstructionObjective:
    """The same of a tokenizer of several scales."""
    torch.manual_seed(seed)
    return tokenizer(seed, MultiScaleVQVAE(multiscale_vqvae.tiny()))


def fit(objective, batches, run, config=CONFIG, **more) -> Trainer:
    trainer = Trainer(objective, batches, config, run, WORLD, **more)
    trainer.fit()
    return trainer


def metrics(run) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_equal(a, b) -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    else:
        assert a == b


def test_the_loss_falls(tmp_path):
    config = replace(CONFIG, steps=40, optim=OptimConfig(lr=1e-2))
    fit(generator(dropout=0.0), Codes(), tmp_path, config)
    losses = [m["loss"] for m in metrics(tmp_path)]
    assert losses[0] == pytest.approx(3.4657, abs=1e-3)  # ln 32
    assert losses[-1] < 2.5


@pytest.mark.parametrize(
    ("build", "batches"), [(generator, Codes), (tokenizer, Pixels), (scales, Pixels)]
)
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, build, batches):
    whole = fit(build(), batches(), tmp_path / "whole")
    with pytest.raises(Cut):
        fit(build(), batches(cut=8), tmp_path / "cut")
    with open(tmp_path / "cut" / "metrics.jsonl", "a") as file:
        file.write('{"step": 9, "lo')  # as a crash leaves it
    resumed = fit(build(seed=1), batches(), tmp_path / "cut")
    assert resumed.step == whole.step == 12
    state = whole.state()
    assert {"step", "owed", "objective", "ema", "optimizers", "guard"} == state.keys()
    assert_equal(resumed.state(), state)
    a, b = metrics(tmp_path / "whole"), metrics(tmp_path / "cut")
    assert [m["step"] for m in b] == [m["step"] for m in a] == list(range(1, 13))
    assert [m["loss"] for m in b] == [m["loss"] for m in a]
    steps = [p.name for p in checkpoint.found(tmp_path / "cut" / "checkpoints")]
    assert steps == ["step-00000010", "step-00000012"]


def test_a_gan_trains_both_networks(tmp_path):
    before = {k: v.clone() for k, v in tokenizer().state_dict().items()}
    trainer = fit(tokenizer(), Pixels(), tmp_path)
    after = trainer.objective.state_dict()
    for name in ("model.decoder.conv_out.weight", "discriminator.main.0.weight"):
        assert not torch.equal(after[name], before[name])
    assert set(trainer.optimizers) == {"model", "discriminator"}
    rows = metrics(tmp_path)
    assert "discriminator" not in rows[3] and "discriminator" in rows[4]
    assert "grad_norm_discriminator" in rows[4]


def test_accumulated_parts_equal_one_batch(tmp_path):
    ends = []
    for parts in (1, 2, 4):
        config = replace(CONFIG, steps=4, accumulate=parts)
        trainer = fit(generator(0, 0.0, 0.0), Codes(), tmp_path / str(parts), config)
        ends.append(torch.cat([p.detach().flatten() for p in trainer.objective.parameters()]))
    start = torch.cat([p.detach().flatten() for p in generator().parameters()])
    assert (ends[0] - start).abs().max() > 1e-3
    assert (ends[1] - ends[0]).abs().max() < 1e-5
    assert (ends[2] - ends[0]).abs().max() < 1e-5


@pytest.mark.parametrize("clip", [0.01, 0.0, 1e6])
def test_gradients_are_clipped_by_their_norm(tmp_path, clip):
    """To the limit if they are longer; 0 is no limit."""
    objective = generator(0, 0.0, 0.0)
    nn.init.normal_(objective.model.head.proj.weight)
    objective(Codes().batch(0), 0).totals["model"].backward()
    wanted = [p.grad.clone() for p in objective.parameters()]
    norm = torch.cat([g.flatten() for g in wanted]).norm().item()
    objective.zero_grad()
    config = replace(CONFIG, steps=1, optim=replace(CONFIG.optim, clip=clip))
    trainer, found = Trainer(objective, Codes(), config, tmp_path, WORLD), list[torch.Tensor]()
    trainer.optimizers["model"].register_step_pre_hook(
        lambda *_: found.extend(p.grad.clone() for p in objective.parameters())
    )
    trainer.fit()
    share = clip / norm if clip == 0.01 else 1.0
    assert 0.1 < norm < 1e6 and len(found) == len(wanted)
    for gradient, whole in zip(found, wanted, strict=True):
        torch.testing.assert_close(gradient, share * whole, rtol=1e-3, atol=1e-9)
    assert metrics(tmp_path)[0]["grad_norm_model"] == pytest.approx(norm, rel=1e-4)


def test_every_step_and_process_has_numbers_of_its_own(tmp_path, monkeypatch):
    seeds = [step_seed(*given) for given in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1))]
    assert len(set(seeds)) == 5 and seeds[3] == step_seed(0, 0, 1)
    monkeypatch.setattr("smalti.train.trainer.mean_over", lambda values, world: values)
    objective, seen = generator(), list[int]()
    objective.register_forward_pre_hook(lambda *_: seen.append(torch.initial_seed()))
    trainer = Trainer(objective, Codes(), replace(CONFIG, seed=7), tmp_path, WORLD)
    trainer.world = World(1, 2, torch.device("cpu"))
    for trainer.step in (0, 3):
        trainer._train_step(objective, Codes().batch(0))
    assert seen == [step_seed(7, 0, 1), step_seed(7, 3, 1)]


@pytest.mark.parametrize("what", ["evaluate", "preview"])
def test_a_look_at_what_is_no_number_does_not_end_a_run(tmp_path, capsys, what):
    def look(path=None):
        raise NotFinite("pixels must be finite numbers, got 1 of 2")

    config = replace(CONFIG, steps=2, eval_every=1, preview_every=1)
    trainer = Trainer(generator(), Codes(), config, tmp_path, WORLD, **{what: look})
    trainer.fit()
    assert trainer.step == 2 and trainer.objective.model.training
    words = "step 1 is not evaluated or shown: pixels must be finite numbers, got 1 of 2"
    assert words in capsys.readouterr().err


def test_evaluation_and_previews_use_the_average_in_evaluation_mode(tmp_path):
    objective, seen = generator(), []

    def evaluate():
        weight = objective.model.head.proj.weight
        seen.append((objective.model.training, weight.detach().clone()))
        return {"number": 1.5}

    config = replace(CONFIG, steps=4, eval_every=2, preview_every=3)
    trainer = fit(
        objective,
        Codes(),
        tmp_path,
        config,
        evaluate=evaluate,
        preview=lambda path: path.write_bytes(b"picture"),
    )
    assert [training for training, _ in seen] == [False, False]
    assert torch.equal(seen[-1][1], trainer.ema.state_dict()["head.proj.weight"])
    assert not torch.equal(seen[-1][1], objective.model.head.proj.weight)
    assert objective.model.training
    told = [m["step"] for m in metrics(tmp_path) if m.get("held_out_number") == 1.5]
    assert told == [2, 4]
    pictures = sorted(p.name for p in (tmp_path / "previews").iterdir())
    assert pictures == ["step-00000003.png", "step-00000004.png"]


def test_what_an_objective_keeps_in_evaluation_mode_stays_in_it(tmp_path):
    torch.manual_seed(0)
    goal = AutoencodingConfig(learns="middle", perceptual="none")
    objective = goal.objective(dcae.DCAE(dcae.tiny()), 0, 4, begun=True)
    before = {k: v.clone() for k, v in objective.model.named_buffers() if "running" in k}
    config = replace(CONFIG, steps=4, ema=0.0, eval_every=1)
    fit(objective, Pixels(), tmp_path, config, evaluate=lambda: {"number": 1.0})
    assert before.keys() and any(m.training for m in objective.model.modules())
    assert_equal({k: v for k, v in objective.model.named_buffers() if "running" in k}, before)


class Broken(nn.Module):
    """A loss that is NaN from step 3 on."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(1, 1)

    def optimized(self):
        return {"model": self.model}

    def forward(self, batch, step):
        loss = self.model.weight.sum() * (float("nan") if step >= 3 else 1.0)
        return Losses({"model": loss}, {"loss": loss.detach()})

    def advice(self, logs):
        return None


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    config = replace(CONFIG, ema=0.0, save_every=2)
    with pytest.raises(
        TrainingStopped,
        match="no number .loss nan. at step 4, batch of 3-0, 3-1, 3-2, 3-3 ...; .* lower ",
    ):
        fit(Broken(), Codes(), tmp_path, config)
    (saved,) = checkpoint.found(tmp_path / "checkpoints")
    weight = checkpoint.load(saved)["objective"]["model.weight"]
    assert saved.name == "step-00000002" and weight.isfinite().all()
    rows = metrics(tmp_path)
    assert [m["step"] for m in rows] == [1, 2, 3, 4]
    assert rows[3] == {
        "step": 4, "event": "nan", "loss": "nan", "mean": pytest.approx(rows[0]["loss"], abs=0.1),
        "action": "stop",
    }  # fmt: skip


@pytest.mark.parametrize(
    "bad", [{"steps": 0}, {"batch": 0}, {"accumulate": 3}, {"log_every": 0}, {"keep": 0}]
)
def test_bad_settings(bad):
    with pytest.raises(ValueError, match=f"got {next(iter(bad.values()))}"):
        replace(CONFIG, **bad)


def test_a_batch_that_the_processes_cannot_share(tmp_path):
    with pytest.raises(ValueError, match="train.batch 8 must be a multiple.*3 x 1"):
        Trainer(generator(), Codes(), CONFIG, tmp_path, World(0, 3, torch.device("cpu")))


def test_no_checkpoint_holds_what_is_no_number(tmp_path):
    config = replace(CONFIG, ema=0.0, save_every=2, log_every=10)
    with pytest.raises(TrainingStopped):
        fit(Broken(), Codes(), tmp_path, config)
    for path in checkpoint.found(tmp_path / "checkpoints"):
        assert checkpoint.load(path)["objective"]["model.weight"].isfinite().all()


def test_the_logged_loss_is_that_of_the_whole_batch(tmp_path):
    logged = []
    for parts in (1, 4):
        objective = generator(0, 0.0, 0.0)  # seeds what follows
        nn.init.normal_(objective.model.head.proj.weight)
        fit(objective, Codes(), tmp_path / str(parts), replace(CONFIG, steps=1, accumulate=parts))
        logged.append(metrics(tmp_path / str(parts))[0]["loss"])
    assert logged[1] == pytest.approx(logged[0], rel=1e-5)


class Signals(Codes):
    """Codes; the process gets a signal while a step is prepared."""

    def __init__(self, at: int, number: int) -> None:
        super().__init__()
        self.at, self.number = at, number

    def batch(self, step):
        if step == self.at:
            signal.raise_signal(self.number)
        return super().batch(step)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_the_run_goes_on(tmp_path, monkeypatch, number):
    monkeypatch.setattr("smalti.train.trainer.prefetch", unthreaded)
    whole = fit(generator(), Codes(), tmp_path / "whole")
    handler = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        fit(generator(), Signals(6, number), tmp_path / "cut")
    assert signal.getsignal(number) == handler
    last = checkpoint.found(tmp_path / "cut" / "checkpoints")[-1]
    assert last.name == "step-00000007", "the step is finished and saved"
    resumed = fit(generator(seed=1), Codes(), tmp_path / "cut")
    assert_equal(resumed.state(), whole.state())


def test_an_evaluation_that_ctrl_c_put_off_is_made_when_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("smalti.train.trainer.prefetch", unthreaded)
    config = replace(CONFIG, eval_every=7)
    objectives = generator(), generator(seed=1), generator()

    def run(objective, batches, name):
        def evaluate():
            return {"weight": float(objective.model.head.proj.weight.sum())}

        fit(objective, batches, tmp_path / name, config, evaluate=evaluate)

    with pytest.raises(KeyboardInterrupt):
        run(objectives[0], Signals(6, signal.SIGINT), "cut")
    run(objectives[1], Codes(), "cut")
    run(objectives[2], Codes(), "whole")
    cut, whole = (
        [(m["step"], m["held_out_weight"]) for m in metrics(tmp_path / n) if "held_out_weight" in m]
        for n in ("cut", "whole")
    )
    assert cut == whole and [step for step, _ in whole] == [7, 12]


def unthreaded(batches, start, stop):
    """Signals are handled in the main thread, so that is where this makes batches."""
    for step in range(start, stop):
        yield batches.batch(step)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_taken(tmp_path, capsys, parallel):
    config = replace(CONFIG, parallel=parallel)
    whole = fit(generator(), Codes(), tmp_path / "whole")
    with pytest.raises(Cut):
        fit(generator(), Codes(cut=11), tmp_path / "cut", config)
    last = checkpoint.found(tmp_path / "cut" / "checkpoints")[-1]
    (file,) = last.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-8])
    capsys.readouterr()
    resumed = fit(generator(seed=1), Codes(), tmp_path / "cut", config)
    told = capsys.readouterr().err
    assert "step-00000010 cannot be read" in told and "going on from step-00000005" in told
    assert_equal(resumed.state(), whole.state())


def test_recomputed_activations_change_nothing(tmp_path):
    plain = fit(generator(), Codes(), tmp_path / "plain")
    calls = []
    objective = generator()
    block = objective.model.layers[0]
    block.attention.register_forward_hook(lambda *_: calls.append(1))
    again = fit(objective, Codes(), tmp_path / "again", replace(CONFIG, recompute=True))
    assert_equal(again.state(), plain.state())
    assert len(calls) == 2 * CONFIG.steps + 1  # one is counted


def test_what_is_known_of_products(tmp_path, monkeypatch):
    monkeypatch.setattr("smalti.train.product_share.product_rate", lambda *_: 1e6)
    fit(generator(), Codes(), tmp_path, replace(CONFIG, steps=3, ema=0.0))
    objective = generator()
    counted = ladder.operations(objective, [Codes().batch(0)])
    for record in metrics(tmp_path):
        seconds = 8 * objective.model.spec.positions / record["images_per_s"] / 16
        assert record["product_share"] == pytest.approx(counted / seconds / 1e6, rel=1e-4)


def test_counting_a_step_changes_nothing(tmp_path, monkeypatch):
    counted = fit(tokenizer(), Pixels(), tmp_path / "counted")
    monkeypatch.setattr(ProductShare, "count", lambda *_: None)
    plain = fit(tokenizer(), Pixels(), tmp_path / "plain")
    assert_equal(plain.state(), counted.state())
    assert "product_share" in metrics(tmp_path / "counted")[0]
    assert "product_share" not in metrics(tmp_path / "plain")[0]


@pytest.mark.parametrize(
    ("more", "items"), [({}, 8), ({"accumulate": 4}, 2), ({"recompute": True}, 1)]
)
def test_no_more_is_counted_at_a_time_than_has_room(tmp_path, monkeypatch, more, items):
    monkeypatch.setattr("smalti.train.product_share.product_rate", lambda *_: 1.0)
    objective, seen = generator(dropout=0.0), []
    objective.register_forward_pre_hook(lambda _, args: seen.append(len(args[0]["codes"])))
    trainer = fit(objective, Codes(), tmp_path, replace(CONFIG, steps=1, **more))
    assert seen[0] == items
    whole = ladder.operations(generator(dropout=0.0), [Codes().batch(0)])
    assert trainer.products.operations == pytest.approx(whole)


def worn(model: nn.Module) -> ReconstructionObjective:
    """A tokenizer whose codes are due to be restarted."""
    objective = tokenizer(model=model)
    objective.care.age.fill_(9)
    objective.care.moved.fill_(9)
    return objective.train()


def test_counting_a_step_that_restarts_codes_changes_nothing(tmp_path):
    objective = worn(vqgan.VQGAN(vqgan.tiny()))
    before = {k: v.clone() for k, v in objective.state_dict().items()}
    ProductShare(WORLD, "fp32").count(objective, Pixels().batch(0), 20, 8)
    assert_equal(dict(objective.state_dict()), before)
    objective(Pixels().batch(0), 20)
    name = "model.quantize.embedding.weight"
    assert not torch.equal(objective.state_dict()[name], before[name])


@pytest.mark.parametrize("step", [0, 10])
def test_measuring_what_a_step_keeps_changes_nothing(tmp_path, step):
    objective = worn(vit_vqgan.ViTVQGAN(vit_vqgan.tiny()))
    before = {k: v.clone() for k, v in objective.state_dict().items()}
    trainer = Trainer(objective, Pixels(), replace(CONFIG, memory=9.0), tmp_path, WORLD)
    trainer.step = step
    assert trainer._spare_memory() is None
    assert_equal(dict(objective.state_dict()), before)


def test_weight_decay_may_begin_at_nothing(tmp_path):
    optim = replace(CONFIG.optim, weight_decay=0.0, final_weight_decay=0.1)
    trainer = fit(generator(), Codes(), tmp_path, replace(CONFIG, optim=optim))
    decayed, plain = trainer.optimizers["model"].param_groups
    assert decayed["weight_decay"] == weight_decay_at(11, 12, optim) > 0.09
    assert plain["weight_decay"] == 0.0


@pytest.mark.parametrize(("share", "blocks"), [(1.1, 0), (0.9, 2), (0.01, 2)])
def test_blocks_are_recomputed_until_activations_fit(tmp_path, capsys, share, blocks):
    batch, objective = Codes().batch(0), generator()
    found = kept(objective.model, lambda: objective(batch, 0))
    one = kept(objective.model, lambda: objective({k: v[:1] for k, v in batch.items()}, 0))
    assert one.times(8).peak(0) == pytest.approx(found.peak(0), rel=0.1)
    assert found.peak(0) == found.outside + sum(found.inside) > found.peak(2)
    calls = []
    for block in objective.model.layers:
        block.attention.register_forward_hook(lambda *_: calls.append(1))
    plain = fit(generator(), Codes(), tmp_path / "plain")
    spared = replace(CONFIG, memory=share * one.times(8).peak(0) / 1e9)
    again = fit(objective, Codes(), tmp_path / "again", spared)
    assert_equal(again.state(), plain.state())
    assert len(calls) == 4 + (2 + blocks) * CONFIG.steps  # two blocks are counted and measured
    said = capsys.readouterr().err
    assert (f"{blocks} of 2 blocks are computed again" in said) == (blocks > 0)
    assert ("more than train.memory" in said) == (share == 0.01)


def test_only_blocks_are_recomputed(tmp_path):
    with pytest.raises(ValueError, match="train.memory recomputes a generator's layers; for"):
        fit(tokenizer(), Pixels(), tmp_path, replace(CONFIG, memory=1.0))
    with pytest.raises(ValueError, match="train.recompute is of a generator's layers; for"):
        fit(tokenizer(), Pixels(), tmp_path, replace(CONFIG, recompute=True))
    with pytest.raises(ValueError, match="train.compile compiles a generator's layers; .* got on"):
        fit(tokenizer(), Pixels(), tmp_path, replace(CONFIG, compile="on"))
    with pytest.raises(ValueError, match="train.memory is for train.parallel ddp, got 1 with fsdp"):
        fit(generator(), Codes(), tmp_path, replace(CONFIG, memory=1.0, parallel="fsdp"))
    with pytest.raises(ValueError, match="train.memory"):
        replace(CONFIG, memory=-1.0)


def test_sharding_asks_for_blocks(tmp_path):
    with pytest.raises(ValueError, match="fsdp shards a generator's layers; take ddp"):
        fit(tokenizer(), Pixels(), tmp_path, replace(CONFIG, parallel="fsdp"))
    learned = tokenizer(model=vit_vqgan.ViTVQGAN(vit_vqgan.tiny()))  # it has blocks
    with pytest.raises(ValueError, match="fsdp shards a generator's layers; take ddp"):
        shard(learned, World(0, 2, torch.device("cpu")), "fp32")
    assert shard(learned, World(0, 1, torch.device("cpu")), "fp32") is learned  # nothing is spread


def test_one_process_with_fsdp_equals_ddp(tmp_path):
    whole = fit(generator(), Codes(), tmp_path / "whole")
    config = replace(CONFIG, parallel="fsdp")
    with pytest.raises(Cut):
        fit(generator(), Codes(cut=8), tmp_path / "cut", config)
    resumed = fit(generator(seed=1), Codes(), tmp_path / "cut", config)
    assert_equal(resumed.state(), whole.state())


def test_shards_from_before_go_on_with_the_averages_of_each_weight(tmp_path, monkeypatch):
    """Then all weights of two or more dimensions decayed."""

    def made() -> Likelihood:
        return Likelihood(build(*models()["rar"]), LikelihoodConfig(0.0)).train()

    config = replace(CONFIG, parallel="fsdp", steps=5)
    with monkeypatch.context() as patch:
        patch.setattr("smalti.train.optim.spared", lambda module: set())
        before = fit(made(), Codes(), tmp_path, config)
    after = Trainer(made(), Codes(), config, tmp_path, WORLD)
    sizes = [
        [len(g["params"]) for g in t.optimizers["model"].param_groups] for t in (before, after)
    ]
    assert after.resume() and after.step == 5 and sizes[0] != sizes[1]
    weights = dict(after.objective.named_parameters())
    states = [t.optimizers["model"].state for t in (before, after)]
    for name, weight in before.objective.named_parameters():
        assert_equal(states[1][weights[name]], states[0][weight])


def test_checkpoints_of_another_model_are_refused(tmp_path):
    fit(generator(), Codes(), tmp_path, replace(CONFIG, steps=5))
    other = generator()
    other.model.register_buffer("more", torch.zeros(1))
    with pytest.raises(ValueError, match="of another model: 1 weights missing .'model.more'."):
        fit(other, Codes(), tmp_path, replace(CONFIG, steps=5))


def test_what_is_evaluated_at_a_step_is_there_before_its_checkpoint(tmp_path):
    class Killed(Exception):
        pass

    def killed():
        raise Killed

    config = replace(CONFIG, eval_every=5)
    with pytest.raises(Killed):
        fit(generator(), Codes(), tmp_path, config, evaluate=killed)
    assert checkpoint.found(tmp_path / "checkpoints") == []
    fit(generator(), Codes(), tmp_path, config, evaluate=lambda: {"x": math.inf})
    told = [m["step"] for m in metrics(tmp_path) if m.get("held_out_x") == "inf"]
    assert told == [5, 10, 12]


@pytest.mark.parametrize(
    ("place", "at", "pins"), [("cuda", "cpu", 1), ("cuda", "cuda", 0), ("cpu", "cpu", 0)]
)
def test_a_gpu_is_sent_batches_from_pinned_memory(place, at, pins):
    """Else each step would wait until the GPU is done with the one before."""

    class Seen:
        device, said = torch.device(at), []

        def pin_memory(self):
            self.said.append("pinned")
            return self

        def to(self, device, non_blocking):
            self.said.append((device.type, non_blocking))
            return self

    seen = sent(Seen(), torch.device(place))
    assert seen.said == ["pinned"] * pins + [(place, True)]
