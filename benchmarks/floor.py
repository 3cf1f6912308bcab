"""The floors: the least a FastAPI server can do and still say the same words over the same socket.

`python -m benchmarks.floor PORT replies FILE` streams replies that were recorded from the product: no agent, no memory,
no journal, no signatures. `python -m benchmarks.floor PORT model URL` relays a model's stream with a client written by
hand: with a history, and cancelled when the caller interrupts or speaks again. Both read every frame they are sent.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import orjson
import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from benchmarks.processes import HOST


def replies_app(replies: list[list[str]]) -> FastAPI:
    """Streams the recorded frames: the first reply to the first prompt of a call, and so on, round and round."""
    app = FastAPI()

    @app.websocket("/ws/{session_id}")
    async def relay(socket: WebSocket, session_id: str) -> None:
        await socket.accept()
        turn = 0
        try:
            while True:
                message = orjson.loads(await socket.receive_text())
                if message["type"] == "prompt":
                    for frame in replies[turn % len(replies)]:
                        await socket.send_text(frame)
                    turn += 1
        except WebSocketDisconnect:
            pass

    return app


def model_app(base_url: str) -> FastAPI:
    """Relays the stream of an OpenAI-compatible server, token by token."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        limits = httpx.Limits(max_connections=1000, max_keepalive_connections=100, keepalive_expiry=60)
        async with httpx.AsyncClient(limits=limits, timeout=60, trust_env=False) as app.state.client:
            yield

    app = FastAPI(lifespan=lifespan)

    async def speak(socket: WebSocket, history: list[dict[str, str]]) -> None:
        request = {"model": "standin", "stream": True, "messages": history}
        said = ""
        async with app.state.client.stream("POST", f"{base_url}/chat/completions", json=request) as response:
            async for line in response.aiter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                choices = orjson.loads(line[6:])["choices"]
                if choices and (token := choices[0]["delta"].get("content")):
                    said += token
                    await socket.send_text(orjson.dumps({"type": "text", "token": token, "last": False}).decode())
        await socket.send_text('{"type":"text","token":"","last":true}')
        history.append({"role": "assistant", "content": said})

    @app.websocket("/ws/{session_id}")
    async def relay(socket: WebSocket, session_id: str) -> None:
        await socket.accept()
        history = [{"role": "system", "content": "You are an AI assistant on a phone call that you placed. Be brief."}]
        speaker: asyncio.Task[None] | None = None
        try:
            while True:
                message = orjson.loads(await socket.receive_text())
                if message["type"] in ("prompt", "interrupt") and speaker is not None:
                    speaker.cancel()
                if message["type"] == "prompt":
                    history.append({"role": "user", "content": message["voicePrompt"]})
                    speaker = asyncio.create_task(speak(socket, history))
        except WebSocketDisconnect:
            if speaker is not None:
                speaker.cancel()

    return app


def main(port: int, kind: str, source: str) -> None:
    """Serves one of the two, with the product's own settings of the server beneath."""
    app = replies_app(orjson.loads(Path(source).read_bytes())) if kind == "replies" else model_app(source)
    uvicorn.run(
        app,
        host=HOST,
        port=port,
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
