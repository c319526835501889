"""What the images that must be refused are made of, and how they are named in their table."""

import struct
from dataclasses import dataclass

from golden import ED25519, text
from write import Image, layout

COLUMNS = ("file", "class", "part", "error", "as_file", "owners", "key", "bases", "note")
INPUT, VERIFICATION = "input", "verification"


@dataclass
class Vector:
    """`error` is what is wrong with `part`; `as_file` class, part and error where reading by index meets it earlier."""

    label: str
    bytes: bytes
    kind: str
    part: str
    error: str
    note: str
    as_file: str = "="
    owners: str = "ed25519"
    key: str = "content.key"
    bases: str = "-"

    @property
    def file(self):
        return f"{self.label}.frz"

    def row(self):
        return (
            self.file, self.kind, self.part, self.error, self.as_file, self.owners, self.key, self.bases, self.note,
        )  # fmt: skip


DATA = (text(5 * 512, "first "), text(3 * 512, "second "))
SPANS = ((0, 100), (100, 100))
REGIONS = ([(2, 4), (10, 1)], [(97, 3)])
PLACE = "place of the manifest"


def image(label="victim", **fields):
    return Image(label, **{"owner": ED25519, "sectors": 200, **fields})


def good(number):
    return layout(*SPANS[number], REGIONS[number]), DATA[number]


def filled(label="victim", **fields):
    """The image that the vectors are made of: two chunks of two blocks."""
    made = image(label, **fields)
    for number in range(2):
        made.add(*good(number))
    return made


def put(at, *values, form="B"):
    """A patch: writes numbers (or bytes) at an offset."""

    def patch(block):
        data = values[0] if isinstance(values[0], bytes) else struct.pack("<" + form, *values)
        assert bytes(block[at : at + len(data)]) != data
        block[at : at + len(data)] = data

    return patch


def flipped(data, at):
    data = bytearray(data)
    data[at] ^= 1
    return bytes(data)
