import pytest

from outbound.simulator.speech import AUDIO_FILE, Event, Input, Played, SpeechEngine, Started, Stopped

TWELVE = "Sentence 1 of twelve: the quick brown fox jumps over the lazy dog. Sentence 2 of twelve: the end."


def played(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Played)]


def kinds(events: list[Event]) -> list[type[Event]]:
    return [type(event) for event in events]


def spoken(*tokens: str, last: bool = True) -> SpeechEngine:
    engine = SpeechEngine(rate=10)
    for number, token in enumerate(tokens, start=1):
        engine.text(token, last=last and number == len(tokens), now=0)
    return engine


def test_the_first_sound_comes_a_third_of_a_second_after_the_first_token() -> None:
    engine = spoken("Hello there.")
    assert engine.next_at() == pytest.approx(0.33)
    assert engine.advance(0.32) == []
    (event,) = engine.advance(0.33)
    assert event == Started(event.at)


def test_clauses_are_played_one_by_one_at_speaking_speed() -> None:
    events = spoken(TWELVE).advance(60)
    assert kinds(events) == [Started, Played, Played, Played, Played, Stopped]
    assert played(events)[:2] == ["Sentence 1 of twelve:", " the quick brown fox jumps over the lazy dog."]
    assert "".join(played(events)) == TWELVE
    assert events[1].at == pytest.approx(0.33 + 2.1)
    assert events[-1].at == events[-2].at


def test_tokens_are_gathered_into_clauses() -> None:
    assert played(spoken("One ", "two", ". Th", "ree.").advance(60)) == ["One two.", " Three."]


def test_a_fragment_without_punctuation_waits_for_last() -> None:
    engine = spoken("Done. And then", last=False)
    assert played(engine.advance(60)) == ["Done."]
    assert engine.speaking
    engine.text("", last=True, now=60)
    assert played(engine.advance(90)) == [" And then"]
    assert not engine.speaking


def test_a_decimal_that_arrives_in_pieces_stays_in_one_clause() -> None:
    assert played(spoken("It costs 3", ".", "5 dollars.").advance(60)) == ["It costs 3.5 dollars."]


def test_an_empty_cycle_makes_no_sound() -> None:
    engine = spoken("")
    assert engine.advance(60) == []
    assert engine.quiet


def test_closing_a_played_cycle_late_ends_the_speech_then() -> None:
    engine = spoken("Done.", last=False)
    assert kinds(engine.advance(60)) == [Started, Played]
    assert engine.text("", last=True, now=60) == [Stopped(60)]


def test_cycles_are_queued_and_silence_comes_after_the_last() -> None:
    engine = spoken("One.")
    engine.text("Two.", last=True, now=0)
    assert kinds(engine.advance(60)) == [Started, Played, Played, Stopped]


def test_an_interruption_reports_only_whole_words_of_the_playing_clause() -> None:
    engine = spoken(TWELVE)
    at = 0.33 + (len("Sentence 1 of twelve:") + len("the quick brown fo")) / 10
    engine.advance(at)
    cut = engine.cut(at)
    assert cut.heard == "the quick brown"
    assert cut.played_ms == 1800
    assert cut.unheard == "fox jumps over the lazy dog. Sentence 2 of twelve: the end."


def test_an_interruption_forgets_later_cycles_too() -> None:
    engine = spoken("One two three.")
    engine.text("Later.", last=True, now=0)
    engine.advance(1)
    assert "Later." in engine.cut(1).unheard
    assert engine.quiet
    assert engine.advance(60) == []


def test_text_after_an_interruption_is_spoken() -> None:
    engine = spoken("One two three")
    engine.advance(1)
    engine.cut(1)
    engine.text(" stale words.", last=True, now=1)
    assert played(engine.advance(60)) == [" stale words."]


def test_a_preemptible_cycle_is_cut_by_later_text_without_falling_silent() -> None:
    engine = SpeechEngine(rate=10)
    engine.text("One moment, please wait.", last=True, now=0, preemptible=True)
    engine.advance(1.33)
    events = engine.text("Here it is.", last=True, now=1.33)
    assert events == [Played(1.33, "One", whole=False)]
    assert kinds(engine.advance(60)) == [Played, Stopped]


def test_preemptible_on_the_new_text_does_nothing_for_the_old() -> None:
    engine = spoken("One two three.")
    engine.text("Later.", last=True, now=0, preemptible=True)
    assert played(engine.advance(60)) == ["One two three.", "Later."]


def test_a_sound_file_preempts_and_has_its_length() -> None:
    engine = SpeechEngine(rate=10)
    engine.text("A long story without an end", last=False, now=0, preemptible=True)
    engine.play(loop=2, now=0)
    assert [event.at for event in engine.advance(60)] == pytest.approx([0.33, 0.33 + 2 * AUDIO_FILE])


def test_digits_are_late_on_an_idle_line_and_wait_for_speech() -> None:
    idle = SpeechEngine()
    idle.digits("1w2", now=0)
    (tones,) = idle.advance(60)
    assert tones == Played(tones.at, "1w2", spoken=False)
    assert tones.at == pytest.approx(3.0)
    busy = spoken("One two three.")
    busy.digits("12", now=0)
    assert played(busy.advance(60)) == ["One two three.", "12"]


def test_what_may_interrupt_belongs_to_the_cycle_that_sounds() -> None:
    engine = SpeechEngine(rate=10)
    engine.text("This is a notice.", last=True, now=0, interruptible=Input.NONE)
    engine.text("And this is not.", last=True, now=0, interruptible=Input.SPEECH)
    found = [engine.interruptible]
    for now in (1, 3, 60):
        engine.advance(now)
        found.append(engine.interruptible)
    assert found == [Input.NONE, Input.NONE, Input.SPEECH, Input.NONE]


def test_words_have_their_time() -> None:
    engine = spoken("One two three.")
    engine.advance(0.33)
    assert engine.word_at(2) == pytest.approx(0.33 + 0.7)
    assert engine.word_at(4) is None
    assert engine.hearing(1.03) == "One two"
