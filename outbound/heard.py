"""What was heard: a mirror of the carrier's speech queue, from which the agent's lines are cut to the truth.

The carrier tells three things, all optional: `agentSpeaking` on and off, `tokensPlayed` (the clause that has just been
played) and `utteranceUntilInterrupt` (what was heard of the clause that was cut, not of the whole talk cycle). Once a
session has shown `tokensPlayed`, they decide; before that, utterances count as heard when speech ends, and a cut one is
found by its fragment and the time that has passed.
"""

from dataclasses import dataclass, field

CHARACTERS_PER_SECOND = 15.0
"""An ordinary speaking rate, for estimates where the carrier reports nothing."""

FIRST_SOUND_AFTER_S = 0.35
"""From the first token to the first sound, as measured on live calls (0.32 to 0.34 s)."""


@dataclass(slots=True)
class Utterance:
    """One talk cycle of the agent: what was sent to be spoken, and how far into it the callee has heard."""

    line: int
    preemptible: bool = False
    """Later speech may cut it, which the carrier does not report."""
    sent: str = ""
    heard_to: int = 0
    """Index into `sent`."""
    closed: bool = False
    """Nothing more will be sent of it."""
    settled: bool = False
    """Nothing more will be heard of it."""
    first_sent_at: float | None = None
    began_at: float | None = None
    """When it became audible, where the carrier said so."""

    @property
    def heard(self) -> str:
        return self.sent[: self.heard_to].strip()

    @property
    def cut(self) -> bool:
        """Whether the callee missed some of it."""
        return any(character.isalnum() for character in self.sent[self.heard_to :])

    @property
    def fully_played(self) -> bool:
        return self.closed and not self.cut

    def audible_since(self, otherwise: float) -> float:
        if self.began_at is not None:
            return self.began_at
        return (self.first_sent_at if self.first_sent_at is not None else otherwise) + FIRST_SOUND_AFTER_S


