"""A new low-rank adapter for every stage."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from myosotis import hookimpl
from myosotis.interfaces import Context, Method, Model, Stage
from myosotis_plugins.methods.peft_adapters import LoRASettings
from myosotis_plugins.methods.saved_as_one import SavedAsOne
from myosotis_plugins.methods.stage_adapters import StageAdapters

MYOSOTIS_API = 1


class IncLoRA(Method):
    """Train a LoRA adapter of its own in every stage, on top of the earlier ones: W + (alpha / rank) Σᵢ Bᵢ Aᵢ.

    The sum is over the stages so far; earlier adapters stay as they are. Every B starts at zero, so that a stage
    begins where the one before it ended. It is the baseline IncLoRA that O-LoRA is held against. The base runs
    without dropout, and layers that another method freezes get no adapter.

    Cost: LoRA's, and from stage to stage one more adapter in the forward pass; all are made before the first
    stage. What is saved is one PEFT folder with their sum, of as many times the rank as there are stages that
    train.

    Args:
        rank: rows of each A and columns of each B.
        alpha: the scale's numerator; twice the rank where not given.
        dropout: the share of a layer's inputs dropped before A.
        targets: `all-linear` (all but the output head), or names of modules such as `[q_proj,v_proj]`.
    """

    paper = "Wang et al. 2023, Orthogonal Subspace Learning for Language Model Continual Learning, arXiv:2310.14152"
    stores = "the adapters of earlier stages, in the model"
    cohort_fields = frozenset({"rank", "alpha", "targets"})

    def __init__(
        self,
        rank: int = 8,
        alpha: float | None = None,
        dropout: float = 0.0,
        targets: str | list[str] = "all-linear",
    ) -> None:
        self.adapters = StageAdapters(LoRASettings(rank, alpha, dropout, targets))

    def adapt(self, model: Model, context: Context) -> nn.Module:
        """Insert the adapters; everything else stops training.

        Raises:
            ConfigurationError: another method has put adapters in, or there is nothing to adapt.
        """
        return SavedAsOne(self.adapters.insert(model, context))

    def begin_stage(self, stage: Stage, context: Context) -> None:
        """Add the stage's adapter to those before it, and train it alone."""
        new = self.adapters.names[stage.index]
        self.adapters.use([*self.adapters.before(stage.index), new], training=[new])


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    """Give the method."""
    return {"inc_lora": IncLoRA}
