"""BLAKE3 from its paper (sections 2.1 to 2.6): hash, keyed hash, derive_key, extended output.

All leaves of an input are compressed at once: word i of all states is one big integer with a lane of 64 bits per leaf,
of which 32 are used. That makes plain Python fast enough for chunks of 2 MiB.
"""

import struct

LEAF = 1024
BLOCK = 64

CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8
KEYED_HASH, DERIVE_KEY_CONTEXT, DERIVE_KEY_MATERIAL = 16, 32, 64

IV = (
    0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
    0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19,
)  # fmt: skip
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
QUARTERS = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)  # fmt: skip


def compress(cv, message, counters, length, flags, lanes):
    """The 16 words after seven rounds and before the feed forward of the upper half; `cv` and `message` hold lanes."""
    ones = int.from_bytes(b"\x01\0\0\0\0\0\0\0" * lanes, "little")
    mask = ones * 0xFFFFFFFF
    low = lane_words([counter & 0xFFFFFFFF for counter in counters])
    high = lane_words([counter >> 32 for counter in counters])
    v = list(cv) + [ones * word for word in IV[:4]] + [low, high, ones * length, ones * flags]
    for _ in range(7):
        for number, (a, b, c, d) in enumerate(QUARTERS):
            for word, first, second in ((2 * number, 16, 12), (2 * number + 1, 8, 7)):
                v[a] = (v[a] + v[b] + message[word]) & mask
                x = v[d] ^ v[a]
                v[d] = (x >> first | x << 32 - first) & mask
                v[c] = (v[c] + v[d]) & mask
                x = v[b] ^ v[c]
                v[b] = (x >> second | x << 32 - second) & mask
        message = [message[i] for i in PERMUTATION]
    return [v[i] ^ v[i + 8] for i in range(8)] + [v[i + 8] ^ cv[i] for i in range(8)]


def lane_words(words):
    return int.from_bytes(struct.pack(f"<{len(words)}Q", *words), "little")


def words_of_lanes(value, lanes):
    return struct.unpack(f"<{lanes}Q", value.to_bytes(8 * lanes, "little"))


def leaves(key, data, first, flags):
    """Chaining values (lists of 8 words) of full leaves, the first of which has the number `first`."""
    lanes = len(data) // LEAF
    words = struct.unpack(f"<{len(data) // 4}I", data)
    counters = range(first, first + lanes)
    cv = [lane_words([word] * lanes) for word in key]
    for block in range(16):
        message = [lane_words(words[16 * block + i :: 256]) for i in range(16)]
        ends = (CHUNK_START if block == 0 else 0) | (CHUNK_END if block == 15 else 0)
        cv = compress(cv, message, counters, BLOCK, flags | ends, lanes)[:8]
    return list(zip(*(words_of_lanes(word, lanes) for word in cv)))


def node_of_leaf(key, data, number, flags):
    """The last compression of one leaf of at most 1024 bytes, not yet done: it may be the root."""
    blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)] or [b""]
    cv = key
    for index, block in enumerate(blocks):
        message = struct.unpack("<16I", block.ljust(BLOCK, b"\0"))
        start = CHUNK_START if index == 0 else 0
        if index == len(blocks) - 1:
            return cv, message, number, len(block), flags | start | CHUNK_END
        cv = compress(cv, message, [number], BLOCK, flags | start, 1)[:8]


def node_of_parent(key, left, right, flags):
    return key, tuple(left) + tuple(right), 0, BLOCK, flags | PARENT


def chaining_value(node):
    cv, message, counter, length, flags = node
    return compress(cv, message, [counter], length, flags, 1)[:8]


def parents(key, values, flags):
    """One level of the tree: neighbours become one, an odd one at the end rises as it is."""
    lanes = len(values) // 2
    left, right = values[0 : 2 * lanes : 2], values[1 : 2 * lanes : 2]
    message = [lane_words([cv[i] for cv in side]) for side in (left, right) for i in range(8)]
    cv = [lane_words([word] * lanes) for word in key]
    out = compress(cv, message, [0] * lanes, BLOCK, flags | PARENT, lanes)[:8]
    return list(zip(*(words_of_lanes(word, lanes) for word in out))) + values[2 * lanes :]


def run(key, data, flags, length):
    data = bytes(data)
    if len(data) <= LEAF:
        node = node_of_leaf(key, data, 0, flags)
    else:
        full = len(data) // LEAF
        values = []
        for first in range(0, full, 2048):
            last = min(first + 2048, full)
            values += leaves(key, data[first * LEAF : last * LEAF], first, flags)
        if len(data) % LEAF:
            values.append(chaining_value(node_of_leaf(key, data[full * LEAF :], full, flags)))
        while len(values) > 2:
            values = parents(key, values, flags)
        node = node_of_parent(key, values[0], values[1], flags)
    cv, message, _, block_length, node_flags = node
    output = b""
    counter = 0
    while len(output) < length:
        words = compress(cv, message, [counter], block_length, node_flags | ROOT, 1)
        output += struct.pack("<16I", *words)
        counter += 1
    return output[:length]


def key_words(key):
    return struct.unpack("<8I", key)


def blake3(data, length=32):
    return run(IV, data, 0, length)


def keyed_hash(key, data, length=32):
    return run(key_words(key), data, KEYED_HASH, length)


def derive_key(context, material, length=32):
    context_key = run(IV, context.encode(), DERIVE_KEY_CONTEXT, 32)
    return run(key_words(context_key), material, DERIVE_KEY_MATERIAL, length)
