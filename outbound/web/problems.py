"""What a client is told when something is wrong: RFC 9457 problems, from one table of exceptions."""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from outbound.calls import Failure, UnknownVariableError
from outbound.dialer import ANSWER_LOST, CARRIER_UNAVAILABLE, GATE, IdempotencyConflict, NotLive
from outbound.ports import (
    CallNotFound,
    CarrierAnswerLost,
    CarrierRefused,
    CarrierUnavailable,
    NotStorable,
    RefusalKind,
    StoreUnavailable,
)

log = structlog.get_logger(__name__)


class Problem(Exception):
    """An answer that is not what was asked for. `code` is stable; `detail` is for people and says what to do."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})
        self.more = {name: value for name, value in more.items() if value is not None}


class ProblemDetails(BaseModel):
    """RFC 9457: why a request was not answered with what it asked for. Members that say nothing are left out."""

    type: str
    title: str
    status: int
    detail: str = Field(description="for people: what is wrong and what to do")
    code: str = Field(description="for programs: stable")
    carrier_code: int = Field(default=0, description="the carrier's own number, where it refused")
    session_id: str = Field(default="", description="the call that could not be placed")
    errors: list[dict[str, str]] = Field(default=[], description="each `field`, and `message`: what was expected of it")


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route's description says of the problems it may answer with."""
    content = {"application/problem+json": {"schema": ProblemDetails.model_json_schema()}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


STATUS_OF_FAILURE: Mapping[str, int] = {
    GATE: 403,
    RefusalKind.INVALID_NUMBER: 422,
    RefusalKind.UNVERIFIED_NUMBER: 403,
    RefusalKind.COUNTRY_NOT_PERMITTED: 403,
    RefusalKind.NUMBER_BLOCKED: 403,
    RefusalKind.NOT_YOUR_NUMBER: 403,
    RefusalKind.WRONG_CREDENTIALS: 502,
    RefusalKind.ACCOUNT_LIMITED: 403,
    RefusalKind.TOO_MANY_REQUESTS: 429,
    RefusalKind.NOT_LIVE: 409,
    RefusalKind.OTHER: 400,
    CARRIER_UNAVAILABLE: 502,
    ANSWER_LOST: 504,
}
"""The HTTP status for each reason why a call was not placed."""


def of_failure(failure: Failure, **more: Any) -> Problem:
    """The problem that tells why a call was not placed."""
    status = STATUS_OF_FAILURE.get(failure.code, 502)
    return Problem(status, failure.code, failure.detail, carrier_code=failure.carrier_code, **more)


def problem_response(problem: Problem) -> Response:
    body = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        **problem.more,
    }
    return JSONResponse(body, problem.status, problem.headers, media_type="application/problem+json")


_NOT_JSON = "body: expected JSON, with the header Content-Type: application/json"


def _invalid(error: RequestValidationError) -> Problem:
    """Names each field and what was expected of it; never repeats what was sent."""
    if isinstance(error.body, bytes):
        return Problem(422, "invalid_request", _NOT_JSON, errors=[{"field": "body", "message": _NOT_JSON}])
    errors = [{"field": _field(found), "message": _expectation(found)} for found in error.errors()]
    detail = "; ".join(f"{found['field']}: {found['message']}" for found in errors)
    return Problem(422, "invalid_request", detail, errors=errors)


def _field(found: Mapping[str, Any]) -> str:
    place, *inside = found["loc"]
    return str(place) if found["type"] == "json_invalid" else ".".join(map(str, inside)) or str(place)


def _expectation(found: Mapping[str, Any]) -> str:
    if found["type"] == "json_invalid":
        return f"expected JSON, got something else at character {found['loc'][1]}"
    return str(found["msg"]).removeprefix("Value error, ")


def _of_http(error: HTTPException) -> Problem:
    code = {400: "unreadable_body", 404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}.get(
        error.status_code, "http_error"
    )
    return Problem(error.status_code, code, str(error.detail), headers=error.headers)


TABLE: Mapping[type[Exception], Callable[[Any], Problem]] = {
    Problem: lambda error: error,
    RequestValidationError: _invalid,
    HTTPException: _of_http,
    CallNotFound: lambda _: Problem(404, "call_not_found", "no call has this session_id"),
    NotLive: lambda _: Problem(409, "call_not_live", "the call is over, or has not reached the carrier yet"),
    IdempotencyConflict: lambda _: Problem(
        409, "idempotency_conflict", "this Idempotency-Key was used before with another body; use a new key"
    ),
    UnknownVariableError: lambda error: Problem(
        422, "unknown_variable", str(error), errors=[{"field": "variables", "message": str(error)}]
    ),
    NotStorable: lambda error: Problem(422, "invalid_request", str(error)),
    StoreUnavailable: lambda _: Problem(
        503, "database_unavailable", "the database does not answer; try again", headers={"Retry-After": "5"}
    ),
    CarrierRefused: lambda error: of_failure(Failure(error.kind, error.detail, error.carrier_code)),
    CarrierUnavailable: lambda error: of_failure(Failure(CARRIER_UNAVAILABLE, str(error))),
    CarrierAnswerLost: lambda error: of_failure(Failure(ANSWER_LOST, str(error))),
}
"""From exception to answer. What is not here is our own mistake: 500, logged, nothing told."""


def install(app: FastAPI) -> None:
    """Answers every exception with a problem."""

    async def known(request: Request, error: Exception) -> Response:
        kind = next(kind for kind in type(error).__mro__ if kind in TABLE)
        if kind is StoreUnavailable:
            log.error("request not served", reason=str(error))
        return problem_response(TABLE[kind](error))

    async def unknown(request: Request, error: Exception) -> Response:
        log.error("request failed", error=type(error).__name__, exc_info=error)
        return problem_response(Problem(500, "internal_error", "something went wrong here; the server's log says what"))

    for kind in TABLE:
        app.add_exception_handler(kind, known)
    app.add_exception_handler(Exception, unknown)
