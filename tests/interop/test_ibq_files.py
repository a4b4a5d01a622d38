"""IBQ's files: tensors back to the config, Lightning's checkpoints, refusals."""

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
from smalti.interop.projects.ibq import PUBLISHED, ar_sizes, ar_state, tokenizer_sizes
from smalti.interop.projects.var import vae_state
from smalti.models.ibq import IBQ, SIZES, IBQConfig, tiny
from smalti.modules import assemble, load_module
from smalti.tokenizers.ibq import IBQTokenizer, IBQTokenizerConfig, f16
from smalti.tokenizers.ibq import tiny as tiny_tokenizer


def checkpoint(module, config, name="x.ckpt"):
    """A checkpoint without numbers: shapes are all that sizes are found from."""
    with torch.device("meta"):
        return Checkpoint(Path(name), official(module(config)), {})


@st.composite
def generators(draw) -> IBQConfig:
    heads = draw(st.integers(1, 3))
    return IBQConfig(
        grid=(draw(st.integers(1, 6)), draw(st.integers(1, 6))),
        vocab=draw(st.integers(2, 40)),
        classes=draw(st.integers(1, 12)),
        layers=draw(st.integers(1, 3)),
        heads=heads,
        dim=4 * heads * draw(st.integers(1, 5)),
        multiple_of=256,
        shared_adaln=draw(st.booleans()),
    )


@settings(max_examples=20)
@given(config=generators())
def test_generators_come_back(config):
    stored = checkpoint(IBQ, config)
    found = ar_sizes(stored, config.grid, config.heads)
    assert found == config
    assert assemble(IBQ, found, ar_state(stored.state), "x").config == config


@pytest.mark.parametrize("size", SIZES)
def test_published_generators(size):
    config = IBQConfig(**SIZES[size])
    assert ar_sizes(checkpoint(IBQ, config), (16, 16)) == config


@st.composite
def tokenizers(draw) -> IBQTokenizerConfig:
    multipliers = draw(st.tuples(*[st.integers(1, 4)] * draw(st.integers(1, 4))))
    patch = draw(st.sampled_from([1, 2]))
    cells = [patch * 2**i for i in range(len(multipliers))]
    config = IBQTokenizerConfig(
        size=(cells[-1], cells[-1]),
        patch=patch,
        channels=draw(st.integers(1, 6)),
        multipliers=multipliers,
        blocks=draw(st.integers(1, 3)),
        latent=draw(st.integers(1, 9)),
        vocab=draw(st.integers(2, 20)),
        dim=draw(st.integers(1, 9)),
        attention_at=tuple(c for c in cells if draw(st.booleans())),
    )
    return config


@settings(max_examples=20)
@given(config=tokenizers())
def test_tokenizers_come_back(config):
    stored = checkpoint(IBQTokenizer, config)
    assert tokenizer_sizes(stored) == config
    assert assemble(IBQTokenizer, config, vae_state(stored.state), "x").config == config


@pytest.mark.parametrize("vocab", [1024, 8192, 16384, 262144])
def test_published_tokenizers(vocab):
    config = f16(vocab)
    assert replace(tokenizer_sizes(checkpoint(IBQTokenizer, config)), size=(256, 256)) == config


def flat(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A moving average as it is stored."""
    counters = {"model_ema.decay": torch.tensor(0.999), "model_ema.num_updates": torch.tensor(-1)}
    return counters | {f"model_ema.{k.replace('.', '')}": t for k, t in state.items()}


LOSSES = {
    "loss.discriminator.main.0.weight": torch.ones(2),
    "loss.perceptual_loss.x": torch.ones(1),
}


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
    vq, model = build(IBQTokenizer, tiny_tokenizer()), build(IBQ, tiny())
    state = official(vq)
    first = tokenizer_file(state, tmp_path / "imagenet256_32.ckpt")
    held = wrapped(official(model), "transformer") | wrapped(state | LOSSES, "first_stage_model")
    return vq, model, first, write({"state_dict": held}, tmp_path / "AR.ckpt")


def convert(*words: object) -> None:
    main(["convert", "ibq", *(str(word) for word in words)])


@pytest.mark.parametrize(("weights", "averaged"), [("", True), ("ema", True), ("model", False)])
def test_a_tokenizer_alone(files, tmp_path, capsys, weights, averaged):
    vq, _, first, _ = files
    chosen = ("--weights", weights) if weights else ()
    convert("--tokenizer", first, "--size", "16x24", "--out", tmp_path / "t", *chosen)
    found, info = load_module(tmp_path / "t", modules.TOKENIZERS)
    assert same(found, vq) == averaged
    assert found.size == (16, 24) and list(info["files"]) == ["imagenet256_32.ckpt"]
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
    assert pipe.sampling == PUBLISHED["B"]
    said = capsys.readouterr().err
    assert "names begin with 'transformer.'" in said
    assert ("names begin with 'first_stage_model.'" in said) == inside
    assert len(pipe(n=2, seed=0)) == 2


def test_a_modulation_that_layers_share(tmp_path, files):
    vq, _, first, _ = files
    model = build(IBQ, replace(tiny(), shared_adaln=True))
    held = write({"state_dict": wrapped(official(model), "transformer")}, tmp_path / "AR.ckpt")
    words = ["--model", held, "--size", 16, "--heads", 2, "--dtype", "float32"]
    convert("--tokenizer", first, *words, "--out", tmp_path / "p")
    pipe = smalti.load(tmp_path / "p", "cpu", torch.float32)
    assert same(pipe.model, model) and pipe.model.config.shared_adaln


def refused(capsys, *words: object) -> str:
    """The one line with which a command ends."""
    with pytest.raises(SystemExit) as stopped:
        convert(*words)
    assert stopped.value.code == 2
    said = capsys.readouterr().err.splitlines()
    lines = [line for line in said if line.startswith("smalti convert: ")]
    assert len(lines) == 1
    return lines[0]


def test_files_that_do_not_fit(files, tmp_path, capsys):
    _, model, first, second = files
    out = ["--out", tmp_path / "p", "--size", "16"]
    line = refused(capsys, "--tokenizer", first, "--model", second, *out)
    assert "no published model has 2 layers of width 32; give --heads" in line
    out += ["--heads", 2]
    more = build(IBQTokenizer, replace(tiny_tokenizer(), vocab=33))
    wide = tokenizer_file(official(more), tmp_path / "w.ckpt")
    line = refused(capsys, "--tokenizer", wide, "--model", second, *out)
    assert "AR.ckpt draws one of 32 codes; the tokenizer has 33" in line
    state = official(model)
    read = state | {"embedding_projection.fc1.weight": torch.ones(32, 4)}
    line = refused(capsys, "--tokenizer", first, "--model", write(read, tmp_path / "r.ckpt"), *out)
    assert "r.ckpt reads codes as rows of its tokenizer's table" in line
    head = state | {"head.weight": torch.ones(31, 32)}
    line = refused(capsys, "--tokenizer", first, "--model", write(head, tmp_path / "h.ckpt"), *out)
    assert "head.proj.weight has shape (31, 32), its configuration asks for (32, 32)" in line
    assert not (tmp_path / "p").exists()
