"""The parts of a run: what is measured, in which order, and what it is compared with."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from benchmarks.load import Round, people, recorded, saturation
from benchmarks.servers import Pair, Starter
from benchmarks.table import Row, Target

type Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """So many live calls, on each of which somebody speaks about every so many seconds."""

    calls: int
    every_s: float
    seconds: float
    """How long a round is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured."""

    rounds: int
    scripted: Sequence[Level]
    """The most calls first: they are opened once and hung up by and by."""
    model: Sequence[Level]
    idle_calls: int
    settle_s: float
    """Until the journal has written what came with the last frames, and buffers are let go."""
    saturation_s: float
    in_flight: int
    warm_up_calls: int
    warm_up_s: float
    recorded_turns: int
    takeover_calls: int
    """On each worker."""
    takeover_rounds: int
    deadline_s: float


FULL = Plan(
    rounds=3,
    scripted=(
        Level(calls=500, every_s=5, seconds=6),
        Level(calls=100, every_s=5, seconds=5),
        Level(calls=1, every_s=0.4, seconds=5),
    ),
    # A provider's client costs many times what the scripted agent does: fewer turns are life, not saturation.
    model=(
        Level(calls=500, every_s=20, seconds=5),
        Level(calls=100, every_s=5, seconds=5),
        Level(calls=1, every_s=0.4, seconds=5),
    ),
    idle_calls=500,
    settle_s=1.5,
    saturation_s=3,
    in_flight=32,
    warm_up_calls=50,
    warm_up_s=2,
    recorded_turns=16,
    takeover_calls=40,
    takeover_rounds=4,
    deadline_s=900,
)
QUICK = Plan(
    rounds=2,
    scripted=(Level(calls=6, every_s=0.4, seconds=0.1), Level(calls=1, every_s=0.3, seconds=0.1)),
    model=(Level(calls=6, every_s=0.4, seconds=0.1), Level(calls=1, every_s=0.3, seconds=0.1)),
    idle_calls=6,
    settle_s=0.1,
    saturation_s=0.1,
    in_flight=4,
    warm_up_calls=2,
    warm_up_s=0.05,
    recorded_turns=2,
    takeover_calls=2,
    takeover_rounds=1,
    deadline_s=180,
)


async def scripted(plan: Plan, starter: Starter, parts: frozenset[str], say: Progress) -> tuple[list[Row], list[Row]]:
    """The scripted agent beside a socket that streams the same frames. Returns the rows of turns and of memory."""
    turns: list[Row] = []
    memory: list[Row] = []
    say("scripted agent: starting, recording its replies")
    async with starter.product("scripted") as product:
        line = await product.open_call()
        replies = await recorded(line, plan.recorded_turns, product.prompts_apart_s)
        await product.close_call(line)
        async with starter.replies_floor(replies) as floor:
            pair = Pair(product, floor)
            await _warm_up(plan, pair, say)
            if "memory" in parts:
                memory = [await _idle_memory(plan, pair, say)]
            if "turns" in parts:
                turns = await _turns(plan, plan.scripted, pair, say, Target(6, of_ratio=True))
            await pair.hold(0)
    return turns, memory


async def model(plan: Plan, starter: Starter, say: Progress) -> list[Row]:
    """The product with a model's server beside a socket that relays the same server by hand; no targets."""
    if find_spec("langchain_openai") is None:
        say("model path: left out, its client is not installed (uv sync --extra openai)")
        return []
    say("model path: starting")
    async with starter.product("model", "openai:standin") as product, starter.model_floor() as floor:
        pair = Pair(product, floor)
        await _warm_up(plan, pair, say)
        rows = await _turns(plan, plan.model, pair, say)
        await pair.hold(0)
    return rows


async def _warm_up(plan: Plan, pair: Pair, say: Progress) -> None:
    """What only the first calls cost is not counted."""
    say(f"warming up with {plan.warm_up_calls} calls")
    await pair.hold(plan.warm_up_calls)
    for name, server in pair.sides:
        await saturation(server, pair.calls[name], in_flight=plan.in_flight, seconds=plan.warm_up_s)
    await pair.hold(0)


