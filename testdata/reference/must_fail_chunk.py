"""Chunks that must be refused (sections 7, 8 and 11 of FORMAT.md)."""

import gzip
import hmac
import struct
import zlib

import zstandard

import crypto
from golden import OWNERS, text
from vector import DATA, INPUT, PLACE, SPANS, VERIFICATION, Vector, filled, flipped, good, image, put
from write import BLOCK, fixed, layout

# Where reading by index sees first that the chunks do not fill the file up to the manifest.
WRONG_PLACE = f"input/footer/{PLACE}"
SIGNED_FOR = "and the owner has signed it"


def second(label, error, note, kind=INPUT, fields=None, layout_bytes=None, data=None, free=False, **changes):
    """An image whose second chunk is wrong; the manifest names it as it is, but has a layout that is right: that of a
    chunk with data, or without."""
    made = image(**fields or {})
    made.add(*good(0))
    right_layout, right_data = (layout(*SPANS[1]), b"") if free else good(1)
    made.add(layout_bytes or right_layout, right_data if data is None else data, **changes)
    made.chunks[1].layout = right_layout
    made.chunks[1].plain_hash = made.keys.hash_plain(right_layout, right_data)
    return Vector(f"chunk-{label}", made.bytes(), kind, "chunk 1", error, note)


def headers():
    yield second("version", "version", "version 0", patch=put(8, 0, form="H"))
    yield second("signature-algorithm", "signature algorithm", "signature algorithm 9", patch=put(10, 9))
    yield second("codec", "codec", "codec 3", patch=put(11, 3))
    yield second("cipher", "cipher", "cipher 4", patch=put(12, 4))
    for at in (13, 68, 79, 144, 511):
        yield second(f"reserved-{at}", "reserved space", f"the reserved byte {at} is set", patch=put(at, 1))
    for length in (0, 31, 2130945, 2**32 - 1):
        note = f"body length {length}"
        yield second(f"body-length-{length}", "body length", note, patch=put(60, length, form="I"))
    for length in (65537, 2097152, 2097153, 2**32 - 1):
        note = f"plain length {length} where chunks have at most 65536"
        yield second(f"plain-length-{length}", "plain length", note, patch=put(64, length, form="I"))
    yield second("plain-length-0", "plain length", "plain length 0 of a chunk with regions", patch=put(64, 0, form="I"))
    yield second("plain-length-less", "plain length", "a sector less than the regions", patch=put(64, 1024, form="I"))
    yield second("digest", "altered", f"wrong digest, {SIGNED_FOR}", VERIFICATION, digest=fixed("no digest"))
    yield second("padding", "reserved space", "the padding of the body is not zero", padding=b"\1")
    yield second(
        "plain-hash", "plain hash", f"wrong plain hash, {SIGNED_FOR}", VERIFICATION, plain_hash=fixed("no hash")
    )
    yield second("index", "foreign index", "index 2", VERIFICATION, index=2)
    yield second("index-back", "foreign index", "index 0 again", VERIFICATION, index=0)


def foreign():
    """Chunks that are right in another image of the same owner, with the same content key."""

    def of(label, field, note, other, owners="ed25519"):
        made = filled()
        other.add(*good(0))
        made.chunks[1] = other.chunk(*good(1))
        return Vector(
            f"foreign-{label}", made.bytes(), VERIFICATION, "chunk 1", f"foreign {field}", note, owners=owners
        )

    same = image()
    yield of("image", "UUID", "the chunk of another image", image("another image"))
    yield of("epoch", "epoch", "the chunk of an older epoch", same.like(epoch=0))
    yield of(
        "signer",
        "signer",
        "another trusted owner's chunk",
        same.like(owner=OWNERS["rsa3072"], signature=None, signer_id=None),
        "ed25519,rsa3072",
    )
    yield of("signature-algorithm", "signer", "another signature algorithm", same.like(signature=crypto.RSA_PSS))
    yield of(
        "unsigned",
        "signer",
        "a chunk that is not signed",
        same.like(owner=None, signature=None, signer_id=None),
        "ed25519,none",
    )
    yield of("cipher", "cipher", "another cipher", same.like(cipher=crypto.CHACHA20_POLY1305))
    yield of("open", "cipher", "a chunk that is not encrypted", same.like(cipher=crypto.CLEAR))
    yield of("codec", "codec", "another codec", same.like(codec=crypto.ZLIB))
    stored = image(codec=crypto.STORED)
    stored.add(*good(0))
    stored.chunks.append(image(codec=crypto.ZSTD).chunk(*good(1), index=1))
    note = "a Zstandard chunk in an image that is stored"
    yield Vector("foreign-codec-stored", stored.bytes(), VERIFICATION, "chunk 1", "foreign codec", note)


