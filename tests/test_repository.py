"""What holds for the repository as a whole: imports, names, and configurations that compose."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from myosotis.config import composer
from myosotis.plugins import load_registry
from myosotis.points import expand

ROOT = Path(__file__).parents[1]
FRAMEWORK = ROOT / "framework"
ENGLISH = frozenset(
    {"adapters", "file", "freeze", "full", "hub", "merge", "prefix", "prompt", "quotes", "stories"}
)
"""Names of built-ins that are also words that the core needs; only as configuration are they names."""


# Imports

IMPORT_ALONE = """
import importlib, os, sys, warnings

for name in {third_party}:
    importlib.import_module(name)
failed = []
for name in {modules}:
    child = os.fork()
    if child == 0:
        # Whatever is left to warn is ours: third parties are imported already.
        warnings.simplefilter("error")
        try:
            importlib.import_module(name)
        except BaseException as error:
            print(f"{{name}}: {{type(error).__name__}}: {{error}}", flush=True)
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(name)
sys.exit(bool(failed))
"""
THIRD_PARTY = [
    "hydra",
    "hydra_zen",
    "lightning.pytorch",
    "transformers",
    "peft",
    "bitsandbytes",
    "wandb",
    "altair",
    "pandas",
    "rich",
    "typer",
    "lm_eval.api.model",
    "lm_eval.models.utils",
]


def modules() -> list[str]:
    """List every module of the distribution."""
    found = []
    for folder in (FRAMEWORK, ROOT / "plugins"):
        for package in ("myosotis", "hydra_plugins", "myosotis_plugins"):
            for path in sorted((folder / package).rglob("*.py")):
                parts = path.relative_to(folder).with_suffix("").parts
                found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return [name for name in found if not name.endswith("__main__")]


def test_every_module_imports_alone_with_warnings_as_errors() -> None:
    names = modules()
    assert {
        "myosotis",
        "myosotis.report.page",
        "hydra_plugins.myosotis_sweeper",
        "myosotis_plugins.metrics.labels",
    } < set(names)
    script = IMPORT_ALONE.format(third_party=THIRD_PARTY, modules=names)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_import_contracts_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def imported(path: Path) -> set[str]:
    """List the packages that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


def core_files() -> Iterator[Path]:
    yield from sorted((FRAMEWORK / "myosotis").rglob("*.py"))
    yield from sorted((FRAMEWORK / "hydra_plugins").rglob("*.py"))


def test_lightning_is_imported_in_one_place() -> None:
    assert [path.name for path in core_files() if "lightning" in imported(path)] == ["training.py"]


def test_report_and_forgetting_import_no_torch() -> None:
    for path in [
        *(FRAMEWORK / "myosotis" / "report").rglob("*.py"),
        FRAMEWORK / "myosotis" / "forgetting.py",
    ]:
        assert not imported(path) & {"torch", "lightning", "transformers", "peft"}, path
    script = "import sys, myosotis.report, myosotis.forgetting; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# Names


def built_in_names() -> set[str]:
    """Give the names of this distribution's methods, datasets, models and objectives."""
    kinds = {"method", "dataset", "model", "objective"}
    own = [each for each in load_registry() if each.distribution.startswith("myosotis ")]
    return {each.name for each in own if each.kind in kinds}


def test_no_file_of_the_core_names_a_built_in() -> None:
    names = built_in_names()
    assert {"lora", "nano", "replay", "pycode", "freeze"} < names
    words = re.compile(rf"\b({'|'.join(sorted(names - ENGLISH))})\b", re.IGNORECASE)
    english = "|".join(sorted(ENGLISH & names))
    configured = re.compile(rf"\b(?:method|dataset|probe|model)(?:=\[?|\.|@[\w.]+=)(?:\w+,)*(?:{english})\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted(FRAMEWORK.rglob("*"))
        if path.suffix in {".py", ".html", ".css", ".js"} and "testing" not in path.parts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if words.search(line) or configured.search(line)
    ]
    assert found == []


# Configurations


def options() -> list[str]:
    """List every option of every group in `conf/`, as an override."""
    found = []
    for path in sorted((ROOT / "conf").rglob("*.yaml")):
        group, name = path.parent.relative_to(ROOT / "conf").as_posix(), path.stem
        if group != ".":
            found.append(f"+experiments={name}" if group == "experiments" else f"{group}={name}")
    return found


def written_studies() -> list[str]:
    files = sorted(path.stem for path in (ROOT / "experiments").glob("*.yaml"))
    return [f"+experiments={name}" for name in files]


@pytest.mark.parametrize("override", [*options(), *written_studies()])
def test_every_configuration_composes(override: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    more = ["curriculum.stages=[{pydocs: 1}]"] if override == "curriculum=stages" else []
    with composer() as compose:
        master = compose.master("config", [override, *more])
        arms = master.arms or {}
        points = expand(compose, "config", [override, *more], arms, master.hydra.sweeper.params)
        configs = [compose.compose("config", point.overrides) for point in points]
    assert len(configs) >= max(1, len(arms))
    known = load_registry().plugins["method"].values()
    made = {f"{each.cls.__module__}.{each.cls.__qualname__}" for each in known}
    for config in configs:
        assert {node["_target_"] for node in config.method.values()} <= made
        assert config.trainer.batch_size >= 1


@pytest.mark.parametrize(
    ("command", "trials"),
    [
        ("method.lora.rank=4,8,16,32 seed=0,1", 8),
        ("method=freeze method.freeze.first=0,1,2,3", 4),
        ("curriculum=joint mix.pycode=0.9,0.5,0.1", 3),
        ("method=[full],[lora],[lora,replay] method.lora.rank=4,8", 5),
        (
            "curriculum=joint method=[lora,freeze] method.lora.rank=4,8 method.freeze.first=0,2 "
            "mix.pycode=0.9,0.1",
            8,
        ),
    ],
)
def test_the_readmes_sweeps_are_so_many_trials(command: str, trials: int) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("'", "")
    assert f"myosotis run {command}" in readme
    with composer() as compose:
        points = expand(compose, "config", command.split(), {}, {})
        configs = [compose.compose("config", point.overrides) for point in points]
    assert len(configs) == trials
    assert len({str(config) for config in configs}) == trials


def test_there_is_a_configuration_of_every_kind() -> None:
    assert {each.split("=")[0] for each in options()} >= {
        "+experiments",
        "curriculum",
        "evaluation",
        "hydra/launcher",
        "hydra/sweeper",
        "logger",
        "optimizer",
        "schedule",
        "trainer",
    }


def test_primary_configurations_compose() -> None:
    with composer() as compose:
        run = compose.compose("config", [])
        evaluate = compose.compose("evaluate", compose.parse(["model.path=somewhere", "+tuned=adapter"]))
        base = compose.compose("evaluate", compose.parse(["model.path=somewhere", "method=[]"]))
    assert (run.seed, sorted(run.dataset), sorted(run.method)) == (0, ["pycode", "pydocs"], ["lora"])
    assert evaluate.method.finetuned.path == "adapter"
    assert evaluate.curriculum.stages == [{}]
    assert base.method == {}
