"""A classifier as ONNX: onnxruntime predicts with it, without its base and without its weights in torch."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_outputs import SequenceClassifierOutput

from nlptransfer.errors import RunFolderError, SettingError, first_line
from nlptransfer.files import file_hash
from nlptransfer.hub import CardSection, fast_tokenizer, from_pretrained
from nlptransfer.models import NgramRows, Ngrams, Rows, SharedBase, WordIdRows, encode_words, usable_cores
from nlptransfer.routes import ROUTES, WORDS, SavedFormat
from nlptransfer.settings import check, fill

GRAPH = "model.onnx"
GRAPH_DATA = "model.onnx.data"
"""Where the weights lie if they do not fit into the graph's file, which may have 2 GB."""
LOGITS = "logits"
"""The graph's output."""
INSTALL = "pip install 'nlptransfer[onnx]'"


class OnnxForSequenceClassification(PreTrainedModel):
    """Runs an ONNX graph as a model of transformers, for prediction alone.

    onnxruntime takes a GPU where it was installed with CUDA, and OMP_NUM_THREADS threads, by default one for each core,
    or as many as a container's quota allows.

    ``words`` is the tokenizer of word vectors besides an encoder, and ``ngrams`` are those besides either. A graph that
    does not open, or for another number of labels, is a RunFolderError, and no onnxruntime a SettingError.
    """

    config_class = PreTrainedConfig
    # The config says how attention is computed, which is the graph's business by now.
    _supports_sdpa = True

    def __init__(
        self,
        config: PreTrainedConfig,
        folder: Path,
        words: PreTrainedTokenizerFast | None = None,
        ngrams: Ngrams | None = None,
    ) -> None:
        super().__init__(config)
        self.folder, self.words, self.ngrams = folder, words, ngrams
        self.session, self.hashes = _opened(folder / GRAPH), _hashes(folder)
        self.chosen_device: torch.device | None = None
        self.input_names = [value.name for value in self.session.get_inputs()]
        outputs = ", ".join(f"{value.name} of {value.shape[-1]}" for value in self.session.get_outputs())
        if outputs != (expected := f"{LOGITS} of {config.num_labels}"):
            raise RunFolderError(
                f"{folder / GRAPH}: expected {expected} labels, as config.json has them, found {outputs}: "
                "export it again"
            )
        # transformers takes a model's device and dtype from its parameters.
        self.no_weights = nn.Parameter(torch.empty(0), requires_grad=False)

    def _apply(self, fn: Any, recurse: bool = True) -> "OnnxForSequenceClassification":
        # Wherever the graph is computed, onnxruntime is handed arrays of main memory.
        return self

    def compute_on(self, device: torch.device) -> None:
        """Compute on a device from here on; a SettingError where onnxruntime cannot."""
        provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(device.type)
        usable = self.session.get_providers()
        check(provider in usable, "device", str(device), f"one that onnxruntime can use here: {', '.join(usable)}")
        self.session.set_providers([provider], [{"device_id": device.index or 0} if device.type == "cuda" else {}])
        self.chosen_device = device

    def __getstate__(self) -> dict[str, Any]:
        # A session cannot be copied: a copy opens the graph again.
        return {name: value for name, value in self.__dict__.items() if name != "session"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if (hashes := _hashes(self.folder)) != self.hashes:
            raise RunFolderError(
                f"{self.folder / GRAPH}: expected the graph of the classifier that was copied or pickled, found "
                f"{'another' if hashes else 'none'}: load the classifier from where it lies now"
            )
        self.session = _opened(self.folder / GRAPH)
        if self.chosen_device is not None:
            self.compute_on(self.chosen_device)

    def forward(self, **inputs: Tensor) -> SequenceClassifierOutput:
        """Return logits, (batch, labels) float32, for ``input_names``, (batch, tokens, words or n-grams) each."""
        (logits,) = self.session.run([LOGITS], {name: inputs[name].numpy() for name in self.input_names})
        return SequenceClassifierOutput(logits=torch.from_numpy(logits))

    def save_pretrained(self, save_directory: Any, *_: Any, **__: Any) -> None:
        """Copy the graph, its config, the tokenizer of the words and the n-grams."""
        folder = Path(save_directory)
        self.config.save_pretrained(folder)
        if self.words is not None:
            self.words.save_pretrained(folder / WORDS)
        if self.ngrams is not None:
            self.ngrams.save(folder)
        for name in _hashes(self.folder):
            shutil.copyfile(self.folder / name, folder / name)


@dataclass(frozen=True)
class Exported(SavedFormat):
    """A classifier of any route as ONNX: it predicts, and cannot learn."""

    name: ClassVar[str] = "onnx"
    opened_by: ClassVar[str] = "onnxruntime"
    # In the same batches: in int8 what else is in a batch changes how activations are rounded.
    reads_tokens: ClassVar[bool] = False

    learned_by: str
    """name of the route of the model that was exported"""

    def check_export(self) -> None:
        raise SettingError("export: expected a model in torch, found one in ONNX: take what it was exported from")

    def rows(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], *, share: bool = False
    ) -> Rows:
        """Return the graph's inputs, given it or the model in torch that it was exported from."""
        rows = self._rows_of_tokens(model, tokenizer, texts)
        ngrams = getattr(model, "ngrams", None)
        return rows if ngrams is None else NgramRows(rows, ngrams.features(texts))

    def _rows_of_tokens(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Rows:
        if getattr(model.config, "only_pools", False):
            return encode_words(texts, tokenizer, self.long_text)
        tokens = self.tokens(tokenizer, texts)
        words = getattr(model, "words", None)
        return tokens if words is None else WordIdRows(tokens, encode_words(texts, words, self.long_text))

    def load(
        self, folder: Path, record: Mapping[str, Any], base: str | SharedBase | None
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
        """Open a saved graph, see :class:`OnnxForSequenceClassification`, and its tokenizer; it needs no base."""
        words = fast_tokenizer(folder / WORDS) if (folder / WORDS).exists() else None
        # A route that has a config of its own lets transformers know it.
        ROUTES.find(self.learned_by)
        model = OnnxForSequenceClassification(from_pretrained(AutoConfig, folder), folder, words, Ngrams.open(folder))
        return model.eval(), fast_tokenizer(folder)  # type: ignore[no-untyped-call]

    def placed(self, model: PreTrainedModel, device: torch.device | None) -> PreTrainedModel:
        """Let onnxruntime compute on a device; None: on a GPU where it can. A SettingError where it cannot."""
        if device is not None:
            cast(OnnxForSequenceClassification, model).compute_on(device)
        return model

    def card_section(self, record: Mapping[str, Any], repo_id: str) -> CardSection:
        route = fill({"route": ROUTES.find(self.learned_by)}, record["learned"]["settings"])["route"]
        learned: CardSection = route.card_section(record, repo_id)
        relation = "quantized" if "int8" in record["format"] else "finetune"
        return replace(learned, library_name="nlptransfer", relation=relation, loading_code="")


def _hashes(folder: Path) -> dict[str, str]:
    """Return the hashes of the graph's files by their names."""
    return {name: file_hash(folder / name) for name in (GRAPH, GRAPH_DATA) if (folder / name).is_file()}


def _opened(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise SettingError(f"a classifier in ONNX needs the package onnxruntime: {INSTALL}") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; its warnings are of how it lays out the graph
    threads = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if threads.isdigit():
        options.intra_op_num_threads = int(threads)
    elif (usable := usable_cores()) < (os.cpu_count() or 1):
        options.intra_op_num_threads = usable
    usable = onnxruntime.get_available_providers()
    providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in usable]
    try:
        return onnxruntime.InferenceSession(str(path), options, providers)
    except Exception as error:  # its errors have no class of their own in common
        raise RunFolderError(
            f"{path}: expected a graph that onnxruntime opens, found {first_line(error)}: export it again"
        ) from error
