"""A server just large enough for the terminal: it is started as the product's `main.py` is, and knows its settings."""

import os

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

ME = os.environ["SERVER_BASE_URL"]
ACCOUNT = os.environ["TWILIO_ACCOUNT_SID"]


async def ready(_: Request) -> Response:
    return JSONResponse({"status": "ready"})


async def initiate(request: Request) -> Response:
    if request.headers.get("authorization") != f"Bearer {os.environ['API_KEYS']}":
        return JSONResponse({"detail": "unknown key"}, 401)
    if os.environ.get("FAKE_REFUSES"):
        return JSONResponse({"detail": "quiet_hours"}, 403)
    order = {"To": (await request.json())["to"], "From": os.environ["TWILIO_PHONE_NUMBER"], "Url": f"{ME}/voice"}
    auth = (ACCOUNT, os.environ["TWILIO_AUTH_TOKEN"])
    async with httpx.AsyncClient(base_url=os.environ["TWILIO_API_BASE_URL"], auth=auth, trust_env=False) as carrier:
        created = await carrier.post(f"/2010-04-01/Accounts/{ACCOUNT}/Calls.json", data=order)
    return JSONResponse({"call_sid": created.json()["sid"]})


async def voice(_: Request) -> Response:
    url = ME.replace("http", "ws", 1) + "/relay"
    relay = f'<ConversationRelay url="{url}" welcomeGreeting="Hello, this is the fake agent." dtmfDetection="true"/>'
    return Response(f"<Response><Connect>{relay}</Connect></Response>", media_type="text/xml")


async def relay(socket: WebSocket) -> None:
    await socket.accept()
    try:
        while True:
            message = await socket.receive_json()
            heard = message.get("voicePrompt") or message.get("digit")
            if heard:
                await socket.send_json({"type": "text", "token": f"You said {heard} and I heard it.", "last": True})
    except WebSocketDisconnect:
        return


if __name__ == "__main__":
    if os.environ.get("FAKE_DIES"):
        raise SystemExit("no model was configured")
    routes = [
        Route("/ready", ready),
        Route("/call/initiate", initiate, methods=["POST"]),
        Route("/voice", voice, methods=["POST"]),
        WebSocketRoute("/relay", relay),
    ]
    uvicorn.run(Starlette(routes=routes), host=os.environ["HOST"], port=int(os.environ["PORT"]), ws="websockets-sansio")
