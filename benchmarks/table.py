"""The result: rows of product beside floor, their ratio, and the machine they were measured on."""

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

_LIBRARIES = ("fastapi", "uvicorn", "websockets", "uvloop", "langgraph", "pydantic", "sqlalchemy", "langchain-openai")


@dataclass(frozen=True, slots=True)
class Target:
    """What has to be reached: of the product's own number, or of its ratio to the floor's."""

    most: float
    of_ratio: bool = False

    def __str__(self) -> str:
        return f"≤ {self.most:g}{'x' if self.of_ratio else ''}"


@dataclass(frozen=True, slots=True)
class Row:
    """One number of each round, for the product and for its floor."""

    name: str
    unit: str
    product: Sequence[float]
    floor: Sequence[float]
    target: Target | None = None
    compared: bool = True
    """Whether a ratio means anything."""

    @property
    def ratio(self) -> float | None:
        """Of the medians."""
        if not self.compared or not median(self.floor):
            return None
        return median(self.product) / median(self.floor)

    @property
    def ratios(self) -> list[float]:
        """Of each round."""
        if not self.compared:
            return []
        return [ours / least for ours, least in zip(self.product, self.floor, strict=True) if least]

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.target is None:
            return None
        reached = self.ratio if self.target.of_ratio else median(self.product)
        return reached is not None and reached <= self.target.most

    def cells(self) -> tuple[str, ...]:
        ratio, spread = self.ratio, self.ratios
        verdict = {None: "", True: f"{self.target} ok", False: f"{self.target} MISSED"}[self.met]
        return (
            self.name,
            self.unit,
            _number(median(self.product)),
            _number(median(self.floor)),
            "-" if ratio is None else f"{_number(ratio)}x",
            f"{_number(min(spread))}-{_number(max(spread))}" if len(spread) > 1 else "",
            verdict,
        )

    def as_json(self) -> dict[str, Any]:
        ratios = self.ratios
        return {
            "name": self.name,
            "unit": self.unit,
            "product": list(self.product),
            "floor": list(self.floor),
            "ratio": self.ratio,
            "ratio_min": min(ratios, default=None),
            "ratio_max": max(ratios, default=None),
            "target": None if self.target is None else str(self.target),
            "met": self.met,
        }


_HEAD = ("", "unit", "product", "floor", "ratio", "min-max", "target")


def lines(title: str, rows: Sequence[Row]) -> Iterable[str]:
    """A table for a terminal."""
    cells = [(title, *_HEAD[1:]), *(row.cells() for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_HEAD))]
    for index, row in enumerate(cells):
        left, right = row[:2], row[2:-1]
        text = "  ".join(
            [
                *(cell.ljust(width) for cell, width in zip(left, widths, strict=False)),
                *(cell.rjust(width) for cell, width in zip(right, widths[2:], strict=False)),
                row[-1],
            ]
        )
        yield text.rstrip()
        if index == 0:
            yield "-" * (sum(widths) + 2 * (len(widths) - 1))


def machine() -> dict[str, str]:
    """What the numbers belong to."""
    return {
        "cpu": _cpu_model(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "libraries": ", ".join(f"{name} {version(name)}" for name in _LIBRARIES if _is_installed(name)),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _cpu_model() -> str:
    rows = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    return next((row.partition(":")[2].strip() for row in rows if row.startswith("model name")), platform.machine())


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except ImportError:
        return False
    return True


def _number(value: float) -> str:
    """Three figures, and no exponent."""
    if value >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
