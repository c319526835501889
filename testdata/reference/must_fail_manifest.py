"""Manifests, footers, deltas and whole files that must be refused (sections 9, 10 and 13 of FORMAT.md)."""

import struct

import crypto
from golden import ED25519, OTHER_OWNER, OWNERS, text
from vector import DATA, INPUT, PLACE, VERIFICATION, Vector, filled, flipped, good, image, put
from write import BLOCK, HEADER, fixed, layout

CUT = "input/footer/cut short"
SIGNED_FOR = "and the owner has signed it"


def of(label, error, note, kind=INPUT, made=None, part="manifest", as_file="=", owners="ed25519", **changes):
    """An image whose manifest is made with `changes`."""
    made = made or filled()
    manifest = made.manifest(made.header(), **changes)
    data = made.bytes(manifest=manifest)
    return Vector(f"manifest-{label}", data, kind, part, error, note, as_file=as_file, owners=owners)


def heads():
    yield of("version", "version", "version 2", patch=put(8, 2, form="H"))
    yield of("codec", "codec", "codec 3", patch=put(11, 3))
    yield of("cipher", "cipher", "cipher 4", patch=put(12, 4))
    for at in (14, 120, 511):
        yield of(f"reserved-{at}", "reserved space", f"the reserved byte {at} is set", patch=put(at, 1))
    yield of("chunks-huge", "body length", "2^32 - 1 chunks", patch=put(56, 2**32 - 1, form="I"))
    yield of("chunks-more", "body length", "more chunks than the body has room for", patch=put(56, 3, form="I"))
    made = long_layout()
    yield of(
        "chunks-one-more", "chunk entry", "a chunk more than there are entries", made=made, patch=put(56, 3, form="I")
    )
    yield of("chunks-none", "total of chunk blocks", "no chunks, but their entries", patch=put(56, 0, form="I"))
    yield of("object-blocks", "object blocks", "a block too many", patch=put(60, 6, form="I"))
    yield of("body-length-0", "body length", "no body", patch=put(64, 0, form="Q"))
    for length in (2**64 - 1, 2**32):
        yield of(f"body-length-{length}", "object blocks", f"a body of {length} bytes", patch=put(64, length, form="Q"))
    yield of("body-length-more", "decrypt", "a byte of padding counts as body", VERIFICATION, patch=one_more)
    made = filled(cipher=crypto.CLEAR)
    yield of("body-length-more-open", "private part", "the same without encryption", made=made, patch=one_more)
    yield of("total", "total of chunk blocks", "a block more than in the entries", patch=put(72, 5, form="Q"))
    yield of("total-huge", "total of chunk blocks", "2^64 - 1 blocks", patch=put(72, 2**64 - 1, form="Q"))
    yield of("root", "altered", f"wrong object root, {SIGNED_FOR}", VERIFICATION, patch=put(80, fixed("no root")))
    yield of("body-bit", "altered", "one bit of an entry", VERIFICATION, after=lambda body: flipped(body, 8))
    yield of(
        "private-bit", "altered", "one bit of the private part", VERIFICATION, after=lambda body: flipped(body, 150)
    )
    yield of("padding-bit", "altered", "one bit of the padding", VERIFICATION, after=lambda body: flipped(body, -1))
    yield of("padding", "reserved space", f"the padding is not zero, {SIGNED_FOR}", padding=b"\0\1")


def long_layout():
    """The usual image with 30 regions in the first chunk."""
    made = image()
    made.add(layout(0, 100, [(1, 1)] * 30), text(30 * 512))
    made.add(*good(1))
    return made


def one_more(block):
    (length,) = struct.unpack_from("<Q", block, 64)
    struct.pack_into("<Q", block, 64, length + 1)


