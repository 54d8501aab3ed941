"""Write a study's table and picture into its note, from the results that stand beside it.

    myosotis results forgetting_ablation --trials --format csv > experiments/forgetting_ablation.csv
    python experiments/render.py experiments/forgetting_ablation.md

Replaces what stands between the note's two markers. The first names the pairs of arms to compare, each
paired by seed: `<!-- table: full/freeze, lora/lora + replay -->` and `<!-- end of table -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from myosotis.ledger import HEADLINE, StudyRecord
from myosotis.report import configurations, t_interval
from myosotis.report.aggregate import COSTS
from myosotis.report.colours import grouped
from myosotis.report.pictures import Picture, write_files
from myosotis.report.scatter import scatter
from myosotis.report.words import described

MARKED = re.compile(r"(<!-- table: (?P<pairs>[^>]*) -->\n).*?(<!-- end of table -->)", re.DOTALL)
TITLES = {
    "learned": "learned (nats per token)",
    "forgotten": "forgotten (nats per token)",
    "forgotten_base": "forgotten of the base (nats per token)",
}


def rendered(note: str, trials: pd.DataFrame) -> str:
    """Give the note with its tables made anew."""
    return MARKED.sub(
        lambda match: match[1] + "\n".join(_tables(trials, match["pairs"])) + "\n" + match[3], note
    )


def _measured(trials: pd.DataFrame) -> list[str]:
    """Name the headline's numbers that the study has: with one stage, nothing is forgotten between stages."""
    return [name for name in HEADLINE if trials[name].notna().any()]


def _tables(trials: pd.DataFrame, pairs: str) -> Iterator[str]:
    names = _measured(trials)
    yield f"| arm | {' | '.join(names)} | trainable parameters | seeds |"
    yield "|---" * (len(names) + 3) + "|"
    for arm, rows in trials.groupby("arm", sort=False):
        numbers = " | ".join(_interval(rows[name]) for name in names)
        yield f"| {arm} | {numbers} | {rows['trainable_parameters'].iloc[0]:,.0f} | {len(rows)} |"
    yield ""
    yield f"| difference, paired by seed | {' | '.join(names)} |"
    yield "|---" * (len(names) + 1) + "|"
    for pair in pairs.split(","):
        one, other = (_of_arm(trials, arm.strip()) for arm in pair.split("/"))
        yield (
            f"| {pair.strip().replace('/', ' − ')} | "
            + " | ".join(_interval(one[name] - other[name]) for name in names)
            + " |"
        )


def _of_arm(trials: pd.DataFrame, arm: str) -> pd.DataFrame:
    rows = trials[trials["arm"] == arm].set_index("seed").sort_index()
    if rows.empty:
        sys.exit(f"a pair must name arms of the study ({', '.join(trials['arm'].unique())}), but got {arm!r}")
    return rows


def _interval(values: pd.Series) -> str:
    mean, low, high = t_interval(values.to_numpy())
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def picture(trials: pd.DataFrame, note: Path) -> None:
    """Draw learned against forgotten beside the note."""
    columns = dict.fromkeys([*trials, *COSTS])  # what a cost's column lacks is not in this picture
    trials = trials.reindex(columns=[*columns]).assign(swept=[{} for _ in range(len(trials))])
    record = StudyRecord(note.stem, note.parent, pd.DataFrame(), trials, pd.DataFrame())
    forgotten = "forgotten" if "forgotten" in _measured(trials) else "forgotten_base"
    chart = scatter(grouped(described(configurations(record))), forgotten, TITLES)
    write_files(Picture(note.stem, "scatter", "Learned against forgotten", [chart]), note.parent)
    note.with_suffix(".png").unlink()


def main() -> None:
    note = Path(sys.argv[1])
    trials = pd.read_csv(note.with_suffix(".csv"))
    note.write_text(rendered(note.read_text(encoding="utf-8"), trials), encoding="utf-8")
    picture(trials, note)


if __name__ == "__main__":
    main()
