"""The parity blocks of section 12 of FORMAT.md, by interpolation: straight from the definition, for small chunks."""

POLYNOMIAL = 0x1002D
BASIS = (
    0x0001, 0xACCA, 0x3C0E, 0x163E, 0xC582, 0xED2E, 0x914C, 0x4012,
    0x6C98, 0x10D8, 0x6A72, 0xB900, 0xFDB8, 0xFB34, 0xFF38, 0x991E,
)  # fmt: skip
BLOCK = 1024

# More products of a block and a factor than this take too long.
LIMIT = 20_000

# Stands for the logarithm of zero: powers from here on are zero.
NEVER = 131070


def tables():
    """Powers and logarithms of x in the field, and the elements e(0), e(1), ... with their numbers."""
    power, logarithm = [0] * (NEVER + 65535), [NEVER] * 65536
    element = 1
    for exponent in range(65535):
        power[exponent] = power[exponent + 65535] = element
        logarithm[element] = exponent
        element <<= 1
        if element >> 16:
            element ^= POLYNOMIAL
    elements = [0]
    for vector in BASIS:
        elements += [element ^ vector for element in elements]
    numbers = [0] * 65536
    for number, element in enumerate(elements):
        numbers[element] = number
    return power, logarithm, elements, numbers


POWER, LOG, ELEMENT, NUMBER = tables()


def lagrange(nodes, at):
    """For each node the value in `at` of the polynomial that is 1 in it and 0 in the other nodes. The nodes are all
    elements of a coset of e(0) ... e(p - 1), so the product of the differences to the others is the same for each."""
    if at in nodes:
        return [int(node == at) for node in nodes]
    everything = sum(LOG[at ^ node] for node in nodes)
    differences = sum(LOG[nodes[0] ^ node] for node in nodes[1:])
    return [POWER[(everything - differences - LOG[at ^ node]) % 65535] for node in nodes]


def logarithms(block):
    """Of 512 elements of the field: a low byte and the high byte 32 bytes after it, in each piece of 64 bytes."""
    numbers = (block[at + i] | block[at + 32 + i] << 8 for at in range(0, BLOCK, 64) for i in range(32))
    return [LOG[ELEMENT[number]] for number in numbers]


def block_of(elements):
    block = bytearray(BLOCK)
    for index, element in enumerate(elements):
        at = 64 * (index // 32) + index % 32
        block[at], block[at + 32] = NUMBER[element] & 255, NUMBER[element] >> 8
    return bytes(block)


def matrix(k, m):
    """For each parity block the factors of the k blocks."""
    p_k, p_m = (1 << (n - 1).bit_length() for n in (k, m))
    if p_k > p_m:
        rows = [[] for _ in range(m)]
        for coset in range(0, k, p_m):
            nodes = ELEMENT[p_m + coset : p_m + coset + p_m]
            for row, factors in enumerate(rows):
                factors += lagrange(nodes, ELEMENT[row])
        return [row[:k] for row in rows]
    nodes = ELEMENT[:p_k]
    return [lagrange(nodes, ELEMENT[p_k + row])[:k] for row in range(m)]


def parity_blocks(blocks, m):
    originals = [logarithms(block) for block in blocks]
    result = []
    for factors in matrix(len(blocks), m):
        total = [0] * 512
        for factor, original in zip(factors, originals):
            if factor:
                log = LOG[factor]
                total = [element ^ POWER[other + log] for element, other in zip(total, original)]
        result.append(block_of(total))
    return result


def parity_of(chunk, m):
    """The m parity blocks of a chunk, one after the other; nothing if that would take too long."""
    blocks = [chunk[at : at + BLOCK] for at in range(0, len(chunk), BLOCK)]
    if len(blocks) * m > LIMIT:
        return None
    return b"".join(parity_blocks(blocks, m))
