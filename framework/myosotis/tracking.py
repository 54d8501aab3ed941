"""Logging a trial: to its run folder always, and to the logger that the configuration names."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any, Protocol

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from myosotis.errors import ConfigurationError
from myosotis.ledger import Score


class Logger(Protocol):
    """What a trial needs of a logger; every Lightning logger has it."""

    def log_hyperparams(self, params: Any) -> Any:
        """Log the configuration."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> Any:
        """Log values at a step."""

    def finalize(self, status: str) -> Any:
        """Close the logger; `status` is success or failed."""


def check_logger(node: DictConfig | None) -> None:
    """See that what a configuration names as its logger is there.

    Raises:
        ConfigurationError: it cannot be imported.
    """
    target = node.get("_target_") if node else None
    if not target:
        return
    try:
        get_object(target)
    except Exception as error:  # whatever importing it raises
        raise ConfigurationError(f"logger._target_: {error}") from error


def open_logger(node: DictConfig | None, run: Mapping[str, str]) -> Logger | None:
    """Make the logger that a configuration names by `_target_`; None where it names none.

    Args:
        node: the logger's parameters.
        run: the study, trial, name and folder that fill in the node's `${run.*}`.
    """
    if not node or not node.get("_target_"):
        return None
    whole = OmegaConf.create({"run": dict(run), "logger": OmegaConf.to_container(node)})
    logger: Logger = instantiate(whole.logger)
    return logger


class WandbRun:
    """A Weights & Biases run of a trial's own: online with a key, offline without.

    Args:
        project: where the run goes.
        entity: whose project; None is the key's owner.
        tags: the run's tags.
        artifacts: whether the finished trial's adapter or weights are uploaded.
        group: the study.
        id: the trial; a trial that goes on goes on in the same run.
        name: what the run is called.
        save_dir: the run folder.
    """

    def __init__(
        self,
        project: str,
        entity: str | None,
        tags: Sequence[str],
        artifacts: bool,
        group: str,
        id: str,
        name: str,
        save_dir: str,
    ) -> None:
        # The client must not print into the progress lines.
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        self.folder = Path(save_dir)
        self.artifacts = artifacts
        online = wandb_mode() == "online"
        self.run = wandb.init(
            project=project,
            entity=entity,
            tags=list(tags),
            group=group,
            id=id,
            name=name,
            dir=save_dir,
            mode=wandb_mode(),
            resume="allow" if online else None,
            # Several runs live in one process, one after another or side by side.
            reinit="create_new",
            # A killed process loses at most the last second.
            settings=wandb.Settings(x_transaction_log_flush_interval=1.0, console="off"),
        )

    def log_hyperparams(self, params: Any) -> None:
        """Log the resolved configuration."""
        self.run.config.update(dict(params), allow_val_change=True)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log values; the step is a value of its own, since a resumed run may repeat one."""
        self.run.log({**metrics, "total_step": step})

    def log_result(self, scores: Sequence[Score], summary: Mapping[str, float]) -> None:
        """Log the score matrix as a table, the summary, and the adapter where that is asked for."""
        import wandb

        columns = [field.name for field in fields(Score)]
        self.run.log(
            {"scores": wandb.Table(columns=columns, data=[list(astuple(score)) for score in scores])}
        )
        self.run.summary.update(dict(summary))
        if self.artifacts and (self.folder / "adapter").is_dir():
            artifact = wandb.Artifact(f"adapter-{self.run.id}", type="model")
            artifact.add_dir(str(self.folder / "adapter"))
            self.run.log_artifact(artifact)

    def finalize(self, status: str) -> None:
        """Close the run."""
        self.run.finish(exit_code=0 if status == "success" else 1)


def wandb_mode() -> Any:
    """Give the mode asked for in the environment; else online with a key, and offline without."""
    if os.environ.get("WANDB_MODE"):
        return os.environ["WANDB_MODE"]
    import wandb

    return "online" if wandb.login(prompt=False) else "offline"


class Tracker:
    """Writes `metrics.jsonl`, and tells the same to the logger where there is one."""

    def __init__(self, folder: Path, logger: Logger | None = None) -> None:
        self.path = folder / "metrics.jsonl"
        self.logger = logger

    def start(self, config: Mapping[str, Any], after_stage: int) -> None:
        """Log the configuration; where a trial goes on, forget what came after its last finished stage."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        kept = [line for line in lines if json.loads(line)["stage"] <= after_stage]
        self.path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        if self.logger is not None:
            self.logger.log_hyperparams(dict(config))

    def log(self, stage: int, step: int, total_step: int, values: Mapping[str, float]) -> None:
        """Log values of an optimizer step; `total_step` counts over all stages."""
        entry = {"stage": stage, "step": step, "total_step": total_step, **values}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        if self.logger is not None:
            self.logger.log_metrics({**values, "stage": stage, "step": step}, step=total_step)

    def finish(self, scores: Sequence[Score], summary: Mapping[str, Any]) -> None:
        """Log the score matrix and the headline, and close the logger."""
        if self.logger is None:
            return
        numbers = {key: value for key, value in summary.items() if _is_number(value)}
        if isinstance(self.logger, WandbRun):
            self.logger.log_result(scores, numbers)
        else:
            self.logger.log_metrics(numbers)
        self.logger.finalize("success")

    def fail(self) -> None:
        """Close the logger of a failed trial."""
        if self.logger is not None:
            self.logger.finalize("failed")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
