"""What may go wrong on the way between the carrier and the application, to be switched on by a test."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

CreateFault = Literal["500", "503", "429", "garbage", "hang", "lost", "lost_hang"]
"""What becomes of one create request.

`500`, `503`, `429`, `garbage` (a 200 that is not JSON) and `hang` (no answer, ever) make no call. With `lost` (the
connection closes in the middle of the answer) and `lost_hang` (no answer) the call has been made, and it rings.
"""


@dataclass(slots=True)
class Faults:
    """All well by default; change it between calls. Times are network seconds."""

    creates: list[CreateFault | None] = field(default_factory=list)  # for the next creates in order; each used once
    early_webhooks: bool = False  # `initiated` and `ringing` are delivered before the create is answered
    double_callbacks: bool = False  # every status callback arrives twice
    swap_callbacks: bool = False  # `ringing` arrives before `initiated`
    lost_callbacks: frozenset[str] = frozenset()  # by CallStatus, e.g. {"completed"}
    callback_delay: float = 0.0  # before each status callback; the order is kept
    latency: float = 0.0  # added to every webhook and to every frame on its way to the application
    drop_relay_after: float | None = None  # the socket dies without a close frame this long after `setup`
    drop_relay_times: int = 1  # how many sockets of one call are lost before this is over
    odd_frames: Sequence[str] = ()  # sent as they are right after `setup`

    # What `applicationReconnect` does; Twilio has published none of it.
    reconnect_after: float = 0.3  # from the drop to the first try
    reconnect_within: float = 10.0  # how long it tries; in real seconds no less than the network's `grace` allows
    reconnect_keeps_session: bool = False  # the socket that is back has the `sessionId` of the one that was lost
    replayed_events: int = 3  # how many of the last events before the drop, perhaps received, are sent once more
    action_despite_reconnect: bool = False  # the action URL is asked too, and what it answers is followed
