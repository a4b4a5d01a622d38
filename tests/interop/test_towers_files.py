"""Folders of transformers with a CLIP or a SigLIP, against transformers' own classes."""

import json
from typing import Any

import pytest
import torch

from smalti.cli.info import describe
from smalti.interop.pickles import read_checkpoint
from smalti.interop.towers import config_of
from smalti.loading import is_towers, load_towers
from smalti.text.words import Words
from smalti.train.pairs import sigmoid_loss, softmax_loss

transformers: Any = pytest.importorskip("transformers", reason="smalti[text] is missing")

TEXTS = ["a red circle", "a blue star at the top left", "two small hearts"]
TEXT = {
    **{"vocab_size": 300, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2},
    **{"num_attention_heads": 3, "max_position_embeddings": 12},
}
VISION = {
    **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3},
    **{"num_attention_heads": 4, "image_size": 12, "patch_size": 4},
}


def write(folder, kind, text=(), vision=()):
    """A folder as the hub has them, in several shards, of random weights."""
    words = Words.train(TEXTS, 300)
    words.save(folder)
    parts = {
        "text_config": TEXT | {"eos_token_id": words.stop, "bos_token_id": 0, "pad_token_id": 2},
        "vision_config": VISION | dict(vision),
    }
    parts["text_config"] |= dict(text)
    torch.manual_seed(0)
    if kind == "clip":
        made = transformers.CLIPModel(transformers.CLIPConfig(**parts, projection_dim=20))
    else:
        parts["text_config"]["projection_size"] = 32
        made = transformers.SiglipModel(transformers.SiglipConfig(**parts))
    with torch.no_grad():
        for p in made.parameters():  # biases and norms too
            p.add_(0.05 * torch.randn_like(p))
    made.save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return made.eval(), words


