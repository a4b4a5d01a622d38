"""`smalti convert` of MAR, RAR, VAR and MaskGIT-VQGAN: what is written and drawn, and one line for
every mistake, above all for a file of another project."""

import json
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import smalti
from builders import build
from official import official, write
from smalti.cli.main import main
from smalti.models import infinity, llamagen, mar, maskbit, rar, var
from smalti.models.infinity import Infinity
from smalti.models.llamagen import LlamaGen
from smalti.models.mar import MAR
from smalti.models.maskbit import MaskBit
from smalti.models.rar import RAR
from smalti.models.var import VAR
from smalti.modules import MODELS, TOKENIZERS, load_module
from smalti.pipeline.pipeline import Pipeline
from smalti.tokenizers import infinity as infinity_vae
from smalti.tokenizers import kl_vae, maskgit_vqgan, multiscale_vqvae, vqgan
from smalti.tokenizers import maskbit as maskbit_vqgan
from smalti.tokenizers.infinity import InfinityVAE
from smalti.tokenizers.kl_vae import KLVAE
from smalti.tokenizers.maskbit import MaskBitVQGAN
from smalti.tokenizers.maskgit_vqgan import MaskGITVQGAN
from smalti.tokenizers.multiscale_vqvae import MultiScaleVQVAE
from smalti.tokenizers.quantize.multiscale import pyramid
from smalti.tokenizers.vqgan import VQGAN

pytestmark = [
    pytest.mark.usefixtures("float32"),
    pytest.mark.filterwarnings("ignore:.*has no moving average"),
]

SCALES = pyramid(1, 2, 3, 4)
VAE = replace(multiscale_vqvae.tiny(), size=(16, 16), scales=SCALES)
VAR_CONFIG = replace(
    var.tiny(),
    scales=SCALES,
    vocab=VAE.vocab,
    latent=VAE.dim,
    phis=VAE.phis,
    drop_path=0.1 * 2 / 24,
)
MAR_CONFIG = replace(
    mar.tiny(),
    channels=4,
    dropout=0.1,
    attention_dropout=0.1,
    head=replace(mar.tiny().head, repeat=4),
)
MODULES = {
    "llamagen": (LlamaGen, llamagen.tiny()),
    "llamagen-vq": (VQGAN, vqgan.tiny()),
    "rar": (RAR, replace(rar.tiny(), dropout=0.1)),
    "maskgit-vq": (MaskGITVQGAN, maskgit_vqgan.tiny()),
    "var": (
        VAR,
        replace(var.tiny(), scales=SCALES, vocab=VAE.vocab, latent=VAE.dim, phis=VAE.phis),
    ),
    "var-vq": (MultiScaleVQVAE, VAE),
    "mar": (MAR, MAR_CONFIG),
    "mar-vae": (KLVAE, kl_vae.tiny()),
    "infinity": (Infinity, infinity.tiny()),
    "infinity-vq": (InfinityVAE, infinity_vae.tiny()),
    "maskbit": (MaskBit, replace(maskbit.tiny(), dropout=0.1)),
    "maskbit-vq": (MaskBitVQGAN, maskbit_vqgan.tiny()),
}
TITLES = {
    "llamagen": ("a LlamaGen generator", "llamagen --model"),
    "llamagen-vq": ("a LlamaGen tokenizer", "llamagen --tokenizer"),
    "rar": ("a RAR generator", "rar --model"),
    "maskgit-vq": ("a MaskGIT-VQGAN", "maskgit-vqgan --tokenizer"),
    "var": ("a VAR transformer", "var --model"),
    "var-vq": ("a VAR tokenizer", "var --tokenizer"),
    "mar": ("a MAR generator", "mar --model"),
    "mar-vae": ("a KL-VAE", "mar --tokenizer"),
    "infinity": ("an Infinity transformer", "infinity --model"),
    "infinity-vq": ("an Infinity tokenizer", "infinity --tokenizer"),
    "maskbit": ("a MaskBit generator", "maskbit --model"),
    "maskbit-vq": ("a MaskBit tokenizer", "maskbit --tokenizer"),
}
SLOTS = {
    ("llamagen", "--tokenizer"): "llamagen-vq", ("llamagen", "--model"): "llamagen",
    ("rar", "--tokenizer"): "maskgit-vq", ("rar", "--model"): "rar",
    ("var", "--tokenizer"): "var-vq", ("var", "--model"): "var",
    ("mar", "--tokenizer"): "mar-vae", ("mar", "--model"): "mar",
    ("maskgit-vqgan", "--tokenizer"): "maskgit-vq",
    ("infinity", "--tokenizer"): "infinity-vq", ("infinity", "--model"): "infinity",
    ("maskbit", "--tokenizer"): "maskbit-vq", ("maskbit", "--model"): "maskbit",
}  # fmt: skip
"""What each option of each family takes."""
NEEDED = {
    "llamagen": ["--grid", "4"],
    "mar": ["--scale", "0.5", "--heads", "2"],
    "infinity": ["--cells", "1", "--budget", "0.06M"],
    "maskbit": ["--heads", "2"],
}
"""What small files do not say."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of every kind: rar.pt, rar-vq.pt, ..."""
    folder = tmp_path_factory.mktemp("files")
    built = {name: build(*made) for name, made in MODULES.items()}
    built["var"].learn_from(built["var-vq"])
    for name, module in built.items():
        write(official(module), folder / f"{name}.pt")
    return folder