def altered():
    """Chunks that were changed by who cannot sign."""
    made = filled()
    first, other = (chunk.bytes for chunk in made.chunks)

    def of(label, chunks, error, note, kind=VERIFICATION, part="chunk 1", as_file="="):
        return Vector(f"chunks-{label}", made.bytes(chunks=chunks), kind, part, error, note, as_file=as_file)

    yield of(
        "header-bit", first + flipped(other, 56 + 12), "reserved space", "one bit of the header, a reserved one", INPUT
    )
    yield of("plain-hash-bit", first + flipped(other, 112), "signature", "one bit of the plain hash")
    yield of("digest-bit", first + flipped(other, 80), "signature", "one bit of the digest")
    yield of("signature-bit", first + flipped(other, 512), "signature", "one bit of the signature")
    yield of("signature-rest", first + flipped(other, 1023), "signature", "a byte behind the signature")
    yield of("body-bit", first + flipped(other, 1024), "altered", "one bit of the body")
    yield of("padding-bit", first + flipped(other, len(other) - 1), "reserved space", "one bit of the padding", INPUT)
    yield of("swapped", other + first, "foreign index", "in the wrong order", part="chunk 0")
    yield of("doubled", first + first + other, "foreign index", "the first one twice", as_file=WRONG_PLACE)
    yield of("first-missing", other, "foreign index", "the first one is missing", part="chunk 0", as_file=WRONG_PLACE)
    yield of("last-missing", first, "chunk count", "the last one is missing", part="image", as_file=WRONG_PLACE)
    yield of("all-missing", b"", "chunk count", "all are missing", part="image", as_file=WRONG_PLACE)
    yield of("doubled-over", first + first, "foreign index", "the first one instead of the second")
    yield of(
        "garbage", first + bytes(BLOCK) + other, "lost", "a block of zeros in between", INPUT, "image", WRONG_PLACE
    )
    yield of(
        "header-again",
        first + made.header()[:BLOCK] + other,
        "lost",
        "an image header in between",
        INPUT,
        "image",
        WRONG_PLACE,
    )
    yield of("magic", first + b"X" + other[1:], "lost", "wrong magic of a chunk", INPUT, "image", "input/chunk 1/magic")
    extra = made.chunk(*good(1))
    yield of(
        "one-more",
        first + other + extra.bytes,
        "chunk count",
        "a chunk more than in the manifest, signed",
        part="image",
        as_file=WRONG_PLACE,
    )


def sealing():
    """The owner's key signs, but the cipher does not open: a body that was sealed otherwise."""
    ciphers = (
        ("aes", crypto.AES_256_GCM, 16),
        ("chacha", crypto.CHACHA20_POLY1305, 16),
        ("blowfish", crypto.BLOWFISH_CBC_HMAC, 32),
    )
    for name, cipher, tag in ciphers:
        cut = lambda key, number, ad, plain, c=cipher, t=tag: flipped(crypto.seal(c, key, number, ad, plain), -1)
        other_key = lambda key, number, ad, plain, c=cipher: crypto.seal(c, fixed("key"), number, ad, plain)
        other_number = lambda key, number, ad, plain, c=cipher: crypto.seal(c, key, number + 1, ad, plain)
        other_data = lambda key, number, ad, plain, c=cipher: crypto.seal(c, key, number, flipped(ad, 60), plain)
        head = lambda key, number, ad, plain, c=cipher: flipped(crypto.seal(c, key, number, ad, plain), 0)
        for label, seal, note in (
            ("tag", cut, "one bit of the tag"),
            ("bit", head, "one bit of the ciphertext"),
            ("key", other_key, "another key"),
            ("number", other_number, "the nonce of another chunk"),
            ("associated", other_data, "other associated data"),
        ):
            fields = {"cipher": cipher}
            note = f"{note}, {SIGNED_FOR}"
            yield second(f"{name}-{label}", "decrypt", note, VERIFICATION, fields, seal=seal)

    def raw_blowfish(change):
        """Seals with the right MAC what `change` makes of the padded plain text."""

        def seal(key, number, ad, plain):
            algorithm, mac_key = crypto.blowfish(key, number)
            padded, rest = change(plain + bytes([8 - len(plain) % 8]) * (8 - len(plain) % 8))
            encryptor = algorithm.encryptor()
            ciphertext = encryptor.update(padded) + encryptor.finalize() + rest
            return ciphertext + crypto.mac(mac_key, ad, ciphertext)

        return seal

    fields = {"cipher": crypto.BLOWFISH_CBC_HMAC}
    for label, change, note in (
        ("padding-0", lambda padded: (padded[:-1] + b"\0", b""), "padding of no bytes"),
        ("padding-9", lambda padded: (padded[:-1] + b"\x09", b""), "padding longer than a block"),
        ("padding-mixed", lambda padded: (padded[:-8] + b"\7\7\7\7\7\6\7\7", b""), "padding bytes that differ"),
    ):
        yield second(
            f"blowfish-{label}",
            "decrypt",
            f"{note}, under a right MAC",
            VERIFICATION,
            fields,
            seal=raw_blowfish(change),
        )
    part_of_block = raw_blowfish(lambda padded: (padded, b"\1"))
    note = "not whole blocks, under a right MAC"
    (body,) = struct.unpack_from("<I", image(**fields).chunk(*good(1), index=1).bytes, 60)
    yield second("blowfish-blocks", "decrypt", note, VERIFICATION, fields, seal=part_of_block, body_length=body + 1)
    empty = raw_blowfish(lambda padded: (b"", b""))
    yield second(
        "blowfish-empty", "decrypt", "nothing, under a right MAC", VERIFICATION, fields, seal=empty, body_length=32
    )

    def short_mac(key, number, ad, plain):
        sealed = crypto.seal(crypto.BLOWFISH_CBC_HMAC, key, number, ad, plain)[:-32]
        _, mac_key = crypto.blowfish(key, number)
        return sealed + hmac.digest(mac_key, ad + sealed, "sha256")

    yield second(
        "blowfish-mac-length",
        "decrypt",
        "a MAC without the length of the associated data",
        VERIFICATION,
        fields,
        seal=short_mac,
    )


