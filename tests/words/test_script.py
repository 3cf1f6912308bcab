"""The scripted agent: what it understands, what it says, and that it never goes round in circles."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import NoLedger, ScriptedAgent
from outbound.conversation import EndCall, Line, OptOut, Piece, Say, Talk
from outbound.script import LANGUAGES, OFFER, WHAT_DID_YOU_SAY, Language, language_of, meaning, rules, script
from tests.agents.talks import GREETING, agent, callee, talk, words

ENGLISH = {
    "opt_out": (
        "Stop calling me.",
        "please stop calling",
        "Don't call me again!",
        "do not ever call this number... don't call me",
        "I don't want you to call me anymore",
        "take me off your list",
        "Take me off of your calling list please",
        "remove my number from your database",
        "Could you delete my number",
        "unsubscribe",
        "I want to opt out",
        "put me on the do not call list",
        "No more calls, please.",
        "quit bothering me",
        "never contact me again",
        "leave me alone",
        "lose my number",
        "I don\u2019t want any more calls",
        "No stop calling me",
        "not interested stop calling",
        "I'm busy, and stop calling me",
        "Yes, hello, please don't ring me again",
        "Remove me",
        "remove me, please",
        "Get me off this list",
        "I said stop calling me!",
        "Are you a robot? Stop calling me!",
    ),
    "robot": (
        "Are you a robot?",
        "is this a recording",
        "am I talking to a real person?",
        "are you human",
        "You sound like a machine",
        "is this an automated call... are you real?",
        "Is this AI?",
        "Are you a real person?",
        "Am I talking to a human?",
    ),
    "recorded": ("Are you recording this?", "Is this call being recorded?", "Am I being recorded?"),
    "loss": ("I am sorry, she passed away", "My husband died"),
    "spanish": ("Could you speak Spanish please", "Spanish please", "I don't speak English", "No speak English"),
    "english": ("Do you speak English?", "In English, please"),
    "scam": ("Is this a scam?", "It's a scam"),
    "source": (
        "How did you get my number?",
        "Who gave you my number",
        "Where did you get this number from?",
        "How come you have my number",
    ),
    "complaint": ("I do have a complaint", "I will sue you"),
    "price": ("I would like to know the price", "How much is it?", "tell me what it costs"),
    "maybe": ("maybe", "I guess", "I guess so", "I don't know", "Not sure"),
    "screening": (
        "Hi, if you record your name and reason for calling, I'll see if this person is available.",
        "The person you're calling is using a screening service. Go ahead and say your name, and why you're calling.",
        "Please state your name after the tone and we will try to connect you",
        "May I ask the reason for your call?",
    ),
    "machine": (
        "Please leave a message after the tone.",
        "Hi, you've reached the Smiths. We can't come to the phone right now.",
        "at the beep leave your name and number",
        "The mailbox is full",
        "Your call has been forwarded to an automatic voice message system. Record your message at the tone.",
    ),
    "wrong_number": (
        "I think you have the wrong number",
        "Wrong person, sorry",
        "There's no one here by that name",
        "She doesn't live here",
    ),
    "person": (
        "Let me speak to a person",
        "I want to talk to a human being",
        "Can you connect me to your manager?",
        "representative",
    ),
    "who": (
        "Who is this?",
        "who's calling please",
        "Sorry, what's your name?",
        "which company?",
        "Who am I speaking with",
        "May I ask who is on the phone?",
        "who?",
    ),
    "why": (
        "What is this about?",
        "Why are you calling me?",
        "what do you want",
        "How can I help you?",
        "What's the call about",
        "why?",
    ),
    "go_on": ("Go ahead.", "don't stop", "I'm not busy", "please continue", "tell me more", "don't hang up"),
    "later": (
        "Call me later",
        "I'm busy right now",
        "I am driving",
        "can you call back tomorrow",
        "It's a bad time",
        "this isn't a good time",
        "I can't talk",
        "not now",
        "I don't have time",
        "don't call me now",
    ),
    "decline": ("I'm not interested", "no thank you", "No, thanks.", "I don't need anything"),
    "repeat": (
        "What?",
        "say that again",
        "Pardon?",
        "sorry?",
        "I didn't catch that",
        "Can you repeat that",
        "I can't hear you",
        "I can barely hear you",
        "I don't understand",
    ),
    "bye": ("Goodbye", "bye bye", "have a nice day", "I have to go", "That's all"),
    "hold": ("Hold on", "one moment please", "wait a second", "hang on", "please hold", "Stop.", "STOP!"),
    "how_are_you": ("How are you today?",),
    "thanks": ("Thank you", "thanks a lot"),
    "hello": ("Hello?", "hi there", "Good morning", "can you hear me?", "are you still there"),
    "no": ("No.", "nope", "not really", "Um, no", "of course not", "I don't"),
    "yes": (
        "Yes.",
        "yeah sure",
        "Okay",
        "of course",
        "uh-huh",
        "well, yes",
        "...yes",
        "No problem",
        "speaking",
        "That's right",
        "I do",
        "I will!",
        "good",
    ),
    "long": ("the weather was fine and " * 10,),
    "unclear": ("", "...", "purple elephant", "hmm the thing", "mumble mumble", "Good question", "I am John"),
}
"""Everything here is said in a talk whose language is English."""

SPANISH = {
    "opt_out": (
        "No me llame más",
        "Deje de llamarme",
        "no vuelvan a llamar",
        "Quíteme de su lista",
        "bórrenme de la lista",
        "elimine mi número",
        "No quiero recibir más llamadas",
        "quiero darme de baja",
        "No, deje de molestarme",
        "No quiero que me llamen",
        "No me interesa, no me llamen más",
        "Bórreme, por favor",
    ),
    "robot": (
        "¿Es usted un robot?",
        "¿Hablo con una máquina?",
        "¿eres una persona?",
        "¿Es una grabación?",
        "¿Es usted una persona?",
    ),
    "recorded": ("¿Está grabando esto?", "¿Se graba esta llamada?"),
    "loss": ("Falleció el año pasado",),
    "spanish": ("¿Habla español?", "no hablo inglés", "En español, por favor"),
    "english": ("¿Habla inglés?",),
    "scam": ("es una estafa",),
    "source": ("¿Cómo consiguió mi número?", "¿Quién le dio mi número?"),
    "complaint": ("Tengo una queja",),
    "price": ("cuánto cuesta", "¿Cuál es el precio?"),
    "maybe": ("quizás", "tal vez", "no sé"),
    "screening": ("Por favor diga su nombre y el motivo de su llamada",),
    "machine": ("Deje su mensaje después del tono", "Este es el buzón de voz", "No podemos atender su llamada"),
    "wrong_number": ("Número equivocado", "Se ha equivocado", "Aquí no vive nadie así", "no hay nadie con ese nombre"),
    "person": ("Quiero hablar con una persona", "páseme con su gerente", "Póngame con el encargado"),
    "who": ("¿Quién es?", "¿Quién habla?", "¿De parte de quién?", "¿de qué empresa?", "¿Quién?"),
    "why": ("¿Por qué me llama?", "¿De qué se trata?", "¿Qué quiere?", "¿Por qué?", "¿En qué puedo ayudarle?"),
    "go_on": ("Dígame", "Adelante", "¿Diga?", "No estoy ocupado", "No cuelgue"),
    "later": ("Llámeme más tarde", "Estoy ocupada", "Estoy manejando", "No puedo hablar", "no me llame ahora"),
    "decline": ("No me interesa", "No, gracias", "no quiero nada"),
    "repeat": ("¿Cómo?", "¿Mande?", "Repita, por favor", "No le entiendo", "¿me puede repetir?", "Más despacio"),
    "bye": ("Adiós", "Hasta luego", "Eso es todo", "Que tenga un buen día"),
    "hold": ("Un momento", "Espere", "deme un segundo"),
    "how_are_you": ("¿Cómo está?",),
    "thanks": ("Gracias", "muchas gracias"),
    "hello": ("Hola", "Buenos días", "¿Aló?", "¿Me escucha?"),
    "no": ("No.", "para nada", "Claro que no"),
    "yes": ("Sí", "Claro", "vale", "Bueno, sí", "Soy yo", "ok"),
    "unclear": ("un perro azul",),
}

NEGATED = (
    ("opt_out", "please don't stop calling"),
    ("opt_out", "I did not say stop calling me"),
    ("opt_out", "I never told you to stop calling"),
    ("later", "I'm not busy"),
    ("later", "I am not driving at all"),
    ("wrong_number", "no it's not the wrong number"),
    ("person", "I don't want to talk to a person"),
    ("bye", "don't say goodbye"),
    ("hold", "I can't wait"),
    ("machine", "don't leave a message"),
    ("opt_out", "did you call me yesterday"),
    ("opt_out", "why do you keep calling"),
    ("yes", "right now I am cooking"),
    ("opt_out", "no deje de llamar"),
    ("opt_out", "no quiero que deje de llamar"),
    ("hold", "I can't stop"),
    ("later", "no estoy ocupado"),
    ("wrong_number", "no es un número equivocado"),
    ("opt_out", "no me llamo Juan"),
)

TABLE = [
    (language, intent, said)
    for language, table in (("en", ENGLISH), ("es", SPANISH))
    for intent, sayings in table.items()
    for said in sayings
]


@pytest.mark.parametrize(("language", "intent", "said"), TABLE)
def test_a_saying_has_its_meaning(language: str, intent: str, said: str) -> None:
    assert meaning(said, "es" if language == "es" else "en") == (intent, language)


@pytest.mark.parametrize(("intent", "said"), NEGATED)
def test_a_negated_saying_has_not(intent: str, said: str) -> None:
    assert meaning(said, "en")[0] != intent


def test_every_rule_has_sentences_in_both_languages() -> None:
    for rule in rules().values():
        assert rule.marks <= {"ends", "opts-out", "in-a-row"}
        said = [
            rule.says[language] for language in LANGUAGES if rule.intent != {"en": "spanish", "es": "english"}[language]
        ]
        assert len({len(sentences) for sentences in said}) == 1
        assert all(rule.then or len(sentences) > 1 for sentences in said), f"{rule.intent} would say the same again"


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_language_of_each_of_its_sentences_is_known(language: Language) -> None:
    for rule in rules().values():
        for sentences in rule.says[language]:
            assert language_of(talk(agent(sentences), "brrr")) == language, sentences


@pytest.mark.parametrize("said", [said for _, intent, said in TABLE if intent == "opt_out"])
def test_whoever_opts_out_is_told_so_and_the_call_ends(said: str) -> None:
    pieces = list(script(talk(said)))
    assert pieces[-2:] == [OptOut(), EndCall()]
    assert re.search("not be called again|No le volveremos a llamar", words(pieces))


@pytest.mark.parametrize(
    "said",
    ["wrong number", "I'm driving", "goodbye", "not interested", "please leave a message after the tone", "adiós"],
)
def test_a_call_that_is_over_ends_with_words_and_no_opt_out(said: str) -> None:
    pieces = list(script(talk(said)))
    assert pieces[-1] == EndCall()
    assert OptOut() not in pieces
    assert words(pieces)


def test_it_says_who_it_is_and_why_it_calls() -> None:
    assert words(list(script(talk("who is this?")))) == (
        "This is Ana, an AI assistant calling from Acme. I am calling about your appointment on Monday."
    )


def test_it_says_so_in_spanish_to_whoever_speaks_spanish() -> None:
    reply = words(
        list(script(talk("¿Quién habla?", variables={"company": "Acme", "purpose": "para confirmar su cita"})))
    )
    assert reply == "Le habla un asistente de inteligencia artificial de Acme. Le llamo para confirmar su cita."


def test_it_stays_in_the_language_it_spoke_last() -> None:
    assert "entendí" in words(list(script(talk(agent("Hola. Le habla Ana."), "brrr", language="en-US"))))
    assert "quite get" in words(list(script(talk("brrr", language="en-US"))))
    assert "entendí" in words(list(script(talk("brrr", language="es-MX"))))


def test_without_variables_it_still_knows_what_it_is() -> None:
    assert words(list(script(talk("are you a robot?", variables={})))).startswith("I am an AI assistant")


@pytest.mark.parametrize("said", [*ENGLISH["robot"], *SPANISH["robot"]])
def test_not_one_word_about_what_it_is_is_a_lie(said: str) -> None:
    assert re.match("I am an AI assistant, not a person|Soy un asistente de inteligencia artificial", answer(said))


def test_it_says_that_notes_are_kept() -> None:
    assert "kept in writing" in answer("Are you recording this?")


def test_an_opt_out_is_confirmed_as_often_as_it_is_asked_for() -> None:
    confirmed = list(script(talk("stop calling me")))
    again = talk("stop calling me", agent(words(confirmed)), "I said stop calling me!")
    assert list(script(again)) == confirmed
    assert confirmed[-2:] == [OptOut(), EndCall()]


def test_it_does_not_know_prices_and_says_so() -> None:
    assert answer("How much is it?").startswith("I do not know any prices")
    assert answer("cuánto cuesta").startswith("No sé los precios")


@pytest.mark.parametrize("said", ["Could you speak Spanish please", "¿Habla español?", "no hablo inglés"])
def test_it_changes_to_spanish_and_stays_there(said: str) -> None:
    _, asked, unclear = converse(said, "¿Cuánto cuesta?", "brrr")
    assert answer(said).startswith("Claro, hablemos en español. Le llamo")
    assert asked.startswith("No sé los precios")
    assert "entendí" in unclear


def test_it_changes_to_english_and_stays_there() -> None:
    assert converse("¿Quién es?", "English please", "brrr")[1:] == [
        "Of course, let us speak English. I am calling about your appointment on Monday. Is that all right with you?",
        "I am sorry, I did not quite get that. Could you say it in other words?",
    ]


def test_a_talk_in_spanish_stays_in_spanish() -> None:
    said = talk(
        agent("", interrupted=True), "Sí, dígame", agent("Como le decía: Le llamo por lo siguiente: your"), "brrr"
    )
    assert language_of(said) == "es"
    assert language_of(talk("Sí, dígame", agent("", interrupted=True), "brrr")) == "es"
    assert "entendí" in answer("¿Trabajan los domingos?")
    about = {"purpose": "the things you would like to know about this and that"}
    assert language_of(talk(agent(f"Es solo esto: {about['purpose']}."), "brrr", variables=about)) == "es"


def test_a_spanish_speaker_is_not_read_an_english_sentence_again() -> None:
    first, second = converse("¿me puede repetir?", "¿Cómo?")
    introduction = (
        "Le habla Ana, asistente de inteligencia artificial de Acme. "
        "Le llamo por lo siguiente: your appointment on Monday."
    )
    assert first == f"Le decía: {introduction}"
    assert second == f"Una vez más: {introduction}"


def test_whoever_says_only_hello_is_taken_leave_of() -> None:
    said = converse(*["hello?"] * 9)
    assert len(set(said)) == len(said) == 4
    assert said[3].endswith("Goodbye.")
    assert converse(*["¿Aló?"] * 9)[3].endswith("Adiós.")


def test_values_are_spoken_without_markup_and_braces_are_harmless() -> None:
    about = {"company": "<b>Smith & Sons</b>", "purpose": "{reason} {0}", "agent_name": "Ana."}
    reply = words(list(script(talk("who is this?", variables=about))))
    assert reply == "This is Ana, an AI assistant calling from Smith and Sons. I am calling about {reason} {0}."


def test_it_repeats_what_it_said_last() -> None:
    assert words(list(script(talk("what?")))) == f"I said: {GREETING}"


def test_asked_to_repeat_again_and_again_it_offers_a_person_and_then_ends() -> None:
    said = converse(*["what?"] * 4)
    assert said[1] == f"Once more: {GREETING}"
    assert OFFER["en"] in said[2]
    assert said[3].endswith("Goodbye.")


def test_digits_are_read_back_one_by_one() -> None:
    assert words(list(script(talk(callee("12#", keypad=True))))) == "Thank you, I got 1, 2, pound."


def test_three_unclear_answers_lead_to_an_offer_and_a_fourth_to_the_end() -> None:
    said = converse("brrr", "grmbl", "zzz", "hrmpf", "brrr")
    assert len(set(said)) == len(said) == 4
    assert OFFER["en"] in said[2]
    assert said[3].endswith("Goodbye.")


def test_the_offer_of_a_person_can_be_taken_and_refused() -> None:
    offered = talk(agent(f"I am sorry, I have trouble understanding you. {OFFER['en']}"), "yes").lines
    assert "I have noted" in words(list(script(talk(*offered))))
    assert list(script(talk(*offered[:-1], "no")))[-1] == EndCall()


def test_it_does_not_ask_again_what_was_answered() -> None:
    said = converse("yes", "yes", "yes")
    assert said == [
        "Great, thank you. I am calling about your appointment on Monday. Would you like to ask me anything?",
        "Good, I have noted that. Anything more?",
        "That is all I needed. Thank you, and have a good day. Goodbye.",
    ]


def test_a_no_to_its_open_question_ends_the_call() -> None:
    assert converse("yes", "no", "yes") == [
        "Great, thank you. I am calling about your appointment on Monday. Would you like to ask me anything?",
        "Thank you for your time. Have a good day. Goodbye.",
    ]


def test_it_leaves_out_what_it_has_just_said() -> None:
    assert converse("who is this?", "yes")[1] == "Great, thank you. Would you like to ask me anything?"


def test_it_picks_up_where_it_was_cut_off() -> None:
    cut = agent("Great, thank you. I am calling", interrupted=True)
    assert words(list(script(talk(cut, "yes?")))) == "As I was saying: I am calling about your appointment on Monday."


def test_what_was_cut_off_may_be_said_again() -> None:
    cut = agent("This is Ana, an", interrupted=True)
    assert words(list(script(talk(cut, "who is this?")))).startswith("This is Ana, an AI assistant calling from Acme.")


def test_a_screening_service_hears_name_and_purpose_once() -> None:
    said = converse("state your name and why you are calling", "state your name and why you are calling")
    assert said[0] == (
        "This is Ana, an AI assistant calling from Acme. I am calling about your appointment on Monday. Thank you."
    )
    assert "appointment" not in said[1]


def test_it_speaks_in_groups_of_words() -> None:
    pieces = [piece for piece in script(talk("who is this?")) if isinstance(piece, Say)]
    assert len(pieces) > 2
    assert all(1 <= len(piece.text.split()) <= 5 for piece in pieces)


def test_a_talk_without_lines_gets_an_answer() -> None:
    assert words(list(script(Talk(talk().session_id, greeting=""))))


async def test_the_graph_streams_what_the_script_says() -> None:
    given_talk = talk("stop calling me")
    assert [piece async for piece in ScriptedAgent().reply(given_talk, NoLedger())] == list(script(given_talk))


async def test_a_reply_can_be_closed_at_any_piece() -> None:
    reply = ScriptedAgent().reply(talk("who is this?"), NoLedger())
    assert isinstance(await anext(reply), Say)
    await reply.aclose()


def test_a_long_talk_takes_no_longer_than_its_length() -> None:
    lines = [line for i in range(2000) for line in (callee(f"yes {i}"), agent(f"Sentence {i}."))]
    assert words(list(script(talk(*lines, "what?")))) == "I said: Sentence 1999."


# After a break.

INTRODUCTION = "This is Ana, an AI assistant calling from Acme. I am calling about your appointment on Monday."
PRESENTACION = (
    "Le habla Ana, asistente de inteligencia artificial de Acme. Le llamo por lo siguiente: your appointment on Monday."
)


def resumed(said: str, *heard: str) -> list[Piece]:
    """What is said after a break in the reply to `said`, of which these lines were heard."""
    lines = [agent(text, interrupted=True) for text in heard]
    return list(script(talk(said, *lines, resumed=True)))


@pytest.mark.parametrize(
    ("heard", "rest"),
    [
        ("This is", f"As I was saying: {INTRODUCTION}"),
        ("This is Ana, an AI assistant calling from Ac", f"As I was saying: {INTRODUCTION}"),
        (
            "This is Ana, an AI assistant calling from Acme.",
            "As I was saying: I am calling about your appointment on Monday.",
        ),
        (
            "this is ana an ai assistant calling from acme i am calling",
            "As I was saying: I am calling about your appointment on Monday.",
        ),
    ],
)
def test_a_broken_reply_goes_on_with_the_sentence_that_was_cut(heard: str, rest: str) -> None:
    assert words(resumed("who is this?", heard)) == rest


def test_a_broken_reply_goes_on_in_its_own_language() -> None:
    rest = "Como le decía: Le llamo por lo siguiente: your appointment on Monday."
    assert words(resumed("¿Quién habla?", "Le habla Ana, asistente de inteligencia artificial de Acme. Le")) == rest
    assert words(resumed("¿Quién habla?", PRESENTACION)) == WHAT_DID_YOU_SAY["es"]


@pytest.mark.parametrize("heard", [(), ("",), ("Th",), ("Let me check that, one moment.",)])
def test_a_reply_of_which_nothing_was_heard_is_made_as_usual(heard: tuple[str, ...]) -> None:
    assert words(resumed("who is this?", *heard)) == INTRODUCTION


def test_a_reply_that_breaks_twice_goes_on_where_it_was_cut_last() -> None:
    first = "This is Ana, an AI"
    second = "As I was saying: This is Ana, an AI assistant calling from Acme. I am"
    rest = "As I was saying: I am calling about your appointment on Monday."
    assert words(resumed("who is this?", first, second)) == rest
    assert words(resumed("who is this?", second, "As I was saying: I")) == rest
    assert words(resumed("who is this?", second, "As I was saying:")) == rest


def test_it_is_led_in_once() -> None:
    purpose = "I am calling about your appointment on Monday."
    assert words(resumed("go on", "As I was saying:")) == f"As I was saying: {purpose}"
    assert words(resumed("go on", "As I was saying: I am calling")) == f"As I was saying: {purpose}"


def test_where_all_was_heard_the_callee_is_asked_what_they_said() -> None:
    assert resumed("who is this?", INTRODUCTION)[-1] == Say("say?")
    assert words(resumed("who is this?", INTRODUCTION)) == WHAT_DID_YOU_SAY["en"]
    assert language_of(talk(agent(WHAT_DID_YOU_SAY["es"]), "brrr")) == "es"


@pytest.mark.parametrize(
    ("heard", "rest"),
    [
        ("I understand.", "As I was saying: You will not be called again. I am sorry for the disturbance. Goodbye."),
        ("I understand. You will not be called again. I am sorry for the disturbance.", "Goodbye."),
        ("I understand. You will not be called again. I am sorry for the disturbance. Goodbye.", "Goodbye."),
    ],
)
def test_a_call_that_was_to_end_ends_after_a_break_too(heard: str, rest: str) -> None:
    pieces = resumed("stop calling me", heard)
    assert words(pieces) == rest
    assert pieces[-2:] == [OptOut(), EndCall()]


def test_words_that_a_break_left_unanswered_are_answered() -> None:
    cut = agent("As I was", interrupted=True)
    assert list(script(talk("go on", cut, "who is this?", resumed=True))) == list(
        script(talk("go on", cut, "who is this?"))
    )


def test_whoever_asks_again_after_a_break_is_not_told_what_it_was_saying() -> None:
    rest = agent("As I was saying: I am calling about your appointment on Monday.")
    cut = agent("This is Ana,", interrupted=True)
    assert words(list(script(talk("who is this?", cut, rest, "what?")))) == (
        "I said: I am calling about your appointment on Monday."
    )


def answer(said: str) -> str:
    """The agent's reply to this, right after the greeting."""
    return words(list(script(talk(said))))


