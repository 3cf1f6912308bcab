"""A phone network on your laptop: the carrier's REST API, webhooks and relay socket, and people who answer."""

from outbound.simulator.callees import CALLEES, Callee, insists
from outbound.simulator.calls import Frame, Gap, NetworkCall, Spoken, StatusChange, Webhook
from outbound.simulator.faults import Faults
from outbound.simulator.line import Line
from outbound.simulator.network import Network

__all__ = [
    "CALLEES",
    "Callee",
    "Faults",
    "Frame",
    "Gap",
    "Line",
    "Network",
    "NetworkCall",
    "Spoken",
    "StatusChange",
    "Webhook",
    "insists",
]
