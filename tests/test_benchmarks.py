"""The benchmarks run, at a tiny size, and their arithmetic is right."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from myosotis_plugins.models.nano import FOLDER, Nano

BENCHMARKS = Path(__file__).parents[1] / "experiments" / "benchmarks"


def load(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    return load("gpu_cohort")


def run(name: str, folder: Path, *arguments: str) -> str:
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# Arithmetic


@pytest.mark.parametrize(
    ("name", "million", "layer", "rest"),
    [
        # As the model cards say; a layer's q, k, v, o and its three of the MLP; what does not multiply.
        ("SmolLM2-135M", 134.5, 2 * 576**2 + 2 * 576 * 192 + 3 * 576 * 1_536, 61 * 576),
        (
            "Qwen2.5-0.5B",
            494.0,
            2 * 896**2 + 2 * 896 * 128 + 3 * 896 * 4_864,
            49 * 896 + 24 * (896 + 2 * 128),  # q, k and v have biases
        ),
        ("Llama-3.2-1B", 1_235.8, 2 * 2_048**2 + 2 * 2_048 * 512 + 3 * 2_048 * 8_192, 33 * 2_048),
    ],
)
def test_the_shapes_are_those_of_the_published_models(
    gpu: ModuleType, name: str, million: float, layer: int, rest: int
) -> None:
    shape = gpu.SHAPES[name]
    module = shape.make(torch.device("meta"))
    total = sum(parameter.numel() for parameter in module.parameters())
    assert total == shape.parameters
    assert total / 1e6 == pytest.approx(million, abs=0.05)
    weights = gpu.frozen_weights(module)
    assert weights == shape.layers * layer + shape.vocabulary * shape.width
    assert weights == total - rest
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}


def test_the_operations_are_those_that_torch_counts(gpu: ModuleType) -> None:
    from peft import LoraConfig, get_peft_model

    shape = gpu.SHAPES["tiny"]
    base = shape.make(torch.device("cpu")).float()
    frozen, length = gpu.frozen_weights(base), 16
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    adapters = sum(each.numel() for each in model.parameters() if each.requires_grad)
    ids = torch.randint(0, shape.vocabulary, (2, length))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    counts = counter.get_flop_counts()["Global"]
    products = sum(count for name, count in counts.items() if "attention" not in str(name))
    # The embeddings do not train, so that nothing asks for the gradient of the first block's input.
    kept = shape.width // shape.heads * shape.groups
    unasked = 2 * (shape.width * (shape.width + 2 * kept) + 3 * 4 * shape.width)
    assert products == ids.numel() * (gpu.flops(frozen, adapters) - unasked)


def test_causal_attention_is_counted_by_the_tokens_that_are_seen(gpu: ModuleType) -> None:
    layers, width, length = 3, 8, 500
    seen = sum(position + 1 for position in range(length))
    products = 2 * (2 * width) * seen * layers  # scores and mixtures: a product and a sum each
    counted = gpu.attention_flops(layers, width, length) * length
    assert counted == pytest.approx(3 * products, rel=2 / length)


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("Something else", None),
    ],
)
def test_a_devices_peak_is_found_by_its_name(gpu: ModuleType, device: str, peak: float | None) -> None:
    assert gpu.peak_tflops(device) == peak


def test_a_speed_up_is_the_median_over_rounds(gpu: ModuleType) -> None:
    alone = gpu.Row("model", "1x256", 1, [100.0, 200.0, 100.0])
    together = gpu.Row("model", "1x256", 16, [900.0, 1000.0, 700.0])
    elsewhere = gpu.Row("model", "4x512", 1, [1.0])
    assert gpu.speed_up(together, [elsewhere, alone, together]) == 7.0
    assert gpu.speed_up(elsewhere, [alone, together]) is None
    assert "| ours, 16 | 900 | 700 to 1,000, n = 3 | 7.00 | – | – | – |" in gpu.table([alone, together])


# What goes wrong


class Failing:
    """Trials whose large cohorts do not fit."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def train(self, count: int, batch: Any, steps: Any) -> None:
        if count >= 4:
            raise torch.OutOfMemoryError("no memory left")
        if count == 2:
            raise ValueError("broken")
        while not steps.step():
            pass

    def free(self) -> None:
        pass


