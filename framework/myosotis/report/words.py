"""What a study found, in words, and what its axes are called."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from myosotis.ledger import HEADLINE, StudyRecord
from myosotis.report.aggregate import FRONTS
from myosotis.report.ends import end_is_higher_better
from myosotis.report.flags import Flag
from myosotis.report.importance import importance
from myosotis.report.numbers import count, decimals, duration, with_interval
from myosotis.report.pairs import MEAN, Pairs

if TYPE_CHECKING:
    import pandas as pd
    from markupsafe import Markup

_NAMED = 4
_LEAST_SHARE = 0.2
"""A parameter that explains less is not worth a sentence."""


def described(frame: pd.DataFrame) -> pd.DataFrame:
    """`configurations`, with each number as text beside it, for the table and for hovering."""
    texts = {}
    for name in HEADLINE:
        places = decimals(frame[name])
        ends = zip(frame[name], frame[f"{name}_low"], frame[f"{name}_high"], strict=True)
        texts[f"{name}_text"] = [with_interval(*interval, places) for interval in ends]
    parameters = [count(value) for value in frame["trainable_parameters"]]
    times = [duration(value) for value in frame["seconds"]]
    return frame.assign(**texts, parameters_text=parameters, time_text=times)


def axis_titles(columns: pd.DataFrame) -> dict[str, str]:
    """What each headline is in the metric's own terms: `learned: fall of cross_entropy`."""
    return {
        "learned": _axis_title("learned", columns[columns["role"] == "task"], "gain in", "fall of"),
        "forgotten": _axis_title("forgotten", columns[columns["role"] == "task"], "loss of", "rise of"),
        "forgotten_base": _axis_title(
            "forgotten_base", columns[columns["role"] == "probe"], "probes' loss of", "probes' rise of"
        ),
    }


def how_it_forgets(frame: pd.DataFrame) -> str:
    """The headline that stands for forgetting: `forgotten`, or `forgotten_base` where that is undefined."""
    return "forgotten" if frame["forgotten"].notna().any() else "forgotten_base"


def findings(record: StudyRecord, frame: pd.DataFrame) -> Iterator[Markup]:
    """The sentences that open the report; `frame` is what `described` gives. All names are escaped."""
    if not frame["n"].sum():
        yield _text("No trial has finished yet.")
        return
    ran, pairs = frame[frame["n"] > 0], Pairs(record)
    for metric, rows in ran.groupby("metric", dropna=False, sort=False):
        if ran["metric"].nunique() > 1:
            yield _text("By {}, which does not compare with the other metrics:", metric)
        yield from _verdict(record, pairs, rows, how_it_forgets(ran))
    yield from _matters(record)
    yield from _undefined(record, ran)
    yield _replicates(ran["n"].tolist())
    yield from _left_out(frame)


def _verdict(record: StudyRecord, pairs: Pairs, frame: pd.DataFrame, forgotten: str) -> Iterator[Markup]:
    yield from _best(pairs, frame, "learned", "learned most", ascending=False)
    yield from _best(pairs, frame, forgotten, "forgot least", ascending=True)
    if "end" in frame and len(frame) > 1:
        metric = frame["metric"].iloc[0]
        ends = f"is best over all tasks at the end, by mean {metric}"
        yield from _best(pairs, frame, "end", ends, ascending=not end_is_higher_better(record))
    yield from _front(frame[frame[FRONTS[forgotten]]], len(frame))


def _matters(record: StudyRecord) -> Iterator[Markup]:
    """Which parameter explains most of what trials differ in."""
    shares = importance(record).query("parameter != 'seed'")
    several = shares.groupby("measure")["parameter"].transform("size") > 1
    first = shares[several].sort_values("share", ascending=False, kind="stable").drop_duplicates("measure")
    told = [
        _text(
            "<strong>{}</strong> for {} ({:.0%} of the variance)",
            row["parameter"],
            row["measure"],
            row["share"],
        )
        for row in first.sort_index().to_dict("records")
        if row["share"] >= _LEAST_SHARE
    ]
    if told:
        from markupsafe import Markup

        yield _text("What matters most: {}.", Markup(", ").join(told))


def _text(sentence: str, *names: object) -> Markup:
    from markupsafe import Markup

    return Markup(sentence).format(*names)


def _axis_title(headline: str, columns: pd.DataFrame, higher: str, lower: str) -> str:
    kinds = set(zip(columns["metric"], columns["higher_is_better"], strict=True))
    if len(kinds) != 1:
        return headline
    metric, higher_is_better = kinds.pop()
    return f"{headline}: {higher if higher_is_better else lower} {metric}"


