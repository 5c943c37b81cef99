"""Export a classifier from torch to ONNX, compared with the live model, in 8 bits on request."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast, XLNetModel

from nlptransfer.classifier.onnx import GRAPH, GRAPH_DATA, INSTALL, LOGITS, Exported, OnnxForSequenceClassification
from nlptransfer.classifier.verification import largest_difference
from nlptransfer.errors import BaseModelError, SettingError, VerificationError, first_line
from nlptransfer.models import predict_logits
from nlptransfer.routes import SavedFormat
from nlptransfer.storage import is_refusal

GRAPH_TOLERANCE = 1e-3
"""Largest difference of logits of a float32 graph from the live model's: products are added up in another order."""


def export_onnx(
    route: SavedFormat,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    folder: Path,
    *,
    int8: bool = False,
) -> tuple[Exported, OnnxForSequenceClassification, dict[str, Any]]:
    """Write a classifier's ONNX graph into an empty folder, and return its format, model and record.

    It is compared with the live model on some texts; with ``int8``, weights and the activations that they are
    multiplied with are rounded to 8 bits, and the difference is recorded and has no limit.

    In float32 a logit that differs by more than ``GRAPH_TOLERANCE`` is a VerificationError. Missing packages, a model
    exported before, a base in 4 bits, or long texts handled as no graph can are a SettingError; what torch cannot
    export or onnxruntime cannot run is a BaseModelError.
    """
    if any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")):
        raise SettingError(f"export to ONNX needs the packages onnx, onnxscript and onnxruntime: {INSTALL}")
    route.check_export()
    plain = route.merged(model)[1] if isinstance(model, PeftModel) else deepcopy(model)
    plain = plain.cpu().float().eval()
    plain.config.architectures = [type(plain).__name__]
    # A live model in 16 bits is further from itself in float32 than a graph may be.
    live = model if model.dtype == torch.float32 else plain
    # Also texts that are short, long, or nothing.
    texts = [*texts, texts[0][:1], " ".join([*texts] * 8), ""]
    live_logits = predict_logits(live, route.rows(live, tokenizer, texts))
    exported = Exported(learned_by=route.name, long_text=route.long_text)

    def opened() -> tuple[OnnxForSequenceClassification, float]:
        extra = getattr(plain, "words", None), getattr(plain, "ngrams", None)
        graph = OnnxForSequenceClassification(plain.config, folder, *extra)
        graph.eval()  # type: ignore[no-untyped-call]
        # All together, and each alone.
        batches = [texts, *([text] for text in texts)]
        logits = [predict_logits(graph, exported.rows(graph, tokenizer, batch)) for batch in batches]
        return graph, largest_difference(np.tile(live_logits, (2, 1)), np.concatenate(logits))

    try:
        rows = exported.rows(plain, tokenizer, texts)
        _write_graph(plain, rows.batch(np.arange(len(rows))), folder / GRAPH)
        graph, exact = opened()
        difference = exact
        if int8 and exact <= GRAPH_TOLERANCE:
            _round_to_int8(folder)
            graph, difference = opened()
    except Exception as error:  # torch and onnxruntime raise what they please
        if is_refusal(error):
            raise
        # That of a frozen encoder, where the model holds one.
        kind = getattr(plain.base_model, "config", plain.config).model_type
        raise BaseModelError(
            f"expected a model that torch exports to ONNX and onnxruntime runs, found model type {kind!r}, "
            f"which fails with {_cause(error)}: keep it as it is saved, or take another base"
        ) from error
    if not exact <= GRAPH_TOLERANCE:
        raise VerificationError(
            f"expected logits as the live model has them (to {GRAPH_TOLERANCE:g}), found a difference of {exact:.3g} "
            "after exporting it to ONNX: keep it as it is saved, and please report it with the name of the base"
        )
    return exported, graph, {"format": "onnx int8" if int8 else "onnx", "max_logit_difference": difference}


class _Graph(nn.Module):
    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        word_ids: Tensor | None = None,
        ngram_ids: Tensor | None = None,
        ngram_weights: Tensor | None = None,
    ) -> Tensor:
        if isinstance(self.model.base_model, XLNetModel):
            # It subtracts the mask from 1.0, which torch exports of floats only.
            attention_mask = attention_mask.float()
        optional = {
            "token_type_ids": token_type_ids,
            "word_ids": word_ids,
            "ngram_ids": ngram_ids,
            "ngram_weights": ngram_weights,
        }
        extra = {name: value for name, value in optional.items() if value is not None}
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask, **extra).logits
        return logits.float()


def _write_graph(model: PreTrainedModel, batch: dict[str, Tensor], path: Path) -> None:
    """Export a model by tracing it on a batch; all sizes of the batch may differ later."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    longest = {"word_ids": "words", "ngram_ids": "n-grams", "ngram_weights": "n-grams"}
    shapes = {name: {0: "batch", 1: longest.get(name, "sequence")} for name in batch}
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            _Graph(model).eval(),
            kwargs=batch,
            input_names=list(batch),
            output_names=[LOGITS],
            dynamic_shapes=shapes,
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        # It notes for each node the files and lines of this machine that it came from.
        ClearMetadataAndDocStringPass()(program.model)
        program.save(path)


def _round_to_int8(folder: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    whole = onnx.load(folder / GRAPH)
    # It turns some matrices round, but not what is noted of their shapes.
    del whole.graph.value_info[:]
    # torch has simplified the graph; else a warning asks for it.
    add_pre_process_metadata(whole)
    with TemporaryDirectory(dir=folder) as scratch:
        quantize_dynamic(
            whole,
            Path(scratch) / GRAPH,
            weight_type=QuantType.QInt8,
            per_channel=True,
            # 7 bits where they are multiplied: with 8, sums overflow on processors without VNNI.
            reduce_range=True,
            use_external_data_format=(folder / GRAPH_DATA).exists(),
        )
        for file in Path(scratch).iterdir():
            file.replace(folder / file.name)


def _cause(error: BaseException) -> str:
    """Return the first line of the error that came first."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {first_line(error):.200}"


@contextmanager
def _quiet() -> Iterator[None]:
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        # torch asks itself by an old name.
        warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
        # The first input of several alike names a size of all.
        warnings.filterwarnings("ignore", "# The axis name: .* will not be used", UserWarning)
        try:
            yield
        finally:
            logging.disable(disabled)