def measurement(gpu: ModuleType, folder: Path, seconds: float) -> Any:
    settings = gpu.Settings(torch.device("cpu"), "32-true", [8], 0.001)
    machine = gpu.Machine(torch.device("cpu"), None)
    end = gpu.time.perf_counter() + seconds
    made = gpu.Measurement(Failing(settings), "tiny", machine, folder / "rows.json", end, rounds=2)
    made._count = lambda row, batch: None
    return made


def test_what_fails_is_a_row(gpu: ModuleType, tmp_path: Path) -> None:
    rows = measurement(gpu, tmp_path, 60).cell(gpu.Batch(1, 16), [1, 2, 4, 8], 60)
    states = {row.trials: row.state for row in rows}
    assert states == {
        0: "",
        1: "",
        2: "failed: ValueError: broken",
        4: "out of memory",
        8: "out of memory, as half as many",
    }
    assert [len(row.tokens_per_second) for row in rows] == [2, 2, 0, 0, 0]
    kept = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["state"] for row in kept] == list(states.values())
    assert "| ours, 4 | out of memory |" in gpu.table(rows)


def test_what_does_not_fit_into_the_time_is_left_out(gpu: ModuleType, tmp_path: Path) -> None:
    rows = measurement(gpu, tmp_path, -1).cell(gpu.Batch(1, 16), [1], 0)
    assert [row.state for row in rows] == ["no time left", "no time left"]
    assert gpu.verdict(rows) == ["tiny 1x16: nothing was measured"]


# Whole runs


@pytest.mark.slow
def test_cohorts_are_measured(gpu: ModuleType, tmp_path: Path) -> None:
    arguments = "--device cpu --shapes tiny --batches 1x16 --cohorts 1 2 --rounds 2 --seconds 0.05 --profile"
    printed = run("gpu_cohort", tmp_path, *arguments.split(), "--peak-tflops", "0.5")
    rows = json.loads((tmp_path / "gpu_cohort.json").read_text())["rows"]
    assert [row["trials"] for row in rows] == [0, 1, 2]
    shape = gpu.SHAPES["tiny"]
    ends = [(32, 32), (32, 16), (32, 16), (32, 32), (32, 64), (32, 64), (64, 32)]  # q, k, v, o, and the MLP
    adapters = shape.layers * sum(8 * (inputs + outputs) for inputs, outputs in ends)
    weights = shape.layers * sum(inputs * outputs for inputs, outputs in ends) + 512 * 32
    for row in rows:
        assert row["state"] == ""
        assert len(row["tokens_per_second"]) == 2
        median = sum(row["tokens_per_second"]) / 2
        assert row["mfu"] == pytest.approx(median * (4 * weights + 6 * adapters) / 0.5e12)
    assert "| tiny | 1x16 | ours, 2 |" in printed
    profile = (tmp_path / "gpu_cohort.profile.txt").read_text()
    assert "# tiny, 1x16, ours, 2" in profile
    assert "aten::mm" in profile


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the rose is red and the violet blue\n" * 400)
    return path


@pytest.fixture
def compare(tmp_path: Path, text: Path) -> Callable[..., str]:
    given = f"--model {FOLDER} --train {text} --eval held={text} --pairs 1 --steps 2 --length 32 --batch 2"

    def compared(*arguments: str) -> str:
        return run("compare", tmp_path, *arguments, *given.split())

    return compared


@pytest.mark.slow
def test_ranks_are_compared(compare: Callable[..., str]) -> None:
    printed = compare("ranks", "--ranks", "2,4", "--launcher", "cohort=2", "--launcher", "workers=1")
    assert "cohorts of 2; 1 at once" in printed
    assert "ranks: ratio" in printed
    assert printed.count(", 2 steps, 128 tokens") == 4  # of two trials, on both sides
    base = sum(parameter.numel() for parameter in Nano().load([]).module.parameters())
    assert printed.count(f"trained, {base:,} not") == 4


