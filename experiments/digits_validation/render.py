"""Write the tables and pictures of `digits_validation.md` from the accuracies that stand beside this file.

    python experiments/digits_validation/render.py studies   # takes the accuracies from the studies first
    python experiments/digits_validation/render.py

Replaces what stands between the note's markers, `<!-- table: NAME -->` and `<!-- end of table -->`.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import altair as alt
import pandas as pd

from myosotis.ledger import find_study, read_study
from myosotis.report import t_interval
from myosotis.report.pictures import Picture, write_files

HERE = Path(__file__).parent
NOTE = HERE.with_suffix(".md")
ACCURACIES = HERE / "accuracies.csv"
MARKED = re.compile(r"(<!-- table: (?P<name>\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)

PROTOCOLS = ("split", "permuted")
STUDIES = (
    *("digits_split", "digits_permuted", "digits_ewc"),
    *("digits_split_strengths", "digits_permuted_strengths"),
)
SCENARIOS = ("task", "domain", "class")
HSU: Mapping[str, tuple[float, float, float]] = {
    "naive": (93.5, 55.2, 19.7),
    "joint": (99.5, 98.6, 97.5),
    "l2": (98.2, 66.0, 22.5),
    "ewc": (97.7, 58.9, 19.8),
    "lwf": (99.6, 71.0, 24.2),
    "replay": (99.4, 95.2, 90.8),
}
"""Split MNIST in the three scenarios: Hsu et al. 2018, arXiv:1810.12488, Table 2."""


class Bar(NamedTuple):
    """What the difference of an arm and `naive` must lie within, in points."""

    says: str
    scenario: str
    arm: str
    low: float
    high: float


BARS = (
    Bar("class-incremental: EWC within 10 points of naive", "class", "ewc", -10, 10),
    Bar("class-incremental: L2 within 10 points of naive", "class", "l2", -10, 10),
    Bar("class-incremental: replay at least 30 points above naive", "class", "replay", 30, math.inf),
    Bar("task-incremental: EWC above naive", "task", "ewc", 0, math.inf),
    Bar("task-incremental: LwF above naive", "task", "lwf", 0, math.inf),
)


# Accuracies


def collected(studies: Path, names: Sequence[str] = STUDIES) -> pd.DataFrame:
    """Give every trial's accuracy after its last stage, the mean over the tasks, in percent."""
    parts = []
    for name in names:
        record = read_study(find_study(name, studies))
        scores = record.scores[record.scores["metric"] == "accuracy"]
        last = scores[scores["stage"] == scores.groupby("trial")["stage"].transform("max")]
        swept = record.trials["swept"]
        part = record.trials[["arm", "seed", "seconds"]].assign(
            study=name,
            scenario=[each["digits.scenario"] for each in swept],
            strength=[_strength(each) for each in swept],
            accuracy=100 * record.trials["trial"].map(last.groupby("trial")["value"].mean()),
        )
        parts.append(part)
    columns = ["study", "scenario", "arm", "strength", "seed", "accuracy", "seconds"]
    return pd.concat(parts)[columns].round({"accuracy": 4, "seconds": 2})


def _strength(swept: Mapping[str, float]) -> float:
    return next((value for key, value in swept.items() if key.endswith(".strength")), math.nan)


def of(trials: pd.DataFrame, **chosen: object) -> pd.DataFrame:
    """Give the trials that have the chosen values."""
    for column, value in chosen.items():
        trials = trials[trials[column] == value]
    return trials


def by_seed(trials: pd.DataFrame, **chosen: object) -> pd.Series:
    """Give the accuracies of the trials that have the chosen values, by seed."""
    return of(trials, **chosen).set_index("seed")["accuracy"].sort_index()


def strengths(trials: pd.DataFrame, protocol: str) -> dict[str, dict[str, float]]:
    """Choose each arm's strength in each scenario: the best on the development seeds, of equals the weakest."""
    swept = of(trials, study=f"digits_{protocol}_strengths").dropna(subset="strength")
    means = swept.groupby(["scenario", "arm", "strength"])["accuracy"].mean().round(4)
    arms = swept["arm"].unique()
    return {scenario: {arm: means[scenario, arm].idxmax() for arm in arms} for scenario in SCENARIOS}


# Tables


def rendered(note: str, trials: pd.DataFrame) -> str:
    """Give the note with its tables made anew."""
    return MARKED.sub(
        lambda match: match[1] + "\n".join(TABLES[match["name"]](trials)) + "\n" + match[3], note
    )


def split_table(trials: pd.DataFrame) -> Iterator[str]:
    """Arms in the three scenarios, beside the figures of split MNIST."""
    yield "| arm | task | domain | class | Hsu et al.: task | domain | class |"
    yield "|---|---|---|---|---|---|---|"
    own = of(trials, study="digits_split")
    for arm in own["arm"].unique():
        theirs = [f"{value:.1f}" for value in HSU[arm]] if arm in HSU else ["–"] * len(SCENARIOS)
        yield f"| {arm} | " + " | ".join([*_in_scenarios(own, arm=arm), *theirs]) + " |"


def permuted_table(trials: pd.DataFrame) -> Iterator[str]:
    """Arms in the three scenarios."""
    yield "| arm | task | domain | class |"
    yield "|---|---|---|---|"
    own = of(trials, study="digits_permuted")
    for arm in own["arm"].unique():
        yield f"| {arm} | " + " | ".join(_in_scenarios(own, arm=arm)) + " |"


def ewc_table(trials: pd.DataFrame) -> Iterator[str]:
    """Accuracy in the three scenarios, by strength."""
    yield "| strength of EWC | task | domain | class |"
    yield "|---|---|---|---|"
    own = of(trials, study="digits_ewc")
    for strength in sorted(own["strength"].unique()):
        yield f"| {strength:,.0f} | " + " | ".join(_in_scenarios(own, strength=strength)) + " |"


