"""The people who answer, by number, as a card network's test cards work: each number behaves in one known way.

A callee is a function over a `Line`; when it returns, he hangs up.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from outbound.simulator.line import Line

Outcome = Literal["answers", "busy", "no-answer", "failed"]
Talk = Callable[[Line], Awaitable[None]]

THINKS = 0.5
RINGS = 1.5
STILL_THERE = "Hello? Are you still there?"
_FAREWELL = re.compile(
    r"\b(good\s?bye|bye|have a (nice|great|good) (day|one|evening)|take care|adiós|hasta luego)\b", re.IGNORECASE
)


async def _nobody(line: Line) -> None:
    """Nobody is there to talk."""


@dataclass(frozen=True, slots=True)
class Callee:
    """Somebody at a number: whether he answers, what answering-machine detection takes him for, how he talks.

    Args:
        ring_seconds: how long it rings before the outcome, in network seconds.
        answered_by: `human`, `machine`, `fax` or `unknown`; the carrier words it by the mode of its detection.
    """

    name: str
    description: str
    talk: Talk = _nobody
    outcome: Outcome = "answers"
    ring_seconds: float = RINGS
    answered_by: Literal["human", "machine", "fax", "unknown"] = "human"


def says_goodbye(text: str) -> bool:
    """Whether a person who hears this takes it for the end of the conversation."""
    return _FAREWELL.search(text) is not None


async def reply(line: Line, text: str, *, lang: str | None = None) -> None:
    """Think for a moment, then say it."""
    await line.pause(THINKS)
    await line.say(text, lang=lang)


async def _turns(line: Line, *replies: str, lang: str | None = None) -> bool:
    """Answer each thing that the agent says; True when it said goodbye or fell silent, so that nothing remains."""
    for words in replies:
        heard = await line.hear()
        if not heard or says_goodbye(heard):
            return True
        await reply(line, words, lang=lang)
    return False


async def _part(line: Line, farewell: str, *, lang: str | None = None) -> None:
    """Say goodbye, hear the agent's, and hang up a little later."""
    await reply(line, farewell, lang=lang)
    await line.hear(patience=6.0)
    await line.pause(0.8)


async def friendly(line: Line) -> None:
    """Talk several turns with whatever agent rings, and end well."""
    if not await line.hear_words(1, patience=3.0):
        await line.say("Hello?")
    over = await _turns(
        line,
        "Yes, this is she. Who is this, please?",
        "Yes, that's fine, I have a minute.",
        "I have a question: how long will this take?",
        "All right, that sounds good to me.",
    )
    if not over:
        await line.hear()
    await _part(line, "Thank you very much. Goodbye!")


async def voicemail(line: Line) -> None:
    """A greeting, a beep, and then it records until the caller has nothing more to say."""
    await line.say(
        "Hi, you've reached Dana. I can't come to the phone right now, but your call matters to me. "
        "Please leave your name, your number and a short message after the tone, and I'll get back to you soon."
    )
    await line.pause(1.0)
    if await line.hear():
        while await line.hear(patience=3.0):
            pass


async def hangs_up_in_mid_sentence(line: Line) -> None:
    """Hear a few words and put the phone down."""
    await line.hang_up(after_words=4)


async def interrupts(line: Line) -> None:
    """Cut the agent short twice, and get on with it well."""
    await line.interrupt("Sorry, wait. Who did you say is calling?", after_words=6)
    over = await _turns(line, "Ah, I see. Yes, go ahead, I have two minutes.")
    if not over:
        heard = await line.interrupt("Oh, hold on, can I ask you something first?", after_words=5)
        over = says_goodbye(heard)
    if not over:
        over = await _turns(line, "How long is it going to take?", "That works for me, thank you.")
    if not over:
        await line.hear()
    await _part(line, "No, that's all. Thanks for calling. Goodbye!")


async def silent(line: Line) -> None:
    """Answer and never say a word, until the other side ends the call."""
    await line.hold()


async def stop_calling(line: Line) -> None:
    """Ask not to be called again; hang up once that was answered."""
    await line.hear()
    await reply(line, "Stop calling me. Take me off your list.")
    await line.hear(patience=8.0)
    await line.pause(0.5)


async def presses_keys(line: Line) -> None:
    """Answer by keys only: 1, then 4 2 #."""
    await line.hear()
    await line.pause(THINKS)
    await line.press("1")
    await line.hear(patience=3.0)
    await line.press("42#")
    await line.hear(patience=3.0)
    await line.pause(0.5)


