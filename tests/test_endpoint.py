"""A hosted model as a reference row: what it answers, what it may cost, and what is never written down."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import myosotis
from myosotis.errors import ConfigurationError, ModelError, TrialsFailed
from myosotis.evaluation import predict_batch
from myosotis.interfaces import Model
from myosotis.ledger import StudyRecord
from myosotis.testing import make_task
from myosotis_plugins.metrics.text import ExactMatch
from myosotis_plugins.models.endpoint import Endpoint
from myosotis_plugins.objectives.instruction import Instruction
from myosotis_plugins.objectives.sequence_to_sequence import SequenceToSequence
from tests.plugins import tiny
from tests.serving import Stub, answering, free_port, served

KEY = "sk-a-secret-of-the-tests"
ROWS = [{"prompt": f"What comes after {number}?", "response": str(number + 1)} for number in range(6)]
NEW_TOKENS = 5


@pytest.fixture
def stub() -> Iterator[Stub]:
    with answering() as state:
        yield state


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def overrides(model: Sequence[str], *more: str) -> list[str]:
    return [
        *model,
        "method=[]",
        "curriculum=none",
        "dataset=[]",
        "probe=[]",
        "+probe@probe.sums=file",
        "probe.sums.test=rows.jsonl",
        "probe.sums.objective=instruction",
        "probe.sums.template=question",
        "probe.sums.length=128",
        f"probe.sums.options={{max_new_tokens: {NEW_TOKENS}}}",
        "probe.sums.metrics=[exact_match]",
        "logger=none",
        "trainer.accelerator=cpu",
        "evaluation.resamples=100",
        "hydra.launcher.workers=1",
        *more,
    ]


def hosted(stub: Stub, *more: str) -> list[str]:
    return overrides(["model=endpoint", f"model.url={stub.address}", "model.name=counter"], *more)


def answers(endpoint: Endpoint, rows: Sequence[Mapping[str, Any]] = ROWS, **options: Any) -> list[str]:
    objective = Instruction(max_new_tokens=NEW_TOKENS, **options)
    model = endpoint.load([objective])
    columns = objective.generate(model.module, objective.encode(rows, model), model)
    assert columns["reference"].tolist() == [row["response"] for row in rows]
    texts: list[str] = columns["text"].tolist()
    return texts


# What is asked, and answered


def test_a_study_has_the_hosted_models_row_and_the_key_is_in_no_file(stub: Stub, tmp_path: Path) -> None:
    record = myosotis.run(hosted(stub, "study=hosted"))
    [score] = record.scores.to_dict("records")
    assert (score["stage"], score["task"], score["metric"]) == (0, "sums", "exact_match")
    assert (score["value"], score["n"]) == (1.0, len(ROWS))
    assert set(stub.keys) == {f"Bearer {KEY}"}
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"result.json", "report.html"} <= {path.name for path in written}
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []
    # The row is kept: another study asks nothing, nor does one with a larger budget.
    asked = len(stub.bodies)
    myosotis.run(hosted(stub, "study=again", "model.requests=7"))
    assert len(stub.bodies) == asked == len(ROWS)
    myosotis.run(hosted(stub, "study=anew", "model.revision=2"))
    assert len(stub.bodies) == 2 * asked


def test_what_a_request_holds(stub: Stub) -> None:
    options = {"temperature": None, "max_tokens": None, "max_completion_tokens": 9}
    for template, endpoint in (
        ("question", Endpoint(stub.address, "counter")),
        ("question", Endpoint(stub.address, "counter", by="completions")),
        ("chat", Endpoint(stub.address, "counter", by="completions")),
        ("plain", Endpoint(stub.address, "counter", options=options)),
    ):
        answers(endpoint, ROWS[:1], template=template)
    common = {"model": "counter", "max_tokens": NEW_TOKENS, "temperature": 0}
    text = "Question: What comes after 0?\nAnswer: "
    asked = [{"role": "user", "content": "What comes after 0?"}]
    assert stub.bodies == [
        {**common, "messages": [{"role": "user", "content": text}]},
        {**common, "prompt": text},
        {**common, "messages": asked},
        {
            "model": "counter",
            "messages": [{"role": "user", "content": "What comes after 0?\n"}],
            "max_completion_tokens": 9,
        },
    ]


def test_what_the_objective_asks_for_is_asked_of_the_endpoint_or_refused(stub: Stub) -> None:
    endpoint = Endpoint(stub.address, "counter")
    answers(endpoint, ROWS[:1], temperature=0.7, top_p=0.9)
    assert (stub.bodies[0]["temperature"], stub.bodies[0]["top_p"]) == (0.7, 0.9)
    with pytest.raises(
        ConfigurationError, match=r"asked for 3 beams, .*; give what more it takes in model\.options"
    ):
        answers(endpoint, ROWS[:1], num_beams=3)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "greedy, at most 5 new tokens"),
        (["model.options={temperature: 0.8, seed: 1}"], "max_tokens 5, temperature 0.8, seed 1"),
        (["model.options={temperature: null}"], "max_tokens 5, temperature not said"),
    ],
)
def test_what_is_asked_stands_beside_the_score(stub: Stub, options: list[str], told: str) -> None:
    record = myosotis.run(hosted(stub, *options, "study=told"))
    assert record.scores.settings.tolist() == [told]


def test_answers_stand_in_the_order_of_the_prompts_whatever_is_under_way_at_once(stub: Stub) -> None:
    assert answers(Endpoint(stub.address, "counter", concurrency=4)) == ["1", "2", "3", "4", "5", "6"]


def test_pairs_are_asked_in_their_template(stub: Stub) -> None:
    objective = SequenceToSequence(template="After {source}:", target_length=NEW_TOKENS)
    model = Endpoint(stub.address, "counter", by="completions").load([objective])
    examples = objective.encode([{"source": "8", "target": "9"}], model)
    assert objective.generate(model.module, examples, model)["text"].tolist() == ["9"]
    assert stub.bodies[0]["prompt"] == "After 8:"


def test_a_conversation_is_asked_as_a_chat_or_refused(stub: Stub) -> None:
    said = [("user", "What comes after 1?"), ("assistant", "2"), ("user", "After 7?"), ("assistant", "8")]
    row = {"messages": [{"role": role, "content": content} for role, content in said]}
    chat = Instruction(template="chat")
    model = Endpoint(stub.address, "counter").load([chat])
    chat.generate(model.module, chat.encode([row], model), model)
    assert stub.bodies[0]["messages"] == row["messages"][:-1]
    with pytest.raises(ConfigurationError, match="must have one answer to be put as a text"):
        Instruction(template="plain").encode([row], model)


def test_rows_are_shown_as_they_are_asked(call: Callable[..., tuple[int, str, str]], stub: Stub) -> None:
    code, shown, error = call("data", "show", *hosted(stub))
    assert code == 0, error
    assert "Question: What comes after 0?⏎Answer: " in shown
    assert stub.bodies == []


# `transformers serve`


def test_a_served_model_answers_what_the_same_model_answers_here(tmp_path: Path) -> None:
    folder = tiny.save(tiny.llama(width=64, blocks=2), tmp_path / "model")
    objective = Instruction(max_new_tokens=NEW_TOKENS, template="question")
    here = Model(AutoModelForCausalLM.from_pretrained(folder), tiny.tokenizer())
    with torch.no_grad():
        expected = objective.generate(here.module, objective.encode(ROWS, here), here)["text"].tolist()
    assert len(set(expected)) > 1
    # What it answers is wanted of every second row.
    rows = [
        row | {"response": text if number % 2 else "something else"}
        for number, (row, text) in enumerate(zip(ROWS, expected, strict=True))
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with served(folder, tmp_path / "serve.log") as address:
        endpoint = Endpoint(f"{address}/v1", str(folder), key_variable=None, by="completions")
        assert answers(endpoint, template="question") == expected
        model = ["model=endpoint", f"model.url={address}/v1", f"model.name='{folder}'"]
        there = myosotis.run(
            overrides(model, "model.key_variable=null", "model.by=completions", "study=there")
        )
    local = overrides(["model=huggingface", f"model.path='{folder}'"], "study=here")
    assert value(there) == value(myosotis.run(local)) == 0.5


def value(record: StudyRecord) -> float:
    [score] = record.scores.to_dict("records")
    return float(score["value"])


# What it may cost


def test_a_server_that_fails_twice_is_asked_again(stub: Stub) -> None:
    stub.failures = [500, 500]
    assert answers(Endpoint(stub.address, "counter"), ROWS[:1]) == ["1"]
    assert len(stub.bodies) == 3


def test_one_try_more_than_the_retries_is_not_made(stub: Stub) -> None:
    stub.failures = [500, 500]
    with pytest.raises(ModelError, match=r"gives an error: .*not now"):
        answers(Endpoint(stub.address, "counter", retries=1), ROWS[:1])
    assert len(stub.bodies) == 2


@pytest.mark.parametrize(("failures", "answered"), [([], 4), ([500], 3)])
def test_no_more_requests_are_made_than_there_may_be(stub: Stub, failures: list[int], answered: int) -> None:
    stub.failures = failures
    endpoint = Endpoint(stub.address, "counter", requests=4)
    with pytest.raises(ConfigurationError, match=r"may make 4 requests, .* raise model\.requests"):
        answers(endpoint)
    assert len(stub.bodies) == 4
    stub.bodies.clear()
    stub.failures = failures[:]
    assert len(answers(Endpoint(stub.address, "counter", requests=4), ROWS[:answered])) == answered


def test_a_trial_that_is_out_of_requests_fails_and_says_so(stub: Stub) -> None:
    with pytest.raises(TrialsFailed):
        myosotis.run(hosted(stub, "model.requests=3", "study=few"))
    assert len(stub.bodies) == 3
    record = myosotis.run(hosted(stub, "model.requests=100", "study=few"))
    assert value(record) == 1.0


def test_a_plan_asks_nothing(call: Callable[..., tuple[int, str, str]], stub: Stub) -> None:
    code, _, error = call("plan", *hosted(stub))
    assert code == 0, error
    assert stub.bodies == []


# What cannot be


def test_without_a_key_nothing_is_asked(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ModelError, match=r"OPENAI_API_KEY must hold the endpoint's key, but is not set"):
        myosotis.run(hosted(stub))
    monkeypatch.setenv("OTHER_KEY", "sk-other")
    answers(Endpoint(stub.address, "counter", key_variable="OTHER_KEY"), ROWS[:1])
    assert stub.keys == ["Bearer sk-other"]


@pytest.mark.parametrize("status", [401, 403, 400, 404])
def test_a_refusal_names_the_address_and_never_the_key(stub: Stub, status: int, tmp_path: Path) -> None:
    stub.failures = [status]
    told = {
        401: "refuses it .status 401.*OPENAI_API_KEY",
        403: "status 403",
        404: "take model.by=completions",
    }
    with pytest.raises(
        ModelError, match=f"{stub.address} must .*{told.get(status, 'not now, Bearer …')}"
    ) as error:
        answers(Endpoint(stub.address, "counter"), ROWS[:1])
    assert KEY not in str(error.value)
    stub.failures = [status]
    with pytest.raises(TrialsFailed):
        myosotis.run(hosted(stub, "study=refused"))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert "error.txt" in {path.name for path in files}
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_a_server_that_is_not_there_is_named() -> None:
    address = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(ModelError, match=rf"{address} must answer, but cannot be reached .*[Rr]efused"):
        answers(Endpoint(address, "counter", retries=0), ROWS[:1])


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (
            ["method=[lora]"],
            "gives texts alone has no parameters here.*method=lora would train it.*curriculum=none",
        ),
        (
            ["probe.sums.metrics=[exact_match,perplexity]"],
            "probe.sums: .*perplexity must have its losses.*rougeL",
        ),
        (["model.url=127.0.0.1:8000"], "url must begin with http"),
        (["model.url='http://me:secret@host/v1'"], "url must hold no name and no password"),
        (["model.requests=0"], "requests and concurrency must be at least 1, .* but got 0, 1, 2"),
        (["curriculum=sequential"], "or train nothing with curriculum=none"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_asked(stub: Stub, more: list[str], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        myosotis.run(hosted(stub, *more))
    assert stub.bodies == []


def test_stages_that_train_are_refused(stub: Stub) -> None:
    data = [each.replace("probe", "dataset") for each in hosted(stub) if "sums" in each]
    data += ["dataset.sums.train=rows.jsonl", "curriculum=sequential"]
    plain = [each for each in hosted(stub) if "sums" not in each]
    with pytest.raises(ConfigurationError, match="but its stages would train it"):
        myosotis.run([*plain, *data])


def test_a_model_that_gives_texts_alone_is_asked_for_nothing_else(stub: Stub) -> None:
    objective = Instruction()
    model = Endpoint(stub.address, "counter").load([objective])
    task = make_task("sums", tiny.Texts([]), objective, {"exact_match": ExactMatch()})
    columns = predict_batch(task, model.module, objective.encode(ROWS[:2], model), model, ())
    assert sorted(columns) == ["reference", "settings", "text"]
