"""What `smalti eval` measures by reading: pictures by the answers of a reader, and a pipeline by
what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smalti.cli.evaluate import Options
from smalti.cli.matching import Found, unseen
from smalti.data.skipped import report
from smalti.devices.named import named_device
from smalti.eval.gecko import judged, records
from smalti.eval.metrics import PROMPTED, READING, How, named
from smalti.eval.prompts import prompt_of
from smalti.eval.reading import Questions, Reader, answered, measured
from smalti.eval.report import Measured
from smalti.eval.sets import open_set
from smalti.loading import load_unified
from smalti.progress import say
from smalti.recipes.base import DataConfig


def of_answers(subject: str, options: Options) -> Found:
    """What a pipeline of text and pictures answers, beside what people did."""
    names = named(options.metrics)
    if wrong := [name for name in names if name not in READING]:
        raise ValueError(
            f"{', '.join(wrong)}: {', '.join(READING)} are of answers and are measured alone"
        )
    pipe: Any = load_unified(subject, named_device(options.device), options.dtype)
    given = options.reference or unseen(subject, pipe.info)
    share = pipe.info.get("holdout") or DataConfig().holdout
    questions = Questions.open(given, share, options.skip_bad)
    how = How((), draws=options.bootstrap, seed=options.seed, batch=options.batch)
    reader = Reader(pipe, seed=options.seed)
    found = answered(reader, questions, options.batch, names)
    reader.tell()
    about = {"kind": "reader", "fingerprint": pipe.fingerprint}
    told = [
        {"question": question, "answers": answers, "said": said}
        for question, answers, said in zip(found.asked, found.answers, found.said, strict=True)
    ]
    metrics = measured(found, names, how, reference=questions.documents.fingerprint())
    reference = {"name": given, "questions": len(found), "too_long": reader.unread}
    reference |= report(questions.documents.skipped)
    return Found(metrics, about, given, None, {"reference": reference, "answers": told})


@dataclass(frozen=True)
class Examiner:
    """What answers questions about pictures, where that is asked for."""

    reader: Reader | None
    size: int | None
    skip_bad: bool

    @staticmethod
    def of(options: Options) -> Examiner:
        """The reader of the options. Raises ValueError if there is none where it is needed, or
        where it has nothing to do, and for a pipeline that reads no pictures."""
        wanted = any(name in PROMPTED for name in named(options.metrics))
        if wanted != (options.reader is not None):
            raise ValueError(
                "gecko: a reader is needed, give --reader"
                if wanted
                else "--reader is for the metric gecko: name it with --metrics"
            )
        if options.reader is None:
            return Examiner(None, options.size, options.skip_bad)
        pipe = load_unified(options.reader, named_device(options.device), options.dtype)
        return Examiner(Reader(pipe, seed=options.seed), options.size, options.skip_bad)

    def check(self, texts: Sequence[str]) -> None:
        """Raise ValueError if nothing could be asked of pictures of any of these texts."""
        if self.reader is None or any(prompt_of(text).questions for text in dict.fromkeys(texts)):
            return
        such = f", such as {texts[0]!r}" if texts else ""
        raise ValueError(f"gecko: its templates know nothing of what is drawn{such}")

    def measured(self, pictures: str | Path, how: How) -> tuple[list[Measured], dict[str, Any]]:
        """What it says of pictures, at their own size or at the one asked for, and of each word of
        each prompt."""
        if self.reader is None:
            return [], {}
        some = open_set(pictures, self.size, self.skip_bad)
        found = judged(some, self.reader, how, say)
        self.reader.tell()
        return records(found, self.reader, some, how), {"gecko": [one.told() for one in found]}