def command(files, out, family, *options, **given):
    """The command of a family with a file for each of its options, or others if given."""
    paths = []
    for (name, option), kind in SLOTS.items():
        if name == family and (file := given.get(option[2:], f"{kind}.pt")):
            paths += [option, str(files / file)]
    told = [*NEEDED.get(family, []), *map(str, options)]
    return ["convert", family, *paths, "--out", str(out), *told]


def mistake(capsys, arguments) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert stop.value.code == 2 and not output.out and line.startswith("smalti convert: ")
    return line


def module(name):
    return build(*MODULES[name])


def original(family) -> Pipeline:
    """The pipeline of the modules that the files are made of."""
    model, tokenizer = module(family), module(SLOTS[family, "--tokenizer"])
    if family == "var":
        model.learn_from(tokenizer)
    return Pipeline(tokenizer, model)


@pytest.mark.parametrize("slot", SLOTS, ids=" ".join)
def test_a_file_of_another_kind_is_named(files, tmp_path, capsys, slot):
    family, option = slot
    for kind, (title, takes) in TITLES.items():
        if kind == SLOTS[slot]:
            continue
        given = {option[2:]: f"{kind}.pt"}
        line = mistake(capsys, command(files, tmp_path / "p", family, **given))
        path = files / f"{kind}.pt"
        assert (
            line == f"smalti convert: {path} looks like {title}; try: smalti convert {takes} {path}"
        )
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("slot", SLOTS, ids=" ".join)
def test_a_file_of_no_kind_says_what_it_lacks(files, tmp_path, capsys, slot):
    family, option = slot
    write({"x": torch.ones(2)}, files / "nothing.pt")
    line = mistake(capsys, command(files, tmp_path / "p", family, **{option[2:]: "nothing.pt"}))
    assert re.search(r"nothing.pt is no such file of [\w' -]+: it has no [a-z]", line)


