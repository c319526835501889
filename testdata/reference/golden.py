"""The golden images: every suite of algorithms, every shape of a disk. `make.py` writes them."""

import hashlib
import os

import crypto
from write import Image, ed25519_owner, fixed, layout, rsa_owner

KEYS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "keys")

OWNERS = {
    "none": None,
    "ed25519": ed25519_owner("owner"),
    "rsa3072": rsa_owner(os.path.join(KEYS, "owner-rsa3072.key")),
    "rsa4096": rsa_owner(os.path.join(KEYS, "owner-rsa4096.key")),
}
OTHER_OWNER = ed25519_owner("another owner")
CODECS = {"stored": crypto.STORED, "zstd": crypto.ZSTD, "zlib": crypto.ZLIB}
CIPHERS = {
    "open": crypto.CLEAR,
    "aes": crypto.AES_256_GCM,
    "chacha": crypto.CHACHA20_POLY1305,
    "blowfish": crypto.BLOWFISH_CBC_HMAC,
}
ED25519 = OWNERS["ed25519"]
CLASSIC = {"owner": OWNERS["rsa3072"], "codec": crypto.ZLIB, "cipher": crypto.BLOWFISH_CBC_HMAC}


def read(name):
    return open(os.path.join(KEYS, name), "rb").read()


