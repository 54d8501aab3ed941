"""The processes that train one trial together, as each of them sees the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar, cast

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """A trial's processes: which one this is, of how many, and how they tell each other things.

    What they tell waits without end: one may evaluate or save meanwhile. One that is gone is found by whoever
    started it, and ends the others.

    Attributes:
        rank: this process's number; the first, 0, writes all that is written.
        count: how many there are.
        group: what they tell each other things by, on the CPU; None for one alone.
    """

    rank: int = 0
    count: int = 1
    group: Any = None

    @property
    def first(self) -> bool:
        """Whether this process writes and logs."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.count > 1

    def gathered(self, value: T) -> list[T]:
        """Give what each process gives, in the order of their ranks; all must call it."""
        if not self.several:
            return [value]
        from torch import distributed

        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, value, group=self.group)
        return cast(list[T], found)

    def agreed(self, value: T) -> T:
        """Give what the first process gives; all must call it."""
        if not self.several:
            return value
        from torch import distributed

        told: list[Any] = [value]
        distributed.broadcast_object_list(told, src=0, group=self.group)
        return cast(T, told[0])

    def meet(self) -> None:
        """Wait for the others."""
        self.gathered(None)

    def dealt(self, items: list[T]) -> list[list[T]]:
        """Deal items out in equal parts, one a process, in their order."""
        size = len(items) // self.count
        return [items[start : start + size] for start in range(0, size * self.count, size)]


ALONE = Ranks()
"""The one process of a trial that has no other."""
