"""A socket that is lost in a whole call on our own network: opened again by request, or by the carrier itself."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from outbound.simulator import Callee, insists
from tests.server import running
from tests.stories.story import tell, words

NUMBER = "+12025550177"
LINES = ("Yes. Who is this, please?", "And what is this about?", "Are you a robot?")
PERSISTENT = {NUMBER: Callee("insists", "stays on the line", insists(*LINES))}


@pytest.mark.parametrize("drop_after", [0.4, 2.0, 6.5, 9.0, 11.5])
@pytest.mark.parametrize(
    "faults",
    [
        {},
        {"reconnect_keeps_session": True},
        {"replayed_events": 12},
        {"action_despite_reconnect": True},
        {"action_despite_reconnect": True, "reconnect_after": 1.6},
        None,
    ],
    ids=["comes back", "same session", "repeats much", "asks too", "asks first", "asks only"],
)
async def test_a_lost_socket_costs_no_line_and_doubles_none(
    tmp_path: Path, faults: dict[str, Any] | None, drop_after: float
) -> None:
    """Whatever way the carrier takes, each line that it delivered is answered once."""
    async with running(tmp_path, callees=PERSISTENT, relay_reconnect=faults is not None) as house:
        house.network.faults.drop_relay_after = drop_after
        for name, value in (faults or {}).items():
            assert hasattr(house.network.faults, name)
            setattr(house.network.faults, name, value)
        story = await tell(house, NUMBER)

    assert story.record["status"] == "completed"
    assert story.rings == 1
    assert story.network.gaps
    heard = " ".join(story.network.said("agent"))
    assert heard.count(story.record["greeting"]) <= 1
    kept = Counter(story.said("callee"))
    for spoken, prompts in story.network.deliveries():
        told = {str(frame.message["voicePrompt"]) for frame in prompts if frame.message.get("last")}
        assert sum(kept[text] for text in told) == len(told), (spoken, prompts, story.record["transcript"])
    answered = [turn["turn"] for turn in story.record["turn_latencies"] if turn["outcome"] == "finished"]
    assert len(answered) == len(set(answered)) <= sum(kept.values())
    # A clause that the break cut is kept without its beginning: words may be missing, none may be made up.
    reached_the_ear = iter(words(story.network.said("agent")))
    made_up = [word for word in words(story.said("agent")) if word not in reached_the_ear]
    assert not made_up, (story.network.said("agent"), story.said("agent"))