def strength_table(trials: pd.DataFrame) -> Iterator[str]:
    """The strengths that were chosen."""
    yield "| tasks | arm | task | domain | class |"
    yield "|---|---|---|---|---|"
    for protocol in PROTOCOLS:
        chosen = strengths(trials, protocol)
        for arm in chosen["task"]:
            values = " | ".join(f"{chosen[scenario][arm]:g}" for scenario in SCENARIOS)
            yield f"| {protocol} | {arm} | {values} |"


def bar_table(trials: pd.DataFrame) -> Iterator[str]:
    """Say of each bar whether the whole interval of the difference lies where it must."""
    yield "| bar | difference, paired by seed | |"
    yield "|---|---|---|"
    own = of(trials, study="digits_split")
    for bar in BARS:
        naive = by_seed(own, scenario=bar.scenario, arm="naive")
        yield verdict(bar.says, by_seed(own, scenario=bar.scenario, arm=bar.arm) - naive, bar.low, bar.high)
    swept = of(trials, study="digits_ewc", scenario="task")
    chosen = strengths(trials, "split")["task"]["ewc"]
    for end in (swept["strength"].min(), swept["strength"].max()):
        says = f"task-incremental: EWC at the strength {chosen:,.0f} above EWC at {end:,.0f}"
        yield verdict(says, by_seed(swept, strength=chosen) - by_seed(swept, strength=end), 0, math.inf)


def verdict(says: str, difference: pd.Series, least: float, most: float) -> str:
    """Give the row of a bar."""
    _, low, high = t_interval(difference.to_numpy())
    holds = "holds" if least < low and high < most else "does not hold"
    return f"| {says} | {_interval(difference, sign='+')} | {holds} |"


def _in_scenarios(trials: pd.DataFrame, **chosen: object) -> list[str]:
    return [_interval(by_seed(trials, scenario=scenario, **chosen)) for scenario in SCENARIOS]


def _interval(values: pd.Series, sign: str = "") -> str:
    mean, low, high = t_interval(values.to_numpy())
    return f"{mean:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


TABLES: Mapping[str, Callable[[pd.DataFrame], Iterator[str]]] = {
    "bars": bar_table,
    "split": split_table,
    "permuted": permuted_table,
    "ewc": ewc_table,
    "strengths": strength_table,
}


# Pictures

OURS, THEIRS = "#3f78b5", "#d9692f"


def intervals(trials: pd.DataFrame, column: str) -> pd.DataFrame:
    """Give one row a value of a column: the mean and its interval over seeds."""
    rows = [
        {column: value, **t_interval(group["accuracy"].to_numpy())._asdict()}
        for value, group in trials.groupby(column, sort=False)
    ]
    return pd.DataFrame(rows)


def scenario_chart(trials: pd.DataFrame, scenario: str) -> alt.LayerChart:
    """Draw the arms' means and intervals, and Hsu et al.'s figures as rings."""
    frame = intervals(of(trials, scenario=scenario), "arm")
    frame["hsu"] = [HSU[arm][SCENARIOS.index(scenario)] if arm in HSU else math.nan for arm in frame["arm"]]
    accuracy = {"title": "accuracy (%)", "scale": alt.Scale(domain=[90 if scenario == "task" else 0, 100])}
    base = alt.Chart(frame, title=f"{scenario}-incremental").encode(y=alt.Y("arm:N", sort=None, title=None))
    rule = base.mark_rule(color=OURS, strokeWidth=2).encode(x=alt.X("low:Q", **accuracy), x2="high:Q")
    mean = base.mark_point(color=OURS, filled=True, size=60, opacity=1).encode(x=alt.X("mean:Q", **accuracy))
    ring = base.mark_point(color=THEIRS, size=110).encode(x=alt.X("hsu:Q", **accuracy))
    return (rule + mean + ring).properties(width=220, height=230)


def ewc_chart(trials: pd.DataFrame, scenario: str) -> alt.LayerChart:
    """Draw the accuracy by EWC's strength."""
    accuracy = {"title": "accuracy (%)", "scale": alt.Scale(zero=False)}
    axis = alt.Axis(format="~e", values=[10**power for power in range(7)], labelFlush=False)
    strength = alt.X("strength:Q", scale=alt.Scale(type="log"), axis=axis)
    base = alt.Chart(intervals(of(trials, scenario=scenario), "strength"), title=f"{scenario}-incremental")
    line = base.mark_line(color=OURS, point={"color": OURS}).encode(strength, alt.Y("mean:Q", **accuracy))
    rule = base.mark_rule(color=OURS, strokeWidth=2).encode(strength, alt.Y("low:Q", **accuracy), y2="high:Q")
    return (rule + line).properties(width=220, height=200)


def draw(trials: pd.DataFrame) -> None:
    """Write the note's pictures beside it."""
    arms = [scenario_chart(of(trials, study="digits_split"), scenario) for scenario in SCENARIOS]
    swept = [ewc_chart(of(trials, study="digits_ewc"), scenario) for scenario in SCENARIOS]
    for name, charts in ((NOTE.stem, arms), (f"{NOTE.stem}_ewc", swept)):
        write_files(Picture(name, "scores", "", charts), NOTE.parent)
        (NOTE.parent / f"{name}.png").unlink()


def main() -> None:
    if len(sys.argv) > 1:
        collected(Path(sys.argv[1])).to_csv(ACCURACIES, index=False)
    trials = pd.read_csv(ACCURACIES)
    NOTE.write_text(rendered(NOTE.read_text(encoding="utf-8"), trials), encoding="utf-8")
    draw(trials)


if __name__ == "__main__":
    main()
