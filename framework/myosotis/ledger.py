"""The ledger: what a study has on disk, written atomically and read back as tables.

studies/<study>/study.json                      which trials answer the study's question
studies/<study>/<trial>/config.yaml manifest.json scores.jsonl metrics.jsonl adapter/ checkpoints/
studies/<study>/<trial>/variants.jsonl          scores of further models that come of the trained one
studies/<study>/<trial>/result.json             written last: the trial is finished
studies/<study>/<trial>/pruned.json             written last: a search gave the trial up for hopeless
studies/<study>/<trial>/error.txt               the trial failed
studies/<study>/<trial>/log.txt                 what was logged and warned while it ran
studies/<study>/data.json                       what was found in its data before it ran
studies/<study>/cohorts.json                    which trials train together, on how many threads
studies/<study>/search.journal search.json      what a search suggested and what came of it: Optuna's, and in short
studies/<study>/.locks/                         who runs which trial
studies/<study>/.prefix/                        what frozen blocks give, while the study runs
studies/.base/<key>.json                        rows of the untouched base, shared by all studies
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import platformdirs

from myosotis.errors import ConfigurationError, StorageError, unknown_name
from myosotis.storage import replacing

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")

SCORE_COLUMNS = (
    "trial",
    "arm",
    "overrides",
    "seed",
    "order",
    "stage",
    "step",
    "task",
    "split",
    "metric",
    "value",
    "n",
    "low",
    "high",
    "settings",
)
VARIANT_COLUMNS = ("variant", *SCORE_COLUMNS)
SEARCH = "search.json"
PREFIX_FOLDER = ".prefix"
"""Where a study keeps what frozen blocks give, while it runs."""
HEADLINE = ("learned", "forgotten", "forgotten_base")
RESULT_COLUMNS = (
    *HEADLINE,
    "metric",
    "trainable_parameters",
    "total_parameters",
    "seconds",
    "tokens",
    "peak_memory_bytes",
    "kept_bytes",
)

DAMAGED = "something else damaged it. Put it back from a copy, or move {} away and run the same command again"


@dataclass(frozen=True)
class Score:
    """One score of one task after a stage; stage 0 is the untouched base.

    Attributes:
        step: optimizer steps taken within the stage.
        n: what the value is a mean over, such as tokens or rows.
        low: lower end of the 95 % bootstrap interval over examples.
        high: upper end.
        settings: how what was scored was written, where it was; empty for other scores.
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
    settings: str = ""


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


Status = Literal["finished", "pruned", "failed", "unfinished"]


def _no_variants() -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(columns=list(VARIANT_COLUMNS))


@dataclass(frozen=True)
class StudyRecord:
    """A study read back from its folder.

    Attributes:
        name: the study's name.
        folder: the study's folder; the report is written here.
        scores: one row a score, columns `SCORE_COLUMNS`; stage 0 is the untouched base.
        trials: one row a trial: `trial, arm, overrides, configuration, seed, order, status, error,
            learned, forgotten, forgotten_base, metric, trainable_parameters, total_parameters,
            seconds, tokens, peak_memory_bytes, kept_bytes, swept, last_trained, folder`. `configuration`
            names the trial without its seed and order (trials that share it are replicates); `swept` maps
            each swept key except seed and order to its value, `last_trained` each task and probe to the last
            stage that trained it, 0 where none did; `status` is finished, pruned, failed or unfinished; `folder` is
            the run folder, relative to the study's.
        columns: one row a column of the score matrix, in order: `task, role, metric,
            higher_is_better`; `role` is task or probe, `metric` the one that the headline uses.
        variants: one row a score of a further model that a method makes of a trained one without training, columns
            `VARIANT_COLUMNS`; it stands in the place of the last row of the score matrix.
    """

    name: str
    folder: Path
    scores: pd.DataFrame
    trials: pd.DataFrame
    columns: pd.DataFrame
    variants: pd.DataFrame = field(default_factory=_no_variants)


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