@pytest.mark.parametrize(
    ("kind", "text", "vision"),
    [
        ("clip", {}, {}),
        ("siglip", {}, {}),
        ("clip", {"hidden_act": "gelu", "layer_norm_eps": 1e-3}, {"hidden_act": "gelu"}),
        ("siglip", {}, {"hidden_act": "gelu", "layer_norm_eps": 1e-3, "patch_size": 6}),
    ],
)
def test_towers_are_those_of_transformers(tmp_path, kind, text, vision):
    theirs, _ = write(tmp_path, kind, text, vision)
    assert is_towers(tmp_path)
    matcher = load_towers(tmp_path)
    ours = matcher.towers.requires_grad_(True)
    images, ids = torch.rand(3, 3, 12, 12) * 2 - 1, matcher.ids(TEXTS)
    pixels = ours.normalised(images)
    told = theirs(input_ids=ids, pixel_values=pixels, return_loss=True)
    hidden = theirs.vision_model(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(ours.vision(pixels), hidden, rtol=1e-4, atol=2e-5)
    hidden = theirs.text_model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(ours.text(ids), hidden, rtol=1e-4, atol=2e-5)
    pictures, texts = ours.see(images), ours.read(ids)
    torch.testing.assert_close(pictures, told.image_embeds, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(texts, told.text_embeds, rtol=1e-4, atol=2e-5)
    logits = ours.logits(pictures, texts)
    torch.testing.assert_close(logits, told.logits_per_image, rtol=1e-4, atol=2e-5)
    loss = (softmax_loss if kind == "clip" else sigmoid_loss)(logits)
    torch.testing.assert_close(loss, told.loss, rtol=1e-5, atol=1e-5)
    told.loss.backward()
    loss.backward()
    for mine, other in gradients(kind):
        wanted, grad = theirs.get_parameter(other).grad, ours.get_parameter(mine).grad
        assert grad is not None
        close = torch.testing.assert_close
        close(grad.view_as(wanted), wanted, rtol=1e-3, atol=2e-5, msg=mine)


def gradients(kind):
    """Parameters here and there at the ends of all that is computed."""
    yield "vision.patches.weight", "vision_model.embeddings.patch_embedding.weight"
    yield "vision.positions", "vision_model.embeddings.position_embedding.weight"
    yield "text.tokens.weight", "text_model.embeddings.token_embedding.weight"
    yield "vision.layers.1.feed_forward.w2.bias", "vision_model.encoder.layers.1.mlp.fc2.bias"
    yield "text.layers.0.norm2.weight", "text_model.encoder.layers.0.layer_norm2.weight"
    yield "scale", "logit_scale"
    if kind == "siglip":
        yield "bias", "logit_bias"
        yield "vision.head.query", "vision_model.head.probe"
        yield "vision.head.wqkv.weight", "vision_model.head.attention.in_proj_weight"
    else:
        yield "vision.token", "vision_model.embeddings.class_embedding"
        yield "vision.head.weight", "visual_projection.weight"


def test_marks_and_pixels_are_those_of_the_folder(tmp_path):
    _, words = write(tmp_path, "siglip")
    config = load_towers(tmp_path).towers.config
    assert (config.start, config.stop, config.pad) == (None, words.stop, words.pad)
    assert config.mean == (0.5, 0.5, 0.5) and config.length == 12
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": {"content": "</s>"}}')
    told = json.loads((tmp_path / "config.json").read_text())
    told["vision_config"] |= {"image_size": [12, 12]}
    assert config_of(told).size == 12
    told = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
    config = load_towers(tmp_path).towers.config
    assert config.pad == config.stop == words.stop
    assert (config.mean, config.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_pixels_are_those_of_the_processor_that_transformers_takes(tmp_path):
    write(tmp_path, "siglip")
    pixels = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    processor = transformers.SiglipImageProcessor
    file = tmp_path / "processor_config.json"  # as transformers 5 writes it
    for changes in ({}, {"do_normalize": False}):
        made = processor(size={"height": 12, "width": 12}, **pixels | changes)
        file.write_text(json.dumps({"image_processor": made.to_dict()}))
        (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [9, 9, 9]}')
        picture = torch.randint(256, (3, 12, 12), dtype=torch.uint8)
        wanted = made(picture.permute(1, 2, 0).numpy(), return_tensors="pt")["pixel_values"]
        ours = load_towers(tmp_path).towers.normalised(picture[None] / 127.5 - 1)
        torch.testing.assert_close(ours, wanted.float(), rtol=1e-4, atol=1e-5)
    file.write_text('{"image_processor": {"do_rescale": false}}')
    with pytest.raises(ValueError, match="processor_config.json: do_rescale must be true"):
        load_towers(tmp_path)
    for text, words in (
        ('{"image_processor": [1]}', "image_processor must hold a JSON object, got"),
        ('{"image_processor": {"image_mean": [0.5]}}', "image_mean must be three numbers, got"),
        ('{"image_processor": {"image_std": "0.5"}}', "image_std must be three numbers, got"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=f"processor_config.json: {words}"):
            load_towers(tmp_path)
    file.write_text('{"image_processor": {"image_mean": 0.25}}')
    assert load_towers(tmp_path).towers.config.mean == (0.25, 0.25, 0.25)
    file.write_text("{}")
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": null}')
    assert load_towers(tmp_path).towers.config.mean == (0.5, 0.5, 0.5)


def test_an_old_clip_ends_at_its_largest_id(tmp_path):
    theirs, words = write(tmp_path, "clip", {"eos_token_id": 2})
    assert config_of(json.loads((tmp_path / "config.json").read_text())).largest
    matcher = load_towers(tmp_path)  # by the mark that the text tokenizer has for the end
    assert not matcher.towers.config.largest and matcher.towers.config.stop == words.stop
    assert matcher.towers.config.start == words.start
    ids = torch.tensor([[0, 5, 9, 7, 3, 2, 2, 2, 2, 2, 2, 2]])
    at = ids.argmax(1)
    with torch.no_grad():
        found = theirs.text_model(input_ids=ids)
        ours = matcher.towers.text
        ours.config = config_of(json.loads((tmp_path / "config.json").read_text()))
        wanted = theirs.text_projection(found.last_hidden_state[0, at])
        torch.testing.assert_close(ours.whole(ours(ids), ids), wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"model_type": "blip"}, "one of clip, siglip, got 'blip'"),
        ("config.json", {"text_config": [1]}, r"text_config must hold a JSON object, got \[1\]"),
        ("text_config", {"hidden_act": "relu"}, "hidden_act must be one of gelu, .*, got 'relu'"),
        ("vision_config", {"vision_use_head": False}, "vision_use_head must be True, got False"),
        ("vision_config", {"image_size": [12, 16]}, r"image_size must be square, got \[12, 16\]"),
        ("vision_config", {"num_hidden_layers": 4}, "tensors missing.*vision.layers.3"),
        ("text_config", {"vocab_size": 290}, r"has \d+ ids, the towers read 290"),
    ],
)
def test_what_cannot_be_loaded(tmp_path, file, changes, message):
    write(tmp_path, "siglip")
    told = json.loads((tmp_path / "config.json").read_text())
    (told if file == "config.json" else told[file]).update(changes)
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=message):
        load_towers(tmp_path)


def test_a_folder_of_something_else_is_no_towers(tmp_path):
    with pytest.raises(ValueError, match="holds no towers: it has no config.json"):
        load_towers(tmp_path)
    assert not is_towers(tmp_path)
    _, words = write(tmp_path / "a", "clip")
    (tmp_path / "a" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="holds no text tokenizer"):
        load_towers(tmp_path / "a")


def test_info_says_what_was_released(tmp_path):
    made, _ = write(tmp_path, "siglip")
    facts = describe(str(tmp_path))
    count = sum(p.numel() for p in made.parameters())
    assert (facts["parameters"], facts["model_type"]) == (count, "siglip")


def test_a_hub_id_is_downloaded_without_files_of_other_kinds(tmp_path, monkeypatch):
    write(tmp_path, "clip")
    asked = []

    def snapshot(repo, allow_patterns):
        asked.append((repo, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert load_towers("someone/clip-small").towers.config.kind == "clip"
    assert asked == [("someone/clip-small", ["*.json", "*.safetensors"])]
    state = read_checkpoint(tmp_path).state
    for file in (*tmp_path.glob("*.safetensors"), tmp_path / "model.safetensors.index.json"):
        file.unlink()
    torch.save(dict(state), tmp_path / "pytorch_model.bin")  # as older repositories have it
    assert load_towers("someone/clip-old").towers.config.kind == "clip"
    assert asked[-1] == ("someone/clip-old", ["*.json", "pytorch_model*.bin"])
