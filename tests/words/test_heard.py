"""What was heard: the mirror of the carrier's speech queue."""

import pytest

from outbound.heard import CHARACTERS_PER_SECOND, FIRST_SOUND_AFTER_S, Playback, Utterance

SENTENCE = "the quick brown fox jumps over the lazy dog while the spike keeps talking so you can interrupt it."
TWELVE = " ".join(f"Sentence {number} of twelve: {SENTENCE}" for number in range(1, 13))


def speak(playback: Playback, text: str, now: float = 0.0, *, preemptible: bool = False) -> Utterance:
    """One whole utterance, sent and closed."""
    utterance = playback.begin(len(playback.pending) + 1, preemptible=preemptible)
    playback.send(utterance, text, now)
    assert playback.close(utterance) == []
    return utterance


def heard(utterances: list[Utterance]) -> list[tuple[str, bool]]:
    """What settled utterances come to: the words, and whether some were missed."""
    assert all(utterance.settled and utterance.closed for utterance in utterances)
    return [(utterance.heard, utterance.cut) for utterance in utterances]


def after(text: str) -> float:
    """The moment when an ordinary voice that was given `text` at 0 has just spoken it."""
    return FIRST_SOUND_AFTER_S + len(text) / CHARACTERS_PER_SECOND


# With played clauses and speaker events, as Twilio reports them.


@pytest.mark.parametrize("fragment", ["Sentence 2 of", ""])
def test_what_was_heard_of_the_recorded_interruption_is_every_clause_and_the_cut_one(fragment: str) -> None:
    playback = Playback()
    speak(playback, TWELVE, 4.88)
    assert playback.agent_speaking(True, 5.20) == []
    assert playback.played("Sentence 1 of twelve:") == []
    assert playback.played(f" {SENTENCE}") == []
    assert playback.played("Sentence 2 of") == []
    assert heard(playback.interrupted(fragment, 11.657)) == [
        (f"Sentence 1 of twelve: {SENTENCE} Sentence 2 of", True),
    ]
    assert playback.agent_speaking(False, 11.659) == []
    assert playback.pending == ()


def test_a_cut_clause_that_only_the_interruption_names_is_added() -> None:
    playback = Playback()
    speak(playback, TWELVE)
    playback.agent_speaking(True, 0.3)
    playback.played("Sentence 1 of twelve:")
    playback.played(SENTENCE)
    assert heard(playback.interrupted("Sentence 2 of", 6.5)) == [
        (f"Sentence 1 of twelve: {SENTENCE} Sentence 2 of", True)
    ]


def test_a_cut_clause_that_was_reported_already_is_not_taken_for_its_repetition() -> None:
    playback = Playback()
    speak(playback, "Thank you very much. Thank you very much.")
    playback.agent_speaking(True, 0.3)
    playback.played("Thank you")
    assert heard(playback.interrupted("Thank you", 3.0)) == [("Thank you", True)]


def test_a_cut_word_that_was_reported_already_is_not_taken_for_the_next_one() -> None:
    playback = Playback()
    speak(playback, "Yes, yes, of course.")
    playback.agent_speaking(True, 0.3)
    playback.played("Yes")
    assert heard(playback.interrupted("Yes", 0.6)) == [("Yes", True)]


def test_the_repetition_of_a_clause_is_not_taken_for_the_clause() -> None:
    playback = Playback()
    speak(playback, "Thank you. Thank you. Thank you so much.")
    playback.agent_speaking(True, 0.3)
    playback.played("Thank you.")
    playback.played("Thank you.")
    assert heard(playback.interrupted("", 0.5)) == [("Thank you. Thank you.", True)]


def test_speech_played_to_its_end_is_settled_when_the_voice_ceases() -> None:
    playback = Playback()
    speak(playback, "Hello. How are you?")
    playback.agent_speaking(True, 0.3)
    assert playback.played("Hello.") == []
    assert playback.played(" How are you?") == []
    assert heard(playback.agent_speaking(False, 2.0)) == [("Hello. How are you?", False)]


def test_speech_is_settled_also_when_the_last_clause_is_reported_after_the_voice_has_ceased() -> None:
    playback = Playback()
    speak(playback, "Hello. How are you?")
    playback.agent_speaking(True, 0.3)
    playback.played("Hello.")
    assert playback.agent_speaking(False, 2.0) == []
    assert heard(playback.played("How are you?")) == [("Hello. How are you?", False)]


