"""Runs that begin from something trained, from the command line to the exported pipeline."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import smalti
from builders import build
from processes import launch
from small_systems import GENERATOR, TOKENIZER, write_pictures
from smalti import modules
from smalti.cli.main import main
from smalti.config import read_json
from smalti.data.code_batches import CodeBatches
from smalti.models import llamagen
from smalti.modules import load_module, save_module
from smalti.pipeline.pipeline import Pipeline
from smalti.recipes.base import GeneratorRecipe, TextRecipe, TokenizerRecipe
from smalti.runs import finetune
from smalti.text.byte_words import ByteEncoder, BytesConfig
from smalti.tokenizers import multiscale_vqvae, vqgan
from smalti.train.lora import LoraConfig

pytestmark = pytest.mark.usefixtures("float32")

FAST = "--train.steps 12 --train.log-every 1 --train.optim.lr 0.01 --train.optim.warmup 1".split()
LORA = ["--lora.rank", "4"]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A pipeline `g/pipeline` of the classes dawn, day and night, and pictures of others, `new`."""
    folder = tmp_path_factory.mktemp("work")
    write_pictures(folder / "old", 24, ("dawn", "day", "night"))
    write_pictures(folder / "new", 24, ("Night", "noon"))
    old = ["--data.source", f"folder:{folder / 'old'}"]
    main(["train", "emoji_vqgan", "--out", str(folder / "t"), *TOKENIZER, *old])
    tokenizer = ["--tokenizer", str(folder / "t" / "tokenizer")]
    command = ["train", "emoji_llamagen", "--out", str(folder / "g"), *GENERATOR, *old, *FAST]
    main([*command, *tokenizer, "--sampling.temperature", "0.7"])
    return folder


def go_on(work: Path, out: Path, *more: object) -> Path:
    """Fine-tune the pipeline on the new pictures and return the folder of the run."""
    new = ["--init", work / "g" / "pipeline", "--data.source", f"folder:{work / 'new'}"]
    command = ["train", "emoji_llamagen", "--out", out, *GENERATOR, *new, *FAST, *more]
    main([str(a) for a in command])
    return out


