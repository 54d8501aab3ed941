"""Models of the Hugging Face format: from a local folder or from the Hub."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from myosotis import hookimpl
from myosotis.errors import ModelError
from myosotis.interfaces import Blocks, Model, ModelFactory, Objective, file_hash
from myosotis_plugins.blocks import chained_blocks
from myosotis_plugins.quiet import quiet_libraries

MYOSOTIS_API = 1

WEIGHTS = "*.safetensors"
FILES = [WEIGHTS, "*.json", "*.txt", "*.model", "*.jinja"]
LOADING_ERRORS = (OSError, RuntimeError, ValueError, KeyError, SafetensorError)
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class HuggingFace(ModelFactory):
    """A causal language model in the Hugging Face format, weights from safetensors only.

    Args:
        path: a local folder, or an id of the Hub such as `HuggingFaceTB/SmolLM2-135M`.
        revision: a branch, tag or commit of the Hub; its commit goes into the trial's id.
        dtype: what the weights are loaded as.
        quantization: `8bit` or `nf4` (with double quantization), by bitsandbytes; the base then cannot
            train, only what methods add to it.
        attention: how attention is computed.
        trust_remote_code: whether code that comes with the model may run. Read it first.
    """

    locations = frozenset({"path"})

    def __init__(
        self,
        path: str,
        revision: str | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        quantization: Literal["none", "8bit", "nf4"] = "none",
        attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa",
        trust_remote_code: bool = False,
    ) -> None:
        self.path = path
        self.revision = revision
        self.dtype = dtype
        self.quantization = quantization
        self.attention = attention
        self.trust_remote_code = trust_remote_code

    def load(self, objectives: Collection[Objective]) -> Model:
        """Load weights and tokenizer."""
        from transformers import AutoModelForCausalLM

        folder = self._folder()
        weight_files(folder)
        module = load_weights(AutoModelForCausalLM, folder, None, **self._arguments(), **self._quantization())
        if self.quantization != "none":
            with quiet_libraries():
                from peft import prepare_model_for_kbit_training

            module = prepare_model_for_kbit_training(module, use_gradient_checkpointing=False)
            _keep_packing(module)
        return Model(module, self._tokenizer(folder))

    def outline(self, objectives: Collection[Objective]) -> Model:
        """Build the modules on the meta device, and hold the files' shapes against them."""
        from transformers import AutoConfig, AutoModelForCausalLM

        folder = self._folder()
        weight_files(folder)
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=self.trust_remote_code)
            with torch.device("meta"):
                module = AutoModelForCausalLM.from_config(config, trust_remote_code=self.trust_remote_code)
        except LOADING_ERRORS as error:
            raise _not_loaded(folder, error) from error
        check_weights(module, folder)
        if self.quantization != "none":
            module.requires_grad_(False)
        return Model(module, self._tokenizer(folder))

    def fingerprint(self) -> str:
        """Hash a local folder's weights, configuration and tokenizer; name the commit of a Hub model."""
        if Path(self.path).is_dir():
            weight_files(Path(self.path))
            return file_hash(sorted({file for pattern in FILES for file in Path(self.path).glob(pattern)}))
        return f"{self.path}@{self._commit()}"

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
            first = str(error).strip().split("\n")[0]
            raise ModelError(
                f"{self.path} must have a tokenizer, but it cannot be loaded: {first}"
            ) from error

    def _folder(self) -> Path:
        """Give the local folder, after fetching a Hub model."""
        if Path(self.path).is_dir():
            return Path(self.path)
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(self.path, revision=self.revision, allow_patterns=FILES))
        except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
            first = str(error).strip().split("\n")[0]
            raise ModelError(
                f"path must be a folder or an id of the Hub, but {self.path!r} is no folder here, and the Hub "
                f"does not give it ({first}). Without a network, give the path of a folder"
            ) from error

    def _commit(self) -> str:
        from huggingface_hub import HfApi

        try:
            return str(HfApi().model_info(self.path, revision=self.revision, timeout=10).sha)
        except Exception:  # the client's errors of the network share no base, and change with its versions
            # Without a network: the commit that is in the cache.
            return self._folder().name


