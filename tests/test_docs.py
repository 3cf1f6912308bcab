"""What the README and the quick start say is true: commands exist and run, tables are what the code has."""

import asyncio
import json
import re
import shlex
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

import agents
from config import Settings
from outbound.simulator import CALLEES
from outbound.web import api, health
from outbound.web.problems import STATUS_OF_FAILURE
from tests.server import running

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICKSTART = (ROOT / "QUICKSTART.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language, with the indentation of the list they stand in taken away."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", text, re.S | re.M)
    return [re.sub(f"^{indent}", "", block, flags=re.M) for indent, block in found]


def commands(text: str) -> list[list[str]]:
    """Every command of the shell blocks, split into words."""
    lines = "".join(blocks(text, "sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(part) for line in lines for part in line.split(" && ") if part.strip()]


COMMANDS = commands(README) + commands(QUICKSTART)
RUN_BY_TESTS = {
    "./setup.sh": "tests/test_setup.py",
    "./setup.sh demo": "tests/test_setup.py",
    "./setup.sh test": ".ci/run",
    "uv sync": "setup.sh",
    "uv sync --extra openai": "pyproject.toml",
    "uv run python main.py": "tests/stories/test_shutdown.py",
    "uv run python main.py --workers 1": "tests/stories/test_workers.py",
    "uv run python example_usage.py": "tests/test_example.py",
    "uv run python -m outbound.simulator call": "tests/simulator/test_terminal.py",
    "uv run python -m benchmarks": "tests/test_benchmarks.py",
    "uv run pytest": ".ci/run",
}
"""Our own commands, and where each is really run. `pyproject.toml` is where an extra has to stand."""

ELSEWHERE = {"git", "cd", "ngrok"}
"""Commands of others."""


@pytest.mark.parametrize("words", sorted({tuple(command) for command in COMMANDS}), ids=" ".join)
def test_every_command_that_is_shown_is_one_that_is_run(words: tuple[str, ...]) -> None:
    command = list(words)
    if command[0] in ELSEWHERE or command[0] == "curl":
        return
    shown = " ".join(word for word in command if not word.startswith("+"))
    assert shown in RUN_BY_TESTS, f"{shown!r} is shown to users, but nothing runs it"
    assert (ROOT / RUN_BY_TESTS[shown]).exists()


def test_every_extra_that_is_shown_can_be_installed() -> None:
    declared = re.search(
        r"^\[project.optional-dependencies\]\n(.*?)^\[", (ROOT / "pyproject.toml").read_text(), re.S | re.M
    )
    assert declared is not None
    for extra in re.findall(r"--extra (\w+)", README + QUICKSTART + (ROOT / ".env.example").read_text()):
        assert re.search(rf"^{extra} = ", declared[1], re.M), extra


async def test_the_curl_commands_work_as_they_stand(tmp_path: Path) -> None:
    calls = [command for command in COMMANDS if command[0] == "curl"]
    assert len(calls) >= 3

    async with running(tmp_path) as house:
        for command in calls:
            here = [word.replace("http://localhost:8000", house.base_url) for word in command]
            process = await asyncio.create_subprocess_exec(
                *here, "-sS", "--fail-with-body", stdout=asyncio.subprocess.PIPE
            )
            answer, _ = await process.communicate()
            assert process.returncode == 0, answer
            assert isinstance(json.loads(answer), dict)


def test_the_python_shown_runs(capsys: pytest.CaptureFixture[str]) -> None:
    agents.configure(agents.ScriptedAgent())
    for block in blocks(README, "python"):
        exec(compile(block, "README.md", "exec"), {})  # noqa: S102 - our own document
    assert "AI assistant" in capsys.readouterr().out


def test_the_table_of_routes_is_the_routes() -> None:
    rows = re.findall(r"^\| ((?:`(?:GET|POST|WS) [^`]+`(?:, )?)+)", README, re.M)
    shown = {tuple(route.split()) for row in rows for route in re.findall(r"`([^`]+)`", row)}
    served = {
        (method, route.path)
        for router in (api.router, health.router)
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    assert shown == served


def test_the_table_of_callees_is_who_can_be_rung() -> None:
    shown = {
        number for row in re.findall(r"^\| (\+1[^|]+)\|", README, re.M) for number in row.replace(",", " ").split()
    }
    assert shown == set(CALLEES)


def test_every_setting_that_is_named_exists() -> None:
    known = {name.upper() for name in Settings.model_fields}
    named = set(re.findall(r"`([A-Z][A-Z_]+[A-Z])`", README + QUICKSTART))
    named |= {line.partition("=")[0] for block in blocks(QUICKSTART, "") for line in block.splitlines() if "=" in line}
    elsewhere = {"TOOLS", "UV_PYTHON", "SCRIPT"}
    assert named - elsewhere <= known, named - elsewhere - known


def test_every_status_of_a_failure_is_in_the_table_of_errors() -> None:
    rows = re.findall(r"^\| ([0-9, ]+) \|", README, re.M)
    shown = {int(status) for row in rows for status in row.split(",")}
    assert set(STATUS_OF_FAILURE.values()) <= shown


def test_links_lead_to_files() -> None:
    for document in [ROOT / "README.md", ROOT / "QUICKSTART.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