def test_a_pause_of_the_voice_does_not_make_the_rest_heard() -> None:
    playback = Playback()
    speak(playback, "Hello. How are you?")
    playback.agent_speaking(True, 0.3)
    playback.played("Hello.")
    assert playback.agent_speaking(False, 1.0) == []
    assert heard(playback.interrupted("", 1.5)) == [("Hello.", True)]


def test_speech_closed_after_it_was_played_is_settled_at_once() -> None:
    playback = Playback()
    utterance = playback.begin(1)
    playback.send(utterance, "Hello.", 0.0)
    playback.agent_speaking(True, 0.3)
    playback.played("Hello.")
    playback.agent_speaking(False, 1.0)
    assert heard(playback.close(utterance)) == [("Hello.", False)]


def test_speech_closed_while_its_last_words_sound_is_settled_when_they_end() -> None:
    playback = Playback()
    utterance = playback.begin(1)
    playback.send(utterance, "Hello.", 0.0)
    playback.agent_speaking(True, 0.3)
    playback.played("Hello.")
    assert playback.close(utterance) == []
    assert heard(playback.agent_speaking(False, 1.0)) == [("Hello.", False)]


def test_an_utterance_of_nothing_is_settled_when_it_is_closed() -> None:
    playback = Playback()
    assert heard(playback.close(playback.begin(1))) == [("", False)]


def test_of_two_queued_utterances_the_first_is_settled_when_the_second_is_played() -> None:
    playback = Playback()
    speak(playback, "One.")
    speak(playback, "Two. Three and four.")
    playback.agent_speaking(True, 0.3)
    playback.played("One.")
    assert heard(playback.played("Two.")) == [("One.", False)]
    assert heard(playback.interrupted("Three", 2.0)) == [("Two. Three", True)]


def test_an_interruption_purges_the_utterances_that_waited() -> None:
    playback = Playback()
    speak(playback, "One. Two.")
    speak(playback, "Three.")
    playback.agent_speaking(True, 0.3)
    playback.played("One.")
    assert heard(playback.interrupted("", 1.0)) == [("One.", True), ("", True)]
    assert not playback.speaking


def test_a_filler_cut_by_the_answer_is_heard_as_far_as_it_was_played() -> None:
    playback = Playback()
    speak(playback, "One moment, please. I am looking.", preemptible=True)
    speak(playback, "It is open.")
    playback.agent_speaking(True, 0.3)
    playback.played("One moment, please.")
    assert heard(playback.played("It is open.")) == [("One moment, please.", True)]
    assert heard(playback.agent_speaking(False, 3.0)) == [("It is open.", False)]


def test_a_filler_that_was_cut_before_a_sound_was_not_heard() -> None:
    playback = Playback()
    speak(playback, "One moment, please.", preemptible=True)
    speak(playback, "It costs $5.")
    playback.agent_speaking(True, 0.3)
    playback.played("It costs five dollars.")
    assert heard(playback.agent_speaking(False, 3.0)) == [("It costs $5.", False)]
    assert heard(playback.hung_up(4.0)) == [("", True)]


def test_numbers_the_voice_wrote_out_are_heard_when_the_voice_ceases() -> None:
    playback = Playback()
    speak(playback, "Your bill is ready. It is $5.")
    playback.agent_speaking(True, 0.3)
    playback.played("Your bill is ready.")
    playback.played("It is five dollars.")
    assert heard(playback.agent_speaking(False, 3.0)) == [("Your bill is ready. It is $5.", False)]


def test_numbers_the_voice_wrote_out_are_heard_also_when_the_end_was_sent_after_them() -> None:
    playback = Playback()
    utterance = playback.begin(1)
    playback.send(utterance, "It is $5.", 0.0)
    playback.agent_speaking(True, 0.3)
    playback.played("It is five dollars.")
    playback.agent_speaking(False, 2.0)
    assert heard(playback.close(utterance)) == [("It is $5.", False)]


def test_words_after_numbers_that_were_written_out_are_heard_only_when_they_are_played() -> None:
    playback = Playback()
    speak(playback, "It is $5. Is that fine? We close now.")
    playback.agent_speaking(True, 0.3)
    playback.played("It is five dollars.")
    playback.played("Is that fine?")
    assert playback.agent_speaking(False, 3.0) == []
    assert heard(playback.interrupted("", 4.0)) == [("It is $5. Is that fine?", True)]


