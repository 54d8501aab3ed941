"""Choose each method's settings, and write the tables and pictures of `method_ablation.md`.

    python experiments/method_ablation/render.py collect nano studies  # takes the results from the studies
    python experiments/method_ablation/render.py choose nano           # writes the chosen settings for `reporting`
    python experiments/method_ablation/render.py render                # writes the note's tables and pictures

The first puts into `trials/MODEL.csv` what it finds of the arms that are there; the others need nothing else.
Tables replace what stands between the note's markers, `<!-- table: NAME MODEL -->` and `<!-- end of table -->`.
"""

from __future__ import annotations

import argparse
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from myosotis.ledger import StudyRecord, read_entries, read_json, read_study
from myosotis.report import t_interval
from myosotis.report.pictures import Picture, write_files

HERE = Path(__file__).parent
NOTE = HERE.with_suffix(".md")
MODELS = ("nano", "stories260K")
MARKED = re.compile(
    r"(<!-- table: (?P<name>\w+) (?P<model>\w+) -->\n).*?(?P<end><!-- end of table -->)", re.DOTALL
)

RATES, STRENGTHS, REPORTING = "ablation_learning_rates", "ablation_strengths", "method_ablation"
TARGET = 0.9
"""How much of what full fine-tuning learns methods are matched at."""
AGAINST: Mapping[str, str] = {
    **dict.fromkeys(("lora_replay", "lora_ewc", "lora_kl_to_base", "lora_wise_ft"), "lora"),
    "olora": "inc_lora",
}
"""What an arm is held against where that is not `full`: the same without the method."""
BEND = 0.05
"""Nats per token from which on the pictures' upright axis is logarithmic."""
HEADLINE = ("learned", "forgotten", "forgotten_base", "gain")


# Results


def trials_file(model: str) -> Path:
    """Say where a model's results are kept."""
    return HERE / "trials" / f"{model}.csv"


def read_trials() -> dict[str, pd.DataFrame]:
    """Read the results of each model that has some."""
    return {model: pd.read_csv(trials_file(model)) for model in MODELS if trials_file(model).is_file()}


def collected(studies: Path, names: Sequence[str] = (RATES, STRENGTHS, REPORTING)) -> pd.DataFrame:
    """Give one row a finished trial, and one a variant of it; what is swept besides the seed is the setting."""
    parts = [
        timed(_rows(read_study(studies / name)))
        for name in names
        if (studies / name / "study.json").is_file()
    ]
    digits = {"seconds": 2, "training_seconds": 2, "time": 4, **dict.fromkeys(HEADLINE, 6)}
    return pd.concat(parts).round(digits)


def checked(trials: pd.DataFrame) -> pd.DataFrame:
    """Refuse tried settings that are not told apart, as where only one was swept.

    Raises:
        SystemExit: names the arms.
    """
    tried = trials[trials["study"] != REPORTING]
    lacking = tried.groupby("arm")["setting"].transform(lambda settings: settings.isna().all())
    if lacking.any():
        arms = ", ".join(tried.loc[lacking, "arm"].unique())
        raise SystemExit(
            f"every arm must be swept over at least 2 settings, but {arms} had one; sweep one more"
        )
    return trials


def timed(rows: pd.DataFrame) -> pd.DataFrame:
    """Hold each training's time against that of the same without the method, of the same seed and study."""
    trained = rows[rows["setting"].isna()].set_index(["arm", "seed"])["training_seconds"]
    others = zip(rows["arm"].map(lambda arm: AGAINST.get(arm, "full")), rows["seed"], strict=True)
    return rows.assign(time=rows["training_seconds"] / trained.reindex(list(others)).to_numpy())


