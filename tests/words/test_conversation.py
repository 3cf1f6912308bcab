"""The talk, in sentences: what the callee does, what the agent does, what time does."""

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise

import pytest

from outbound.calls import CallSid, Entry, Kind, SessionId, transcript
from outbound.conversation import (
    ENGLISH,
    LANGUAGES,
    SPANISH,
    CancelReply,
    Conversation,
    EndCall,
    Filler,
    Limits,
    Note,
    OptOut,
    Phrases,
    Piece,
    PressKeys,
    Say,
    Send,
)
from outbound.relay import Dtmf, End, ErrorReport, Inbound, Info, Interrupt, Prompt, SendDigits, Setup, Text, parse
from tests.words.talk import (
    CALL_SID,
    GREETING,
    Talk,
    cancelled,
    closed,
    dropped,
    ended,
    fillers,
    heard,
    noted,
    outcomes,
    pressed,
    said,
    sent,
    started,
)

# Setup and greeting.


def test_the_greeting_is_left_to_the_carrier_and_is_the_first_line_as_heard() -> None:
    talk = Talk(greeting=GREETING)
    assert sent(talk.history) == []
    assert noted(talk.history, Kind.AGENT_BEGAN) == [{"line": 1, "turn": None}]
    assert noted(talk.history, Kind.AGENT_SENT) == [{"line": 1, "text": GREETING}]
    assert talk.lines == []
    assert heard(talk.heard_out(GREETING)) == [(GREETING, False)]
    assert talk.lines == [("agent", GREETING)]


def test_a_greeting_talked_over_is_remembered_as_far_as_it_was_heard() -> None:
    talk = Talk(greeting=GREETING)
    talk.agent_speaks()
    talk.played("Hello,", " this is")
    talk.interrupt("this is")
    (reply,) = started(talk.prompt("Who is this?"))
    assert [(line.role, line.text, line.interrupted) for line in reply.lines] == [
        ("agent", "Hello, this is", True),
        ("callee", "Who is this?", False),
    ]


def test_a_call_without_a_greeting_begins_with_the_callee() -> None:
    talk = Talk(greeting="")
    assert noted(talk.history, Kind.AGENT_BEGAN) == []
    (reply,) = started(talk.prompt("Hello?"))
    assert [line.text for line in reply.lines] == ["Hello?"]


@pytest.mark.parametrize(
    "message",
    [
        Prompt(voice_prompt="Hello?"),
        Interrupt(),
        Dtmf(digit="1"),
        Info(name="agentSpeaking", value="on"),
        Info(name="tokensPlayed", value="Hello"),
    ],
)
def test_nothing_is_done_before_setup(message: Inbound) -> None:
    talk = Talk(greeting=GREETING, introduced=False)
    effects = talk.hear(message)
    assert effects == [Note(Kind.FRAME_IGNORED, {"problem": f"{message.type} before setup"})]
    assert talk.conversation.deadline() == talk.now + 10


def test_a_second_setup_neither_greets_again_nor_loses_the_history() -> None:
    talk = Talk(greeting=GREETING)
    talk.heard_out(GREETING)
    talk.exchange("Yes?", "Fine.")
    before = talk.lines
    effects = talk.setup()
    assert effects == [Note(Kind.FRAME_IGNORED, {"problem": "second setup"})]
    assert talk.lines == before
    talk.now += 1
    assert started(talk.prompt("And?"))


def test_a_setup_of_another_call_is_refused() -> None:
    talk = Talk(greeting=GREETING, introduced=False)
    effects = talk.setup("CA2")
    assert closed(effects) == 1008
    assert talk.conversation.deadline() is None
    assert started(talk.prompt("Hello?")) == []
    assert noted(talk.history, Kind.AGENT_BEGAN) == []


def test_a_setup_of_another_call_in_mid_talk_stops_the_reply() -> None:
    talk = Talk()
    talk.prompt()
    talk.say("Well,")
    effects = talk.setup("CA2")
    assert closed(effects) == 1008
    assert cancelled(effects)
    assert outcomes(effects) == ["refused"]
    assert talk.say(" yes.") == []


def test_a_goodbye_is_not_waited_for_when_another_call_comes_in_its_place() -> None:
    talk = Talk()
    goodbye_said(talk)
    talk.setup("CA2")
    assert sent(talk.heard_out("Goodbye then.")) == []
    assert talk.conversation.end_reason == "agent_said_goodbye"
    assert talk.conversation.deadline() is None


def test_a_socket_that_is_closed_is_not_closed_again() -> None:
    talk = Talk()
    assert closed(talk.setup("CA2")) == 1008
    assert talk.setup("CA2") == [Note(Kind.FRAME_IGNORED, {"problem": "setup after the end"})]


def test_a_call_whose_carrier_id_is_not_known_yet_learns_it_from_the_setup() -> None:
    conversation = Conversation(greeting="", now=0)
    conversation.hear(Setup(session_id="VX1", call_sid="CA1"), 0)
    assert closed(conversation.hear(Setup(session_id="VX2", call_sid="CA2"), 1)) == 1008


def test_a_socket_on_which_nobody_introduces_themselves_is_closed_after_ten_seconds() -> None:
    talk = Talk(introduced=False)
    talk.now += 5
    talk.prompt("Hello?")
    assert talk.wait(4.9) == []
    assert closed(talk.wait(0.2)) == 1008
    assert talk.conversation.deadline() is None


@pytest.mark.parametrize("frame", ["{", '{"type":"news"}', "[]", '{"type":"prompt"}'])
def test_frames_that_cannot_be_read_are_noted_and_passed_over(frame: str) -> None:
    talk = Talk()
    talk.prompt()
    effects = talk.hear(parse(frame))
    assert [effect.kind for effect in effects if isinstance(effect, Note)] == [Kind.FRAME_IGNORED]
    assert len(effects) == 1
    assert said(talk.answer("Fine.")) == "Fine.|"


