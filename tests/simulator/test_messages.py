import pytest

from outbound.simulator import messages
from outbound.simulator.messages import End, Language, Malformed, Message, Play, SendDigits, Text


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ('{"type":"text","token":"Hi"}', Text("Hi")),
        ('{"type":"text","token":"","last":true}', Text("", last=True)),
        ('{"type":"text","token":"x","lang":"es-ES","interruptible":false,"preemptible":true}',
         Text("x", lang="es-ES", interruptible=False, preemptible=True)),
        ('{"type":"play","source":"https://e.org/a.mp3","loop":0}', Play("https://e.org/a.mp3", loop=0)),
        ('{"type":"sendDigits","digits":"12w#"}', SendDigits("12w#")),
        ('{"type":"language","ttsLanguage":"es-ES"}', Language("es-ES", None)),
        ('{"type":"language","transcriptionLanguage":"es-ES"}', Language(None, "es-ES")),
        ('{"type":"language","ttsLanguage":"es-ES","transcriptionLanguage":"en-US"}', Language("es-ES", "en-US")),
        ('{"type":"end"}', End()),
        ('{"type":"end","handoffData":"{\\"a\\": 1}"}', End('{"a": 1}')),
    ],
)  # fmt: skip
def test_documented_messages_are_understood(frame: str, message: Message) -> None:
    assert messages.parse(frame) == message


@pytest.mark.parametrize(
    "frame",
    [
        "hello",
        b'{"type":"end"}',
        "[]",
        "{}",
        '{"type":"ping"}',
        '{"type":["text"]}',
        '{"type":"error","description":"x"}',
        '{"type":"response.create","response":{"speech":"hi"}}',
        '{"type":"text"}',
        '{"type":"text","token":null}',
        '{"type":"text","token":"x","last":"true"}',
        '{"type":"text","token":"x","last":1}',
        '{"type":"text","token":"x","interruptible":"none"}',
        '{"type":"text","token":"x","voice":"Joanna"}',
        '{"type":"play","source":"https://e.org/a.mp3","loop":true}',
        '{"type":"play","source":"https://e.org/a.mp3","loop":-1}',
        '{"type":"play","source":"a.mp3"}',
        '{"type":"sendDigits","digits":"12W"}',
        '{"type":"sendDigits","digits":""}',
        '{"type":"language"}',
        '{"type":"end","handoffData":{"a":1}}',
        '{"type":"end","reason":"done"}',
        '{"type":"config","interruptible":"none"}',
        '{"type":"hints","hints":"Ada"}',
    ],
)
def test_everything_else_is_malformed(frame: str | bytes) -> None:
    with pytest.raises(Malformed):
        messages.parse(frame)
