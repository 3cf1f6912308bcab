"""The network's one time scale: every wait of the carrier and of its callees is divided by one factor."""

import asyncio
import contextlib
import time

GRACE = 5.0  # real seconds


class Clock:
    """Network time, in seconds since the network was made; `speed` network seconds pass in one real second.

    The application thinks in real time however fast the network runs: `grace` is how many real seconds a callee gives
    it at least, unless he would be less patient at speed 1.
    """

    def __init__(self, speed: float = 1.0, *, grace: float = GRACE) -> None:
        if speed <= 0:
            raise ValueError(f"speed must be positive, got {speed}")
        self.speed = speed
        self._grace = grace
        self._origin = time.monotonic()

    def now(self) -> float:
        """Network seconds since the network was made."""
        return (time.monotonic() - self._origin) * self.speed

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds` of network time."""
        await asyncio.sleep(max(0.0, seconds) / self.speed)

    def patience(self, seconds: float) -> float:
        """Real seconds that a callee waits for the application when he is willing to wait `seconds` of network time."""
        return max(seconds / self.speed, min(seconds, self._grace))


class Bell:
    """Tell whoever waits that something changed; look at the state first, then wait, with no await between."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Wake everybody who waits now."""
        self._rung.set()
        self._rung = asyncio.Event()

    async def wait(self, real_seconds: float | None = None) -> bool:
        """True when the bell rang, False when `real_seconds` passed first."""
        rung = self._rung
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(real_seconds):
                await rung.wait()
        return rung.is_set()
