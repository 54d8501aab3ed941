"""A model card: what an exported model is, what it scores, and what it was made with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from omegaconf import OmegaConf

from myosotis.interfaces import Exported
from myosotis.ledger import HEADLINE, Score


def model_card(
    exported: Exported,
    name: str,
    config: Mapping[str, Any],
    scores: Sequence[Score],
    result: Mapping[str, Any],
    manifest: Mapping[str, Any],
) -> str:
    """Write a card: Markdown with the front matter that the Hub reads.

    Args:
        exported: what the folder is.
        name: the folder's.
        config: the trial's whole configuration.
        scores: all of the trial's.
        result: its `result.json`.
        manifest: its `manifest.json`.
    """
    local = Path(exported.base).is_absolute()
    base = f"`{Path(exported.base).name if local else exported.base}`"
    if exported.package is not None:
        base = f"The model of the package `{exported.package}` (`pip install {exported.package}`)"
    front = ModelCardData(
        base_model=None if local else exported.base,
        library_name=exported.library,
        license=exported.licence,
        tags=["myosotis", *config["method"]],
    )
    return "\n".join(
        [
            "---",
            front.to_yaml(),
            "---",
            "",
            f"# {name}",
            "",
            f"{base}, fine-tuned with {' and '.join(config['method']) or 'no method'} on "
            f"{', '.join(config['dataset']) or 'nothing'}: trial `{result['trial']}`, seed {config['seed']}.",
            "",
            "```python",
            exported.usage.replace("{folder}", name),
            "```",
            "",
            "## Scores",
            "",
            *_scores(scores, result),
            "",
            "## Data",
            "",
            *_data(config, manifest),
            "",
            "## Licence",
            "",
            _licence(exported),
            "",
            "## Configuration",
            "",
            f"{', '.join(f'{package} {version}' for package, version in manifest['versions'].items())}.",
            "",
            "```yaml",
            OmegaConf.to_yaml(OmegaConf.create(dict(config))).rstrip(),
            "```",
            "",
        ]
    )


def _scores(scores: Sequence[Score], result: Mapping[str, Any]) -> Iterator[str]:
    last = {(each.task, each.metric): each for each in scores}  # the last row is the saved model's
    base = {(each.task, each.metric): each.value for each in scores if each.stage == 0}
    roles = {column["task"]: column["role"] for column in result["columns"]}
    yield "| | split | metric | base | this model | 95 % interval | n |"
    yield "|---|---|---|---|---|---|---|"
    for (task, metric), score in last.items():
        yield (
            f"| {task} ({roles[task]}) | {score.split} | {metric} | {base[task, metric]:.4g} | "
            f"{score.value:.4g} | {score.low:.4g} to {score.high:.4g} | {score.n:,} |"
        )
    numbers = [(name, result[name]) for name in HEADLINE if result[name] is not None]
    yield ""
    yield (
        "Intervals are over examples, by bootstrap. Tasks were trained on, probes only scored. "
        + "; ".join(f"`{name}` {value:+.4g}" for name, value in numbers)
    )


def _data(config: Mapping[str, Any], manifest: Mapping[str, Any]) -> Iterator[str]:
    for group in ("dataset", "probe"):
        for name, node in config[group].items():
            parameters = ", ".join(
                f"{key}={value}"
                for key, value in node.items()
                if not key.startswith("_") and value is not None
            )
            use = "trained on" if group == "dataset" else "scored only"
            yield f"- `{name}`, {use}: {parameters or 'as it comes'}; content `{manifest['identities'][name]}`"


def _licence(exported: Exported) -> str:
    if exported.licence:
        return f"The base's is {exported.licence}. Whether the data allow this model's use is for you to say."
    return "The base names none in its folder: find it out, and that of the data, before you pass this on."