def test_words_sent_after_numbers_that_were_written_out_are_heard_only_when_they_are_played() -> None:
    playback = Playback()
    utterance = playback.begin(1)
    playback.send(utterance, "It is $5.", 0.0)
    playback.agent_speaking(True, 0.3)
    playback.played("It is five dollars.")
    playback.agent_speaking(False, 2.0)
    playback.send(utterance, " Is that fine?", 3.0)
    playback.agent_speaking(True, 3.3)
    playback.agent_speaking(False, 3.4)
    assert heard(playback.interrupted("", 3.5)) == [("It is $5.", True)]


def test_numbers_of_an_utterance_that_was_cut_do_not_make_the_next_one_heard() -> None:
    playback = Playback()
    speak(playback, "It is $5. Is that fine?")
    playback.agent_speaking(True, 0.3)
    playback.played("It is five dollars.")
    playback.interrupted("", 2.0)
    speak(playback, "Yes?")
    assert playback.agent_speaking(False, 2.1) == []
    assert playback.pending[0].heard == ""


def test_words_after_numbers_that_were_written_out_are_found() -> None:
    playback = Playback()
    speak(playback, "It is $5. Is that fine? We close at 6.")
    playback.agent_speaking(True, 0.3)
    playback.played("It is five dollars.")
    playback.played("Is that fine?")
    assert heard(playback.interrupted("", 3.0)) == [("It is $5. Is that fine?", True)]


@pytest.mark.parametrize(
    "clauses",
    [
        ["Well, yes.", "I  am\nhere."],
        [" Well, yes. ", "I am here ."],
        ["well yes", "I AM HERE"],
        ["Well", ",", " yes.", "", "I am he", "re."],
        ["Well,yes.I am here."],
    ],
)
def test_white_space_case_and_punctuation_of_played_clauses_do_not_matter(clauses: list[str]) -> None:
    playback = Playback()
    speak(playback, "Well, yes. I am here.")
    playback.agent_speaking(True, 0.3)
    for clause in clauses:
        playback.played(clause)
    assert heard(playback.agent_speaking(False, 3.0)) == [("Well, yes. I am here.", False)]


def test_the_full_stop_of_a_played_clause_belongs_to_it_and_the_comma_of_a_cut_one_does_not() -> None:
    playback = Playback()
    speak(playback, "Really?! Yes, of course.")
    playback.agent_speaking(True, 0.3)
    playback.played("Really?!")
    assert playback.pending[0].heard == "Really?!"
    assert heard(playback.interrupted("Yes", 1.0)) == [("Really?! Yes", True)]


def test_words_in_other_scripts_are_found() -> None:
    playback = Playback()
    speak(playback, "¿Sigue ahí? Ça va. İyi. 你好。再见。")
    playback.agent_speaking(True, 0.3)
    for clause in ("¿Sigue ahí?", "Ça va.", "İyi.", "你好。"):
        playback.played(clause)
    assert heard(playback.interrupted("", 3.0)) == [("¿Sigue ahí? Ça va. İyi. 你好。", True)]


def test_a_clause_reported_twice_is_heard_once() -> None:
    playback = Playback()
    speak(playback, "Thank you. I will call again. Thank you. Goodbye.")
    playback.agent_speaking(True, 0.3)
    playback.played("Thank you.")
    playback.played("Thank you.")
    assert playback.pending[0].heard == "Thank you."
    playback.played("I will call again.")
    assert heard(playback.interrupted("", 2.0)) == [("Thank you. I will call again.", True)]


def test_keypad_tones_that_were_played_are_not_taken_for_words() -> None:
    playback = Playback()
    playback.press("12")
    speak(playback, "12 is what I have pressed.")
    playback.agent_speaking(True, 0.1)
    playback.played("12")
    assert playback.agent_speaking(False, 0.5) == []
    assert playback.pending[0].heard == ""
    playback.played("12")
    assert playback.pending[0].heard == "12"


def test_keypad_tones_that_an_interruption_purged_are_not_waited_for() -> None:
    playback = Playback()
    playback.press("12")
    playback.interrupted("", 1.0)
    speak(playback, "12 is what I have pressed.")
    playback.played("12")
    assert playback.pending[0].heard == "12"


def test_a_report_without_words_tells_nothing() -> None:
    playback = Playback()
    speak(playback, "Hello.")
    playback.agent_speaking(True, 0.3)
    playback.played(" ")
    assert heard(playback.agent_speaking(False, 1.4)) == [("Hello.", False)]


