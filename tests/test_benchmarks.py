"""The benchmark command with numbers too small to mean anything: it runs, prints every row, leaves nothing behind."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.table import Row, Target, lines

CHECKOUT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "benchmarks", "--quick"]
WITHIN_S = 190

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and ties processes to cores")

LATENCIES = ("first frame p50", "first frame p99", "last frame p50", "last frame p99", "last frame worst")
TURNS = (
    *(f"{name}, {calls}" for calls in ("1 call", "6 calls") for name in (*LATENCIES, "CPU per turn")),
    "turns/s on one core, saturated",
    "CPU per turn, saturated",
)
TAKEOVERS = ["killed, started again", "killed, another worker takes over", "handed over to another worker"]
GAPS = ("gap least", "gap p50, about 2 calls at once", "gap p99", "gap worst", "of it the carrier's voice, p50")


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        yield process


def test_a_quick_run_prints_every_row_with_its_floor_and_their_ratio(tmp_path: Path) -> None:
    with started("turns", "memory", "model", "--json", str(tmp_path / "run.json")) as process:
        printed, progress = process.communicate(timeout=WITHIN_S)

    assert process.returncode == 0, progress
    for title, names in {
        "scripted agent": TURNS,
        "memory": ("memory per idle call, 6 calls",),
        "model path": TURNS,
    }.items():
        table = printed.partition(f"{title} ")[2].partition("\n\n")[0]
        for name in names:
            assert re.search(rf"^{re.escape(name)} .*\d\s+\d.*\dx", table, re.MULTILINE), f"{title}, {name}:\n{printed}"
    assert "≤ 6x" in printed
    assert "≤ 60" in printed
    assert "CPython 3.12" in printed
    written = json.loads((tmp_path / "run.json").read_bytes())
    products = {row["name"]: row["product"] for row in written["tables"]["scripted agent"]}
    assert products["prompts starved, 6 calls"] == [0]


def test_a_quick_run_of_takeovers_prints_every_gap_beside_its_floor(tmp_path: Path) -> None:
    with started("resume", "--json", str(tmp_path / "run.json")) as process:
        printed, progress = process.communicate(timeout=WITHIN_S)

    assert process.returncode == 0, progress
    tables = json.loads((tmp_path / "run.json").read_bytes())["tables"]
    assert list(tables) == TAKEOVERS
    for title in TAKEOVERS:
        table = printed.partition(f"{title} ")[2].partition("\n\n")[0]
        for name in GAPS:
            assert re.search(rf"^{re.escape(name)} .*\d\s+\d.*\dx", table, re.MULTILINE), f"{title}, {name}:\n{printed}"
        rows = {row["name"]: row for row in tables[title]}
        assert rows["takeovers"]["product"] >= [1]
        assert rows["calls lost"]["product"] == rows["calls lost"]["floor"] == [0]


def test_an_interrupted_run_leaves_no_process_behind() -> None:
    with started("turns") as process:
        assert process.stderr is not None
        while "warming up" not in process.stderr.readline():
            assert process.poll() is None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=WITHIN_S)

    assert process.returncode == 130
    assert len(children) >= 3
    assert [child for child in children if Path(f"/proc/{child}").exists()] == []


def test_a_part_that_does_not_exist_is_named() -> None:
    with started("latency") as process:
        _, complaint = process.communicate(timeout=WITHIN_S)

    assert process.returncode == 2
    assert "unknown part latency: expected turns, memory, model, resume" in complaint


@pytest.mark.parametrize(
    ("target", "verdict"),
    [(Target(6, of_ratio=True), "≤ 6x ok"), (Target(4, of_ratio=True), "≤ 4x MISSED"), (Target(9), "≤ 9 MISSED")],
)
def test_a_row_is_judged_by_its_medians(target: Target, verdict: str) -> None:
    row = Row("CPU per turn", "ms", product=[10.0, 11.0, 30.0], floor=[2.0, 2.2, 2.4], target=target)

    *_, printed = lines("scripted agent", [row])

    assert printed.split()[:6] == ["CPU", "per", "turn", "ms", "11", "2.20"]
    assert printed.endswith(verdict)
