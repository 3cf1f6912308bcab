"""`./setup.sh` as a newcomer runs it, in a copy of this checkout that shares its installed packages."""

import os
import re
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parent.parent
UNREACHABLE = "+12025550103"
OFFLINE = {"UV_OFFLINE": "1"}
"""What is locked is installed already: a uv that asks for more has something wrong."""


def run(
    folder: Path, *arguments: str, command: str = "./setup.sh", path: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs setup.sh in a session of its own; when it has ended, nothing it started may be left."""
    with subprocess.Popen(
        [command, *arguments],
        cwd=folder,
        env={"PATH": path or path_with_uv(), "HOME": os.environ.get("HOME", str(folder)), **OFFLINE, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as setup:
        try:
            told, errors = setup.communicate(timeout=90)
        except subprocess.TimeoutExpired:
            os.killpg(setup.pid, 9)
            raise
        assert_nothing_is_left(setup.pid)
    return subprocess.CompletedProcess(setup.args, setup.returncode, told, errors)


def assert_nothing_is_left(group: int) -> None:
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)


def runs(uv: Path) -> bool:
    """Whether this is a uv that works inside this checkout: a version manager's shim of that name may not."""
    try:
        done = subprocess.run([uv, "--version"], cwd=ROOT, capture_output=True, timeout=20, check=False)
    except OSError:
        return False
    return done.returncode == 0


def some_uv() -> Path | None:
    """A uv that runs: the one that runs us, one on the path, or the one setup.sh has brought; None if there is none."""
    folders = [Path(folder) for folder in os.environ["PATH"].split(os.pathsep) if folder]
    candidates = [Path(os.environ.get("UV", "uv-of-nobody")), *(folder / "uv" for folder in folders)]
    return next(filter(runs, [*candidates, ROOT / ".uv-bootstrap" / "bin" / "uv"]), None)


def path_with_uv() -> str:
    """A search path on which a working uv comes first; where there is none, setup.sh has to bring its own."""
    uv = some_uv()
    return os.environ["PATH"] if uv is None else f"{uv.parent}{os.pathsep}{os.environ['PATH']}"


NOT_CLONED = (".git", ".venv", ".uv-bootstrap", ".env", ".*_cache", ".hypothesis", "__pycache__", "*.db*")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What a clone would have, and this checkout's packages."""
    copy = tmp_path / "checkout"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*NOT_CLONED))
    (copy / ".venv").symlink_to(ROOT / ".venv", target_is_directory=True)
    return copy


def test_the_scripts_are_bash_and_may_be_run() -> None:
    for name in ("setup.sh", "scripts/check", ".ci/run"):
        script = ROOT / name
        assert script.read_text().startswith("#!/usr/bin/env bash\n")
        assert "set -euo pipefail" in script.read_text()
        assert script.stat().st_mode & stat.S_IXUSR
        subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.parametrize("argument", ["deploy", "--help", "Demo"])
def test_an_unknown_argument_is_refused_with_those_there_are(checkout: Path, argument: str) -> None:
    done = run(checkout, argument)
    assert done.returncode == 1
    assert done.stderr == f"setup: expected nothing, demo or test, got {argument}\n"
    assert not (checkout / ".env").exists()


def test_without_argument_it_writes_env_once_and_says_what_to_do_next(checkout: Path) -> None:
    done = run(checkout)
    assert done.returncode == 0, done.stderr
    env = checkout / ".env"
    assert env.read_text() == (ROOT / ".env.example").read_text()
    assert stat.S_IMODE(env.stat().st_mode) == 0o600, "it will hold secrets"
    for words in ("./setup.sh demo", "run python main.py", "run python example_usage.py +15005550006", "QUICKSTART.md"):
        assert words in done.stderr

    env.write_text("PORT=9000\n")
    again = run(checkout)
    assert again.returncode == 0, again.stderr
    assert env.read_text() == "PORT=9000\n"
    assert "wrote .env" not in again.stderr


def test_it_can_be_run_from_anywhere(checkout: Path) -> None:
    done = run(checkout / "docs", command="../setup.sh")
    assert done.returncode == 0, done.stderr
    assert (checkout / ".env").exists()


def test_a_uv_that_refuses_to_run_here_is_not_taken(checkout: Path, tmp_path: Path) -> None:
    uv = some_uv()
    if uv is None:
        pytest.skip("no uv runs on this machine")
    shims = tmp_path / "shims"
    shims.mkdir()
    (shims / "uv").write_text("#!/bin/sh\necho 'uv: command not found in 3.12' >&2\nexit 127\n")
    (shims / "uv").chmod(0o755)
    brought = checkout / ".uv-bootstrap" / "bin" / "uv"
    brought.parent.mkdir(parents=True)
    brought.symlink_to(uv)
    done = run(checkout, path=f"{shims}{os.pathsep}/usr/bin{os.pathsep}/bin")
    assert done.returncode == 0, done.stderr
    assert ".uv-bootstrap/bin/uv run python main.py" in done.stderr, "it tells the uv that works"


def test_arguments_after_test_go_to_pytest(checkout: Path) -> None:
    done = run(checkout, "test", "--version")
    assert done.returncode == 0, done.stderr
    assert re.search(r"pytest \d", done.stdout + done.stderr)


def test_the_demo_shows_a_whole_call_and_leaves_nothing_behind(checkout: Path) -> None:
    of_the_user = {"TWILIO_PHONE_NUMBER": "+442071838750", "ALLOWED_COUNTRIES": "GB"}
    done = run(checkout, "demo", SIMULATOR_SPEED="20", **of_the_user)
    assert done.returncode == 0, done.stderr + done.stdout
    assert re.search(r"^call \S+ to \+12025550106: initiated$", done.stdout, re.MULTILINE)
    assert re.search(r"^agent   \S", done.stdout, re.MULTILINE)
    assert re.search(r"^callee  \S", done.stdout, re.MULTILINE)
    assert re.search(r"^ +\^ cut off here, never heard: “.+”$", done.stdout, re.MULTILINE)
    assert re.search(r"\[turn 1: first word after [\d.]+ ms\]", done.stdout)
    assert re.search(r"^outcome: completed", done.stdout, re.MULTILINE)
    assert "the demo is over, the server has stopped" in done.stderr
    assert (checkout / "demo.db").exists()
    assert not (checkout / ".env").exists()


def test_a_demo_that_fails_says_so_and_why(checkout: Path) -> None:
    done = run(checkout, "demo", SIMULATOR_SPEED="20", DEMO_NUMBER=UNREACHABLE)
    assert done.returncode == 1, done.stderr + done.stdout
    assert "outcome: failed" in done.stdout
    assert "the demo failed with 1" in done.stderr
    assert "ready to ring" in done.stderr, "the server's log is shown"


def test_a_demo_whose_server_does_not_start_says_why(checkout: Path) -> None:
    done = run(checkout, "demo", RATE_LIMIT="often")
    assert done.returncode != 0
    assert "RATE_LIMIT: expected a rate such as 60/minute" in done.stderr


def test_the_lock_file_names_no_host_but_the_public_indexs() -> None:
    text = (ROOT / "uv.lock").read_text()
    hosts = {urlsplit(url).hostname for url in re.findall(r"https?://[^\s\"'>]+", text)}
    assert hosts == {"pypi.org", "files.pythonhosted.org"}
    assert "file://" not in text


def test_the_python_is_the_one_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = (ROOT / ".python-version").read_text().strip()
    assert wanted == "3.12"
    assert project["requires-python"] == f">={wanted}"
