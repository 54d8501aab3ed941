"""An adapter for every stage, and for every task the one that was trained on it: the upper bound."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from myosotis import hookimpl
from myosotis.interfaces import Context, Method, Model, Stage, Task
from myosotis_plugins.methods.peft_adapters import LoRASettings, check_pretrained
from myosotis_plugins.methods.stage_adapters import StageAdapters
from myosotis_plugins.methods.wrapper import Wrapper

MYOSOTIS_API = 1


class AdapterPerTask(Method):
    """Train a LoRA adapter of its own in every stage, and evaluate each task with its own: nothing is forgotten.

    W + (alpha / rank) Bᵢ Aᵢ, with i the last stage so far that trained the task; a probe, and a task not trained
    yet, is evaluated with the base. It is told which task it is evaluated on, as methods with one model for all
    are not: an upper bound for them, not a competitor. A stage on several tasks trains one adapter for all of
    them. The base runs without dropout, and layers that another method freezes get no adapter.

    Cost: LoRA's at a step, and the memory of an adapter for every stage: all are made before the first one. What
    is saved is a folder with one PEFT folder for each stage
    that trains: `stage1`, `stage2`.

    Args:
        rank: rows of each A and columns of each B.
        alpha: the scale's numerator; twice the rank where not given.
        dropout: the share of a layer's inputs dropped before A.
        targets: `all-linear` (all but the output head), or names of modules such as `[q_proj,v_proj]`.
    """

    paper = "Houlsby et al. 2019, Parameter-Efficient Transfer Learning for NLP, arXiv:1902.00751"
    stores = "the adapters of earlier stages, in the model"

    def __init__(
        self,
        rank: int = 8,
        alpha: float | None = None,
        dropout: float = 0.0,
        targets: str | list[str] = "all-linear",
    ) -> None:
        self.adapters = StageAdapters(LoRASettings(rank, alpha, dropout, targets))
        self._stage = 0

    def adapt(self, model: Model, context: Context) -> nn.Module:
        """Insert the adapters; everything else stops training.

        Raises:
            ConfigurationError: another method has put adapters in, there is nothing to adapt, or the model has
                parts that are not pretrained.
        """
        check_pretrained(model)
        return _SwitchingBack(self.adapters.insert(model, context), self)

    def begin_stage(self, stage: Stage, context: Context) -> None:
        """Train the stage's adapter."""
        self._stage = stage.index
        self.switch_back()

    def switch_back(self) -> None:
        """Take the adapter of the stage that trains, whichever was evaluated."""
        if self._stage:
            name = self.adapters.names[self._stage]
            self.adapters.use([name], training=[name])

    def before_evaluation(self, task: Task, context: Context) -> None:
        """Take the adapter that was trained on the task last; none where there is none."""
        so_far = context.stages[: context.stage.index]
        trained = [stage.index for stage in so_far if task.name in stage.tasks]
        self.adapters.use([self.adapters.names[index] for index in trained[-1:]])


class _SwitchingBack(Wrapper):
    """The model, which has the stage's adapter whenever it is made to train, as after an evaluation in between."""

    def __init__(self, inner: nn.Module, method: AdapterPerTask) -> None:
        super().__init__(inner)
        self._method = method

    def train(self, mode: bool = True) -> _SwitchingBack:
        """Switch to training, or to evaluation, which leaves the adapter as it is."""
        if mode:
            self._method.switch_back()
        super().train(mode)
        return self


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    """Give the method."""
    return {"adapter_per_task": AdapterPerTask}
