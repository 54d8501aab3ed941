"""A study made up on the spot, with everything that a report can show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from myosotis.ledger import SCORE_COLUMNS, VARIANT_COLUMNS, StudyRecord

TASKS = ("plays", "letters", "laws")
PROBE = "encyclopedia"
STEPS = 40
EVERY = 10


def simulated(
    folder: Path,
    arms: tuple[str, ...] = ("full", "lora"),
    ranks: tuple[int, ...] = (4, 16, 64),
    rates: tuple[float, ...] = (1e-4, 1e-3),
    seeds: int = 3,
) -> StudyRecord:
    """Three tasks in a row and a probe, scored within stages; larger ranks learn and forget more, `full` most.

    Every stage begins with a dip of the earlier tasks. `lora` has variants between the base and what was trained,
    and its training losses still fall.
    """
    draw = np.random.default_rng(0)
    trials, scores, variants = [], [], []
    for number, (arm, rank, rate, seed) in enumerate(product(arms, ranks, rates, range(seeds))):
        identity = f"{number:012x}"
        swept = {"method.lora.rank": rank, "optimizer.learning_rate": rate}
        name = {
            "trial": identity,
            "arm": arm,
            "overrides": _text(swept),
            "seed": seed,
            "order": " ".join(TASKS),
        }
        strength = 0.1 * np.log2(rank) + (0.2 if arm == "full" else 0.0) + (0.05 if rate > 5e-4 else 0.0)
        table = list(_scores(strength, draw.normal(0, 0.02)))
        scores += [{**name, **each} for each in table]
        variants += [each for each in _variants(name, table) if arm == "lora"]
        trials.append(_trial(name, swept, table, rank))
        run = folder / identity
        run.mkdir(parents=True)
        (run / "metrics.jsonl").write_text("".join(_log(draw, falls=arm == "lora")), encoding="utf-8")
    columns = [(task, "task", "accuracy", True) for task in TASKS] + [(PROBE, "probe", "accuracy", True)]
    return StudyRecord(
        folder.name,
        folder,
        pd.DataFrame(scores, columns=list(SCORE_COLUMNS)),
        pd.DataFrame(trials),
        pd.DataFrame(columns, columns=["task", "role", "metric", "higher_is_better"]),
        pd.DataFrame(variants, columns=list(VARIANT_COLUMNS)),
    )


def _text(swept: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in swept.items())


def _scores(strength: float, chance: float) -> Iterator[dict[str, Any]]:
    """Each task rises to its best as it is trained, dips as each later stage begins, and ends it lower."""
    for stage, step in [(0, 0), *product(range(1, len(TASKS) + 1), range(EVERY, STEPS + 1, EVERY))]:
        for place, task in enumerate((*TASKS, PROBE), start=1):
            since = stage - place if task != PROBE else stage
            value = 0.3
            if task != PROBE and since == 0:
                value += strength * step / STEPS
            if since > 0:
                value += (0.0 if task == PROBE else strength) - 0.08 * strength * (since - 1 + step / STEPS)
                value -= 0.1 * strength if step == EVERY else 0.0
            if stage > 0:
                value += chance
            yield _score(stage, step, task, value)


def _score(stage: int, step: int, task: str, value: float) -> dict[str, Any]:
    return {
        "stage": stage,
        "step": step,
        "task": task,
        "split": "test",
        "metric": "accuracy",
        "value": value,
        "n": 200,
        "low": value - 0.05,
        "high": value + 0.05,
        "settings": "",
    }


def _variants(name: dict[str, Any], table: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Models between the base and the trained one, on a bent path."""
    base = {each["task"]: each["value"] for each in table if each["stage"] == 0}
    end = {each["task"]: each["value"] for each in table}
    for alpha, task in product((0.25, 0.5, 0.75), end):
        share = alpha**2 if task == PROBE else alpha**0.5
        value = base[task] + share * (end[task] - base[task])
        yield {**name, **_score(len(TASKS), STEPS, task, value), "variant": f"between alpha={alpha}"}


def _trial(
    name: dict[str, Any], swept: dict[str, Any], table: list[dict[str, Any]], rank: int
) -> dict[str, Any]:
    matrix = {(each["stage"], each["task"]): each["value"] for each in table}
    last = len(TASKS)
    trained = dict(zip(TASKS, range(1, last + 1), strict=True))
    learned = np.mean([matrix[stage, task] - matrix[0, task] for task, stage in trained.items()])
    lost = [matrix[stage, task] - matrix[last, task] for task, stage in trained.items() if stage < last]
    return {
        **name,
        "configuration": f"{name['arm']} {name['overrides']}",
        "status": "finished",
        "error": None,
        "learned": float(learned),
        "forgotten": float(np.mean(lost)),
        "forgotten_base": matrix[0, PROBE] - matrix[last, PROBE],
        "metric": "accuracy",
        "trainable_parameters": 1e6 if name["arm"] == "full" else 1e3 * rank,
        "total_parameters": 1e6,
        "seconds": 20.0 + rank / 4,
        "tokens": 1e5,
        "peak_memory_bytes": 1e9 + 1e6 * rank,
        "kept_bytes": 1e5 * rank,
        "swept": swept,
        "last_trained": trained | {PROBE: 0},
        "folder": name["trial"],
    }


def _log(draw: np.random.Generator, *, falls: bool) -> Iterator[str]:
    for stage in range(1, len(TASKS) + 1):
        for step in range(1, STEPS + 1):
            loss = 3.0 - (0.02 * step if falls else 0.0) + draw.normal(0, 0.01)
            yield json.dumps({"stage": stage, "step": step, "loss": loss}) + "\n"
