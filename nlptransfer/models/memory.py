"""Tell where memory has run out, and give back what a failed pass held."""

import torch

_WORDS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "failed to allocate memory",
    "size calculation overflowed",
)
"""What torch's allocators for processors and for Apple's GPUs, cuBLAS and onnxruntime say, in lower case."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error of a pass through a model says that memory has run out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # torch's allocator for processors raises a plain RuntimeError, onnxruntime an error without a class in common.
    is_of_library = isinstance(error, RuntimeError) or type(error).__module__.startswith("onnxruntime")
    return is_of_library and any(words in str(error).lower() for words in _WORDS)


def release(error: BaseException | None) -> None:
    """Give back the memory that a failed pass still holds."""
    if error is not None:
        # Its frames hold the tensors of the pass.
        error.__traceback__ = None
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()
