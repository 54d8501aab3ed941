"""What W&B's own agent makes of the README's sweep is a command that runs, and logs into the agent's run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb import wandb_agent

from myosotis.config import composer
from myosotis.ledger import read_study
from tests.core.test_processes import offline
from tests.documented import blocks
from tests.test_commands import TINY


def sweep() -> dict[str, Any]:
    """Read the README's sweep."""
    [text] = [text for language, text in blocks("README.md") if language == "yaml"]
    return dict(yaml.safe_load(text))


def made(
    monkeypatch: pytest.MonkeyPatch, command: list[str], values: dict[str, Any]
) -> tuple[list[str], dict[str, str]]:
    """Give the command and the environment that an agent starts a run with; nothing is started."""
    started: list[dict[str, Any]] = []

    class Process:
        last_sigterm_time = None

        def __init__(self, **given: Any) -> None:
            started.append(given)

    monkeypatch.setattr(wandb_agent, "AgentProcess", Process)
    for name in ("WANDB_DIR", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(
            name, os.environ.get(name, str(Path.cwd()))
        )  # the agent sets them; put back afterwards
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    agent = wandb_agent.Agent(api=None, queue=None, sweep_id="sweep1")
    agent._sweep_command = list(command)
    agent._command_run(
        {
            "type": "run",
            "run_id": "run1",
            "program": "myosotis",
            "args": {name: {"value": value} for name, value in values.items()},
        }
    )
    [given] = started
    return given["command"], given["env"]


def test_every_choice_of_the_readmes_sweep_is_an_override(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    parameters = sweep()["parameters"]
    for method in parameters["method"]["values"]:
        values = {"method": method, "optimizer.learning_rate": parameters["optimizer.learning_rate"]["min"]}
        command, _ = made(monkeypatch, sweep()["command"], values)
        assert command == [
            "myosotis",
            "run",
            f"method={method}",
            "optimizer.learning_rate=0.0001",
            "study=wandb",
        ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (8, 8),
        (1e-05, 1e-05),
        (True, True),
        ("[lora,replay]", ["lora", "replay"]),
        (["lora", "replay"], ["lora", "replay"]),
    ],
)
def test_a_value_of_the_agent_is_hydras(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: Any, expected: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    command, _ = made(monkeypatch, ["${args_no_hyphens}"], {"method.lora.rank": value})
    with composer() as compose:
        [parsed] = compose.parse(command)
    read = parsed.value()
    assert (
        [getattr(each, "text", each) for each in read] == expected
        if isinstance(read, list)
        else read == expected
    )


@pytest.mark.slow
def test_the_agents_command_trains_a_trial_in_the_agents_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    values = {"method": sweep()["parameters"]["method"]["values"][1], "optimizer.learning_rate": 0.0123}
    command, environment = made(monkeypatch, sweep()["command"], values)
    path = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    tiny = [each for each in TINY if not each.startswith("logger=")]
    done = subprocess.run(
        [*command, *tiny],
        env={**environment, "WANDB_MODE": "offline", "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [trial] = read_study(tmp_path / "studies" / "wandb").trials.to_dict("records")
    assert trial["arm"] == "lora + replay"
    logged = offline(tmp_path / "studies" / "wandb" / trial["folder"])
    assert logged.run.run_id == "run1"
    assert logged.summary[sweep()["metric"]["name"]] == pytest.approx(trial["learned"])
    assert "optimizer" in logged.config or "optimizer.learning_rate" in logged.config