@pytest.mark.slow
def test_frozen_blocks_are_compared(compare: Callable[..., str]) -> None:
    printed = compare("freeze", "--blocks", "2", "--lines", "20", "--epochs", "2")
    ours, theirs = [line.split(": ")[1] for line in printed.splitlines() if "parameters trained" in line]
    assert ours.split(", ")[:2] == theirs.split(", ")[:2]
    assert ours.split(", ")[-1] == theirs.split(", ")[-1]  # as many tokens
    assert "freeze: ratio" in printed


@pytest.mark.slow
def test_training_and_start_are_compared(compare: Callable[..., str]) -> None:
    printed = compare("training", "start", "--launcher", "workers=1")
    assert "training: ratio" in printed
    assert [line.split(": ")[1] for line in printed.splitlines() if line.startswith("start: ")] == [
        "--help",
        "plugins",
        "rerun of a finished study",
    ]


@pytest.mark.slow
def test_a_sweep_is_held_against_one_trial_at_a_time(compare: Callable[..., str]) -> None:
    printed = compare("ranks-small", "--against", "alone", "--ranks", "2,4", "--launcher", "cohort=2")
    assert "ranks-small: ratio" in printed
    assert "at most 1" in printed
    assert "  one at a time " in printed


def test_different_work_is_refused(tmp_path: Path) -> None:
    module = load("compare")
    with pytest.raises(SystemExit, match="the same parameters"):
        module.check_same([module.Trial(1, 2, 3, 4)], [module.Trial(2, 2, 3, 4)])


@pytest.mark.slow
def test_memory_is_measured(tmp_path: Path) -> None:
    arguments = "--width 64 --layers 1 --vocabulary 300 --steps 1 --rounds 1 --trials 2 --length 16"
    printed = run("memory", tmp_path, *arguments.split())
    assert "2 trials over one, 1x16:" in printed
    one, two = [float(line.split(":")[1].split()[0]) for line in printed.splitlines() if line[:2] == "  "]
    # MB: a process with torch in it; a second trial of so small a model is less than the noise.
    assert one > 100
    assert two == pytest.approx(one, rel=0.2)


@pytest.mark.slow
def test_streaming_is_measured(tmp_path: Path) -> None:
    printed = run("streaming", tmp_path, "--megabytes", "0.1", "--steps", "1").splitlines()
    assert [line.split(":")[0] for line in printed] == [
        "on disk",
        "on disk",
        "  10 times the data",
        "in memory",
        "in memory",
        "  10 times the data",
        "hub",
        "hub",
        "  10 times the data",
    ]
    few, many = (int(line.split(", ")[1].split(" ")[0].replace(",", "")) for line in printed[:2])
    assert many >= 5 * few  # whole thousands of rows
    assert float(printed[2].split(": ")[1].split(" ")[0]) < 1.1


@pytest.mark.slow
def test_planning_the_report_and_the_rerun_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scale = load("scale")
    for name, value in {"SIZES": (20, 40), "PLANNED": (20, 40), "RERUN": 20}.items():
        monkeypatch.setattr(scale, name, value)
    monkeypatch.setattr(sys, "argv", ["scale.py", "planning", "report", "rerun", "--rounds", "1"])
    scale.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines if "s, of the processor" in line] == [
        "planning, 20 trials",
        "planning, 40 trials",
        "report, 20 trials",
        "report, 40 trials",
        "rerun, 20 trials",
    ]
    assert any(line.startswith("  the page over 40 trials: ") for line in lines)


@pytest.mark.slow
def test_a_plan_is_held_against_its_run(tmp_path: Path) -> None:
    tiny = ["method=[lora]", "trainer.max_steps=1", "evaluation.limit=2", "evaluation.resamples=100"]
    printed = run("plan", tmp_path, *tiny, "hydra.launcher.workers=1", "logger=none", "--rounds", "1")
    assert "n = 1, load of the machine" in printed
    # A step of 8 x 128 tokens in each of two stages.
    assert "tokens: estimate 2,048.0, truth 2,048.0, ratio 1.00 [1.00, 1.00]" in printed


@pytest.mark.slow
def test_a_study_is_killed_and_goes_on(tmp_path: Path) -> None:
    tiny = ["method=[lora]", "trainer.max_steps=1", "evaluation.limit=2", "logger=none", "study=killed"]
    printed = run("kills", tmp_path, *tiny, "--kills", "1", "--most-seconds", "1", "--workers", "1")
    assert (
        "1 kills over 1 studies of 1 trials, 0 of them after some had finished: all files the same" in printed
    )


@pytest.mark.skipif(not shutil.which("chromium"), reason="there is no chromium")
def test_the_reports_page_is_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = load("report_page")
    monkeypatch.setattr(page, "ARMS", ("full", "replay"))
    monkeypatch.setattr(page, "RANKS", (4, 8))
    monkeypatch.setattr(sys, "argv", ["report_page.py", "--rounds", "1"])
    page.main()
    told = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert told == ["32 trials, drawn", "32 trials, searched"]


# What evaluation takes


def test_enough_is_evaluated_as_the_note_says() -> None:
    evaluation = load("evaluation")
    note = (BENCHMARKS / "evaluation.md").read_text(encoding="utf-8")
    for name, overrides in evaluation.STUDIES.items():
        tasks = list(evaluation.evaluated(overrides))
        assert all(rows >= 200 or tokens >= 8_000 for _, rows, tokens in tasks)
        told = ", ".join(f"{task} {rows} rows, {tokens:,} tokens" for task, rows, tokens in tasks)
        assert f"| {name} | {told} |" in note


@pytest.mark.slow
def test_the_share_of_evaluation_grows_with_what_is_evaluated() -> None:
    evaluation = load("evaluation")
    shares = [
        evaluation.share([f"evaluation.limit={limit}", "trainer.max_steps=1", "logger=none"])
        for limit in (1, 64)
    ]
    assert 0 < shares[0] < shares[1] < 1


@pytest.mark.slow
def test_the_table_of_evaluation_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = load("evaluation")
    monkeypatch.setattr(evaluation, "STUDIES", {"labels": evaluation.STUDIES["labels: a task, a probe"]})
    tiny = ["trainer.max_steps=1", "evaluation.limit=2", "evaluation.resamples=100"]
    monkeypatch.setattr(sys, "argv", ["evaluation.py", "--rounds", "1", *tiny])
    evaluation.main()
    *_, row = capsys.readouterr().out.splitlines()
    assert re.match(r"\| labels \| pymodule 2 rows, \d+ tokens, pydocs 2 rows, 256 tokens \| ", row)
    assert row.endswith(" | does not hold |")


# OPT in 8 bits


def test_opt_has_the_published_parameters_and_those_that_the_guides_train() -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    opt = load("gpu_opt")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("opt", **opt.SHAPES["opt-6.7b"]))
        adapted = get_peft_model(model, LoraConfig(r=opt.RANK, target_modules=opt.TARGETS))
    assert adapted.get_nb_trainable_parameters() == (8_388_608, 6_666_862_592)


@pytest.mark.slow
def test_opt_is_trained_by_both_sides(tmp_path: Path) -> None:
    tiny = ["--device", "cpu", "--shape", "tiny", "--steps", "2", "--batch", "2", "--length", "16"]
    printed = run("gpu_opt", tmp_path, *tiny, "--rounds", "1")
    rows = [line.split("|") for line in printed.splitlines() if line.startswith(("| ours", "| library"))]
    assert [row[1].strip() for row in rows] == ["ours", "library"]
    trained = 2 * 2 * 16 * (64 + 64)
    assert [row[3].strip() for row in rows] == [f"{trained:,}"] * 2


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["local", "ray"])
def test_fake_trials_run_on_a_backend(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    printed = run("fake_trials", tmp_path, "backends", "--backend", backend, "--trials", "250")
    assert printed.startswith(f"{backend}, 250 trials of 50 ms on 2 workers: ")
    seconds = float(printed.split(": ")[1].split(" s")[0])
    assert seconds > 250 * 0.05 / 2  # each did sleep


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    printed = run("fake_trials", tmp_path, "writers", "--writers", "12")
    assert printed.startswith("12 writers: 240 of 240 trials are there")
