"""What a recipe is: frozen dataclasses that say everything about one training run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from smalti.data.transforms import Transform
from smalti.models.generator import GeneratorConfig
from smalti.models.language import LanguageConfig
from smalti.models.llamagen import LlamaGenConfig
from smalti.models.one_vocabulary import OneVocabularyConfig
from smalti.models.towers import TowersConfig
from smalti.models.unified import UnifiedConfig
from smalti.pipeline.conversation import Writing
from smalti.pipeline.sampling import Sampling
from smalti.text.byte_words import BytesConfig
from smalti.text.encoders import TextConfig
from smalti.tokenizers.base import TokenizerConfig
from smalti.tokenizers.dcae import DCAEConfig
from smalti.tokenizers.dual import DualConfig
from smalti.tokenizers.kl_vae import KLVAEConfig
from smalti.tokenizers.refined import RefinedConfig
from smalti.tokenizers.rendered import RenderedConfig
from smalti.tokenizers.titok import TiTokConfig
from smalti.tokenizers.vqgan import VQGANConfig
from smalti.train.autoencoding import AutoencodingConfig
from smalti.train.base import CodingConfig, ObjectiveConfig
from smalti.train.dual import DualObjectiveConfig
from smalti.train.joint import JointConfig, WritingConfig
from smalti.train.kl import KLConfig
from smalti.train.lora import LoraConfig
from smalti.train.objectives import LikelihoodConfig, ReconstructionConfig
from smalti.train.pairs import CaptionsConfig, PairsConfig
from smalti.train.rendering import RenderingConfig
from smalti.train.settings import TrainConfig
from smalti.train.staged import ProxyCodesConfig


@dataclass(frozen=True)
class DataConfig:
    source: str = "emoji"
    """A folder of pictures (folder:PATH), .parquet files (parquet:PATH), emoji, shapes or hub:NAME;
    '?label=COLUMN&text=COLUMN' behind it chooses columns."""
    crop: Literal["center", "random", "ten"] = "center"
    """Which square of an image is used: its centre, a random one (tokenizers only), or ten fixed
    ones (generators)."""
    flip: bool = True
    """Mirror images: at random for a tokenizer, as a second set of codes for a generator."""
    shift: int = 0
    """Move pictures by up to so many pixels at random, up or down and left or right (tokenizers and
    towers only); the colours of the edge fill what is left."""
    holdout: float = 0.1
    """Share of the images kept for evaluation, the same ones in every run."""
    on_changed: Literal["stop", "go-on"] = "stop"
    """What a run does when its images are others than when it began: stop and say which, or go on
    with what is there now."""

    def transform(self, size: int) -> Transform:
        return Transform(size, self.crop, self.flip, self.shift)


@dataclass(frozen=True)
class TokenizerRecipe:
    """Train a tokenizer on images."""

    init: str = ""
    """Tokenizer or pipeline, a folder or a hub id, to go on from; `model` is then its own."""
    data: DataConfig = field(default_factory=DataConfig)
    model: TokenizerConfig = field(default_factory=VQGANConfig)
    objective: CodingConfig = field(default_factory=ReconstructionConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def sized(self, config: Any) -> Any:
        """The configuration of a tokenizer, new or begun from, for pictures of the run's size."""
        return config


@dataclass(frozen=True)
class KLRecipe(TokenizerRecipe):
    """Train a tokenizer of continuous codes on images, and measure the scale of its codes."""

    model: KLVAEConfig = field(default_factory=KLVAEConfig)
    objective: KLConfig = field(default_factory=KLConfig)


@dataclass(frozen=True)
class AutoencoderRecipe(TokenizerRecipe):
    """Train an autoencoder of continuous codes without distributions on images, all or a part of
    it, and measure the scale of its codes."""

    model: DCAEConfig = field(default_factory=DCAEConfig)
    objective: AutoencodingConfig = field(default_factory=AutoencodingConfig)
    pixels: int = 0
    """Height and width of the pictures, of a tokenizer to go on from as well; 0: its own size."""

    def sized(self, config: Any) -> Any:
        return replace(config, size=(self.pixels, self.pixels)) if self.pixels else config


@dataclass(frozen=True)
class SeeingRecipe(TokenizerRecipe):
    """Train a tokenizer that codes what a frozen ViT sees, on images."""

    towers: str = ""
    """Folder or hub id of towers whose ViT it has; with `init` it has one already."""


@dataclass(frozen=True)
class DualRecipe(SeeingRecipe):
    """Train a tokenizer of two levels, what a frozen ViT sees and pixels, on images."""

    model: DualConfig = field(default_factory=DualConfig)
    objective: DualObjectiveConfig = field(default_factory=DualObjectiveConfig)


