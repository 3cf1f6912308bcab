"""Alive, and ready: what a load balancer asks."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import structlog
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from outbound.web.problems import documented

log = structlog.get_logger(__name__)
router = APIRouter(responses=documented(413, 500))

CHECK_WITHIN_S = 5.0
REMEMBER_FOR_S = 15.0
"""How long an answer of the outside is good: probes come every few seconds and must not become its load."""
REMEMBER_FAILURE_FOR_S = 2.0
"""How long a failure is: short, so that recovery is seen soon, and yet a storm of probes causes one check."""


class Readiness:
    """Asks each part whether it could take a call now. A check raises where it could not."""

    def __init__(self, checks: Mapping[str, Callable[[], Awaitable[None]]]) -> None:
        self.draining = False
        """The process is being stopped: calls go on, and no new ones are placed."""
        self._checks = checks
        self._known: dict[str, tuple[float, bool]] = {}
        # Who asks while a check is under way waits for its answer instead of making another.
        self._checking = {name: asyncio.Lock() for name in checks}

    async def report(self) -> dict[str, bool]:
        """Each part by name, and whether it is fit."""
        answers = await asyncio.gather(*(self._fit(name) for name in self._checks))
        return dict(zip(self._checks, answers, strict=True))

    async def _fit(self, name: str) -> bool:
        async with self._checking[name]:
            known_since, fit = self._known.get(name, (float("-inf"), False))
            if time.monotonic() - known_since < (REMEMBER_FOR_S if fit else REMEMBER_FAILURE_FOR_S):
                return fit
            fit = await self._check(name)
            self._known[name] = (time.monotonic(), fit)
            return fit

    async def _check(self, name: str) -> bool:
        try:
            async with asyncio.timeout(CHECK_WITHIN_S):
                await self._checks[name]()
        except Exception as error:
            # Whatever a part raises, it is not fit; the log has the reason, the prober does not.
            log.warning("not ready", part=name, error=type(error).__name__, reason=str(error))
            return False
        return True


@router.get("/health")
async def health() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/ready", responses={503: {"description": "a part is not fit"}})
async def ready(request: Request) -> JSONResponse:
    """Whether a call could be placed and carried now; 503 with the parts that are not fit, or while draining."""
    readiness: Readiness = request.app.state.house.readiness
    parts = await readiness.report()
    checks = {name: "ok" if part_is_fit else "failed" for name, part_is_fit in parts.items()}
    status = "draining" if readiness.draining else "ready" if all(parts.values()) else "not ready"
    return JSONResponse({"status": status, "checks": checks}, 200 if status == "ready" else 503)
