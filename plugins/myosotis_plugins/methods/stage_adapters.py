"""A LoRA adapter for each stage: what the methods share that keep the stages' adapters apart."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any

from torch import nn

from myosotis.interfaces import Context, Model
from myosotis_plugins.methods.peft_adapters import LoRASettings
from myosotis_plugins.quiet import quiet_libraries


class StageAdapters:
    """LoRA adapters in one model, one for every stage that trains, all made before the first stage.

    What is new in the model, such as a head of labels, is theirs together: it trains in every stage, and PEFT keeps
    it with the first adapter.

    Attributes:
        names: the adapters' names, by the stages' indices: `stage1`, `stage2`.
    """

    def __init__(self, settings: LoRASettings) -> None:
        self.settings = settings
        self.names: dict[int, str] = {}
        self._model: Any = None
        self._new: list[nn.Module] = []

    def insert(self, model: Model, context: Context) -> Any:
        """Insert them all, active and training; everything else stops training.

        Raises:
            ConfigurationError: another method has put adapters in, or there is nothing to adapt.
        """
        stages = [stage.index for stage in context.stages if stage.shares] or [1]
        self.names = {index: f"stage{index}" for index in stages}
        first, *others = self.names.values()
        self._model = self.settings.insert(model, context, name=first)
        with quiet_libraries():
            from peft import PeftModel
            from peft.utils import ModulesToSaveWrapper

            kept = (each for each in self._model.modules() if isinstance(each, ModulesToSaveWrapper))
            self._new = [each.modules_to_save[first] for each in kept]
            for name in others:
                config = copy.deepcopy(self._model.peft_config[first])
                config.modules_to_save = None
                # Classifiers' own way of adding would give each adapter a copy of the head.
                PeftModel.add_adapter(self._model, name, config, low_cpu_mem_usage=context.outline)
        self.use(self.names.values(), training=self.names.values())
        return self._model

    def use(self, active: Collection[str], training: Collection[str] = ()) -> None:
        """Let some adapters be added to the base, and some of those train; with none, the model is the base."""
        tuner = self._model.base_model
        tuner.set_adapter(list(active))  # which lets all of them train
        tuner.set_requires_grad([name for name in active if name not in training], False)
        for module in self._new:
            module.requires_grad_(bool(training))

    def before(self, stage: int) -> list[str]:
        """Name the adapters of the stages before one."""
        return [name for index, name in self.names.items() if index < stage]

    def layers(self) -> Sequence[Any]:
        """Give PEFT's layers, each with `lora_A` and `lora_B` by the adapters' names."""
        from peft.tuners.lora import LoraLayer

        return [each for each in self._model.modules() if isinstance(each, LoraLayer)]
