"""A talk that goes on after a break: on another socket, in another process, from nothing but the journal."""

from typing import Any

import pytest

from outbound.calls import EndReason, Kind, transcript
from outbound.conversation import ENGLISH, SPANISH, EndCall, OptOut
from outbound.recall import Deed, recall
from tests.words.talk import GREETING, Talk, ended, fillers, handed_over, noted, said, started

AGENDA = "First the date. Then the place. Then the price."
LEAD_IN = ENGLISH.as_i_was_saying


def resumed(
    talk: Talk,
    *,
    greeting: str = GREETING,
    after_s: float = 1.3,
    cause: str = "broken",
    by_carrier: bool = False,
    **limits: Any,
) -> Talk:
    """The talk on its next socket, by another process, which knows only what the journal has."""
    talk.now += after_s
    if not by_carrier:
        talk.note(Kind.RESUMING, relay_session_id="VX1", cause=cause)
    memory = recall(talk.journal, greeting)
    assert memory is not None
    opened_at = memory.opened_at.timestamp() if memory.opened_at else talk.now
    following = Talk(
        greeting=greeting, now=talk.now, memory=memory, talked_s=talk.now - opened_at, introduced=False, **limits
    )
    following.journal = talk.journal
    following.setup()
    return following


def socket_lost(talk: Talk) -> Talk:
    """The process lives and sees its socket go."""
    talk.keep(talk.conversation.hang_up(talk.now, is_lost=True))
    talk.note(Kind.RELAY_CLOSED, code=1006)
    return talk


def greeted(**limits: Any) -> Talk:
    talk = Talk(greeting=GREETING, **limits)
    talk.heard_out(GREETING)
    return talk


# What nobody has heard is said; what was heard is not.


def test_nothing_is_greeted_twice() -> None:
    talk = resumed(greeted())
    assert said(talk.history) == f"{ENGLISH.back_again}|"
    assert talk.lines == [("agent", GREETING)]


def test_a_greeting_of_which_nothing_was_heard_is_spoken() -> None:
    talk = Talk(greeting=GREETING)
    assert said(resumed(talk, after_s=0.1).history) == f"{GREETING}|"


def test_a_greeting_whose_socket_never_opened_is_spoken() -> None:
    talk = resumed(Talk(greeting=GREETING, introduced=False))
    assert said(talk.history) == f"{GREETING}|"
    talk.heard_out(GREETING)
    assert [line.text for line in transcript(talk.journal)] == [GREETING]


def test_a_first_socket_has_nothing_to_remember() -> None:
    talk = Talk(introduced=False)
    talk.note(Kind.PLACED)
    talk.note(Kind.STATUS, status="ringing")
    assert recall(talk.journal, GREETING) is None


@pytest.mark.parametrize("process_lives", [True, False])
def test_a_reply_cut_by_the_break_is_picked_up_at_the_clause_in_which_it_was_cut(process_lives: bool) -> None:
    talk = greeted()
    talk.prompt("What is it about?")
    talk.answer(AGENDA)
    talk.agent_speaks()
    talk.played("First the date. ")
    if process_lives:
        socket_lost(talk)
    talk = resumed(talk)
    assert said(talk.history) == f"{LEAD_IN} Then the place. Then the price.|"
    talk.heard_out(f"{LEAD_IN} Then the place. Then the price.")
    assert talk.lines[-2:] == [("agent", "First the date."), ("agent", f"{LEAD_IN} Then the place. Then the price.")]


def test_a_reply_of_which_nothing_was_heard_is_said_without_more_ado() -> None:
    talk = greeted()
    talk.prompt("What is it about?")
    talk.answer(AGENDA)
    assert said(resumed(talk).history) == f"{AGENDA}|"


def test_a_reply_that_was_heard_is_not_said_again() -> None:
    talk = greeted()
    talk.exchange("What is it about?", AGENDA)
    assert said(resumed(talk).history) == f"{ENGLISH.back_again}|"


def test_what_the_callee_cut_off_is_not_picked_up() -> None:
    talk = greeted()
    talk.prompt("What is it about?")
    talk.answer(AGENDA)
    talk.agent_speaks()
    talk.played("First the date. ")
    talk.interrupt("the date.")
    assert said(resumed(talk).history) == f"{ENGLISH.back_again}|"


