#!/usr/bin/env python3
"""Makes the test vectors: testdata/frz (images that must open) and testdata/must-fail (images that must be refused)."""

import os
import shutil
import sys

import golden
import must_fail

HERE = os.path.dirname(os.path.abspath(__file__))


def fresh(name):
    directory = os.path.join(HERE, "..", name)
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    return directory


def write(directory, name, content):
    with open(os.path.join(directory, name), "wb") as file:
        file.write(content)


def table(directory, columns, rows):
    lines = ["\t".join(map(str, row)) for row in rows]
    write(directory, "index.tsv", "\n".join(["\t".join(columns)] + lines + [""]).encode())


def make_golden():
    directory = fresh("frz")
    for owner, key in golden.OWNERS.items():
        if key:
            write(directory, f"owner-{owner}.pub", key.pem())
    write(directory, "content.key", golden.read("content.key"))
    rows = []
    for image in golden.all_images():
        name = f"{image.image.label}.frz"
        write(directory, name, image.image.bytes())
        rows.append(image.row(name))
    table(directory, ("file", "sha256", "bytes", "owners", "bases", "sector", "note"), rows)


def make_must_fail():
    directory = fresh("must-fail")
    write(directory, "owner-weak.pub", must_fail.WEAK_KEY)
    rows = []
    for vector in must_fail.all_vectors():
        write(directory, vector.file, vector.bytes)
        rows.append(vector.row())
    table(directory, must_fail.COLUMNS, rows)


if __name__ == "__main__":
    tasks = {"frz": make_golden, "must-fail": make_must_fail}
    for task in sys.argv[1:] or tasks:
        tasks[task]()