def test_an_error_of_the_carrier_is_noted_and_the_call_goes_on() -> None:
    talk = Talk()
    effects = talk.hear(ErrorReport(description="x" * 10_000))
    assert noted(effects, Kind.CARRIER_ERROR) == [{"description": "x" * 500}]
    assert started(talk.prompt())


def test_unknown_events_are_passed_over() -> None:
    talk = Talk()
    assert talk.info("roundTripDelayMs", "148") == []
    assert talk.info("agentSpeaking", "perhaps") == []


# Prompts and replies.


def test_a_prompt_starts_a_reply_with_all_that_was_heard() -> None:
    talk = Talk(greeting=GREETING)
    talk.heard_out(GREETING)
    effects = talk.prompt(" Who is this? ", lang="en-GB")
    (reply,) = started(effects)
    assert reply.turn == 1
    assert reply.language == "en-GB"
    assert [line.text for line in reply.lines] == [GREETING, "Who is this?"]
    assert noted(effects, Kind.CALLEE_SAID) == [{"line": 2, "text": "Who is this?", "lang": "en-GB"}]


def test_tokens_are_sent_as_they_come_and_the_cycle_is_closed_once() -> None:
    talk = Talk()
    talk.prompt()
    assert sent(talk.say("It is")) == [Text(token="It is")]
    assert sent(talk.say(" open.")) == [Text(token=" open.")]
    effects = talk.finish()
    assert sent(effects) == [Text(token="", last=True)]
    assert outcomes(effects) == ["finished"]
    assert said(talk.history) == "It is open.|"


def test_a_turn_notes_how_long_its_first_words_took() -> None:
    talk = Talk()
    talk.prompt()
    talk.wait(0.5)
    talk.say("It is")
    talk.wait(0.25)
    (turn,) = noted(talk.finish(), Kind.TURN)
    assert turn == {"turn": 1, "outcome": "finished", "first_text_ms": 500.0, "total_ms": 750.0}


def test_partial_prompts_are_noted_and_nothing_else() -> None:
    talk = Talk()
    talk.prompt("First")
    talk.say("Well,")
    assert talk.prompt("Wha", last=False) == [Note(Kind.CALLEE_PARTIAL, {"text": "Wha"})]
    assert talk.lines == [("callee", "First")]
    assert said(talk.say(" yes.")) == " yes."


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
@pytest.mark.parametrize("last", [True, False])
def test_an_empty_prompt_is_ignored(text: str, last: bool) -> None:
    talk = Talk()
    talk.prompt("First")
    talk.say("Well,")
    assert talk.prompt(text, last=last) == []
    assert said(talk.say(" yes.")) == " yes."


def test_a_prompt_while_a_reply_streams_takes_its_place() -> None:
    talk = Talk()
    talk.prompt("First")
    talk.say("Well,")
    talk.now += 1
    effects = talk.prompt("No, wait")
    assert cancelled(effects)
    assert dropped(effects)
    assert outcomes(effects) == ["superseded"]
    (reply,) = started(effects)
    assert reply.turn == 2
    assert [line.text for line in reply.lines] == ["First", "No, wait"]
    kinds = [type(effect) for effect in effects]
    assert kinds.index(CancelReply) < kinds.index(type(reply))


def test_what_was_played_of_a_reply_that_was_talked_over_stays() -> None:
    talk = Talk()
    talk.prompt("First")
    talk.say("Well, I think so. Or not.")
    talk.agent_speaks()
    talk.played("Well,")
    talk.now += 1
    (reply,) = started(talk.prompt("No, wait"))
    assert [(line.text, line.interrupted) for line in reply.lines] == [
        ("First", False),
        ("Well,", True),
        ("No, wait", False),
    ]


@pytest.mark.parametrize("piece", [Say(" late"), Filler("One moment."), PressKeys("1"), OptOut(), EndCall()])
def test_pieces_of_an_old_turn_vanish(piece: Piece) -> None:
    talk = Talk()
    talk.prompt("First")
    talk.say("Well,")
    talk.now += 1
    talk.prompt("No, wait")
    assert talk.piece(piece, turn=1) == []
    assert talk.finish(turn=1) == []
    assert talk.keep(talk.conversation.fail(1, "broken", talk.now)) == []
    assert said(talk.answer("Yes?")) == "Yes?|"
    assert not talk.is_over


@pytest.mark.parametrize("piece", [Say(" late"), Filler("One moment."), PressKeys("1"), OptOut(), EndCall()])
def test_pieces_after_the_close_of_their_turn_vanish(piece: Piece) -> None:
    talk = Talk()
    talk.prompt()
    talk.answer("Fine.")
    assert talk.piece(piece) == []
    assert talk.finish() == []


def test_a_prompt_of_twenty_thousand_characters_is_answered_and_kept() -> None:
    talk = Talk()
    rambling = "so " * 6_667
    effects = talk.prompt(rambling)
    (reply,) = started(effects)
    assert reply.lines[-1].text == rambling[:4_000]
    assert noted(effects, Kind.CALLEE_SAID)[0]["text"] == rambling.strip()


def test_a_flood_of_prompts_costs_a_bounded_number_of_replies_and_loses_no_word() -> None:
    talk = Talk()
    for count in range(2_000):
        talk.prompt(f"prompt {count}")
        talk.wait(0.005)
    assert len(started(talk.history)) <= 15
    assert set(outcomes(talk.history)) == {"superseded"}
    effects = talk.wait(2)
    (reply,) = started(effects)
    assert len(reply.lines) == 2_000
    assert reply.lines[-1].text == "prompt 1999"