def _best(
    pairs: Pairs, frame: pd.DataFrame, headline: str, verb: str, *, ascending: bool
) -> Iterator[Markup]:
    """Who comes first by a headline, and how sure that is."""
    ranked = frame.dropna(subset=[headline]).sort_values(headline, ascending=ascending, kind="stable")
    if ranked.empty:
        return
    best, others = ranked.iloc[0], len(ranked) - 1
    told = best["label"], verb if others else verb.split()[0], best[f"{headline}_text"]
    near = _near(pairs, ranked, headline, ascending=ascending)
    doubt = _text("; within noise of it: {}", names(near)) if near else ""
    yield _text("<strong>{}</strong> {}: {}{}.", *told, doubt)


def _near(pairs: Pairs, ranked: pd.DataFrame, headline: str, *, ascending: bool) -> list[str]:
    """Which others are within noise of the first: by the paired test, or by their intervals where there is no pair.

    Without intervals, those with its very mean.
    """
    low = ranked[f"{headline}_low"].fillna(ranked[headline])
    high = ranked[f"{headline}_high"].fillna(ranked[headline])
    meets = low <= high.iloc[0] if ascending else high >= low.iloc[0]
    best, *others = ranked["label"]
    found = pairs.verdicts(best, others, MEAN if headline == "end" else headline)
    by_test = {"within noise": True, "higher": False, "lower": False}
    return [
        label
        for label, meeting in zip(others, meets[1:], strict=True)
        if by_test.get(found.get(label, ""), meeting)
    ]


def names(labels: Sequence[str]) -> Markup:
    """The first few of many configurations, and how many more there are."""
    from markupsafe import Markup

    first = Markup(", ").join(_text("<strong>{}</strong>", label) for label in labels[:_NAMED])
    rest = len(labels) - _NAMED
    return first + (f" and {rest} more" if rest > 0 else "")


def _front(front: pd.DataFrame, configurations: int) -> Iterator[Markup]:
    if front.empty or configurations == 1:
        return
    yield _text(
        "{} of {} on the Pareto front, where nothing else learns as much and forgets less: {}.",
        len(front),
        configurations,
        names(list(front.sort_values("learned")["label"])),
    )


def warnings(frame: pd.DataFrame, flags: Iterable[Flag]) -> Iterator[Markup]:
    """The sentences that say what to be careful of."""
    labels = dict(zip(frame["number"], frame["label"], strict=True))
    for flag in flags:
        yield _text("{}: {}.", names([labels[number] for number in flag.numbers]), flag.text)


def _undefined(record: StudyRecord, frame: pd.DataFrame) -> Iterator[Markup]:
    """Which headline has no value, and why."""
    for role, headline in (("task", "learned"), ("probe", "forgotten_base")):
        metrics = record.columns.loc[record.columns["role"] == role, "metric"].unique()
        if frame[headline].isna().all() and len(metrics) > 1:
            names = ", ".join(map(str, metrics))
            yield _text("<em>{}</em> is undefined: {} are never averaged.", headline, names)
    if frame["learned"].notna().any() and frame["forgotten"].isna().all():
        yield _text(
            "<em>forgotten</em> is undefined, for no stage came after a task's last training{}.",
            ": forgotten_base, what the base lost on the probes, stands in for it"
            if frame["forgotten_base"].notna().any()
            else "",
        )
    for headline in HEADLINE:
        if frame[headline].notna().any() and (missing := int(frame[headline].isna().sum())):
            yield _text("Without a value for <em>{}</em>: {} of {}.", headline, missing, len(frame))


def _replicates(counts: Sequence[int]) -> Markup:
    if max(counts) == 1:
        return _text("One seed only, so there is no interval: a small difference may be chance.")
    least, most = min(counts), max(counts)
    span = f"{least}" if least == most else f"{least} to {most}"
    what = "Means over {} replicates (seeds and orders) with 95 % t-intervals; {}."
    return _text(what, span, "within noise is what a paired test over them does not tell apart")


def _left_out(frame: pd.DataFrame) -> Iterator[Markup]:
    sums = {status: frame[status].sum() for status in ("pruned", "failed", "unfinished")}
    counts = [f"{number} {status}" for status, number in sums.items() if number]
    if counts:
        yield _text("Left out of all means: {}.", " and ".join(counts))
