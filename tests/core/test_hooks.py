"""Every hook, of plugin modules and of methods: called when and as documented."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from myosotis import hookspecs
from myosotis.interfaces import Method
from myosotis.ledger import StudyRecord, read_scores
from tests.core import extras
from tests.core.commands import run_at, toy

HOOKS = [name for name, value in vars(hookspecs).items() if name.startswith("myosotis_") and callable(value)]
METHOD_HOOKS = [
    name for name, value in vars(Method).items() if inspect.isfunction(value) and not name.startswith("_")
]


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyRecord, list[tuple[object, ...]]]:
    """One trial of two stages of three steps, and everything that was called."""
    extras.CALLS.clear()
    record = run_at(
        tmp_path_factory.mktemp("observed"),
        *toy("method=[diary]", "trainer.max_steps=3", "study=watched"),
        modules="tests.toy,tests.core.extras",
    )
    return record, list(extras.CALLS)


def test_every_hook_is_documented() -> None:
    assert len(HOOKS) == 11
    for name in HOOKS:
        assert len(inspect.getdoc(getattr(hookspecs, name)) or "") > 40, name


def test_every_hook_has_a_test() -> None:
    tests = "\n".join(path.read_text(encoding="utf-8") for path in Path(__file__).parents[1].glob("**/*.py"))
    for name in HOOKS:
        assert f"def {name}(" in tests, name


def test_every_hook_of_a_method_is_documented_and_written_down() -> None:
    for name in METHOD_HOOKS:
        assert inspect.getdoc(getattr(Method, name)), name
        assert getattr(extras.Diary, name) is not getattr(Method, name), name


def test_observers_see_the_trial_and_its_scores(
    observed: tuple[StudyRecord, list[tuple[object, ...]]],
) -> None:
    record, calls = observed
    [trial] = record.trials.trial
    folder = record.folder.resolve() / trial
    scores = read_scores(folder / "scores.jsonl")
    seen = [
        call
        for call in calls
        if call[0] in {"trial_started", "stage_finished", "trial_finished", "study_finished"}
    ]
    assert seen == [
        ("trial_started", trial, folder),
        *(
            ("stage_finished", trial, folder, stage, [each for each in scores if each.stage == stage])
            for stage in range(3)
        ),
        ("trial_finished", trial, folder, "finished"),
        ("study_finished", "watched", record.folder),
    ]


def test_methods_are_called_in_order(observed: tuple[StudyRecord, list[tuple[object, ...]]]) -> None:
    _, calls = observed
    from_method = [call for call in calls if not str(call[0]).endswith(("started", "finished"))]

    def stage(index: int, task: str, seen: list[str]) -> list[tuple[object, ...]]:
        steps = [
            call
            for step in range(3)
            for call in (
                ("loss", index, step),
                ("penalty", index, step),
                ("after_backward", index, step),
                ("after_step", index, step + 1),
            )
        ]
        evaluation = [
            call
            for each in ("right", "up", "side")
            for call in (("before_evaluation", each, index), ("evaluation_data", each, 64, index))
        ]
        return [
            ("training_data", index, [task], seen),
            ("begin_stage", index, 0, 3),
            ("training_batches", [40, 24]),
            ("parameter_groups", index, 3),
            *steps,
            ("end_stage", index, 3),
            *evaluation,
            ("state_dict",),
        ]

    assert from_method == [
        ("frozen",),
        ("adapt", True, 0),
        ("frozen",),
        ("adapt", False, 0),
        *stage(1, "right", []),
        *stage(2, "up", ["right"]),
        ("variants",),
        ("state_dict",),
    ]


def test_a_hook_that_is_not_overridden_is_not_called_in_any_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object) -> None:
        raise AssertionError("a hook was called that no method overrides")

    for hook in ("loss", "penalty", "after_backward", "after_step", "parameter_groups", "variants"):
        monkeypatch.setattr(Method, hook, refuse)
    [status] = run_at(tmp_path, *toy("method=[plain]", "trainer.max_steps=3")).trials["status"]
    assert status == "finished"


def test_state_comes_back_to_a_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = toy("method=[diary]", "trainer.max_steps=2", "study=cut")
    monkeypatch.setenv("TESTS_STOP_AFTER_STAGE", "2")
    with pytest.raises(Exception, match="stopped after stage 2"):
        run_at(tmp_path, *command, modules="tests.toy,tests.core.extras")
    assert [call for call in extras.CALLS if call[0] == "trial_finished"][-1][3] == "failed"
    monkeypatch.delenv("TESTS_STOP_AFTER_STAGE")
    run_at(tmp_path, *command, modules="tests.toy,tests.core.extras")
    assert ("load_state_dict", {"kept": 1}) in extras.CALLS