def test_an_answered_callee_is_answered_at_once_again_after_a_flood() -> None:
    talk = Talk()
    for _ in range(100):
        talk.prompt()
        talk.wait(0.05)
    talk.wait(2)
    talk.answer("Fine.")
    talk.now += 1
    assert started(talk.prompt())


def test_replies_to_an_endless_flood_do_not_run_out_of_numbers() -> None:
    talk = Talk(max_duration_s=100_000)
    for _ in range(1_200):
        talk.prompt()
        talk.wait(2)
    assert len(started(talk.history)) == 1_200


def test_prompts_in_a_burst_are_answered_together() -> None:
    talk = Talk()
    for text in ("One.", "Two.", "Three.", "Four."):
        (reply,) = started(talk.prompt(text))
    assert [line.text for line in reply.lines] == ["One.", "Two.", "Three.", "Four."]
    assert started(talk.prompt("Five.")) == []
    assert started(talk.prompt("Six.")) == []
    (reply,) = started(talk.wait(1.1))
    assert [line.text for line in reply.lines[4:]] == ["Five.", "Six."]


def test_the_wait_for_an_answer_counts_from_the_words_and_not_from_when_the_agent_was_asked() -> None:
    talk = Talk()
    for _ in range(5):
        talk.prompt("Well?")
    talk.wait(1.1)
    effects = talk.answer("Yes.")
    assert noted(effects, Kind.TURN)[0]["first_text_ms"] >= 1_000


# Interruptions.


def test_an_interruption_in_mid_stream_stops_the_reply_and_cuts_the_history_to_what_was_heard() -> None:
    talk = Talk()
    talk.prompt("Tell me")
    talk.say("Sentence one is here. ", "Sentence two is long.", " Three.")
    talk.agent_speaks()
    talk.played("Sentence one is here.")
    talk.played("Sentence two")
    effects = talk.interrupt("Sentence two")
    assert cancelled(effects)
    assert dropped(effects)
    assert outcomes(effects) == ["interrupted"]
    assert heard(effects) == [("Sentence one is here. Sentence two", True)]
    assert noted(effects, Kind.INTERRUPTED) == [{"fragment": "Sentence two", "after_ms": 500.0}]
    assert talk.say(" Four.") == []
    assert talk.last_line.text == "Sentence one is here. Sentence two"


def test_an_interruption_after_the_reply_was_complete_cuts_it_too() -> None:
    talk = Talk()
    talk.prompt("Tell me")
    talk.answer("Sentence one is here. Sentence two is long.")
    talk.agent_speaks()
    talk.played("Sentence one is here.")
    effects = talk.interrupt("Sentence")
    assert not cancelled(effects)
    assert dropped(effects)
    assert heard(effects) == [("Sentence one is here. Sentence", True)]


def test_an_interruption_before_a_sound_leaves_no_line() -> None:
    talk = Talk()
    talk.prompt("Tell me")
    talk.say("Sentence one.")
    assert heard(talk.interrupt("")) == [("", True)]
    assert talk.lines == [("callee", "Tell me")]


def test_the_words_after_an_interruption_are_answered() -> None:
    talk = Talk()
    talk.prompt("Tell me")
    talk.say("Sentence one.")
    talk.now += 1
    talk.interrupt()
    talk.now += 1
    assert started(talk.prompt("Stop"))
    talk.answer("Yes?")
    talk.heard_out("Yes?")
    assert said(talk.wait(9.9)) == "", "the callee had their say"


def test_a_cough_is_met_with_go_ahead() -> None:
    talk = Talk()
    talk.prompt("Tell me")
    talk.answer("Sentence one.")
    talk.agent_speaks()
    talk.interrupt("Sen")
    assert talk.wait(2.9) == []
    assert said(talk.wait(0.2)) == "Sorry, please go ahead.|"
    talk.heard_out("Sorry, please go ahead.")
    assert said(talk.wait(9.9)) == ""
    assert said(talk.wait(0.2)) == "Are you still there?|"


def test_go_ahead_is_not_said_into_the_callees_words() -> None:
    talk = Talk()
    talk.prompt("Tell me")
    talk.answer("Sentence one.")
    talk.callee_speaks()
    talk.interrupt("Sen")
    assert said(talk.wait(20)) == ""
    talk.callee_speaks(False)
    assert started(talk.prompt("Stop"))


def test_an_interruption_of_nothing_is_no_reason_to_speak() -> None:
    talk = Talk()
    talk.interrupt()
    assert said(talk.wait(9.9)) == ""


# Silence.


def test_silence_is_met_with_three_different_re_prompts_and_then_a_goodbye() -> None:
    talk = Talk(greeting=GREETING)
    talk.heard_out(GREETING)
    sentences = []
    for count in range(3):
        assert talk.wait(9.9) == []
        effects = talk.wait(0.2)
        assert noted(effects, Kind.SILENCE) == [{"count": count + 1}]
        sentences.append(said(effects).rstrip("|"))
        talk.heard_out(sentences[-1])
    assert sorted(sentences) == sorted(ENGLISH.still_there)
    goodbye = said(talk.wait(10)).rstrip("|")
    assert goodbye == ENGLISH.silence_goodbye
    assert ended(talk.history) is None
    assert ended(talk.heard_out(goodbye)) == "silence"
    assert talk.conversation.end_reason == "silence"


def test_silence_counts_from_when_the_callee_has_heard_us_and_not_from_when_we_sent_it() -> None:
    talk = Talk()
    talk.prompt()
    talk.answer("A long story. " * 20)
    talk.agent_speaks()
    assert said(talk.wait(60)) == ""
    talk.played(*["A long story."] * 20)
    talk.agent_speaks(False)
    assert said(talk.wait(9.9)) == ""
    assert said(talk.wait(0.2)) == "Are you still there?|"


