#!/usr/bin/env python3
"""A reader of frz images, written from FORMAT.md alone, to compare with the Rust one.

It holds the image and the disk in memory and is made to be read, not to be fast. Exit codes are those of the other
programs: 3 bad input, 4 verification failed.
"""

import argparse
import struct
import sys
import unicodedata
import uuid as uuids
from collections import namedtuple

import crypto
import parity
from blake3 import blake3

BLOCK = 1024
HEADER = 4096
AREA = 512
MAX_CHUNK = 2097152
MAX_BODY = 2130944
MAX_BLOCKS = 2082
MAX_PARITY = 4096


class Refused(Exception):
    """An image must not be used: which part of it, and whether it is malformed or does not verify."""

    exit_code = 3

    def __init__(self, part, what):
        super().__init__(f"{part}: {what}")


class Malformed(Refused):
    pass


class Unverified(Refused):
    exit_code = 4


def need(condition, part, what, kind=Malformed):
    if not condition:
        raise kind(part, what)


Prefix = namedtuple("Prefix", "signature codec cipher uuid epoch signer")
Header = namedtuple(
    "Header",
    "prefix created sector_size chunk_size sectors salt key_check"
    " base_uuid base_epoch base_digest chunk_format name wrapped",
)
Layout = namedtuple("Layout", "first sectors regions relocations")
Entry = namedtuple("Entry", "blocks parity_blocks root parity_root")
Line = namedtuple("Line", Entry._fields + ("plain_hash", "layout_bytes", "layout"))
Chunk = namedtuple("Chunk", "index bytes plain_hash layout data")
Image = namedtuple("Image", "header lines chunks digest keys")


