"""Captions of the web made plain, as the T5 of LlamaGen saw them in training.

The rules are those of DeepFloyd IF, which PixArt and LlamaGen took over: links, markup, numbers
that name articles, advertisement and odd punctuation go. Upstream runs them twice, with ftfy and
Beautiful Soup; here the standard library decodes entities and a pattern removes tags.
"""

from __future__ import annotations

import html
import re
from urllib.parse import unquote_plus

IDEOGRAPHS = "\u31c0-\u4dff\u4e00-\u9fff"
DASHES = (
    "\u002d\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030\u30a0"
    "\ufe31\ufe32\ufe58\ufe63\uff0d"
)
MARKS = r"#®•©™&@·º½¾¿¡§~()\[\]{}|\\/*"
FILES = "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"

MARKUP = (
    (r"<person>", "person"),
    (r"\b(?:https?:/*)?(?:[\w.-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@))", ""),
    (r"<[^<>]*>", ""),
)
FIRST = (
    (r"@\w+\b", ""),  # nicknames
    (rf"[{IDEOGRAPHS}]+", ""),
    (rf"[{DASHES}]+", "-"),
    (r"[`´«»“”¨]", '"'),
    (r"[‘’]", "'"),
    (r"&(?:quot|amp);?", ""),
    (r"\d{1,3}(?:\.\d{1,3}){3}", " "),  # addresses of computers
    (r"\d:\d\d\s+$", ""),
    (r"\\n", " "),
    (r"#?\b\d{6,}\b|#\d{1,5}\b", ""),  # numbers of articles
    (rf"\S+\.(?:{FILES}|gif|avif|tiff?)\b", ""),  # names of files
    (r"[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    (rf"[{MARKS}]+", " "),
    (r"\s+\.\s+", " "),
)
"""Pattern and what takes its place, in this order, on lower case: after markup and entities."""

JOINED = re.compile(r"[-_]")
"""More than three of them: words were joined by them."""

SECOND = (
    (r"\b[a-z]{1,3}\d{3,15}\b", ""),  # jc6640
    (r"\b[a-z]+\d+[a-z]+\b", ""),  # jc6640vc
    (r"\b\d+[a-z]+\d+\b", ""),  # 6640vc231
    (r"(?:worldwide\s+)?(?:free\s+)?shipping", ""),
    (r"(?:free\s)?download(?:\sfree)?", ""),
    (r"\bclick\b\s(?:for|on|here)\s*\w*", ""),
    (rf"\b(?:{FILES})\b(?:\simages?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-z]+\d+[a-z]+\d+[a-z\d]*\b", " "),  # j2d1a2a
    (r"\b\d+\.?\d*[xх×]\d+\.?\d*\b", ""),  # 1000x1000
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
    (r"^\s*[\"'](.+)[\"']\s*$", r"\1"),
    (r"^['_,:;-]+|['_,:+-]+$", ""),
    (r"^\.\S+$", ""),
)


def clean(text: str) -> str:
    """A caption in lower case without what does not describe its picture; run twice, as upstream.

    What is already plain comes back unchanged but for case and white space.
    """
    return _once(_once(text))


def _once(text: str) -> str:
    text = _apply(MARKUP, unquote_plus(text).strip().lower())
    text = _apply(FIRST, html.unescape(text))
    if len(JOINED.findall(text)) > 3:
        text = JOINED.sub(" ", text)
    text = html.unescape(html.unescape(text))
    return _apply(SECOND, text.strip()).strip()


def _apply(rules: tuple[tuple[str, str], ...], text: str) -> str:
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return text