def test_silence_counts_from_the_end_of_speech_also_where_its_clauses_are_not_reported() -> None:
    talk = Talk()
    talk.prompt()
    talk.answer("A story.")
    talk.agent_speaks()
    talk.wait(60)
    talk.agent_speaks(False)
    assert said(talk.wait(9.9)) == ""
    assert said(talk.wait(0.2)) == "Are you still there?|"


def test_silence_after_a_carrier_that_reports_nothing_counts_from_when_an_ordinary_voice_ends() -> None:
    talk = Talk()
    talk.prompt()
    talk.answer("x" * 150)
    assert said(talk.wait(19.9)) == ""
    for _ in range(3):
        talk.hear(ErrorReport())
    assert said(talk.wait(0.5)) == "Are you still there?|"
    assert said(talk.wait(13)) == "I can't hear you. Can you hear me?|"


def test_a_report_that_speech_ended_which_is_lost_does_not_silence_us_for_ever() -> None:
    talk = Talk()
    talk.heard_out("x")
    talk.prompt()
    talk.answer("Fine.")
    talk.agent_speaks()
    assert said(talk.wait(69)) == ""
    assert said(talk.wait(3)) == "Are you still there?|"


def test_silence_is_ours_while_an_answer_is_being_made() -> None:
    talk = Talk(next_token_within_s=60)
    talk.prompt()
    talk.say("Well,")
    assert noted(talk.wait(30), Kind.SILENCE) == []


def test_nobody_is_asked_whether_they_are_there_while_they_speak() -> None:
    talk = Talk()
    talk.callee_speaks()
    assert said(talk.wait(60)) == ""
    talk.callee_speaks(False)
    assert said(talk.wait(9.9)) == ""
    assert said(talk.wait(0.2)) == "Are you still there?|"


def test_a_callee_who_answers_is_given_three_re_prompts_again() -> None:
    talk = Talk()
    talk.wait(30)
    assert noted(talk.history, Kind.SILENCE)[-1]["count"] >= 2
    talk.exchange("I'm here", "Good.")
    assert noted(talk.wait(12), Kind.SILENCE) == [{"count": 1}]


def test_re_prompts_go_on_in_turn_and_are_not_said_twice_running() -> None:
    talk = Talk()
    sentences = []
    for _ in range(7):
        sentences.append(said(talk.wait(12)))
        talk.heard_out(sentences[-1].rstrip("|"))
        talk.exchange("I'm here", "Good.")
    assert all(one != following for one, following in pairwise(sentences))


# Endings.


def goodbye_said(talk: Talk, *pieces: Piece) -> None:
    """The agent says `Goodbye then.` and wants to end the call; nothing is heard yet."""
    talk.prompt("Bye")
    for piece in pieces or (Say("Goodbye then."), EndCall()):
        talk.piece(piece)
    talk.finish()


def test_a_goodbye_is_held_until_it_was_heard() -> None:
    talk = Talk()
    goodbye_said(talk)
    assert talk.conversation.end_reason == "agent_said_goodbye"
    assert ended(talk.agent_speaks()) is None
    assert ended(talk.played("Goodbye then.")) is None
    assert ended(talk.agent_speaks(False)) == "agent_said_goodbye"
    assert talk.conversation.end_reason == "agent_said_goodbye"


def test_a_goodbye_without_speaker_events_is_held_until_it_was_played() -> None:
    talk = Talk()
    goodbye_said(talk)
    assert ended(talk.played("Goodbye then.")) == "agent_said_goodbye"


def test_a_goodbye_is_held_for_a_bounded_time_where_nothing_is_reported() -> None:
    talk = Talk()
    goodbye_said(talk)
    assert ended(talk.wait(1)) is None
    assert ended(talk.wait(2)) == "agent_said_goodbye"


def test_a_goodbye_is_held_for_a_bounded_time_where_the_report_is_lost() -> None:
    talk = Talk()
    talk.heard_out("x")
    goodbye_said(talk)
    talk.agent_speaks()
    assert ended(talk.wait(5)) is None
    assert ended(talk.wait(5)) == "agent_said_goodbye"


def test_words_that_cross_a_last_goodbye_do_not_cut_it_short() -> None:
    talk = Talk()
    goodbye_said(talk, OptOut(), Say("You will not be called again. " * 3))
    talk.now += 4
    assert ended(talk.prompt("Thank you")) is None
    assert ended(talk.wait(2)) is None
    assert ended(talk.wait(2)) == "opted_out"


def test_an_end_without_a_word_says_goodbye_first() -> None:
    talk = Talk()
    goodbye_said(talk, EndCall())
    assert said(talk.history) == f"{ENGLISH.goodbye}|"
    assert ended(talk.heard_out(ENGLISH.goodbye)) == "agent_said_goodbye"


def test_a_callee_who_talks_over_a_goodbye_is_listened_to() -> None:
    talk = Talk()
    goodbye_said(talk)
    talk.agent_speaks()
    talk.now += 1
    assert ended(talk.interrupt("Good")) is None
    assert talk.agent_speaks(False) == []
    talk.now += 1
    effects = talk.prompt("Wait, one more thing")
    assert started(effects)
    assert talk.conversation.end_reason is None
    assert ended(talk.exchange("Really", "Yes.")) is None


def test_a_cough_over_a_goodbye_does_not_hold_the_line() -> None:
    talk = Talk()
    goodbye_said(talk)
    talk.agent_speaks()
    talk.interrupt("Good")
    assert ended(talk.wait(2.9)) is None
    assert ended(talk.wait(0.2)) == "agent_said_goodbye"