def padded(length):
    return -(-length // BLOCK) * BLOCK


def parse_prefix(block, magic, part):
    need(block[:8] == magic, part, "wrong magic")
    version, signature, codec, cipher = struct.unpack_from("<HBBB", block, 8)
    need(version == 1, part, "unknown version")
    need(signature <= 2, part, "unknown signature algorithm")
    need(codec <= 2, part, "unknown codec")
    need(cipher <= 3, part, "unknown cipher")
    need(not any(block[13:16]), part, "reserved bytes are set")
    uuid, epoch, signer = struct.unpack_from("<16sQ16s", block, 16)
    need(signature or not any(signer), part, "a signer, but no signature")
    return Prefix(signature, codec, cipher, uuid, epoch, signer)


def check_signature(block, prefix, trust, part):
    signed, area = block[:-AREA], block[-AREA:]
    if prefix.signature == 0:
        need(trust.allow_unsigned, part, "not signed", Unverified)
        need(not any(area), part, "not signed, but the signature area is not zero", Unverified)
        return
    owner = trust.owners.get(prefix.signer)
    need(owner, part, "the signer is not trusted", Unverified)
    need(owner.algorithm == prefix.signature, part, "wrong signature algorithm for this key", Unverified)
    try:
        owner.verify(signed, area)
    except crypto.Bad as error:
        raise Unverified(part, error) from None


def parse_header(image, trust):
    part = "image header"
    need(len(image) >= HEADER, part, "cut short")
    block = image[:HEADER]
    prefix = parse_prefix(block, b"FRZIMAGE", part)
    (
        created, sector_size, chunk_size, sectors, salt, key_check,
        base_uuid, base_epoch, base_digest, name_length, chunk_format, reserved, wrapped_length,
    ) = struct.unpack_from("<QIIQ16s16s16sQ32sHBBI", block, 56)  # fmt: skip
    need(not reserved, part, "reserved bytes are set")
    need(sector_size in (512, 1024, 2048, 4096), part, "sector size")
    need(65536 <= chunk_size <= MAX_CHUNK and chunk_size % sector_size == 0, part, "chunk size")
    need(sectors * sector_size < 1 << 63, part, "disk sectors")
    need(chunk_format <= 1, part, "chunk format")
    if not any(base_uuid):
        need(not base_epoch and not any(base_digest), part, "base fields without a base")
    need(name_length <= 255, part, "name length")
    name_field, wrapped_field = block[176:432], block[432:3584]
    need(not any(name_field[name_length:]), part, "padding of the name is not zero")
    try:
        name = name_field[:name_length].decode()
    except UnicodeDecodeError:
        raise Malformed(part, "the name is not UTF-8") from None
    need(not any(unicodedata.category(c) == "Cc" for c in name), part, "control character in the name")
    need(wrapped_length <= len(wrapped_field), part, "wrapped key length")
    need(not wrapped_length or prefix.cipher, part, "wrapped keys without a cipher")
    need(not any(wrapped_field[wrapped_length:]), part, "padding of the wrapped keys is not zero")
    if chunk_format == 1:
        plain = prefix.codec == 0 and prefix.cipher == 0 and not any(base_uuid) and sector_size == 512
        need(plain, part, "an Emulab image with codec, cipher, base or large sectors")
    check_signature(block, prefix, trust, part)
    wrapped = wrapped_field[:wrapped_length]
    return Header(
        prefix, created, sector_size, chunk_size, sectors, salt, key_check,
        base_uuid, base_epoch, base_digest, chunk_format, name, wrapped,
    )  # fmt: skip


def find_keys(header, content_keys):
    """The derived keys from the content key that the key check is of."""
    part = "image header"
    if not header.prefix.cipher:
        content_keys = [None]
    need(content_keys, part, "encrypted, and no content key was given", Unverified)
    for content_key in content_keys:
        keys = crypto.Keys(content_key, header.salt, header.prefix.uuid)
        if keys.check == header.key_check:
            return keys
    raise Unverified(part, "the content key is not the image's (key check)")


def same_image(prefix, header, part):
    mine, other = prefix._replace(codec=0), header.prefix._replace(codec=0)
    need(mine == other, part, "not of this image: UUID, epoch, signer or algorithms differ", Unverified)


def parse_layout(data, header, part):
    """A layout at the beginning of `data`, and its length in bytes."""
    need(len(data) >= 32, part, "no room for a layout")
    first, sectors, region_count, relocation_count, reserved = struct.unpack_from("<QQIIQ", data)
    need(not reserved, part, "reserved bytes of the layout are set")
    length = 32 + 8 * region_count + 24 * relocation_count
    need(length <= len(data), part, "more regions and relocations than bytes")
    need(sectors >= 1, part, "empty span")
    need(first + sectors <= header.sectors, part, "span past the end of the disk")
    regions = []
    at = first
    for gap, count in struct.iter_unpack("<II", data[32 : 32 + 8 * region_count]):
        need(count, part, "empty region")
        regions.append((at + gap, count))
        at += gap + count
    need(at <= first + sectors, part, "region past the end of the span")
    need(plain_length(regions, header) <= header.chunk_size, part, "more data than a chunk may have")
    relocations = list(struct.iter_unpack("<IIQQ", data[32 + 8 * region_count : length]))
    for _, offset, sector, size in relocations:
        need(offset < header.sector_size, part, "offset of a relocation is not inside its sector")
        begin = sector * header.sector_size + offset
        inside = any(
            start <= sector < start + count and begin + size <= (start + count) * header.sector_size
            for start, count in regions
        )
        need(inside, part, "relocation outside of the regions")
    return Layout(first, sectors, regions, relocations), length


def plain_length(regions, header):
    return sum(count for _, count in regions) * header.sector_size


def parse_chunk(image, at, header, keys, trust, expected_index):
    part = f"chunk {expected_index}"
    block = image[at : at + BLOCK]
    prefix = parse_prefix(block, b"FRZCHUNK", part)
    index, body_length, plain, reserved, digest, plain_hash = struct.unpack_from("<III12s32s32s", block, 56)
    need(not any(reserved) and not any(block[144:512]), part, "reserved bytes are set")
    need(32 <= body_length <= MAX_BODY, part, "body length")
    chunk = image[at : at + BLOCK + padded(body_length)]
    need(len(chunk) == BLOCK + padded(body_length), part, "cut short")
    same_image(prefix, header, part)
    check_signature(block, prefix, trust, part)
    need(index == expected_index or (any(header.base_uuid) and index > expected_index), part, "index", Unverified)
    need(prefix.codec in (header.prefix.codec, 0), part, "codec", Unverified)
    need(plain <= header.chunk_size, part, "plain length")
    body = chunk[BLOCK : BLOCK + body_length]
    need(not any(chunk[BLOCK + body_length :]), part, "padding is not zero")
    zeroed = chunk[:80] + bytes(32) + chunk[112:512] + bytes(AREA) + chunk[BLOCK:]
    need(crypto.digest(prefix.signature, zeroed) == digest, part, "digest", Unverified)
    try:
        payload = crypto.unseal(prefix.cipher, keys.body, index, block[:80], body)
    except crypto.Bad as error:
        raise Unverified(part, error) from None
    layout, length = parse_layout(payload, header, part)
    need(plain_length(layout.regions, header) == plain, part, "the regions are not the plain length")
    try:
        data = crypto.decompress(prefix.codec, payload[length:], plain)
    except crypto.Bad as error:
        raise Unverified(part, error) from None
    need(keys.hash_plain(payload[:length], data) == plain_hash, part, "plain hash", Unverified)
    return Chunk(index, chunk, plain_hash, layout, data)


def parse_manifest(image, at, header, keys, trust):
    """The lines, the length of head and padded body, and the digest."""
    part = "manifest"
    block = image[at : at + BLOCK]
    need(len(block) == BLOCK, part, "cut short")
    prefix = parse_prefix(block, b"FRZMANIF", part)
    count, object_blocks, body_length, chunk_blocks, object_root, plain_bytes = struct.unpack_from(
        "<IIQQ32sQ", block, 56
    )
    need(not any(block[120:512]), part, "reserved bytes are set")
    same_image(prefix, header, part)
    need(prefix.codec == header.prefix.codec, part, "codec", Unverified)
    check_signature(block, prefix, trust, part)
    need(72 * count <= body_length, part, "more chunks than bytes")
    need(object_blocks * BLOCK == HEADER + padded(body_length), part, "object blocks")
    padded_body = image[at + BLOCK : at + BLOCK + padded(body_length)]
    need(len(padded_body) == padded(body_length), part, "cut short")
    need(blake3(image[:HEADER] + padded_body) == object_root, part, "object root", Unverified)
    need(not any(padded_body[body_length:]), part, "padding is not zero")
    body = padded_body[:body_length]
    entries = parse_entries(body[: 72 * count], header, part)
    need(sum(entry.blocks for entry in entries) == chunk_blocks, part, "chunk blocks")
    try:
        private = crypto.unseal(prefix.cipher, keys.private, 0, prefix.uuid, body[72 * count :])
    except crypto.Bad as error:
        raise Unverified(part, error) from None
    secrets = parse_private_part(private, count, header, part)
    lines = [Line(*entry, *secret) for entry, secret in zip(entries, secrets)]
    total = sum(plain_length(line.layout.regions, header) for line in lines if line.blocks)
    need(total == plain_bytes, part, "plain bytes")
    return lines, BLOCK + len(padded_body), blake3(padded_body)


def parse_entries(table, header, part):
    entries = []
    for index, entry in enumerate(map(Entry._make, struct.iter_unpack("<II32s32s", table))):
        what = f"{part}, entry {index}"
        if entry.blocks == 0:
            need(any(header.base_uuid), what, "left out without a base")
            need(entry == Entry(0, 0, bytes(32), bytes(32)), what, "left out, but not zero")
        else:
            need(2 <= entry.blocks <= MAX_BLOCKS, what, "blocks")
        need(entry.parity_blocks <= MAX_PARITY, what, "parity blocks")
        need(entry.parity_blocks or not any(entry.parity_root), what, "parity root without parity blocks")
        entries.append(entry)
    return entries


def parse_private_part(private, count, header, part):
    """For each chunk plain hash, bytes of the layout, layout."""
    secrets = []
    at = next_sector = 0
    for index in range(count):
        what = f"{part}, entry {index}"
        plain_hash = private[at : at + 32]
        need(len(plain_hash) == 32, part, "the private part is too short")
        layout, length = parse_layout(private[at + 32 :], header, what)
        secrets.append((plain_hash, private[at + 32 : at + 32 + length], layout))
        at += 32 + length
        need(layout.first == next_sector, what, "the span does not follow the one before it")
        next_sector = layout.first + layout.sectors
    need(at == len(private), part, "the private part is too long")
    need(next_sector == header.sectors, part, "the spans do not cover the disk")
    return secrets


def parse_footer(image, at, header, manifest_at):
    part = "footer"
    block = image[at : at + BLOCK]
    need(len(block) == BLOCK, part, "cut short")
    magic, version, reserved, uuid, offset, length = struct.unpack_from("<8sH6s16sQQ", block)
    need(magic == b"FRZFOOTR", part, "wrong magic")
    need(version == 1, part, "unknown version")
    need(not any(reserved) and not any(block[48:]), part, "reserved bytes are set")
    need(uuid == header.prefix.uuid, part, "UUID")
    need((offset, length) == (manifest_at, at - manifest_at), part, "not what the manifest says")
    need(at + BLOCK == len(image), "image", "bytes after the footer")


def parse_image(image, trust, content_keys):
    """Everything in an image, checked in the order of section 11."""
    header = parse_header(image, trust)
    keys = find_keys(header, content_keys)
    need(header.chunk_format == 0, "image header", "Emulab chunks are not for this reader")
    chunks = []
    at = HEADER
    while True:
        expected = chunks[-1].index + 1 if chunks else 0
        need(len(image) >= at + BLOCK, f"chunk {expected}", "cut short")
        magic = image[at : at + 8]
        need(magic in (b"FRZCHUNK", b"FRZMANIF"), "image", f"no chunk or manifest at byte {at}")
        if magic == b"FRZMANIF":
            break
        chunk = parse_chunk(image, at, header, keys, trust, expected)
        chunks.append(chunk)
        at += len(chunk.bytes)
    lines, length, digest = parse_manifest(image, at, header, keys, trust)
    parse_footer(image, at + length, header, at)
    present = [index for index, line in enumerate(lines) if line.blocks]
    need(len(present) == len(chunks), "image", "not as many chunks as in the manifest", Unverified)
    for index, chunk in zip(present, chunks):
        need(index == chunk.index, f"chunk {chunk.index}", "not the manifest's", Unverified)
        check_line(chunk, lines[chunk.index])
    return Image(header, lines, chunks, digest, keys)


def check_line(chunk, line):
    part = f"chunk {chunk.index}"
    need(len(chunk.bytes) == line.blocks * BLOCK, part, "length is not that of the manifest", Unverified)
    need(blake3(chunk.bytes) == line.root, part, "root is not that of the manifest", Unverified)
    need(chunk.plain_hash == line.plain_hash, part, "plain hash is not that of the manifest", Unverified)
    need(chunk.layout == line.layout, part, "layout is not that of the manifest", Unverified)


def check_parity(image):
    """Compares the parity roots; says which of them are left."""
    left = 0
    for chunk in image.chunks:
        line = image.lines[chunk.index]
        blocks = parity.parity_of(chunk.bytes, line.parity_blocks)
        if blocks is None:
            left += 1
        elif line.parity_blocks:
            need(blake3(blocks) == line.parity_root, f"chunk {chunk.index}", "parity root", Unverified)
    return left


def compose(image, bases):
    """The disk, free space zero; what a delta leaves out is taken from its base."""
    header = image.header
    base_disk = None
    if any(header.base_uuid):
        base = bases.get(header.base_uuid)
        need(base, "image header", f"the base {uuids.UUID(bytes=header.base_uuid)} was not given", Unverified)
        same = base.header.prefix.epoch == header.base_epoch and base.digest == header.base_digest
        need(same, "image header", "the base is not the one of the delta", Unverified)
        same = (base.header.sector_size, base.header.sectors) == (header.sector_size, header.sectors)
        need(same, "image header", "the base is of a disk of another size", Unverified)
        held = {line.layout_bytes for line in base.lines}
        same = all(line.blocks or line.layout_bytes in held for line in image.lines)
        need(same, "image header", "the base has other layouts", Unverified)
        base_disk = compose(base, bases)
    disk = bytearray(header.sectors * header.sector_size)
    chunks = {chunk.index: chunk for chunk in image.chunks}
    for index, line in enumerate(image.lines):
        places = [(first * header.sector_size, count * header.sector_size) for first, count in line.layout.regions]
        if index in chunks:
            data = chunks[index].data
        else:
            data = b"".join(base_disk[at : at + length] for at, length in places)
            same = image.keys.hash_plain(line.layout_bytes, data) == line.plain_hash
            need(same, f"chunk {index}", "the base's data is not that of the delta", Unverified)
        at = 0
        for place, length in places:
            disk[place : place + length] = data[at : at + length]
            at += length
    return disk


def read_file(path):
    with open(path, "rb") as file:
        return file.read()


class Trust:
    """Which signatures are good."""

    def __init__(self, paths, allow_unsigned):
        keys = [crypto.PublicKey(read_file(path)) for path in paths]
        self.owners = {key.id: key for key in keys}
        self.allow_unsigned = allow_unsigned


def read_content_key(path):
    text = read_file(path).strip()
    need(len(text) == 64, path, "not 64 hexadecimal digits")
    return bytes.fromhex(text.decode())


def read_bases(paths, trust, keys):
    images = [parse_image(read_file(path), trust, keys) for path in paths]
    return {image.header.prefix.uuid: image for image in images}


def show(header):
    names = ("none", "Ed25519", "RSA-PSS"), ("none", "Zstandard", "zlib")
    ciphers = "none", "AES-256-GCM", "ChaCha20-Poly1305", "Blowfish-CBC with HMAC-SHA-256"
    prefix = header.prefix
    print(f"name         {header.name}")
    print(f"UUID         {uuids.UUID(bytes=prefix.uuid)}, epoch {prefix.epoch}, created {header.created}")
    print(f"signature    {names[0][prefix.signature]}, key id {prefix.signer.hex()}")
    print(f"codec        {names[1][prefix.codec]}")
    print(f"cipher       {ciphers[prefix.cipher]}, {len(header.wrapped)} bytes of wrapped keys")
    print(f"disk         {header.sectors} sectors of {header.sector_size} bytes, chunks of {header.chunk_size}")
    if any(header.base_uuid):
        print(f"base         {uuids.UUID(bytes=header.base_uuid)}, epoch {header.base_epoch}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("info", "verify", "decode"))
    parser.add_argument("--trust", action="append", default=[], help="public key of an owner")
    parser.add_argument("--key", action="append", default=[], help="content key")
    parser.add_argument("--base", action="append", default=[], help="base of a delta, and the bases of that")
    parser.add_argument("--allow-unsigned", action="store_true")
    parser.add_argument("image")
    parser.add_argument("output", nargs="?", help="disk to write, for decode")
    options = parser.parse_args()
    if (options.command == "decode") != (options.output is not None):
        parser.error("an output is for decode")
    try:
        trust = Trust(options.trust, options.allow_unsigned)
        data = read_file(options.image)
        if options.command == "info":
            show(parse_header(data, trust))
            return 0
        keys = [read_content_key(path) for path in options.key]
        image = parse_image(data, trust, keys)
        if options.command == "verify":
            left = check_parity(image)
            rest = f", parity roots of {left} not computed" if left else ""
            print(f"{options.image}: {len(image.chunks)} chunks verified{rest}")
        if options.command == "decode" or options.base:
            disk = compose(image, read_bases(options.base, trust, keys))
        if options.command == "decode":
            with open(options.output, "wb") as output:
                output.write(disk)
    except Refused as error:
        print(f"{options.image}: {error}", file=sys.stderr)
        return error.exit_code
    except crypto.Bad as error:
        print(error, file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
