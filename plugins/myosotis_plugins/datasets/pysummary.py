"""Summaries: from a function of Python's standard library to the first line of its docstring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from myosotis import hookimpl
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Rows, Split, TaskDataset
from myosotis_plugins.datasets import standard_library

MYOSOTIS_API = 1

ASKED = "Say in one line what this function does."


class PySummary(TaskDataset):
    """Write the summary line of a function of Python's standard library, from its code.

    Every Python installation holds it. Splits are disjoint by module from each other and from what `nano` was
    trained on. `metrics=[cross_entropy,rougeL]` lets the model write its summaries.

    Args:
        length: the most tokens of a function; its end is cut to fit, of an instruction's its beginning.
        target_length: the most tokens of a summary, which has 20 to 80 letters.
        metrics: what the rows are scored by, the headline's first; the objective's own where not given.
        objective: `instruction` asks for the summary in words, behind the function.
    """

    def __init__(
        self,
        length: int = 192,
        target_length: int = 96,
        metrics: list[str] | None = None,
        objective: Literal["sequence_to_sequence", "instruction"] = "sequence_to_sequence",
    ) -> None:
        if min(length, target_length) < 2:
            raise ConfigurationError(
                f"length and target_length must be at least 2 tokens, but got {length} and {target_length}"
            )
        self.length = length
        self.target_length = target_length
        self.chosen_metrics = tuple(metrics or ())
        self.way = objective

    def objective(self) -> tuple[str, Mapping[str, Any]]:
        """Choose the way from text to text."""
        if self.way == "instruction":
            most = self.length + self.target_length
            return "instruction", {"length": most, "max_new_tokens": self.target_length}
        return "sequence_to_sequence", {
            "length": self.length,
            "target_length": self.target_length,
            "template": "{source}\n# Summary: ",
        }

    def metrics(self) -> tuple[str, ...]:
        """Name the chosen metrics."""
        return self.chosen_metrics

    def split(self, name: Split) -> Rows:
        """Give the rows of the split's modules, in no order."""
        rows = standard_library.shuffled(standard_library.summaries(name))
        if self.way == "sequence_to_sequence":
            return rows
        return [{"prompt": f"{row['source']}\n\n{ASKED}", "response": row["target"]} for row in rows]

    def fingerprint(self) -> str:
        """Hash the standard library."""
        return standard_library.fingerprint()


@hookimpl
def myosotis_datasets() -> Mapping[str, type[TaskDataset]]:
    """Give the dataset."""
    return {"pysummary": PySummary}