def test_a_second_break_picks_up_only_what_the_first_one_left() -> None:
    talk = greeted()
    talk.prompt("What is it about?")
    talk.answer(AGENDA)
    talk.agent_speaks()
    talk.played("First the date. ")
    talk = resumed(talk)
    talk.agent_speaks()
    talk.played(f"{LEAD_IN} Then the place. ")
    assert said(resumed(talk).history) == f"{LEAD_IN} Then the price.|"


def test_where_the_carrier_reports_no_played_clauses_the_clock_tells_what_was_heard() -> None:
    talk = Talk(greeting="")
    talk.prompt("What is it about?")
    talk.answer(AGENDA)
    talk.now += 1.8
    assert said(resumed(talk, after_s=1.2).history) == f"{LEAD_IN} Then the place. Then the price.|"


def test_it_goes_on_in_the_language_of_the_talk() -> None:
    talk = greeted()
    talk.prompt("¿De qué se trata?", lang="es-MX")
    talk.answer("Primero la fecha. Luego el precio.")
    talk.agent_speaks()
    talk.played("Primero la fecha. ")
    assert said(resumed(talk).history) == f"{SPANISH.as_i_was_saying} Luego el precio.|"


# The callee is answered.


def test_who_was_not_answered_is_answered() -> None:
    talk = greeted()
    talk.prompt("What is it about?")
    talk = resumed(talk)
    (reply,) = started(talk.history)
    assert reply.resumed
    assert reply.lines[-1].text == "What is it about?"
    assert said(talk.answer("Your appointment.")) == "Your appointment.|"


@pytest.mark.parametrize("process_lives", [True, False])
def test_a_reply_that_was_being_made_is_made_again_with_what_was_heard_of_it(process_lives: bool) -> None:
    talk = greeted()
    talk.prompt("What is it about?")
    talk.say("First the date. ", "Then")
    talk.agent_speaks()
    talk.played("First the date. ")
    if process_lives:
        socket_lost(talk)
    talk = resumed(talk)
    (reply,) = started(talk.history)
    assert reply.resumed
    assert [(line.role, line.text, line.interrupted) for line in reply.lines[-2:]] == [
        ("callee", "What is it about?", False),
        ("agent", "First the date.", True),
    ]
    assert said(talk.history) == ""


def test_a_filler_that_the_answer_displaced_is_not_said_again() -> None:
    talk = greeted()
    talk.prompt("What is it about?")
    talk.wait(5)
    assert fillers(talk.history) == [ENGLISH.one_moment[0]]
    talk.answer("Your appointment.")
    talk.heard_out("Your appointment.")
    assert said(resumed(talk).history) == f"{ENGLISH.back_again}|"


def test_a_reply_that_was_cut_while_it_was_made_does_not_come_back() -> None:
    talk = greeted()
    talk.prompt("What is it about?")
    talk.say("First the date. ", "Then the place. ", "Then the")
    talk.agent_speaks()
    talk.played("First the date. ")
    talk.interrupt("date.")
    assert said(resumed(talk).history) == f"{ENGLISH.back_again}|"


def test_where_the_clock_told_what_was_heard_it_goes_on_at_the_clause() -> None:
    talk = Talk(greeting="")
    talk.prompt("What is it about?")
    talk.answer(AGENDA)
    talk.now += 2.2
    assert said(resumed(socket_lost(talk)).history) == f"{LEAD_IN} Then the place. Then the price.|"


def test_that_the_time_is_nearly_up_is_not_said_twice() -> None:
    talk = greeted(max_duration_s=100)
    talk.now += 75
    talk = resumed(talk, max_duration_s=100)
    talk.heard_out(ENGLISH.back_again)
    assert ENGLISH.time_nearly_up not in said(talk.wait(5))


def test_a_failed_reply_is_not_asked_for_again() -> None:
    talk = greeted()
    talk.prompt("What is it about?")
    talk.fail()
    assert started(resumed(talk).history) == []


def test_lines_and_turns_are_numbered_on() -> None:
    talk = greeted()
    talk.exchange("What is it about?", AGENDA)
    talk = resumed(talk)
    talk.heard_out(ENGLISH.back_again)
    talk.exchange("And when?", "At nine.")
    assert [line.text for line in transcript(talk.journal)] == [
        GREETING,
        "What is it about?",
        AGENDA,
        ENGLISH.back_again,
        "And when?",
        "At nine.",
    ]
    assert [data["turn"] for data in noted(talk.history, Kind.TURN)] == [2]


