"""What can be spoken: words without markdown, emoji and tags, cleaned as they stream."""

import html
import re

MARKUP = re.compile(
    r"(?P<tag></?[A-Za-z!?][^<>]{0,200}>)"
    r"|(?P<entity>&(?:\#\d{1,6}|\#x[0-9A-Fa-f]{1,5}|[A-Za-z][A-Za-z0-9]{1,20});)"
    r"|(?P<sign>[<&])"
    r"|(?<![^\n])```\w{0,20}\n|`+"  # code
    r"|(?<![^\n])(?:[ \t]*(?:[-+*•>]|\#{1,6})[ \t]+){1,4}"  # list items, headings and quotes
    r"|(?<![\s*])\*++|(?<!\*)\*++(?!\s)|(?<!\w)_++|(?<!_)_++(?!\w)|~~+"  # emphasis, but not 2 * 3 or snake_case
    r"|\]\([^)\n]{0,500}\)|[\[\]]|•"  # links
    r"|[\u2190-\u21ff\u2300-\u23ff\u2600-\u27bf\u2b00-\u2bff\ufe0f\u20e3\U0001f000-\U0001faff\U000e0020-\U000e007f]"
    r"|(?<=[\u2600-\u27bf\ufe0f\U0001f000-\U0001faff])\u200d"  # emoji and arrows; what joins two emoji
)
UNDECIDED = re.compile(
    r"(?:<(?:/?(?:[A-Za-z!?][^<>]{0,200})?)?|&\#?\w{0,21}|\](?:\([^)\n]{0,500})?|(?<![^\n])```\w{0,20}|[`*_~]+"
    r"|(?<![^\n])(?:[ \t]*(?:[-+*•>]|\#{1,6})){0,4}[ \t]*)\Z"
)
"""An end that may become markup or not, depending on what follows."""
SIGNS = {"en": {"&": "and", "<": "less than"}, "es": {"&": "y", "<": "menor que"}}
"""Spoken, because the carrier reads `<` and `&` as SSML and some voices read an escape aloud."""


class Cleaner:
    """Takes markup out of words that come in pieces, holding back nothing but an undecided end.

    With `ssml`, tags and entities stay, each in one piece.
    """

    def __init__(self, *, ssml: bool = False, language: str = "en") -> None:
        self._ssml = ssml
        self._signs = SIGNS.get(language[:2].lower(), SIGNS["en"])
        self._text = "\n"  # one character that is done, then what is undecided
        self._end = " "
        self._gap = False

    def feed(self, text: str, *, last: bool = False) -> str:
        """The words that can be spoken now. Call it with `last` at the end, and then no more."""
        text = self._text + text
        undecided = None if last else UNDECIDED.search(text, 1)
        stop = undecided.start() if undecided else len(text)
        out: list[str] = []
        place = 1
        for match in MARKUP.finditer(text, 1):
            if match.start() >= stop:
                break
            self._keep(out, text[place : match.start()])
            place = match.end()
            self._replace(out, match)
        self._keep(out, text[place:stop])
        self._text = text[max(place, stop) - 1 :]
        return "".join(out)

    def _keep(self, out: list[str], words: str) -> None:
        if self._gap and self._end.isspace():
            words = words.lstrip(" ")
        if words:
            out.append(words)
            self._end, self._gap = words[-1], False

    def _replace(self, out: list[str], match: re.Match[str]) -> None:
        kind, found = match.lastgroup, match[0]
        if kind and self._ssml:
            return self._keep(out, found)
        self._gap = True
        for char in "" if kind == "tag" else html.unescape(found) if kind else "":
            if sign := self._signs.get(char):
                self._keep(out, f"{'' if self._end.isspace() else ' '}{sign} ")
                self._gap = True
            else:
                self._keep(out, char)


def clean(text: str, *, ssml: bool = False, language: str = "en") -> str:
    """The text as it can be spoken, without markdown, emoji and, unless `ssml`, tags."""
    return Cleaner(ssml=ssml, language=language).feed(text, last=True)
