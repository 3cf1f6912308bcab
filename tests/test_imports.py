"""Importing any module with an empty environment does nothing but define things.

A test, a shell or a tool may import anything at any time; what works at import cannot be configured or undone.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent

WATCH = """
import gc, json, os, socket, sys, threading
deeds, module = [], ""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
DEEDS = {
    "os.mkdir", "os.remove", "os.rename", "os.putenv", "os.unsetenv", "os.chdir", "os.fork", "os.system",
    "socket.connect", "socket.sendto", "socket.getaddrinfo", "sqlite3.connect", "subprocess.Popen", "signal.signal",
    "_thread.start_new_thread", "_thread.start_joinable_thread",
}
def watch(event, details):
    if event == "open" and (details[2] & WRITING or str(details[0]).endswith(".env")):
        deeds.append((module, "open", str(details[0])))
    elif event in DEEDS:
        deeds.append((module, event, repr(details)))
sys.addaudithook(watch)
environment = dict(os.environ)
for module in json.loads(sys.argv[1]):
    __import__(module)
module = "all of them"
if dict(os.environ) != environment:
    deeds.append((module, "environment", ""))
if threading.active_count() > 1:
    deeds.append((module, "threads", str(threading.enumerate())))
if kept := [each for each in gc.get_objects() if isinstance(each, socket.socket) and each.fileno() >= 0]:
    deeds.append((module, "sockets", str(kept)))
found = json.dumps(deeds)
open(sys.argv[2], "w").write(found)
"""

LAZY = """
import main
assert "app" not in vars(main)
app = main.app
assert type(app).__name__ == "FastAPI"
assert main.app is app
assert not hasattr(main, "application")
assert not hasattr(app.state, "house"), "nothing is opened before it serves"
"""


def modules() -> list[str]:
    """Every module of the project but its tests, and the migrations, which a migration tool runs as scripts."""
    files = [*ROOT.glob("*.py"), *(ROOT / "outbound").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    named = (file.relative_to(ROOT).with_suffix("").parts for file in files)
    return sorted(".".join(parts).removesuffix(".__init__") for parts in named if "migrations" not in parts)


def run(code: str, *arguments: str, cwd: Path, **environment: str) -> Any:
    """Runs Python code in an environment that has nothing but what is given."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_modules_are_found() -> None:
    assert {"main", "agents", "config", "example_usage", "outbound.web.api", "outbound.simulator"} <= set(modules())


def test_importing_does_nothing_but_define_things(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    report = tmp_path / "deeds.json"
    done = run(WATCH, json.dumps(modules()), str(report), cwd=here)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert json.loads(report.read_text()) == []
    assert list(here.iterdir()) == []


def test_the_watcher_sees_what_it_watches_for(tmp_path: Path) -> None:
    report = tmp_path / "deeds.json"
    (tmp_path / "busy.py").write_text(
        "import os, threading\nopen('made', 'w').close()\nt = threading.Thread(target=print)\nt.start()\nt.join()\n"
        "os.environ['X'] = '1'\n"
    )
    done = run(WATCH, '["busy"]', str(report), cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert {deed for _, deed, _ in json.loads(report.read_text())} >= {
        "open",
        "_thread.start_new_thread",
        "environment",
    }


def test_the_application_is_made_when_it_is_asked_for(tmp_path: Path) -> None:
    done = run(LAZY, cwd=tmp_path, CARRIER="simulator", DATABASE_URL=f"sqlite:///{tmp_path / 'calls.db'}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []
