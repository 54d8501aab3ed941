"""How much was learned, how much was forgotten: pure functions of the score matrix R.

R[l, i] is the score on column i after stage l. Row 0 is the untouched base model, rows 1..T are the
stages. Higher is better: `oriented` turns the columns where lower is better, once, before anything
else here sees them. A missing score is NaN; what needs it is NaN, never a number.

Two families:

- the headline, for any curriculum: `learned`, `forgotten`, `forgotten_base` on R of shape
  (stages + 1, columns), the columns being tasks and probes;
- the field's own numbers, for sequential learning with one new task a stage: R of shape (T + 1, T),
  where stage i trains task i. Formulas count tasks from 1, the code from 0.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
_Indices = NDArray[np.intp]


def oriented(scores: ArrayLike, higher_is_better: Sequence[bool]) -> FloatArray:
    """The scores, shape (stages + 1, columns), with the sign turned where a column's lower is better.

    The only place where a metric's direction matters. Raises ValueError for not one direction a column.
    """
    matrix = _score_matrix(scores)
    _check_one_a_column("higher_is_better", higher_is_better, matrix)
    return np.where(np.asarray(higher_is_better, dtype=bool), matrix, -matrix)


# The headline, for any curriculum


def learned(scores: ArrayLike, last_trained: Sequence[int], metrics: Sequence[str] | None = None) -> float:
    """What training gave: the mean gain of each trained task, just after its last training.

    learned = mean over trained tasks i of R[e(i), i] - R[0, i]

    Args:
        scores: R, shape (stages + 1, columns), higher is better.
        last_trained: e(i), the last stage that trains column i; 0 for a probe, which none trains.
        metrics: the metric of each column; where those averaged differ, the result is NaN.
    Returns:
        Higher means more learned. NaN with nothing trained, a missing score, or mixed metrics.
    Raises:
        ValueError: R is no matrix, or `last_trained` or `metrics` do not fit it.

    Learning accuracy (arXiv:1810.11910) less the base's score, also for tasks trained again.
    """
    matrix, last = _headline(scores, last_trained, metrics)
    task = np.flatnonzero(last > 0)
    return _mean_of_one_metric(matrix[last[task], task] - matrix[0, task], task, metrics)


def forgotten(scores: ArrayLike, last_trained: Sequence[int], metrics: Sequence[str] | None = None) -> float:
    """What later stages took: the mean loss of each task since its last training.

    forgotten = mean over tasks i with e(i) before the last stage of R[e(i), i] - R[last, i]

    Higher means more forgotten; negative where later stages helped. NaN where every task is trained to
    the end (joint training), with a missing score, or with mixed metrics. Arguments and errors as in
    `learned`. Backward transfer (arXiv:1706.08840), its sign turned, also for tasks trained again.
    """
    matrix, last = _headline(scores, last_trained, metrics)
    task = np.flatnonzero((last > 0) & (last < len(matrix) - 1))
    return _mean_of_one_metric(matrix[last[task], task] - matrix[-1, task], task, metrics)


def forgotten_base(
    scores: ArrayLike, last_trained: Sequence[int], metrics: Sequence[str] | None = None
) -> float:
    """What the base model lost: the mean loss of each probe from the base to the last stage.

    forgotten_base = mean over probes p of R[0, p] - R[last, p]

    Higher means more forgotten. NaN without probes, with a missing score, or with mixed metrics.
    Arguments and errors as in `learned`. TRACE's Δ (arXiv:2310.06762), its sign turned.
    """
    matrix, last = _headline(scores, last_trained, metrics)
    probe = np.flatnonzero(last == 0)
    return _mean_of_one_metric(matrix[0, probe] - matrix[-1, probe], probe, metrics)


# The field's own numbers, for one new task a stage


def average_accuracy(scores: ArrayLike) -> float:
    """The mean score over all tasks at the end.

    ACC = 1/T Σ_i R[T, i]

    Source: Lopez-Paz and Ranzato 2017, arXiv:1706.08840. Reads the last row only.
    """
    return _mean(_sequence(scores)[-1])


def learning_accuracy(scores: ArrayLike) -> float:
    """The mean score of each task just after it was trained.

    LA = 1/T Σ_i R[i, i]

    Source: Riemer et al. 2019, arXiv:1810.11910.
    """
    return _mean(_just_learned(_sequence(scores)))


def backward_transfer(scores: ArrayLike) -> float:
    """How later tasks changed the earlier ones; negative means forgetting.

    BWT = 1/(T - 1) Σ_{i<T} (R[T, i] - R[i, i])

    NaN with one task. Source: Lopez-Paz and Ranzato 2017, arXiv:1706.08840.
    """
    matrix = _sequence(scores)
    return _mean((matrix[-1] - _just_learned(matrix))[:-1])


def forward_transfer(scores: ArrayLike) -> float:
    """How earlier tasks changed a task not yet trained, against the base's zero-shot score.

    FWT = 1/(T - 1) Σ_{i≥2} (R[i - 1, i] - R[0, i])

    NaN with one task. Source: Lopez-Paz and Ranzato 2017, arXiv:1706.08840. There b_i is the score
    of a randomly initialised model; here it is the pretrained model's zero-shot score R[0, i].
    """
    matrix = _sequence(scores)
    return _mean((np.diagonal(matrix) - matrix[0])[1:])


def forgetting(scores: ArrayLike) -> float:
    """How far each earlier task fell from its best.

    F = 1/(T - 1) Σ_{i<T} ( max_{l ∈ i..T-1} R[l, i] - R[T, i] )

    NaN with one task. Source: Chaudhry et al. 2018, arXiv:1801.10112, with a stated departure: the
    paper's maximum runs over l ∈ 1..T-1; here the rows before i are left out, as is the base, for
    what was not yet learned cannot be forgotten. The last row is not in the maximum, as in the
    paper, so that F is negative where a task ends above its best.
    """
    matrix = _sequence(scores)
    tasks = range(matrix.shape[1] - 1)
    return _mean([matrix[i + 1 : -1, i].max() - matrix[-1, i] for i in tasks])


def average_incremental_accuracy(scores: ArrayLike) -> float:
    """The mean, over stages, of the mean score of the tasks trained so far.

    AIA = 1/T Σ_l 1/l Σ_{i≤l} R[l, i]

    Source: Rebuffi et al. 2017 (iCaRL), arXiv:1611.07725. Every stage weighs the same.
    """
    matrix = _sequence(scores)
    return _mean([_mean(matrix[stage, :stage]) for stage in range(1, len(matrix))])


def minimum_score(scores: ArrayLike) -> float:
    """The mean of each earlier task's worst score after it was learned.

    min-ACC = 1/(T - 1) Σ_{i<T} min_{l ∈ i+1..T} R[l, i]

    NaN with one task. Source: De Lange et al. 2023, arXiv:2205.13452, whose minimum runs over every
    training step after task i: with a row a stage, dips within a stage (the stability gap) stay unseen.
    """
    matrix = _sequence(scores)
    tasks = range(matrix.shape[1] - 1)
    return _mean([matrix[i + 2 :, i].min() for i in tasks])


def stability_gap(scores: ArrayLike) -> float:
    """How far a task's score dips within a stage below both ends of the stage, before it recovers.

    gap = max(0, min(s_0, s_K) - min_k s_k)

    For the scores s_0 … s_K of one task from the beginning of one stage to its end, shape (K + 1,), higher is
    better. NaN where nothing was scored in between, and with a missing score. The stability gap is what
    De Lange et al. 2023, arXiv:2205.13452, show as curves; to put it into this number is our own way.
    """
    values: FloatArray = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or len(values) < 3 or np.isnan(values).any():
        return float("nan")
    return float(max(0.0, min(values[0], values[-1]) - values.min()))


def change_from_base(scores: ArrayLike) -> FloatArray:
    """The change of each column's score from the base to the end, shape (columns,).

    Δ_i = R[last, i] - R[0, i]

    For R of any curriculum, shape (stages + 1, columns). Source: TRACE, arXiv:2310.06762, whose Δ is
    the mean of these over one set of abilities.
    """
    matrix = _score_matrix(scores)
    change: FloatArray = matrix[-1] - matrix[0]
    return change


def intransigence(scores: ArrayLike, joint_scores: ArrayLike) -> FloatArray:
    """How much worse each task was learned in sequence than jointly, shape (T,).

    I_k = a*_k - R[k, k], where a*_k, in `joint_scores` of shape (T,), is the score on task k of a
    model trained jointly on tasks 1..k.

    Negative where the sequence learned it better. Source: Chaudhry et al. 2018, arXiv:1801.10112.
    """
    matrix = _sequence(scores)
    joint: FloatArray = np.atleast_1d(np.asarray(joint_scores, dtype=np.float64))
    _check_one_a_column("joint_scores", joint, matrix)
    difference: FloatArray = joint - _just_learned(matrix)
    return difference


# What they share


def _just_learned(matrix: FloatArray) -> FloatArray:
    return np.asarray(np.diagonal(matrix, offset=-1))


def _mean(values: ArrayLike) -> float:
    """The mean; NaN of nothing, and of anything with NaN in it."""
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()) if array.size else float("nan")


def _mean_of_one_metric(values: FloatArray, columns: _Indices, metrics: Sequence[str] | None) -> float:
    if metrics is not None and len({metrics[column] for column in columns}) > 1:
        return float("nan")
    return _mean(values)


def _score_matrix(scores: ArrayLike) -> FloatArray:
    matrix = np.asarray(scores, dtype=np.float64)
    if matrix.ndim != 2 or len(matrix) == 0:
        raise ValueError(f"scores must be of shape (stages + 1, columns), but got {matrix.shape}")
    return matrix


def _sequence(scores: ArrayLike) -> FloatArray:
    matrix = np.asarray(scores, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1] == 0 or len(matrix) != matrix.shape[1] + 1:
        raise ValueError(f"scores must be of shape (T + 1, T), row 0 the base, but got {matrix.shape}")
    return matrix


def _headline(
    scores: ArrayLike, last_trained: Sequence[int], metrics: Sequence[str] | None
) -> tuple[FloatArray, _Indices]:
    matrix = _score_matrix(scores)
    _check_one_a_column("last_trained", last_trained, matrix)
    _check_one_a_column("metrics", last_trained if metrics is None else metrics, matrix)
    stages = len(matrix) - 1
    if any(not 0 <= stage <= stages for stage in last_trained):
        raise ValueError(f"last_trained must be stages in 0..{stages}, but got {list(last_trained)}")
    return matrix, np.asarray(last_trained, dtype=np.intp)


def _check_one_a_column(name: str, values: Sized, matrix: FloatArray) -> None:
    if len(values) != matrix.shape[1]:
        raise ValueError(f"{name} must be {matrix.shape[1]} long, one a column, but got {len(values)}")
