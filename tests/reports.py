"""A report on drawn images, and what a test reads in a page."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from lib.report import Curve, Report, ReportImage

SIZE = (40, 56)
# What a careless page would run, or take for a tag.
BAD_ID = "<img src=x onerror=alert(1)>.png"
RECORDED = 0.413


def draw_images(number=3, seed=0, size=SIZE):
    """Draws images whose probability is near their truth, the later the less."""
    rng = np.random.default_rng(seed)
    for index in range(number):
        truth = np.zeros(size, np.uint8)
        truth[::5] = 1
        noise = rng.normal(0, 0.1 + 0.05 * index, size)
        probability = np.clip(0.2 + 0.5 * truth + noise, 0, 1).astype(np.float32)
        picture = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
        inside = np.ones(size, bool)
        inside[:, :8] = False
        name = BAD_ID if index == 0 else f"eye{index}"
        yield ReportImage(name, picture, probability, truth, inside)


def write_report(path, images, threshold=RECORDED, **options):
    """Writes a report of two classes and gives its text."""
    report = Report("Eyes", images, positive="vessel", threshold=threshold, **options)
    curve = Curve("ROC curve", "x", "y", {"area": ([0, 0.2, 1], [0, 0.9, 1])}, {"here": (0.1, 0.8)})
    words = {"protocol": "All pixels.", "curves": [curve], "facts": {"Command": "<b>"}}
    report.write(path, scores={"F1": 0.5}, settings={"a_b": {"key": 1}}, **words)
    return path.read_text(encoding="utf-8")


def embedded(page):
    """Reads the numbers that the script of a page has."""
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def pixels_of(address):
    """Reads a picture of a page from its data address."""
    kind, _, content = address.partition(",")
    assert kind.startswith("data:image/")
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        return np.asarray(image)


def f1_of(images, threshold):
    """Computes F1 over all pixels inside, the plain way."""
    images = list(images)
    found = np.concatenate([(i.prediction >= np.float32(threshold))[i.inside] for i in images])
    truth = np.concatenate([(i.truth > 0)[i.inside] for i in images])
    return 2 * np.sum(found & truth) / (np.sum(found) + np.sum(truth))


class Page(HTMLParser):
    """The tags of a page, and what its attributes name."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.without_words, self.ids = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.addresses += [attributes[name] for name in ("src", "href") if name in attributes]
        if tag == "img" and not attributes.get("alt"):
            self.without_words.append(attributes)
