"""The one door to models and tokenizers in a folder: code in it is never run. Does not know architectures, routes."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nlptransfer.errors import BaseModelError, NlpTransferError, RunFolderError, SettingError, first_line
from nlptransfer.files import read_json
from nlptransfer.hub.base_models import BaseModel
from nlptransfer.settings import check

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

_ADAPTER = "adapter_config.json"


def from_pretrained(kind: Any, source: BaseModel | Path, **options: Any) -> Any:
    """Load a base, or a saved classifier, by a class of transformers; a BaseModelError or RunFolderError if not.

    Of a base with ``keep_layers`` the config says so, and the model has these alone.
    """
    is_tokenizer, is_config = "Tokenizer" in kind.__name__, "Config" in kind.__name__
    keep = source.keep_layers if isinstance(source, BaseModel) and not is_tokenizer else None
    if keep and not is_config and "config" not in options:
        from transformers import AutoConfig

        options["config"] = from_pretrained(AutoConfig, source)
    with _read(source, "tokenizer_config.json" if is_tokenizer else "config.json") as folder:
        opened = kind.from_pretrained(folder, trust_remote_code=False, local_files_only=True, **options)
    if keep and is_config:
        _keep_first_layers(opened, keep)
    return opened


def _keep_first_layers(config: "PreTrainedConfig", count: int) -> None:
    whole = getattr(config, "num_hidden_layers", None)
    if config.is_encoder_decoder or not isinstance(whole, int):
        found = f"model type {config.model_type!r}"
        raise SettingError(f"keep_layers={count}: expected an encoder of one stack of layers, found {found}: take all")
    check(count <= whole, "keep_layers", count, f"at most the {whole} layers of the encoder")
    for name, value in vars(config).items():
        # What some say of each layer, as layer_types.
        if "layer" in name and isinstance(value, list) and len(value) == whole:
            setattr(config, name, value[:count])
    config.num_hidden_layers = count


def skeleton(source: BaseModel, config: "PreTrainedConfig") -> "PreTrainedModel":
    """Build the encoder that a base's config describes, without weights; errors as of :func:`from_pretrained`."""
    import torch
    from transformers import AutoModel

    with _read(source, "config.json"), torch.device("meta"):
        return cast("PreTrainedModel", AutoModel.from_config(config, trust_remote_code=False))


def fast_tokenizer(source: BaseModel | Path) -> "PreTrainedTokenizerFast":
    """Load the tokenizer of a base, or of a saved classifier; one that is not a fast one is an error, too."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer = from_pretrained(AutoTokenizer, source)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise _refusal(source, "a fast tokenizer (tokenizer.json)", type(tokenizer).__name__)
    return tokenizer


def adapter_config(folder: Path) -> "LoraConfig":
    """Load the settings of a saved adapter; a RunFolderError where peft cannot, or would run what they name."""
    from peft import LoraConfig

    with _read(folder, _ADAPTER):
        # A relative one would do as a hub id, too.
        config: LoraConfig = LoraConfig.from_pretrained(str(folder.resolve()))
        return config


def with_adapter(model: "PreTrainedModel", folder: Path) -> "PeftModel":
    """Put a saved adapter on its base, as plain peft does it; errors as of :func:`adapter_config`."""
    from peft import PeftModel

    config = adapter_config(folder)
    with _read(folder, _ADAPTER):
        return PeftModel.from_pretrained(model, str(folder), config=config)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars, its warnings of newly initialized heads, and peft's of an old name in it."""
    from transformers.utils import logging as hf_logging

    shown, verbosity = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
            yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if shown:
            hf_logging.enable_progress_bar()


@contextmanager
def _read(source: BaseModel | Path, file: str) -> Iterator[Path]:
    """Give the folder to read, and turn what fails within into one line that names the file."""
    folder = source.path if isinstance(source, BaseModel) else source
    try:
        # transformers loads an adapter in the folder of a model, too. Other kinds than LoRA may open a tokenizer that
        # they name, and ask whether to run its code; Megatron's layers are imported by name.
        adapter = read_json(folder / _ADAPTER) if (folder / _ADAPTER).exists() else {"peft_type": "LORA"}
        if adapter["peft_type"] != "LORA" or adapter.get("megatron_config"):
            raise ValueError(f"another kind of adapter than plain LoRA in {_ADAPTER}")
        with quiet():
            yield folder
    except Exception as error:  # tokenizers raises the plain class
        found = f"{type(error).__name__}: {first_line(error).rstrip('.')}"
        if "trust_remote_code" in str(error):
            found = "an auto_map to other code, which is never run"
        raise _refusal(source, f"what {file} describes to load with the libraries' own code", found) from error


def _refusal(source: BaseModel | Path, expected: str, found: str) -> NlpTransferError:
    if isinstance(source, BaseModel):
        return BaseModelError(f"{source.id}: expected {expected}, found {found}: take another encoder")
    return RunFolderError(f"{source}: expected {expected}, found {found}: fetch it again, or save it anew")
