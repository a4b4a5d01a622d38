"""The file of documents whose pictures are encoded: one Arrow file, written once, mapped when read.

One row is a document: its key, its task, whether it is held out, and its parts, each a text or the
codes of a picture, learned or only read. All pictures have codes of one spec. Where there is an
eye, those that are only read have what it sees as well, as float16. What made the codes, and of
what, is in the schema's metadata, so that codes of several tokenizers are never mixed up.

Codes are kept in the smallest type that holds them, and bits eight in a byte, as in a token cache.
N positions of a picture.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from smalti.codes import TokenSpec
from smalti.config import from_dict, to_dict
from smalti.data.documents import Doc, Documents, Piece
from smalti.data.source import digest
from smalti.data.token_file import DOCUMENTS, META, has_mark, is_own, pack, storage, unpack
from smalti.files import check_own, expand, replacing

VERSION = 1
ROWS = 256
"""Rows of every record batch but the last."""
PART = pa.struct([("text", pa.string()), ("codes", pa.binary()), ("learned", pa.bool_())])
COLUMNS = [("key", pa.string()), ("task", pa.string()), ("held_out", pa.bool_())]


def schema_of(seen: bool) -> pa.Schema:
    """The columns of a file, with what an eye sees or without."""
    part = pa.struct([*PART, ("features", pa.binary())] if seen else PART)
    return pa.schema([*COLUMNS, ("parts", pa.list_(part))])


SCHEMA = schema_of(False)


class Row(NamedTuple):
    """An encoded document."""

    key: str
    task: str
    held_out: bool
    document: Doc
    """Texts and codes, no images."""


@dataclass(frozen=True)
class Coding:
    """What the codes of documents are, what made them, and of what."""

    spec: TokenSpec
    tokenizer: dict[str, Any]
    """Type, config and fingerprint of the tokenizer."""
    source: str
    source_fingerprint: str
    eye: dict[str, Any] | None = None
    """Type, config and fingerprint of the eye; None: there is none."""
    seen: TokenSpec | None = None
    """What it sees."""
    holdout: float | None = None
    """The share that `data.source.split` was given; None: an older file, which does not say."""

    def differences(self, other: Coding) -> list[str]:
        """Names of the fields that differ, but for the source's name, which may be another one of
        the same documents, and for the share, which shows in the rows."""
        names = [f.name for f in fields(self) if f.name not in ("source", "holdout")]
        return [name for name in names if to_dict(self)[name] != to_dict(other)[name]]

    def metadata(self) -> dict[bytes, bytes]:
        """As it stands in the schema."""
        about = {name: value for name, value in to_dict(self).items() if value is not None}
        return {DOCUMENTS: json.dumps({"version": VERSION, **about}).encode()}


def write_documents(path: str | Path, rows: Iterable[Row], coding: Coding) -> int:
    """Write encoded documents and return how many they were.

    The file appears under its name only when it is complete. Raises ValueError if there are none,
    for codes that are not of the spec, or NaN or infinite, for an image that is not encoded, and
    for a picture that is only read and not seen where there is an eye.
    """
    path, count, rest = expand(path), 0, iter(rows)
    check_own(path, is_own)
    schema = schema_of(coding.seen is not None).with_metadata(coding.metadata())
    with replacing(path) as temporary, open(temporary, "wb") as file:
        with pa.ipc.new_file(file, schema) as writer:
            while chunk := list(islice(rest, ROWS)):
                writer.write_batch(_record_batch(chunk, coding, schema))
                count += len(chunk)
        if not count:
            raise ValueError(f"there are no documents to write to {path}")
        file.flush()
        os.fsync(file.fileno())
    return count


def _record_batch(chunk: list[Row], coding: Coding, schema: pa.Schema) -> pa.RecordBatch:
    parts = [[_stored(piece, coding, row.key) for piece in row.document] for row in chunk]
    columns = [[row.key for row in chunk], [row.task for row in chunk]]
    held = [bool(row.held_out) for row in chunk]
    arrays = [
        pa.array(values, field.type)
        for values, field in zip([*columns, held, parts], schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _stored(piece: Piece, coding: Coding, key: str) -> dict[str, Any]:
    """A piece as it stands in the file."""
    if piece.image is not None:
        raise ValueError(f"a picture of {key!r} is not encoded")
    if piece.codes is None:
        return {"text": piece.text, "codes": None, "learned": piece.learned}
    kept = {"text": None, "codes": _bytes(piece.codes, coding.spec, key), "learned": piece.learned}
    if coding.seen is None or piece.learned:
        return kept
    if piece.features is None:
        raise ValueError(f"a picture of {key!r} is only read, but the eye has not seen it")
    return kept | {"features": _bytes(piece.features, coding.seen, key)}


def _bytes(content: Tensor, spec: TokenSpec, key: str) -> bytes:
    """Codes (N, *trailing) as they are stored; what an eye sees in half precision."""
    codes, shape = content.cpu().numpy(), spec.shape(1)[1:]
    wrong = spec.discrete == (codes.dtype.kind == "f") or codes.shape != shape
    if wrong or not _in_range(codes, spec):
        raise ValueError(
            f"codes of {key!r} must be {shape}, {spec.words}, and finite, got {codes.dtype} "
            f"{codes.shape} in [{codes.min()}, {codes.max()}]"
        )
    small = codes if codes.dtype == np.float16 else codes.astype(storage(spec))
    kept = pack(small, math.prod(shape)) if spec.vocab == 2 else small
    return kept.tobytes()


def _in_range(codes: np.ndarray, spec: TokenSpec) -> bool:
    if not spec.discrete:
        return bool(np.isfinite(codes).all())
    return bool(codes.min() >= 0 and codes.max() < spec.vocab)


def is_document_file(path: Path) -> bool:
    """Whether a file holds encoded documents."""
    return has_mark(path, DOCUMENTS)


class DocumentCache(Documents):
    """A file of encoded documents, open for reading; it is `Documents` itself, of texts and codes.

    Raises ValueError naming the file if it is missing, incomplete or something else.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self.name = expand(path), f"docs:{path}"
        self.skipped: dict[str, str] = {}
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(self.path)))
            table = reader.read_all()
            table.validate(full=True)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} is not a complete file of documents: {error}") from None
        held = reader.schema.metadata or {}
        if META in held:
            raise ValueError(f"{path} is a token cache of images, not a file of documents")
        if DOCUMENTS not in held:
            raise ValueError(f"{path} is an Arrow file, but not one of documents")
        self._meta = held[DOCUMENTS]
        try:
            self._open(table.select(SCHEMA.names), json.loads(self._meta))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {error}") from None

    def _open(self, table: pa.Table, meta: dict[str, Any]) -> None:
        version = meta.pop("version")
        if version != VERSION:
            raise ValueError(f"version {version}, this smalti reads version {VERSION}")
        self.encoding = about = from_dict(Coding, meta)
        wanted = schema_of(about.seen is not None).types
        if table.schema.types != wanted:
            raise ValueError(f"its columns must be {wanted}, got {table.schema.types}")
        self.spec: TokenSpec = about.spec
        self.tokenizer: str = about.tokenizer["fingerprint"]
        """Fingerprint of the tokenizer that made the codes."""
        self.eye: str = about.eye["fingerprint"] if about.eye else ""
        """That of the eye that saw the pictures which are only read; "": there was none."""
        self.tokenizers, self.eyes = (self.tokenizer,), (self.eye,)
        self.source, self.source_fingerprint = about.source, about.source_fingerprint
        self.tasks: list[str] = table["task"].to_pylist()
        """(rows,) the task of each document."""
        held = np.asarray(table["held_out"].to_pylist(), dtype=bool)
        self.train, self.held_out = np.flatnonzero(~held), np.flatnonzero(held)
        self._keys: list[str] = table["key"].to_pylist()
        self._parts = table["parts"]

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def holdout(self) -> float:
        """The share that `data.source.split` was given; of an older file that of its keys, which is
        another where documents were skipped."""
        if self.encoding.holdout is not None:
            return self.encoding.holdout
        return len({self._keys[i] for i in self.held_out}) / len(set(self._keys))

    def indices(self, split: Literal["train", "held_out", "all"]) -> np.ndarray:
        """Rows of a split, ascending."""
        splits = {"train": self.train, "held_out": self.held_out, "all": np.arange(len(self))}
        if split not in splits:
            raise ValueError(f"split must be one of {', '.join(splits)}, got {split!r}")
        return splits[split]

    def document(self, i: int) -> Doc:
        """Document i: its texts, and its pictures as codes (N, *trailing), int64 if discrete,
        float32 if not; those that are only read with what an eye sees.

        Raises ValueError, naming the file and the document, for codes that are none of the spec.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"{self.path} has {len(self)} documents, got {i}")
        try:
            return [self._piece(part) for part in self._parts[i].as_py()]
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.path} is damaged: {self._keys[i]}: {error}") from None

    def __getitem__(self, i: int) -> Doc:
        return self.document(i)

    def texts(self, i: int) -> list[str]:
        """The texts of document i, whose codes are not read."""
        return [part["text"] for part in self._parts[i].as_py() if part["text"]]

    def _piece(self, part: dict[str, Any]) -> Piece:
        codes = None if part["codes"] is None else self._codes(part["codes"])
        seen = part.get("features")
        features = None if seen is None else self._features(seen)
        return Piece(part["text"] or "", learned=part["learned"], codes=codes, features=features)

    def _features(self, kept: bytes) -> Tensor:
        assert self.encoding.seen is not None
        seen = np.frombuffer(kept, np.float16).reshape(self.encoding.seen.shape(1)[1:])
        if not np.isfinite(seen).all():
            raise ValueError("what the eye saw is NaN or infinite")
        return torch.from_numpy(seen.copy())

    def _codes(self, kept: bytes) -> Tensor:
        spec, shape = self.spec, self.spec.shape(1)[1:]
        if spec.vocab == 2:
            codes = unpack(np.frombuffer(kept, np.uint8), shape)
        else:
            codes = np.frombuffer(kept, storage(spec)).reshape(shape)
        if not _in_range(codes, spec):
            raise ValueError(f"codes {spec.words} are in [{codes.min()}, {codes.max()}]")
        found = torch.from_numpy(codes.astype(np.int64 if spec.discrete else np.float32))
        if spec.tables:
            spec.by_table(found[None])
        return found

    def counts(self) -> dict[str, int]:
        """How many documents there are of each task, most first."""
        return dict(Counter(self.tasks).most_common())

    def task(self, i: int) -> str:
        return self.tasks[i]

    def key(self, i: int) -> str:
        return self._keys[i]

    def keys(self, rows: np.ndarray) -> list[str]:
        """The keys of rows: the names of what the documents were made of."""
        return [self._keys[i] for i in rows.tolist()]

    def rows(self) -> Iterator[Row]:
        """All documents as `write_documents` takes them."""
        held = np.isin(np.arange(len(self)), self.held_out).tolist()
        for i, out in enumerate(held):
            yield Row(self._keys[i], self.tasks[i], out, self.document(i))

    def require(self, tokenizer_fingerprint: str, eye_fingerprint: str = "") -> None:
        """Raise ValueError unless that tokenizer made these codes, and that eye, if there is one,
        saw the pictures."""
        if tokenizer_fingerprint != self.tokenizer:
            raise ValueError(
                f"{self.path} was encoded by tokenizer {self.tokenizer}, "
                f"but the tokenizer given is {tokenizer_fingerprint}; encode the documents again"
            )
        if eye_fingerprint and eye_fingerprint != self.eye:
            raise ValueError(
                f"{self.path} was seen by {f'eye {self.eye}' if self.eye else 'no eye'}, but the "
                f"eye given is {eye_fingerprint}; encode the documents again"
            )

    def fingerprint(self) -> str:
        """16 hex digits over the metadata, keys, tasks and splits, and 64 whole documents."""
        sample = np.unique(np.linspace(0, len(self) - 1, 64).astype(np.int64)).tolist()
        parts = [
            [p["text"], (p["codes"] or b"").hex(), p["learned"], *self._marks(p)]
            for i in sample
            for p in self._parts[i].as_py()
        ]
        meta = json.loads(self._meta)
        return digest([meta, self._keys, self.tasks, self.held_out.tolist(), parts])

    def _marks(self, part: dict[str, Any]) -> list[str]:
        """What a part has more where there was an eye."""
        return [(part["features"] or b"").hex()] if self.eye else []