async def _idle_memory(plan: Plan, pair: Pair, say: Progress) -> Row:
    say(f"opening {plan.idle_calls} calls that stay silent")
    await asyncio.sleep(plan.settle_s)
    before = [server.process.resident_kib() for _, server in pair.sides]
    await pair.hold(plan.idle_calls)
    await asyncio.sleep(plan.settle_s)
    after = [server.process.resident_kib() for _, server in pair.sides]
    product, floor = ((now - then) / plan.idle_calls for now, then in zip(after, before, strict=True))
    return Row(f"memory per idle call, {plan.idle_calls} calls", "KiB", [product], [floor], Target(60))


async def _turns(
    plan: Plan, levels: Sequence[Level], pair: Pair, say: Progress, cpu_target: Target | None = None
) -> list[Row]:
    rows: list[Row] = []
    for index, level in enumerate(levels):
        say(f"{_calls(level.calls)}, each asked every {level.every_s:g} s")
        rounds: dict[str, list[Round]] = {"product": [], "floor": []}
        for _ in range(plan.rounds):
            if level.calls == 1:
                await pair.hold(0)  # a call of its own for every round, or it would grow long
            await pair.hold(level.calls)
            for name, server in pair.sides:
                rounds[name].append(
                    await people(server, pair.calls[name], every_s=level.every_s, seconds=level.seconds)
                )
        rows = [*_people(level, rounds, cpu_target), *rows]
        if index == 0:
            rows += await _saturated(plan, pair, say)
        line = pair.calls["product"][0]
        await pair.product.check(line, line.asked)
    return rows


async def _saturated(plan: Plan, pair: Pair, say: Progress) -> list[Row]:
    say(f"saturation: {plan.in_flight} turns in flight, one after another")
    rounds: dict[str, list[Round]] = {"product": [], "floor": []}
    for _ in range(plan.rounds):
        for name, server in pair.sides:
            lines = pair.calls[name]
            rounds[name].append(await saturation(server, lines, in_flight=plan.in_flight, seconds=plan.saturation_s))
    return [
        _row("turns/s on one core, saturated", "1/s", rounds, lambda each: each.turns_per_s),
        _row("core busy, saturated", "%", rounds, lambda each: each.busy_percent, compared=False),
        _row("CPU per turn, saturated", "ms", rounds, lambda each: each.cpu_ms_per_turn),
    ]


def _people(level: Level, rounds: dict[str, list[Round]], cpu_target: Target | None) -> list[Row]:
    at = _calls(level.calls)
    rate = f"{level.calls / level.every_s:.3g} turns/s"
    none_starves = Target(0) if cpu_target is not None else None
    return [
        _row(f"first frame p50, {at} ({rate})", "ms", rounds, lambda each: each.first_ms(50)),
        _row(f"first frame p99, {at}", "ms", rounds, lambda each: each.first_ms(99)),
        _row(f"last frame p50, {at}", "ms", rounds, lambda each: each.last_ms(50)),
        _row(f"last frame p99, {at}", "ms", rounds, lambda each: each.last_ms(99)),
        _row(f"last frame worst, {at}", "ms", rounds, lambda each: each.last_ms(100), over_all=max),
        _row(f"CPU per turn, {at}", "ms", rounds, lambda each: each.cpu_ms_per_turn, cpu_target),
        _row(f"prompts, {at}", "", rounds, lambda each: len(each.turns) + each.starved, compared=False, over_all=sum),
        _row(
            f"prompts starved, {at}", "", rounds, lambda each: each.starved, none_starves, compared=False, over_all=sum
        ),
    ]


def _row(
    name: str,
    unit: str,
    rounds: dict[str, list[Round]],
    number: Callable[[Round], float],
    target: Target | None = None,
    *,
    compared: bool = True,
    over_all: Callable[[Iterable[float]], float] | None = None,
) -> Row:
    """A number of each round, or one over all of them where a median would hide what matters."""
    product, floor = ([number(each) for each in rounds[side]] for side in ("product", "floor"))
    if over_all is not None:
        product, floor = [over_all(product)], [over_all(floor)]
    return Row(name, unit, product, floor, target, compared)


def _calls(count: int) -> str:
    return "1 call" if count == 1 else f"{count} calls"
