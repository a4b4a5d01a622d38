"""Documents to a file of encoded documents: every picture as the codes of one tokenizer.

Pictures are resized and cropped to the middle, and never mirrored, as texts say left and right. Of
a tokenizer of distributions the means are taken. Pictures that are equal in a batch of documents,
as those before and after a question are, are encoded once. Where there is an eye, it sees those
that are only read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor

from smalti.config import to_dict
from smalti.data.document_file import Coding, DocumentCache, Row, write_documents
from smalti.data.documents import Doc, Documents, Piece
from smalti.data.skipped import read
from smalti.data.transforms import Transform, to_float
from smalti.models.eye import Eye
from smalti.modules import coder, identity
from smalti.nn.finite import NotFinite
from smalti.runs.encode import Encodes, encode
from smalti.tokenizers.base import ImageTokenizer


def encode_documents(
    documents: Documents,
    tokenizer: ImageTokenizer | Eye,
    out: Path,
    holdout: float = 0.1,
    replace: bool = False,
    eye: Eye | None = None,
) -> int:
    """Encode the pictures of all documents, write them to `out`, and return how many documents were
    left to encode: cut off, the same call goes on.

    The tokenizer, and the eye if there is one, are used where they are; for a model that draws no
    pictures its eye stands for the tokenizer. Documents with a picture
    that cannot be decoded are left out and named on standard error. Raises ValueError as
    `runs.encode.encode` does.
    """
    return encode(DocumentCoder(documents, tokenizer, holdout, eye), out, replace)


Place = tuple[int, int]
"""The number of a document, and that of a piece in it."""


@dataclass(frozen=True)
class DocumentCoder(Encodes):
    """Makes rows of a file of encoded documents."""

    things: ClassVar[str] = "documents"
    source: Documents
    tokenizer: ImageTokenizer | Eye
    """What encodes all pictures: for a model that draws none its eye."""
    holdout: float = 0.1
    """Share of the documents that are marked held out: those of one key together."""
    eye: Eye | None = None
    """What sees the pictures that are only read."""
    batch: int = 64
    """Documents at a time, and pictures."""

    @property
    def step(self) -> int:
        """Documents at a time."""
        return self.batch

    @cached_property
    def encoding(self) -> Coding:
        """What the codes are of."""
        spec, source, eye = self.tokenizer.spec, self.source, self.eye
        told = (identity(eye), eye.sight.spec) if eye else (None, None)
        return Coding(
            spec,
            identity(coder(self.tokenizer)),
            source.name,
            source.fingerprint(),
            *told,
            self.holdout,
        )

    def settings(self) -> dict[str, object]:
        """What the bytes of the result depend on, as JSON values."""
        about = to_dict(self.encoding) | {
            "device": next(self.tokenizer.parameters()).device.type,
            "batch": self.batch,
        }
        return {name: value for name, value in about.items() if name not in ("spec", "source")}

    def check(self) -> None:
        """Raise ValueError if documents have codes of another tokenizer already, or were seen by
        another eye, if the tokenizer's images are no squares, or if so large a share cannot be held
        out."""
        _ = self.held_out
        height, width = self.tokenizer.size
        if height != width:
            raise ValueError(f"documents have square pictures, the tokenizer {height} x {width}")
        mine, name = str(self.encoding.tokenizer["fingerprint"]), self.source.name
        if others := [made for made in self.source.tokenizers if made != mine]:
            raise ValueError(
                f"{name} has codes of tokenizer {others[0]}, but the tokenizer given is {mine}"
            )
        if self.encoding.eye is not None:
            mine = str(self.encoding.eye["fingerprint"])
            if others := [eye for eye in self.source.eyes if eye != mine]:
                what = f"was seen by eye {others[0]}" if others[0] else "has codes alone"
                raise ValueError(f"{name} {what}, but the eye given is {mine}")

    def __call__(self, chosen: Iterable[int]) -> list[Row]:
        """The rows of some documents, without those that cannot be decoded."""
        found: dict[int, Doc] = {}
        for i in chosen:
            if (document := read(self.source, i)) is not None:
                found[i] = document
        pictures = {  # by the piece, which knows where it stands
            (i, k): piece.image
            for i, document in found.items()
            for k, piece in enumerate(document)
            if piece.image is not None
        }
        codes = self._encoded(self.tokenizer, pictures)
        codes = {place: self.tokenizer.spec.widened(mine) for place, mine in codes.items()}
        features = dict[Place, Tensor]()
        if self.eye is not None:
            read_only = {(i, k): im for (i, k), im in pictures.items() if not found[i][k].learned}
            features = self._encoded(self.eye, read_only)
        source, rows = self.source, list[Row]()
        for i, document in found.items():
            coded = list[Piece]()
            for k, piece in enumerate(document):
                if (mine := codes.get((i, k))) is not None:
                    seen = features.get((i, k))
                    half = None if seen is None else seen.half()
                    piece = Piece(learned=piece.learned, codes=mine, features=half)
                coded.append(piece)
            rows.append(Row(source.key(i), source.task(i), i in self.held_out, coded))
        return rows

    def _encoded(
        self, encoder: ImageTokenizer | Eye, pictures: Mapping[Place, Image.Image]
    ) -> dict[Place, Tensor]:
        """What a tokenizer or an eye makes of each picture; of equal ones once."""
        transform, first = Transform(encoder.size[0]), dict[bytes, tuple[Place, Tensor]]()
        names = dict[Place, bytes]()
        for place, image in pictures.items():
            view = torch.from_numpy(transform(image, None))
            names[place] = view.numpy().tobytes()
            first.setdefault(names[place], (place, view))
        made = self._encode(encoder, [view for _, view in first.values()],
                            [place for place, _ in first.values()])  # fmt: skip
        known = dict(zip(first, made, strict=True))
        return {place: known[name] for place, name in names.items()}

    @torch.inference_mode()
    def _encode(
        self, encoder: ImageTokenizer | Eye, views: list[Tensor], places: list[Place]
    ) -> list[Tensor]:
        """What is made of pictures, uint8 (3, H, W), each (N, ...); `places` are the documents that
        are named if some of it is no number."""
        device, found = next(encoder.parameters()).device, list[Tensor]()
        for start in range(0, len(views), self.batch):
            images = to_float(torch.stack(views[start : start + self.batch]).to(device))
            try:
                made = encoder.encode(images)
            except NotFinite:
                for image, (i, _) in zip(images, places[start:], strict=False):
                    try:
                        encoder.encode(image[None])
                    except NotFinite as error:
                        raise NotFinite(f"codes of {self.source.key(i)!r}: {error}") from None
                raise
            found += made.cpu().unbind()
        return found

    def write(self, path: Path, rows: Iterable[Row]) -> int:
        """Write a file of such rows, and return how many they were."""
        return write_documents(path, rows, self.encoding)

    def opened(self, path: Path) -> DocumentCache:
        """A file of documents, open for reading."""
        return DocumentCache(path)
