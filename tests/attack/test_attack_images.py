"""Image folders with odd files: each is read, skipped or refused in one line."""

from __future__ import annotations

import io
import os
import shutil
import struct
import zlib
from pathlib import Path
from random import Random

import numpy as np
from attack.child import signbench
from attack.mutate import damage, replace
from PIL import Image

CLASSES = ("ant", "bee")
TINY = ("--method", "random", "--batch-size", "4", "--epochs", "1", "--threads", "1")
FORMATS = ("jpeg", "png", "tiff", "webp", "bmp", "ppm", "gif")
MODES = ("RGB", "L", "1", "P", "RGBA", "CMYK", "I", "F", "I;16", "LA")


def make_folder(home: Path) -> None:
    """Write an image folder of two classes with four images each in both splits."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in CLASSES:
            (home / split / name).mkdir(parents=True)
            for i in range(4):
                pixels = rng.integers(0, 255, (24, 20 + i, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(home / split / name / f"{i}.png")


# ---- files that are made to harm


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def large_png(rng: Random) -> bytes:
    """Return a PNG whose header claims a large size, with few rows or with all."""
    width, height = rng.choice(
        ((65500, 65500), (20_000, 20_000), (10**9, 1), (2**31 - 1, 2**31 - 1))
    )

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    body = zlib.compress(bytes(10**7), 9)
    header = struct.pack(">IIBBBBB", width, height, 8, rng.choice((0, 2, 6)), 0, 0, 0)
    chunks = (chunk(b"IHDR", header), chunk(b"IDAT", body), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def text_bomb(rng: Random) -> bytes:
    """Return a PNG with a text that expands to 100 MB."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "png")
    data, text = stream.getvalue(), b"a\0\0" + zlib.compress(bytes(10**8), 9)
    return data[:33] + chunk(rng.choice((b"zTXt", b"iCCP")), text) + data[33:]


def large_jpeg(rng: Random) -> bytes:
    """Return a JPEG whose header claims a large size."""
    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, "jpeg", progressive=rng.random() < 0.5)
    data = bytearray(stream.getvalue())
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    size = rng.choice(((65500, 65500), (65535, 1), (1, 65535), (0, 0), (30_000, 30_000)))
    data[at + 5 : at + 9] = struct.pack(">HH", *size)
    return bytes(data)


def many_scans(rng: Random) -> bytes:
    """Return a progressive JPEG whose last scan is repeated."""
    stream = io.BytesIO()
    side = rng.choice((64, 2000))
    Image.new("RGB", (side, side)).save(stream, "jpeg", progressive=True)
    data = stream.getvalue()
    at = data.rindex(b"\xff\xda")
    return data[:at] + data[at:-2] * rng.choice((100, 3000)) + data[-2:]


def large_tiff(rng: Random) -> bytes:
    """Return a TIFF whose header claims a large size."""
    n = rng.choice((65500, 20_000, 2**31))
    tags = (
        *((256, 4, 1, n), (257, 4, 1, n), (258, 3, 1, 8), (259, 3, 1, rng.choice((1, 5, 8)))),
        *((262, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, n), (279, 4, 1, 100)),
    )
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return (
        b"II*\0"
        + struct.pack("<I", 108)
        + bytes(100)
        + struct.pack("<H", len(tags))
        + entries
        + bytes(4)
    )


def script(rng: Random) -> bytes:
    """Return a PostScript file, which PIL would hand to an interpreter."""
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9000 9000\n(x) (w) file\n%%EOF\n"


def odd_mode(rng: Random) -> bytes:
    stream = io.BytesIO()
    size = rng.choice(((1, 1), (3, 500), (500, 3), (40, 40)))
    image = Image.new(rng.choice(MODES), size)
    for kind in rng.sample(FORMATS, len(FORMATS)):
        try:
            image.save(stream, kind)
            return stream.getvalue()
        except (OSError, ValueError, KeyError):
            stream = io.BytesIO()
    return b""


HARMFUL = (large_png, text_bomb, large_jpeg, many_scans, large_tiff, script, odd_mode, odd_mode)


def spoil(folder: Path, rng: Random) -> str:
    """Put an odd file in the place of an image. Return what it is."""
    paths = sorted(folder.rglob("*.png"))
    path = rng.choice(paths)
    kind = rng.random()
    if kind < 0.5:
        make = rng.choice(HARMFUL)
        path.write_bytes(make(rng))
        return f"{path.name} {make.__name__}"
    if kind < 0.8:
        with Image.open(path) as image:
            other = image.convert("RGB")
        stream = io.BytesIO()
        other.save(stream, rng.choice(FORMATS))
        path.write_bytes(stream.getvalue())
        return f"{path.name} {damage(path, rng)}"
    if kind < 0.9:
        return f"{path.name} {replace(path, rng)}"
    other = rng.choice((path.parent, path.parent.parent))
    how = replace(other, rng)
    if rng.random() < 0.3 and not os.path.lexists(other):
        (folder / "train" / "\udcff").mkdir(parents=True)
    return f"{other.name} {how}"


def test_images(attack, world, tmp_path):
    make_folder(tmp_path / "good")
    for rng in attack.cases(few=4, share=0.12):
        folder = tmp_path / "images"
        shutil.copytree(tmp_path / "good", folder)
        what = ", ".join(spoil(folder, rng) for _ in range(1))
        size, skip = rng.choice((16, 80)), rng.choice(("error", "skip"))
        flags = ["--data", folder, "--data-dir", "data", "--image-size", size, "--bad-images", skip]
        workers = rng.choice((0, 0, 0, 1))
        args = ["run", *TINY, *flags, "--workers", workers, "--device", "cpu", "--runs", "runs"]
        outcome = signbench(*args)
        names = [f"/{name}" for name in ("images", *(f"{i}.png" for i in range(4)))]
        problem = outcome.problem([*names, "batch_size"])
        attack.note(problem, f"{what} {size} {skip} {workers}")
        for left in (folder, tmp_path / "runs", tmp_path / "data"):
            shutil.rmtree(left, ignore_errors=True)