def cache_folder() -> Path:
    """Give the folder for what is kept between studies and can be made again; `MYOSOTIS_CACHE` names another."""
    return Path(os.environ.get("MYOSOTIS_CACHE") or platformdirs.user_cache_dir("myosotis"))


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all, whatever happens meanwhile.

    Raises:
        StorageError: the disk is full, the folder read-only …; the file is as it was.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; what is not a number becomes null."""
    write_text(path, json.dumps(_finite(value), indent=1, ensure_ascii=False, default=str) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        StorageError: it holds something else.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not even text
        raise StorageError(f"{path} must hold JSON, but {error}; {DAMAGED.format('it')}") from error


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
    """Read scores back.

    Raises:
        StorageError: a line does not hold a score; scores are written whole, so none may be left out.
    """
    return _read_lines(path, score_from)


def _read_lines(path: Path, made: Callable[[dict[str, Any]], T]) -> list[T]:
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        return [made(json.loads(line)) for line in lines if line]
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        damaged = DAMAGED.format("its run folder")
        raise StorageError(f"{path} must hold one score a line, but {error}; {damaged}") from error


def write_variants(path: Path, scores: Sequence[tuple[str, Score]]) -> None:
    """Write variants' scores as JSON lines, each with its variant's name, atomically."""
    rows = [_finite({"variant": name, **asdict(score)}) for name, score in scores]
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_variants(path: Path) -> list[tuple[str, Score]]:
    """Read variants' scores back; none where no method makes any.

    Raises:
        StorageError: as `read_scores`.
    """
    return _read_lines(path, lambda row: (row.pop("variant"), score_from(row)))


def score_from(row: Mapping[str, Any]) -> Score:
    """Make a score of a row as it was written; null is not a number."""
    values: dict[str, Any] = {key: math.nan if value is None else value for key, value in row.items()}
    return Score(**values)


def status(folder: Path) -> Status:
    """Tell how far a trial's run folder has come."""
    if (folder / "result.json").is_file():
        return "finished"
    if (folder / "pruned.json").is_file():
        return "pruned"
    return "failed" if (folder / "error.txt").is_file() else "unfinished"


class Attempt(NamedTuple):
    """A run folder: a trial's first one has its name, later ones `<trial>.<number>`."""

    study: str
    number: int
    name: str


def list_attempts(studies: Path) -> dict[str, list[Attempt]]:
    """List the run folders of all studies by trial; each study's folder is read once."""
    found: dict[str, list[Attempt]] = {}
    for study in _names(studies):
        for name in _names(studies / study):
            trial, dot, number = name.partition(".")
            if not dot or number.isdecimal():
                found.setdefault(trial, []).append(Attempt(study, int(number or 1), name))
    return found


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:  # not there, or no folder
        return []


def place(
    studies: Path,
    study: str,
    trial: str,
    force: bool = False,
    attempts: Mapping[str, Sequence[Attempt]] | None = None,
) -> str:
    """Choose a trial's run folder, relative to its study's.

    The newest of this study where there is one; else a finished one of another study, which is reused;
    else a new one. `force` gives one beside the finished ones. Many trials share one `list_attempts`.
    """
    found = (list_attempts(studies) if attempts is None else attempts).get(trial, [])
    own = [each.name for each in sorted(found) if each.study == study]
    if own and not (force and status(studies / study / own[-1]) == "finished"):
        return own[-1]
    if own:
        return f"{trial}.{len(own) + 1}"
    others = [studies / each.study / each.name for each in sorted(found)]
    finished = [path for path in others if status(path) == "finished"]
    if finished and not force:
        return os.path.relpath(max(finished, key=lambda path: path.stat().st_mtime), studies / study)
    return trial


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


