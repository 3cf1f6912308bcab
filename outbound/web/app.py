"""The web application: routes, problems, limits. What it serves is built by `main` in the lifespan."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from fastapi import FastAPI

from outbound.web import api, health, hooks, problems
from outbound.web.security import BodyLimit

VERSION = "0.1.0"


def create_app(lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]]) -> FastAPI:
    """An application whose lifespan puts a House into `app.state.house` before the first request."""
    app = FastAPI(
        title="Outbound AI phone agent",
        version=VERSION,
        lifespan=lifespan,
        # The usual documentation pages load their scripts from elsewhere; the schema itself is at /openapi.json.
        docs_url=None,
        redoc_url=None,
        # A redirect would name the host that the request named.
        redirect_slashes=False,
    )
    app.add_middleware(BodyLimit)
    app.include_router(health.router, tags=["health"])
    app.include_router(api.router, tags=["calls"])
    app.include_router(hooks.router)
    problems.install(app)
    return app
