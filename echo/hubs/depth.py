"""How deep a received message nests: one bound for both encodings.

.NET reads JSON to 64 levels, the message itself included, and drops whoever sends more; what one
client sends must not nest so deep that it harms the others it is sent on to. Both functions
take the shortest way out for the many messages that have no 64 lists and maps at all.
"""

from __future__ import annotations

import re

MAX_DEPTH = 64

# The last quote is optional: else a string that never ends would be tried from each of its quotes.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_AS_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def json_is_too_deep(message: bytes) -> bool:
    """Whether a JSON text nests deeper than `MAX_DEPTH`, or does not close what it opens."""
    if message.count(b"[") + message.count(b"{") <= MAX_DEPTH:
        return False
    # Each turn takes away the innermost level. Whether { and ] match is the decoder's business.
    brackets = _STRING.sub(b"", message).translate(_AS_SQUARE, _NO_BRACKETS)
    if not brackets:
        return False
    for _ in range(MAX_DEPTH):
        inner = brackets.replace(b"[]", b"")
        if not inner:
            return False
        if len(inner) == len(brackets):
            return True
        brackets = inner
    return True


def messagepack_is_too_deep(message: bytes) -> bool:
    """Whether a MessagePack value nests deeper than `MAX_DEPTH`."""
    if len(message.translate(None, _SCALARS)) <= MAX_DEPTH:
        return False
    position, size = 0, len(message)
    left = 1  # values still to come of the innermost list or map
    outer: list[int] = []  # and of those around it, the inner one counted
    while position < size:
        first = message[position]
        step = _STEP[first]
        if step:
            position += step
        elif first in _SIZED:
            width, extra = _SIZED[first]
            stop = position + 1 + width
            position = stop + extra + int.from_bytes(message[position + 1 : stop])
        else:
            if len(outer) == MAX_DEPTH:
                return True
            width, factor = _NESTING[first]
            stop = position + 1 + width
            count = int.from_bytes(message[position + 1 : stop]) if width else first & 0x0F
            position = stop
            if count:
                outer.append(left)
                left = count * factor
                continue
        left -= 1
        while not left and outer:
            left = outer.pop() - 1
    return False


_SIZED = {  # bytes of the length, and bytes besides the content
    **dict(zip((0xC4, 0xC5, 0xC6), ((1, 0), (2, 0), (4, 0)), strict=True)),
    **dict(zip((0xC7, 0xC8, 0xC9), ((1, 1), (2, 1), (4, 1)), strict=True)),
    **dict(zip((0xD9, 0xDA, 0xDB), ((1, 0), (2, 0), (4, 0)), strict=True)),
}
_NESTING = {  # bytes of the count, and values that it counts at once
    **dict.fromkeys(range(0x80, 0x90), (0, 2)),
    **dict.fromkeys(range(0x90, 0xA0), (0, 1)),
    **dict(zip((0xDC, 0xDD, 0xDE, 0xDF), ((2, 1), (4, 1), (2, 2), (4, 2)), strict=True)),
}


_SCALARS = bytes(first for first in range(256) if first not in _NESTING)


def _step(first: int) -> int:
    """Bytes of a value whose first byte tells its size; 0 for all others."""
    if first in _SIZED or first in _NESTING:
        return 0
    if 0xA0 <= first <= 0xBF:
        return 1 + (first & 0x1F)
    numbers = {0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9}
    numbers |= {0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9}
    extensions = {0xD4: 3, 0xD5: 4, 0xD6: 6, 0xD7: 10, 0xD8: 18}
    return (numbers | extensions).get(first, 1)


_STEP = tuple(_step(first) for first in range(256))