def test_the_line_is_held_while_the_callee_talks_over_a_goodbye() -> None:
    talk = Talk()
    goodbye_said(talk)
    talk.agent_speaks()
    talk.callee_speaks()
    talk.interrupt("Good")
    assert ended(talk.wait(10)) is None
    talk.callee_speaks(False)
    assert ended(talk.wait(2.9)) is None
    assert ended(talk.wait(0.2)) == "agent_said_goodbye"


def test_words_after_a_goodbye_that_is_still_playing_are_answered() -> None:
    talk = Talk()
    talk.heard_out("x")
    goodbye_said(talk)
    talk.now += 1
    assert started(talk.prompt("One question"))
    assert talk.conversation.end_reason is None


def test_a_callee_who_does_not_stop_talking_can_hold_back_two_goodbyes() -> None:
    talk = Talk()
    talk.heard_out("x")
    for _ in range(3):
        assert not talk.is_over
        goodbye_said(talk)
        talk.now += 1
    assert started(talk.prompt("And another thing")) == []
    assert ended(talk.wait(10)) == "agent_said_goodbye"


def test_after_the_end_nothing_is_sent_and_a_carrier_that_does_not_let_go_is_closed() -> None:
    talk = Talk()
    goodbye_said(talk)
    talk.heard_out("Goodbye then.")
    effects = [
        *talk.prompt("Hello?"),
        *talk.press("12#"),
        *talk.interrupt(),
        *talk.agent_speaks(False),
        *talk.setup(),
        *talk.say("What?"),
        *talk.wait(4.9),
    ]
    assert sent(effects) == []
    assert started(effects) == []
    assert closed(talk.wait(0.2)) == 1000
    assert talk.conversation.deadline() is None


def test_words_said_after_the_end_are_still_kept() -> None:
    talk = Talk()
    goodbye_said(talk)
    talk.heard_out("Goodbye then.")
    assert noted(talk.prompt("Bye bye"), Kind.CALLEE_SAID)
    assert talk.last_line.text == "Bye bye"


def test_a_long_call_is_warned_and_then_ended() -> None:
    talk = Talk(max_duration_s=120, silence_after_s=500)
    assert said(talk.wait(89.9)) == ""
    assert said(talk.wait(0.2)) == f"{ENGLISH.time_nearly_up}|"
    talk.heard_out(ENGLISH.time_nearly_up)
    assert said(talk.wait(29.8)) == ""
    assert said(talk.wait(0.2)) == f"{ENGLISH.time_up}|"
    assert ended(talk.heard_out(ENGLISH.time_up)) == "max_duration"


def test_the_warning_waits_for_the_end_of_a_reply() -> None:
    talk = Talk(max_duration_s=120, silence_after_s=500, next_token_within_s=500)
    talk.wait(85)
    talk.prompt()
    talk.say("Well,")
    assert said(talk.wait(10)) == ""
    talk.finish()
    assert said(talk.wait(0)) == f"{ENGLISH.time_nearly_up}|"


def test_the_end_of_a_long_call_stops_the_reply_and_closes_its_cycle() -> None:
    talk = Talk(max_duration_s=120, silence_after_s=500, next_token_within_s=500)
    talk.wait(85)
    talk.prompt()
    talk.say("Well,")
    effects = talk.wait(36)
    assert cancelled(effects)
    assert outcomes(effects) == ["max_duration"]
    assert said(effects) == f"|{ENGLISH.time_up}|"
    assert talk.say(" so") == []
    assert started(talk.prompt("But")) == []


def test_a_long_call_ends_though_an_endless_reply_is_still_being_spoken() -> None:
    talk = Talk(max_duration_s=120, silence_after_s=500)
    talk.heard_out("x")
    talk.prompt()
    talk.answer("x" * 4_000)
    talk.agent_speaks()
    assert ended(talk.wait(120 + 29)) is None
    assert ended(talk.wait(2)) == "max_duration"


def test_a_callee_who_keeps_coughing_over_a_goodbye_is_hung_up_on_in_the_end() -> None:
    talk = Talk(max_duration_s=60)
    goodbye_said(talk)
    for _ in range(46):
        talk.interrupt()
        talk.wait(2)
    assert ended(talk.history) == "agent_said_goodbye"


def test_a_short_call_is_not_warned() -> None:
    talk = Talk(max_duration_s=60, silence_after_s=500)
    assert said(talk.wait(60)) == f"{ENGLISH.time_up}|"


def test_an_opt_out_is_final() -> None:
    talk = Talk()
    talk.heard_out("x")
    goodbye_said(talk, OptOut(), Say("You will not be called again."))
    assert noted(talk.history, Kind.OPTED_OUT) == [{"turn": 1}]
    talk.now += 1
    assert started(talk.prompt("Wait")) == []
    assert talk.conversation.end_reason == "opted_out"
    assert ended(talk.heard_out("You will not be called again.")) == "opted_out"


def test_an_opt_out_outranks_a_goodbye() -> None:
    talk = Talk()
    goodbye_said(talk, OptOut(), Say("Goodbye then."), EndCall())
    assert talk.conversation.end_reason == "opted_out"


def test_an_opt_out_that_says_nothing_says_goodbye() -> None:
    talk = Talk()
    goodbye_said(talk, OptOut())
    assert said(talk.history) == f"{ENGLISH.goodbye}|"


@pytest.mark.parametrize("words", ["", "You will not be"])
@pytest.mark.parametrize(
    "event", [Talk.prompt, Talk.interrupt, lambda talk: talk.press("1#"), lambda talk: talk.wait(700)]
)
def test_an_opt_out_stands_when_its_reply_is_cut(words: str, event: Callable[[Talk], object]) -> None:
    talk = Talk(next_token_within_s=1_000, first_token_within_s=1_000)
    talk.prompt("Stop calling me")
    talk.piece(OptOut())
    talk.say(words)
    talk.now += 1
    event(talk)
    talk.wait(10)
    assert len(started(talk.history)) == 1
    assert ended(talk.history) == "opted_out"
    assert (ENGLISH.goodbye in said(talk.history) or ENGLISH.time_up in said(talk.history)) or words
    last = [effect for effect in talk.history if isinstance(effect, Send)][-1]
    assert isinstance(last.message, End)


