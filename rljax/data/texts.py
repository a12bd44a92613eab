"""Texts and their tokens: bytes, or what a tokenizer of a Hugging Face folder makes of them."""

import functools
import pathlib
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from rljax.errors import UserError
from rljax.networks import pretrained
from rljax.tokens import NUM_SPECIAL, PAD

BYTES = 256


class Texts(Protocol):
    """vocabulary: how many tokens there are, PAD and END among them."""

    vocabulary: int

    def encode(self, text: str) -> list[int]: ...

    def decode(self, tokens: Iterable[int]) -> str: ...


class Bytes:
    """UTF-8, byte b as token b + 2."""

    vocabulary = NUM_SPECIAL + BYTES

    def encode(self, text: str) -> list[int]:
        return [NUM_SPECIAL + byte for byte in text.encode()]

    def decode(self, tokens: Iterable[int]) -> str:
        return bytes(int(x) - NUM_SPECIAL for x in tokens if x >= NUM_SPECIAL).decode(errors="replace")


class Tokenizer:
    """A folder's tokenizer.json, in our numbers of its tokens (`pretrained.order`). Texts are read as they are: no token is added.

    Raises:
      UserError: the package tokenizers is not installed, or the folder's model or tokenizer cannot be read.
    """

    def __init__(self, folder: str):
        try:
            import tokenizers
        except ImportError as error:
            raise UserError("A tokenizer.json is read by another package: pip install 'rljax-suite[text]'.") from error
        self.vocabulary = pretrained.architecture(folder).vocabulary
        self._theirs = pretrained.order(self.vocabulary, pretrained.special_tokens(folder))
        self._ours = np.argsort(self._theirs)
        path = pathlib.Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise UserError(f"{folder} has no tokenizer.json.")
        try:
            self._read = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises nothing narrower
            raise UserError(f"{path} cannot be read: {error}.") from None
        size = max(self._read.get_vocab().values(), default=0) + 1
        if size > self.vocabulary:
            raise UserError(f"{path} has {size} tokens, more than the {self.vocabulary} of the model beside it.")

    def encode(self, text: str) -> list[int]:
        return self._ours[self._read.encode(text, add_special_tokens=False).ids].tolist()

    def decode(self, tokens: Iterable[int]) -> str:
        return self._read.decode([int(self._theirs[x]) for x in tokens if x != PAD], skip_special_tokens=False)


@functools.cache  # equal names are equal programs
def of(folder: str = "") -> Texts:
    """The texts of a folder; without one they are bytes. Raises UserError as `Tokenizer`."""
    return Tokenizer(folder) if folder else Bytes()