def test_a_report_that_is_nowhere_in_what_was_sent_moves_nothing() -> None:
    playback = Playback()
    speak(playback, "Hello.")
    assert playback.played("Something else.") == []
    assert playback.played("") == []
    assert playback.pending[0].heard == ""
    assert Playback().played("Hello.") == []


def test_a_report_that_was_lost_is_made_up_for() -> None:
    playback = Playback()
    speak(playback, "One is here. Two is here. Three is here. Four is here.")
    playback.played("One is here.")
    playback.played("Three is here.")
    assert heard(playback.played("Four is here.")) == [
        ("One is here. Two is here. Three is here. Four is here.", False)
    ]


def test_without_speaker_events_an_utterance_is_settled_when_all_of_it_was_played() -> None:
    playback = Playback()
    speak(playback, "Hello. How are you?")
    assert playback.played("Hello.") == []
    assert heard(playback.played("How are you?")) == [("Hello. How are you?", False)]


# Without played clauses.


def test_without_reports_a_fragment_is_found_in_what_was_sent() -> None:
    playback = Playback()
    speak(playback, TWELVE)
    until = f"Sentence 1 of twelve: {SENTENCE} Sentence 2 of"
    assert heard(playback.interrupted("Sentence 2 of", after(until))) == [(until, True)]


def test_without_reports_a_fragment_from_the_start_of_the_message_is_understood() -> None:
    playback = Playback()
    speak(playback, TWELVE)
    until = f"Sentence 1 of twelve: {SENTENCE} Sentence 2 of"
    assert heard(playback.interrupted(until, after(until))) == [(until, True)]


@pytest.mark.parametrize(("times", "speed"), [(1, 1.0), (2, 1.0), (3, 1.0), (2, 1.2), (2, 0.8)])
def test_without_reports_the_clock_tells_which_of_equal_clauses_was_cut(times: int, speed: float) -> None:
    playback = Playback()
    clause = "I would like to tell you more about it. "
    speak(playback, clause * 4)
    until = (clause * times)[: -len("about it. ")]
    assert heard(playback.interrupted("I would like to tell you more", after(until) * speed)) == [(until.strip(), True)]


def test_without_reports_the_clock_tells_which_of_two_utterances_was_cut() -> None:
    playback = Playback()
    speak(playback, "I am here to help you with the matter.")
    speak(playback, "I am here to listen as well.")
    now = after("I am here to help you with the matter. I am")
    assert heard(playback.interrupted("I am", now)) == [
        ("I am here to help you with the matter.", False),
        ("I am", True),
    ]


@pytest.mark.parametrize("fragment", ["", "  ", "?", "nothing of the kind"])
def test_without_reports_a_fragment_that_tells_nothing_leaves_it_to_the_clock(fragment: str) -> None:
    playback = Playback()
    speak(playback, "Hello. How are you?")
    assert heard(playback.interrupted(fragment, after("Hello. How a"))) == [("Hello. How", True)]


def test_with_speaker_events_only_what_is_closed_was_heard_when_the_voice_ceases() -> None:
    playback = Playback()
    speak(playback, "Hello.")
    assert playback.agent_speaking(True, 0.3) == []
    assert heard(playback.agent_speaking(False, 1.5)) == [("Hello.", False)]


def test_with_speaker_events_only_an_utterance_closed_in_a_pause_of_the_voice_was_heard() -> None:
    playback = Playback()
    utterance = playback.begin(1)
    playback.send(utterance, "Hello.", 0.0)
    playback.agent_speaking(True, 0.3)
    assert playback.agent_speaking(False, 1.5) == []
    assert heard(playback.close(utterance)) == [("Hello.", False)]


def test_with_speaker_events_only_words_sent_after_a_pause_of_the_voice_are_waited_for() -> None:
    playback = Playback()
    utterance = playback.begin(1)
    playback.send(utterance, "Hello.", 0.0)
    playback.agent_speaking(True, 0.3)
    playback.agent_speaking(False, 1.5)
    playback.send(utterance, " How are you?", 2.0)
    assert playback.close(utterance) == []
    playback.agent_speaking(True, 2.4)
    assert heard(playback.agent_speaking(False, 3.5)) == [("Hello. How are you?", False)]


