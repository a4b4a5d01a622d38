"""MetaMorph's files: a folder of transformers with a projector and a head, and a SigLIP, become a
pipeline; a renderer of the same features draws; mistakes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from smalti.cli.main import main
from smalti.loading import load_tokenizer, load_unified
from smalti.modules import save_module
from smalti.tokenizers import rendered
from smalti.tokenizers.rendered import Rendered
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

transformers: Any = pytest.importorskip("transformers", reason="smalti[text] is missing")
pytestmark = pytest.mark.usefixtures("float32")

NAMES = (
    *("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>"),
    *("<|end_header_id|>", "<image_start>", "<image_end>"),
)
VISION = {
    **{"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3},
    **{"num_attention_heads": 2, "image_size": 14, "patch_size": 4},
}
"""Of 3 x 3 patches, and two pixels that are not seen."""


def words(folder: Path) -> dict[str, int]:
    """A byte-level text tokenizer with the marks of Llama 3 and two more; its ids by name."""
    ids = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(ids, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(name, special=True) for name in NAMES])
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    return made.get_vocab()


def shaken(module: Any) -> Any:
    """The same with weights that are neither ones nor zeros."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module.eval()


def tower(folder: Path) -> Any:
    """A SigLIP that transformers writes."""
    text = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "max_position_embeddings": 4, "projection_size": 16}
    config = transformers.SiglipConfig(text_config=text, vision_config=VISION)
    made = shaken(transformers.SiglipModel(config))
    made.save_pretrained(folder)
    return made


def model(folder: Path, **changes: Any) -> tuple[Any, dict[str, Tensor]]:
    """A model's folder, as the project publishes it: the decoder, and what is beside it."""
    ids = words(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    config = transformers.LlamaConfig(vocab_size=len(ids), **sizes)
    made = shaken(transformers.LlamaForCausalLM(config))
    more = {
        "model.mm_projector.0.weight": (32, 16), "model.mm_projector.0.bias": (32,),
        "model.mm_projector.2.weight": (32, 32), "model.mm_projector.2.bias": (32,),
        "vision_head.0.weight": (32, 32), "vision_head.0.bias": (32,),
        "vision_head.2.weight": (16, 32), "vision_head.2.bias": (16,),
        "model.vision_proj.weight": (32, 8), "model.vision_tower.vision_tower.x": (2,),
    }  # fmt: skip
    beside = {name: 0.2 * torch.randn(shape) for name, shape in more.items()}
    state = {n: t.clone() for n, t in made.state_dict().items()} | beside
    save_file(state, folder / "model.safetensors")
    told = made.config.to_dict() | {
        "model_type": "metamorph_llama", "mm_projector_type": "mlp2x_gelu",
        "vision_head_type": "mlp", "normalize_vision": True, "num_image_tokens": 4,
        "image_token_reduction": "interpolation", "mm_vision_select_layer": -1,
    } | changes  # fmt: skip
    (folder / "config.json").write_text(json.dumps(told))
    return made, beside


def convert(folder: Path, *more: str, tokenizer: str = "siglip") -> Path:
    out = folder / "out"
    main(["convert", "metamorph", "--tokenizer", str(folder / tokenizer), *more, "--out", str(out)])
    return out


def features(theirs: Any, pixels: Tensor, layer: int = -1) -> Tensor:
    """What the official code reads of pictures: a layer's hidden states on 2 x 2 cells, as unit
    vectors (B, 4, 16)."""
    hidden = theirs.vision_model(pixels, output_hidden_states=True).hidden_states[layer]
    cells = F.interpolate(hidden.mT.unflatten(2, (3, 3)), (2, 2), mode="bilinear")
    return F.normalize(cells.flatten(2).mT, dim=-1)


@pytest.mark.parametrize("layer", [-1, -2])
@torch.no_grad()
def test_files_become_a_pipeline_that_reads(tmp_path, layer):
    torch.manual_seed(0)
    seen = tower(tmp_path / "siglip")
    theirs, beside = model(tmp_path / "hf", mm_vision_select_layer=layer)
    pipe = load_unified(convert(tmp_path, "--model", str(tmp_path / "hf")), "cpu", torch.float32)
    images = torch.rand(1, 3, 14, 14) * 2 - 1
    wanted = features(seen, images, layer)
    config = replace(pipe.tokenizer.config, size=(14, 14))
    pipe.tokenizer.config = config
    torch.testing.assert_close(pipe.tokenizer.encode(images), wanted, rtol=1e-4, atol=1e-5)
    picture = [beside[f"model.mm_projector.{i}.{k}"] for i in (0, 2) for k in ("weight", "bias")]
    inside = F.linear(F.gelu(F.linear(wanted, *picture[:2])), *picture[2:])
    ids = torch.tensor([[pipe.model.marks.start, 4, pipe.model.config.begin]])
    row = torch.cat((theirs.model.embed_tokens(ids), inside), 1)
    hidden = theirs.model(inputs_embeds=row).last_hidden_state
    head = [beside[f"vision_head.{i}.{k}"] for i in (0, 2) for k in ("weight", "bias")]
    said = F.linear(F.gelu(F.linear(hidden[:, 2:-1], *head[:2])), *head[2:])
    from smalti.text.sequence import Part, rows_of

    parts = [Part(ids[0, :2]), Part(wanted[0], pipe.model.spec)]
    rows = rows_of([parts], pipe.model.wrapping)
    ours = pipe.model.read(rows, 0, 7, None)
    torch.testing.assert_close(ours, hidden, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        pipe.model.said(ours[:, 2:-1]), F.normalize(said, dim=-1), rtol=1e-3, atol=1e-4
    )


def test_a_model_without_a_renderer_answers_and_says_that_it_cannot_draw(tmp_path, capsys):
    tower(tmp_path / "siglip")
    model(tmp_path / "hf")
    out = convert(tmp_path, "--model", str(tmp_path / "hf"))
    Image.new("RGB", (20, 20), "red").save(tmp_path / "a.png")
    capsys.readouterr()
    main(["ask", str(out), "what?", "--image", str(tmp_path / "a.png"), "--words", "3"])
    with pytest.raises(SystemExit) as stop:
        main(["sample", str(out), "--text", "a", "--out", str(tmp_path / "s.png")])
    assert stop.value.code == 2
    assert "these features have no renderer" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "s.png").exists()


