"""A stranger using the HTTP API: places a call, follows the conversation as it happens, tells how it ended.

    uv run python example_usage.py +15005550006

Exit code 0: the call was answered and completed; 3: nobody answered; 1: it could not be placed, was lost, or does not
end.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

import httpx

UNANSWERED = {"busy", "no-answer", "canceled"}
RECONNECT_AFTER_S = 1.0
RINGS_AND_SETTLES_WITHIN = timedelta(minutes=10)
"""What a call may take besides its own longest duration; a call that is not over then has been lost somewhere."""


class NoEnd(Exception):
    """The call should have been over by now; the message says what is known of it."""


def main() -> int:
    arguments = read_arguments()
    headers = {"Authorization": f"Bearer {arguments.api_key}"} if arguments.api_key else {}
    with httpx.Client(base_url=arguments.server, headers=headers, timeout=30, trust_env=False) as client:
        try:
            wait_until_ready(client, arguments.wait)
            started = initiate(client, arguments)
            print(f"call {started['session_id']} to {started['phone_number']}: {started['status']}", flush=True)
            call = follow(client, started["session_id"], arguments.reconnect)
        except httpx.HTTPStatusError as error:
            return refused(error.response)
        except NoEnd as error:
            print(error)
            return 1
        except httpx.HTTPError as error:
            print(f"no answer from {arguments.server}: {error or type(error).__name__}; is the server running?")
            return 1
    print_outcome(call)
    if call["status"] == "completed":
        return 0
    return 3 if call["status"] in UNANSWERED else 1


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Place a call and follow it.")
    parser.add_argument("number", help="E.164, as +15005550006")
    parser.add_argument("--server", default="http://localhost:8000", help="where the server is (%(default)s)")
    parser.add_argument("--api-key", default="", help="one of the server's API_KEYS; none is needed on its own machine")
    parser.add_argument("--greeting", help="the agent's first words; {name} takes a value from --variable name=…")
    parser.add_argument(
        "--variable", action="append", type=pair, default=[], metavar="NAME=VALUE", help="may be given repeatedly"
    )
    parser.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="how long the server may take to come")
    parser.add_argument(
        "--reconnect",
        type=float,
        default=60,
        metavar="SECONDS",
        help="how long it may be away while the call goes on (%(default)s)",
    )
    return parser.parse_args()


def pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return name, value


def wait_until_ready(client: httpx.Client, seconds: float) -> None:
    """Asks /ready until the server says yes, for at most `seconds`."""
    give_up = time.monotonic() + seconds
    while seconds:
        try:
            if client.get("/ready").is_success:
                return
        except httpx.TransportError:
            pass
        if time.monotonic() > give_up:
            raise httpx.ConnectTimeout(f"not ready after {seconds:g} s")
        time.sleep(0.2)


def initiate(client: httpx.Client, arguments: argparse.Namespace) -> dict[str, Any]:
    body: dict[str, Any] = {"to": arguments.number}
    if arguments.greeting:
        body["greeting"] = arguments.greeting
    if arguments.variable:
        body["variables"] = dict(arguments.variable)
    return answer(client.post("/call/initiate", json=body))


def answer(response: httpx.Response) -> dict[str, Any]:
    response.raise_for_status()
    content: dict[str, Any] = response.json()
    return content


def follow(client: httpx.Client, session_id: str, reconnect_s: float) -> dict[str, Any]:
    """Prints the journal as it grows; returns the call when it is over. Raises NoEnd where it should long be."""
    call = answer(client.get(f"/calls/{session_id}"))
    longest = timedelta(seconds=call["max_duration_s"]) + RINGS_AND_SETTLES_WITHIN
    talk = Talk()
    for kind, content in events(client, session_id, reconnect_s):
        for line in talk.describe(kind, content.get("data", {})):
            print(line, flush=True)
        if datetime.now(UTC) - datetime.fromisoformat(call["started_at"]) > longest:
            minutes = longest.total_seconds() / 60
            raise NoEnd(f"gave up: the call is still {talk.status}, {minutes:.0f} minutes after it was placed")
    return answer(client.get(f"/calls/{session_id}"))


def events(client: httpx.Client, session_id: str, reconnect_s: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and data of each event until the last, and a nameless one now and then as a sign of life.

    A stream that breaks off is asked for again, after the last event that arrived: the server may have been restarted,
    or another one goes on with the call. Raises httpx.HTTPError where none has answered for `reconnect_s`.
    """
    last: dict[str, str] = {}
    give_up_at = time.monotonic() + reconnect_s
    while True:
        try:
            with client.stream("GET", f"/calls/{session_id}/events", headers=last) as response:
                if response.is_error:
                    response.read()
                    response.raise_for_status()
                give_up_at = time.monotonic() + reconnect_s
                for event in read_events(response.iter_lines()):
                    give_up_at = time.monotonic() + reconnect_s
                    if event.get("event") == "end":
                        return
                    if "id" in event:
                        last["Last-Event-ID"] = event["id"]
                    yield event.get("event", ""), json.loads(event.get("data", "{}"))
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            if isinstance(error, httpx.HTTPStatusError) and not error.response.is_server_error:
                raise
            if time.monotonic() > give_up_at:
                raise
        yield "", {}
        time.sleep(RECONNECT_AFTER_S)


