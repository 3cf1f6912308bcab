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


class Readiness:
    """Asks each part whether it could take a call now. A check raises where it could not."""

    def __init__(self, checks: Mapping[str, Callable[[], Awaitable[None]]]) -> None:
        self._checks = checks
        self._known: dict[str, tuple[float, bool]] = {}

    async def report(self) -> dict[str, bool]:
        """Each part by name, and whether it is fit."""
        answers = await asyncio.gather(*(self._fit(name) for name in self._checks))
        return dict(zip(self._checks, answers, strict=True))

    async def _fit(self, name: str) -> bool:
        asked_at, fit = self._known.get(name, (float("-inf"), False))
        if fit and time.monotonic() - asked_at < REMEMBER_FOR_S:
            return True
        try:
            async with asyncio.timeout(CHECK_WITHIN_S):
                await self._checks[name]()
            fit = True
        except Exception as error:
            # Whatever a part raises, it is not fit; the log has the reason, the prober does not.
            log.warning("not ready", part=name, error=type(error).__name__, reason=str(error))
            fit = False
        self._known[name] = (time.monotonic(), fit)
        return fit


@router.get("/health")
async def health() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/ready", responses={503: {"description": "a part is not fit"}})
async def ready(request: Request) -> JSONResponse:
    """Whether a call could be placed and carried now; 503 with the parts that are not fit."""
    parts = await request.app.state.house.readiness.report()
    fit = all(parts.values())
    checks = {name: "ok" if part_is_fit else "failed" for name, part_is_fit in parts.items()}
    return JSONResponse({"status": "ready" if fit else "not ready", "checks": checks}, 200 if fit else 503)