def foreign():
    for label, patch, field in (
        ("epoch", put(32, 2, form="Q"), "epoch"),
        ("cipher", put(12, crypto.CHACHA20_POLY1305), "cipher"),
        ("codec", put(11, crypto.STORED), "codec"),
    ):
        yield of(
            f"foreign-{label}", f"foreign {field}", f"another {field} than the header's", VERIFICATION, patch=patch
        )
    # By index the footer names another UUID than the manifest.
    note, as_file = "another UUID than the header's", f"input/footer/{PLACE}"
    yield of("foreign-uuid", "foreign UUID", note, VERIFICATION, as_file=as_file, patch=put(16, bytes(16)))
    made = filled()
    other = made.like(owner=OWNERS["rsa3072"], signature=None, signer_id=None)
    other.chunks = made.chunks
    manifest = other.manifest(made.header())
    note = "signed by another trusted owner"
    yield Vector(
        "manifest-foreign-signer",
        made.bytes(manifest=manifest),
        VERIFICATION,
        "manifest",
        "foreign signer",
        note,
        owners="ed25519,rsa3072",
    )
    forged = made.like(owner=OTHER_OWNER, signature=None, signer_id=ED25519.id)
    forged.chunks = made.chunks
    note = "signed by another owner in the name of the trusted one"
    yield Vector(
        "manifest-forged",
        made.bytes(manifest=forged.manifest(made.header())),
        VERIFICATION,
        "manifest",
        "signature",
        note,
    )
    again = made.header(put(56, 1))
    note = "the header was exchanged for another of the same image"
    manifest = made.manifest(made.header())
    yield Vector(
        "manifest-header-exchanged",
        made.bytes(header=again, manifest=manifest),
        VERIFICATION,
        "manifest",
        "altered",
        note,
    )


def entries():
    def entry(label, error, note, change, kind=INPUT, part="manifest", as_file="=", **fields):
        made = filled()
        changed = [list(chunk.entry) for chunk in made.chunks]
        change(changed)
        body = made.manifest_body(entries=changed)
        total = sum(blocks for blocks, *_ in changed)
        patch = lambda block: struct.pack_into("<Q", block, 72, total)
        return of(f"entry-{label}", error, note, kind, made, part, as_file, body=body, patch=patch, **fields)

    def set_field(number, value):
        return lambda changed: changed[1].__setitem__(number, value)

    yield entry("blocks-1", "chunk entry", "a chunk of one block", set_field(0, 1))
    yield entry("blocks-2083", "chunk entry", "a chunk of 2083 blocks", set_field(0, 2083))
    yield entry("blocks-huge", "chunk entry", "a chunk of 2^32 - 1 blocks", set_field(0, 2**32 - 1))
    left_out = lambda changed: changed.__setitem__(1, (0, 0, bytes(32), bytes(32)))
    yield entry("left-out", "chunk entry", "a chunk is left out, but there is no base", left_out)
    yield entry(
        "parity-blocks",
        "chunk entry",
        "4097 parity blocks",
        lambda c: c.__setitem__(1, (*c[1][:1], 4097, c[1][2], fixed("p"))),
    )
    yield entry("parity-root", "chunk entry", "a parity root without parity blocks", set_field(3, fixed("parity")))
    root = set_field(2, fixed("another root"))
    yield entry("root", "not in manifest", f"wrong root of a chunk, {SIGNED_FOR}", root, VERIFICATION, "chunk 1")
    # By index the chunks do not fill the file up to the manifest.
    as_file = f"input/footer/{PLACE}"
    longer = set_field(0, 3)
    yield entry("longer", "not in manifest", "a block more than the chunk has", longer, VERIFICATION, "chunk 1", as_file)
    swapped = lambda changed: changed.reverse()
    yield entry("swapped", "not in manifest", "the entries in the wrong order", swapped, VERIFICATION, "chunk 0")