def _keep_packing(module: nn.Module) -> None:
    """Keep 4-bit weights as they are in evaluation too.

    On some CPUs bitsandbytes would pack them anew at the first evaluation, with scales in bfloat16: the
    base would be another one afterwards, and widths that are no multiple of the block size would fail.
    """
    from bitsandbytes.nn import Linear4bit

    for layer in module.modules():
        if isinstance(layer, Linear4bit):
            layer.support_avx512bf16_for_cpu = False


def weight_files(folder: Path) -> list[Path]:
    """Find a folder's weights.

    Raises:
        ModelError: there are none, or they are pickles, which can run code when they are loaded.
    """
    files = sorted(folder.glob(WEIGHTS))
    if files:
        return files
    pickles = [path.name for pattern in PICKLES for path in sorted(folder.glob(pattern))]
    if pickles:
        raise ModelError(
            f"{folder} must have its weights as safetensors, but has {', '.join(pickles[:3])}, a pickle, which "
            "can run code when it is loaded. Convert it where you trust it: load it there with transformers, "
            "and save it with model.save_pretrained(FOLDER)"
        )
    state = "has no weights (*.safetensors)" if folder.is_dir() else "is no folder"
    raise ModelError(f"a model's folder must have weights, but {folder} {state}")


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Read the names and shapes of a folder's tensors, without the tensors.

    Raises:
        ModelError: a file is not whole.
    """
    found: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                found |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ModelError(f"{path} must be a safetensors file, but cannot be read: {error}") from error
    return found


def check_weights(module: nn.Module, folder: Path) -> None:
    """Hold the shapes of a folder's tensors against a module's.

    Raises:
        ModelError: they do not fit.
    """
    state = module.state_dict(keep_vars=True)
    expected = {name: tuple(value.shape) for name, value in state.items()}
    prefix = getattr(module, "base_model_prefix", "")
    found = shapes(folder)
    # Some checkpoints hold the body alone, without its prefix.
    named = {name if name in expected else f"{prefix}.{name}": shape for name, shape in found.items()}
    if not expected.keys() & named.keys():
        raise ModelError(
            f"the weights in {folder} must be those of a {type(module).__name__}, but none of their names fit; "
            f"they begin with {min(found, default='nothing')}"
        )
    for name, shape in named.items():
        if name in expected and expected[name] != shape:
            raise ModelError(
                f"{folder}: {name} must have the shape {list(expected[name])} that config.json gives, but has "
                f"{list(shape)}"
            )
    # Under names that the model does not have, transformers may find what seems to lack.
    if named.keys() <= expected.keys():
        given = {id(state[name]) for name in named}  # a tied tensor is in the files under one of its names
        _check_complete(folder, {name for name, value in state.items() if id(value) not in given})


def load_weights(kind: Any, folder: Path, like: nn.Module | None, **arguments: Any) -> nn.Module:
    """Load a model of a kind with all its weights.

    Args:
        kind: a class with `from_pretrained`.
        folder: where the weights are.
        like: a model whose type and attention the loaded one takes over.
        arguments: passed on.

    Raises:
        ModelError: weights are missing or do not fit.
    """
    if like is not None:
        arguments = {
            "dtype": like.dtype,
            "attn_implementation": like.config._attn_implementation,  # type: ignore[union-attr]
            **arguments,
        }
    try:
        with quiet_libraries():
            module, info = kind.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, **arguments
            )
    except LOADING_ERRORS as error:
        raise _not_loaded(folder, error) from error
    _check_complete(folder, set(info["missing_keys"]))
    loaded: nn.Module = module
    return loaded


def _check_complete(folder: Path, missing: Set[str]) -> None:
    if missing:
        raise ModelError(
            f"the weights in {folder} must be complete, but lack {len(missing)}, such as {min(missing)}"
        )


def _not_loaded(folder: Path, error: Exception) -> ModelError:
    first = str(error).strip().split("\n")[0]
    return ModelError(f"the model in {folder} cannot be loaded: {first}")


@hookimpl
def myosotis_models() -> Mapping[str, type[ModelFactory]]:
    """Give the model factory."""
    return {"huggingface": HuggingFace}
