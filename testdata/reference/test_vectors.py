"""The reader against the vectors, one line for each; the blocks of test_blake3.py are the ground it stands on."""

import hashlib
import os
import sys
import unittest

import crypto
import frz

HERE = os.path.dirname(os.path.abspath(__file__))
FRZ = os.path.join(HERE, "..", "frz")
MUST_FAIL = os.path.join(HERE, "..", "must-fail")


def read(directory, name):
    with open(os.path.join(directory, name), "rb") as file:
        return file.read()


def table(directory):
    lines = read(directory, "index.tsv").decode().splitlines()
    columns = lines[0].split("\t")
    return [dict(zip(columns, line.split("\t"))) for line in lines[1:]]


def trust(names):
    owners = [name for name in names.split(",") if name not in ("none", "-")]
    weak = os.path.join(MUST_FAIL, "owner-weak.pub")
    paths = [weak if name == "weak" else os.path.join(FRZ, f"owner-{name}.pub") for name in owners]
    return frz.Trust(paths, "none" in names.split(","))


CONTENT_KEY = [bytes.fromhex(read(FRZ, "content.key").decode())]


class Golden(unittest.TestCase):
    def test_every_golden_image_gives_its_disk(self):
        images, trusted = {}, trust("ed25519,rsa3072,rsa4096,none")
        for row in table(FRZ):
            with self.subTest(row["file"]):
                image = frz.parse_image(read(FRZ, row["file"]), trusted, CONTENT_KEY)
                images[row["file"]] = image
                self.assertEqual(frz.check_parity(image), 0)
                bases = [images[base] for base in row["bases"].split(",") if base != "-"]
                disk = frz.compose(image, {base.header.prefix.uuid: base for base in bases})
                self.assertEqual(len(disk), int(row["bytes"]))
                self.assertEqual(hashlib.sha256(disk).hexdigest(), row["sha256"])
        self.assertGreater(len(images), 60)


class MustFail(unittest.TestCase):
    def test_every_other_image_is_refused_for_the_right_reason(self):
        rows = table(MUST_FAIL)
        for row in rows:
            with self.subTest(row["file"]):
                kind, part = self.refusal(row)
                self.assertEqual((kind, part), (row["class"], row["part"]), row["note"])
        self.assertGreater(len(rows), 100)

    def refusal(self, row):
        keys = [] if row["key"] == "-" else CONTENT_KEY
        bases = [
            frz.parse_image(read(FRZ, name), trust("ed25519"), keys) for name in row["bases"].split(",") if name != "-"
        ]
        try:
            image = frz.parse_image(read(MUST_FAIL, row["file"]), trust(row["owners"]), keys)
            frz.compose(image, {base.header.prefix.uuid: base for base in bases})
        except frz.Refused as error:
            kind = "input" if error.exit_code == 3 else "verification"
            return kind, str(error).split(":")[0].split(",")[0]
        except crypto.Bad:
            return "input", "key"
        return "accepted", None


if __name__ == "__main__":
    sys.exit(unittest.main())
