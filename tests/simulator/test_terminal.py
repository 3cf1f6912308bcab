"""The terminal, driven through a pipe as a person drives it with a keyboard."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from outbound.simulator import CALLEES

HERE = Path(__file__).parent
PATIENCE = 60.0


async def start(*arguments: str, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "outbound.simulator",
        *arguments,
        cwd=HERE.parents[1],
        env={**os.environ, **environment},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def run(*arguments: str, typed: str = "", **environment: str) -> tuple[int | None, str, str]:
    process = await start(*arguments, **environment)
    async with asyncio.timeout(PATIENCE):
        out, err = await process.communicate(typed.encode())
    return process.returncode, out.decode(), err.decode()


def call(*arguments: str) -> tuple[str, ...]:
    return ("call", "--main", str(HERE / "fake_main.py"), "--speed", "20", *arguments)


def logs(folder: Path) -> list[Path]:
    return list(folder.glob("outbound-server-*.log"))


async def test_a_call_is_heard_and_answered_in_the_terminal(tmp_path: Path) -> None:
    typed = "Good morning.\n/interrupt 2 Wait a moment.\n/press 7\n"
    code, out, err = await run(*call(), typed=typed, TMPDIR=str(tmp_path))
    assert (code, err) == (0, "")
    assert not logs(tmp_path), "the server's log is gone when all went well"
    lines = [line.strip() for line in out.splitlines()]
    assert "agent:  Hello, this is the fake agent." in lines
    assert "callee: Good morning." in lines
    assert "agent:  You said --" in lines
    assert "[never heard: Good morning. and I heard it.]" in lines
    assert "agent:  You said 7 and I heard it." in lines
    assert "The call is completed" in lines[-1]


async def test_somebody_else_can_be_watched() -> None:
    code, out, _ = await run(*call("--to", "+12025550108"))
    assert code == 0
    assert "callee: Stop calling me. Take me off your list." in out


async def test_the_interrupt_key_hangs_up() -> None:
    process = await start(*call("--to", "+12025550107"))
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        await process.stdout.readuntil(b"agent:")
        process.send_signal(signal.SIGINT)
        out, _ = await process.communicate()
    assert process.returncode == 0
    assert b"The call is completed" in out


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("FAKE_DIES", "no model was configured"),
        ("FAKE_REFUSES", "answered 403: "),
    ],
)
async def test_a_call_that_does_not_come_about_says_why(tmp_path: Path, fault: str, reason: str) -> None:
    code, _, err = await run(*call(), **{fault: "1", "TMPDIR": str(tmp_path)})
    assert code == 1
    assert reason in err
    (log,) = logs(tmp_path)
    assert f"the server's log is {log}; it ends:\n" in err


async def test_a_call_to_which_no_agent_comes_keeps_the_servers_log(tmp_path: Path) -> None:
    main = tmp_path / "main.py"
    speechless = (HERE / "fake_main.py").read_text().replace("ConversationRelay url=", "ConversationRelay link=")
    main.write_text(speechless)
    code, _, err = await run("call", "--main", str(main), "--speed", "20", TMPDIR=str(tmp_path))
    assert code == 1
    assert "the agent never came to the line" in err
    (log,) = logs(tmp_path)
    assert f"the server's log is {log}; it ends:\n" in err


async def test_practice_rings_any_country_and_leaves_the_users_calls_alone(tmp_path: Path) -> None:
    main = tmp_path / "main.py"
    main.write_text(f"import sys\nsys.path.insert(0, {str(HERE.parents[1])!r})\nimport main\nsys.exit(main.main())\n")
    theirs = tmp_path / "theirs.db"
    of_the_user = {
        "TWILIO_PHONE_NUMBER": "+442071838750",
        "ALLOWED_COUNTRIES": "GB",
        "DATABASE_URL": f"sqlite:///{theirs}",
        "LLM_MODEL": "scripted",
        "TMPDIR": str(tmp_path),
    }
    code, out, err = await run("call", "--main", str(main), "--to", "+12025550101", "--speed", "20", **of_the_user)
    assert code == 0, err
    assert "The call is " in out
    assert (tmp_path / "demo.db").exists()
    assert not theirs.exists()


async def test_the_callees_are_listed() -> None:
    code, out, _ = await run("callees")
    assert code == 0
    assert all(f"{number}  {callee.name}" in out for number, callee in CALLEES.items())


async def test_the_network_can_run_alone() -> None:
    process = await start("serve", "--port", "0", "--auth-token", "secret")
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        told = await process.stdout.readuntil(b"TWILIO_PHONE_NUMBER=")
        process.send_signal(signal.SIGTERM)
        await process.communicate()
    assert b"TWILIO_API_BASE_URL=http://127.0.0.1:" in told
    assert process.returncode == 0