async def screened(line: Line) -> None:
    """A phone's own assistant asks first; then the person takes over."""
    await line.say("This call is being screened. Please state your name and why you're calling.")
    await line.hear()
    await reply(line, "Thanks. Please stay on the line.")
    await line.pause(2.0)
    await line.say("Hello, this is Dana. What is this about?")
    if not await _turns(line, "Okay, yes, that's fine.", "No, I have no other questions."):
        await line.hear()
    await _part(line, "Thanks, goodbye.")


async def spanish(line: Line) -> None:
    """Speak Spanish, whatever is asked."""
    over = await _turns(
        line,
        "¿Bueno? Perdone, no hablo inglés. ¿Puede hablar en español?",
        "Sí, está bien, dígame.",
        "Muy bien, de acuerdo.",
        lang="es-ES",
    )
    if not over:
        await line.hear()
    await _part(line, "Muchas gracias. ¡Adiós!", lang="es-ES")


async def rambles(line: Line) -> None:
    """Tell long stories; the longest has exactly 20,000 characters."""
    await line.hear()
    await line.pause(THINKS)
    await line.say(story(2_000), seconds=8.0)
    await line.hear()
    await line.say(story(20_000), seconds=12.0)
    await line.hear()
    await _part(line, "Well, it was lovely talking to you. Goodbye!")


def insists(*lines: str, patience: float = 6.0, asks: int = 3) -> Talk:
    """A person who says these lines, each once, and does not leave because the agent falls silent.

    After `patience` network seconds without a word he asks whether anybody is there; he hangs up when he has asked
    `asks` times in vain, when the agent says goodbye, or when all was said and answered.
    """

    async def talk(line: Line) -> None:
        for words in (*lines, "Thank you very much. Goodbye!"):
            heard = await _asks_until_heard(line, patience, asks)
            if not heard or says_goodbye(heard):
                return
            await reply(line, words)
        await line.hear(patience=patience)
        await line.pause(0.8)

    return talk


async def _asks_until_heard(line: Line, patience: float, asks: int) -> str:
    for _ in range(asks):
        if heard := await line.hear(patience=patience):
            return heard
        await line.say(STILL_THERE)
    return await line.hear(patience=patience)


def story(characters: int) -> str:
    """A story of exactly so many characters."""
    sentence = "And then my neighbour said, which I could hardly believe, that the cat had come back all by itself. "
    told = (sentence * (characters // len(sentence) + 1))[: characters - 1]
    return told.rstrip().ljust(characters - 1, "m") + "."


_MANY = (
    "Yes. Who is this, please?",
    "And what is this about?",
    "Are you a robot?",
    "Could you say again why you are calling?",
    "How are you today?",
)

CALLEES: Mapping[str, Callee] = {
    "+15005550006": Callee("friendly", "talks a few turns, asks who is calling, says goodbye", friendly),
    "+12025550100": Callee("friendly", "talks a few turns, asks who is calling, says goodbye", friendly),
    "+12025550101": Callee("busy", "is busy", outcome="busy", ring_seconds=0.8),
    "+12025550102": Callee("no answer", "never answers", outcome="no-answer", ring_seconds=float("inf")),
    "+12025550103": Callee("fails", "cannot be reached: the network answers 404", outcome="failed", ring_seconds=0.5),
    "+12025550104": Callee("voicemail", "a machine answers, beeps and records", voicemail, answered_by="machine"),
    "+12025550105": Callee("hangs up", "hangs up in the middle of the agent's sentence", hangs_up_in_mid_sentence),
    "+12025550106": Callee("interrupts", "cuts the agent short twice, then gets on with it well", interrupts),
    "+12025550107": Callee("silent", "answers and never says a word", silent),
    "+12025550108": Callee("opts out", 'says "stop calling me"', stop_calling),
    "+12025550109": Callee("keys", "answers by pressing 1, then 4 2 #", presses_keys),
    "+12025550110": Callee("screened", "a call-screening assistant asks first, then the person talks", screened),
    "+12025550111": Callee("Spanish", "speaks Spanish", spanish),
    "+12025550112": Callee("rambles", "tells long stories, one of 20,000 characters", rambles),
    "+12025550113": Callee("insists", "stays on the line when it goes dead: for killing servers", insists(*_MANY)),
}

EVERYBODY_ELSE = CALLEES["+12025550100"]
