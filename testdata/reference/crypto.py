"""Keys, signatures, ciphers and codecs of FORMAT.md, sections 3 to 5, both directions."""

import base64
import hashlib
import hmac
import re
import struct
import warnings
import zlib

import zstandard
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from blake3 import blake3, derive_key, keyed_hash

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from cryptography.hazmat.primitives.ciphers.algorithms import Blowfish

UNSIGNED, ED25519, RSA_PSS = 0, 1, 2
STORED, ZSTD, ZLIB = 0, 1, 2
CLEAR, AES_256_GCM, CHACHA20_POLY1305, BLOWFISH_CBC_HMAC = 0, 1, 2, 3

SIGNATURE_AREA = 512
BODY, PRIVATE, PLAIN_HASH, KEY_CHECK = (
    "frz 2026-11 v1 chunk body cipher key",
    "frz 2026-11 v1 manifest cipher key",
    "frz 2026-11 v1 plain data hash key",
    "frz 2026-11 v1 content key check",
)

# The eight points of small order on the curve of Ed25519 (y coordinate and sign of x).
SMALL_ORDER = {
    bytes.fromhex(point)
    for point in (
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    )
}


class Bad(Exception):
    """Something does not verify, or data is not what its codec says."""


def is_strict(point):
    """Whether the encoding of a point is canonical, and the point not of small order."""
    y = int.from_bytes(point, "little") & (1 << 255) - 1
    return point not in SMALL_ORDER and y < (1 << 255) - 19


class PublicKey:
    """A trusted owner: algorithm, key id, key."""

    def __init__(self, pem):
        body = re.search(rb"-----BEGIN PUBLIC KEY-----(.*?)-----END PUBLIC KEY-----", pem, re.S)
        if not body:
            raise Bad("not a public key in PEM")
        der = base64.b64decode(body[1])
        self.id = hashlib.sha256(der).digest()[:16]
        self.key = serialization.load_der_public_key(der)
        if isinstance(self.key, ed25519.Ed25519PublicKey):
            self.algorithm = ED25519
            if not is_strict(der[-32:]):
                raise Bad("weak: the point has small order")
        elif isinstance(self.key, rsa.RSAPublicKey) and self.key.key_size in (3072, 4096):
            self.algorithm = RSA_PSS
        else:
            raise Bad("not an Ed25519 key and not an RSA key of 3072 or 4096 bits")

    def verify(self, message, area):
        """Checks a whole signature area."""
        length = 64 if self.algorithm == ED25519 else self.key.key_size // 8
        signature, rest = area[:length], area[length:]
        if any(rest):
            raise Bad("bytes after the signature")
        try:
            if self.algorithm == ED25519:
                if not is_strict(signature[:32]):
                    raise Bad("R is of small order or not canonical")
                self.key.verify(signature, message)
            else:
                pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
                self.key.verify(signature, message, pss, hashes.SHA256())
        except InvalidSignature:
            raise Bad("wrong signature") from None


def digest(algorithm, data):
    """The hash of a whole chunk, for an image with this signature algorithm."""
    return hashlib.sha256(data).digest() if algorithm == RSA_PSS else blake3(data)


class Keys:
    """What section 5 derives from a content key."""

    def __init__(self, content_key, salt, uuid):
        material = (content_key or bytes(32)) + salt + uuid
        self.body = derive_key(BODY, material)
        self.private = derive_key(PRIVATE, material)
        self.plain_hash = derive_key(PLAIN_HASH, material)
        self.check = derive_key(KEY_CHECK, material)[:16]

    def hash_plain(self, layout, data):
        return keyed_hash(self.plain_hash, layout + keyed_hash(self.plain_hash, data))


def aead(cipher, key):
    return AESGCM(key) if cipher == AES_256_GCM else ChaCha20Poly1305(key)


def nonce(number):
    return struct.pack("<I8x", number)


def blowfish(key, number):
    """Cipher object and MAC key of one message."""
    parts = keyed_hash(key, struct.pack("<I", number), 72)
    return Cipher(Blowfish(parts[:32]), modes.CBC(parts[32:40])), parts[40:]


def mac(key, associated, ciphertext):
    message = associated + ciphertext + struct.pack("<Q", len(associated))
    return hmac.new(key, message, hashlib.sha256).digest()


def seal(cipher, key, number, associated, plain):
    if cipher == CLEAR:
        return plain
    if cipher == BLOWFISH_CBC_HMAC:
        algorithm, mac_key = blowfish(key, number)
        pad = 8 - len(plain) % 8
        encryptor = algorithm.encryptor()
        ciphertext = encryptor.update(plain + bytes([pad]) * pad) + encryptor.finalize()
        return ciphertext + mac(mac_key, associated, ciphertext)
    return aead(cipher, key).encrypt(nonce(number), plain, associated)


def unseal(cipher, key, number, associated, sealed):
    if cipher == CLEAR:
        return sealed
    if cipher == BLOWFISH_CBC_HMAC:
        algorithm, mac_key = blowfish(key, number)
        ciphertext, tag = sealed[:-32], sealed[-32:]
        if not hmac.compare_digest(mac(mac_key, associated, ciphertext), tag):
            raise Bad("wrong MAC")
        if not ciphertext or len(ciphertext) % 8:
            raise Bad("not whole blocks of Blowfish")
        decryptor = algorithm.decryptor()
        padded = decryptor.update(ciphertext) + decryptor.finalize()
        pad = padded[-1]
        if not 1 <= pad <= 8 or padded[-pad:] != bytes([pad]) * pad:
            raise Bad("wrong padding of Blowfish")
        return padded[:-pad]
    try:
        return aead(cipher, key).decrypt(nonce(number), sealed, associated)
    except (InvalidTag, ValueError):
        raise Bad("wrong tag") from None


def compress(codec, data):
    if codec == ZSTD:
        parameters = zstandard.ZstdCompressionParameters.from_level(3, write_content_size=False)
        return zstandard.ZstdCompressor(compression_params=parameters).compress(data)
    return zlib.compress(data, 6) if codec == ZLIB else data


def decompress(codec, data, length):
    """Exactly `length` bytes from exactly one frame or stream; a longer one is not decompressed to its end."""
    if codec == STORED:
        plain = data
    elif codec == ZLIB:
        stream = zlib.decompressobj()
        try:
            plain = stream.decompress(data, length + 1)
            if len(plain) == length:
                plain += stream.decompress(stream.unconsumed_tail, 1)
        except zlib.error as error:
            raise Bad(f"zlib: {error}") from None
        if len(plain) == length and (not stream.eof or stream.unused_data):
            raise Bad("not exactly one zlib stream")
    else:
        plain = decompress_frame(data, length)
    if len(plain) != length:
        raise Bad("not the signed plain length")
    return plain


def decompress_frame(data, length):
    """In small steps, each of which gives not more than a few MiB."""
    if data[:4] != bytes.fromhex("28b52ffd"):
        raise Bad("not a Zstandard frame")
    frame = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
    plain = bytearray()
    try:
        for at in range(0, len(data), 64):
            if frame.eof:
                raise Bad("bytes after the frame")
            plain += frame.decompress(data[at : at + 64])
            if len(plain) > length:
                break
    except zstandard.ZstdError as error:
        raise Bad(f"zstd: {error}") from None
    if len(plain) == length and (not frame.eof or frame.unused_data):
        raise Bad("not exactly one frame")
    return bytes(plain)