@pytest.mark.parametrize(
    ("family", "sampling"),
    [
        ("rar", {"guidance": 4.0, "schedule": "constant", "top_k": 0, "top_p": 1.0}),
        ("var", {"guidance": 2.5, "schedule": "linear", "top_k": 900, "top_p": 0.96}),
        pytest.param(
            "mar",
            {"guidance": 3.0, "schedule": "linear", "steps": 16},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_pipeline_draws_as_the_original_does(files, tmp_path, capsys, family, sampling):
    out, wanted = tmp_path / "p", original(family)
    main([*command(files, out, family), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["kind"] == "pipeline" and report["classes"] == list("01234")
    assert {k: report["sampling"][k] for k in sampling} == sampling
    assert [len(digest) for digest in report["files"].values()] == [64, 64]
    pipe = smalti.load(out, "cpu", torch.float32)
    config = pipe.model.config
    config = replace(config, drop_path=0.0) if family == "var" else config
    assert config == wanted.model.config
    assert pipe.tokenizer.config == wanted.tokenizer.config
    drawn, expected = (p(n=3, seed=5, **sampling) for p in (pipe, wanted))
    for ours, theirs in zip(drawn, expected, strict=True):
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))
    picture = tmp_path / "x.png"
    main(["sample", str(out), "--classes", "2", "--out", str(picture)])
    assert Image.open(picture).size == (16, 16)


@pytest.mark.parametrize("family", ["rar", "var", "mar"])
@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_dtype_is_of_the_generator_alone(files, tmp_path, family, name):
    main(command(files, tmp_path / "p", family, "--dtype", name))
    tokenizer, _ = load_module(tmp_path / "p" / "tokenizer", TOKENIZERS)
    model, _ = load_module(tmp_path / "p" / "model", MODELS)
    assert {t.dtype for t in tokenizer.state_dict().values()} == {torch.float32}
    kinds = {k.startswith("quantize."): t.dtype for k, t in model.state_dict().items()}
    assert kinds.pop(False) == getattr(torch, name) and set(kinds.values()) <= {torch.float32}


def test_a_pipeline_of_scales_of_bits(files, tmp_path, capsys):
    """Its text encoder is named, and asked for when a text is drawn."""
    out = tmp_path / "p"
    main([*command(files, out, "infinity", "--text", "some/t5", "--ratio", 1.25), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["text"]["config"]["model"] == "some/t5"
    pipe, wanted = smalti.load(out, "cpu", torch.float32), module("infinity")
    grids = infinity_vae.schedule(1.25, "0.06M")
    assert pipe.model.config == replace(
        infinity.tiny(), scales=grids, multiple_of=1, gate=5e-6, drop_path=0.1
    )
    assert pipe.tokenizer.size == (4 * grids[-1][0], 4 * grids[-1][1])
    for name, tensor in wanted.state_dict().items():
        assert torch.allclose(pipe.model.state_dict()[name], tensor)


def test_grids_and_sizes_that_are_given(files, tmp_path):
    write(official(build(RAR, replace(rar.tiny(), grid=(2, 8)))), files / "wide.pt")
    main(command(files, tmp_path / "p", "rar", "--grid", "2x8", model="wide.pt"))
    pipe = smalti.load(tmp_path / "p")
    assert pipe.model.config.grid == (2, 8) and pipe.tokenizer.config.size == (8, 32)
    main(command(files, tmp_path / "t", "maskgit-vqgan", "--size", "8x12"))
    tokenizer, info = load_module(tmp_path / "t", TOKENIZERS)
    assert tokenizer.config == replace(maskgit_vqgan.tiny(), size=(8, 12))
    assert list(info["files"]) == ["maskgit-vq.pt"]
    main(command(files, tmp_path / "u", "var", "--scales", 1, 3, "--l2-norm", model=""))
    tokenizer, _ = load_module(tmp_path / "u", TOKENIZERS)
    assert tokenizer.config == replace(VAE, size=(12, 12), scales=pyramid(1, 3), l2_norm=True)
    main(command(files, tmp_path / "v", "var", model=""))
    tokenizer, _ = load_module(tmp_path / "v", TOKENIZERS)
    assert tokenizer.config.size == (64, 64) and len(tokenizer.spec.grids) == 10


def test_settings_that_no_file_has(files, tmp_path):
    """Each has a default, which all published files have, and an option."""
    main(command(files, tmp_path / "l", "llamagen", "--heads", 2))
    assert smalti.load(tmp_path / "l").model.config.rope_base == 10000
    main(command(files, tmp_path / "l", "llamagen", "--heads", 2, "--rope-base", 500,
                 "--norm-eps", "1e-3", "--no-l2-norm"))  # fmt: skip
    pipe = smalti.load(tmp_path / "l")
    assert (pipe.model.config.rope_base, pipe.model.config.norm_eps) == (500, 1e-3)
    assert not pipe.tokenizer.config.l2_norm
    main(command(files, tmp_path / "v", "var", "--quant-resi", "-0.25", "--norm-eps", "1e-4"))
    pipe = smalti.load(tmp_path / "v")
    assert pipe.model.config.phi_ratio == pipe.tokenizer.config.phi_ratio == 0.25
    assert pipe.model.quantize.phi[0].ratio == 0.25 and pipe.model.config.norm_eps == 1e-4
    main(command(files, tmp_path / "m", "mar", "--norm-eps", "1e-3"))
    model = smalti.load(tmp_path / "m").model
    assert model.encoder.norm.eps == model.decoder.layers[0].norm2.eps == 1e-3
    assert model.z_norm.eps == 1e-6


@pytest.mark.parametrize(
    ("family", "options", "words"),
    [
        ("llamagen", ["--heads", 2, "--rope-base", 0], "rope_base must be a positive number"),
        ("llamagen", ["--heads", 2, "--norm-eps", "nan"], "norm_eps must be a positive number"),
        ("var", ["--quant-resi", 2], "phi_ratio must be in [0, 1], got 2.0"),
        ("var", ["--norm-eps", 0], "norm_eps must be a positive number"),
        ("mar", ["--norm-eps", -1], "norm_eps must be a positive number"),
        ("rar", ["--grid", "3x5"], "rar.pt has 16 codes, a grid of 3x5 does not: give --grid"),
        (
            "rar",
            ["--grid", "x"],
            "--grid must be a number or HEIGHTxWIDTH, multiples of 1",
        ),
        ("rar", ["--dtype", "int8"], "int8"),
        ("var", ["--scales", 1, 2, 5], "var.pt: scale_embedding.weight has shape (4, 32)"),
        ("var", ["--scales", 1, 2, 3], "var.pt has 30 codes, scales of sides 1 2 3 have 14"),
        ("var", ["--scales", 3, 2, 1], "--scales must ascend from 1 or more, got 3 2 1"),
        ("var", ["--scales", 0, 1], "--scales must ascend from 1 or more, got 0 1"),
        ("var", ["--heads", 3], "var.pt has 2 heads, got --heads 3"),
        ("mar", ["--size", "32"], "--size is of a tokenizer alone, got 32 beside --model"),
        ("mar", ["--heads", 3], "dim must be a multiple of heads, got 32, 3"),
        ("mar", ["--decoder-heads", 5], "dim must be a multiple of heads, got 32, 5"),
        ("mar", ["--scale", "nan"], "scale must be a positive number, got nan"),
        ("mar", ["--scale", "-0.2"], "scale must be a positive number, got -0.2"),
        ("mar", ["--weights", "ema"], "mar.pt holds no moving average 'ema'; it has"),
        ("mar", ["--weights", "best"], "best"),
        (
            "maskgit-vqgan",
            ["--size", "18"],
            "--size must be a number or HEIGHTxWIDTH, multiples of 4",
        ),
    ],
)
def test_options_that_do_not_fit(files, tmp_path, capsys, family, options, words):
    assert words in mistake(capsys, command(files, tmp_path / "p", family, *options))
    assert not list(tmp_path.iterdir())


def test_files_that_do_not_fit_each_other(files, tmp_path, capsys):
    made = {
        "vocab.pt": build(RAR, replace(rar.tiny(), vocab=33)),
        "latent.pt": build(VAR, replace(MODULES["var"][1], latent=VAE.dim + 1)),
        "codes.pt": build(VAR, replace(MODULES["var"][1], vocab=VAE.vocab + 1)),
    }
    for name, built in made.items():
        write(official(built), files / name)
    line = mistake(capsys, command(files, tmp_path / "p", "rar", model="vocab.pt"))
    assert "tokenizer and model speak of other codes" in line
    for name in ("latent.pt", "codes.pt"):
        line = mistake(capsys, command(files, tmp_path / "p", "var", model=name))
        assert f"{name}: quantize.embedding.weight has shape" in line
    state = official(module("var"))
    write(state | {"blocks.0.extra": torch.ones(1)}, files / "extra.pt")
    line = mistake(capsys, command(files, tmp_path / "p", "var", model="extra.pt"))
    assert "extra.pt: 0 tensors missing [], 1 unknown ['layers.0.extra']" in line
    assert not list(tmp_path.iterdir())


def test_a_scale_that_no_file_has(files, tmp_path, capsys):
    for model in ("mar.pt", ""):
        arguments = command(files, tmp_path / "p", "mar", model=model)
        at = arguments.index("--scale")
        line = mistake(capsys, arguments[:at] + arguments[at + 2 :])
        assert (
            f"{files / 'mar-vae.pt'} does not hold the scale of its latents: give --scale" in line
        )
    assert not list(tmp_path.iterdir())


def test_a_kl_vae_alone(files, tmp_path):
    main(command(files, tmp_path / "t", "mar", "--scale", "2.5", "--size", "8x12", model=""))
    tokenizer, info = load_module(tmp_path / "t", TOKENIZERS)
    assert tokenizer.config == replace(kl_vae.tiny(), size=(8, 12), scale=2.5)
    assert list(info["files"]) == ["mar-vae.pt"]
    main(command(files, tmp_path / "u", "mar", model=""))
    assert load_module(tmp_path / "u", TOKENIZERS)[0].config.size == (256, 256)


def test_several_latents_make_one_code(files, tmp_path, capsys):
    """Upstream's patch_size: the generator's channels tell."""
    for channels, group in ((16, 2), (20, None)):
        write(official(build(MAR, replace(mar.tiny(), channels=channels))), files / "wide.pt")
        given = command(files, tmp_path / "p", "mar", model="wide.pt")
        if group is None:
            line = mistake(capsys, given)
            assert "wide.pt draws codes of 20 channels, the tokenizer has 4" in line
            continue
        main(given)
        config = smalti.load(tmp_path / "p").tokenizer.config
        assert config == replace(kl_vae.tiny(), size=(32, 32), group=2)


def test_the_moving_average_draws_unless_told_otherwise(files, tmp_path):
    made = {name: build(*MODULES["mar"], seed=seed) for seed, name in enumerate(("model", "ema"))}
    content = {"model": official(made["model"]), "model_ema": official(made["ema"]), "epoch": 3}
    write(content, files / "both.pth")
    write(official(made["model"]), files / "one.safetensors")
    for options, file, wanted in (
        ([], "both.pth", "ema"),
        (["--weights", "ema"], "both.pth", "ema"),
        (["--weights", "model"], "both.pth", "model"),
        ([], "one.safetensors", "model"),
        (["--weights", "model"], "one.safetensors", "model"),
    ):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            main(command(files, tmp_path / "p", "mar", *options, model=file))
        state, ours = smalti.load(tmp_path / "p").model.state_dict(), made[wanted].state_dict()
        assert all(torch.equal(state[k], ours[k]) for k in ours)
        warned = [str(t.message) for t in told if "has no moving average" in str(t.message)]
        assert len(warned) == (file == "one.safetensors" and not options)


def test_a_tokenizer_alone_needs_a_new_folder(files, tmp_path, capsys):
    for family in ("maskgit-vqgan", "var", "mar"):
        (tmp_path / family).mkdir()
        (tmp_path / family / "thesis.tex").write_text("mine")
        line = mistake(capsys, command(files, tmp_path / family, family, model=""))
        assert f"{family} exists; a tokenizer alone needs a new folder" in line
        assert [p.name for p in (tmp_path / family).iterdir()] == ["thesis.tex"]


def test_help_and_families(capsys):
    main(["convert"])
    text = capsys.readouterr().out
    options = {"mar": "--scale", "rar": "--grid", "var": "--scales", "maskgit-vqgan": "--size"}
    for family in ("llamagen", *options):
        assert f"\n  {family} " in text
    for family, option in options.items():
        with pytest.raises(SystemExit) as stop:
            main(["convert", family, "--help"])
        assert stop.value.code == 0 and option in capsys.readouterr().out
