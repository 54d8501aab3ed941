"""The list of stages, and which rows each training batch of a stage holds."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias, cast, get_args

import numpy as np

from myosotis.buckets import bucketed
from myosotis.errors import ConfigurationError, unknown_name
from myosotis.interfaces import By, Ramp, Share, Stage, StoppingStrategy

TOLERANCE = 1e-6


@dataclass
class CurriculumConfig:
    """How tasks are laid out in stages, and mixed in them.

    A task that is drawn more often than it has rows is over-sampled, and reshuffled for each pass; one that has
    rows left at the stage's end is under-sampled. Shares say how often each is drawn, and `stopping_strategy`,
    with `trainer.max_epochs`, until when.

    Attributes:
        name: `sequential` (one stage a task), `joint` (one stage with all), `progressive` (one stage a
            task, its share ramping up against the earlier ones), or `stages` (written out).
        order: the tasks in the order of training, or `random`: drawn from the seed.
        start: progressive: the new task's share at its stage's first step.
        end: progressive: the new task's share at its stage's last step.
        ramp: progressive: the way between them: `linear`, `cosine`, or `step`, in so many `plateaus`.
        plateaus: progressive: the equal shares that a `step` ramp holds, one after another.
        stages: for `stages`: one mapping a stage, from task to share; `{}` trains nothing.
        by: what all shares are of: `rows`, or `tokens`: rows are drawn the less often the longer a task's are.
        temperature: joint: shares as the tasks' sizes, in rows or tokens, to the power of 1 / temperature: 1 is in
            proportion, the higher the more equal; None shares equally or by `mix`.
        stopping_strategy: what `trainer.max_epochs` counts: passes over as many rows as the stage's own tasks have
            in `total`; or the stage ends once the first task has been gone through so often (`first_exhausted`),
            which under-samples the others, or once each has (`all_exhausted`), which over-samples them.
    """

    name: str = "sequential"
    order: Any = None
    start: float = 0.2
    end: float = 0.9
    ramp: str = "linear"
    plateaus: int = 4
    stages: Any = None
    by: str = "rows"
    temperature: float | None = None
    stopping_strategy: str = "total"


def build_stages(
    config: CurriculumConfig, mix: Mapping[str, float], tasks: Sequence[str], seed: int
) -> tuple[Stage, ...]:
    """Lay the tasks out in stages.

    Raises:
        ConfigurationError: an unknown curriculum, task or way to mix, or shares that cannot be.
    """
    builders = {"sequential": _sequential, "joint": _joint, "progressive": _progressive, "stages": _written}
    if config.name not in builders:
        raise ConfigurationError(unknown_name("curriculum", config.name, builders))
    if mix and config.name != "joint":
        raise ConfigurationError(
            f"mix.* gives the shares of a joint stage, but curriculum={config.name}; add curriculum=joint"
        )
    _check_mixing(config, mix)
    if not tasks and config.name != "stages":
        raise ConfigurationError(
            f"curriculum={config.name} must have a task to train on, but dataset is empty; "
            "name datasets, as in dataset=[NAME,NAME], or train nothing with curriculum=none"
        )
    stages = builders[config.name](config, mix, ordered(config.order, tasks, seed))
    mixed = partial(
        replace,
        by=config.by,
        temperature=config.temperature,
        stopping_strategy=config.stopping_strategy,
    )
    return tuple(mixed(stage) for stage in stages)


def _check_mixing(config: CurriculumConfig, mix: Mapping[str, float]) -> None:
    _check_value("by", config.by, get_args(By))
    _check_value("stopping_strategy", config.stopping_strategy, get_args(StoppingStrategy))
    if config.temperature is None:
        return
    if config.name != "joint" or mix:
        given = "mix.* gives some" if mix else f"curriculum={config.name}"
        raise ConfigurationError(
            f"curriculum.temperature gives all shares of a joint stage, but {given}; leave one of them out"
        )
    if not config.temperature > 0:
        raise ConfigurationError(
            f"curriculum.temperature must be greater than 0, but got {config.temperature}"
        )


def ordered(order: Any, tasks: Sequence[str], seed: int) -> tuple[str, ...]:
    """Put the tasks in the order asked for; `random` draws it from the seed.

    Raises:
        ConfigurationError: the order is not a permutation of the tasks.
    """
    if order is None:
        return tuple(tasks)
    if order == "random":
        return tuple(tasks[index] for index in np.random.default_rng([seed, 1]).permutation(len(tasks)))
    if not isinstance(order, Sequence) or isinstance(order, str) or sorted(order) != sorted(tasks):
        raise ConfigurationError(
            f"curriculum.order must be 'random' or name each task once ({', '.join(tasks)}), but got {order!r}"
        )
    return tuple(order)


def _sequential(
    config: CurriculumConfig, mix: Mapping[str, float], order: tuple[str, ...]
) -> tuple[Stage, ...]:
    return tuple(Stage(index, {task: Share(1, 1)}) for index, task in enumerate(order, 1))


def _joint(config: CurriculumConfig, mix: Mapping[str, float], order: tuple[str, ...]) -> tuple[Stage, ...]:
    shares = mix_shares(mix, order)
    return (Stage(1, {task: Share(share, share) for task, share in shares.items() if share > 0}),)


def _progressive(
    config: CurriculumConfig, mix: Mapping[str, float], order: tuple[str, ...]
) -> tuple[Stage, ...]:
    for name, value in (("start", config.start), ("end", config.end)):
        if not 0 <= value <= 1:
            raise ConfigurationError(f"curriculum.{name} must be between 0 and 1, but got {value}")
    _check_value("ramp", config.ramp, get_args(Ramp))
    if config.plateaus < 2:
        raise ConfigurationError(f"curriculum.plateaus must be at least 2, but got {config.plateaus}")
    share = partial(Share, ramp=cast(Ramp, config.ramp), plateaus=config.plateaus)
    stages = [Stage(1, {order[0]: Share(1, 1)})]
    for count in range(1, len(order)):
        earlier = share((1 - config.start) / count, (1 - config.end) / count)
        shares = {**dict.fromkeys(order[:count], earlier), order[count]: share(config.start, config.end)}
        stages.append(Stage(count + 1, shares))
    return tuple(stages)


def _written(config: CurriculumConfig, mix: Mapping[str, float], order: tuple[str, ...]) -> tuple[Stage, ...]:
    if not isinstance(config.stages, Sequence) or isinstance(config.stages, str):
        raise ConfigurationError(
            "curriculum.stages must be a list with one mapping a stage, such as "
            f"[{{a: 1}},{{b: 0.8, a: 0.2}}], but got {config.stages!r}"
        )
    return tuple(_written_stage(index, shares, order) for index, shares in enumerate(config.stages, 1))


def _written_stage(index: int, shares: Any, tasks: Sequence[str]) -> Stage:
    where = f"curriculum.stages[{index - 1}]"
    _check_shares(where, shares, tasks)
    if shares and abs(sum(shares.values()) - 1) > TOLERANCE:
        raise ConfigurationError(f"the shares of {where} must sum to 1, but sum to {sum(shares.values()):g}")
    return Stage(index, {task: Share(share, share) for task, share in shares.items() if share > 0})


def mix_shares(mix: Mapping[str, float], tasks: Sequence[str]) -> dict[str, float]:
    """Give each task its share of a joint stage: named ones theirs, the rest what is left, equally.

    Raises:
        ConfigurationError: an unknown task, a share below 0, a sum above 1, or all named and not 1.
    """
    _check_shares("mix", mix, tasks)
    total = sum(mix.values())
    unnamed = [task for task in tasks if task not in mix]
    if total > 1 + TOLERANCE:
        raise ConfigurationError(f"the shares of mix must sum to at most 1, but sum to {total:g}")
    if not unnamed and abs(total - 1) > TOLERANCE:
        raise ConfigurationError(
            f"mix names every task, so its shares must sum to 1, but they sum to {total:g}; "
            "leave a task out to give it the rest"
        )
    rest = max(0.0, 1 - total) / len(unnamed) if unnamed else 0.0
    return {task: mix.get(task, rest) for task in tasks}


def _check_value(key: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigurationError(f"curriculum.{key}: " + unknown_name("value", value, known))


def _check_shares(where: str, shares: Any, tasks: Sequence[str]) -> None:
    if not isinstance(shares, Mapping):
        raise ConfigurationError(f"{where} must map tasks to shares, but got {shares!r}")
    for task, share in shares.items():
        if task not in tasks:
            raise ConfigurationError(f"{where}: " + unknown_name("task", task, tasks))
        if not isinstance(share, int | float) or isinstance(share, bool) or not math.isfinite(share):
            raise ConfigurationError(f"{where}.{task} must be a number, but got {share!r}")
        if share < 0:
            raise ConfigurationError(f"{where}.{task} must not be negative, but got {share:g}")


@dataclass(frozen=True)
class Part:
    """A component of a mixture as the sampler sees it.

    Attributes:
        size: how many examples it has.
        share: its share of the stage.
        length: tokens an example, on average; 1 where nothing depends on them.
    """

    task: str
    size: int
    share: Share
    length: float = 1.0


Place: TypeAlias = tuple[int, int]
"""Where an example is: the index of its part, and its own in it."""


def tempered(stage: Stage, parts: Sequence[Part]) -> Sequence[Part]:
    """Give the parts of a stage with a temperature T their shares; as they are where it has none.

    Of parts of the sizes D, in rows or tokens, the i-th has the share D_i^(1/T) / Σ_j D_j^(1/T) (Arivazhagan et al.
    2019, Massively Multilingual Neural Machine Translation in the Wild).
    """
    if stage.temperature is None:
        return parts
    sizes = np.array([part.size * (part.length if stage.by == "tokens" else 1.0) for part in parts])
    # Of the largest, or a low temperature would be too much for a number.
    weights = (sizes / sizes.max()) ** (1 / stage.temperature)
    shares = (weights / weights.sum()).tolist()
    return [replace(part, share=Share(share, share)) for part, share in zip(parts, shares, strict=True)]


def draws(parts: Sequence[Part], by: By, progress: float) -> np.ndarray:
    """Give each part's share of the rows that are drawn at `progress`; they sum to 1."""
    shares = np.array([part.share.at(progress) for part in parts])
    if by == "tokens":
        shares = shares / [part.length for part in parts]
    return np.asarray(shares / shares.sum())


