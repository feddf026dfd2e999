"""Files to try: whole ones of every kind, and what damage and malice make of them."""

import functools
import io
import json
import struct
import tempfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import tifffile
from hypothesis import strategies as st
from PIL import Image

from lib.experiment import PROJECT
from lib.files import write_hdf5
from lib.image_sets import write_image_sets
from lib.label_images import Classes

HEIGHT, WIDTH = 12, 14
SETTINGS = {"training_settings": {"N_epochs": 3, "seed": 1}, "data_attributes": {}}
HISTORY = [{"epoch": n, "loss": 1 / n, "val_loss": 1.1 / n, "seconds": 0.1} for n in (1, 2)]
RECORD = {
    "settings": SETTINGS,
    "history": HISTORY,
    "images": {"training": ["a", "b"], "validation": ["c"]},
    "scaling": "percentile",
    "looks": {"brightness": [0.1, 0.9]},
    "ancestors": [{"weights": "a.weights.h5", "images": None}],
    "progress": {"batches": 2, "seconds": 1.0, "metrics": {"loss": [1.0, 2.0]}},
    "dropout_states": [[1, 2]],
    "data": {"class_names": ["a", "b"]},
}
# Numbers that fields of sizes, offsets and counts are set to.
SPECIAL = (0, 1, 2, 127, 128, 255, 256, 32767, 65535, 65536, 2**20, 2**31 - 1, 2**31, 2**32 - 1)


# ---------------------------------------------------------------- whole files


def _saved(pixels, ending, **options):
    file = io.BytesIO()
    kind = {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}.get(ending, ending.upper())
    first, *others = pixels if isinstance(pixels, list) else [pixels]
    if others:
        options |= {"save_all": True, "append_images": others}
    first.save(file, kind, **options)
    return f"a.{ending}", file.getvalue()


def _tiff(array, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return "a.tif", file.getvalue()


@functools.cache
def images():
    """Gives (name, content) of image files of all kinds but TIFF."""
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    mask = Image.fromarray(rng.integers(0, 2, (HEIGHT, WIDTH), np.uint8) * np.uint8(255))
    deep = Image.fromarray(rng.integers(0, 65536, (HEIGHT, WIDTH), np.uint16))
    turned = Image.Exif()
    turned[0x0112] = 6
    frames = [mask.rotate(90 * n) for n in range(4)]
    return [
        *(_saved(colours, e) for e in ("png", "bmp", "ppm", "webp", "jp2", "gif")),
        *(_saved(mask, e) for e in ("png", "bmp", "gif", "jp2")),
        ("a.pgm", _saved(mask, "ppm")[1]),
        _saved(colours, "jpg", exif=turned),
        _saved(colours.convert("CMYK"), "jpg"),
        _saved(colours.convert("RGBA"), "png"),
        _saved(colours.convert("P"), "png", transparency=0),
        _saved(mask.convert("1"), "png"),
        _saved(mask.convert("LA"), "png"),
        _saved(deep, "png"),
        *(_saved(frames, e) for e in ("gif", "png")),
        _saved([colours, colours.rotate(90)], "webp"),
    ]


@functools.cache
def bombs():
    """Gives (name, content) of small files that claim to be large, or to hold many images."""
    mask = Image.fromarray(np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH))
    frames = [mask.rotate(90 * n) for n in range(4)]
    return [
        ("a.png", png_bomb(100_000, 100_000)),
        ("a.png", png_bomb(13_000, 13_000)),
        ("a.gif", _saved(frames, "gif")[1].replace(*_screens(60_000))),
        ("a.gif", _saved(frames * 500, "gif")[1]),
    ]


def _screens(side):
    return tuple(struct.pack("<HH", *size) for size in ((WIDTH, HEIGHT), (side, side)))