def merged(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Join results; of an arm's setting that is in several, the last ones."""
    trials = pd.concat([part.assign(part=number) for number, part in enumerate(parts)])
    last = trials.groupby(["study", "arm", "setting"], dropna=False)["part"].transform("max")
    return trials[trials["part"] == last].drop(columns="part")


def _rows(record: StudyRecord) -> pd.DataFrame:
    trials = record.trials[record.trials["status"] == "finished"]
    base = record.scores[record.scores["stage"] == 0]
    scores = record.scores.sort_values(["stage", "step"])
    last = scores.groupby(["trial", "task", "metric"], as_index=False).last()
    folders = {entry.id: record.folder / entry.folder for entry in read_entries(record.folder)}
    rows = trials.assign(
        study=record.name,
        setting=[next(iter(each.values()), math.nan) for each in trials["swept"]],
        gain=trials["trial"].map(_gain(record, base, last)),
        training_seconds=[_training_seconds(folders[name]) for name in trials["trial"]],
        kept_bytes=[_kept_bytes(folders[name]) for name in trials["trial"]],
    )
    columns = ["study", "arm", "setting", "seed", *HEADLINE, "trainable_parameters"]
    columns += ["seconds", "training_seconds", "kept_bytes"]
    return pd.concat([rows[columns], *_variants(record, rows, base, columns)])


def _variants(
    record: StudyRecord, rows: pd.DataFrame, base: pd.DataFrame, columns: list[str]
) -> Iterator[pd.DataFrame]:
    """Give the trials' further models; a name such as `alpha=0.3` ends with the setting."""
    for name, scores in record.variants.groupby("variant"):
        own = rows[rows["trial"].isin(scores["trial"])]
        yield own.assign(
            setting=float(str(name).rpartition("=")[2]),
            learned=math.nan,
            forgotten=math.nan,
            forgotten_base=own["trial"].map(-_gain(record, base, scores, role="probe")),
            gain=own["trial"].map(_gain(record, base, scores)),
        )[columns]


def _gain(record: StudyRecord, base: pd.DataFrame, last: pd.DataFrame, role: str = "task") -> pd.Series:
    """Give by how much a trial's loss fell from the base to the end: the mean over tasks, or over probes."""
    tasks = record.columns[record.columns["role"] == role]
    before, after = (
        frame[frame["task"].isin(tasks["task"]) & frame["metric"].isin(tasks["metric"])].set_index(
            ["trial", "task"]
        )["value"]
        for frame in (base, last)
    )
    return (before - after).dropna().groupby("trial").mean()


def _training_seconds(folder: Path) -> float:
    return float(read_json(folder / "manifest.json")["cost"]["training_seconds"])


def _kept_bytes(folder: Path) -> int:
    manifest = read_json(folder / "manifest.json")
    return sum(manifest["kept_bytes"].values()) + manifest.get("resting_bytes", 0)


def of(trials: pd.DataFrame, **chosen: object) -> pd.DataFrame:
    """Give the trials that have the chosen values."""
    for column, value in chosen.items():
        trials = trials[trials[column] == value]
    return trials


# The choice


def choice(settings: pd.DataFrame) -> float:
    """Choose the setting after which the tasks are known best at the end."""
    best = float(settings.groupby("setting")["gain"].mean().idxmax())
    return int(best) if best.is_integer() else best  # blocks are counted


def targets(trials: pd.DataFrame) -> tuple[float, float]:
    """Give what methods are matched at: a share of what `full` learns at its chosen rate, and at its best."""
    swept = of(trials, study=RATES, arm="full")
    means = swept.groupby("setting")["learned"].mean()
    return TARGET * float(means[choice(swept)]), TARGET * float(means.max())


def matched(settings: pd.DataFrame, least: float) -> float:
    """Give the least that is forgotten where enough is learned, on straight lines between neighbouring settings.

    NaN where no setting learns enough.
    """
    curve = settings.groupby("setting")[["learned", "forgotten"]].mean().sort_index().dropna().to_numpy()
    found = [forgotten for learned, forgotten in curve if learned >= least]
    for (learned, forgotten), (other, lost) in itertools.pairwise(curve):
        if min(learned, other) < least < max(learned, other):
            found.append(forgotten + (least - learned) / (other - learned) * (lost - forgotten))
    return min(found, default=math.nan)


def chosen(trials: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Choose every arm's learning rate and strength."""
    found = {}
    for key, study in (("learning_rates", RATES), ("strengths", STRENGTHS)):
        swept = of(trials, study=study).dropna(subset="setting")
        found[key] = {arm: choice(settings) for arm, settings in swept.groupby("arm", sort=False)}
    return found


def write_chosen(model: str, trials: pd.DataFrame) -> None:
    """Write the chosen settings where the studies take them from."""
    head = (
        "# @package _global_\n"
        f"# Chosen for {model} from the studies `{RATES}` and `{STRENGTHS}`; see ../../method_ablation.md.\n"
    )
    text = head + OmegaConf.to_yaml(OmegaConf.create(chosen(trials)))
    (HERE / "chosen" / f"{model}.yaml").write_text(text, encoding="utf-8")


# Tables


def rendered(note: str, trials: Mapping[str, pd.DataFrame]) -> str:
    """Give the note with its tables made anew."""
    return MARKED.sub(
        lambda match: (
            match[1] + "\n".join(TABLES[match["name"]](trials[match["model"]])) + "\n" + match["end"]
        ),
        note,
    )


def results_table(trials: pd.DataFrame) -> Iterator[str]:
    """What every arm learned and forgot, and what it cost beside the same without the method."""
    yield "| arm | setting | learned | forgotten | forgotten_base | gain | trains | keeps | time |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for arm, rows in reported(trials):
        numbers = " | ".join(_interval(rows[name]) for name in HEADLINE)
        kept = f"{rows['kept_bytes'].max() / 2**20:.1f} MiB" if rows["kept_bytes"].any() else "–"
        yield (
            f"| {arm} | {_settings(trials, arm)} | {numbers} | {rows['trainable_parameters'].iloc[0]:,.0f} | "
            f"{kept} | {rows['time'].median():.2f} |"
        )


def verdict_table(trials: pd.DataFrame) -> Iterator[str]:
    """Hold every arm against the same without the method, paired by seed."""
    yield "| arm | against | learned | forgotten | forgotten_base | gain | |"
    yield "|---|---|---|---|---|---|---|"
    arms = {arm: rows.set_index("seed")[list(HEADLINE)] for arm, rows in reported(trials)}
    for arm, values in arms.items():
        other = AGAINST.get(arm, "full")
        if arm == other:
            continue
        differences = values - arms[other]
        numbers = " | ".join(_interval(differences[name]) for name in HEADLINE)
        yield f"| {arm} | {other} | {numbers} | {_verdict(differences)} |"


def _verdict(differences: pd.DataFrame) -> str:
    """Say what the intervals of the differences exclude."""
    words = {"learned": "learns", "forgotten": "forgets", "gain": "gains"}
    said = []
    for name, verb in words.items():
        _, low, high = t_interval(differences[name].to_numpy())
        if low > 0 or high < 0:
            said.append(f"{verb} {'more' if low > 0 else 'less'}")
    return ", ".join(said) or "no difference seen"


def matched_table(trials: pd.DataFrame) -> Iterator[str]:
    """What is forgotten where as much is learned, by the settings that were tried."""
    least = targets(trials)
    yield "| arm | " + " | ".join(f"forgotten where {each:.2f} is learned" for each in least) + " |"
    yield "|---|---|---|"
    swept = of(trials, study=RATES), of(trials, study=STRENGTHS).dropna(subset="learned")
    found = {
        str(arm): [matched(settings, each) for each in least]
        for part in swept
        for arm, settings in part.dropna(subset="setting").groupby("arm", sort=False)
        if settings["forgotten"].notna().any()
    }
    for arm, forgotten in sorted(found.items(), key=lambda each: [*map(_last_if_nan, each[1])]):
        cells = ["never learns as much" if math.isnan(each) else f"{each:+.2f}" for each in forgotten]
        yield f"| {arm} | {' | '.join(cells)} |"


def _last_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value


def settings_table(trials: pd.DataFrame) -> Iterator[str]:
    """Every setting that was tried on the development seeds, the chosen one in bold."""
    for key, study in (("learning_rates", RATES), ("strengths", STRENGTHS)):
        yield f"| arm | {key.replace('_', ' ')}: learned / forgotten at each |"
        yield "|---|---|"
        best = chosen(trials)[key]
        for arm, settings in of(trials, study=study).dropna(subset="setting").groupby("arm", sort=False):
            means = settings.groupby("setting")[list(HEADLINE)].mean().sort_index()
            cells = [
                _emphasized(f"{value:g}: {_pair(row)}", value == best[arm]) for value, row in means.iterrows()
            ]
            yield f"| {arm} | {' · '.join(cells)} |"
        yield ""


def _emphasized(text: str, strong: bool) -> str:
    return f"**{text}**" if strong else text


def _pair(row: pd.Series) -> str:
    if math.isnan(row["forgotten"]):
        return f"gain {row['gain']:.2f}"
    return f"{row['learned']:.2f} / {row['forgotten']:.2f}"


def reported(trials: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Give each arm's trials; where a method makes variants of them, the one that was chosen."""
    for arm, rows in of(trials, study=REPORTING).groupby("arm", sort=False):
        if rows["setting"].isna().all():
            yield str(arm), rows
        else:
            yield str(arm), of(rows, setting=chosen(trials)["strengths"][str(arm)])


def _settings(trials: pd.DataFrame, arm: str) -> str:
    found = chosen(trials)
    return " · ".join(f"{found[key][arm]:g}" for key in found if arm in found[key]) or "–"


def _interval(values: pd.Series) -> str:
    mean, low, high = t_interval(values.to_numpy())
    return "–" if math.isnan(mean) else f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


TABLES: Mapping[str, Callable[[pd.DataFrame], Iterator[str]]] = {
    "results": results_table,
    "verdicts": verdict_table,
    "matched": matched_table,
    "settings": settings_table,
}


# Pictures


def means(trials: pd.DataFrame) -> pd.DataFrame:
    """Give each arm's means."""
    return pd.DataFrame([{"arm": arm, **rows[list(HEADLINE)].mean()} for arm, rows in reported(trials)])


def labelled(frame: pd.DataFrame, x: str, y: str) -> alt.LayerChart:
    """Draw arms as labelled points, losses in nats per token."""
    frame = apart(frame.dropna(subset=[x, y]), x, y)
    upright = alt.Scale(type="symlog", constant=BEND, zero=False, nice=False)
    base = alt.Chart(frame, width=620, height=560).encode(
        x=alt.X(f"{x}:Q", title=f"{x} (nats per token)", scale=alt.Scale(zero=False)),
    )
    points = base.mark_point(filled=True, size=50, color="#3f78b5", opacity=1).encode(
        y=alt.Y(f"{y}:Q", title=f"{y} (nats per token)", scale=upright)
    )
    label = alt.Y("label:Q", scale=upright)
    lines = base.mark_rule(color="#3f78b5", opacity=0.4).encode(
        y=alt.Y(f"{y}:Q", scale=upright), y2="label:Q"
    )
    return lines + points + base.mark_text(align="left", dx=6, fontSize=10).encode(y=label, text="arm:N")


def apart(frame: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Give labels heights at which they do not cover each other: each moves up from those beneath it."""
    across = frame[x].max() - frame[x].min()
    bent = np.arcsinh(frame[y] / (2 * BEND))  # nearly as the picture's scale
    high = (bent.max() - bent.min()) / 40
    placed: list[tuple[float, float]] = []
    heights = {}
    for index in bent.sort_values().index:
        left, height = frame.loc[index, x], bent[index]
        for other, taken in sorted(placed, key=lambda place: place[1]):
            if abs(left - other) < across / 6 and abs(height - taken) < high:
                height = taken + high
        placed.append((left, height))
        heights[index] = 2 * BEND * np.sinh(height)
    return frame.assign(label=pd.Series(heights))


def wise_path(trials: pd.DataFrame) -> alt.LayerChart:
    """Draw the models between the base and the tuned one."""
    own = of(trials, study=REPORTING).dropna(subset="setting")
    frame = own.groupby(["arm", "setting"], as_index=False)[["gain", "forgotten_base"]].mean()
    base = alt.Chart(frame, width=560, height=300).encode(
        x=alt.X("gain:Q", title="gain (nats per token)"),
        y=alt.Y("forgotten_base:Q", title="forgotten_base (nats per token)"),
        color=alt.Color("arm:N", title=None),
        order="setting:Q",
    )
    text = base.mark_text(align="left", dx=6, fontSize=10).encode(text=alt.Text("setting:Q", format=".1f"))
    return base.mark_line(point=True) + text


def draw(model: str, trials: pd.DataFrame) -> None:
    """Write a model's pictures beside the note."""
    pictures = {
        f"{NOTE.stem}_{model}": labelled(means(trials), "learned", "forgotten"),
        f"{NOTE.stem}_{model}_gain": labelled(means(trials), "gain", "forgotten_base"),
        f"{NOTE.stem}_{model}_wise_ft": wise_path(trials),
    }
    for name, chart in pictures.items():
        write_files(Picture(name, "scatter", "", [chart]), NOTE.parent)
        (NOTE.parent / f"{name}.png").unlink()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    collect = commands.add_parser("collect")
    choose = commands.add_parser("choose")
    commands.add_parser("render")
    for each in (collect, choose):
        each.add_argument("model", choices=MODELS)
    collect.add_argument("studies", type=Path)
    arguments = parser.parse_args()
    trials = read_trials()
    match arguments.command:
        case "collect":
            parts = [trials[arguments.model]] if arguments.model in trials else []
            found = merged([*parts, checked(collected(arguments.studies))])
            found.to_csv(trials_file(arguments.model), index=False)
        case "choose":
            write_chosen(arguments.model, trials[arguments.model])
        case "render":
            NOTE.write_text(rendered(NOTE.read_text(encoding="utf-8"), trials), encoding="utf-8")
            for model, own in trials.items():
                if REPORTING in set(own["study"]):
                    draw(model, own)


if __name__ == "__main__":
    main()