def read_events(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """The fields of each server-sent event: https://html.spec.whatwg.org/multipage/server-sent-events.html"""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if name:
            fields[name] = value.removeprefix(" ")
        elif not line:
            yield fields
            fields = {}


class Talk:
    """A call as it is told to a person."""

    def __init__(self) -> None:
        self.status = "queued"
        self._sent: dict[int, str] = {}
        self._played: dict[int, str] = {}
        self._turn_of_line: dict[int, int] = {}
        self._first_text_ms: dict[int, float] = {}
        self._told: set[int] = set()

    def describe(self, kind: str, data: dict[str, Any]) -> Iterator[str]:
        """What a journal entry says, if anything."""
        match kind:
            case "status" if data["status"] != self.status:
                self.status = data["status"]
                yield f"        ({self.status})"
            case "callee_said":
                yield f"callee  {shortened(data['text'])}"
            case "callee_pressed":
                yield f"callee  (presses {data['digits']})"
            case "agent_began" if data["turn"] is not None:
                self._turn_of_line[data["line"]] = data["turn"]
            case "agent_sent":
                self._sent[data["line"]] = data["text"]
            case "agent_played" if data["line"] is not None:
                self._played[data["line"]] = self._played.get(data["line"], "") + data["text"]
            case "agent_said":
                self._played.pop(data["line"], None)
                yield from self._describe_agent(data)
            case "turn" if data["first_text_ms"] is not None:
                self._first_text_ms[data["turn"]] = data["first_text_ms"]
                yield from self._describe_speed(data["turn"])
            case "model_failed":
                yield f"        (the model failed: {data['cause']})"
            case "resuming":
                # The server may have died within a line, and said nothing more of it.
                yield from (f"agent   {text.strip()}" for text in self._played.values())
                self._played.clear()
                yield "        (the line broke; the call is taken up again)"
            case "opted_out":
                yield "        (asked not to be called again)"
            case "ending":
                yield f"        (ending: {data['reason'].replace('_', ' ')})"
            case _:
                pass

    def _describe_agent(self, data: dict[str, Any]) -> Iterator[str]:
        if data["text"]:
            yield f"agent   {data['text']}"
        if data["interrupted"]:
            unheard = self._sent.get(data["line"], data["text"]).strip()[len(data["text"]) :].strip()
            yield f"        ^ cut off here, never heard: “{shortened(unheard)}”"
        if data["line"] in self._turn_of_line:
            self._told.add(self._turn_of_line[data["line"]])
            yield from self._describe_speed(self._turn_of_line[data["line"]])

    def _describe_speed(self, turn: int) -> Iterator[str]:
        """Stands below the first line of the turn, once both are known."""
        if turn in self._told and turn in self._first_text_ms:
            yield f"        [turn {turn}: first word after {self._first_text_ms.pop(turn):.1f} ms]"


def shortened(text: str, width: int = 200) -> str:
    return text if len(text) <= width else f"{text[:width]}… ({len(text)} characters)"


def print_outcome(call: dict[str, Any]) -> None:
    first_words = [turn["first_text_ms"] for turn in call["turn_latencies"] if turn["first_text_ms"] is not None]
    print()
    print(f"outcome: {call['status']}" + (f", {call['end_reason'].replace('_', ' ')}" if call["end_reason"] else ""))
    if call["error"]:
        print(f"error:   {call['error']['detail']}")
    if call["duration_s"] is not None:
        print(f"length:  {call['duration_s']} s, {len(call['transcript'])} lines kept in the transcript")
    if first_words:
        print(f"speed:   first word after {median(first_words):.1f} ms (median of {len(first_words)} turns)")


def refused(response: httpx.Response) -> int:
    """Tells why the server said no, in its own words."""
    try:
        problem = response.json()
    except ValueError:
        problem = {}
    print(f"refused ({response.status_code}): {problem.get('detail') or response.reason_phrase}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
