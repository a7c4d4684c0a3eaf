"""Checksums and hashes of the C core, for the slow path and for tests."""

_Bytes = bytes | bytearray | memoryview

def internet_checksum(data: _Bytes) -> int:
    """The Internet checksum (RFC 1071) of the bytes, 0 to 65535, big-endian; 0 over data with a right checksum field."""

def toeplitz(key: _Bytes, data: _Bytes) -> int:
    """The Toeplitz hash that RSS uses, 32 bits. ValueError when the key is shorter than the data plus four bytes."""
