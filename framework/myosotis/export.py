"""A trained model out of its study: a folder that the field's libraries load without this project."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from myosotis.errors import ConfigurationError, first_line
from myosotis.interfaces import ModelFactory, Objective
from myosotis.ledger import read_json, read_scores, write_text
from myosotis.model_card import model_card
from myosotis.plugins import Registry
from myosotis.resolve import Resolver
from myosotis.storage import stored

CARD = "README.md"


def saved_model(trial: Path) -> Path:
    """Give the folder of what a finished trial's training changed.

    Raises:
        ConfigurationError: the trial kept nothing.
    """
    folder = trial / "adapter"
    if not folder.is_dir():
        raise ConfigurationError(
            f"the trial {trial.name} must have kept its model, but {folder} is not there: it trained nothing, "
            "ran with trainer.save=false, or was cleaned with --adapters. To train it again: the study's "
            "command with force=true trainer.save=true"
        )
    return folder


def resolved_config(trial: Path) -> dict[str, Any]:
    """Read a trial's whole configuration, in which every plugin and all its parameters stand."""
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(trial / "config.yaml")))


def model_and_objectives(
    registry: Registry, config: Mapping[str, Any]
) -> tuple[ModelFactory, list[Objective]]:
    """Make a trial's model factory, and the objectives of its tasks and probes, in their order."""
    resolver = Resolver(registry)
    tasks = [resolver.task(name, group, config) for group in ("dataset", "probe") for name in config[group]]
    return resolver.model(config), [task.objective for task in tasks]


def base_weights(registry: Registry, config: Mapping[str, Any]) -> Path | None:
    """Find the weights that a trial's methods put in the base's place; None where they keep the base's."""
    found = [method.base_weights() for method in Resolver(registry).methods(config).values()]
    return next((each for each in reversed(found) if each is not None), None)


def export_trial(registry: Registry, trial: Path, folder: Path, merge: bool, dtype: str | None) -> None:
    """Write a trial's model with its tokenizer and a model card; the folder is whole or not there.

    Args:
        registry: the plugins, for the model's own way of writing.
        trial: a finished trial's run folder.
        folder: where to; must not be there, or be empty.
        merge: whether an adapter is put into the base's weights.
        dtype: of what is written; as it was saved where not given.

    Raises:
        ConfigurationError: there is something in the folder, or the trial's model cannot be written so.
        StorageError: it could not be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(f"--to must be a new or an empty folder, but {folder} is not; give another")
    saved = saved_model(trial)
    config = resolved_config(trial)
    factory, objectives = model_and_objectives(registry, config)
    weights = base_weights(registry, config)
    with stored(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as name:
            temporary = Path(name) / "model"
            temporary.mkdir()
            exported = factory.export(saved, temporary, objectives, merge, dtype, weights)
            result, manifest = read_json(trial / "result.json"), read_json(trial / "manifest.json")
            card = model_card(
                exported, folder.name, config, read_scores(trial / "scores.jsonl"), result, manifest
            )
            write_text(temporary / CARD, card)
            if folder.exists():
                folder.rmdir()
            shutil.move(temporary, folder)


def push(folder: Path, repository: str, public: bool = False) -> str:
    """Upload an exported folder to the Hub, as who is logged in there; give its address.

    Raises:
        ConfigurationError: nobody is, the repository is another's, or the Hub cannot be reached.
    """
    from huggingface_hub import HfApi

    try:
        address = HfApi().create_repo(repository, private=not public, exist_ok=True)
        HfApi().upload_folder(repo_id=repository, folder_path=folder)
    except (
        Exception
    ) as error:  # the client's errors of the network share no base, and change with its versions
        raise ConfigurationError(
            f"--push-to-hub must name a repository of yours, but {repository} cannot be written: "
            f"{first_line(error)}. The model is in {folder}; log in with `hf auth login`, then "
            f"`hf upload {repository} {folder}`"
        ) from error
    return str(address)