def test_an_opt_out_stands_when_its_reply_breaks() -> None:
    talk = Talk()
    talk.prompt("Stop calling me")
    talk.piece(OptOut())
    talk.fail()
    assert said(talk.history) == f"{ENGLISH.goodbye}|"
    assert talk.conversation.end_reason == "opted_out"


# Keys.


def test_keys_are_gathered_and_given_to_the_agent_as_one_input() -> None:
    talk = Talk()
    assert started(talk.press("12")) == []
    assert started(talk.wait(2.9)) == []
    talk.press("3")
    assert started(talk.wait(2.9)) == []
    effects = talk.wait(0.2)
    (reply,) = started(effects)
    assert (reply.lines[-1].text, reply.lines[-1].keypad) == ("123", True)
    assert noted(effects, Kind.CALLEE_PRESSED) == [{"line": 1, "digits": "123"}]


def test_a_hash_ends_the_gathering_and_is_not_part_of_it() -> None:
    talk = Talk()
    (reply,) = started(talk.press("12*#"))
    assert reply.lines[-1].text == "12*"
    assert noted(talk.wait(9), Kind.CALLEE_PRESSED) == []


def test_a_hash_alone_is_an_input() -> None:
    talk = Talk()
    (reply,) = started(talk.press("#"))
    assert reply.lines[-1].text == "#"


@pytest.mark.parametrize("key", ["", "12", "A", "٣"])
def test_what_is_no_key_is_noted_and_passed_over(key: str) -> None:
    talk = Talk()
    assert talk.hear(Dtmf(digit=key)) == [Note(Kind.FRAME_IGNORED, {"problem": "bad dtmf.digit"})]


def test_keys_take_the_place_of_a_reply_when_they_are_complete() -> None:
    talk = Talk()
    talk.prompt()
    talk.say("Well,")
    assert not cancelled(talk.press("1"))
    effects = talk.wait(3)
    assert cancelled(effects)
    assert dropped(effects)
    assert len(started(effects)) == 1


def test_silence_does_not_run_while_keys_are_gathered() -> None:
    talk = Talk(digits_within_s=30)
    talk.press("1")
    assert noted(talk.wait(29), Kind.SILENCE) == []


def test_keys_that_were_pressed_before_the_line_went_dead_are_kept() -> None:
    talk = Talk()
    talk.press("19")
    effects = talk.hang_up()
    assert noted(effects, Kind.CALLEE_PRESSED) == [{"line": 1, "digits": "19"}]
    assert started(effects) == []


def test_the_agent_presses_keys() -> None:
    talk = Talk()
    talk.prompt()
    effects = talk.piece(PressKeys("1w2#"))
    assert sent(effects) == [SendDigits(digits="1w2#")]
    assert noted(effects, Kind.DIGITS_SENT) == [{"digits": "1w2#"}]
    assert outcomes(talk.finish()) == ["finished"]
    assert said(talk.history) == ""


def test_keys_the_phone_does_not_have_are_left_out() -> None:
    talk = Talk()
    talk.prompt()
    assert pressed(talk.piece(PressKeys("1-2 A"))) == ["12"]
    assert pressed(talk.piece(PressKeys("ABC"))) == []


def test_the_carriers_report_of_our_keys_is_not_taken_for_words() -> None:
    talk = Talk()
    talk.prompt()
    talk.piece(PressKeys("12"))
    talk.answer("12 is what I have pressed.")
    talk.agent_speaks()
    talk.played("12")
    assert heard(talk.interrupt("")) == [("", True)]


# Model trouble.


def test_a_slow_model_is_bridged_once_with_a_filler_that_the_answer_may_cut() -> None:
    talk = Talk()
    talk.prompt()
    assert talk.wait(3.9) == []
    effects = talk.wait(0.2)
    assert fillers(effects) == ["One moment, please."]
    assert sent(effects) == [Text(token="One moment, please.", last=True, preemptible=True)]
    assert noted(effects, Kind.MODEL_SLOW) == [{"turn": 1}]
    assert talk.wait(5) == []
    assert said(talk.answer("Here it is.")) == "Here it is.|"
    assert not any(text.preemptible for text in sent(talk.history)[1:] if isinstance(text, Text))


def test_a_filler_that_the_answer_cut_is_not_taken_for_heard() -> None:
    talk = Talk()
    talk.prompt()
    talk.wait(5)
    talk.answer("It costs $5.")
    talk.agent_speaks()
    talk.played("It costs five dollars.")
    assert heard(talk.agent_speaks(False)) == [("It costs $5.", False)]
    assert talk.lines == [("callee", "Yes?"), ("agent", "It costs $5.")]


def test_the_next_filler_is_another_one() -> None:
    talk = Talk()
    for _ in range(2):
        talk.now += 1
        talk.prompt()
        talk.wait(5)
        talk.answer("Here it is.")
    assert fillers(talk.history) == list(ENGLISH.one_moment)


def test_an_agent_that_fills_the_wait_itself_is_not_helped() -> None:
    talk = Talk()
    talk.prompt()
    talk.piece(Filler("Let me look that up."))
    assert fillers(talk.wait(10)) == []
    assert fillers(talk.history) == ["Let me look that up."]