def test_with_speaker_events_only_a_cut_is_found_behind_what_was_heard_before() -> None:
    playback = Playback()
    utterance = playback.begin(1)
    playback.send(utterance, "I am here.", 0.0)
    playback.agent_speaking(True, 0.3)
    playback.agent_speaking(False, 1.5)
    playback.send(utterance, " I am listening.", 2.0)
    assert heard(playback.interrupted("I am", 0.5)) == [("I am here. I am", True)]


def test_a_voice_that_ceases_before_our_words_began_has_not_spoken_them() -> None:
    playback = Playback()
    speak(playback, "Hello.")
    assert playback.agent_speaking(False, 0.1) == []
    assert playback.pending[0].heard == ""


def test_a_carrier_that_reports_nothing_sends_no_prompt_before_it_has_finished() -> None:
    playback = Playback()
    speak(playback, "Hello.")
    utterance = playback.begin(2)
    playback.send(utterance, "How are", 1.0)
    assert heard(playback.assume_heard()) == [("Hello.", False)]
    assert playback.pending == (utterance,)


def test_the_late_report_of_an_utterance_taken_for_heard_does_not_make_the_next_one_heard() -> None:
    playback = Playback()
    speak(playback, "Hello, this is the AI assistant.")
    assert heard(playback.assume_heard()) == [("Hello, this is the AI assistant.", False)]
    speak(playback, "Yes?")
    playback.agent_speaking(True, 0.3)
    playback.played("Hello,")
    playback.played(" this is the AI assistant.")
    assert playback.agent_speaking(False, 2.0) == []
    assert playback.pending[0].heard == ""


@pytest.mark.parametrize("played", [True, False])
def test_a_carrier_that_reports_its_speech_is_not_second_guessed(played: bool) -> None:
    playback = Playback()
    speak(playback, "Hello. How are you?")
    if played:
        playback.played("Hello.")
    else:
        playback.agent_speaking(True, 0.3)
    assert playback.assume_heard() == []


# Taken back.


def test_words_that_were_not_sent_are_forgotten() -> None:
    playback = Playback()
    utterance = playback.begin(1)
    playback.send(utterance, "Hello. How are you?", 0.0)
    playback.close(utterance)
    assert playback.not_sent(" How are you?") == []
    assert utterance.sent == "Hello."
    playback.agent_speaking(True, 0.3)
    playback.played("Hello.")
    assert heard(playback.agent_speaking(False, 1.0)) == [("Hello.", False)]


def test_an_utterance_none_of_which_was_sent_is_settled_as_never_heard() -> None:
    playback = Playback()
    speak(playback, "Hello.")
    speak(playback, "How are you?")
    assert heard(playback.not_sent("How are you?")) == [("", False)]
    assert [utterance.sent for utterance in playback.pending] == ["Hello."]


def test_what_was_not_sent_may_end_several_utterances() -> None:
    playback = Playback()
    speak(playback, "Hello. Friend.")
    speak(playback, "How are you?")
    assert heard(playback.not_sent(" Friend.How are you?")) == [("", False)]
    assert [utterance.sent for utterance in playback.pending] == ["Hello."]


def test_an_utterance_that_was_sent_after_the_drop_stays() -> None:
    playback = Playback()
    speak(playback, "Hello. Friend.")
    speak(playback, "Goodbye.")
    playback.not_sent(" Friend.")
    assert [utterance.sent for utterance in playback.pending] == ["Hello.", "Goodbye."]


def test_an_utterance_whose_rest_was_not_sent_is_over_if_the_voice_has_ceased() -> None:
    playback = Playback()
    speak(playback, "Hello. Friend.")
    playback.agent_speaking(True, 0.3)
    playback.played("Hello.")
    playback.agent_speaking(False, 1.0)
    assert heard(playback.not_sent(" Friend.")) == [("Hello.", False)]


# The line is dead.


def test_what_was_heard_at_a_hang_up_is_estimated_from_the_time_that_passed() -> None:
    playback = Playback()
    speak(playback, "I am calling about your appointment on Monday.")
    playback.agent_speaking(True, FIRST_SOUND_AFTER_S)
    assert heard(playback.hung_up(after("I am calling abou"))) == [("I am calling", True)]


def test_where_a_carrier_reports_nothing_the_clock_tells_how_far_a_dead_line_was_heard() -> None:
    playback = Playback()
    speak(playback, "I am calling about your appointment.")
    utterance = playback.begin(2)
    playback.send(utterance, "On Monday.", 0.0)
    assert heard(playback.hung_up(1.0)) == [("I am", True), ("", True)]