@pytest.mark.parametrize("process_lives", [True, False])
def test_keys_that_were_pressed_are_not_asked_for_again(process_lives: bool) -> None:
    talk = greeted()
    talk.press("12")
    talk = resumed(socket_lost(talk) if process_lives else talk)
    assert started(talk.history) == []
    talk.press("3#")
    (reply,) = started(talk.history)
    assert reply.lines[-1].text == "123"


# Endings, limits, tools.


def test_a_goodbye_that_was_heard_is_not_said_again() -> None:
    talk = greeted()
    talk.prompt("Thank you, bye.")
    talk.say("Goodbye.")
    talk.piece(EndCall())
    talk.agent_speaks()
    talk.finish()
    talk.played("Goodbye.")
    assert ended(talk.history) is None
    talk = resumed(talk)
    assert (said(talk.history), ended(talk.history)) == ("", EndReason.AGENT_SAID_GOODBYE)


def test_a_goodbye_that_was_not_heard_is_said_and_then_the_call_ends() -> None:
    talk = greeted()
    talk.prompt("Thank you, bye.")
    talk.say("Goodbye. Take care.")
    talk.piece(EndCall())
    talk.finish()
    talk = resumed(talk)
    assert said(talk.history) == "Goodbye. Take care.|"
    talk.heard_out("Goodbye. Take care.")
    assert ended(talk.history) == EndReason.AGENT_SAID_GOODBYE


def test_an_opt_out_before_the_break_ends_the_call_after_the_answer() -> None:
    talk = greeted()
    talk.prompt("Never call me again.")
    talk.piece(OptOut())
    talk = resumed(talk)
    talk.answer("You will not be called again.")
    talk.heard_out("You will not be called again.")
    assert ended(talk.history) == EndReason.OPTED_OUT


def test_the_longest_duration_counts_from_the_first_socket() -> None:
    talk = greeted(max_duration_s=40)
    talk.now += 30
    talk = resumed(talk, max_duration_s=40)
    talk.heard_out(ENGLISH.back_again)
    talk.wait(9)
    assert ENGLISH.time_up in said(talk.history)


def test_what_tools_have_done_for_an_unfinished_reply_is_remembered() -> None:
    talk = greeted()
    talk.prompt("Please book it.")
    talk.note(Kind.TOOL_CALLED, intent="1.1.1", tool="look_up", arguments={})
    talk.note(Kind.TOOL_DONE, intent="1.1.1", outcome="done", in_doubt=False)
    talk.note(Kind.TOOL_CALLED, intent="1.1.2", tool="book", arguments={})
    talk.note(Kind.TOOL_CALLED, intent="1.1.3", tool="pay", arguments={})
    talk.note(Kind.TOOL_DONE, intent="1.1.3", outcome="error: it took too long", in_doubt=True)
    talk.note(Kind.TOOL_CALLED, intent="1.1.4", tool="tell", arguments={})
    talk.note(Kind.TOOL_DONE, intent="1.1.4", outcome=None, in_doubt=False)
    memory = recall(talk.journal, GREETING)
    assert memory is not None
    assert memory.doubtful == ("book", "pay")
    assert memory.done == (Deed("look_up", {}, "done"),)


def test_a_tool_whose_result_was_told_is_not_remembered_apart() -> None:
    talk = greeted()
    talk.prompt("Please book it.")
    talk.note(Kind.TOOL_CALLED, intent="1.1.1", tool="book", arguments={})
    talk.note(Kind.TOOL_DONE, intent="1.1.1", outcome="booked", in_doubt=False)
    talk.answer("It is booked.")
    memory = recall(talk.journal, GREETING)
    assert memory is not None
    assert (memory.doubtful, memory.done) == ((), ())


# The carrier comes back by itself.


def test_a_carrier_that_comes_back_by_itself_speaks_on() -> None:
    talk = greeted()
    talk.prompt("What is it about?")
    talk.answer(AGENDA)
    talk.agent_speaks()
    talk.played("First the date. ")
    talk = resumed(talk, by_carrier=True)
    assert said(talk.history) == ""
    talk.played("Then the place. ", "Then the price.")
    talk.agent_speaks(False)
    assert talk.lines[-1] == ("agent", AGENDA)