def test_a_filler_in_mid_reply_is_a_talk_cycle_of_its_own() -> None:
    talk = Talk()
    talk.prompt()
    talk.say("I see.")
    talk.piece(Filler("One moment."))
    talk.say("It is open.")
    talk.finish()
    assert said(talk.history) == "I see.|One moment.|It is open.|"
    assert [data["text"] for data in noted(talk.history, Kind.AGENT_SENT)] == ["I see.", "One moment.", "It is open."]


def test_a_filler_comes_between_cycles_also_when_only_a_mark_was_said() -> None:
    talk = Talk()
    talk.prompt()
    talk.say("¿")
    talk.wait(5)
    talk.answer("Cómo?")
    assert said(talk.history) == "¿|One moment, please.|Cómo?|"


def test_a_model_that_hangs_is_given_up_with_a_sentence_and_the_call_goes_on() -> None:
    talk = Talk()
    talk.prompt()
    effects = talk.wait(15)
    assert cancelled(effects)
    assert noted(effects, Kind.MODEL_FAILED) == [{"turn": 1, "cause": "timeout", "in_a_row": 1}]
    assert outcomes(effects) == ["failed"]
    assert said(effects) == f"One moment, please.|{ENGLISH.trouble[0]}|"
    talk.now += 1
    assert started(talk.prompt("Again"))


def test_a_model_that_hangs_in_mid_stream_is_given_up_too() -> None:
    talk = Talk()
    talk.prompt()
    talk.wait(3)
    talk.say("Well,")
    assert talk.wait(14.9) == []
    assert said(talk.wait(0.2)) == f"|{ENGLISH.trouble[0]}|"


def test_a_model_that_goes_on_is_not_given_up() -> None:
    talk = Talk()
    talk.prompt()
    for _ in range(10):
        talk.wait(10)
        talk.say("so ")
    assert outcomes(talk.history) == []


def test_a_reply_that_breaks_in_mid_stream_is_closed_and_apologised_for() -> None:
    talk = Talk()
    talk.prompt()
    talk.say("Well, I th")
    effects = talk.fail("APIConnectionError")
    assert said(effects) == f"|{ENGLISH.trouble[0]}|"
    assert noted(effects, Kind.MODEL_FAILED) == [{"turn": 1, "cause": "APIConnectionError", "in_a_row": 1}]
    assert outcomes(effects) == ["failed"]
    assert not talk.is_over


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [Say("")],
        [Say(" "), Say("\n")],
        [Say("…"), Say(" !")],
        [Filler("One moment.")],
        [PressKeys("xyz")],
        [Say("\ud83d")],
    ],
)
def test_an_empty_reply_is_not_answered_with_silence(pieces: list[Piece]) -> None:
    talk = Talk()
    talk.prompt()
    for piece in pieces:
        talk.piece(piece)
    effects = talk.finish()
    assert said(effects).endswith(f"{ENGLISH.trouble[0]}|")
    assert noted(effects, Kind.MODEL_FAILED)[0]["cause"] == "empty"


def test_half_a_character_of_a_broken_stream_is_left_out() -> None:
    talk = Talk()
    talk.prompt()
    talk.piece(Filler("One\ud83d moment."))
    assert said(talk.answer("Fine\ude00.")) == "Fine.|"
    assert fillers(talk.history) == ["One moment."]


def test_white_space_before_the_first_word_is_not_sent() -> None:
    talk = Talk()
    talk.prompt()
    talk.say("\n\n", "Fine", " ", "then.")
    assert said(talk.finish()) == "|"
    assert said(talk.history) == "Fine then.|"


def test_three_failures_in_a_row_end_the_call_with_an_apology() -> None:
    talk = Talk()
    for _ in range(3):
        assert not talk.is_over
        talk.now += 1
        talk.prompt()
        talk.fail()
    assert said(talk.history) == f"{ENGLISH.trouble[0]}|{ENGLISH.trouble[1]}|{ENGLISH.trouble_goodbye}|"
    assert talk.conversation.end_reason == "model_failed"
    talk.now += 1
    assert started(talk.prompt("Hello?")) == []
    assert ended(talk.wait(3)) is None, "the goodbye takes longer"
    assert ended(talk.wait(10)) == "model_failed"


def test_failures_that_are_not_in_a_row_do_not_end_the_call() -> None:
    talk = Talk()
    for count in range(6):
        talk.now += 1
        talk.prompt()
        if count % 3 == 2:
            talk.answer("Fine.")
        else:
            talk.fail()
    assert ENGLISH.trouble_goodbye not in said(talk.history)
    assert talk.conversation.end_reason is None


def test_an_endless_reply_is_cut_off_and_closed() -> None:
    talk = Talk()
    talk.prompt()
    for _ in range(2_000):
        talk.say("so on ")
    assert outcomes(talk.history) == ["finished"]
    assert cancelled(talk.history)
    assert len(said(talk.history)) < 4_010
    assert said(talk.history).count("|") == 1
    assert said(talk.history).endswith("|")


# Speech that was not sent.


def test_words_that_were_dropped_before_they_were_sent_are_not_waited_for() -> None:
    talk = Talk()
    talk.heard_out("x")
    talk.prompt("First")
    talk.say("Well,")
    talk.now += 1
    effects = talk.prompt("No")
    assert dropped(effects)
    talk.conversation.not_sent("Well,")
    assert talk.conversation.deadline() == talk.now
    assert heard(talk.keep(talk.conversation.tick(talk.now))) == [("", False)]
    assert [data["line"] for data in noted(talk.history, Kind.AGENT_SAID)] == [2]


def test_a_goodbye_is_over_when_what_is_left_of_it_was_never_sent() -> None:
    talk = Talk()
    talk.heard_out("x")
    talk.prompt("Stop calling")
    talk.piece(OptOut())
    talk.say("You will not be called.")
    talk.now += 1
    talk.prompt("Please")
    talk.conversation.not_sent("You will not be called.")
    assert ended(talk.wait(0)) == "opted_out"