def test_a_hang_up_before_the_first_sound_leaves_nothing_heard() -> None:
    playback = Playback()
    speak(playback, "Hello.")
    playback.agent_speaking(True, FIRST_SOUND_AFTER_S)
    assert heard(playback.hung_up(FIRST_SOUND_AFTER_S)) == [("", True)]


def test_a_hang_up_long_after_the_last_word_leaves_all_of_it_heard() -> None:
    playback = Playback()
    speak(playback, "Hello.")
    speak(playback, "How are you?")
    assert heard(playback.hung_up(60.0)) == [("Hello.", False), ("How are you?", False)]


def test_an_estimate_runs_on_into_the_next_utterance() -> None:
    playback = Playback()
    speak(playback, "Hello. ")
    speak(playback, "How are you?")
    playback.agent_speaking(True, FIRST_SOUND_AFTER_S)
    assert heard(playback.hung_up(after("Hello. How a"))) == [("Hello.", False), ("How", True)]


def test_an_estimate_counts_from_the_reported_first_sound() -> None:
    playback = Playback()
    speak(playback, "I am calling about your appointment on Monday.")
    playback.agent_speaking(True, 5.0)
    assert heard(playback.hung_up(5.0 + len("I am calling a") / CHARACTERS_PER_SECOND)) == [("I am calling", True)]


def test_an_estimate_takes_nothing_back() -> None:
    playback = Playback()
    utterance = playback.begin(1)
    playback.send(utterance, "Hello.", 0.0)
    playback.agent_speaking(True, 0.3)
    playback.agent_speaking(False, 0.4)
    assert heard(playback.hung_up(0.5)) == [("Hello.", False)]


def test_where_clauses_are_reported_a_hang_up_adds_nothing_to_them() -> None:
    playback = Playback()
    speak(playback, "Hello. How are you?")
    playback.played("Hello.")
    assert heard(playback.hung_up(60.0)) == [("Hello.", True)]


# When it will have been heard.


def test_nothing_pending_is_heard_by_now() -> None:
    assert Playback().expected_end(7.0) == 7.0


def test_without_reports_the_end_is_expected_at_an_ordinary_pace_from_when_it_was_sent() -> None:
    playback = Playback()
    speak(playback, "a" * 15)
    speak(playback, "b" * 15)
    assert playback.expected_end(0.0) == pytest.approx(2.0 + FIRST_SOUND_AFTER_S)
    assert playback.expected_end(1.0) == pytest.approx(2.0 + FIRST_SOUND_AFTER_S)
    assert playback.expected_end(9.0) == 9.0


def test_words_that_were_cut_are_not_waited_for() -> None:
    playback = Playback()
    speak(playback, "a" * 150)
    playback.interrupted("", 1.0)
    speak(playback, "b" * 15, 2.0)
    assert playback.expected_end(2.0) == pytest.approx(3.0 + FIRST_SOUND_AFTER_S)


def test_the_end_is_expected_later_when_the_voice_begins_later() -> None:
    playback = Playback()
    speak(playback, "a" * 15)
    playback.agent_speaking(True, 4.0)
    assert playback.expected_end(4.0) == pytest.approx(5.0)


def test_with_reports_the_end_is_expected_from_the_last_of_them() -> None:
    playback = Playback()
    speak(playback, "Hello. " + "a" * 15)
    playback.played("Hello.")
    assert playback.expected_end(4.0) == pytest.approx(5.0, abs=0.1)


def test_words_that_were_not_sent_are_not_waited_for() -> None:
    playback = Playback()
    speak(playback, "a" * 15 + "b" * 150)
    playback.not_sent("b" * 150)
    assert playback.expected_end(0.0) == pytest.approx(1.0 + FIRST_SOUND_AFTER_S)


def test_the_end_is_reported_once_the_carrier_has_shown_that_it_reports_it() -> None:
    playback = Playback()
    speak(playback, "Hello.")
    assert not playback.will_report_end
    playback.agent_speaking(True, 0.3)
    assert playback.will_report_end


def test_the_end_of_speech_that_has_ceased_already_is_not_waited_for() -> None:
    playback = Playback()
    speak(playback, "Hello. How are you?")
    playback.agent_speaking(True, 0.3)
    playback.played("Hello.")
    playback.agent_speaking(False, 2.0)
    assert not playback.will_report_end
