"""The ledger: what a study has on disk, written atomically and read back as tables.

studies/<study>/study.json                      which trials answer the study's question
studies/<study>/<trial>/config.yaml manifest.json scores.jsonl metrics.jsonl adapter/ checkpoints/
studies/<study>/<trial>/result.json             written last: the trial is finished
studies/<study>/<trial>/error.txt               the trial failed
studies/.base/<key>.json                        rows of the untouched base, shared by all studies
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from myosotis.errors import ConfigurationError, unknown_name

if TYPE_CHECKING:
    import pandas as pd

SCORE_COLUMNS = (
    "trial",
    "arm",
    "overrides",
    "seed",
    "stage",
    "step",
    "task",
    "split",
    "metric",
    "value",
    "n",
    "low",
    "high",
)
HEADLINE = ("learned", "forgotten", "forgotten_base")
RESULT_COLUMNS = (
    *HEADLINE,
    "metric",
    "trainable_parameters",
    "total_parameters",
    "seconds",
    "tokens",
    "peak_memory_bytes",
)


@dataclass(frozen=True)
class Score:
    """One score of one task after a stage; stage 0 is the untouched base.

    Attributes:
        step: optimizer steps taken within the stage.
        n: what the value is a mean over, such as tokens or rows.
        low: lower end of the 95 % bootstrap interval over examples.
        high: upper end.
    """

    stage: int
    step: int
    task: str
    split: str
    metric: str
    value: float
    n: int
    low: float
    high: float


@dataclass(frozen=True)
class TrialEntry:
    """A trial as its study lists it.

    Attributes:
        id: the hash over what can change its numbers.
        folder: its run folder, relative to the study's; another study's where it was reused.
        swept: the swept keys and their values, without seed and order.
    """

    id: str
    folder: str
    arm: str
    swept: Mapping[str, Any]
    seed: int
    order: str

    @property
    def overrides(self) -> str:
        """The swept values as one text, as they would stand on the command line."""
        return " ".join(f"{key}={value}" for key, value in self.swept.items())

    @property
    def configuration(self) -> str:
        """The trial's name without seed and order: trials that share it are replicates."""
        values = [f"{key.removeprefix('method.')}={value}" for key, value in self.swept.items()]
        return " ".join([self.arm, *values])

    @property
    def point(self) -> tuple[str, str, int, str]:
        """What a study has once: an arm at swept values, with one seed and one order."""
        return self.arm, self.overrides, self.seed, self.order


Status = Literal["finished", "failed", "unfinished"]


@dataclass(frozen=True)
class StudyRecord:
    """A study read back from its folder.

    Attributes:
        name: the study's name.
        folder: the study's folder; the report is written here.
        scores: one row a score, columns `SCORE_COLUMNS`; stage 0 is the untouched base.
        trials: one row a trial: `trial, arm, overrides, configuration, seed, order, status, error,
            learned, forgotten, forgotten_base, metric, trainable_parameters, total_parameters,
            seconds, tokens, peak_memory_bytes, swept`. `configuration` names the trial without its
            seed and order (trials that share it are replicates); `swept` maps each swept key except
            seed and order to its value; `status` is finished, failed or unfinished.
        columns: one row a column of the score matrix, in order: `task, role, metric,
            higher_is_better`; `role` is task or probe, `metric` the one that the headline uses.
    """

    name: str
    folder: Path
    scores: pd.DataFrame
    trials: pd.DataFrame
    columns: pd.DataFrame


def content_hash(value: Any, size: int = 6) -> str:
    """Hash plain values (mappings, sequences, texts, numbers), whatever the order of their keys."""
    text = json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()


def file_hash(paths: Iterable[Path]) -> str:
    """Hash the contents of files."""
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all, whatever happens meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; what is not a number becomes null."""
    write_text(path, json.dumps(_finite(value), indent=1, ensure_ascii=False, default=str) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value


def write_scores(path: Path, scores: Sequence[Score]) -> None:
    """Write scores as JSON lines, atomically."""
    lines = [json.dumps(_finite(asdict(score)), ensure_ascii=False) + "\n" for score in scores]
    write_text(path, "".join(lines))


def read_scores(path: Path) -> list[Score]:
    """Read scores back."""
    if not path.is_file():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [score_from(row) for row in rows]


def score_from(row: Mapping[str, Any]) -> Score:
    """Make a score of a row as it was written; null is not a number."""
    values: dict[str, Any] = {key: math.nan if value is None else value for key, value in row.items()}
    return Score(**values)


def status(folder: Path) -> Status:
    """Tell how far a trial's run folder has come."""
    if (folder / "result.json").is_file():
        return "finished"
    return "failed" if (folder / "error.txt").is_file() else "unfinished"