def read_search(folder: Path) -> dict[str, Any]:
    """Read what a study's search has suggested, and what came of it; nothing where there was none.

    Returns:
        `directions`, maximize or minimize by the objective; `suggestions`, each with its `number`, its `state`
        (complete, pruned, fail or running), its `values` in the objectives' order or None, its `params` and the
        ids of its `trials`.
    """
    path = folder / SEARCH
    return dict(read_json(path)) if path.is_file() else {"directions": {}, "suggestions": []}


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


def find_trial(name: str, studies: Path) -> Path:
    """Find a finished trial's run folder by its path, or by its id or the beginning of that.

    The newest where it was run several times.

    Raises:
        ConfigurationError: there is none, it is not finished, or several ids begin so.
    """
    if status(Path(name)) == "finished":
        return Path(name)
    attempts = {
        trial: found for trial, found in list_attempts(studies).items() if name and trial.startswith(name)
    }
    folders = {
        trial: [studies / each.study / each.name for each in found] for trial, found in attempts.items()
    }
    known = {
        trial for trial, found in folders.items() if any((each / "config.yaml").is_file() for each in found)
    }
    if len(known) > 1:
        raise ConfigurationError(
            f"{name} must be the beginning of one trial's id, but {', '.join(sorted(known))} begin so"
        )
    if not known:
        raise ConfigurationError(
            f"in {studies}: there is no trial whose id begins with {name!r}; myosotis results STUDY --trials "
            "lists a study's"
        )
    [trial] = known
    finished = [each for each in folders[trial] if status(each) == "finished"]
    if not finished:
        raise ConfigurationError(
            f"the trial {trial} must be finished, but is {status(folders[trial][-1])}; see {folders[trial][-1]}"
        )
    return max(finished, key=lambda each: (each / "result.json").stat().st_mtime)


def read_study(folder: Path) -> StudyRecord:
    """Read a study's tables: finished trials whole, the others as far as they have come."""
    import pandas as pd

    scores: list[dict[str, Any]] = []
    trials: list[dict[str, Any]] = []
    variants: list[dict[str, Any]] = []
    columns: dict[str, dict[str, Any]] = {}
    for entry in read_entries(folder):
        run = folder / entry.folder
        state = status(run)
        result = _result(run, state)
        for column in result.get("columns", []):
            columns.setdefault(column["task"], column)
        trials.append(_trial_row(entry, run, state, result))
        common = {
            "trial": entry.id,
            "arm": entry.arm,
            "overrides": entry.overrides,
            "seed": entry.seed,
            "order": entry.order,
        }
        scores += [{**common, **vars(score)} for score in read_scores(run / "scores.jsonl")]
        variants += [
            {"variant": name, **common, **vars(score)}
            for name, score in read_variants(run / "variants.jsonl")
        ]
    ordered = sorted(columns.values(), key=lambda column: column["role"] == "probe")
    frame = pd.DataFrame(ordered, columns=["task", "role", "metric", "higher_is_better"])
    return StudyRecord(
        folder.resolve().name,
        folder,
        pd.DataFrame(scores, columns=list(SCORE_COLUMNS)),
        pd.DataFrame(trials),
        frame,
        pd.DataFrame(variants, columns=list(VARIANT_COLUMNS)),
    )


def _result(run: Path, state: Status) -> dict[str, Any]:
    """Read what a trial came to: of a pruned one its time alone, for the rest is no result."""
    if state == "pruned":
        return {"seconds": read_json(run / "pruned.json")["seconds"]}
    return dict(read_json(run / "result.json")) if state == "finished" else {}


def _trial_row(entry: TrialEntry, run: Path, state: Status, result: Mapping[str, Any]) -> dict[str, Any]:
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
        "status": state,
        "error": error.read_text(encoding="utf-8").split("\n")[0] if error.is_file() else None,
        **numbers,
        "swept": dict(entry.swept),
        "last_trained": result.get("last_trained", {}),
        "folder": entry.folder,
    }