@dataclass(frozen=True)
class RenderRecipe(SeeingRecipe):
    """Train a renderer of the features of a frozen ViT, on images."""

    model: RenderedConfig = field(default_factory=RenderedConfig)
    objective: RenderingConfig = field(default_factory=RenderingConfig)


@dataclass(frozen=True)
class AroundRecipe(TokenizerRecipe):
    """Train a tokenizer that is made around another one, which stays as it is, on images."""

    tokenizer: str = ""
    """Folder of the tokenizer, or of a pipeline; with `init` it has one already."""


@dataclass(frozen=True)
class RefineRecipe(AroundRecipe):
    """Train a renderer of the codes of a tokenizer that stays as it is, on images."""

    model: RefinedConfig = field(default_factory=RefinedConfig)
    objective: RenderingConfig = field(default_factory=RenderingConfig)


@dataclass(frozen=True)
class ProxyRecipe(AroundRecipe):
    """Train a tokenizer whose decoder predicts the codes of another one, on images."""

    model: TiTokConfig = field(default_factory=TiTokConfig)
    objective: ProxyCodesConfig = field(default_factory=ProxyCodesConfig)


@dataclass(frozen=True)
class GeneratorRecipe:
    """Train a generator on codes, from which grids, codebook and classes of the model are taken;
    with `init` tokenizer, sampling and all else of the model but its dropout are the pipeline's."""

    init: str = ""
    """Pipeline folder or hub id to go on from; empty: a new model."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """How to go on: every weight, or updates of low rank."""
    tokenizer: str = ""
    """Folder of the trained tokenizer, or of a pipeline."""
    codes: str = ""
    """Token cache made by `smalti encode`; empty: encode `data` first, into the run's folder."""
    data: DataConfig = field(default_factory=DataConfig)
    """Used only where `codes` is empty."""
    model: GeneratorConfig = field(default_factory=LlamaGenConfig)
    objective: ObjectiveConfig = field(default_factory=LikelihoodConfig)
    """What is minimised: for models that fill in hidden codes a masked objective."""
    sampling: Sampling = field(default_factory=Sampling)
    """How preview pictures are drawn, and the default of the finished pipeline."""
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if self.lora.rank and not self.init:
            raise ValueError(
                f"lora.rank {self.lora.rank} needs --init PIPELINE: a new model is trained whole"
            )


@dataclass(frozen=True)
class TextRecipe(GeneratorRecipe):
    """Train a generator on codes and captions. The model takes the length and width of its prefix
    from the text encoder, which with `init` is the pipeline's."""

    text: TextConfig = field(default_factory=BytesConfig)
    """Bytes: an encoder that learns with the generator; T5: frozen, its features are cached."""
    wordings: bool = False
    """Train with the caption of a picture half of the time only, else with one of the other texts
    that the source has of it (keywords, the same in other words); of an encoder that learns."""


@dataclass(frozen=True)
class MapRecipe(GeneratorRecipe):
    """Train a generator on codes of pictures and of their maps: depth/NAME or segmentation/NAME
    beside each picture NAME of a folder, or the edges of the picture itself."""

    map: str = ""
    """Folder of the trained tokenizer of maps, which says of which kind they are."""


