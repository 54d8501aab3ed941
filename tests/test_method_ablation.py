"""The ablation of all methods: its studies are what the note says, its choices and tables what the results give."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from scipy import stats

import myosotis
from myosotis.config import composer
from myosotis.points import expand

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "experiments" / "method_ablation"
MODELS = sorted(path.stem for path in (FOLDER / "trials").iterdir())


@pytest.fixture(scope="module")
def render() -> ModuleType:
    specification = importlib.util.spec_from_file_location("method_ablation_render", FOLDER / "render.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def trials(render: ModuleType) -> dict[str, pd.DataFrame]:
    found: dict[str, pd.DataFrame] = render.read_trials()
    return found


def configurations(study: str) -> list[tuple[str, Any]]:
    """Compose the trials of a study, each with its arm."""
    arguments = [f"+experiments/method_ablation={study}"]
    with composer() as compose:
        master = compose.master("config", arguments)
        points = expand(compose, "config", arguments, master.arms or {}, master.hydra.sweeper.params)
        return [(point.arm, compose.compose("config", point.overrides)) for point in points]


@pytest.mark.parametrize(
    ("study", "trials", "split", "seeds"),
    [
        ("learning_rates", 21 * 6 * 2, "validation", {100, 101}),
        ("strengths", (13 * 6 + 5 * 5 + 7 + 2) * 2, "validation", {100, 101}),
        ("reporting", 37 * 3, "test", {0, 1, 2}),
    ],
)
def test_a_study_has_its_trials_on_its_split_and_seeds(
    study: str, trials: int, split: str, seeds: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    found = configurations(study)
    assert len(found) == trials
    assert {config.evaluation.split for _, config in found} == {split}
    assert {config.seed for _, config in found} == seeds


def test_an_arm_is_reported_at_what_was_chosen_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    chosen = OmegaConf.load(FOLDER / "chosen" / "nano.yaml")
    found = dict(configurations("reporting"))
    assert found["ewc"].optimizer.learning_rate == chosen.learning_rates.full
    assert found["ewc"].method.ewc.strength == chosen.strengths.ewc
    assert found["lora_replay"].optimizer.learning_rate == chosen.learning_rates.lora
    assert found["lora_replay"].method.replay.share == chosen.strengths.lora_replay
    for arm, rate in chosen.learning_rates.items():
        assert found[arm].optimizer.learning_rate == rate
    # All arms take as many steps in all.
    steps = {arm: config.trainer.max_steps for arm, config in found.items()}
    assert steps.pop("joint") == 3 * 60
    assert set(steps.values()) == {60}


@pytest.mark.parametrize("study", ["learning_rates", "strengths"])
@pytest.mark.parametrize("model", MODELS)
def test_every_setting_that_is_swept_has_its_results(
    model: str, study: str, trials: dict[str, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    swept = Counter(arm for arm, _ in configurations(study))
    found = trials[model][trials[model]["study"] == f"ablation_{study}"]
    for arm, count in swept.items():
        settings = found[found["arm"] == arm].groupby("seed")["setting"]
        if count > 2:  # not only the seeds: WiSE-FT's are of one trial
            assert (settings.nunique() == count // 2).all(), arm
        assert sorted(settings.groups) == [100, 101]


@pytest.mark.parametrize("model", MODELS)
def test_what_is_chosen_is_what_the_results_give(
    model: str, render: ModuleType, trials: dict[str, pd.DataFrame]
) -> None:
    chosen = render.chosen(trials[model])
    assert OmegaConf.load(FOLDER / "chosen" / f"{model}.yaml") == OmegaConf.create(
        {key: {str(arm): value for arm, value in each.items()} for key, each in chosen.items()}
    )


def test_the_tables_are_what_the_results_give(render: ModuleType, trials: dict[str, pd.DataFrame]) -> None:
    text = FOLDER.with_suffix(".md").read_text(encoding="utf-8")
    tables = {(match["name"], match["model"]) for match in render.MARKED.finditer(text)}
    assert tables == set(itertools.product(render.TABLES, MODELS))
    assert render.rendered(text, trials) == text


def settings(*rows: tuple[float, float, float]) -> pd.DataFrame:
    """Give two seeds of settings with what they learn and forget, both around the given means."""
    return pd.DataFrame(
        [
            {
                "setting": setting,
                "learned": learned + shift,
                "forgotten": lost - shift,
                "gain": learned - lost,
            }
            for setting, learned, lost in rows
            for shift in (-0.2, 0.2)
        ]
    )


def test_the_setting_that_gains_most_is_chosen(render: ModuleType) -> None:
    assert render.choice(settings((1, 2.5, 0.9), (10, 2.1, 0.1), (100, 1.9, 0.1))) == 10


@pytest.mark.parametrize(
    ("least", "forgotten"),
    [
        (2.0, 0.3),  # half of the way from the second to the third
        (2.1, 0.4),
        (2.3, 0.65),  # half of the way from the first to the second
        (1.5, 0.2),
        (3.0, np.nan),
    ],
)
def test_methods_are_matched_on_the_lines_between_their_settings(
    render: ModuleType, least: float, forgotten: float
) -> None:
    tried = settings((1, 2.5, 0.9), (10, 2.1, 0.4), (100, 1.9, 0.2))
    assert render.matched(tried, least) == pytest.approx(forgotten, nan_ok=True)


def test_times_are_held_against_the_same_without_the_method(render: ModuleType) -> None:
    seconds = {"full": [10.0, 20.0], "lora": [5.0, 8.0], "lora_ewc": [6.0, 10.0]}
    rows = pd.DataFrame(
        [
            {"arm": arm, "seed": seed, "setting": np.nan, "training_seconds": value}
            for arm, values in seconds.items()
            for seed, value in enumerate(values)
        ]
    )
    assert render.timed(rows)["time"].tolist() == [1.0, 1.0, 0.5, 0.4, 1.2, 1.25]


def test_settings_that_cannot_be_told_apart_are_refused(render: ModuleType) -> None:
    rows = pd.DataFrame({"study": render.STRENGTHS, "arm": ["ewc", "l2sp"], "setting": [np.nan, 1.0]})
    with pytest.raises(SystemExit, match="at least 2 settings, but ewc had one"):
        render.checked(rows)


def test_a_verdict_is_what_a_paired_t_interval_excludes(render: ModuleType) -> None:
    forgotten = {"full": [0.9, 1.1, 1.4], "ewc": [0.6, 0.7, 1.1], "l2sp": [0.4, 1.3, 1.2]}
    learned = {"full": [2.0, 2.1, 2.2], "ewc": [2.0, 2.2, 2.1], "l2sp": [1.5, 1.6, 1.8]}
    rows = [
        {
            "study": "method_ablation",
            "arm": arm,
            "seed": seed,
            "forgotten": value,
            "learned": learned[arm][seed],
            "forgotten_base": 0.0,
            "gain": 1.0,
        }
        for arm, values in forgotten.items()
        for seed, value in enumerate(values)
    ]
    _, _, ewc, l2sp = render.verdict_table(pd.DataFrame(rows).assign(setting=np.nan))
    differences = np.array(forgotten["ewc"]) - forgotten["full"]
    low, high = stats.ttest_1samp(differences, 0).confidence_interval()
    assert high < 0
    assert f"{differences.mean():+.2f} [{low:+.2f}, {high:+.2f}]" in ewc
    assert ewc.endswith("| forgets less |")
    assert l2sp.endswith("| learns less |")


def test_a_setting_that_was_run_again_replaces_its_old_results(render: ModuleType) -> None:
    def rows(**values: object) -> pd.DataFrame:
        return pd.DataFrame([{"study": "s", "seed": seed, **values} for seed in (0, 1)])

    old = [
        rows(arm="ewc", setting=1.0, learned=1.0),
        rows(arm="ewc", setting=10.0, learned=1.5),
        rows(arm="full", setting=np.nan, learned=2.0),
        rows(arm="lora", setting=np.nan, learned=2.5),
    ]
    new = [rows(arm="ewc", setting=10.0, learned=3.0), rows(arm="full", setting=np.nan, learned=4.0)]
    found = render.merged([pd.concat(old), pd.concat(new)]).fillna({"setting": 0.0})
    assert found.groupby(["arm", "setting"])["learned"].apply(list).to_dict() == {
        ("ewc", 1.0): [1.0, 1.0],
        ("ewc", 10.0): [3.0, 3.0],
        ("full", 0.0): [4.0, 4.0],
        ("lora", 0.0): [2.5, 2.5],
    }


def test_collect_takes_the_results_from_the_studies(
    render: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its command, of two arms of two seeds; the rest of what was collected before stays."""
    monkeypatch.chdir(tmp_path)
    tiny = ("trainer.max_steps=2", "evaluation.limit=4", "evaluation.resamples=100", "logger=none")
    record = myosotis.run(["study=method_ablation", "method=[full],[lora]", "seed=0,1", *tiny])
    (tmp_path / "trials").mkdir()
    before = pd.read_csv(FOLDER / "trials" / "nano.csv")
    before.to_csv(tmp_path / "trials" / "nano.csv", index=False)
    monkeypatch.setattr(render, "HERE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["render.py", "collect", "nano", "studies"])
    render.main()
    found = pd.read_csv(tmp_path / "trials" / "nano.csv")
    new = (found["study"] == "method_ablation") & found["arm"].isin(["full", "lora"])
    old = (before["study"] == "method_ablation") & before["arm"].isin(["full", "lora"])
    assert sorted(found[~new]["learned"].dropna()) == sorted(before[~old]["learned"].dropna())
    own = found[new].set_index(["arm", "seed"])
    assert len(own) == 4
    for trial in record.trials.itertuples():
        row = own.loc[(trial.arm, trial.seed)]
        assert row["learned"] == pytest.approx(trial.learned, abs=1e-6)
        scores = record.scores[
            (record.scores["trial"] == trial.trial) & (record.scores["metric"] == "cross_entropy")
        ]
        matrix = scores.pivot_table(index="stage", columns="task", values="value")[["pydocs", "pycode"]]
        assert row["gain"] == pytest.approx((matrix.loc[0] - matrix.loc[2]).mean(), abs=1e-6)
        assert (row["time"] == 1) == (trial.arm == "full")  # against full fine-tuning, of the same seed