def place(studies: Path, study: str, trial: str, force: bool = False) -> str:
    """Choose a trial's run folder, relative to its study's.

    The newest of this study where there is one; else a finished one of another study, which is reused;
    else a new one. `force` gives one beside the finished ones.
    """
    own = _attempts(studies / study, trial)
    if own and not (force and status(own[-1]) == "finished"):
        return own[-1].name
    if own:
        return f"{trial}.{len(own) + 1}"
    others = [path for path in sorted(studies.glob(f"*/{trial}*")) if _attempt(path.name, trial)]
    finished = [path for path in others if status(path) == "finished"]
    if finished and not force:
        return os.path.relpath(max(finished, key=lambda path: path.stat().st_mtime), studies / study)
    return trial


def _attempt(name: str, trial: str) -> int | None:
    rest = name.removeprefix(trial)
    if rest == "":
        return 1
    return int(rest[1:]) if rest[0] == "." and rest[1:].isdigit() else None


def _attempts(study: Path, trial: str) -> list[Path]:
    found = [(number, path) for path in study.glob(f"{trial}*") if (number := _attempt(path.name, trial))]
    return [path for _, path in sorted(found)]


def write_study(folder: Path, command: Sequence[str], entries: Sequence[TrialEntry]) -> list[TrialEntry]:
    """List trials in their study; those of earlier commands stay unless they are the same point."""
    points = {entry.point for entry in entries}
    kept = [entry for entry in read_entries(folder) if entry.point not in points]
    merged = [*kept, *entries]
    write_json(
        folder / "study.json", {"command": list(command), "trials": [asdict(entry) for entry in merged]}
    )
    return merged


def read_entries(folder: Path) -> list[TrialEntry]:
    """List a study's trials."""
    path = folder / "study.json"
    return [TrialEntry(**entry) for entry in read_json(path)["trials"]] if path.is_file() else []


def find_study(name: str | Path, studies: Path) -> Path:
    """Find a study's folder by its path or its name.

    Raises:
        ConfigurationError: there is none; lists those that there are.
    """
    for folder in (Path(name), studies / name):
        if (folder / "study.json").is_file():
            return folder
    known = [path.parent.name for path in studies.glob("*/study.json")]
    raise ConfigurationError(f"in {studies}: " + unknown_name("study", str(name), known))


def read_study(folder: Path) -> StudyRecord:
    """Read a study's tables: finished trials whole, the others as far as they have come."""
    import pandas as pd

    scores: list[dict[str, Any]] = []
    trials: list[dict[str, Any]] = []
    columns: dict[str, dict[str, Any]] = {}
    for entry in read_entries(folder):
        run = folder / entry.folder
        result = read_json(run / "result.json") if status(run) == "finished" else {}
        for column in result.get("columns", []):
            columns.setdefault(column["task"], column)
        trials.append(_trial_row(entry, run, result))
        common = {"trial": entry.id, "arm": entry.arm, "overrides": entry.overrides, "seed": entry.seed}
        scores += [{**common, **asdict(score)} for score in read_scores(run / "scores.jsonl")]
    ordered = sorted(columns.values(), key=lambda column: column["role"] == "probe")
    frame = pd.DataFrame(ordered, columns=["task", "role", "metric", "higher_is_better"])
    return StudyRecord(
        folder.resolve().name,
        folder,
        pd.DataFrame(scores, columns=list(SCORE_COLUMNS)),
        pd.DataFrame(trials),
        frame,
    )


def _trial_row(entry: TrialEntry, run: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    error = run / "error.txt"
    numbers = {
        name: math.nan if result.get(name) is None and name != "metric" else result.get(name)
        for name in RESULT_COLUMNS
    }
    return {
        "trial": entry.id,
        "arm": entry.arm,
        "overrides": entry.overrides,
        "configuration": entry.configuration,
        "seed": entry.seed,
        "order": entry.order,
        "status": status(run),
        "error": error.read_text(encoding="utf-8").split("\n")[0] if error.is_file() else None,
        **numbers,
        "swept": dict(entry.swept),
    }