@dataclass(frozen=True)
class UnifiedRecipe:
    """Train a model that reads and writes text and pictures in one sequence; what codes and ids
    there are it takes from its two tokenizers."""

    init: str = ""
    """Pipeline of text and pictures, a folder or a hub id, to go on from; its model and its
    tokenizers are then taken."""
    tokenizer: str = ""
    """Folder of the trained tokenizer of pictures, or of a pipeline; with `init` it has one."""
    eye: str = ""
    """Of models that read pictures in another form than they draw them: towers, a folder or a hub
    id, or the folder of an eye, or of a pipeline that has one."""
    language: str = ""
    """Of models whose language model is frozen: a folder of training, of transformers, or a
    pipeline of text and pictures; the text tokenizer is then its own."""
    words: str = ""
    """Folder of the text tokenizer; empty: one of `vocab` ids is trained on the texts first."""
    vocab: int = 512
    """Ids of a text tokenizer that is trained first."""
    documents: str = ""
    """File made by `smalti encode`; empty: encode `data` first, into the run's folder."""
    data: DataConfig = field(default_factory=lambda: DataConfig(source="shapes-all", flip=False))
    """Documents: shapes-all, captioned:SOURCE, qa:FILE.jsonl, docs:FILE.arrow, joined by +. Used
    only where `documents` is empty."""
    row: int = 512
    """Positions of a row of training, which holds as many documents as fit."""
    model: UnifiedConfig = field(default_factory=OneVocabularyConfig)
    objective: JointConfig = field(default_factory=JointConfig)
    sampling: Sampling = field(default_factory=Sampling)
    """How pictures are drawn."""
    writing: Writing = field(default_factory=Writing)
    """How text is written."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """`batch` counts rows."""

    def __post_init__(self) -> None:
        if self.data.flip or self.data.crop != "center" or self.data.shift:
            raise ValueError(
                "pictures of documents are the middle of each and are never mirrored, as texts say "
                f"left and right: data.flip must be False, data.crop center and data.shift 0, got "
                f"{self.data.flip}, {self.data.crop}, {self.data.shift}"
            )


@dataclass(frozen=True)
class LanguageRecipe:
    """Train a language model to write texts; what ids there are it takes from its text
    tokenizer."""

    init: str = ""
    """Language model to go on from: a folder of training, of transformers, or a pipeline of text
    and pictures; `model` and text tokenizer are then its own."""
    words: str = ""
    """Folder of the text tokenizer; empty: one of `vocab` ids is trained on the texts first."""
    vocab: int = 512
    """Ids of a text tokenizer that is trained first."""
    data: DataConfig = field(default_factory=lambda: DataConfig(source="shapes-all", flip=False))
    """Documents, text files or pictures with captions, of which the texts are read alone."""
    row: int = 256
    """Positions of a row of training, which holds as many texts as fit."""
    model: LanguageConfig = field(default_factory=lambda: LanguageConfig(512, 4, 4, 128, 512))
    objective: WritingConfig | CaptionsConfig = field(default_factory=WritingConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    """`batch` counts rows."""


@dataclass(frozen=True)
class SentencesRecipe(LanguageRecipe):
    """Train a language model so that what it makes of captions tells them apart: two captions of
    one picture are near to each other, and far from all others."""

    data: DataConfig = field(default_factory=lambda: DataConfig(source="shapes", flip=False))
    """Pictures with captions, and keywords or other captions."""
    length: int = 32
    """Ids of a text that are read."""
    causal: bool = False
    """Whether a word sees those before it alone, as when it writes."""
    pooling: Literal["mean", "last"] = "mean"
    """What stands for a text: the mean of its words, or the last one."""
    objective: CaptionsConfig = field(default_factory=CaptionsConfig)
    lora: LoraConfig = field(default_factory=lambda: LoraConfig(rank=16))
    """Updates of low rank, or with rank 0 every weight."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """`batch` counts pairs of captions."""


@dataclass(frozen=True)
class TowersRecipe:
    """Train a tower that sees and one that reads on pictures with captions; what ids there are they
    take from their text tokenizer."""

    init: str = ""
    """Towers to go on from, a folder or a hub id; `model` and text tokenizer are then their own."""
    language: str = ""
    """Language model that reads, for models that have one: a folder of training, of transformers,
    or a pipeline of text and pictures; the text tokenizer is then its own."""
    words: str = ""
    """Folder of the text tokenizer; empty: one of `vocab` ids is trained on the captions first."""
    vocab: int = 512
    """Ids of a text tokenizer that is trained first."""
    data: DataConfig = field(default_factory=lambda: DataConfig(flip=False))
    """Pictures with captions."""
    model: TowersConfig = field(default_factory=TowersConfig)
    objective: PairsConfig = field(default_factory=PairsConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if self.data.flip or self.data.crop == "ten":
            raise ValueError(
                "captions say left and right, so data.flip must be False, and data.crop center or "
                f"random, got {self.data.flip}, {self.data.crop}"
            )
        if not self.init:
            self.objective.check_bias(self.model.kind == "siglip")


Recipe = TokenizerRecipe | GeneratorRecipe | UnifiedRecipe | TowersRecipe | LanguageRecipe


@dataclass(frozen=True)
class TextsConfig:
    source: str = "shapes-all"
    """Documents (shapes-all, captioned:SOURCE, qa:FILE.jsonl, docs:FILE.arrow), text files
    (text:PATH, a .txt file or a folder of them), joined by +, or pictures with captions."""
    holdout: float = 0.1
    """Share of the documents, or lines, kept for evaluation, the same ones in every run."""


@dataclass(frozen=True)
class WordsRecipe:
    """Train a text tokenizer on texts."""

    vocab: int = 512
    """Ids, of which 256 are bytes and three are marks; fewer if the texts give no more."""
    data: TextsConfig = field(default_factory=TextsConfig)


@dataclass(frozen=True)
class Demo:
    """What `smalti demo` trains of a system."""

    tokenizer: Callable[[], TokenizerRecipe]
    generator: Callable[[], GeneratorRecipe | UnifiedRecipe]
    what: str
    """What is unusual about the system, in a few words."""
    predicts: str
    """What the generator learns: what it predicts, and from what."""
    minutes: tuple[int, int] | None = None
    """What it takes on two free cores with AVX-512 and bfloat16, and on two without; None: nobody
    has measured both."""