# Languages.


def test_what_we_say_ourselves_is_in_the_callees_language() -> None:
    talk = Talk()
    talk.prompt("Hola, ¿quién es?", lang="es-MX")
    assert said(talk.wait(4)) == "Un momento, por favor.|"
    assert said(talk.fail()) == f"{SPANISH.trouble[0]}|"
    assert said(talk.wait(20)) == "¿Sigue ahí?|"
    talk.prompt("Hello", lang="en")
    assert said(talk.fail()) == f"{ENGLISH.trouble[1]}|"


@pytest.mark.parametrize("lang", ["", "xx-XX", "multi"])
def test_a_language_without_phrases_is_answered_in_the_first(lang: str) -> None:
    talk = Talk()
    talk.prompt("Oi", lang=lang)
    assert said(talk.fail()) == f"{ENGLISH.trouble[0]}|"


def test_a_conversation_may_begin_in_another_language() -> None:
    conversation = Conversation(greeting="", now=0, language="es-ES")
    conversation.hear(Setup(session_id="VX1", call_sid="CA1"), 0)
    assert said(conversation.tick(10)) == "¿Sigue ahí?|"


@pytest.mark.parametrize("phrases", LANGUAGES.values())
def test_every_language_has_as_many_re_prompts_as_are_used_and_can_go_on(phrases: Phrases) -> None:
    assert len(set(phrases.still_there)) == Limits().reprompts
    assert len(set(phrases.one_moment)) > 1
    assert len(set(phrases.trouble)) > 1


# The line is dead.


def waiting(talk: Talk) -> None:
    pass


def streaming(talk: Talk) -> None:
    talk.prompt()
    talk.say("Well, I am")


def thinking(talk: Talk) -> None:
    talk.prompt()


def playing(talk: Talk) -> None:
    talk.prompt()
    talk.answer("Well, I am here.")
    talk.agent_speaks()
    talk.played("Well,")


def collecting(talk: Talk) -> None:
    talk.prompt()
    talk.prompt("And")


def gathering(talk: Talk) -> None:
    talk.press("12")


def saying_goodbye(talk: Talk) -> None:
    goodbye_said(talk)


def opting_out(talk: Talk) -> None:
    talk.prompt()
    talk.piece(OptOut())


def over(talk: Talk) -> None:
    goodbye_said(talk)
    talk.heard_out("Goodbye then.")


PHASES = [waiting, streaming, thinking, playing, collecting, gathering, saying_goodbye, opting_out, over]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("introduced", [True, False])
def test_a_hang_up_settles_everything_and_sends_nothing(phase: Callable[[Talk], None], introduced: bool) -> None:
    talk = Talk(greeting=GREETING, introduced=introduced)
    talk.now += 1
    phase(talk)
    effects = talk.hang_up()
    assert sent(effects) == []
    assert started(effects) == []
    assert len(started(talk.history)) == len(outcomes(talk.history))
    began = [data["line"] for data in noted(talk.history, Kind.AGENT_BEGAN)]
    assert sorted(data["line"] for data in noted(talk.history, Kind.AGENT_SAID)) == began
    assert talk.conversation.deadline() is None
    late = [*talk.prompt("Hello?"), *talk.say(" late"), *talk.finish(), *talk.wait(1_000)]
    assert sent(late) == []
    assert started(late) == []
    assert talk.hang_up() == []


@pytest.mark.parametrize(
    ("phase", "reason"),
    [(waiting, None), (streaming, None), (saying_goodbye, "agent_said_goodbye"), (over, "agent_said_goodbye")],
)
def test_a_hang_up_during_a_goodbye_is_an_ordinary_end(phase: Callable[[Talk], None], reason: str | None) -> None:
    talk = Talk()
    phase(talk)
    talk.hang_up()
    assert talk.conversation.end_reason == reason


def test_a_hang_up_in_mid_sentence_keeps_what_was_played() -> None:
    talk = Talk()
    playing(talk)
    assert heard(talk.hang_up()) == [("Well,", True)]


# The journal.


def test_the_transcript_read_from_the_journal_is_the_history_of_the_conversation() -> None:
    talk = Talk(greeting=GREETING)
    talk.heard_out(GREETING)
    talk.exchange("Who is this?", "This is the AI.")
    talk.now += 1
    talk.prompt("Tell me more")
    talk.answer("There is a lot to tell. It began long ago.")
    talk.agent_speaks()
    talk.played("There is a lot to tell.")
    talk.interrupt("")
    talk.press("12#")
    talk.say("Twelve, then.")
    talk.hang_up()
    from_journal = transcript(_journal(talk))
    assert [(line.role, line.text, line.interrupted, line.keypad) for line in from_journal] == [
        (line.role, line.text, line.interrupted, line.keypad) for line in talk.conversation.lines()
    ]
    assert [line.text for line in from_journal][-3:] == ["Tell me more", "There is a lot to tell.", "12"]


def _journal(talk: Talk) -> list[Entry]:
    at = datetime(2026, 11, 20, tzinfo=UTC)
    return [Entry(SessionId("s1"), at, effect.kind, effect.data) for effect in talk.history if isinstance(effect, Note)]


def test_the_call_sid_is_the_carriers() -> None:
    talk = Talk()
    (opened,) = noted(talk.history, Kind.RELAY_OPENED)
    assert opened == {"call_sid": CallSid(CALL_SID), "relay_session_id": "VX1"}


def test_whoever_takes_turns_is_answered_at_once_however_fast() -> None:
    talk = Talk()
    for _ in range(50):
        assert started(talk.prompt())
        talk.answer("Yes.")
