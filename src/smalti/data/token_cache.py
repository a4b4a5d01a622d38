"""A token cache, open for reading: memory-mapped, its rows read at random.

B images, V views, N positions, T tokens of a caption, C width of their features.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from smalti.codes import TokenSpec
from smalti.config import from_dict
from smalti.data.open import class_of
from smalti.data.source import digest
from smalti.data.token_file import (
    COLUMNS,
    META,
    PACKED,
    PLAIN,
    Encoding,
    Row,
    stored,
    unpack,
    unpacked,
)
from smalti.files import expand


class TokenCache:
    """A file of `data.token_file`, open for reading.

    Raises ValueError naming the file if it is missing, incomplete or something else.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = expand(path)
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(self.path)))
            table = reader.read_all()
            table.validate(full=True)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} is not a complete token cache: {error}") from None
        self._meta = (reader.schema.metadata or {}).get(META)
        if self._meta is None:
            raise ValueError(f"{path} is an Arrow file, but not a token cache")
        try:
            meta = json.loads(self._meta)
            more = [name for name in ("text", "map", "wordings") if meta.get(name)]
            self._open(table.select(COLUMNS + more), meta)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {error}") from None

    def _open(self, table: pa.Table, meta: dict[str, Any]) -> None:
        version = meta["version"]
        if version not in (PLAIN, PACKED):
            raise ValueError(f"version {version}, this smalti reads versions {PLAIN} and {PACKED}")
        self.spec = from_dict(TokenSpec, meta["spec"])
        self.views: int = meta["views"]
        self.tokenizer: str = meta["tokenizer"]
        """Fingerprint of the tokenizer that made the codes."""
        self.transform: dict[str, int | str | bool] = meta["transform"]
        self.source: str = meta["source"]
        self.source_fingerprint: str = meta["source_fingerprint"]
        self.classes: list[str] = meta["classes"]
        self.encoder: dict[str, Any] | None = meta.get("text")
        """Type, config and fingerprint of the encoder that made the captions' features, if any."""
        self.map: dict[str, Any] | None = meta.get("map")
        """What the codes of maps are of, if there are any, as `Encoding` has it."""
        self.wordings: bool = meta.get("wordings", False)
        """Whether other texts of the images than their captions are kept."""
        self.posterior: bool = meta.get("posterior", False)
        """Whether means and standard deviations of codes are kept."""
        self._holdout: float | None = meta.get("holdout")
        self.labels = table["label"].to_numpy()
        """(rows,) int64; -1 = none."""
        held = np.asarray(table["held_out"].to_pylist(), dtype=bool)
        self.train, self.held_out = np.flatnonzero(~held), np.flatnonzero(held)
        self._table = table
        self._packed, self._shape = version == PACKED, unpacked(self.spec, self.posterior)
        shape = (-1, self.views, *stored(self.spec, self.posterior, version))
        self._parts = [chunk.flatten().to_numpy().reshape(shape) for chunk in table["codes"].chunks]

        self._bytes = [part.reshape(-1).view(np.uint8).data for part in self._parts]
        self._length = len(self._parts[0])  # of every record batch but the last

    def __len__(self) -> int:
        return len(self.labels)

    def codes(
        self,
        indices: np.ndarray | list[int],
        views: np.ndarray | int = 0,
        seeds: np.ndarray | None = None,
    ) -> Tensor:
        """Codes of rows in a view each, (B, N, *trailing): int64 if discrete, uint8 if packed as
        bits are, float32 if continuous.

        Of a posterior the means or, given seeds (B,) int64, a sample for each seed. Raises
        ValueError for a row or view that does not exist.
        """
        rows = np.asarray(indices, dtype=np.int64)
        which = np.broadcast_to(np.asarray(views, dtype=np.int64), rows.shape)
        for name, given, end in (("rows", rows, len(self)), ("views", which, self.views)):
            if len(given) and (given.min() < 0 or given.max() >= end):
                raise ValueError(
                    f"{name} must be in [0, {end}), got {given.min()} to {given.max()}"
                )
        out = self._stored(rows, which)
        if self._packed:
            return torch.from_numpy(unpack(out, self._shape))
        out = out.astype(np.int64 if self.spec.discrete else np.float32, copy=False)
        if self.spec.discrete and out.size and not 0 <= out.min() <= out.max() < self.spec.vocab:
            raise ValueError(
                f"{self.path} is damaged: codes must be in [0, {self.spec.vocab}), "
                f"got {out.min()} to {out.max()}"
            )
        if not self.spec.discrete and not np.isfinite(out).all():
            bad = rows[~np.isfinite(out).reshape(len(out), -1).all(1)]
            raise ValueError(
                f"{self.path} is damaged: codes of {', '.join(self.keys(bad[:4]))} are no numbers"
            )
        if self.posterior:
            out, std = np.split(out, 2, -1)
            if seeds is not None:
                out = out + std * normal(seeds, out.shape[1:])
        return torch.from_numpy(np.ascontiguousarray(out))

    def _stored(self, rows: np.ndarray, views: np.ndarray) -> np.ndarray:
        """What the file holds of rows in a view each, (B, ...): joined as bytes, as an array would
        take longer to index than to read."""
        part, size = self._parts[0], self._parts[0][0, 0].nbytes
        starts = (rows % self._length * self.views + views) * size
        places = zip((rows // self._length).tolist(), starts.tolist(), strict=True)
        joined = bytearray().join([self._bytes[i][start : start + size] for i, start in places])
        return np.frombuffer(joined, part.dtype).reshape(len(rows), *part.shape[2:])

    def indices(self, split: Literal["train", "held_out", "all"]) -> np.ndarray:
        """Rows of a split, ascending."""
        splits = {"train": self.train, "held_out": self.held_out, "all": np.arange(len(self))}
        if split not in splits:
            raise ValueError(f"split must be one of {', '.join(splits)}, got {split!r}")
        return splits[split]

    def captions(self, split: Literal["train", "held_out", "all"] = "all") -> list[str]:
        return self.captions_of(self.indices(split))

    def captions_of(self, indices: np.ndarray | list[int]) -> list[str]:
        return self._table["caption"].take(pa.array(indices)).to_pylist()

    def texts_of(self, indices: np.ndarray, chance: np.ndarray) -> list[str]:
        """A text of each row by `chance` (B,) in [0, 1): its caption below a half, or where the row
        has no other text, else one of its others, each as likely as another. Without a caption it
        is always one of the others."""
        texts = self.captions_of(indices)
        if self.wordings:
            others = self._table["wordings"].take(pa.array(indices)).to_pylist()
            for i, (found, at) in enumerate(zip(others, chance, strict=True)):
                at = 2 * at - 1 if texts[i] else at
                if found and at >= 0:
                    texts[i] = found[int(at * len(found))]
        return texts

    def text(self, indices: np.ndarray | list[int]) -> tuple[Tensor, Tensor]:
        """Features of the rows' captions, (B, T, C) float16 left padded with zeros, and their mask
        (B, T) bool. Raises ValueError if the cache has none, or some that are NaN or infinite."""
        if self.encoder is None:
            raise ValueError(f"{self.path} holds no features of captions")
        length, dim = (int(self.encoder["config"][name]) for name in ("length", "dim"))
        features = np.zeros((len(indices), length, dim), np.float16)
        mask = np.zeros((len(indices), length), bool)
        chunks = self._table["text"].chunks
        for slot, row in enumerate(np.asarray(indices).tolist()):
            found = chunks[row // self._length][row % self._length].values
            tokens = found.to_numpy(zero_copy_only=False).reshape(-1, dim)
            if not np.isfinite(tokens).all():
                (key,) = self.keys(np.array([row]))
                raise ValueError(f"{self.path} is damaged: features of {key} are no numbers")
            features[slot, length - len(tokens) :] = tokens
            mask[slot, length - len(tokens) :] = True
        return torch.from_numpy(features), torch.from_numpy(mask)

    def maps(self, indices: np.ndarray | list[int], views: np.ndarray | int = 0) -> Tensor:
        """Codes (B, M) int64 of the maps of rows in a view each."""
        rows = np.asarray(indices, dtype=np.int64)
        which = np.broadcast_to(np.asarray(views, dtype=np.int64), rows.shape)
        found = self._table["map"].take(pa.array(rows)).to_pylist()
        codes = np.array(found, dtype=np.int64).reshape(len(rows), self.views, -1)
        return torch.from_numpy(codes[np.arange(len(rows)), which])

    def require_map(self, kind: str, tokenizer_fingerprint: str) -> None:
        """Raise ValueError unless that tokenizer made codes of such maps."""
        made = self.map or {}
        if (made.get("kind"), made.get("fingerprint")) != (kind, tokenizer_fingerprint):
            told = f"{made['kind']} maps of tokenizer {made['fingerprint']}" if made else "no maps"
            raise ValueError(
                f"{self.path} holds {told}, but the recipe's are {kind} maps of tokenizer "
                f"{tokenizer_fingerprint}; encode the images again with it"
            )

    @property
    def holdout(self) -> float:
        """The share that `data.source.split` was given; of an older file that of its groups of
        keys, which is another where images were skipped."""
        if self._holdout is not None:
            return self._holdout
        group = class_of(self.source).group
        every, held = (
            len(set(map(group, self.keys(rows)))) for rows in (self.indices("all"), self.held_out)
        )
        return held / every

    @property
    def styles(self) -> list[str]:
        """The styles that the pictures have; [] of a source that has none."""
        style = class_of(self.source).style
        return sorted({style(key) for key in self.keys(self.indices("all"))} - {""})

    def keys(self, rows: np.ndarray) -> list[str]:
        """The keys of rows: what their source calls them."""
        return self._table["key"].take(pa.array(rows)).to_pylist()

    @property
    def encoding(self) -> Encoding:
        """What the cache says that it is of."""
        codes = self._table.schema.field("codes").type.value_type
        return Encoding(
            self.spec,
            self.views,
            self.tokenizer,
            self.transform,
            self.source,
            self.source_fingerprint,
            self.classes,
            self.encoder,
            half=codes == pa.float16(),
            posterior=self.posterior,
            map=self.map,
            wordings=self.wordings,
            holdout=self._holdout,
        )

    def rows(self) -> Iterator[Row]:
        """All rows as `write_cache` takes them, codes and features in the types they are stored
        in."""
        captions, keys = self.captions(), self.keys(self.indices("all"))
        held = np.isin(self.indices("all"), self.held_out)
        codes = (self._row(row) for part in self._parts for row in part)
        found = zip(codes, self.labels, captions, held, keys, strict=True)
        for i, (code, label, caption, out, key) in enumerate(found):
            text = None
            if self.encoder is not None:
                dim = int(self.encoder["config"]["dim"])
                value = self._table["text"][i].values
                text = value.to_numpy(zero_copy_only=False).reshape(-1, dim)
            map = None
            if self.map is not None:
                map = np.array(self._table["map"][i].as_py()).reshape(self.views, -1)
            others = tuple(self._table["wordings"][i].as_py()) if self.wordings else ()
            yield Row(code, int(label), caption, bool(out), key, text, map, others)

    def _row(self, codes: np.ndarray) -> np.ndarray:
        """The codes of a row, (V, N, ...), of what is stored of it."""
        return unpack(codes, self._shape) if self._packed else codes

    def require(self, tokenizer_fingerprint: str) -> None:
        """Raise ValueError unless that tokenizer made these codes."""
        if tokenizer_fingerprint != self.tokenizer:
            raise ValueError(
                f"{self.path} was encoded by tokenizer {self.tokenizer}, "
                f"but the tokenizer given is {tokenizer_fingerprint}; encode the images again"
            )

    def require_text(self, encoder_fingerprint: str) -> None:
        """Raise ValueError unless that text encoder made the captions' features."""
        made = self.encoder and self.encoder["fingerprint"]
        if made != encoder_fingerprint:
            told = f"of text encoder {made}" if made else "of none"
            raise ValueError(
                f"{self.path} holds caption features {told}, but the recipe's text encoder is "
                f"{encoder_fingerprint}; encode the images again with it"
            )

    def require_captions(self) -> None:
        """Raise ValueError if no image has a caption."""
        if not any(self.captions()):
            raise ValueError(f"{self.path}: the images of {self.source} have no captions")

    def fingerprint(self) -> str:
        """16 hex digits over the metadata, all labels and splits, and the codes of 64 rows."""
        sample = np.unique(np.linspace(0, len(self) - 1, 64).astype(np.int64)).tolist()
        codes = [self._parts[i // self._length][i % self._length].tobytes().hex() for i in sample]
        meta = json.loads(self._meta or b"{}")
        return digest([meta, self.labels.tolist(), self.held_out.tolist(), codes])


def normal(seeds: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers of each seed, (B, *shape) float32."""
    draws = [np.random.default_rng(s).standard_normal(shape, np.float32) for s in seeds.tolist()]
    return np.stack(draws)