def mistake(capsys, work: Path, out: Path, *more: object) -> str:
    """The one line in which a wrong use ends."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        go_on(work, out, *more)
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    return line


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("more", [[], LORA], ids=["full", "lora"])
def test_a_pipeline_learns_other_classes(work, tmp_path, capsys, more):
    before = (work / "g" / "pipeline" / "model" / "model.safetensors").read_bytes()
    run = go_on(work, tmp_path / "run", *more)
    first, *rest = losses(run)
    assert first < losses(work / "g")[0] and sum(rest[-4:]) / 4 < first
    old, new = smalti.load(work / "g" / "pipeline"), smalti.load(run / "pipeline")
    assert (new.classes, old.classes) == (["Night", "noon"], ["dawn", "day", "night"])
    assert new.sampling == old.sampling and new.sampling.filters.temperature == 0.7
    config = replace(old.model.config, classes=2)
    assert (
        new.model.config == config
        and new.model.state_dict().keys() == weights(work / "g" / "pipeline").keys()
    )
    total = sum(p.numel() for p in new.model.parameters())
    # 4 rows and 4 columns per target, and the table of 2 + 1 classes
    updates = 4 * (16 + 48 + 16 + 16 + 3 * (16 + 48))
    said = (updates + 3 * 16, total + updates) if more else (total, total)
    line = f"generator: training {said[0]:,} of {said[1]:,} parameters"
    assert line in capsys.readouterr().err.splitlines()
    assert len(new(["noon"], 2)) == 2 and list((run / "previews").iterdir())
    info, begun = read_json(run / "pipeline" / "pipeline.json"), old.fingerprint
    assert info["init"] == begun == read_json(run / "init.json")["fingerprint"]
    assert (work / "g" / "pipeline" / "model" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("ema", ["0", "0.9"])
def test_lora_changes_its_targets_and_the_class_table(work, tmp_path, ema):
    run = go_on(work, tmp_path / "run", *LORA, "--train.ema", ema)
    old, new = weights(work / "g" / "pipeline"), weights(run / "pipeline")
    changed = {k for k in old if old[k].shape != new[k].shape or not torch.equal(old[k], new[k])}
    names = ["attention.wqkv", "attention.wo", *(f"feed_forward.w{i}" for i in (1, 2, 3))]
    assert changed == {"cls_embedding.weight", *(f"layers.0.{n}.weight" for n in names)}
    report = read_json(run / "report.json")["held_out_nats_per_token"]
    pipe = smalti.load(run / "pipeline")
    measured = evaluate(pipe, run / "codes.arrow")
    assert measured == pytest.approx(report, abs=1e-5)


def evaluate(pipe: Pipeline, codes: Path) -> float:
    from smalti.data.token_cache import TokenCache
    from smalti.eval.likelihood import likelihood

    cache = TokenCache(codes)
    batches = CodeBatches(cache, cache.indices("held_out"), 8, train=False)
    return likelihood(pipe.model, batches.evaluation(64), pipe.device)["nats_per_token"]


@pytest.mark.parametrize("more", [[], LORA], ids=["full", "lora"])
def test_a_resumed_run_equals_an_uninterrupted_one(work, tmp_path, monkeypatch, more):
    whole, cut = go_on(work, tmp_path / "whole", *more), tmp_path / "cut"
    batch = CodeBatches.batch

    def broken(self, step):
        if step == 7:
            raise OSError("cut")
        return batch(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(CodeBatches, "batch", broken)
        with pytest.raises(SystemExit):
            go_on(work, cut, *more)
    assert not (cut / "pipeline").exists()
    go_on(work, cut, *more)
    a, b = weights(whole / "pipeline"), weights(cut / "pipeline")
    assert all(torch.equal(v, b[k]) for k, v in a.items())


@pytest.mark.multi
def test_two_processes_fine_tune_as_one(work, tmp_path):
    arguments = ["--init", work / "g" / "pipeline", "--data.source", f"folder:{work / 'new'}"]
    # dropout is drawn by every process for itself
    arguments += [*GENERATOR, *FAST, *LORA, "--model.dropout", 0, "--model.drop-path", 0]
    arguments = [str(a) for a in [*arguments, "--objective.cond-dropout", 0]]
    command = ["train", "emoji_llamagen", *arguments, "--out"]
    main([*command, str(tmp_path / "one")])
    launch(2, *command, str(tmp_path / "two"))
    one, two = (weights(tmp_path / name / "pipeline") for name in ("one", "two"))
    assert all(torch.allclose(two[name], value, atol=1e-4) for name, value in one.items())


def test_a_pipeline_that_changed_behind_a_run_is_noticed(work, tmp_path, capsys):
    init = tmp_path / "init"
    shutil.copytree(work / "g" / "pipeline", init)
    pipe = smalti.load(init)
    go_on(work, tmp_path / "run", "--init", init)
    (tmp_path / "run" / "report.json").unlink()  # a run that is not finished
    with torch.no_grad():
        pipe.model.norm.weight += 1
    Pipeline(pipe.tokenizer, pipe.model, pipe.classes).save_pretrained(init)
    line = mistake(capsys, work, tmp_path / "run", "--init", init)
    assert f"run began from {pipe.fingerprint}, but {init} is now" in line
    pipe.info.pop("fingerprint")
    pipe.save_pretrained(tmp_path / "other")
    line = mistake(capsys, work, tmp_path / "run", "--init", tmp_path / "other")
    assert "holds a run of another recipe: init was" in line
    go_on(work, tmp_path / "run")  # from what it began with, which is elsewhere too
    assert "going on from step 12" in capsys.readouterr().err


def test_the_tokenizer_and_codes_may_be_given_again(work, tmp_path):
    codes, tokenizer = tmp_path / "codes.arrow", work / "t" / "tokenizer"
    new = f"folder:{work / 'new'}"
    main(["encode", new, "--tokenizer", str(work / "g" / "pipeline"), "--out", str(codes)])
    given = go_on(work, tmp_path / "a", "--codes", codes, "--tokenizer", tokenizer)
    made = go_on(work, tmp_path / "b")
    assert losses(given) == losses(made)


def test_a_tokenizer_goes_on_with_its_codebook(work, tmp_path, capsys):
    command = ["train", "emoji_vqgan", *TOKENIZER, "--data.source", f"folder:{work / 'new'}"]
    for name, init in (("a", work / "g" / "pipeline"), ("b", work / "t" / "tokenizer")):
        main([*command, "--out", str(tmp_path / name), "--init", str(init)])
        assert losses(tmp_path / name)[0] < losses(work / "t")[0]
    old = load_file(work / "t" / "tokenizer" / "model.safetensors")
    new = load_file(tmp_path / "b" / "tokenizer" / "model.safetensors")
    moved = (old["quantize.embedding.weight"] - new["quantize.embedding.weight"]).abs().max()
    assert 0 < moved < 0.05
    marks = [read_json(tmp_path / n / "init.json")["fingerprint"] for n in "ab"]
    config = read_json(work / "t" / "tokenizer" / "config.json")
    assert marks == [config["fingerprint"]] * 2
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*command, "--out", str(tmp_path / "c"), "--init", str(work / "g" / "checkpoints")])
    assert "is not a folder with a config.json" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


@pytest.fixture(scope="module")
def others(work, tmp_path_factory):
    """Another tokenizer, `other`, and its codes, `codes`."""
    folder = tmp_path_factory.mktemp("others")
    config = read_json(work / "t" / "tokenizer" / "config.json")["config"]
    wider = vqgan.VQGANConfig(**config | {"vocab": 32, "size": (32, 32)})
    save_module(build(vqgan.VQGAN, wider, 1), folder / "other")
    names = {"other": str(folder / "other"), "codes": str(folder / "codes.arrow")}
    main(["encode", "shapes:8", "--tokenizer", names["other"], "--out", names["codes"]])
    return names


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--init", "{work}/t/tokenizer"], "t/tokenizer is not a pipeline: it has no pipeline"),
        (["--init", "nowhere"], "nowhere is neither a folder nor a hub id"),
        (["--lora.rank", "-1"], "lora.rank must be 0 or more, got -1"),
        (["--lora.rank", "17"], "lora.rank must be at most 16, the smaller width of layers.0"),
        ([*LORA, "--lora.targets", "wq"], "lora.targets must be among wqkv, wo, w1, w3, w2, proj"),
        ([*LORA, "--init", ""], "lora.rank 4 needs --init PIPELINE"),
        (["--tokenizer", "{other}"], "leave --tokenizer out"),
        (["--codes", "{codes}"], "but the tokenizer given is"),
    ],
)
def test_wrong_uses_are_one_line_and_leave_nothing(work, others, tmp_path, capsys, more, words):
    more = [text.format(work=work, **others) for text in more]
    assert words in mistake(capsys, work, tmp_path / "run", *more)
    assert not (tmp_path / "run").exists()


def test_a_model_of_another_type_is_named(work, tmp_path):
    class Other(llamagen.LlamaGenConfig):
        pass

    recipe = GeneratorRecipe(init=str(work / "g" / "pipeline"), model=Other())
    with pytest.raises(ValueError, match="holds a llamagen, which this recipe does not train"):
        finetune.open_pipeline(recipe, tmp_path, torch.device("cpu"))


def test_a_tokenizer_of_another_type_is_named(tmp_path):
    save_module(build(vqgan.VQGAN, vqgan.tiny()), tmp_path / "t")
    recipe = TokenizerRecipe(init=str(tmp_path / "t"), model=multiscale_vqvae.tiny())
    with pytest.raises(ValueError, match="holds a vqgan, .* not train: it takes MultiScaleConfig"):
        finetune.open_tokenizer(recipe, tmp_path)


NAMES = st.lists(st.text("abcAB", min_size=1, max_size=3), min_size=1, max_size=6)


@given(
    before=NAMES.filter(lambda names: len({n.lower() for n in names}) == len(names)), after=NAMES
)
def test_the_class_table_keeps_rows_by_name(before, after):
    old = torch.arange(len(before) + 1.0)[:, None].expand(-1, 64) * 10
    new = finetune.class_table(old, before, after)
    assert new.shape == (len(after) + 1, 64)
    assert torch.equal(new[-1], old[-1])
    lower = [n.lower() for n in before]
    for name, row in zip(after, new, strict=False):
        if name.lower() in lower:
            assert torch.equal(row, old[lower.index(name.lower())])
        else:
            assert 0 < (row - old[:-1].mean(0)).abs().max() < 0.2


def test_a_text_pipeline_keeps_its_condition():
    config = replace(llamagen.tiny(), classes=0, text_length=3, text_dim=8)
    model = build(llamagen.LlamaGen, config)
    tokenizer = build(vqgan.VQGAN, replace(vqgan.tiny(), vocab=32))
    encoder = build(ByteEncoder, BytesConfig(length=3, dim=8, layers=1, heads=2))
    recipe = TextRecipe(init="x", lora=LoraConfig(2), model=config)
    adapted = finetune.adapted(Pipeline(tokenizer, model, text=encoder), recipe, [], model.spec)
    assert adapted.config == config
    assert torch.equal(adapted.text_prefix.uncond, model.text_prefix.uncond)
    assert adapted.text_prefix.fc1.weight.requires_grad


@pytest.mark.parametrize("more", [[], LORA], ids=["full", "lora"])
def test_a_text_pipeline_learns_other_captions(work, tmp_path, capsys, more):
    tokenizer = ["--tokenizer", str(work / "t" / "tokenizer")]
    sizes = "--text.length 48 --text.dim 16 --text.layers 1 --text.heads 2".split()
    command = ["train", "shapes_t2i", *GENERATOR, *FAST, *sizes]
    main([*command, *tokenizer, "--data.source", "shapes:24", "--out", str(tmp_path / "a")])
    begun = tmp_path / "a" / "pipeline"
    given = ["--init", str(begun), "--data.source", "shapes:40", "--out", str(tmp_path / "b")]
    main([*command, *given, *more])
    old, new = smalti.load(begun), smalti.load(tmp_path / "b" / "pipeline")
    assert losses(tmp_path / "b")[0] < losses(tmp_path / "a")[0]
    assert new.text.config == old.text.config
    name = "embedding.weight"
    assert not torch.equal(new.text.state_dict()[name], old.text.state_dict()[name])
    assert len(new(text="a small red heart", n=2)) == 2
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*command, "--init", str(work / "g" / "pipeline"), "--out", str(tmp_path / "c")])
    assert "draws from classes, this recipe trains on text" in capsys.readouterr().err


def test_a_pipeline_goes_on_at_another_size(work, tmp_path):
    """As stage 2 of LlamaGen: the tokenizer's weights, more codes."""
    tokenizer, _ = load_module(work / "t" / "tokenizer", modules.TOKENIZERS)
    tokenizer.config = replace(tokenizer.config, size=(32, 32))
    save_module(tokenizer, tmp_path / "larger")
    run = go_on(work, tmp_path / "run", "--tokenizer", tmp_path / "larger")
    pipe, before = smalti.load(run / "pipeline"), smalti.load(work / "g" / "pipeline")
    assert (before.model.spec.grids, pipe.model.spec.grids) == (((4, 4),), ((8, 8),))
    assert pipe(n=1)[0].size == (32, 32)
    assert losses(run)[0] < math.log(16)  # as it was begun, not as a new model
