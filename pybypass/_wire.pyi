"""Checksums and hashes of the C core, for the slow path and for tests."""

from typing import Any

import numpy as np
import numpy.typing as npt

_Bytes = bytes | bytearray | memoryview

TOEPLITZ_KEY: bytes

def internet_checksum(data: _Bytes) -> int:
    """The Internet checksum (RFC 1071) of the bytes, 0 to 65535, big-endian; 0 over data with a right checksum field."""

def toeplitz(key: _Bytes, data: _Bytes) -> int:
    """The Toeplitz hash that RSS uses, 32 bits. ValueError when the key is shorter than the data plus four bytes."""

def toeplitz_rows(key: _Bytes, rows: npt.NDArray[np.uint8], hashes: npt.NDArray[np.uint32]) -> Any:
    """The Toeplitz hash of each row of a C-contiguous array (n, 1 to 36), written to `hashes` (n); without the GIL.

    ValueError when the shapes do not fit or the key is shorter than a row plus four bytes.
    """
