"""The floors of the house, as the code stands: imports point down, and each outside library has one owner.

A floor that is only a sentence in a document is gone after three busy weeks. The floors are what lets the talk be
tested without a loop, the carrier be replaced by one module, and a newcomer know where to look.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FLOORS: list[set[str]] = [
    {
        "outbound.relay",
        "outbound.calls",
        "outbound.heard",
        "outbound.recall",
        "outbound.conversation",
        "outbound.script",
        "outbound.speakable",
        "outbound.policy",
    },
    {"outbound.ports"},
    {"outbound.session", "outbound.dialer"},
    {
        "agents",
        "config",
        "outbound.web",
        "outbound.carriers",
        "outbound.store",
        "outbound.simulator",
        "outbound.logs",
        "outbound.workers",
    },
    {"main"},
]
"""From the ground up: words, questions, deeds, edges, doors."""

EDGES = FLOORS[3]
STRANGERS = {"example_usage"}
"""They use the product from outside and import nothing of it."""

OWNERS: dict[str, set[str]] = {
    "fastapi": {"outbound.web", "main"},
    "starlette": {"outbound.web", "outbound.simulator"},
    "uvicorn": {"main", "outbound.simulator"},
    "twilio": {"outbound.carriers"},
    "httpx": {"outbound.carriers", "outbound.simulator", "example_usage"},
    "websockets": {"outbound.simulator"},
    "sqlalchemy": {"outbound.store"},
    "alembic": {"outbound.store"},
    "langgraph": {"agents"},
    "langchain_core": {"agents"},
    "pydantic_settings": {"config"},
    "limits": {"outbound.web"},
    "phonenumbers": {"outbound.policy", "outbound.simulator"},
    "pydantic": {"outbound.relay", "outbound.web", "config", "agents"},
}

WORDS_DO_NOT = {"asyncio", "time", "threading", "socket", "random", "logging", "structlog", "os"}
"""The words neither wait nor look at a clock, a network or the environment."""


def modules() -> Iterator[tuple[str, ast.Module]]:
    files = [*ROOT.glob("*.py"), *(ROOT / "outbound").rglob("*.py")]
    for file in files:
        parts = file.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield name, ast.parse(file.read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that a search for a module's name finds its users"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(module: str) -> str | None:
    """The room a module of ours stands in; None for a module of others."""
    rooms = {room for floor in FLOORS for room in floor} | STRANGERS
    return next((room for room in rooms if module == room or module.startswith(f"{room}.")), None)


def floor_of(room: str) -> int:
    return next(index for index, floor in enumerate(FLOORS) if room in floor)


ALL = [(name, tree) for name, tree in modules() if name != "outbound"]


@pytest.mark.parametrize(("module", "tree"), ALL, ids=[name for name, _ in ALL])
def test_every_module_stands_in_a_room_and_imports_downwards(module: str, tree: ast.Module) -> None:
    room = room_of(module)
    assert room is not None, f"{module} stands in no room: give it a floor here"

    for imported in imports(tree):
        below = room_of(imported)
        if below is None or below == room:
            continue
        assert room not in STRANGERS, f"{module} is a stranger's program and imports {imported}"
        assert floor_of(below) <= floor_of(room), f"{module} imports {imported}, which stands above it"
        assert not (room in EDGES and below in EDGES), f"{module} imports {imported}: edges never import each other"
        assert below not in ("agents", "config") or room == "main", f"only main imports {below}, not {module}"


@pytest.mark.parametrize(("module", "tree"), ALL, ids=[name for name, _ in ALL])
def test_every_outside_library_is_imported_by_its_owner_only(module: str, tree: ast.Module) -> None:
    room = room_of(module)

    for imported in imports(tree):
        owners = OWNERS.get(imported.partition(".")[0])
        assert owners is None or room in owners, f"{module} imports {imported}, which belongs to {owners}"


@pytest.mark.parametrize(("module", "tree"), ALL, ids=[name for name, _ in ALL])
def test_words_do_not_wait(module: str, tree: ast.Module) -> None:
    if room_of(module) not in FLOORS[0]:
        return
    assert not {name.partition(".")[0] for name in imports(tree)} & WORDS_DO_NOT
    assert not any(isinstance(node, ast.AsyncFunctionDef | ast.Await) for node in ast.walk(tree))


@pytest.mark.parametrize(("module", "tree"), ALL, ids=[name for name, _ in ALL])
def test_only_config_reads_the_environment(module: str, tree: ast.Module) -> None:
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    # The simulator's terminal hands its own environment on to the server it starts.
    if module != "outbound.simulator.__main__":
        assert not names & {"environ", "getenv"}
