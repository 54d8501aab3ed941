"""Write the tables and pictures of the recipes' notes from the scores that stand beside them.

    myosotis results few_data --format csv > experiments/recipes/few_data.csv
    python experiments/recipes/render.py experiments/recipes/few_data.md

Replaces what stands between a note's markers: `<!-- scores: accuracy 0.501 -->` and `<!-- end of table -->`.
The first names the metric (two as `accuracy|exact_match`, where arms differ in theirs), and what chance or a
rule without a model gives, where that is better than the base. With `over tasks` at its end, a row is of a
trial's mean over its tasks; the base's interval is then the mean of theirs, which is too wide.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from myosotis.report import t_interval
from myosotis.report.pictures import Picture, write_files

MARKED = re.compile(
    r"(<!-- scores: (?P<metric>[\w|]+)(?: (?P<rule>[\d.]+))?(?P<over> over tasks)? -->\n)"
    r".*?(?P<end><!-- end of table -->)",
    re.DOTALL,
)


def rendered(note: str, scores: pd.DataFrame) -> str:
    """Give the note with its tables made anew."""
    return MARKED.sub(
        lambda match: (
            match[1]
            + "\n".join(table(summary(chosen(scores, match)), float(match["rule"] or "nan")))
            + "\n"
            + match["end"]
        ),
        note,
    )


def chosen(scores: pd.DataFrame, marker: re.Match[str]) -> pd.DataFrame:
    """Give the scores that a marker names."""
    own = scores[scores["metric"].isin(marker["metric"].split("|"))].astype(
        {"arm": object, "overrides": object}
    )
    own = own.fillna({"arm": "", "overrides": ""}).assign(order=orders(own))
    if marker["over"] is None:
        return own
    keys = ["trial", "arm", "overrides", "order", "stage", "step"]
    means = own.groupby(keys, sort=False, as_index=False)[["value", "low", "high"]].mean()
    return means.assign(task="mean over tasks", n=own.groupby(keys)["n"].sum().iloc[0])


def orders(scores: pd.DataFrame) -> pd.Series[str]:
    """Name each row's order of tasks by its first one, in arms that have several orders."""
    if "order" not in scores:
        return pd.Series("", index=scores.index)
    several = scores.groupby("arm", dropna=False)["order"].transform("nunique") > 1
    return (scores["order"].str.split().str[0] + " first").where(several, "")


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Give one row a configuration, order and task: the base's score, and what the seeds end with.

    `base_low` and `base_high` are the base's bootstrap interval, `low` and `high` the t-interval over seeds.
    """
    rows = []
    keys = ["arm", "overrides", "order", "task"]
    for (arm, overrides, order, task), each in scores.groupby(keys, sort=False):
        ordered = each.sort_values(["stage", "step"])
        trials = ordered.groupby("trial", sort=False)
        base, end = trials.first(), trials.last()
        mean, low, high = t_interval(end["value"].to_numpy())
        rows.append(
            {
                "configuration": " · ".join(filter(None, [str(arm), short(str(overrides)), str(order)])),
                "task": task,
                "n": int(end["n"].iloc[0]),
                "base": base["value"].mean(),
                "base_low": base["low"].mean(),
                "base_high": base["high"].mean(),
                "tuned": mean,
                "low": low,
                "high": high,
                "seeds": len(end),
            }
        )
    return pd.DataFrame(rows)


def short(overrides: str) -> str:
    """Leave of each override the last part of its key."""
    return re.sub(r"[\w.]+\.(\w+=)", r"\1", overrides)


def table(rows: pd.DataFrame, rule: float) -> Iterator[str]:
    """Say what was there before and after, and whether their intervals are apart."""
    yield "| configuration | task | n | base | tuned | seeds | against base and rule |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows.to_dict("records"):
        base = f"{row['base']:.3f} [{row['base_low']:.3f}, {row['base_high']:.3f}]"
        tuned = f"{row['tuned']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        name = row["configuration"] or "default"
        yield (
            f"| {name} | {row['task']} | {row['n']:,} | {base} | {tuned} | {row['seeds']} | {apart(row, rule)} |"
        )


def apart(row: Mapping[Any, float], rule: float) -> str:
    """Tell whether the tuned score's interval is beyond the base's, and the rule's score where there is one."""
    highest = row["base_high"] if math.isnan(rule) else max(row["base_high"], rule)
    if row["low"] > highest:
        return "higher"
    return "lower" if row["high"] < row["base_low"] else "not apart"


def picture(rows: pd.DataFrame, metric: str, note: Path) -> None:
    """Draw what the seeds end with, its interval and the base's score beside the note."""
    room = 7 * max(
        map(len, rows["configuration"])
    )  # the reader's letters are wider than those that are measured
    base = alt.Chart(rows, width=460, height={"step": 24}).encode(
        y=alt.Y("configuration:N", title=None, sort=None, axis=alt.Axis(labelLimit=260, minExtent=room)),
        yOffset="task:N",
        color=alt.Color("task:N", title=None),
    )
    title = f"{metric.replace('_', ' ').replace('|', ' or ')}, base (line) and tuned"
    score = alt.X("tuned:Q", title=title, scale=alt.Scale(zero=False))
    intervals = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=title), x2="high:Q")
    points = base.mark_point(filled=True, size=60, opacity=1).encode(x=score)
    untuned = base.mark_tick(thickness=2, size=14, opacity=0.6).encode(x=alt.X("base:Q", title=title))
    write_files(Picture(note.stem, "scores", "", [untuned + intervals + points]), note.parent)
    note.with_suffix(".png").unlink()


def main() -> None:
    note = Path(sys.argv[1])
    scores = pd.read_csv(note.with_suffix(".csv"))
    text = note.read_text(encoding="utf-8")
    note.write_text(rendered(text, scores), encoding="utf-8")
    first = MARKED.search(text)
    if first is None:
        sys.exit(f"{note} must have a marker such as <!-- scores: accuracy -->, but has none")
    picture(summary(chosen(scores, first)), first["metric"], note)


if __name__ == "__main__":
    main()