def png_bomb(width, height):
    """Makes a PNG file of one black row that claims many."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1 + 3 * width))
    parts = [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts)


def _chunk(name, content):
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def with_checksums(content):
    """Corrects the checksums of a PNG file, so that its lies are read."""
    place, parts = 8, [content[:8]]
    while place + 8 <= len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        end = place + 8 + length
        if end > len(content):
            break
        parts.append(_chunk(content[place + 4 : place + 8], content[place + 8 : end]))
        place = end + 4
    return b"".join(parts) + content[place:]


@functools.cache
def tiffs():
    """Gives (name, content) of TIFF files: stacks, hyperstacks, palettes, tiles, compressions."""
    rng = np.random.default_rng(0)
    stack = rng.integers(0, 256, (3, HEIGHT, WIDTH), np.uint8)
    colours = np.moveaxis(stack, 0, -1)
    palette = rng.integers(0, 65536, (3, 256), np.uint16)
    pages = [Image.fromarray(one) for one in stack]
    return [
        _tiff(stack, photometric="minisblack"),
        _tiff(stack, imagej=True, metadata={"axes": "ZYX"}),
        _tiff(stack[:, None], imagej=True, metadata={"axes": "ZCYX"}),
        _tiff(colours, photometric="rgb"),
        _tiff(stack, photometric="rgb", planarconfig="separate"),
        _tiff(stack.astype(np.uint16), photometric="minisblack", compression="zlib"),
        _tiff(stack.astype(np.float32), photometric="minisblack", byteorder=">"),
        _tiff(stack[0], photometric="palette", colormap=palette),
        _tiff(stack[0] > 99, photometric="minisblack"),
        _tiff(np.pad(stack, ((0, 0), (0, 20), (0, 20))), tile=(16, 16), photometric="minisblack"),
        _tiff(stack, photometric="minisblack", bigtiff=True, ome=True),
        *(_saved(pages, "tif", compression=c) for c in ("tiff_lzw", "tiff_deflate", "packbits")),
        _saved(Image.fromarray(colours), "tif", compression="jpeg"),
        _saved(pages[0].convert("1"), "tif", compression="group4"),
    ]


@functools.cache
def hdf5_files():
    """Gives the contents of HDF5 files: of one array, and of images of any sizes."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2, 1, HEIGHT, WIDTH), np.uint8)
    label = rng.integers(0, 2, (HEIGHT, WIDTH), np.uint8)
    classes = Classes(("a", "b"), ((0, 0, 0), (255, 0, 0)))
    with tempfile.TemporaryDirectory() as folder:
        one, many = Path(folder, "one.hdf5"), Path(folder, "many.hdf5")
        write_hdf5(one, image, ids=["21", "22"])
        items = [(name, image[0], label, label.astype(np.int32)) for name in ("a", "b")]
        write_image_sets({many: items}, classes, has_instances=True)
        return [one.read_bytes(), many.read_bytes()]


# ---------------------------------------------------------------- what happens to them


@st.composite
def damaged(draw, content, others=()):
    """Draws what becomes of a file: cut, changed, mixed with another; mostly at its head."""
    content = bytearray(content)
    for _ in range(draw(st.integers(0, 4))):
        head = min(len(content), draw(st.sampled_from([16, 64, 512, len(content)])))
        place = draw(st.integers(0, max(0, head - 1)))
        kind = draw(st.sampled_from(["bit", "byte", "number", "cut", "drop", "twice", "mix"]))
        if kind == "bit" and content:
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte" and content:
            content[place] = draw(st.integers(0, 255))
        elif kind == "number":
            form = draw(st.sampled_from(["<H", ">H", "<I", ">I", "<Q", ">Q"]))
            value = draw(st.sampled_from(SPECIAL)) % 2 ** (8 * struct.calcsize(form))
            number = struct.pack(form, value)
            content[place : place + len(number)] = number
        elif kind == "cut":
            del content[draw(st.integers(0, len(content))) :]
        elif kind == "drop":
            del content[place : place + draw(st.integers(1, 64))]
        elif kind == "twice":
            content[place:place] = content[place : place + draw(st.integers(1, 64))]
        elif kind == "mix" and others:
            other = draw(st.sampled_from(others))
            content[place:] = other[draw(st.integers(0, len(other))) :]
    return bytes(content)


@st.composite
def damaged_text(draw, text, words=()):
    """Draws what becomes of a text: lines go, come twice, get other words or any letters."""
    lines = text.splitlines()
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, max(0, len(lines) - 1)))
        kind = draw(st.sampled_from(["drop", "twice", "value", "letters", "cut"]))
        if not lines or kind == "letters":
            lines.insert(place, draw(st.text(max_size=40)))
        elif kind == "drop":
            del lines[place]
        elif kind == "twice":
            lines.insert(place, lines[draw(st.integers(0, len(lines) - 1))])
        elif kind == "cut":
            lines[place] = lines[place][: draw(st.integers(0, len(lines[place])))]
        else:
            sign = draw(st.sampled_from(["=", ",", ":", "#", " "]))
            value = draw(st.one_of(st.sampled_from(WORDS + tuple(words)), st.text(max_size=20)))
            lines[place] = f"{lines[place].partition(sign)[0]}{sign} {value}"
    content = "\n".join(lines).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 9)) == 0:
        return draw(damaged(content))
    return content


