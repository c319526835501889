"""Image headers that must be refused, and signatures of any structure (sections 2 to 6 of FORMAT.md)."""

import struct

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

import crypto
from golden import ED25519, OTHER_OWNER, OWNERS
from vector import INPUT, VERIFICATION, Vector, filled, flipped, good, image, put
from write import AREA, HEADER, Image, fixed, plus_order


def headers():
    """Section 2, 3 and 6: the header is wrong, and its owner has signed it."""

    def of(label, error, patch, note, kind=INPUT, owners="ed25519", **fields):
        made = filled(**fields)
        made.label = f"header-{label}"
        return Vector(
            made.label, made.bytes(header=made.header(patch)), kind, "image header", error, note, owners=owners
        )

    yield of("magic", "not an image", put(7, b"F"), "magic FRZIMAGF")
    yield of("version", "version", put(8, 2, form="H"), "version 2")
    yield of("signature-algorithm", "signature algorithm", put(10, 3), "signature algorithm 3")
    yield of("codec", "codec", put(11, 3), "codec 3")
    yield of("cipher", "cipher", put(12, 4), "cipher 4")
    yield of("reserved-prefix", "reserved space", put(15, 1), "the last reserved byte of the prefix is set")
    yield of("reserved", "reserved space", put(171, 1), "the reserved byte behind the chunk format is set")
    yield of(
        "signer-unsigned", "signer", put(40, ED25519.id), "not signed, and names a signer", owners="none", owner=None
    )
    for size in (0, 256, 513, 1536, 8192):
        yield of(f"sector-size-{size}", "sector size", put(64, size, form="I"), f"sectors of {size} bytes")
    for size in (0, 65535, 32768, 65537, 2097664, 2**32 - 512):
        yield of(f"chunk-size-{size}", "chunk size", put(68, size, form="I"), f"chunk size {size}")
    fields = {"sector_size": 1024, "sectors": 0}
    made = Image("header-chunk-size-sectors", ED25519, **fields)
    header = made.header(put(68, 65536 + 512, form="I"))
    note = "chunk size is no multiple of the sector size of 1024"
    yield Vector(made.label, made.bytes(header=header), INPUT, "image header", "chunk size", note)
    for sectors in (2**54, 2**55 + 1, 2**64 - 1):
        yield of(f"disk-sectors-{sectors}", "disk sectors", put(72, sectors, form="Q"), "a disk of 2^63 bytes or more")
    yield of("name-length", "name length", put(168, 257, form="H"), "a name longer than its field")
    yield of("name-256", "name", put(168, struct.pack("<H", 256) + bytes(6) + b"n" * 256), "a name of 256 bytes")
    yield of("name-utf8", "name", put(176, b"\xff"), "a name that is not UTF-8")
    for label, control in (("bell", "\x07"), ("newline", "\n"), ("delete", "\x7f"), ("c1", "\x85"), ("escape", "\x1b")):
        yield of(f"name-{label}", "name", put(176, control.encode()), "a control character in the name")
    yield of("name-padding", "reserved space", put(176 + 255, 1), "the padding of the name is not zero")
    yield of("chunk-format", "chunk format", put(170, 2), "chunk format 2")
    yield of("wrapped-length", "wrapped key length", put(172, 3153, form="I"), "wrapped keys longer than their field")
    yield of("wrapped-length-huge", "wrapped key length", put(172, 2**32 - 1, form="I"), "wrapped keys of 4 GiB")
    yield of("wrapped-padding", "reserved space", put(432, 1), "the padding of the wrapped keys is not zero")
    yield of(
        "wrapped-open", "wrapped keys", put(172, 8, form="I"), "wrapped keys without a cipher", cipher=crypto.CLEAR
    )
    yield of("base-epoch", "base", put(128, 1), "the epoch of a base without its UUID")
    yield of("base-digest", "base", put(136 + 31, 1), "the digest of a base without its UUID")
    emulab = {"codec": crypto.STORED, "cipher": crypto.CLEAR}
    for label, fields in (
        ("codec", {"cipher": crypto.CLEAR}),
        ("cipher", {"codec": crypto.STORED}),
        ("base", {**emulab, "base": (bytes(15) + b"\x01", 0, bytes(32))}),
    ):
        yield of(f"emulab-{label}", "chunk format", put(170, 1), f"an Emulab image with a {label}", **fields)
    made = Image("header-emulab-sectors", ED25519, **emulab, sector_size=1024)
    note = "an Emulab image with sectors of 1024 bytes"
    yield Vector(made.label, made.bytes(header=made.header(put(170, 1))), INPUT, "image header", "chunk format", note)
    yield of("key-check", "wrong key", put(111, 1), "the key check is not that of the key", VERIFICATION)
    yield of(
        "key-check-open",
        "wrong key",
        put(111, 1),
        "the same in an image that is not encrypted",
        VERIFICATION,
        cipher=crypto.CLEAR,
    )