def layouts():
    """Section 8: layouts that were signed."""

    def of(label, error, note, layout_bytes, data=DATA[1], **changes):
        return second(
            f"layout-{label}", error, f"{note}, {SIGNED_FOR}", layout_bytes=layout_bytes, data=data, **changes
        )

    first, sectors = SPANS[1]
    regions = [(97, 3)]
    huge = 2**32 - 1
    yield of("reserved", "reserved space", "a reserved byte is set", layout(first, sectors, regions, reserved=1))
    yield of("span-empty", "span", "a span of no sectors", layout(first, 0))
    yield of("span-past-disk", "span", "a span past the end of the disk", layout(first, sectors + 1, regions))
    yield of("span-far", "span", "a span far outside of the disk", layout(2**40, sectors, regions))
    yield of("span-wraps", "span", "a span whose end wraps around", layout(2**64 - 50, 100, regions))
    yield of("span-all", "span", "a span of 2^64 - 1 sectors", layout(0, 2**64 - 1, regions))
    yield of("region-empty", "region", "a region of no sectors", layout(first, sectors, [(97, 3), (0, 0)]))
    yield of("region-past-span", "region", "a region past the end of its span", layout(first, sectors, [(98, 3)]))
    yield of(
        "region-past-smaller-span",
        "region",
        "a region past the end of its span, inside the disk",
        layout(50, 50, [(49, 3)]),
    )
    yield of("region-past-disk", "region", "a region far outside of the disk", layout(first, sectors, [(huge, 3)]))
    yield of("region-huge", "region", "a region of 2^32 - 1 sectors", layout(first, sectors, [(0, huge)]))
    wrapping = [(97, 1), (huge, huge), (1, 2)]
    yield of("region-wraps", "region", "gaps that add up to 2^32", layout(first, sectors, wrapping))
    back = [(97, 2), (2**32 - 5, 1)]
    yield of("region-back", "region", "a gap that would lead back if it were signed", layout(first, sectors, back))
    for label, counts, error in (
        ("regions-more", (1000, 0), "region count"),
        ("regions-huge", (huge, 0), "region count"),
        ("regions-wrap", (2**29, 0), "region count"),
        ("relocations-more", (1, 1000), "relocation count"),
        ("relocations-huge", (1, huge), "relocation count"),
    ):
        yield of(label, error, "more of them than bytes", layout(first, sectors, regions, counts=counts))
    for label, places, note in (
        ("before", [(3, 0, first + 96, 5)], "before the region"),
        ("behind", [(3, 0, first + 100, 5)], "behind the region"),
        ("outside", [(3, 0, 10, 5)], "in the region of another chunk"),
        ("over-end", [(3, 508, first + 99, 5)], "over the end of the region"),
        ("offset", [(3, 512, first + 97, 5)], "offset not inside the sector"),
        ("size-huge", [(3, 1, first + 97, 2**64 - 1)], "size that wraps around"),
        ("sector-huge", [(3, 0, 2**64 - 1, 512)], "sector that wraps around"),
        ("second", [(3, 0, first + 97, 5), (3, 0, first, 5)], "the second one outside"),
        ("empty-behind", [(3, 0, first + 100, 0)], "no bytes, behind the region"),
    ):
        yield of(f"relocation-{label}", "relocation", f"a relocation: {note}", layout(first, sectors, regions, places))
    touching = [(90, 2), (0, 1)]
    places = [(3, 510, first + 91, 5)]
    yield of("relocation-two", "relocation", "a relocation over two regions", layout(first, sectors, touching, places))
    short = lambda key, number, ad, plain: crypto.seal(crypto.AES_256_GCM, key, number, ad, plain[:31])
    yield of("cut", "body length", "a payload of 31 bytes", layout(first, sectors), b"", seal=short, body_length=47)


