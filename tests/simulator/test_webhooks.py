import pytest
from twilio.request_validator import RequestValidator

from outbound.simulator.webhooks import sign
from tests.simulator.application import AUTH_TOKEN

FORM = {
    "CallSid": "CA00000000000000000000000000000001",
    "CallStatus": "completed",
    "From": "+15005550006",
    "SequenceNumber": "3",
    "To": "+14155550123",
}


@pytest.mark.parametrize(
    ("url", "params", "signature"),
    [
        ("https://agent.example.com/twilio/status?tenant=7", FORM, "eqn6Je9+xjyvEbMOu3bNwv2CDng="),
        ("wss://agent.example.com/relay/tok_abc123", None, "jYBR/iYcYx7W34sW8Edt32VOqRY="),
    ],
)
def test_signatures_are_those_of_the_test_vectors(url: str, params: dict[str, str] | None, signature: str) -> None:
    assert sign(AUTH_TOKEN, url, params) == signature


@pytest.mark.parametrize("params", [{}, {"b": "2", "B": "1", "a": ""}, {"Text": "¿Qué? & more=less"}])
def test_signatures_satisfy_the_sdk(params: dict[str, str]) -> None:
    url = "https://agent.example.com/voice?session=s_1&x="
    assert RequestValidator(AUTH_TOKEN).validate(url, params, sign(AUTH_TOKEN, url + "#rc=2", params))
