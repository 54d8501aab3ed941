"""What is wrong with the labels of a study's data: rare, prevailing, missing from what is scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from myosotis.data_record import Finding
from myosotis.data_split import CheckedSplit, counted

RARE = 0.02
PREVAILING = 0.9
LARGE = 0.1
"""The share of a label that no part of the rows should lack."""
CHANCE = 1e-4
"""What is less likely is not taken for chance."""
EXPECTED = 5
"""Labels of which a part has fewer rows to be expected are taken together in a chi-square test."""


def within(split: CheckedSplit) -> Iterator[Finding]:
    """Look at the labels of a split."""
    total = sum(split.labels.values())
    rare = {label: count for label, count in split.labels.items() if count / total < RARE}
    if rare:
        label = min(rare, key=lambda each: (rare[each], each))
        of, less = f"of {len(split.labels)} labels", f"less than {RARE:.0%} of all"
        yield Finding(
            split.name,
            f"{counted(len(rare), f'{of} is {less}', f'{of} are {less} each')}; {label!r} has {rare[label]} of "
            f"{total:,}",
            "accuracy hardly sees them: look at macro_f1 or entity_f1 too",
        )
    label, count = split.labels.most_common(1)[0] if split.labels else ("", 0)
    if len(split.labels) > 1 and not split.tagged and count / total > PREVAILING:
        yield Finding(
            split.name,
            f"{label!r} is the label of {count / total:.1%} of the rows: who always says it is right as often",
            "hold accuracy against that, look at macro_f1 too, or add rows of the other labels",
        )


def of_scored(split: CheckedSplit) -> Iterator[Finding]:
    """Hold the rows of a split that are scored against all of it."""
    if split.scored:
        yield from _part(
            split.name,
            split.scored,
            split.labels,
            f"the {counted(sum(split.scored.values()), 'row that is scored has', 'rows that are scored have')}",
            "all",
            "take evaluation.rows=spread, raise evaluation.limit, or shuffle the file's rows",
        )


def between(train: CheckedSplit, other: CheckedSplit) -> Iterator[Finding]:
    """Hold what a task trains on against what it is scored on."""
    where = f"{train.name} and {other.name}"
    unseen = sorted(set(other.labels) - set(train.labels))
    if unseen and train.labels:
        apart = len(unseen) == len(other.labels)
        what = (
            f"no label that is scored is trained on: {', '.join(unseen[:5])} against "
            f"{', '.join(sorted(train.labels)[:5])}"
            if apart
            else f"{counted(len(unseen), 'label is', 'labels are')} scored and never trained on: "
            f"{', '.join(unseen[:5])}"
        )
        advice = (
            "give both splits the same labels, or take the one as a probe of its own"
            if apart
            else "look whether they are spelled alike, or split the rows anew"
        )
        missed = any(_is_missed(label, train.labels, other.labels) for label in unseen)
        yield Finding(where, what, advice, stops=apart or (missed and not train.tagged))
    elif train.labels and other.labels and not train.tagged:
        yield from _part(
            where,
            other.labels,
            train.labels,
            f"the {counted(sum(other.labels.values()), f'row of {other.name} has', f'rows of {other.name} have')}",
            "those that are trained on",
            "shuffle the rows before they are split; where the splits are given, mind it when scores are read",
        )


def _part(
    where: str, part: Counter[str], whole: Counter[str], subject: str, others: str, advice: str
) -> Iterator[Finding]:
    """Look for labels that a part of the rows lacks, or has a share of that is no chance."""
    total, size = sum(whole.values()), sum(part.values())
    lacking = [label for label, count in whole.items() if count / total >= LARGE and not part[label]]
    if lacking:
        label = max(lacking, key=lambda each: whole[each])
        yield Finding(
            where,
            f"{subject} no {label!r}, which is the label of {whole[label] / total:.0%} of {others}",
            advice,
            stops=any(_is_missed(each, part, whole) for each in lacking),
        )
    elif _probability(part, whole) < CHANCE:
        label = max(whole, key=lambda each: abs(part[each] / size - whole[each] / total))
        yield Finding(
            where,
            f"{subject} other shares of labels than {others}, by more than chance: {label!r} "
            f"{part[label] / size:.0%} against {whole[label] / total:.0%}",
            advice,
        )


def _is_missed(label: str, part: Counter[str], whole: Counter[str]) -> bool:
    """Tell whether a label of a large share of all is missing from a part that is large enough to have it."""
    share = whole[label] / sum(whole.values())
    return share >= LARGE and (1 - share) ** sum(part.values()) < CHANCE


def _probability(one: Counter[str], other: Counter[str]) -> float:
    """Give how likely two samples of one distribution differ so much: Pearson's chi-square test."""
    from scipy.stats import chi2_contingency

    sizes = [sum(each.values()) for each in (one, other)]
    least = min(sizes) / sum(sizes)
    table: dict[str, list[int]] = {}
    for label in {**one, **other}:
        key = label if (one[label] + other[label]) * least >= EXPECTED else ""
        counts = table.setdefault(key, [0, 0])
        counts[0] += one[label]
        counts[1] += other[label]
    return float(chi2_contingency([*table.values()], correction=False).pvalue) if len(table) > 1 else 1.0