def frames():
    """Section 3: data that is not exactly one frame or stream of the plain length."""
    data = DATA[1]
    zstd = lambda content, **options: zstandard.ZstdCompressor(write_content_size=False, **options).compress(content)
    frame, skippable = zstd(data), bytes.fromhex("5a2a4d18") + struct.pack("<I", 4) + b"skip"
    for label, packed, note in (
        ("bomb", zstd(bytes(100 << 20)), "a frame of 100 MiB"),
        ("longer", zstd(data + b"\0"), "a byte more than the plain length"),
        ("shorter", zstd(data[:-1]), "a byte less than the plain length"),
        ("empty", zstd(b""), "an empty frame"),
        ("two-frames", zstd(data[:512]) + zstd(data[512:]), "two frames"),
        ("twice", frame + frame, "the frame twice"),
        ("trailing", frame + b"\0", "a byte behind the frame"),
        ("skippable-behind", frame + skippable, "a skippable frame behind the frame"),
        ("skippable-before", skippable + frame, "a skippable frame before the frame"),
        ("cut", frame[:-1], "the frame lacks its last byte"),
        ("checksum", flipped(zstd(data, write_checksum=True), -1), "a wrong checksum"),
        ("garbage", fixed("garbage", 700), "no frame"),
        ("nothing", b"", "no bytes"),
        ("stored", data, "the data as it is"),
        ("zlib", zlib.compress(data), "a zlib stream"),
    ):
        yield second(f"zstd-{label}", "decompress", f"{note}, {SIGNED_FOR}", VERIFICATION, packed=packed)
    for label, packed in (("nothing", b""), ("skippable", skippable)):
        note = f"a free chunk: {label} in place of an empty frame"
        yield second(f"zstd-free-{label}", "decompress", note, VERIFICATION, free=True, packed=packed)

    stream = zlib.compress(data)
    raw = zlib.compressobj(wbits=-15)
    fields = {"codec": crypto.ZLIB}
    for label, packed, note in (
        ("bomb", zlib.compress(bytes(8 << 20)), "a stream of 8 MiB"),
        ("longer", zlib.compress(data + b"\0"), "a byte more than the plain length"),
        ("shorter", zlib.compress(data[:-1]), "a byte less than the plain length"),
        ("two-streams", zlib.compress(data[:512]) + zlib.compress(data[512:]), "two streams"),
        ("twice", stream + stream, "the stream twice"),
        ("trailing", stream + b"\0", "a byte behind the stream"),
        ("cut", stream[:-1], "the stream lacks its last byte"),
        ("checksum-missing", stream[:-4], "no checksum"),
        ("checksum", flipped(stream, -1), "a wrong checksum"),
        ("raw", raw.compress(data) + raw.flush(), "deflate without zlib's header"),
        ("gzip", gzip.compress(data, mtime=0), "gzip"),
        ("dictionary", dictionary_stream(data), "a stream with a preset dictionary"),
        ("nothing", b"", "no bytes"),
    ):
        yield second(f"zlib-{label}", "decompress", f"{note}, {SIGNED_FOR}", VERIFICATION, fields, packed=packed)
    for label, packed, note in (
        ("longer", data + b"\0", "a byte more than the plain length"),
        ("shorter", data[:-1], "a byte less than the plain length"),
    ):
        yield second(f"stored-{label}", "decompress", note, VERIFICATION, codec=crypto.STORED, packed=packed)


def dictionary_stream(data):
    packer = zlib.compressobj(zdict=text(100))
    return packer.compress(data) + packer.flush()


def all_vectors():
    for vectors in (headers, foreign, altered, sealing, layouts, frames):
        yield from vectors()
