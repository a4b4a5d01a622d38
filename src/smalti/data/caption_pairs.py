"""Pairs of texts that say the same: batches are functions of the step. b texts, L ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from smalti.data.source import Source, wordings
from smalti.data.stream import Stream


class CaptionPairs:
    """Batches {'text_tokens', 'other_tokens'}, each (b, L) int64: captions of pictures, and another
    text of each. Pictures are never decoded.

    Of three texts or more the last is kept for `evaluation`, in whose batches it is the other one.
    Pictures with one text are left out. `batch` counts all ranks together. Raises ValueError if
    there is no picture with two.
    """

    def __init__(
        self,
        source: Source,
        indices: Sequence[int],
        tokenize: Callable[[Sequence[str]], Tensor],
        batch: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        found = {i: wordings(source, i) for i in indices}
        self.texts = {i: texts for i, texts in found.items() if len(texts) > 1}
        self.indices = list(self.texts)
        if not self.indices:
            raise ValueError(
                f"no picture of {source.name} has two texts, such as a caption and keywords: there "
                "are no pairs to learn from"
            )
        self.source, self.tokenize = source, tokenize
        self._stream = Stream(len(self.indices), batch, seed, rank, world)

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, step: int) -> dict[str, Tensor]:
        """This rank's part of batch `step`."""
        items = self._stream.at(step)
        first, other = list[str](), list[str]()
        for at, chance in zip(items.positions, self._stream.uniform(items), strict=True):
            caption, *others = self.texts[self.indices[at]]
            others = others[:-1] or others
            first.append(caption)
            other.append(others[int(chance * len(others))])
        return {"text_tokens": self.tokenize(first), "other_tokens": self.tokenize(other)}

    def names(self, step: int) -> list[str]:
        """The keys of batch `step`, for messages."""
        return [self.source.key(self.indices[at]) for at in self._stream.at(step).positions]

    def evaluation(self, batch: int) -> Iterator[dict[str, Tensor]]:
        """All pictures once, in order; the last batch may be short."""
        for start in range(0, len(self), batch):
            texts = [self.texts[i] for i in self.indices[start : start + batch]]
            ends = ([some[0] for some in texts], [some[-1] for some in texts])
            first, other = (self.tokenize(some) for some in ends)
            yield {"text_tokens": first, "other_tokens": other}
