"""A writer of frz images after FORMAT.md, for test vectors: everything can be fixed, and everything can be made wrong.

Signatures are deterministic, and so are the vectors, as long as zlib and Zstandard compress as they did.
"""

import hashlib
import struct
from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

import crypto
import parity
from blake3 import blake3

BLOCK, HEADER, AREA = 1024, 4096, 512
ED25519_ORDER = (1 << 252) + 27742317777372353535851937790883648493


def fixed(label, length=32):
    """Bytes that look random and are always the same."""
    return blake3(label.encode(), length)


class Owner:
    """A private key. `sign` gives the bytes of the signature only."""

    def __init__(self, key):
        self.key = key
        self.der = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.id = hashlib.sha256(self.der).digest()[:16]
        self.algorithm = crypto.RSA_PSS if isinstance(key, rsa.RSAPrivateKey) else crypto.ED25519

    def pem(self):
        return self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, message):
        return self.sign_pss(message) if self.algorithm == crypto.RSA_PSS else self.key.sign(message)

    def sign_pss(self, message, salt_length=32, hash_name="sha256"):
        """RFC 8017, sections 8.1.1 and 9.1.1, with a salt that depends on the message alone."""

        def digest(data):
            return hashlib.new(hash_name, data).digest()

        size = self.key.key_size // 8
        salt = hashlib.sha256(b"salt" + message).digest()[:salt_length]
        hashed = digest(bytes(8) + digest(message) + salt)
        data = bytes(size - salt_length - len(hashed) - 2) + b"\x01" + salt
        blocks = range(-(-len(data) // len(hashed)))
        mask = b"".join(digest(hashed + struct.pack(">I", counter)) for counter in blocks)
        masked = bytearray(a ^ b for a, b in zip(data, mask))
        masked[0] &= 0x7F
        return self.raw_rsa(bytes(masked) + hashed + b"\xbc")

    def raw_rsa(self, encoded):
        numbers = self.key.private_numbers()
        number = pow(int.from_bytes(encoded, "big"), numbers.d, numbers.public_numbers.n)
        return number.to_bytes(len(encoded), "big")

    def sign_with_small_order_r(self, message):
        """A signature whose R is the neutral element: the equation of RFC 8032 holds, but R has small order."""
        seed = self.key.private_bytes(
            serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
        )
        scalar = bytearray(hashlib.sha512(seed).digest()[:32])
        scalar[0] &= 248
        scalar[31] = scalar[31] & 127 | 64
        r = b"\x01" + bytes(31)
        k = int.from_bytes(hashlib.sha512(r + self.der[-32:] + message).digest(), "little")
        s = k * int.from_bytes(scalar, "little") % ED25519_ORDER
        return r + s.to_bytes(32, "little")


def ed25519_owner(label):
    return Owner(ed25519.Ed25519PrivateKey.from_private_bytes(fixed(label)))


def rsa_owner(path):
    return Owner(serialization.load_pem_private_key(open(path, "rb").read(), None))


def plus_order(signature):
    """The other signature that a lax verifier takes: S plus the order of the group (RFC 8032, section 8.4)."""
    s = int.from_bytes(signature[32:], "little") + ED25519_ORDER
    return signature[:32] + s.to_bytes(32, "little")


def layout(first, sectors, regions=(), relocations=(), counts=None, reserved=0):
    """The bytes of a layout; regions are pairs of gap and sectors, as they are stored."""
    counts = counts or (len(regions), len(relocations))
    head = struct.pack("<QQIIQ", first, sectors, *counts, reserved)
    table = b"".join(struct.pack("<II", *region) for region in regions)
    return head + table + b"".join(struct.pack("<IIQQ", *relocation) for relocation in relocations)


@dataclass
class Chunk:
    bytes: bytes
    entry: tuple  # blocks, parity blocks, root, parity root
    plain_hash: bytes
    layout: bytes
    plain: int


@dataclass
class Image:
    """What an image is made of. `sign` may be exchanged for one that signs differently."""

    label: str
    owner: Owner = None
    codec: int = crypto.ZSTD
    cipher: int = crypto.AES_256_GCM
    content_key: bytes = fixed("content key")
    sectors: int = 0
    sector_size: int = 512
    chunk_size: int = 65536
    name: bytes = None
    epoch: int = 1
    created: int = 1795000000
    base: tuple = (bytes(16), 0, bytes(32))
    wrapped: bytes = b""
    chunk_format: int = 0
    parity: int = 0
    signer_id: bytes = None
    signature: int = None
    sign: object = None
    uuid: bytes = None
    salt: bytes = None
    chunks: list = field(default_factory=list)

    def __post_init__(self):
        self.name = self.label.encode() if self.name is None else self.name
        uuid = bytearray(self.uuid or fixed("UUID " + self.label, 16))
        uuid[6], uuid[8] = uuid[6] & 15 | 0x40, uuid[8] & 63 | 0x80
        self.uuid = bytes(uuid)
        self.salt = self.salt or fixed("salt " + self.label, 16)
        if self.signature is None:
            self.signature = self.owner.algorithm if self.owner else crypto.UNSIGNED
        if self.signer_id is None:
            self.signer_id = self.owner.id if self.owner else bytes(16)
        self.keys = crypto.Keys(self.content_key if self.cipher else None, self.salt, self.uuid)

    def like(self, **changes):
        """Another image that differs in some fields, without chunks."""
        return replace(self, chunks=[], **changes)

    def prefix(self, magic, codec=None):
        codec = self.codec if codec is None else codec
        numbers = struct.pack("<HBBB3x", 1, self.signature, codec, self.cipher)
        return magic + numbers + self.uuid + struct.pack("<Q", self.epoch) + self.signer_id

    def signed(self, message, sign=None):
        """The message with its signature area."""
        sign = sign or self.sign or (self.owner.sign if self.owner else lambda _: b"")
        return bytes(message) + sign(bytes(message)).ljust(AREA, b"\0")

    def header(self, patch=None, sign=None):
        """The image header; `patch` changes it before it is signed."""
        block = bytearray(HEADER - AREA)
        block[:56] = self.prefix(b"FRZIMAGE")
        struct.pack_into(
            "<QIIQ16s16s16sQ32sHBBI256s", block, 56,
            self.created, self.sector_size, self.chunk_size, self.sectors, self.salt, self.keys.check,
            *self.base, len(self.name), self.chunk_format, 0, len(self.wrapped), self.name,
        )  # fmt: skip
        block[432 : 432 + len(self.wrapped)] = self.wrapped
        if patch:
            patch(block)
        return self.signed(block, sign)

    def chunk(
        self, layout_bytes, data, *,
        index=None, codec=None, packed=None, plain=None, plain_hash=None, body_length=None, padding=None,
        parity_blocks=None, patch=None, seal=None, digest=None, sign=None,
    ):  # fmt: skip
        """A chunk with this data, whose signer may have made it wrong."""
        index = len(self.chunks) if index is None else index
        codec = self.codec if codec is None else codec
        packed = crypto.compress(codec, data) if packed is None else packed
        payload = layout_bytes + packed
        plain = len(data) if plain is None else plain
        plain_hash = plain_hash or self.keys.hash_plain(layout_bytes, data)
        length = len(crypto.seal(self.cipher, bytes(32), 0, b"", payload)) if body_length is None else body_length
        block = bytearray(self.prefix(b"FRZCHUNK", codec) + struct.pack("<III", index, length, plain)).ljust(512, b"\0")
        block[112:144] = plain_hash
        if patch:
            patch(block)
        seal = seal or (lambda key, number, ad, text: crypto.seal(self.cipher, key, number, ad, text))
        body = seal(self.keys.body, index, bytes(block[:80]), payload)
        body += (padding or b"").ljust(-len(body) % BLOCK, b"\0")
        block[80:112] = digest or crypto.digest(self.signature, bytes(block) + bytes(AREA) + body)
        whole = self.signed(block, sign) + body
        count = self.parity if parity_blocks is None else parity_blocks
        parity_root = blake3(parity.parity_of(whole, count)) if count else bytes(32)
        entry = (len(whole) // BLOCK, count, blake3(whole), parity_root)
        return Chunk(whole, entry, plain_hash, layout_bytes, plain)

    def add(self, layout_bytes, data, **changes):
        self.chunks.append(self.chunk(layout_bytes, data, **changes))

    def leave_out(self, layout_bytes, data):
        plain_hash = self.keys.hash_plain(layout_bytes, data)
        self.chunks.append(Chunk(b"", (0, 0, bytes(32), bytes(32)), plain_hash, layout_bytes, 0))

    def private_part(self):
        return b"".join(chunk.plain_hash + chunk.layout for chunk in self.chunks)

    def manifest_body(self, entries=None, private=None, seal=None):
        """The body without padding."""
        entries = [chunk.entry for chunk in self.chunks] if entries is None else entries
        private = self.private_part() if private is None else private
        seal = seal or (lambda key, number, ad, text: crypto.seal(self.cipher, key, number, ad, text))
        return b"".join(struct.pack("<II32s32s", *entry) for entry in entries) + seal(
            self.keys.private, 0, self.uuid, private
        )

    def manifest(self, header, body=None, padding=b"", patch=None, sign=None, after=None):
        """Head and padded body; `after` changes the padded body when the head is made."""
        body = self.manifest_body() if body is None else body
        padded = body + padding.ljust(-len(body) % BLOCK, b"\0")
        block = bytearray(512)
        struct.pack_into(
            "<56sIIQQ32sQ", block, 0,
            self.prefix(b"FRZMANIF"), len(self.chunks), (HEADER + len(padded)) // BLOCK, len(body),
            sum(chunk.entry[0] for chunk in self.chunks), blake3(header + padded),
            sum(chunk.plain for chunk in self.chunks),
        )  # fmt: skip
        if patch:
            patch(block)
        return self.signed(block, sign) + (after(padded) if after else padded)

    def footer(self, manifest_at, manifest, patch=None):
        block = bytearray(BLOCK)
        struct.pack_into("<8sH6x16sQQ", block, 0, b"FRZFOOTR", 1, self.uuid, manifest_at, len(manifest))
        if patch:
            patch(block)
        return bytes(block)

    def digest(self):
        """What a delta calls this image's manifest."""
        body = self.manifest_body()
        return blake3(body + bytes(-len(body) % BLOCK))

    def as_base(self):
        return self.uuid, self.epoch, self.digest()

    def bytes(self, header=None, chunks=None, manifest=None, footer=None):
        """The file; every part may be exchanged."""
        header = self.header() if header is None else header
        chunks = b"".join(chunk.bytes for chunk in self.chunks) if chunks is None else chunks
        manifest = self.manifest(header) if manifest is None else manifest
        footer = self.footer(len(header) + len(chunks), manifest) if footer is None else footer
        return header + chunks + manifest + footer
