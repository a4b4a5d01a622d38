"""Open-MAGVIT2's files: tensors back to the config, Lightning's checkpoints, refusals."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import smalti
from builders import build
from official import official, other, wrapped, write
from smalti import modules
from smalti.cli.main import main
from smalti.interop.pickles import Checkpoint
from smalti.interop.projects.open_magvit2 import gpt_sizes, gpt_state, lfq_sizes
from smalti.models.open_magvit2 import SIZES, OpenMAGVIT2, OpenMAGVIT2Config, tiny
from smalti.modules import assemble, load_module
from smalti.pipeline.sampling import Sampling
from smalti.tokenizers.open_magvit2 import OpenMAGVIT2LFQ, OpenMAGVIT2LFQConfig, f16
from smalti.tokenizers.open_magvit2 import tiny as tiny_lfq

LFQ = replace(tiny_lfq(), bits=5)


def checkpoint(module, config, name="x.ckpt"):
    """A checkpoint without numbers: shapes are all that sizes are found from."""
    with torch.device("meta"):
        return Checkpoint(Path(name), official(module(config)), {})


@st.composite
def generators(draw) -> OpenMAGVIT2Config:
    heads, groups = draw(st.integers(1, 3)), draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    return OpenMAGVIT2Config(
        grid=(draw(st.integers(1, 6)), draw(st.integers(1, 6))),
        channels=sum(groups),
        groups=groups,
        classes=draw(st.integers(1, 12)),
        layers=draw(st.integers(1, 3)),
        intra_layers=draw(st.integers(1, 2)),
        heads=heads,
        dim=4 * heads * draw(st.integers(1, 5)),
        multiple_of=256,
    )


@settings(max_examples=20)
@given(config=generators())
def test_generators_come_back(config):
    stored = checkpoint(OpenMAGVIT2, config)
    found = gpt_sizes(stored, config.grid, config.heads)
    assert found == config
    assert assemble(OpenMAGVIT2, found, gpt_state(stored.state), "x").config == config


@pytest.mark.parametrize("size", SIZES)
def test_published_generators(size):
    config = OpenMAGVIT2Config(**SIZES[size])
    found = gpt_sizes(checkpoint(OpenMAGVIT2, config), (16, 16))
    ratios = {"guidance_ratios": (), "temperature_ratios": ()}
    assert replace(found, **ratios) == config
    assert bool(found.guidance_ratios) == (size != "L")
    assert bool(found.temperature_ratios) == (size == "XL")


@st.composite
def tokenizers(draw) -> OpenMAGVIT2LFQConfig:
    config = OpenMAGVIT2LFQConfig(
        channels=draw(st.integers(1, 6)),
        multipliers=draw(st.tuples(*[st.integers(1, 4)] * draw(st.integers(1, 4)))),
        blocks=draw(st.integers(1, 3)),
        bits=draw(st.integers(1, 20)),
    )
    return replace(config, size=(config.factor, config.factor))


@settings(max_examples=20)
@given(config=tokenizers())
def test_tokenizers_come_back(config):
    assert lfq_sizes(checkpoint(OpenMAGVIT2LFQ, config)) == config


def test_the_published_tokenizer():
    assert replace(lfq_sizes(checkpoint(OpenMAGVIT2LFQ, f16())), size=(256, 256)) == f16()


def flat(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A moving average as it is stored."""
    counters = {"model_ema.decay": torch.tensor(0.999), "model_ema.num_updates": torch.tensor(7)}
    return counters | {f"model_ema.{k.replace('.', '')}": t for k, t in state.items()}


LOSSES = {"loss.discriminator.main.0.weight": torch.ones(2), "loss.lpips.lin0": torch.ones(1)}


def tokenizer_file(state: dict[str, Tensor], path: Path) -> Path:
    """As training writes it: wrong weights beside their average, and losses."""
    held = other(state) | LOSSES | flat(state)
    return write({"state_dict": held, "epoch": 3, "global_step": 5}, path)


def same(module, wanted: torch.nn.Module) -> bool:
    state, theirs = module.state_dict(), wanted.state_dict()
    return state.keys() == theirs.keys() and all(torch.equal(state[k], theirs[k]) for k in state)


@pytest.fixture
def files(tmp_path):
    """A tokenizer's checkpoint, and a generator's that holds the tokenizer too."""
    vq, model = build(OpenMAGVIT2LFQ, LFQ), build(OpenMAGVIT2, tiny())
    first = tokenizer_file(vq.state_dict(), tmp_path / "imagenet.ckpt")
    held = wrapped(official(model), "transformer")
    held |= wrapped(vq.state_dict() | LOSSES, "first_stage_model")
    return vq, model, first, write({"state_dict": held}, tmp_path / "AR.ckpt")


def convert(*words: object) -> None:
    main(["convert", "open-magvit2", *(str(word) for word in words)])


