"""Logging a trial: to its run folder always, and to the logger that the configuration names."""

from __future__ import annotations

import inspect
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from hydra.errors import HydraException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from myosotis.errors import ConfigurationError, in_one_line
from myosotis.ledger import Score, write_text
from myosotis.logs import trial_log, warn
from myosotis.storage import stored

METRICS = "metrics.jsonl"
RUN_KEYS = ("study", "trial", "name", "folder")
HYDRA_KEYS = {"_target_", "_args_", "_partial_", "_convert_", "_recursive_"}
WAIT_SECONDS = 30.0
"""How long a trial waits for W&B to begin a run, and at its end to take in what is left."""
UPLOAD_SECONDS = 3600.0
"""The same where the end uploads adapters or weights."""


class Logger(Protocol):
    """What a trial needs of a logger; every Lightning logger has it."""

    def log_hyperparams(self, params: Any) -> Any:
        """Log the configuration."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> Any:
        """Log values at a step."""

    def finalize(self, status: str) -> Any:
        """Close the logger; `status` is success or failed."""


def check_logger(node: DictConfig | None) -> None:
    """See that what a configuration names as its logger is there, and takes the parameters given.

    Raises:
        ConfigurationError: it cannot be imported, or called so.
    """
    target = node.get("_target_") if node else None
    if node is None or not target:
        return
    try:
        made = get_object(target)
    except Exception as error:  # whatever importing it raises
        raise ConfigurationError(f"logger._target_: {error}") from error
    try:
        whole = _filled_in(node, dict.fromkeys(RUN_KEYS, "x"))
        OmegaConf.resolve(whole)
        given = [str(key) for key in node if str(key) not in HYDRA_KEYS]
        _signature(made).bind(*(node.get("_args_") or []), **dict.fromkeys(given))
    except (TypeError, OmegaConfBaseException) as error:
        raise ConfigurationError(f"logger: {target}: {error}") from error


def _signature(made: Any) -> inspect.Signature:
    try:
        return inspect.signature(made)
    except ValueError:  # it is not written in Python, and takes what it takes
        return inspect.signature(lambda *args, **kwargs: None)


def _filled_in(node: DictConfig, run: Mapping[str, str]) -> DictConfig:
    return OmegaConf.create({"run": dict(run), "logger": OmegaConf.to_container(node)})


def open_logger(node: DictConfig | None, run: Mapping[str, str]) -> Logger | None:
    """Make the logger that a configuration names by `_target_`; None where it names none.

    One that cannot be opened is left out with a warning: it must never end a trial.

    Args:
        node: the logger's parameters.
        run: the study, trial, name and folder that fill in the node's `${run.*}`.
    """
    if not node or not node.get("_target_"):
        return None
    try:
        logger: Logger = instantiate(_filled_in(node, run).logger)
    except Exception as error:  # whatever a logger raises
        cause = error.__cause__ if isinstance(error, HydraException) and error.__cause__ else error
        warn(
            f"the logger {node['_target_']} could not be opened: {_told(cause)}. The trial goes on without "
            f"it; all that it would show is in {_short(Path(run['folder']) / METRICS)}",
            run["trial"],
        )
        return None
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
        self.folder = Path(save_dir)
        self.group = group
        self.artifacts = artifacts
        self.run = self._begin(
            {
                "project": project,
                "entity": entity,
                "tags": list(tags),
                "group": group,
                "id": id,
                "name": name,
                "dir": save_dir,
            }
        )

    def _begin(self, run: Mapping[str, Any]) -> Any:
        """Begin the run: online where that is asked for and can be, else offline."""
        import wandb

        mode = wandb_mode()
        if mode != "online":
            return self._init(run, mode)
        try:
            return self._init(run, mode)
        except (wandb.Error, TimeoutError) as error:
            # This process and its workers wait for an unreachable server once, not once a trial.
            os.environ["WANDB_MODE"] = "offline"
            refused = re.search(r"\b(401|403)\b", str(error))
            login = "the key is refused, which may have expired: wandb login --relogin; " if refused else ""
            warn(
                f"Weights & Biases cannot be reached: {_told(error)}. This trial and those after it are logged "
                f"offline; {login}to upload later: wandb sync {_short(self.folder.parent)}/*/wandb/offline-run-*",
                run["id"],
            )
            return self._init(run, "offline")

    def _init(self, run: Mapping[str, Any], mode: Any) -> Any:
        import wandb

        settings = wandb.Settings(
            console="off",
            # A killed process loses at most the last second.
            x_transaction_log_flush_interval=1.0,
            init_timeout=WAIT_SECONDS,
            finish_timeout=UPLOAD_SECONDS if self.artifacts else WAIT_SECONDS,
            finish_timeout_raises=True,
        )

        def begin() -> Any:
            # Several runs live in one process, one after another or side by side.
            return wandb.init(
                **run,
                mode=mode,
                resume="allow" if mode == "online" else None,
                reinit="create_new",
                settings=settings,
            )

        try:
            return begin()
        except (wandb.Error, TimeoutError):
            raise
        except Exception:  # its service was killed: all runs of this process are over, and a new one is begun
            with suppress(Exception):
                wandb.teardown()
            return begin()

    def log_hyperparams(self, params: Any) -> None:
        """Log the resolved configuration."""
        self.run.config.update(dict(params), allow_val_change=True)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log values; the step is a value of its own, since a resumed run may repeat one."""
        self.run.log({**metrics, "total_step": step})

    def log_result(self, scores: Sequence[Score], summary: Mapping[str, float]) -> None:
        """Log the summary, the score matrix as a table, and the adapter where that is asked for."""
        import wandb

        self.run.summary.update(dict(summary))
        columns = [field.name for field in fields(Score)]
        # Asks the server, and may raise.
        self.run.log(
            {"scores": wandb.Table(columns=columns, data=[list(astuple(score)) for score in scores])}
        )
        if self.artifacts and (self.folder / "adapter").is_dir():
            artifact = wandb.Artifact(f"adapter-{self.run.id}", type="model")
            artifact.add_dir(str(self.folder / "adapter"))
            self.run.log_artifact(artifact)

    def finalize(self, status: str) -> None:
        """Close the run.

        Raises:
            TimeoutError: W&B took too long to upload.
        """
        self.run.finish(exit_code=0 if status == "success" else 1)

    def place(self) -> str:
        """Say where the study's runs are: their group's page, or their folders."""
        if self.run.offline:
            return f"W&B, offline: {_short(self.folder.parent)}/*/wandb/offline-run-*"
        return f"W&B: {self.run.project_url}/groups/{quote(self.group, safe='')}"

    def advice(self) -> str:
        """Say what to do about a run that broke off."""
        return f"; to upload what W&B has so far: wandb sync {_short(Path(self.run.dir).parent)}"