def text(length, seed=""):
    """Bytes that can be compressed, but not to nothing."""
    lines = (f"{seed}{number}: the quick brown fox {number * number} jumps\n" for number in range(length // 20 + 1))
    return "".join(lines).encode()[:length]


class Golden:
    """An image, and the disk that it must give."""

    def __init__(self, image, note, bases=()):
        self.image, self.note, self.bases = image, note, bases
        self.disk = bytearray(image.sectors * image.sector_size)

    def place(self, first, regions, data):
        size = self.image.sector_size
        at = done = 0
        for gap, sectors in regions:
            at += gap
            begin = (first + at) * size
            self.disk[begin : begin + sectors * size] = data[done : done + sectors * size]
            at += sectors
            done += sectors * size
        assert done == len(data)

    def chunk(self, first, sectors, regions, data, relocations=(), **changes):
        self.place(first, regions, data)
        self.image.add(layout(first, sectors, regions, relocations), data, **changes)

    def left_out(self, first, sectors, regions, data):
        self.place(first, regions, data)
        self.image.leave_out(layout(first, sectors, regions), data)

    def row(self, name):
        """File, SHA-256 of the disk with free space zero, bytes, owners, bases, sector size, what it is about."""
        owners = sorted({owner_name(image.owner) for image in [self.image] + [base.image for base in self.bases]})
        bases = ",".join(f"{base.image.label}.frz" for base in self.bases) or "-"
        digest = hashlib.sha256(self.disk).hexdigest()
        return name, digest, len(self.disk), ",".join(owners), bases, self.image.sector_size, self.note


def owner_name(owner):
    return next(name for name, known in OWNERS.items() if known is owner)


def suites():
    for codec in CODECS:
        for cipher in CIPHERS:
            for owner in OWNERS:
                label = f"suite-{codec}-{cipher}-{owner}"
                image = Image(
                    label,
                    OWNERS[owner],
                    CODECS[codec],
                    CIPHERS[cipher],
                    sectors=300,
                    parity=9 if owner == "rsa4096" else 0,
                )
                golden = Golden(image, "two chunks with each combination of codec, cipher and signature")
                golden.chunk(0, 128, [(0, 4), (20, 3)], text(7 * 512))
                golden.chunk(128, 172, [(100, 2), (0, 1), (60, 9)], text(12 * 512, "second "))
                yield golden


def shapes():
    def image(label, note, **fields):
        fields = {"owner": ED25519, **fields}
        return Golden(Image(label, **fields), note)

    yield image("no-chunks", "disk of zero sectors, sealed empty private part")
    yield image("no-chunks-open", "disk of zero sectors, the manifest has no body", cipher=crypto.CLEAR)

    golden = image("one-sector", "the smallest disk", sectors=1)
    golden.chunk(0, 1, [(0, 1)], text(512))
    yield golden

    for size in (1024, 2048, 4096):
        golden = image(f"sectors-{size}", "larger sectors", sectors=40, sector_size=size)
        golden.chunk(0, 25, [(1, 2), (3, 1)], text(3 * size))
        golden.chunk(25, 15, [(14, 1)], text(size, "last "))
        yield golden

    golden = image("stored-chunk", "a chunk that is not compressed in an image that is", sectors=256)
    golden.chunk(0, 128, [(0, 8)], text(8 * 512))
    golden.chunk(128, 128, [(0, 8)], fixed("noise", 8 * 512), codec=crypto.STORED)
    yield golden

    golden = image("free-chunks", "chunks without regions: empty data, an empty frame", sectors=300)
    golden.chunk(0, 100, [], b"", codec=crypto.STORED)
    golden.chunk(100, 100, [], b"")
    golden.chunk(200, 100, [(99, 1)], text(512))
    yield golden

    golden = Golden(Image("free-chunks-classic", **CLASSIC, sectors=200), "the same with an empty zlib stream")
    golden.chunk(0, 100, [], b"", codec=crypto.STORED)
    golden.chunk(100, 100, [], b"")
    yield golden

    golden = image(
        "block-borders", "bodies that end at, before and after the end of a block", sectors=384,
        codec=crypto.STORED, cipher=crypto.CLEAR,
    )  # fmt: skip
    # 32 + 8 r + 512 s bytes: exactly full, 8 bytes more, 8 bytes less.
    for number, regions in enumerate((60, 61, 59)):
        table = [(1, 1)] * (regions - 1) + [(0, 61 - (regions - 1))]
        golden.chunk(128 * number, 128, table, fixed("border", 61 * 512))
    yield golden

    golden = image(
        "largest-chunk", "2 MiB that cannot be compressed", sectors=4096, chunk_size=2 << 20,
        codec=crypto.STORED,
    )  # fmt: skip
    golden.chunk(0, 4096, [(0, 4096)], fixed("incompressible", 2 << 20))
    yield golden

    golden = image("single-sectors", "4096 regions of one sector each", sectors=9000, chunk_size=2 << 20)
    golden.chunk(0, 9000, [(1, 1)] * 4096, text(512) * 4096)
    yield golden

    golden = image("chunk-size", "a chunk size that is no power of two", sectors=300, chunk_size=129 * 512)
    golden.chunk(0, 129, [(0, 129)], text(129 * 512))
    golden.chunk(129, 171, [(50, 129 - 8)], text(121 * 512))
    yield golden

    golden = image("relocations", "relocations of kinds without effect, one of them unknown", sectors=128)
    places = [(0, 0, 10, 512), (7, 511, 11, 1), (0xFFFFFFFF, 100, 10, 924), (1000, 0, 11, 0), (1000, 0, 30, 512)]
    golden.chunk(0, 128, [(10, 2), (18, 1)], text(3 * 512), places)
    yield golden

    for label, file in (("wrapped-keys", "wrapped.age"), ("wrapped-keys-many", "wrapped-many.age")):
        golden = image(label, "content key in the header, for keys/recipient.txt", sectors=8, wrapped=read(file))
        golden.chunk(0, 8, [(0, 8)], text(8 * 512))
        yield golden

    name = "ß日𝄞".encode() * 28 + "日".encode()
    golden = image(
        "long-name",
        "a name of 255 bytes, the largest epoch and time",
        sectors=8,
        name=name,
        epoch=2**64 - 1,
        created=2**64 - 1,
    )
    assert len(name) == 255
    golden.chunk(0, 8, [(0, 8)], text(8 * 512))
    yield golden

    golden = image("no-name", "no name, epoch 0, time 0", sectors=8, name=b"", epoch=0, created=0)
    golden.chunk(0, 8, [(0, 8)], text(8 * 512))
    yield golden

    golden = image("parity", "from none to 4096 parity blocks", sectors=128 * 9, codec=crypto.STORED)
    # Blocks of the chunk, parity blocks: fewer, as many, more, around powers of two.
    for number, (sectors, count) in enumerate(
        ((1, 0), (1, 1), (1, 8), (5, 3), (12, 8), (13, 9), (30, 8), (3, 4096), (60, 1))
    ):
        golden.chunk(128 * number, 128, [(0, sectors)], fixed("parity", sectors * 512), parity_blocks=count)
    yield golden


def deltas():
    """A base, a delta, a delta of that; the last one with other algorithms."""
    regions = [(0, 4), (20, 3)]
    old = [text(7 * 512, f"old {number} ") for number in range(4)]
    new = [text(7 * 512, f"new {number} ") for number in range(4)]

    base = Golden(Image("base", ED25519, sectors=500), "the base of the deltas")
    for number in range(4):
        base.chunk(125 * number, 125, regions, old[number])
    yield base

    delta = Golden(
        base.image.like(
            label="delta",
            name=b"base",
            epoch=2,
            uuid=fixed("UUID delta", 16),
            salt=fixed("salt delta", 16),
            base=base.image.as_base(),
        ),
        "chunks 1 and 2 are new",
        [base],
    )
    for number in range(4):
        add = delta.chunk if number in (1, 2) else delta.left_out
        add(125 * number, 125, regions, new[number] if number in (1, 2) else old[number])
    yield delta

    other = Golden(
        Image("delta-of-delta", **CLASSIC, sectors=500, epoch=3, base=delta.image.as_base()),
        "chunk 2 is new again, in the classic suite; 1 is the delta's, 0 and 3 the base's",
        [base, delta],
    )
    other.left_out(0, 125, regions, old[0])
    other.left_out(125, 125, regions, new[1])
    other.chunk(250, 125, regions, text(7 * 512, "newest "))
    other.left_out(375, 125, regions, old[3])
    yield other

    nothing = Golden(
        Image("delta-of-nothing", ED25519, sectors=500, epoch=4, base=base.image.as_base()),
        "no chunk is new: none is in the image",
        [base],
    )
    for number in range(4):
        nothing.left_out(125 * number, 125, regions, old[number])
    yield nothing


def all_images():
    yield from suites()
    yield from shapes()
    yield from deltas()
