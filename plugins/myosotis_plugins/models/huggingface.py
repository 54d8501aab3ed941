"""Models of the Hugging Face format: from a local folder or from the Hub."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from myosotis import hookimpl
from myosotis.errors import ConfigurationError, ModelError, first_line
from myosotis.interfaces import Blocks, Exported, Model, ModelFactory, Objective, file_hash
from myosotis_plugins.blocks import chained_blocks
from myosotis_plugins.gradient_checkpointing import checkpoint_blocks
from myosotis_plugins.models import usage
from myosotis_plugins.models.exporting import (
    BASE,
    check_export,
    ends,
    export_adapter,
    export_whole,
    is_adapter,
    licence_of,
    write_whole,
)
from myosotis_plugins.models.saved import check_adapter, merged, put_on
from myosotis_plugins.models.usage import Package
from myosotis_plugins.models.weights import (
    LOADING_ERRORS,
    WEIGHTS,
    check_weights,
    load_weights,
    not_loaded,
    weight_files,
)
from myosotis_plugins.objectives.heads import (
    CAUSAL,
    Head,
    Shape,
    common_head,
    may_tell_labels,
    set_labels,
    shape_of,
)
from myosotis_plugins.objectives.placed import padding
from myosotis_plugins.quiet import quiet_libraries

MYOSOTIS_API = 1

FILES = [WEIGHTS, "*.json", "*.txt", "*.model", "*.jinja"]
"""What a model is made of, and its fingerprint."""
CARD = "README.md"


class HuggingFace(ModelFactory):
    """A model in the Hugging Face format: decoder, encoder or both, weights from safetensors only.

    Its end is what the tasks ask for: next tokens, masked tokens, or labels, whose layer begins with random
    weights where the base comes without.

    Args:
        path: a local folder, or an id of the Hub such as `HuggingFaceTB/SmolLM2-135M`.
        revision: a branch, tag or commit of the Hub; its commit goes into the trial's id.
        dtype: what the weights are loaded as.
        quantization: `8bit` or `nf4` (with double quantization), by bitsandbytes; the base then cannot
            train, only what methods add to it. What is not quantized, such as norms and the output, is in float32.
        attention: how attention is computed.
        adapter: the folder of an adapter of PEFT's that is merged into the weights: what comes out is the base.
        gradient_checkpointing: whether each block is computed a second time in the backward pass instead of keeping
            what is inside it: less memory, about a third more time a step, the same numbers.
        trust_remote_code: whether code that comes with the model may run. Read it first.
    """

    locations = frozenset({"path", "adapter"})

    def __init__(
        self,
        path: str,
        revision: str | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        quantization: Literal["none", "8bit", "nf4"] = "none",
        attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa",
        trust_remote_code: bool = False,
        adapter: str | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        if adapter is not None and quantization != "none":
            raise ConfigurationError(
                f"an adapter must be merged into weights that are not quantized, but quantization={quantization}; "
                "merge it once with PEFT's merge_and_unload, and give the result as path"
            )
        self.path = path
        self.revision = revision
        self.dtype = dtype
        self.quantization = quantization
        self.attention = attention
        self.trust_remote_code = trust_remote_code
        self.adapter = None if adapter is None else Path(adapter)
        self.gradient_checkpointing = gradient_checkpointing

    def load(self, objectives: Collection[Objective]) -> Model:
        """Load weights and tokenizer."""
        import transformers

        folder = self._folder()
        weight_files(folder)
        tokenizer = self._tokenizer(folder)
        head, config = self._head(folder, objectives, tokenizer)
        module, new = load_weights(
            getattr(transformers, head.kind),
            folder,
            head_may_lack=head.may_be_new,
            config=config,
            **self._arguments(),
            **self._quantization(),
        )
        if self.adapter is not None:
            check_adapter(self.adapter)
            module = merged(Model(module, tokenizer), self.adapter).requires_grad_(True)
        if self.quantization != "none":
            with quiet_libraries():
                from peft import prepare_model_for_kbit_training

            module = prepare_model_for_kbit_training(module, use_gradient_checkpointing=False)
            _let_train(module, new)
            _keep_packing(module)
        if self.gradient_checkpointing:
            checkpoint_blocks(module)
        _check_vocabulary(module, tokenizer, folder)
        return Model(module, tokenizer, new, positions=positions_of(module, config))

    def outline(self, objectives: Collection[Objective]) -> Model:
        """Build the modules on the meta device, and hold the files' shapes against them."""
        import transformers

        folder = self._folder()
        weight_files(folder)
        tokenizer = self._tokenizer(folder)
        head, config = self._head(folder, objectives, tokenizer)
        try:
            with torch.device("meta"):
                module = getattr(transformers, head.kind).from_config(
                    config, trust_remote_code=self.trust_remote_code
                )
        except LOADING_ERRORS as error:
            raise not_loaded(folder, error) from error
        new = check_weights(module, folder, head.may_be_new)
        if self.adapter is not None:
            check_adapter(self.adapter)
        if self.quantization != "none":
            module.requires_grad_(False)
            _let_train(module, new)
        if self.gradient_checkpointing:
            checkpoint_blocks(module)
        _check_vocabulary(module, tokenizer, folder)
        return Model(module, tokenizer, new, positions=positions_of(module, config))

    def _head(self, folder: Path, objectives: Collection[Objective], tokenizer: Any) -> tuple[Head, Any]:
        """Choose the model's end for the objectives, and give the configuration with its labels."""
        config = _config(folder, self.trust_remote_code)
        head = common_head(objectives, shape_of(config))
        if head.labels:
            set_labels(config, head)
            # By its padding a decoder finds a row's last token.
            config.pad_token_id = padding(Model(nn.Module(), tokenizer))
        return head, config

    def fingerprint(self) -> str:
        """Hash a local folder's weights, configuration and tokenizer; name the commit of a Hub model."""
        base = _hash(Path(self.path)) if Path(self.path).is_dir() else f"{self.path}@{self._commit()}"
        if self.adapter is None:
            return base
        check_adapter(self.adapter)
        return f"{base} with {_hash(self.adapter)}"

    def variant(self, objectives: Collection[Objective]) -> str:
        """Name the labels of the head; the configuration is read only where there may be some."""
        if not any(may_tell_labels(each) for each in objectives):
            return ""
        head = common_head(objectives, _shape(self._folder(), self.trust_remote_code))
        return repr(head) if head.labels else ""

    def mixes_rows(self, layer: nn.Module) -> bool:
        """In 8 bits, columns with outliers are looked for in the whole batch."""
        if self.quantization != "8bit":
            return False
        from bitsandbytes.nn import Linear8bitLt

        return isinstance(layer, Linear8bitLt)

    def save(self, model: Model, folder: Path) -> None:
        """Write the adapters where there are some, else the whole model, and the tokenizer."""
        with quiet_libraries():
            model.module.save_pretrained(folder)  # type: ignore[operator]
        if model.tokenizer is not None:
            model.tokenizer.save_pretrained(folder)

    def restore(self, saved: Path, objectives: Collection[Objective], weights: Path | None = None) -> Model:
        """Load the base, and put an adapter, or whole weights, onto it."""
        base = self._beneath(objectives, weights)
        return replace(base, module=put_on(base, saved))

    def _beneath(self, objectives: Collection[Objective], weights: Path | None) -> Model:
        """Load what was trained upon: the base, or weights in its place."""
        base = self.load(objectives)
        return base if weights is None else replace(base, module=put_on(base, weights))

    def export(
        self,
        saved: Path,
        folder: Path,
        objectives: Collection[Objective],
        merge: bool,
        dtype: str | None,
        weights: Path | None = None,
        package: Package | None = None,
    ) -> Exported:
        """Write an adapter of PEFT's, or whole weights, and the tokenizer with the template trained with."""
        check_export(saved, merge, dtype)
        tokenizer = self._tokenizer(saved)
        templates = [each.chat_template(Model(nn.Module(), tokenizer)) for each in objectives]
        tokenizer.chat_template = next(filter(None, templates), tokenizer.chat_template)
        tokenizer.save_pretrained(folder)
        head, config = self._head(self._folder(), objectives, tokenizer)
        adapter = is_adapter(saved) and not merge
        if not adapter:
            export_whole(self._beneath(objectives, weights), saved, folder, dtype, tokenizer)
            code = usage.whole(head.kind)
        elif self.adapter is not None or weights is not None:
            # No folder and no repository has this base.
            export_adapter(saved, folder, f"./{BASE}", None, dtype)
            write_whole(self._beneath(objectives, weights).module, folder / BASE, dtype, tokenizer)
            code = usage.adapter(head.kind, f"{{folder}}/{BASE}", {})
        else:
            export_adapter(saved, folder, self._location(), self.revision, dtype)
            code = usage.adapter(head.kind, package, self._unsaid(config) if head.labels else {})
            code += self._told_ends(head, tokenizer)
        return Exported(
            library="peft" if adapter else "transformers",
            base=self._location(),
            licence=licence_of(self._folder()),
            usage=code,
            package=None if package is None else package.name,
        )

    def _location(self) -> str:
        """Give the whole path of a folder, or the id of a Hub model."""
        return str(Path(self.path).resolve()) if Path(self.path).is_dir() else self.path

    def _told_ends(self, head: Head, tokenizer: Any) -> str:
        """Give the line that tells the base how answers were trained to end, where it does not know."""
        from transformers import GenerationConfig

        if head.kind != CAUSAL:
            return ""
        try:
            known = GenerationConfig.from_pretrained(self._folder()).eos_token_id
        except OSError:  # it has no such file
            known = _config(self._folder(), self.trust_remote_code).eos_token_id
        wanted = ends(known, tokenizer)
        return "" if wanted == known else f"\nmodel.generation_config.eos_token_id = {wanted}"

    def _unsaid(self, config: Any) -> dict[str, Any]:
        """Give what a configuration with labels says, and the base's own does not."""
        base = _config(self._folder(), self.trust_remote_code)
        padding = {} if base.pad_token_id == config.pad_token_id else {"pad_token_id": config.pad_token_id}
        return {"id2label": config.id2label, **padding}

    def blocks(self, module: nn.Module) -> Blocks:
        """Find the transformer's blocks; in 8 bits there are none, for rows share the columns left out."""
        return Blocks() if self.quantization == "8bit" else chained_blocks(module)

    def _arguments(self) -> dict[str, Any]:
        return {
            "dtype": getattr(torch, self.dtype),
            "attn_implementation": self.attention,
            "trust_remote_code": self.trust_remote_code,
        }

    def _quantization(self) -> dict[str, Any]:
        if self.quantization == "none":
            return {}
        from transformers import BitsAndBytesConfig

        if self.quantization == "8bit":
            return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, self.dtype),
        )
        return {"quantization_config": config}

    def _tokenizer(self, folder: Path) -> Any:
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=self.trust_remote_code)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{self.path} must have a tokenizer, but it cannot be loaded: {first_line(error)}"
            ) from error

    def _folder(self) -> Path:
        """Give the local folder, after fetching a Hub model."""
        if Path(self.path).is_dir():
            return Path(self.path)
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(self.path, revision=self.revision, allow_patterns=[*FILES, CARD]))
        except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
            raise ModelError(
                f"path must be a folder or an id of the Hub, but {self.path!r} is no folder here, and the Hub "
                f"does not give it ({first_line(error)}). Without a network, give the path of a folder"
            ) from error

    def _commit(self) -> str:
        from huggingface_hub import HfApi

        try:
            return str(HfApi().model_info(self.path, revision=self.revision, timeout=10).sha)
        except Exception:  # the client's errors of the network share no base, and change with its versions
            # Without a network: the commit that is in the cache.
            return self._folder().name


