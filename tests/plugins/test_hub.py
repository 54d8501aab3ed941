"""Data sets of the Hub, from folders of their kind; and what is told where there is no network."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from huggingface_hub import constants

from myosotis.errors import ConfigurationError, DataError
from myosotis.interfaces import Rows, TaskDataset
from myosotis.rows import place_of
from myosotis.testing import TaskDatasetTestSuite
from myosotis_plugins.datasets.hub import Hub
from myosotis_plugins.datasets.hub_commit import commit

FEATURES = datasets.Features(
    {"body": datasets.Value("string"), "kind": datasets.ClassLabel(names=["sea", "land"])}
)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    commit.cache_clear()


def listed(rows: Rows | None) -> list[Any]:
    assert rows is not None
    return [rows[index] for index in range(len(rows))]


def parquet(folder: Path, **splits: list[dict[str, Any]]) -> str:
    """Write a folder as the Hub has them: a file of Parquet a split."""
    for name, rows in splits.items():
        (folder / "data").mkdir(parents=True, exist_ok=True)
        path = folder / "data" / f"{name}-00000-of-00001.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(folder)


def saved(folder: Path, **splits: dict[str, list[Any]]) -> str:
    """Save a folder as `datasets` does."""
    made = {name: datasets.Dataset.from_dict(rows, features=FEATURES) for name, rows in splits.items()}
    datasets.DatasetDict(made).save_to_disk(folder)
    return str(folder)


def texts(count: int, word: str = "row") -> list[dict[str, Any]]:
    return [{"text": f"{word} {number}"} for number in range(count)]


class TestAFolderOfParquet(TaskDatasetTestSuite):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = parquet(tmp_path / "plays", train=texts(40), test=texts(8, "held out"))

    def make(self) -> TaskDataset:
        return Hub(self.folder)


def test_splits_by_their_names_and_a_tenth_where_none_is_for_test(tmp_path: Path) -> None:
    folder = parquet(tmp_path / "plays", train=texts(25), dev=texts(3, "dev"))
    whole = Hub(folder)
    assert listed(whole.split("test")) == texts(25)[-2:]
    assert len(listed(whole.split("train"))) == 23
    assert whole.split("validation") is None
    named = Hub(folder, test="dev", validation="dev")
    assert listed(named.split("test")) == listed(named.split("validation")) == texts(3, "dev")
    assert len(listed(named.split("train"))) == 25
    message = f"test: {folder}: there is no split named 'devv'. Did you mean dev? Known: dev, train"
    with pytest.raises(DataError, match=re.escape(message)):
        Hub(folder, test="devv").split("test")


def test_numbered_labels_get_their_names(tmp_path: Path) -> None:
    rows = {"body": ["a", "b"], "kind": [1, 0]}
    folder = saved(tmp_path / "saved", train=rows, test=rows, blind={"body": ["c"], "kind": [-1]})
    dataset = Hub(folder, objective="classification", columns={"text": "body", "label": "kind"})
    assert dataset.objective()[1]["labels"] == ["sea", "land"]
    assert listed(dataset.split("test")) == [{"text": "a", "label": "land"}, {"text": "b", "label": "sea"}]
    blind = Hub(folder, test="blind", objective="classification", columns={"text": "body", "label": "kind"})
    message = f"{folder}, split blind, row 1: column 'kind': a label must be a number from 0 to 1, but is -1"
    with pytest.raises(DataError, match=re.escape(message)):
        blind.split("test")


def test_numbered_tags_get_their_names(tmp_path: Path) -> None:
    tags = datasets.List(datasets.ClassLabel(names=["O", "B-x"]))
    features = datasets.Features({"tokens": datasets.List(datasets.Value("string")), "ner_tags": tags})
    made = datasets.Dataset.from_dict({"tokens": [["in", "Rome"]], "ner_tags": [[0, 1]]}, features=features)
    datasets.DatasetDict({"test": made}).save_to_disk(tmp_path / "saved")
    dataset = Hub(str(tmp_path / "saved"), objective="token_classification", columns={"tags": "ner_tags"})
    assert listed(dataset.split("test")) == [{"tokens": ["in", "Rome"], "tags": ["O", "B-x"]}]
    assert dataset.objective()[1]["tags"] == ["O", "B-x"]


def test_a_missing_value_is_found_before_anything_trains(tmp_path: Path) -> None:
    folder = parquet(tmp_path / "plays", test=[*texts(700), {"text": None}, *texts(3)])
    message = f"{folder}, split test, row 701: column 'text' must be text, but is NoneType: None"
    with pytest.raises(DataError, match=re.escape(message)):
        Hub(folder).split("test")


def test_a_column_that_is_not_there_or_of_another_type(tmp_path: Path) -> None:
    folder = parquet(tmp_path / "plays", test=[{"body": 3}])
    with pytest.raises(
        DataError, match=re.escape("row 1: must have a column 'text', but has: body; see columns=")
    ):
        Hub(folder).split("test")
    with pytest.raises(DataError, match=re.escape("row 1: column 'body' must be text, but is int: 3")):
        Hub(folder, columns={"text": "body"}).split("test")


def test_a_row_knows_its_place_and_a_folder_its_content(tmp_path: Path) -> None:
    folder = parquet(tmp_path / "plays", test=texts(3))
    dataset = Hub(folder)
    rows = dataset.split("test")
    assert rows is not None
    assert place_of(rows, 2) == f"{folder}, split test, row 3"
    other = parquet(tmp_path / "others", test=texts(3))
    (tmp_path / "others" / ".cache").mkdir()
    (tmp_path / "others" / ".cache" / "when.json").write_text("today")
    assert (
        Hub(other).fingerprint()
        == dataset.fingerprint()
        != Hub(parquet(tmp_path / "x", test=texts(4))).fingerprint()
    )
    with pytest.raises(
        ConfigurationError, match="revision must be of a data set of the Hub, but path is the folder"
    ):
        Hub(folder, revision="main")


def test_a_folder_of_nothing_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty must be what datasets loads, but: "):
        Hub(str(tmp_path / "empty")).split("train")


# Without a network


@pytest.mark.parametrize("use", [Hub.fingerprint, lambda dataset: dataset.split("train")])
def test_an_unreachable_hub_is_asked_once_and_told_what_to_do_instead(
    use: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")
    begun = time.monotonic()
    with pytest.raises(
        DataError,
        match=r"path must be a folder, or the Hub must give some/thing, but does not: .*; without a network, "
        r"download it elsewhere \(hf download --repo-type dataset",
    ):
        use(Hub("some/thing"))
    assert time.monotonic() - begun < 10  # the client alone would try for 24 s


def test_offline_mode_takes_what_was_loaded_before_or_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    assert Hub("some/thing").fingerprint() == "some/thing"
    with pytest.raises(DataError, match="some/thing must be what datasets loads, but: Couldn't reach"):
        Hub("some/thing").split("train")