@pytest.mark.parametrize(("weights", "averaged"), [("", True), ("ema", True), ("model", False)])
def test_a_tokenizer_alone(files, tmp_path, capsys, weights, averaged):
    vq, _, first, _ = files
    chosen = ("--weights", weights) if weights else ()
    convert("--tokenizer", first, "--size", "16x24", "--out", tmp_path / "t", *chosen)
    found, info = load_module(tmp_path / "t", modules.TOKENIZERS)
    assert same(found, vq) == averaged
    assert found.size == (16, 24) and list(info["files"]) == ["imagenet.ckpt"]
    assert "2 tensors of its training losses are left out" in capsys.readouterr().err


@pytest.mark.parametrize("inside", [False, True])
def test_a_pipeline(files, tmp_path, capsys, inside):
    """Of both files, or of the generator's alone; codes are those of the average."""
    vq, model, first, second = files
    words = ["--model", second, "--size", 16, "--heads", 2, "--dtype", "float32"]
    convert("--tokenizer", second if inside else first, *words, "--out", tmp_path / "p")
    pipe = smalti.load(tmp_path / "p", "cpu", torch.float32)
    assert same(pipe.tokenizer, vq) and same(pipe.model, model)
    assert pipe.model.config == replace(tiny(), dropout=0.1)
    assert pipe.sampling == Sampling.of(guidance=1.9)
    said = capsys.readouterr().err
    assert "names begin with 'transformer.'" in said
    assert ("names begin with 'first_stage_model.'" in said) == inside
    assert len(pipe(n=2, seed=0)) == 2


def test_the_average_of_a_generator(files, tmp_path):
    vq, model, first, _ = files
    state = official(model)
    held = wrapped(other(state), "transformer") | wrapped(vq.state_dict(), "first_stage_model")
    words = ["--size", 16, "--heads", 2, "--dtype", "float32", "--weights", "ema"]
    for i, average in enumerate((flat(state), flat(wrapped(state, "transformer")))):
        file = write({"state_dict": held | average}, tmp_path / f"{i}.ckpt")
        convert("--tokenizer", first, "--model", file, *words, "--out", tmp_path / f"p{i}")
        pipe = smalti.load(tmp_path / f"p{i}", "cpu", torch.float32)
        assert same(pipe.model, model) and same(pipe.tokenizer, vq)


def refused(capsys, *words: object) -> str:
    """The one line with which a command ends."""
    with pytest.raises(SystemExit) as stopped:
        convert(*words)
    assert stopped.value.code == 2
    said = capsys.readouterr().err.splitlines()
    lines = [line for line in said if line.startswith("smalti convert: ")]
    assert len(lines) == 1
    return lines[0]


def test_a_bit_width_that_the_tensors_do_not_have(files, tmp_path, capsys):
    _, model, first, second = files
    out = ["--out", tmp_path / "p", "--size", "16", "--heads", 2]
    wide = tokenizer_file(build(OpenMAGVIT2LFQ, replace(LFQ, bits=6)).state_dict(), tmp_path / "w")
    line = refused(capsys, "--tokenizer", wide, "--model", second, *out)
    assert "AR.ckpt draws codes of 5 bits, in groups of 2 and 3; the tokenizer has 6" in line
    state = official(model)
    odd = state | {"pre_emb.weight": torch.ones(3, 32)}
    line = refused(capsys, "--tokenizer", first, "--model", write(odd, tmp_path / "odd.ckpt"), *out)
    assert "odd.ckpt: pre_emb must have 2, 4, 8, ... rows" in line and "got 3" in line
    head = state | {"head.1.weight": torch.ones(16, 32)}
    line = refused(
        capsys, "--tokenizer", first, "--model", write(head, tmp_path / "head.ckpt"), *out
    )
    assert "head.parts.1.proj.weight has shape (16, 32), its configuration asks for (8, 32)" in line
    state = build(OpenMAGVIT2LFQ, LFQ).state_dict()
    state["decoder.conv_in.weight"] = torch.ones(24, 4, 3, 3)
    line = refused(
        capsys, "--tokenizer", write(state, tmp_path / "io.ckpt"), "--out", tmp_path / "t"
    )
    assert "io.ckpt writes codes of 5 bits, and reads codes of 4" in line


def test_other_sizes_need_heads(files, tmp_path, capsys):
    _, _, first, second = files
    line = refused(capsys, "--tokenizer", first, "--model", second, "--out", tmp_path / "p")
    assert "no published model has 2 layers of width 32; give --heads" in line


@pytest.mark.parametrize("how", ["strange", "missing", "none"])
def test_an_average_of_other_weights(tmp_path, capsys, how):
    state = build(OpenMAGVIT2LFQ, LFQ).state_dict()
    average = flat(state)
    if how == "strange":
        average["model_ema.whatisthis"] = torch.ones(1)
    elif how == "missing":
        del average["model_ema.encoderconv_outbias"]
    else:
        average = {}
    file = write({"state_dict": state | average}, tmp_path / "x.ckpt")
    words = ["--tokenizer", file, "--weights", "ema", "--out", tmp_path / "t"]
    line = refused(capsys, *words)
    told = {"strange": "1 of no name ['whatisthis']", "none": "holds no moving average 'ema'"}
    assert told.get(how, "1 missing ['encoder.conv_out.bias']") in line
    assert not (tmp_path / "t").exists()
