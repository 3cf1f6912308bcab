"""A stranger using the HTTP API: places a call, follows the conversation as it happens, tells how it ended.

    uv run python example_usage.py +15005550006

Exit code 0: the call was answered and completed; 3: nobody answered; 1: it could not be placed, was lost, or does not
end.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

import httpx

FINAL = {"completed", "busy", "no-answer", "failed", "canceled", "refused", "unknown"}
UNANSWERED = {"busy", "no-answer", "canceled"}
ASK_EVERY_S = 0.2
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
            call = follow(client, started["session_id"])
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


def follow(client: httpx.Client, session_id: str) -> dict[str, Any]:
    """Prints the journal as it grows; returns the call when it is over. Raises NoEnd where it should long be."""
    seen = 0
    status = ""
    sent: dict[int, str] = {}
    turn_of_line: dict[int, int] = {}
    while True:
        call = answer(client.get(f"/calls/{session_id}"))
        if call["status"] != status:
            status = call["status"]
            print(f"        ({status})", flush=True)
        for entry in call["journal"]:
            if entry["seq"] <= seen:
                continue
            seen = entry["seq"]
            for line in describe(entry, call, sent, turn_of_line):
                print(line, flush=True)
        if status in FINAL:
            return call
        longest = timedelta(seconds=call["max_duration_s"]) + RINGS_AND_SETTLES_WITHIN
        if datetime.now(UTC) - datetime.fromisoformat(call["started_at"]) > longest:
            minutes = longest.total_seconds() / 60
            raise NoEnd(f"gave up: the call is still {status}, {minutes:.0f} minutes after it was placed")
        time.sleep(ASK_EVERY_S)


def describe(
    entry: dict[str, Any], call: dict[str, Any], sent: dict[int, str], turn_of_line: dict[int, int]
) -> Iterator[str]:
    """What a journal entry says to a person, if anything."""
    data = entry["data"]
    match entry["kind"]:
        case "callee_said":
            yield f"callee  {shortened(data['text'])}"
        case "callee_pressed":
            yield f"callee  (presses {data['digits']})"
        case "agent_began" if data["turn"] is not None:
            turn_of_line[data["line"]] = data["turn"]
        case "agent_sent":
            sent[data["line"]] = data["text"]
        case "agent_said":
            yield from describe_agent(data, sent.get(data["line"], data["text"]), call, turn_of_line)
        case "model_failed":
            yield f"        (the model failed: {data['cause']})"
        case "opted_out":
            yield "        (asked not to be called again)"
        case "ending":
            yield f"        (ending: {data['reason'].replace('_', ' ')})"
        case _:
            pass


def describe_agent(
    data: dict[str, Any], sent: str, call: dict[str, Any], turn_of_line: dict[int, int]
) -> Iterator[str]:
    if data["text"]:
        yield f"agent   {data['text']}"
    if data["interrupted"]:
        unheard = sent.strip()[len(data["text"]) :].strip()
        yield f"        ^ cut off here, never heard: “{shortened(unheard)}”"
    turn = turn_of_line.get(data["line"])
    for latency in call["turn_latencies"]:
        if latency["turn"] == turn and latency["first_text_ms"] is not None:
            yield f"        [turn {turn}: first word after {latency['first_text_ms']:.1f} ms]"


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
