"""OpenFlamingo's checkpoint with its language model and its CLIP: small files of ours, against
transformers' own classes between whose layers gated ones stand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from smalti.cli.main import main
from smalti.interop.projects.flamingo import LAYER, PARTS, WHOLE
from smalti.loading import load_unified
from smalti.models.flamingo import Flamingo, FlamingoConfig
from smalti.models.language import LanguageConfig
from smalti.models.unified import Marks
from smalti.nn.cross import Context
from smalti.nn.perceiver import ResamplerConfig
from smalti.text.sequence import Part, rows_of
from smalti.text.words import Words

transformers: Any = pytest.importorskip("transformers", reason="smalti[text] is missing")

WORDS = Words.train(["a red circle", "two small hearts"], 290)
LOOK = ResamplerConfig(dim=32, layers=2, heads=8, head_dim=2, latents=3, multiplier=2)


def official(name: str, inside: bool) -> str:
    """The name of a tensor of ours in a checkpoint, in the list of gated layers or `inside` the
    layer before which one stands."""
    attention = {ours: theirs for theirs, ours in PARTS.items() if not theirs.isdecimal()}
    feed_forward = {ours: theirs for theirs, ours in PARTS.items() if theirs.isdecimal()}
    whole = {ours: theirs for theirs, ours in WHOLE.items() if theirs != "media_pos_emb"}
    if name == "added.weight":
        return "lang_encoder.model.embed_tokens.weight"
    begin, _, rest = name.partition(".")
    if begin == "layers":
        number, _, rest = rest.partition(".")
        layer = 2 * int(number) + 1  # every second
        one = f"lang_encoder.model.layers.{layer}.gated_cross_attn_layer."
        begin = one if inside else f"lang_encoder.gated_cross_attn_layers.{layer}."
        names, more = ("attn", "ff"), ""
    else:
        begin, names = "perceiver.", ("0", "1")
        more, rest = (rest[:9], rest[9:]) if rest.startswith("layers.") else ("", rest)
        if not more:
            return begin + whole.get(rest, rest)
    part, _, kind = rest.rpartition(".")
    if begin != "perceiver." and part == "norm":
        return f"{begin}attn.norm.{kind}"
    if part in attention:
        return f"{begin}{more}{names[0]}.{attention[part]}.{kind}"
    if part in feed_forward:
        return f"{begin}{more}{names[1]}.{feed_forward[part]}.{kind}"
    return begin + whole[rest]


def model_of(tied: bool) -> tuple[Flamingo, Any]:
    """A model, and its language model of transformers, with one vector of each known id."""
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 4}
    more = {"vocab_size": 296, "num_attention_heads": 2, "tie_word_embeddings": tied}
    config = transformers.LlamaConfig(**sizes, **more, max_position_embeddings=64)
    torch.manual_seed(0)
    theirs = transformers.LlamaForCausalLM(config).eval()
    language = LanguageConfig(WORDS.vocab, 4, 2, 24, 40, 2, norm_eps=1e-6, tied=tied)
    marks = Marks(WORDS.start, (WORDS.vocab, WORDS.stop or 0), WORDS.vocab + 2)
    ours = Flamingo(FlamingoConfig(language, LOOK, (3, 3), 2, 8, 2, 2, added=3,
                                   picture=WORDS.vocab + 1, marks=marks))  # fmt: skip
    with torch.no_grad():
        for p in (*ours.parameters(), *theirs.parameters()):
            p.add_(0.1 * torch.randn_like(p))
    return ours.eval(), theirs


def write(folder: Path, ours: Flamingo, theirs: Any, inside: bool = False) -> dict[str, Path]:
    """The files: what was trained, and folders of transformers."""
    language, eye = folder / "llama", folder / "clip"
    for place in (language, eye):
        WORDS.save(place)
    theirs.save_pretrained(language)
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 4, "image_size": 12, "patch_size": 4}
    text = {"vocab_size": 300, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 3, "max_position_embeddings": 12, "eos_token_id": WORDS.stop}
    told = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=20)
    transformers.CLIPModel(told).save_pretrained(eye)
    state = {
        official(name, inside): t
        for name, t in ours.state_dict().items()
        if not name.startswith("language.")
    }
    table = torch.cat((ours.language.tok_embeddings.weight, ours.added.weight)).detach()
    state["lang_encoder.model.embed_tokens.weight"] = table
    torch.save({f"module.{name}": t for name, t in state.items()}, folder / "checkpoint.pt")
    return {"model": folder / "checkpoint.pt", "language": language, "eye": eye}


def convert(files: dict[str, Path], out: Path) -> Any:
    given = [str(word) for name, path in files.items() for word in (f"--{name}", path)]
    main(["convert", "flamingo", *given, "--out", str(out), "--dtype", "float32"])
    return load_unified(out, "cpu", "float32")


@torch.no_grad()
def logits_between(ours: Flamingo, theirs: Any, ids: Tensor, features: Tensor) -> Tensor:
    """Logits of transformers' model with the trained vectors, before each second of whose layers a
    gated layer of ours looks at the last picture."""
    theirs.model.embed_tokens.weight.data[: ours.vocab] = torch.cat(
        (ours.language.tok_embeddings.weight, ours.added.weight)
    )
    rows = rows_of([[]], ours.wrapping)._replace(
        ids=ids, kept=torch.ones_like(ids).bool(), beside=features[None]
    )
    context = Context(ours.resampler(features[None, :, None]).flatten(1, 2), None, False)
    gaze, hooks = ours.gaze(rows), list[Any]()
    for number, layer in enumerate(ours.layers):

        def before(module: Any, args: Any, kwargs: Any, layer: Any = layer) -> Any:
            return (layer(args[0], context, gaze), *args[1:]), kwargs

        host = theirs.model.layers[2 * number + 1]
        hooks.append(host.register_forward_pre_hook(before, with_kwargs=True))
    found = theirs(ids).logits
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize(("tied", "inside"), [(True, False), (False, True)])
def test_a_converted_model_writes_as_the_parts_do(tmp_path: Path, tied: bool, inside: bool):
    ours, theirs = model_of(tied)
    files = write(tmp_path, ours, theirs, inside)
    pipe = convert(files, tmp_path / "out")
    model = pipe.model
    assert model.config == ours.config and not (tmp_path / "out" / "tokenizer").exists()
    for name, tensor in ours.state_dict().items():
        if not name.startswith("language.") or name == "language.tok_embeddings.weight":
            assert torch.equal(model.state_dict()[name], tensor), name

    images = torch.rand(2, 3, 12, 12) * 2 - 1
    features = pipe.eye.encode(images)
    clip = transformers.CLIPModel.from_pretrained(files["eye"]).vision_model
    mean, std = (torch.tensor(getattr(pipe.eye.config, n))[:, None, None] for n in ("mean", "std"))
    with torch.no_grad():
        hidden = clip(pixel_values=((images + 1) / 2 - mean) / std).last_hidden_state
    torch.testing.assert_close(features, hidden[:, 1:], rtol=1e-4, atol=2e-5)

    parts = [Part(f, model.spec, learned=False, seen=True) for f in features]
    words = [Part(torch.tensor(ids)) for ids in ([0, 70], [81, 99, 12], [44, 45])]
    rows = rows_of([[words[0], parts[0], words[1], parts[1], words[2]]], model.wrapping)
    with torch.no_grad():
        mine = model.logits(model.read(rows, 0, rows.ids.shape[1], None))
    wanted = logits_between(model, theirs, rows.ids, features)
    known = model.config.language.vocab
    end = model.vocab if tied else known  # rows of added ids are not in the files of others
    torch.testing.assert_close(mine[..., :end], wanted[..., :end], rtol=1e-4, atol=5e-5)
    assert isinstance(pipe.ask(image(), "what colour is it?", words=4), str)


def image() -> Any:
    from smalti.data.drawn_shapes import Shapes

    return Shapes(1)[0].image


def mistake(capsys: pytest.CaptureFixture[str], files: dict[str, Path], out: Path) -> str:
    given = [str(word) for name, path in files.items() for word in (f"--{name}", path)]
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["convert", "flamingo", *given, "--out", str(out)])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    return line


def test_files_that_do_not_fit_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    ours, theirs = model_of(True)
    files = write(tmp_path, ours, theirs)
    out = tmp_path / "out"
    whole = torch.load(files["model"])

    def broken(**changes: Any) -> str:
        state = {n: t for n, t in whole.items() if not any(c in n for c in changes)}
        state |= {n: changes[c](t) for n, t in whole.items() for c in changes
                  if c in n and changes[c]}  # fmt: skip
        torch.save(state, tmp_path / "broken.pt")
        return mistake(capsys, files | {"model": tmp_path / "broken.pt"}, out)

    assert "has gated layers before layers [1]" in broken(**{"layers.3.": None})
    assert "it has no vectors" in broken(embed_tokens=None)
    assert "vectors of 200 ids" in broken(embed_tokens=lambda t: t[:200])
    assert "is for a tower 16 wide, that given is 32 wide" in broken(
        **{"perceiver.latents": lambda t: t[:, :16]}
    )
    assert "is for a language model 12 wide" in broken(to_q=lambda t: t[:, :12])
    (files["language"] / "tokenizer.json").unlink()
    assert "give --words" in mistake(capsys, files, out)
    assert LAYER.fullmatch("layers.0.1.1.weight") and not out.exists()
