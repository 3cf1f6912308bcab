"""The talk as a model reads it."""

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from agents import history
from outbound.conversation import Line
from tests.agents.talks import GREETING, agent, callee, talk


def read(*lines: Line | str, resumed: bool = False) -> list[tuple[str, str]]:
    """Who says what, after what the model is told first."""
    told, *heard = history(talk(*lines, resumed=resumed), "")
    assert isinstance(told, SystemMessage)
    return [("agent" if isinstance(message, AIMessage) else "callee", str(message.content)) for message in heard]


def test_it_is_told_what_the_call_is_about() -> None:
    told = str(history(talk("hello"), "Offer ten percent.")[0].content)
    assert "Offer ten percent." in told
    assert "- agent_name: Ana" in told
    assert GREETING in told


def test_the_callee_comes_first_because_providers_want_it_so() -> None:
    assert read("hello") == [("callee", "[picks up the phone]"), ("agent", GREETING), ("callee", "hello")]


def test_lines_in_a_row_become_one_message() -> None:
    assert read(agent("One."), agent("Two."), "a", "b")[1:] == [("agent", "One.\nTwo."), ("callee", "a\nb")]


def test_keys_and_interruptions_are_marked() -> None:
    lines = (agent("I am ca", interrupted=True), "what", agent("I said"), callee("12#", keypad=True))
    assert read(*lines)[1:] == [
        ("agent", "I am ca —"),
        ("callee", "[cutting in] what"),
        ("agent", "I said"),
        ("callee", "[keypad] 12#"),
    ]


def test_a_line_of_which_nothing_was_heard_is_left_out() -> None:
    assert read(agent("", interrupted=True), "hello") == [("callee", "[cutting in] hello")]


def test_there_is_always_something_to_answer() -> None:
    assert read(agent("Hello?"))[-1] == ("callee", "[says nothing]")


def test_a_reply_that_the_line_broke_is_to_be_gone_on_with() -> None:
    said = ("what is it?", agent("I am calling about", interrupted=True))
    assert read(*said, resumed=True)[2:] == [
        ("callee", "what is it?"),
        ("agent", "I am calling about —"),
        (
            "callee",
            "[the line broke for a moment; go on from where you were cut off, without repeating what was heard]",
        ),
    ]


@pytest.mark.parametrize("cut", [(), (agent("", interrupted=True),)])
def test_words_that_got_no_answer_are_answered_as_usual(cut: tuple[Line, ...]) -> None:
    assert read("what is it?", *cut, resumed=True) == read("what is it?")


def test_it_is_told_which_tools_may_have_done_their_work() -> None:
    told = str(history(talk("hello", doubtful=("book", "pay")), "")[0].content)
    assert (
        "Before you were cut off you called book, pay; nobody knows whether it was done: do not call it again" in told
    )
    assert "Before the line broke" not in str(history(talk("hello"), "")[0].content)


def test_messages_alternate() -> None:
    lines = [line for i in range(100) for line in (callee(str(i)), agent("yes"), agent("no"))]
    assert [type(message) for message in history(talk(*lines), "")[1:]] == [HumanMessage, AIMessage] * 101 + [
        HumanMessage
    ]