@dataclass(slots=True)
class Playback:
    """The utterances given to the carrier and not yet settled, oldest first: it plays them in this order.

    Each method that takes news from the carrier returns the utterances this settles; they are never changed again.
    """

    speaking: bool = False
    """Whether the agent's words are audible right now, as far as the carrier has said."""
    playing: int | None = None
    """The line of the clause that was reported last; None where that was none of ours."""
    _pending: list[Utterance] = field(default_factory=list)
    _reports_speaking: bool = False
    _reports_played: bool = False
    _astray: bool = False
    """The last clause reported as played is nowhere in what was sent: the voice words it differently."""
    _assumed: list[Utterance] = field(default_factory=list)
    """Utterances taken for heard before the first report, which may still be reported as played."""
    _keys: list[str] = field(default_factory=list)
    """Keypad tones that were sent and not yet reported as played."""
    _done_at: float = float("-inf")
    """When an ordinary voice will have spoken all that was sent."""

    @property
    def pending(self) -> tuple[Utterance, ...]:
        return tuple(self._pending)

    @property
    def reports_speaking(self) -> bool:
        return self._reports_speaking

    @property
    def will_report_end(self) -> bool:
        """Whether the carrier is expected to say when the pending speech ends: it says so, and has not yet."""
        fell_silent = not self.speaking and bool(self._pending) and self._pending[0].began_at is not None
        return self._reports_speaking and not fell_silent

    def begin(self, line: int, *, preemptible: bool = False) -> Utterance:
        """Opens an utterance at the end of the queue."""
        utterance = Utterance(line, preemptible)
        self._pending.append(utterance)
        return utterance

    def take_up(self, utterance: Utterance, now: float) -> Utterance:
        """Puts an utterance into the queue that the carrier was given on another socket, and may be playing still."""
        utterance.first_sent_at = now
        self._pending.append(utterance)
        self._done_at = max(self._done_at, now) + len(utterance.sent[utterance.heard_to :]) / CHARACTERS_PER_SECOND
        return utterance

    def send(self, utterance: Utterance, text: str, now: float) -> None:
        """Notes text handed to the carrier for an open utterance."""
        if utterance.first_sent_at is None:
            utterance.first_sent_at = now
        utterance.sent += text
        self._done_at = max(self._done_at, now + FIRST_SOUND_AFTER_S) + len(text) / CHARACTERS_PER_SECOND

    def press(self, digits: str) -> None:
        """Notes keypad tones handed to the carrier, which reports them among what it has played."""
        self._keys.append(digits)

    def not_sent(self, text: str) -> list[Utterance]:
        """Takes back what was noted of utterances whose end is that of `text`: it never reached the wire.

        Settles those of which nothing is left to be heard.
        """
        self._done_at -= len(text) / CHARACTERS_PER_SECOND
        for utterance in reversed(self._pending):
            if utterance.sent and text.endswith(utterance.sent):
                text = text[: -len(utterance.sent)]
                utterance.sent = ""
            elif text and utterance.sent.endswith(text):
                utterance.sent = utterance.sent[: -len(text)]
                text = ""
        return self._settle([u for u in self._pending if u.fully_played])

    def close(self, utterance: Utterance) -> list[Utterance]:
        """Nothing more will be sent of it. Settles it at once if all of it has been played already."""
        utterance.closed = True
        if utterance.settled or utterance.cut or (self.speaking and utterance.sent.strip()):
            return []
        return self._settle([utterance])

    def agent_speaking(self, on: bool, now: float) -> list[Utterance]:
        """Speech became audible or ceased; ceasing settles what is closed and was played."""
        self.speaking = on
        self._reports_speaking = True
        if on:
            first = next(iter(self._pending), None)
            if first is not None and first.began_at is None:
                first.began_at = now
                unheard = sum(len(u.sent) - u.heard_to for u in self._pending)
                self._done_at = now + unheard / CHARACTERS_PER_SECOND
            return []
        for utterance in self._spoken_out():
            utterance.heard_to = len(utterance.sent)
        self._astray = False
        return self._settle([u for u in self._pending if u.fully_played])

    def _spoken_out(self) -> list[Utterance]:
        """What was spoken to its end, now that there is silence, beyond what the reports of played clauses say."""
        if not self._pending:
            return []
        if self._reports_played:
            astray = next((u for u in self._pending if not u.preemptible), None) if self._astray else None
            return [astray] if astray is not None else []
        return self._pending if self._pending[0].began_at is not None else []

    def played(self, text: str) -> list[Utterance]:
        """A clause was played. Settles the utterances it shows to be over."""
        if not text.strip():
            return []
        self._reports_played = True
        self.playing = None
        if text.strip() in self._keys:
            self._keys.remove(text.strip())
            return []
        found = self._place(text)
        if found is None:
            words = _squeeze(text)
            known = any(words in _squeeze(u.sent) for u in self._assumed)
            self._astray = self._astray or (bool(words) and not known)
            return []
        self._astray = False
        utterance, end = found
        utterance.heard_to = end
        self.playing = utterance.line
        over = self._pending[: self._pending.index(utterance)]
        if utterance.fully_played and not self.speaking:
            over = [*over, utterance]
        return self._settle(over)

    def interrupted(self, fragment: str, now: float) -> list[Utterance]:
        """The callee barged in: the carrier has dropped everything unplayed. Settles all there is."""
        if not self._reports_played:
            self._estimate_cut(fragment, now)
        elif not self._already_counted(fragment) and (found := self._place(fragment)) is not None:
            found[0].heard_to = found[1]
        self.speaking = False
        self._keys.clear()
        return self._close_all()

    def assume_heard(self) -> list[Utterance]:
        """The callee answered with no interruption reported.

        A carrier that reports nothing of its speech sends no prompt before it has finished: what is closed was heard.
        """
        if self._reports_speaking or self._reports_played:
            return []
        done = [u for u in self._pending if u.closed]
        for utterance in done:
            utterance.heard_to = len(utterance.sent)
        self._assumed += done
        return self._settle(done)

    def hung_up(self, now: float) -> list[Utterance]:
        """The line is dead. What no report covers is cut where an ordinary voice would have got to."""
        if not self._reports_played and self._pending:
            self._estimate_position(now)
        return self._close_all()

    def expected_end(self, now: float) -> float:
        """When everything pending will have been heard, at an ordinary pace; `now` if nothing is pending.

        Where played clauses are reported, `now` is the time of the last news of them.
        """
        if not self._pending:
            return now
        if not self._reports_played:
            return max(now, self._done_at)
        unheard = sum(len(u.sent) - u.heard_to for u in self._pending)
        return max(now, self._pending[0].audible_since(now)) + unheard / CHARACTERS_PER_SECOND

    def _already_counted(self, fragment: str) -> bool:
        """Whether the cut clause is what `tokensPlayed` reported last, as it does just before an interrupt."""
        squeezed = _squeeze(fragment)
        last = next((u for u in reversed(self._pending) if u.heard_to > 0), None)
        return not squeezed or (last is not None and _squeeze(last.heard).endswith(squeezed))

    def _place(self, text: str) -> tuple[Utterance, int] | None:
        """Finds played text: where the queue stands, else at the start of a later utterance.

        Text found at neither (numbers the voice wrote out, a report lost or repeated) moves nothing; what is played
        after it is looked for anywhere ahead.
        """
        for utterance in self._pending:
            end = _match_at(utterance.sent, utterance.heard_to, text)
            if end is not None:
                return utterance, end
        for utterance in self._pending if self._astray else ():
            end = _find(utterance.sent, utterance.heard_to, text)
            if end is not None:
                return utterance, end
        return None

    def _estimate_cut(self, fragment: str, now: float) -> None:
        """Places a fragment with nothing but the clock: of several places, the one an ordinary voice had reached."""
        if not self._pending:
            return
        expected = max(0.0, now - self._pending[0].audible_since(now)) * CHARACTERS_PER_SECOND
        places: list[tuple[float, int, int]] = []
        before = 0
        for index, utterance in enumerate(self._pending):
            ends = _find_all(utterance.sent, utterance.heard_to, fragment)
            places += [(abs(before + end - expected), index, end) for end in ends]
            before += len(utterance.sent)
        if not places:
            self._estimate_position(now)
        else:
            _, index, end = min(places)
            for earlier in self._pending[:index]:
                earlier.heard_to = len(earlier.sent)
            self._pending[index].heard_to = end

    def _estimate_position(self, now: float) -> None:
        spoken = int(max(0.0, now - self._pending[0].audible_since(now)) * CHARACTERS_PER_SECOND)
        for utterance in self._pending:
            utterance.heard_to = max(utterance.heard_to, _word_end(utterance.sent, spoken))
            spoken = max(0, spoken - len(utterance.sent))

    def _close_all(self) -> list[Utterance]:
        for utterance in self._pending:
            utterance.closed = True
        return self._settle(list(self._pending))

    def _settle(self, utterances: list[Utterance]) -> list[Utterance]:
        for utterance in utterances:
            utterance.settled = True
            if utterance.fully_played and utterance.heard_to > 0:
                utterance.heard_to = len(utterance.sent)
        self._pending = [u for u in self._pending if not u.settled]
        if not self._pending:
            self._done_at = float("-inf")
            self._astray = False
        return utterances