def signatures():
    """Section 3 and 4: who signed what."""

    def of(label, part, error, made, note, owners="ed25519", as_file="=", **changes):
        data = made.bytes(**changes)
        return Vector(f"signature-{label}", data, VERIFICATION, part, error, note, as_file, owners)

    made = filled()
    header = "image header"
    yield of(
        "header-altered",
        header,
        "signature",
        made,
        "one bit of the name differs from what was signed",
        header=flipped(made.header(), 176),
    )
    yield of(
        "header-last-bit",
        header,
        "signature",
        made,
        "one bit of the signature",
        header=flipped(made.header(), HEADER - AREA + 63),
    )
    yield of(
        "header-rest",
        header,
        "signature",
        made,
        "a byte behind the signature",
        header=flipped(made.header(), HEADER - 1),
    )
    yield of("untrusted", header, "untrusted", filled(owner=OTHER_OWNER), "signed by another owner")
    forged = filled(owner=OTHER_OWNER, signer_id=ED25519.id)
    yield of(
        "forged",
        header,
        "signature",
        forged,
        "signed by another owner in the name of the trusted one",
        as_file="verification/manifest/signature",
    )
    unsigned = filled(owner=None)
    yield of("unsigned", header, "unsigned", unsigned, "not signed")
    part = unsigned.header()
    yield of(
        "unsigned-area",
        header,
        "signature",
        unsigned,
        "not signed, the signature area is not zero",
        "none",
        header=flipped(part, HEADER - 1),
    )
    malleable, small = lambda message: plus_order(ED25519.sign(message)), ED25519.sign_with_small_order_r
    yield of(
        "malleable",
        header,
        "signature",
        made,
        "S is not less than the order of the group",
        header=made.header(sign=malleable),
    )
    yield of(
        "small-order-r",
        header,
        "signature",
        made,
        "R has small order, the equation holds",
        header=made.header(sign=small),
    )
    for label, sign in (("malleable", malleable), ("small-order-r", small)):
        chunks = image()
        chunks.add(*good(0))
        chunks.add(*good(1), sign=sign)
        yield of(f"chunk-{label}", "chunk 1", "signature", chunks, "the same in a chunk")
        head = made.manifest(made.header(), sign=sign)
        yield of(f"manifest-{label}", "manifest", "signature", made, "the same in the manifest", manifest=head)
    swapped = made.manifest(made.header())
    header_signature = made.header()[-AREA:]
    yield of(
        "moved",
        "manifest",
        "signature",
        made,
        "the manifest has the header's signature",
        manifest=swapped[:512] + header_signature + swapped[1024:],
    )

    rsa = OWNERS["rsa3072"]
    signed = filled(owner=rsa)
    for label, sign, note in (
        ("rsa-salt", lambda m: rsa.sign_pss(m, salt_length=20), "20 bytes of salt"),
        ("rsa-salt-none", lambda m: rsa.sign_pss(m, salt_length=0), "no salt"),
        ("rsa-pkcs1", lambda m: rsa.key.sign(m, padding.PKCS1v15(), hashes.SHA256()), "PKCS #1 v1.5 instead of PSS"),
        ("rsa-sha512", lambda m: rsa.sign_pss(m, hash_name="sha512"), "SHA-512 instead of SHA-256"),
        ("rsa-rest", lambda m: rsa.sign(m) + b"\x01", "a byte behind the signature"),
        ("rsa-shifted", lambda m: b"\0" + rsa.sign(m), "a zero before the signature"),
    ):
        yield of(label, header, "signature", signed, f"RSA: {note}", "rsa3072", header=signed.header(sign=sign))
    mixed = filled(owner=rsa, signature=crypto.ED25519)
    yield of("rsa-as-ed25519", header, "untrusted", mixed, "an RSA signature that is called Ed25519", "rsa3072")
    mixed = filled(owner=ED25519, signature=crypto.RSA_PSS)
    yield of("ed25519-as-rsa", header, "untrusted", mixed, "an Ed25519 signature that is called RSA-PSS")
    missing = filled()
    yield Vector(
        "key-missing", missing.bytes(), VERIFICATION, header, "key missing", "encrypted, and no content key", key="-"
    )
    other = filled(content_key=fixed("another content key"))
    yield Vector("key-wrong", other.bytes(), VERIFICATION, header, "wrong key", "another content key")