def test_what_a_carrier_tells_again_is_not_answered_twice() -> None:
    talk = greeted()
    talk.exchange("Yes.", "Good.")
    talk.exchange("And when?", "At nine.")
    talk = resumed(talk, by_carrier=True)
    talk.prompt("Yes.")
    talk.prompt("And when?")
    assert started(talk.history) == []
    talk.prompt("Yes.")
    assert [reply.lines[-1].text for reply in started(talk.history)] == ["Yes."]


def test_who_says_the_same_again_a_while_after_a_reconnection_is_answered() -> None:
    talk = greeted()
    talk.exchange("Yes.", "Good.")
    talk = resumed(talk, by_carrier=True)
    talk.now += 3
    assert len(started(talk.prompt("Yes."))) == 1


# Handing over.


def test_a_call_is_handed_over_at_the_end_of_the_sentence() -> None:
    talk = greeted()
    talk.prompt("What is it about?")
    talk.say("First the date.")
    talk.keep(talk.conversation.hand_over(talk.now))
    talk.agent_speaks()
    talk.finish()
    assert not handed_over(talk.history)
    talk.played("First the date.")
    assert handed_over(talk.agent_speaks(False))
    talk = resumed(socket_lost(talk), cause="handed_over")
    assert said(talk.history) == ""


def test_a_quiet_call_is_handed_over_at_once() -> None:
    talk = greeted()
    assert handed_over(talk.keep(talk.conversation.hand_over(talk.now)))
    assert talk.conversation.end_reason is None


def test_what_is_said_during_a_hand_over_is_answered_by_the_next_process() -> None:
    talk = greeted()
    talk.callee_speaks()
    talk.keep(talk.conversation.hand_over(talk.now))
    assert not handed_over(talk.history)
    assert handed_over(talk.prompt("And when?"))
    assert started(talk.history) == []
    (reply,) = started(resumed(socket_lost(talk), cause="handed_over").history)
    assert reply.lines[-1].text == "And when?"


def test_keys_that_are_being_pressed_are_waited_for_before_a_hand_over() -> None:
    talk = greeted()
    talk.press("12")
    talk.keep(talk.conversation.hand_over(talk.now))
    assert not handed_over(talk.history)
    assert handed_over(talk.wait(5))


def test_a_sentence_that_does_not_end_is_handed_over_within() -> None:
    talk = greeted()
    talk.prompt("What is it about?")
    talk.say("First")
    talk.keep(talk.conversation.hand_over(talk.now))
    assert handed_over(talk.wait(10))


def test_who_may_have_talked_during_a_hand_over_is_asked_to_go_on() -> None:
    talk = greeted()
    talk.keep(talk.conversation.hand_over(talk.now))
    talk = resumed(socket_lost(talk), cause="handed_over")
    assert said(talk.wait(4)) == f"{ENGLISH.go_on}|"


def test_a_goodbye_is_not_handed_over() -> None:
    talk = greeted()
    talk.prompt("Bye.")
    talk.say("Goodbye.")
    talk.piece(EndCall())
    talk.finish()
    talk.keep(talk.conversation.hand_over(talk.now))
    talk.heard_out("Goodbye.")
    assert ended(talk.history) == EndReason.AGENT_SAID_GOODBYE


def test_where_nobody_can_go_on_the_callee_hears_a_goodbye() -> None:
    talk = greeted()
    talk.keep(talk.conversation.take_leave(talk.now))
    assert said(talk.history) == f"{ENGLISH.trouble_goodbye}|"
    talk.heard_out(ENGLISH.trouble_goodbye)
    assert ended(talk.history) == EndReason.SERVER_STOPPED


def test_a_journal_whose_last_entries_were_lost_still_makes_sense() -> None:
    talk = greeted()
    talk.prompt("What is it about?")
    talk.answer("First the date.")
    talk.heard_out("First the date.")
    talk.prompt("And when?")
    for kept in range(len(talk.journal)):
        memory = recall(talk.journal[:kept], GREETING)
        assert memory is None or [line.text for line in memory.lines if line.text] == [
            line.text for line in transcript(talk.journal[:kept])
        ]