def converse(*sayings: str) -> list[str]:
    """The agent's replies to these sayings, until it ends the call."""
    lines: list[Line] = [agent(GREETING)]
    replies: list[str] = []
    for saying in sayings:
        lines.append(callee(saying))
        pieces = list(script(talk(*lines)))
        replies.append(words(pieces))
        lines.append(agent(replies[-1]))
        if EndCall() in pieces:
            break
    return replies


SAYINGS = st.one_of(st.sampled_from([said for _, _, said in TABLE]), st.text(max_size=40))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(SAYINGS, st.booleans(), st.sampled_from([1.0, 1.0, 0.5])), min_size=1, max_size=15),
    st.sampled_from(["en-US", "es", "de-DE"]),
    st.sampled_from([None, {}]),
)
def test_it_never_says_the_same_twice_in_a_row_and_never_falls_silent(
    sayings: list[tuple[str, bool, float]], language: str, variables: dict[str, str] | None
) -> None:
    lines: list[Line] = [agent(GREETING)]
    for saying, keypad, heard in sayings:
        lines.append(callee(saying, keypad=keypad and saying.isdigit()))
        pieces: list[Piece] = list(script(talk(*lines, language=language, variables=variables)))
        said, before = words(pieces), lines[-2]
        assert said.strip(), "fell silent"
        if not before.interrupted:
            assert said != before.text
            if not said.startswith(("I said:", "Once more:", "Le decía:", "Una vez más:")):
                assert not sentences(said) & sentences(before.text)
        if EndCall() in pieces:
            return
        lines.append(agent(said[: int(len(said) * heard)], interrupted=heard < 1))


