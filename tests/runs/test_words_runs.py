"""The text tokenizer of a run of text and pictures: its own, one that is given, and wrong ones."""

import json
from dataclasses import replace

import pytest
import torch

from builders import build
from smalti import modules
from smalti.cli import info
from smalti.data.document_file import DocumentCache
from smalti.data.documents import open_documents
from smalti.engine.mixed import Finished, Wrote
from smalti.models.unified import Marks
from smalti.modules import save_module
from smalti.pipeline.unified import Said, UnifiedPipeline, Wish
from smalti.recipes.base import TextsConfig, WordsRecipe
from smalti.recipes.chameleon import shapes_chameleon
from smalti.runs.documents import encode_documents
from smalti.runs.folder import claim
from smalti.runs.run import train
from smalti.runs.unified import open_words
from smalti.runs.words import train_words
from smalti.text.sequence import Part
from smalti.text.words import Words
from smalti.tokenizers import vqgan
from smalti.train.parallel import start
from tokenizers import Tokenizer, decoders, models

pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture
def tokenizer():
    return build(vqgan.VQGAN, vqgan.tiny())


@pytest.fixture
def words():
    return Words.train(["a red heart", "a blue star"], 270)


def test_a_run_trains_the_one_that_the_command_trains(tokenizer, tmp_path):
    encode_documents(open_documents("shapes-all:40"), tokenizer, tmp_path / "d.arrow", 0.25)
    cache, recipe = DocumentCache(tmp_path / "d.arrow"), replace(shapes_chameleon(), vocab=290)
    report = train_words(WordsRecipe(290, TextsConfig("shapes-all:40", 0.25)), tmp_path / "w")
    world = start("cpu")
    own = open_words(recipe, tmp_path / "run", cache, world)
    given = open_words(replace(recipe, words=str(tmp_path / "w")), tmp_path / "run", cache, world)
    assert report["words"] == own.fingerprint() == given.fingerprint() and own.vocab == 290
    kept = open_words(replace(recipe, vocab=260), tmp_path / "run", cache, world)
    assert kept.fingerprint() == own.fingerprint()  # a run that goes on has the one it began with


def test_another_than_that_of_the_pipeline_is_refused(tokenizer, words, tmp_path):
    entry = modules.UNIFIED["one_vocabulary"]
    marks = Marks(words.start, (words.stop,), words.pad)
    config = entry.tiny().fitted(tokenizer.spec, words.vocab, marks)
    pipeline = UnifiedPipeline(tokenizer, build(entry.module, config), words)
    pipeline.save_pretrained(tmp_path / "p")
    about = info.describe(str(tmp_path / "p"))["words"]
    assert about["kind"] == "text tokenizer" and about["fingerprint"] == words.fingerprint()
    Words.train(["something else"], 270).save(tmp_path / "other")
    recipe = replace(
        shapes_chameleon(), init=str(tmp_path / "p"), words=str(tmp_path / "other"), train=CPU
    )
    told = (
        f"other is text tokenizer .*, but the model of .*p was trained with {words.fingerprint()}"
    )
    with pytest.raises(ValueError, match=told):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_without_an_end_of_documents_is_refused(tokenizer, tmp_path):
    save_module(tokenizer, tmp_path / "t")
    made = Tokenizer(models.BPE({"a": 0}, []))
    made.add_special_tokens(["<mine>", "<other>"])
    made.save(str(tmp_path / "mine.json"))
    recipe = replace(
        shapes_chameleon(),
        tokenizer=str(tmp_path / "t"),
        words=str(tmp_path / "mine.json"),
        train=CPU,
    )
    told = "mine.json has no mark for the end of a document, which is one of </s>, <eos>, "
    with pytest.raises(ValueError, match=rf"{told}.*; its marks are <mine>, <other>$"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    made = json.loads(made.to_str())
    made["added_tokens"] = []
    (tmp_path / "mine.json").write_text(json.dumps(made))
    with pytest.raises(ValueError, match="its marks are none"):
        train(recipe, tmp_path / "run")


def test_a_run_goes_on_with_the_one_that_it_began_with(tokenizer, words, tmp_path):
    words.save(tmp_path / "w")
    recipe, world = replace(shapes_chameleon(), words=str(tmp_path / "w")), start("cpu")
    claim(tmp_path / "run", recipe, world, words=words.fingerprint())
    cache = None  # none is read
    assert open_words(recipe, tmp_path / "run", cache, world).read("red") == words.read("red")
    (tmp_path / "w" / "tokenizer.json").unlink()
    Words.train(["another text"], 270).save(tmp_path / "w")
    with pytest.raises(ValueError, match=f"run began with text tokenizer {words.fingerprint()}, "):
        open_words(recipe, tmp_path / "run", cache, world)


def test_a_text_behind_a_picture_keeps_its_blank(tokenizer, monkeypatch):
    """As it does where transformers writes a whole row."""
    vocab = {word: i for i, word in enumerate(["<s>", "</s>", "\u2581", "a", "b"])}
    made = Tokenizer(models.BPE(vocab, []))
    made.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse(), STRIP])
    made.add_special_tokens(["<s>", "</s>"])
    words, entry = Words(made.to_str()), modules.UNIFIED["one_vocabulary"]
    config = entry.tiny().fitted(tokenizer.spec, words.vocab, Marks(0, (1,), 0))
    pipeline = UnifiedPipeline(tokenizer, build(entry.module, config), words)
    text, spec = torch.tensor([2, 3]), tokenizer.spec
    picture = Part(spec.empty(1)[0], spec)
    events = [Wrote(0, [2, 3]), Finished(0, Part(text)), Finished(0, picture)]
    events += [Wrote(0, [2, 3]), Finished(0, Part(text)), Finished(1, Part(text))]
    monkeypatch.setattr("smalti.engine.mixed.stream", lambda model, request: iter(events))
    found = pipeline.events([[Part(text)]] * 2, Wish())
    texts = [(said.row, said.text) for said in found if isinstance(said, Said)]
    assert texts == [(0, "a"), (0, "a"), (0, " a"), (0, " a"), (1, "a")]


STRIP = decoders.Strip(" ", 1, 0)
CPU = replace(shapes_chameleon().train, steps=1, device="cpu", precision="fp32")
