"""`SystemState`: what a trading system remembers between two closes, as bytes without a pickle.

It is the state of the core that decides (track record, drawdown, risk scale, signals that stand between two decisions,
breakers), what the last decision left, and the close that it is of. A system that loads it goes on as if it had never
stopped, to the last digit.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mtquant_rllib import strict_json
from mtquant_rllib.errors import MtquantError

FORMAT = "mtquant_rllib system state 1"
_HEAD = "mtquant_rllib"
"""Key of the file's only entry of metadata."""


@dataclass(frozen=True, eq=False)
class SystemState:
    """arrays: by dotted name. fingerprint: of the policies (`DecidingPolicies.fingerprint`). closed_at: the close that
    it is of, ISO 8601; None before the first decision."""

    arrays: Mapping[str, np.ndarray]
    fingerprint: str
    closed_at: str | None

    def to_bytes(self) -> bytes:
        """A safetensors file with a checksum in its head: the same state has the same bytes."""
        head = {"format": FORMAT, "fingerprint": self.fingerprint, "closed_at": self.closed_at}
        # One entry: safetensors writes several in any order.
        return save(dict(self.arrays), metadata={_HEAD: strict_json.dumps(head | {"sha256": self._checksum()})})

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """The state that `to_bytes` wrote.

        Raises
        ------
        MtquantError
            When the bytes are damaged, cut, or of another format.
        """
        try:
            (length,) = struct.unpack("<Q", content[:8])
            head = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_HEAD])
            found = cls(load(content), head["fingerprint"], head["closed_at"])
            kind, checksum = head["format"], head["sha256"]
        except (SafetensorError, struct.error, ValueError, KeyError, TypeError) as error:
            raise MtquantError(
                f"the saved state of a trading system is damaged ({type(error).__name__}); go on from an earlier one"
            ) from None
        if kind != FORMAT:
            raise MtquantError(
                f"the saved state of a trading system has format {kind!r}; this version reads {FORMAT!r}"
            )
        if found._checksum() != checksum:
            raise MtquantError(
                "the saved state of a trading system is damaged (its content is not what was written); go on from an "
                "earlier one"
            )
        return found

    def _checksum(self) -> str:
        digest = hashlib.sha256(f"{self.fingerprint}|{self.closed_at}|".encode())
        for name, array in sorted(self.arrays.items()):
            digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()