def test_a_tower_alone(tmp_path):
    tower(tmp_path / "siglip")
    alone = load_tokenizer(convert(tmp_path))
    assert alone.spec.grids == ((3, 3),) and alone.spec.channels == 16


def renderer(folder: Path, **changes: Any) -> Rendered:
    """A renderer of features that fit those of `tower` and `model`, as training leaves it."""
    vit = rendered.tiny().vit
    vit = replace(vit, size=14, vision=replace(vit.vision, layers=3))
    made = shaken(Rendered(rendered.tiny(**{"vit": vit} | changes)))
    save_module(made, folder)
    return made


def test_a_renderer_of_its_features_draws(tmp_path):
    model(tmp_path / "hf")
    made = renderer(tmp_path / "renderer")
    out = convert(tmp_path, "--model", str(tmp_path / "hf"),
                  tokenizer="renderer/model.safetensors")  # fmt: skip
    pipe = load_unified(out, "cpu", torch.float32)
    (image,) = pipe("ab")
    assert image.size == (16, 16)
    state = pipe.tokenizer.state_dict()
    assert all(torch.equal(t, state[name]) for name, t in made.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalize_vision": False}, "the model reads 4 features of 16 numbers, --tokenizer gives "
         "4 of 16 numbers (unit)"),
        ({"num_image_tokens": 9}, "the model reads 9 features of 16 numbers (unit), --tokenizer "
         "gives 4"),
        ({"num_image_tokens": 5}, "pictures must be a square of vectors"),
        ({"mm_projector_type": "resampler"}, "mm_projector_type must be one of identity, linear"),
        ({"vision_head_type": "mlp2x_gelu"}, "tensors missing ['head.layers.2.bias'"),
    ],
)  # fmt: skip
def test_mistakes_are_named(tmp_path, capsys, change, message):
    model(tmp_path / "hf", **change)
    renderer(tmp_path / "renderer")
    with pytest.raises(SystemExit) as stop:
        convert(tmp_path, "--model", str(tmp_path / "hf"), tokenizer="renderer/model.safetensors")
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()
