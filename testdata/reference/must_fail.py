"""Images that every reader must refuse, each with one thing wrong. Where a signature would stop the attack before the
check that is meant, the owner has signed it. `make.py` writes them."""

import base64
import hashlib

import crypto
import golden
import must_fail_chunk
import must_fail_header
import must_fail_manifest
from vector import COLUMNS, INPUT, Vector, filled

__all__ = ["COLUMNS", "WEAK_KEY", "all_vectors"]

# The neutral element as a public key: every message has a signature that fits.
WEAK_POINT = b"\x01" + bytes(31)
WEAK_DER = bytes.fromhex("302a300506032b6570032100") + WEAK_POINT
WEAK_KEY = b"-----BEGIN PUBLIC KEY-----\n" + base64.b64encode(WEAK_DER) + b"\n-----END PUBLIC KEY-----\n"


def weak_key():
    key_id = hashlib.sha256(WEAK_DER).digest()[:16]
    sign = lambda message: WEAK_POINT + bytes(32)
    made = filled(owner=None, signature=crypto.ED25519, signer_id=key_id, sign=sign)
    note = "a trusted key of small order, which signs everything"
    return Vector("weak-key", made.bytes(), INPUT, "key", "bad key", note, owners="weak")


def all_vectors():
    yield from must_fail_header.headers()
    yield from must_fail_header.signatures()
    yield weak_key()
    yield from must_fail_chunk.all_vectors()
    base = next(image.image for image in golden.deltas())
    yield from must_fail_manifest.all_vectors(base)
