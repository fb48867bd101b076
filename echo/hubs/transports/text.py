"""Where text may be cut: never within a character."""

from __future__ import annotations


def whole_characters(data: bytes | bytearray) -> int:
    """How many of these bytes of UTF-8 end with a character. What is no UTF-8 counts as it is."""
    for back in range(1, min(len(data), 3) + 1):
        byte = data[-back]
        if byte < 0x80:
            break
        if byte >= 0xC0:  # begins a character of 2 to 4 bytes
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) - back if back < needed else len(data)
    return len(data)
