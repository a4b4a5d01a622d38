"""Documents to a file of encoded documents: every picture as the codes of one tokenizer.

Pictures are resized and cropped to the middle, and never mirrored, as texts say left and right. Of
a tokenizer of distributions the means are taken. Pictures that are equal in a batch of documents,
as those before and after a question are, are encoded once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from smalti.config import to_dict
from smalti.data.document_file import Coding, DocumentCache, Row, write_documents
from smalti.data.documents import Doc, Documents, Piece
from smalti.data.skipped import read
from smalti.data.transforms import Transform, to_float
from smalti.modules import identity
from smalti.nn.finite import NotFinite
from smalti.runs.encode import Encodes, encode
from smalti.tokenizers.base import ImageTokenizer


def encode_documents(
    documents: Documents,
    tokenizer: ImageTokenizer,
    out: Path,
    holdout: float = 0.1,
    replace: bool = False,
) -> int:
    """Encode the pictures of all documents, write them to `out`, and return how many documents were
    left to encode: cut off, the same call goes on.

    The tokenizer is used where it is. Documents with a picture that cannot be decoded are left out
    and named on standard error. Raises ValueError as `runs.encode.encode` does.
    """
    return encode(DocumentCoder(documents, tokenizer, holdout), out, replace)


@dataclass(frozen=True)
class DocumentCoder(Encodes):
    """Makes rows of a file of encoded documents."""

    things: ClassVar[str] = "documents"
    source: Documents
    tokenizer: ImageTokenizer
    holdout: float = 0.1
    """Share of the documents that are marked held out: those of one key together."""
    batch: int = 64
    """Documents at a time, and pictures."""

    @property
    def step(self) -> int:
        """Documents at a time."""
        return self.batch

    @cached_property
    def encoding(self) -> Coding:
        """What the codes are of."""
        spec, source = self.tokenizer.spec, self.source
        return Coding(spec, identity(self.tokenizer), source.name, source.fingerprint())

    def settings(self) -> dict[str, object]:
        """What the bytes of the result depend on, as JSON values."""
        about = to_dict(self.encoding) | {
            "holdout": self.holdout,
            "device": next(self.tokenizer.parameters()).device.type,
            "batch": self.batch,
        }
        return {name: value for name, value in about.items() if name not in ("spec", "source")}

    def check(self) -> None:
        """Raise ValueError if documents have codes of another tokenizer already, if the tokenizer's
        images are no squares, or if so large a share cannot be held out."""
        _ = self.held_out
        height, width = self.tokenizer.size
        if height != width:
            raise ValueError(f"documents have square pictures, the tokenizer {height} x {width}")
        mine = str(self.encoding.tokenizer["fingerprint"])
        others = [made for made in self.source.tokenizers if made != mine]
        if others:
            raise ValueError(
                f"{self.source.name} has codes of tokenizer {others[0]}, but the tokenizer given "
                f"is {mine}"
            )

    def __call__(self, chosen: Iterable[int]) -> list[Row]:
        """The rows of some documents, without those that cannot be decoded."""
        found: dict[int, Doc] = {}
        for i in chosen:
            if (document := read(self.source, i)) is not None:
                found[i] = document
        transform = Transform(self.tokenizer.size[0])
        views = {  # by the piece, which knows where it stands
            (i, k): torch.from_numpy(transform(piece.image, None))
            for i, document in found.items()
            for k, piece in enumerate(document)
            if piece.image is not None
        }
        names = {place: view.numpy().tobytes() for place, view in views.items()}
        first = dict[bytes, tuple[int, int]]()
        for place, name in names.items():
            first.setdefault(name, place)
        codes = self._codes([views[place] for place in first.values()], [*first.values()])
        known = dict(zip(first, codes, strict=True))
        source, rows = self.source, list[Row]()
        for i, document in found.items():
            coded = [
                Piece(learned=piece.learned, codes=known[names[i, k]]) if (i, k) in names else piece
                for k, piece in enumerate(document)
            ]
            rows.append(Row(source.key(i), source.task(i), i in self.held_out, coded))
        return rows

    @torch.inference_mode()
    def _codes(self, views: list[Tensor], places: list[tuple[int, int]]) -> list[Tensor]:
        """The codes of pictures, uint8 (3, H, W), each (N, *trailing) in the type that models take;
        `places` are the documents that are named if codes are no numbers."""
        device, found = next(self.tokenizer.parameters()).device, list[Tensor]()
        for start in range(0, len(views), self.batch):
            images = to_float(torch.stack(views[start : start + self.batch]).to(device))
            try:
                codes = self.tokenizer.encode(images)
            except NotFinite:
                for image, (i, _) in zip(images, places[start:], strict=False):
                    try:
                        self.tokenizer.encode(image[None])
                    except NotFinite as error:
                        raise NotFinite(f"codes of {self.source.key(i)!r}: {error}") from None
                raise
            found += self.tokenizer.spec.widened(codes).cpu().unbind()
        return found

    def write(self, path: Path, rows: Iterable[Row]) -> int:
        """Write a file of such rows, and return how many they were."""
        return write_documents(path, rows, self.encoding)

    def opened(self, path: Path) -> DocumentCache:
        """A file of documents, open for reading."""
        return DocumentCache(path)