def _hash(folder: Path) -> str:
    weight_files(folder)
    return file_hash(sorted({file for pattern in FILES for file in folder.glob(pattern)}))


def _config(folder: Path, trust_remote_code: bool) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except LOADING_ERRORS as error:
        raise not_loaded(folder, error) from error


@functools.cache
def _shape(folder: Path, trust_remote_code: bool) -> Shape:
    """Tell a folder's shape; a study asks for every trial."""
    return shape_of(_config(folder, trust_remote_code))


def positions_of(module: nn.Module, config: Any) -> int | None:
    """Tell how many positions a model was made for; None where its configuration does not say.

    A table of positions that begins behind its padding's, as RoBERTa's does, has so many fewer.
    """
    known = getattr(config, "max_position_embeddings", None)
    tables = [
        layer.num_embeddings - layer.padding_idx - 1
        for name, layer in module.named_modules()
        if name.endswith("position_embeddings")
        and isinstance(layer, nn.Embedding)
        and layer.padding_idx is not None
    ]
    return min([known, *tables]) if isinstance(known, int) and known > 0 else None


def _check_vocabulary(module: Any, tokenizer: Any, folder: Path) -> None:
    known = module.get_input_embeddings().num_embeddings
    if len(tokenizer) > known:
        raise ModelError(
            f"the tokenizer in {folder} must have at most the {known} tokens that the model embeds, but has "
            f"{len(tokenizer)}; put the model's own tokenizer there, or resize the model's embeddings with "
            "transformers' resize_token_embeddings and save it"
        )


def _let_train(module: nn.Module, new: Sequence[str]) -> None:
    for path in new:
        module.get_submodule(path).requires_grad_(True)


def _keep_packing(module: nn.Module) -> None:
    """Keep 4-bit weights as they are in evaluation too.

    On some CPUs bitsandbytes would pack them anew at the first evaluation, with scales in bfloat16: the
    base would be another one afterwards, and widths that are no multiple of the block size would fail.
    """
    from bitsandbytes.nn import Linear4bit

    for layer in module.modules():
        if isinstance(layer, Linear4bit):
            layer.support_avx512bf16_for_cpu = False


@hookimpl
def myosotis_models() -> Mapping[str, type[ModelFactory]]:
    """Give the model factory."""
    return {"huggingface": HuggingFace}