def private_parts():
    made = filled()
    private = made.private_part()
    aes = lambda key, number, ad, plain: crypto.seal(crypto.AES_256_GCM, key, number, ad, plain)

    def private_part(label, error, note, content=private, kind=INPUT, seal=aes):
        return of(f"private-{label}", error, note, kind, made, body=made.manifest_body(private=content, seal=seal))

    wrong = (
        ("tag", lambda *sealing: flipped(aes(*sealing), -1), "one bit of the tag"),
        ("key", lambda key, *rest: aes(fixed("key"), *rest), "another key"),
        ("body-key", lambda key, *rest: aes(made.keys.body, *rest), "the key of chunk bodies"),
        ("number", lambda key, number, *rest: aes(key, 1, *rest), "another nonce"),
        ("associated", lambda key, number, ad, plain: aes(key, number, b"", plain), "other associated data"),
    )
    for label, seal, note in wrong:
        yield private_part(label, "decrypt", f"{note}, {SIGNED_FOR}", kind=VERIFICATION, seal=seal)
    yield private_part("longer", "private part", "a byte more", private + b"\0")
    yield private_part("more", "private part", "a layout more than chunks", private + private[:80])
    yield private_part("shorter", "region count", "a byte less", private[:-1])
    made = long_layout()
    first = made.private_part()[: 32 + len(made.chunks[0].layout)]
    yield private_part("half", "private part", "the last chunk is missing", first)
    yield private_part("hash-cut", "private part", "the last plain hash is cut short", first + bytes(31))
    yield private_part("layout-cut", "body length", "the last layout is cut short", first + bytes(32 + 31))


