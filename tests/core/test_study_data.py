"""A study's data are looked at before it runs: once, bounded, and before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import myosotis
from myosotis import study_check, study_data
from myosotis.data import checked
from myosotis.data_record import FILE, Finding, read_data
from myosotis.errors import ConfigurationError, DataError
from myosotis.interfaces import Model
from myosotis.study import plan_study
from tests.core.commands import toy
from tests.toy import ToyModel

TALK = '''
from myosotis import hookimpl
from myosotis.interfaces import Method
from tests.toy import PointObjective, Points

MYOSOTIS_API = 1


class Each(PointObjective):
    """Each row gives its example; at most seven tokens."""

    in_order = row_by_row = True

    def longest(self, model):
        return 7


class Sorted(Points):
    """Test rows in the order of their labels."""

    def objective(self):
        return "each", {}

    def split(self, name):
        rows = super().split(name) or []
        return rows if name == "train" else sorted(rows, key=lambda row: row["label"])


class Talk(Points):
    """Points with what was said of them."""

    def split(self, name):
        rows = super().split(name) or []
        said = "train" if name == "train" else self.said()
        return [{**row, "text": f"{said} {number}"} for number, row in enumerate(rows)]

    def said(self):
        return "test"


class Copied(Talk):
    """The same in every split."""

    def said(self):
        return "train"


class Silent(Talk):
    """Nothing is said."""

    def split(self, name):
        return [{**row, "text": " "} for row in super().split(name)]


class Still(Method):
    """Trains nothing."""

    trains = False


@hookimpl
def myosotis_datasets():
    return {"talk": Talk, "copied": Copied, "silent": Silent, "sorted": Sorted}


@hookimpl
def myosotis_objectives():
    return {"each": Each}


@hookimpl
def myosotis_methods():
    return {"untrained": Still}
'''
ONE = ("dataset=[talk]", "probe=[]", "trainer.max_steps=2", "study=a")


@pytest.fixture(autouse=True)
def _talk(write_plugin: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_plugin("talk", TALK)
    monkeypatch.setenv("MYOSOTIS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("myosotis.report.write_report", lambda record: None)


def command(*overrides: str) -> list[str]:
    """Give the command of a study on what was said alone; of one key, the last override."""
    given = {each.split("=")[0]: each for each in overrides}
    others = [each for each in toy(*given.values()) if "dataset" not in each and "probe" not in each]
    return [*others, *(each for each in given.values() if "dataset" in each or "probe" in each)]


def test_what_nothing_trains_on_is_not_looked_at() -> None:
    myosotis.run(command(*ONE, "dataset=[copied]", "method=[untrained]"))
    [found] = read_data(Path("studies", "a", FILE)).values()
    assert [split.name for split in found.splits] == ["copied (test)"]
    assert found.findings == []


def test_what_is_found_is_printed_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    myosotis.run(command(*ONE, "dataset=[copied]"))
    found = (
        "copied (train) and copied (test): 64 rows (100.0%) that are scored are trained on, such as 'train 0'"
    )
    assert f"data: {found}; the scores would be too good" in capsys.readouterr().err
    [record] = read_data(Path("studies", "a", FILE)).values()
    assert [f"{each.where}: {each.what}" for each in record.findings] == [found]
    assert [(each.name, each.rows) for each in record.splits] == [
        ("copied (train)", 64),
        ("copied (test)", 64),
    ]


def test_more_than_three_findings_are_left_to_the_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [Finding(f"split {number}", "odd", "look at it") for number in range(5)]
    monkeypatch.setattr(study_data, "findings", lambda splits: found)
    myosotis.run(command(*ONE))
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("data: ")]
    assert told == [
        *(f"data: split {number}: odd; look at it" for number in range(3)),
        "data: 2 more are in the report, and told by myosotis data check",
    ]
    [kept] = read_data(Path("studies", "a", FILE)).values()
    assert kept.findings == found


def test_a_probe_is_held_against_what_is_trained_on(capsys: pytest.CaptureFixture[str]) -> None:
    myosotis.run(command(*ONE, "probe=[copied]"))
    assert "talk (train) and copied (test): 64 rows (100.0%) that are scored" in capsys.readouterr().err


def test_they_are_read_once_whatever_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def counted(task: object, name: str, *others: object) -> object:
        looked.append(name)
        return real(task, name, *others)  # type: ignore[arg-type]

    real = study_data.checked_split
    monkeypatch.setattr(study_data, "checked_split", counted)
    plan_study(command(*ONE), measures=False)
    assert looked == []
    myosotis.run(command(*ONE, "seed=0,1"))
    assert looked == ["train", "test"]
    myosotis.run(command(*ONE, "seed=0,1"))
    myosotis.run(command(*ONE, "seed=2", "study=b"))
    assert looked == ["train", "test"]
    assert read_data(Path("studies", "a", FILE)) == read_data(Path("studies", "b", FILE))
    myosotis.run(command(*ONE, "seed=3", "dataset.talk.angle=5", "study=c"))
    assert looked == ["train", "test"] * 2


def test_they_can_be_left_alone_without_another_study(capsys: pytest.CaptureFixture[str]) -> None:
    first = myosotis.run(command(*ONE[:-1], "dataset=[copied]", "data_check=false"))
    assert "data:" not in capsys.readouterr().err
    assert not (first.folder / FILE).exists()
    again = myosotis.run(command(*ONE[:-1], "dataset=[copied]"))
    assert (again.name, list(again.trials.trial)) == (first.name, list(first.trials.trial))


def test_of_much_data_some_rows_are_looked_at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(study_check, "LOOKED_AT", 10)
    myosotis.run(command(*ONE, "dataset.talk.rows=95"))
    [record] = read_data(Path("studies", "a", FILE)).values()
    assert [(each.rows, each.looked_at) for each in record.splits] == [(95, 10)] * 2
    assert (
        "data: 10 rows of a split were looked at; myosotis data check looks at all" in capsys.readouterr().err
    )


def test_what_stops_stops_before_anything_is_written() -> None:
    with pytest.raises(DataError, match="every row is empty"):
        myosotis.run(command(*ONE, "dataset=[silent]"))
    assert not Path("studies", "a").exists()


def test_a_metric_of_other_columns_is_refused_before_anything_is_written(
    write_plugin: Callable[[str, str], Path],
) -> None:
    write_plugin("odd", ODD)
    with pytest.raises(
        ConfigurationError,
        match="metrics must be of what PointObjective predicts with this model "
        r"\(hit, loss\), but answers reads answer",
    ):
        myosotis.run(command(*ONE, "dataset=[asked]"))
    assert not Path("studies", "a").exists()


ODD = '''
from myosotis import hookimpl
from tests.toy import Hits, Points

MYOSOTIS_API = 1


class Answers(Hits):
    """Reads what is not there."""

    reads = frozenset({"answer"})


class Asked(Points):
    """Points that are scored by what is not there."""

    def metrics(self):
        return ("answers",)


@hookimpl
def myosotis_metrics():
    return {"answers": Answers}


@hookimpl
def myosotis_datasets():
    return {"asked": Asked}
'''


def test_a_damaged_cache_is_made_anew() -> None:
    myosotis.run(command(*ONE))
    [path] = Path("cache", "data").iterdir()
    kept = path.read_text()
    for damaged in ("{", "[]", '{"x": {"splits": [3], "findings": []}}'):
        path.write_text(damaged)
        myosotis.run(command(*ONE, "force=true"))
        assert path.read_text() == kept


def test_of_many_trials_with_other_data_a_few_are_looked_at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(study_check, "MOST_DATA", 2)
    myosotis.run(command(*ONE, "dataset.talk.angle=1,2,3"))
    assert len(read_data(Path("studies", "a", FILE))) == 2
    assert "data: those of 2 trials were looked at, of 3 with different ones" in capsys.readouterr().err


SORTED = ("dataset=[sorted]", "dataset.sorted.rows=400", "evaluation.limit=100")


def test_a_study_is_stopped_whose_scored_rows_lack_a_label() -> None:
    with pytest.raises(
        DataError, match=r"sorted \(test\): the 100 rows that are scored have no '1', which is"
    ):
        myosotis.run(command(*ONE, *SORTED))
    assert not Path("studies", "a").exists()


@pytest.mark.parametrize("setting", ["evaluation.rows=spread", "evaluation.limit=null"])
def test_what_the_advice_names_helps(setting: str) -> None:
    record = myosotis.run(command(*ONE, *SORTED, setting))
    [found] = read_data(record.folder / FILE).values()
    assert found.findings == []
    test = found.splits[1]
    assert test.counts == {"0": 400 - test.counts["1"], "1": test.counts["1"]}
    scored = record.scores.set_index(["stage", "metric"]).n
    assert set(scored) == {100 if "rows" in setting else 400}


def test_all_data_of_a_sweep_are_looked_at() -> None:
    found, different = checked(command(*ONE, "dataset=[copied]", "dataset.copied.rows=64,80", "seed=0,1"))
    assert different == 2
    assert [each.rows for each in found.splits] == [64, 64, 80, 80]
    assert [each.what.split(",")[0] for each in found.findings] == [
        "64 rows (100.0%) that are scored are trained on",
        "80 rows (100.0%) that are scored are trained on",
    ]


@pytest.mark.parametrize("positions", [7, 6])
def test_rows_longer_than_what_the_model_reads_are_refused(
    positions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def outline(self: ToyModel, objectives: object) -> Model:
        return replace(real(self, []), positions=positions)

    real = ToyModel.outline
    monkeypatch.setattr(ToyModel, "outline", outline)
    arguments = command(*ONE, *SORTED, "evaluation.limit=null")
    if positions == 7:
        assert checked(arguments)[1] == 1
        return
    for call in (checked, myosotis.run):
        with pytest.raises(
            ConfigurationError,
            match=r"dataset\.sorted: a row must have at most the 6 tokens that the model has positions for, but "
            "length lets it have 7; lower length",
        ):
            call(arguments)
    assert not Path("studies", "a").exists()
