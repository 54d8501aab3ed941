"""Every measure and metric is defined from its own source."""

from __future__ import annotations

import pytest

from myosotis.describe import explain
from myosotis.errors import ConfigurationError
from myosotis.plugins import load_registry
from tests.toy import Hits

MEASURES = {
    "learned": "1810.11910",
    "forgotten": "1706.08840",
    "forgotten_base": "probe",
    "average_accuracy": "1706.08840",
    "learning_accuracy": "1810.11910",
    "backward_transfer": "1706.08840",
    "forward_transfer": "1706.08840",
    "forgetting": "1801.10112",
    "average_incremental_accuracy": "1611.07725",
    "minimum_score": "2205.13452",
    "change_from_base": "2310.06762",
    "intransigence": "1801.10112",
}
"""Every measure, and the paper that it comes from."""


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_is_told_with_its_equation_source_and_matrix(name: str) -> None:
    text = explain(name, load_registry())
    assert text.startswith(f"{name}\n\n")
    assert " = " in text
    assert MEASURES[name] in text
    assert "R[l, i] is the score on column i after stage l. Row 0 is the untouched base" in text
    assert "Args:" not in text
    assert "Raises:" not in text


def test_a_metric_is_told_as_its_class_says() -> None:
    text = explain("hits", load_registry())
    assert text.startswith("metric hits")
    assert str(Hits.__doc__) in text


def test_another_name_is_refused_with_the_nearest_and_all() -> None:
    with pytest.raises(ConfigurationError, match="Did you mean forgetting") as refused:
        explain("forgeting", load_registry())
    assert all(name in str(refused.value) for name in MEASURES)
    assert "oriented" not in str(refused.value)