def mean_draws(parts: Sequence[Part], by: By) -> np.ndarray:
    """Give each part's share of the rows that are drawn in a whole stage."""
    return np.asarray(
        np.mean([draws(parts, by, progress) for progress in (np.arange(100) + 0.5) / 100], axis=0)
    )


def drawn_length(parts: Sequence[Part], by: By) -> float:
    """Give the tokens of the rows that are drawn in a whole stage, on average."""
    return float(mean_draws(parts, by) @ [part.length for part in parts])


def most_urgent(credit: np.ndarray, shares: np.ndarray) -> int:
    """Choose the part to draw from, of those with some credit the one that soonest would have a whole row's."""
    slack = 1 / max(2, 2 * len(shares) - 2)
    draws_left = (1 - slack - credit) / (shares + TOLERANCE**2)
    return int(np.where(credit >= slack - TOLERANCE, draws_left, np.inf).argmin())


@dataclass
class MixtureSampler:
    """Says which examples each batch of a stage holds; the same from the same seed, always.

    Of the parts behind their share, every draw goes to the one that would first be a row behind, so that
    realised shares are within one row of what was asked for at every moment (Tijdeman 1980, The chairman
    assignment problem). Each part is reshuffled each time it has been gone through.

    Attributes:
        parts: the mixture's components.
        batch_size: rows a batch.
        batches: how many batches the stage takes; shares that ramp reach their end at the last.
        seed: what, with the task's name and the pass, decides every order.
        by: what the shares are of.
        length_of: where given, batches are of examples of like length by it.
    """

    parts: Sequence[Part]
    batch_size: int
    batches: int
    seed: int
    by: By = "rows"
    length_of: Callable[[Place], int] | None = None

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[Place]]:
        """Give the examples of each batch."""
        if self.length_of is None:
            return self._drawn()
        return bucketed(self._drawn(), self.batches, self.length_of, self.seed)

    def _drawn(self) -> Iterator[list[Place]]:
        credit = np.zeros(len(self.parts))
        orders = [self._passes(part) for part in self.parts]
        for batch in range(self.batches):
            shares = draws(self.parts, self.by, batch / max(1, self.batches - 1))
            rows = []
            for _ in range(self.batch_size):
                credit += shares
                chosen = most_urgent(credit, shares)
                credit[chosen] -= 1
                rows.append((chosen, next(orders[chosen])))
            yield rows

    def _passes(self, part: Part) -> Iterator[int]:
        for epoch in range(2**31):
            generator = np.random.default_rng([self.seed, zlib.crc32(part.task.encode()), epoch])
            yield from map(int, generator.permutation(part.size))