@settings(max_examples=150, deadline=None)
@given(SAYINGS, st.floats(0, 1), st.sampled_from(["en-US", "es"]))
def test_after_a_break_all_that_was_not_heard_is_said_once(saying: str, part: float, language: str) -> None:
    whole = list(script(talk(saying, language=language)))
    heard = words(whole)[: int(len(words(whole)) * part)]
    cut = agent(heard, interrupted=True)
    pieces = list(script(talk(saying, cut, language=language, resumed=True)))
    rest = words(pieces)
    assert rest.strip(), "fell silent"
    assert [piece for piece in pieces if not isinstance(piece, Say)] == [p for p in whole if not isinstance(p, Say)]
    if rest in WHAT_DID_YOU_SAY.values():
        assert re.findall(r"\w+", heard) == re.findall(r"\w+", words(whole))
        return
    full, heard, rest = (re.sub("^(As I was saying|Como le decía): ", "", text) for text in (words(whole), heard, rest))
    assert full.endswith(rest)
    said_twice = len(heard) + len(rest) - len(full)
    assert said_twice >= -2, "a word is lost"  # a full stop and a blank are nobody's
    assert not re.search(r"[.?!]\s", heard[len(heard) - max(said_twice, 0) :]) or EndCall() in whole


def sentences(text: str) -> set[str]:
    return {sentence.strip() for sentence in re.findall(r"[^.?!]+[.?!]+", text)}