def _sounds(text: str, start: int = 0) -> list[tuple[int, str]]:
    """What can be heard of `text` from `start` on: its letters and digits with their places, case aside.

    White space at the joints of played clauses is not reliable, and punctuation is the voice's own.
    """
    return [(index, text[index].lower()[0]) for index in range(start, len(text)) if text[index].isalnum()]


def _squeeze(text: str) -> str:
    return "".join(sound for _, sound in _sounds(text))


def _match_at(sent: str, start: int, text: str) -> int | None:
    """The index after `text` if `sent` goes on with it at `start`; None otherwise."""
    wanted = _squeeze(text)
    index, matched = start, 0
    while matched < len(wanted) and index < len(sent):
        if sent[index].isalnum():
            if sent[index].lower()[0] != wanted[matched]:
                return None
            matched += 1
        index += 1
    return _behind_punctuation(sent, index, text) if wanted and matched == len(wanted) else None


def _find(sent: str, start: int, text: str) -> int | None:
    """The index after the first place at or behind `start` where `sent` has `text`; None if it has not."""
    wanted = _squeeze(text)
    sounds = _sounds(sent, start)
    at = "".join(sound for _, sound in sounds).find(wanted)
    return _behind_punctuation(sent, sounds[at + len(wanted) - 1][0] + 1, text) if wanted and at >= 0 else None


def _behind_punctuation(sent: str, end: int, text: str) -> int:
    """Takes in the full stop of a clause that was played to its end."""
    if text.rstrip()[-1:].isalnum():
        return end
    while end < len(sent) and not sent[end].isalnum() and not sent[end].isspace():
        end += 1
    return end


def _find_all(sent: str, start: int, text: str) -> list[int]:
    ends: list[int] = []
    while (end := _find(sent, start, text)) is not None:
        ends.append(end)
        start = end
    return ends


def _word_end(sent: str, index: int) -> int:
    """The end of the last whole word at or before `index`."""
    if index >= len(sent):
        return len(sent)
    space = sent.rfind(" ", 0, index + 1)
    return max(space, 0)