def tilings():
    def tiling(label, note, first, other, error="tiling of the disk"):
        made = image()
        for span, data in ((first, DATA[0]), (other, DATA[1])):
            made.add(layout(*span, [(0, len(data) // 512)]), data)
        return of(f"tiling-{label}", error, note, made=made)

    yield tiling("begin", "the first span does not begin at sector 0", (1, 99), (100, 100))
    yield tiling("gap", "a sector between two spans", (0, 99), (100, 100))
    yield tiling("overlap", "two spans share a sector", (0, 101), (100, 100))
    yield tiling("twice", "two spans are the same", (0, 100), (0, 100))
    yield tiling("order", "the spans are in the wrong order", (100, 100), (0, 100))
    yield tiling("end", "the last span ends before the disk", (0, 100), (100, 99))
    made = image()
    yield of("tiling-none", "tiling of the disk", "no chunks, but a disk", made=made)

    # The chunks are right: who has only the manifest must find it.
    for label, second, error, note in (
        ("past-disk", layout(100, 101, [(97, 3)]), "span", "a span past the end of the disk"),
        ("empty-region", layout(100, 100, [(97, 3), (0, 0)]), "region", "an empty region"),
        ("regions-huge", layout(100, 100, [(97, 3)], counts=(2**32 - 1, 0)), "region count", "2^32 - 1 regions"),
        (
            "relocation",
            layout(100, 100, [(97, 3)], [(3, 0, 100, 5)]),
            "relocation",
            "a relocation outside of the regions",
        ),
        ("reserved", layout(100, 100, [(97, 3)], reserved=1 << 63), "reserved space", "a reserved byte is set"),
    ):
        made = filled()
        made.chunks[1].layout = second
        yield of(f"layout-{label}", error, f"in the layout of the last chunk: {note}", made=made)

    for label, change, note in (
        ("plain-hash", lambda chunk: setattr(chunk, "plain_hash", fixed("another hash")), "plain hash"),
        ("layout", lambda chunk: setattr(chunk, "layout", layout(100, 100, [(96, 3)])), "layout"),
    ):
        made = filled()
        change(made.chunks[1])
        note = f"another {note} than the chunk's, {SIGNED_FOR}"
        yield of(f"other-{label}", "not in manifest", note, VERIFICATION, made, "chunk 1")


def footers():
    made = filled()
    at = HEADER + sum(len(chunk.bytes) for chunk in made.chunks)
    manifest = made.manifest(made.header())

    def footer(label, error, note, patch, as_file="="):
        data = made.bytes(footer=made.footer(at, manifest, patch))
        return Vector(f"footer-{label}", data, INPUT, "footer", error, note, as_file=as_file)

    yield footer("magic", "magic", "wrong magic", put(0, b"X"), CUT)
    yield footer("version", "version", "version 2", put(8, 2, form="H"))
    for place in (10, 15, 48, 1023):
        yield footer(f"reserved-{place}", "reserved space", f"the reserved byte {place} is set", put(place, 1))
    yield footer("uuid", PLACE, "another UUID", put(16, fixed("uuid", 16)))
    yield footer("offset", PLACE, "the manifest a block later", put(32, at + 1024, form="Q"), CUT)
    yield footer("length", PLACE, "a manifest of one block more", put(40, len(manifest) + 1024, form="Q"), CUT)
    yield footer(
        "wraps",
        PLACE,
        "offset and length that wrap around",
        put(32, 2**64 - 1024, at + 1024 + len(manifest), form="QQ"),
        CUT,
    )
    moved = put(32, at - 1024, len(manifest) + 1024, form="QQ")
    yield footer("moved", PLACE, "the manifest a block earlier, ending where it does", moved, "input/manifest/magic")


def files():
    made = filled()
    data = made.bytes()
    first = HEADER + len(made.chunks[0].bytes)
    manifest = first + len(made.chunks[1].bytes)

    def cut(label, length, part, note, error="cut short", as_file=CUT):
        return Vector(f"cut-{label}", data[:length], INPUT, part, error, note, as_file=as_file)

    yield cut("0", 0, "image header", "an empty file", "not an image", "=")
    yield cut("7", 7, "image header", "less than the magic", "not an image", "=")
    yield cut("8", 8, "image header", "the magic only", as_file="=")
    yield cut("4095", HEADER - 1, "image header", "within the header", as_file="=")
    yield cut("header", HEADER, "chunk 0", "behind the header")
    yield cut("chunk-header", HEADER + 1000, "chunk 0", "within the header of a chunk")
    yield cut("chunk-body", HEADER + BLOCK, "chunk 0", "behind the header of a chunk")
    yield cut("chunk", first, "chunk 1", "at the border of two chunks")
    yield cut("last-chunk", manifest - 1, "chunk 1", "in the padding of the last chunk")
    yield cut("chunks", manifest, "chunk 2", "behind the last chunk")
    yield cut("manifest-head", manifest + BLOCK, "manifest", "behind the manifest's head")
    yield cut("manifest-body", len(data) - BLOCK - 1, "manifest", "within the manifest's padding")
    yield cut("footer", len(data) - BLOCK, "footer", "before the footer")
    yield cut("last-byte", len(data) - 1, "footer", "the last byte is missing")
    for label, more, note in (
        ("byte", b"\0", "a byte behind the footer"),
        ("block", bytes(BLOCK), "a block of zeros behind the footer"),
        ("footer", data[-BLOCK:], "the footer twice"),
        ("image", data, "a second image behind it"),
    ):
        as_file = "input/manifest/magic" if label == "none" else CUT
        yield Vector(f"trailing-{label}", data + more, INPUT, "image", "trailing", note, as_file=as_file)
    other = made.like(label="other", uuid=fixed("UUID other", 16))
    for number in range(2):
        other.add(*good(number))
    spliced = made.header() + data[HEADER:manifest] + other.bytes()[manifest:]
    note = "manifest and footer of another image of the same owner"
    yield Vector("spliced-manifest", spliced, VERIFICATION, "manifest", "altered", note)
    note = "the header of one image before the chunks of another"
    # By index the manifest comes first.
    as_file = "verification/manifest/altered"
    yield Vector(
        "spliced-header",
        made.header() + other.bytes()[HEADER:],
        VERIFICATION,
        "chunk 0",
        "foreign UUID",
        note,
        as_file=as_file,
    )


def deltas(base):
    """`base` is the golden image of that name: four chunks of 125 sectors."""
    regions = [(0, 4), (20, 3)]
    old = [text(7 * 512, f"old {number} ") for number in range(4)]
    new = text(7 * 512, "new ")

    def delta(**fields):
        return image("bad delta", **{"sectors": 500, "epoch": 2, "base": base.as_base(), **fields})

    def fill(made, present=(1, 2)):
        for number in range(4):
            table = layout(125 * number, 125, regions)
            if number in present:
                made.add(table, new)
            else:
                made.leave_out(table, old[number])
        return made

    def vector(label, data, kind, part, error, note, as_file="=", bases="base.frz"):
        return Vector(f"delta-{label}", data, kind, part, error, note, as_file=as_file, bases=bases)

    for label, entry, note in (
        ("root", (0, 0, fixed("root"), bytes(32)), "a root"),
        ("parity-blocks", (0, 1, bytes(32), bytes(32)), "parity blocks"),
        ("parity-root", (0, 0, bytes(32), fixed("root")), "a parity root"),
    ):
        made = fill(delta())
        made.chunks[3].entry = entry
        note = f"a chunk that is left out has {note}"
        yield vector(f"entry-{label}", made.bytes(), INPUT, "manifest", "chunk entry", note)
    made = fill(delta())
    one, two = made.chunks[1].bytes, made.chunks[2].bytes
    order = made.bytes(chunks=two + one)
    yield vector(
        "order",
        order,
        VERIFICATION,
        "chunk 3",
        "foreign index",
        "chunk 2 before chunk 1",
        "verification/chunk 1/foreign index",
    )
    place = f"input/footer/{PLACE}"
    doubled = made.bytes(chunks=one + one + two)
    yield vector("doubled", doubled, VERIFICATION, "chunk 2", "foreign index", "chunk 1 twice", place)
    yield vector("missing", made.bytes(chunks=one), VERIFICATION, "image", "chunk count", "chunk 2 is missing", place)
    extra = made.chunk(layout(375, 125, regions), old[3], index=3)
    note = "a chunk that the manifest leaves out"
    yield vector("extra", made.bytes(chunks=one + two + extra.bytes), VERIFICATION, "image", "chunk count", note, place)
    other = made.bytes(chunks=one + extra.bytes)
    note = "a chunk that the manifest leaves out instead of one that it has"
    yield vector("other", other, VERIFICATION, "chunk 3", "not in manifest", note, "verification/chunk 2/foreign index")
    beyond = made.chunk(layout(375, 125, regions), old[3], index=4)
    note = "an index that the manifest does not have"
    yield vector(
        "beyond",
        made.bytes(chunks=one + beyond.bytes),
        VERIFICATION,
        "chunk 4",
        "not in manifest",
        note,
        "verification/chunk 2/foreign index",
    )

    uuid, epoch, digest = base.as_base()
    header = "image header"
    made = fill(delta())
    yield vector("base-missing", made.bytes(), VERIFICATION, header, "base missing", "the base is not there", bases="-")
    for label, fields, note in (
        ("base-epoch", (uuid, epoch + 1, digest), "another epoch of the base"),
        ("base-digest", (uuid, epoch, fixed("no digest")), "another manifest of the base"),
    ):
        made = fill(delta(base=fields))
        yield vector(label, made.bytes(), VERIFICATION, header, "wrong base", note)
    made = delta(sectors=501)
    fill(made)
    made.add(layout(500, 1), b"")
    yield vector("base-size", made.bytes(), VERIFICATION, header, "wrong base", "the base is of a disk of another size")
    made = fill(delta())
    made.chunks[3].plain_hash = fixed("no hash")
    note = "the base's chunk does not have the plain hash of the delta"
    yield vector("plain-hash", made.bytes(), VERIFICATION, "chunk 3", "plain hash", note)
    made = fill(delta())
    table = layout(375, 125, [(0, 4), (20, 2), (1, 1)])
    made.chunks[3].layout, made.chunks[3].plain_hash = table, made.keys.hash_plain(table, old[3])
    note = "the base's chunk has other regions"
    yield vector("layout", made.bytes(), VERIFICATION, header, "wrong base", note)


def all_vectors(base):
    for vectors in (heads, foreign, entries, private_parts, tilings, footers, files):
        yield from vectors()
    yield from deltas(base)