WORDS = (
    *("", "0", "-1", "1e999", "nan", "inf", "9" * 5000, "0x10", "1_0", "None", "%(x)s", "${x}"),
    *("../../up", "/absolute", "a/../../b", "~", "$HOME", "\0", "\u202e", "=", "[", "é", "٣"),
    *("__import__('os')", "!!python/object:os.system", "{{7*7}}", "<img src=x onerror=alert(1)>"),
)
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def damaged_json(draw, value):
    """Draws a text of JSON in which parts are replaced by others, or that is damaged."""
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(0, 3))):
        place, parent = value, None
        for _ in range(draw(st.integers(0, 4))):
            if isinstance(place, dict | list) and place:
                keys = sorted(place) if isinstance(place, dict) else range(len(place))
                parent = place, draw(st.sampled_from(list(keys)))
                place = parent[0][parent[1]]
        if parent is None:
            value = draw(JSONS)
        elif draw(st.booleans()):
            parent[0][parent[1]] = draw(JSONS)
        else:
            del parent[0][parent[1]]
    text = json.dumps(value)
    if draw(st.integers(0, 9)) == 0:
        return draw(
            st.sampled_from(["[" * 100_000, "", "{", text[:-1], text + "x", "\ufeff" + text])
        )
    return text


KINDS = (
    *("external link", "soft link", "dangling", "up", "reference", "region", "text", "bytes"),
    *("compound", "opaque", "huge", "huge chunk", "outside", "virtual", "empty", "scalar", "float"),
    *("group", "itself", "nan", "enum", "gone"),
)


def spoil(file, name, kind, other):
    """Replaces a part of an open HDF5 file by one of KINDS; `other` is a file of somebody else."""
    old = file[name] if name in file else None
    shape = old.shape if isinstance(old, h5py.Dataset) else (1,)
    if old is not None:
        del file[name]
    zeros = np.zeros(shape, np.uint8)
    links = {
        "external link": h5py.ExternalLink(str(other), "secret"),
        "soft link": h5py.SoftLink("/secret"),
        "dangling": h5py.SoftLink("/nothing"),
        "up": h5py.ExternalLink("../../../etc/passwd", "/"),
    }
    if kind in links:
        file[name] = links[kind]
    elif kind in ("reference", "region"):
        file.create_dataset(
            name, shape, h5py.ref_dtype if kind == "reference" else h5py.regionref_dtype
        )
    elif kind in ("text", "bytes", "opaque"):
        types = {"text": h5py.string_dtype(), "bytes": "S3", "opaque": np.dtype("V5")}
        file.create_dataset(name, shape, types[kind])
    elif kind == "compound":
        file.create_dataset(name, shape, [("a", "i4"), ("b", "f8")])
    elif kind == "huge":
        rank = max(1, len(shape))
        file.create_dataset(name, (2 ** (40 // rank),) * rank, np.uint8, chunks=(64,) * rank)
    elif kind == "huge chunk":
        rank = max(1, len(shape))
        chunks = (2**31,) + (1,) * (rank - 1)
        file.create_dataset(name, shape or (1,), "u1", chunks=chunks, maxshape=(None,) * rank)
    elif kind == "outside":
        file.create_dataset(name, shape, np.uint8, external=[(str(other), 0, h5py.h5f.UNLIMITED)])
    elif kind == "virtual":
        layout = h5py.VirtualLayout(shape, np.uint8)
        if shape:
            layout[...] = h5py.VirtualSource(str(other), "secret", shape)
        file.create_virtual_dataset(name, layout)
    elif kind == "empty":
        file[name] = h5py.Empty("f")
    elif kind == "scalar":
        file[name] = 1
    elif kind == "float":
        file[name] = zeros.astype(float)
    elif kind == "nan":
        file[name] = np.full(shape, np.nan, np.float16)
    elif kind == "enum":
        file[name] = zeros.astype(h5py.enum_dtype({"a": 0, "b": 1}))
    elif kind == "group":
        file.create_group(name)
    elif kind == "itself":
        file[name] = file["/"]


def names_of(content):
    """Lists all groups and data sets of an HDF5 file."""
    names = []
    with h5py.File(io.BytesIO(content), "r") as file:
        file.visit(names.append)
    return names


@st.composite
def malicious_hdf5(draw, content, other):
    """Draws an HDF5 file some parts of which are replaced; then it may be damaged, too."""
    content = io.BytesIO(content)
    names = names_of(content.getvalue())
    with h5py.File(content, "a") as file:
        for _ in range(draw(st.integers(0, 2))):
            name, kind = draw(st.sampled_from(names)), draw(st.sampled_from(KINDS))
            try:
                spoil(file, name, kind, other)
            except Exception:
                continue  # not every kind goes with every shape
    content = content.getvalue()
    return draw(damaged(content)) if draw(st.booleans()) else content


def templates():
    """Gives the configurations of the project."""
    return [path.read_text(encoding="utf-8") for path in sorted(PROJECT.glob("configuration*.txt"))]