def wandb_mode() -> Any:
    """Give the mode asked for in the environment; else online with a key, and offline without."""
    if os.environ.get("WANDB_MODE"):
        return os.environ["WANDB_MODE"]
    import wandb

    # Whether the key is right shows when the run begins; asking here would wait for the server too.
    return "online" if wandb.login(prompt=False, verify=False) else "offline"


class Tracker:
    """Writes `metrics.jsonl`, and tells the same to the logger where there is one.

    Args:
        folder: the run folder.
        logger: what is told too; once it raises, it is left out, and the trial goes on.
        trial: the trial's name in its log; "" is all that train in this process.
    """

    def __init__(self, folder: Path, logger: Logger | None = None, trial: str = "") -> None:
        self.path = folder / METRICS
        self.logger = logger
        self.trial = trial

    def start(self, config: Mapping[str, Any], stage: int, step: int | None = None) -> None:
        """Log the configuration; where a trial goes on, forget what came after a point.

        Args:
            config: the resolved configuration.
            stage: the last stage that is kept; 0 keeps nothing.
            step: the last optimizer step of it that is kept; None keeps all.

        Raises:
            StorageError: `metrics.jsonl` cannot be written.
        """
        entries = self._entries()
        kept = [
            line
            for line, (at, after) in entries
            if at < stage or (at == stage and (step is None or after <= step))
        ]
        write_text(self.path, "".join(f"{line}\n" for line in kept))
        self._tell(lambda logger: logger.log_hyperparams(dict(config)))

    def _entries(self) -> list[tuple[str, tuple[int, int]]]:
        """List the lines with their stage and step; a kill may have left half of the last one."""
        if not self.path.is_file():
            return []
        lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n")
        entries = [(line, point) for line in lines if (point := _point(line))]
        damaged = sum(1 for line in lines[:-1] if not _point(line))
        if damaged:
            trial_log(self.trial).warning("%d damaged lines of %s are left out", damaged, self.path)
        return entries

    def log(self, stage: int, step: int, total_step: int, values: Mapping[str, float]) -> None:
        """Log values of an optimizer step; `total_step` counts over all stages.

        Raises:
            StorageError: `metrics.jsonl` cannot be written.
        """
        entry = {"stage": stage, "step": step, "total_step": total_step, **values}
        with stored(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        self._tell(
            lambda logger: logger.log_metrics({**values, "stage": stage, "step": step}, step=total_step)
        )

    def place(self) -> str:
        """Say where the logger shows the study; nothing where it does not say so."""
        return self.logger.place() if isinstance(self.logger, WandbRun) else ""

    def finish(self, scores: Sequence[Score], summary: Mapping[str, Any]) -> None:
        """Log the score matrix and the headline, and close the logger."""
        numbers = {key: value for key, value in summary.items() if _is_number(value)}

        def close(logger: Logger) -> None:
            try:
                if isinstance(logger, WandbRun):
                    logger.log_result(scores, numbers)
                else:
                    logger.log_metrics(numbers)
            finally:
                logger.finalize("success")

        self._tell(close)

    def fail(self) -> None:
        """Close the logger of a failed trial."""
        self._tell(lambda logger: logger.finalize("failed"))

    def _tell(self, tell: Callable[[Logger], object]) -> None:
        """Tell the logger something; one that raises is left out from then on."""
        if self.logger is None:
            return
        try:
            tell(self.logger)
        except Exception as error:  # whatever a logger raises
            advice = self.logger.advice() if isinstance(self.logger, WandbRun) else ""
            warn(
                f"the logger {type(self.logger).__name__} failed: {_told(error)}. The trial goes on without it; "
                f"nothing is missing from {_short(self.path)}{advice}",
                self.trial,
            )
            self.logger = None


def _point(line: str) -> tuple[int, int] | None:
    """Read the stage and the step of a line of `metrics.jsonl`; None where it is damaged."""
    try:
        entry = json.loads(line)
        return int(entry["stage"]), int(entry["step"])
    except (ValueError, TypeError, KeyError):
        return None


def _told(error: BaseException) -> str:
    return in_one_line(error).rstrip(".")


def _short(path: Path) -> str:
    return os.path.relpath(path)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
