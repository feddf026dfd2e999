"""Tests of the page that shows a test or a prediction, without a browser."""

from dataclasses import replace

import numpy as np
import pytest

from lib import report as module
from lib.pre_processing import look_of, range_of_looks, unlike_training
from lib.report import Report, ReportImage, loss_curve, threshold_grid
from tests.reports import (
    BAD_ID,
    RECORDED,
    SIZE,
    Page,
    draw_images,
    embedded,
    f1_of,
    pixels_of,
    write_report,
)

# ---------------------------------------------------------------- the page


def test_a_page_needs_nothing_but_itself(tmp_path):
    page = Page(write_report(tmp_path / "report.html", draw_images(), sort_by="F1"))
    assert page.addresses
    assert all(a.startswith(("data:", "#")) for a in page.addresses)
    assert not {"link", "iframe", "object", "base"} & set(page.tags) - {"link"}
    text = (tmp_path / "report.html").read_text()
    assert "http://" not in text and "https://" not in text and "url(" not in text
    assert "default-src 'none'" in text


def test_every_image_has_words_and_every_id_is_its_own(tmp_path):
    page = Page(write_report(tmp_path / "report.html", draw_images(), sort_by="F1"))
    assert page.without_words == []
    assert len(page.ids) == len(set(page.ids))
    # Of 3 images: a thumbnail, five layers, and the field of view.
    assert page.tags.count("img") == 3 * 7


def test_a_file_name_is_text_and_no_tag(tmp_path):
    text = write_report(tmp_path / "report.html", draw_images(), sort_by="F1")
    assert BAD_ID not in text
    assert "&lt;img src=x onerror=alert(1)&gt;.png" in text
    assert "<b>" not in text
    assert "x" not in Page(text).addresses
    script = text[text.index('id="data">') : text.index("</script>")]
    assert "<" not in script.partition(">")[2]


def test_scores_stand_in_the_page_without_a_script(tmp_path):
    images = list(draw_images())
    text = write_report(tmp_path / "report.html", images, sort_by="F1")
    body = text[text.index("<body>") : text.index('id="data"')]
    for image in images:
        assert f"{f1_of([image], RECORDED):.4f}" in body


@pytest.mark.parametrize("threshold", [RECORDED, 0.2, 0.8])
def test_counts_at_256_thresholds_are_exact(tmp_path, threshold):
    images = list(draw_images())
    data = embedded(write_report(tmp_path / "report.html", images, sort_by="F1"))
    k = int(np.argmin(np.abs(np.array(data["thresholds"]) - threshold)))
    assert data["thresholds"][k] == pytest.approx(threshold, abs=1e-6)
    counts = data["all"]
    tp, fp, positives = counts["tp"][k], counts["fp"][k], counts["tp"][0]
    assert 2 * tp / (tp + fp + positives) == pytest.approx(f1_of(images, threshold), abs=1e-12)
    assert sum(one["tp"][k] for one in data["images"]) == tp
    assert data["thresholds"][data["place"]] == pytest.approx(RECORDED, abs=1e-6)


@pytest.mark.parametrize("recorded", [0.0, 0.001, 0.413, 0.5, 0.999, 1.0])
def test_the_recorded_threshold_is_one_of_the_grid(recorded):
    grid = threshold_grid(recorded)
    assert np.float32(recorded) in grid
    assert len(grid) == 256 and grid[0] == 0
    assert (np.diff(grid) >= 0).all()


def test_pictures_show_what_counts(tmp_path):
    (image,) = draw_images(1)
    report = Report("Eyes", [image], positive="vessel", threshold=RECORDED, sort_by="F1")
    layers = report.images[0]["large"]
    found = (image.prediction >= np.float32(RECORDED)) & image.inside
    assert (pixels_of(layers["prediction"]) == found).all()
    assert (pixels_of(layers["inside"]) == image.inside).all()
    codes = pixels_of(layers["errors"])  # 1 false, 2 missed, 3 hit
    assert (codes == found + 2 * ((image.truth > 0) & image.inside)).all()
    steps = pixels_of(layers["probability"])
    assert (found == ((steps >= report.place) & image.inside)).all()


def test_16_bits_count_as_floats_do():
    (image,) = draw_images(1)
    steps = np.rint(image.prediction * 65535).astype(np.uint16)
    scores = [
        Report("Eyes", [one], positive="vessel", threshold=RECORDED).images[0]["scores"]
        for one in (
            replace(image, prediction=steps),
            replace(image, prediction=(steps / 65535).astype(np.float32)),
        )
    ]
    assert scores[0] == scores[1]


def test_the_worst_are_large_and_first(tmp_path):
    images = list(draw_images(25))
    report = Report("Eyes", images, positive="vessel", sort_by="F1")
    scores = [entry["scores"]["F1"] for entry in report.images]
    assert scores == sorted(scores)
    large = [entry["large"] is not None for entry in report.images]
    assert large == [True] * 20 + [False] * 5
    reversed_report = Report("Eyes", images[::-1], positive="vessel", sort_by="F1")
    assert [e["id"] for e in reversed_report.images[:20]] == [e["id"] for e in report.images[:20]]


def test_a_page_stays_below_its_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 100_000)
    text = write_report(tmp_path / "report.html", draw_images(30), sort_by="F1")
    assert len(text) < 100_000 + 60_000  # the table and the style come on top
    assert "eye29" in text
    assert 1 <= text.count('<section class="image"') < 20


def test_large_images_are_shown_smaller(tmp_path):
    (image,) = draw_images(1, size=(1500, 900))
    report = Report("Eyes", [image], positive="vessel", threshold=RECORDED)
    layers = report.images[0]["large"]
    assert (layers["height"], layers["width"]) == (640, 384)
    for name in ("original", "truth", "prediction", "errors", "probability"):
        assert pixels_of(layers[name]).shape[:2] == (640, 384)
    assert report.images[0]["scores"]["F1"] == pytest.approx(f1_of([image], RECORDED))


def test_several_classes_have_colours_and_no_threshold(tmp_path):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, SIZE).astype(np.uint8)
    truth[0] = 255  # no class
    predicted = np.where(truth == 2, 1, truth % 255)
    picture = np.zeros((*SIZE, 3), np.uint8)
    classes = {"ground": (0, 0, 0), "disc": (230, 60, 60), "bar": (60, 160, 230)}
    image = ReportImage("a", picture, predicted, truth)
    report = Report("Classes", [image], classes=classes, sort_by="accuracy")
    scores = report.images[0]["scores"]
    known = truth < 3
    assert scores["accuracy"] == pytest.approx((predicted == truth)[known].mean())
    report.write(tmp_path / "report.html", protocol="All pixels.")
    text = (tmp_path / "report.html").read_text()
    assert 'id="threshold"' not in text and "disc" in text
    assert (pixels_of(report.images[0]["large"]["errors"]) == (known & (truth == 2))).all()


@pytest.mark.parametrize("with_truth", [True, False])
@pytest.mark.parametrize("classes", [None, {"floor": (0, 0, 0), "nucleus": (230, 60, 60)}])
def test_objects_stay_where_they_are_and_the_legend_explains_them(tmp_path, classes, with_truth):
    objects = np.zeros(SIZE, np.int32)
    objects[2:9, 2:9] = 1
    predicted = (objects > 0).astype(np.uint8)
    truth = {"truth": predicted, "true_objects": objects} if with_truth else {}
    picture = np.zeros((*SIZE, 3), np.uint8)
    image = ReportImage(
        "a", picture, predicted if classes else predicted.astype(float), objects=objects, **truth
    )
    report = Report("Objects", [image], positive="nucleus", classes=classes)
    report.write(tmp_path / "report.html", protocol="All pixels.")
    text = (tmp_path / "report.html").read_text()
    legend = text.partition('<ul class="legend">')[2].partition("</ul>")[0]
    # Without a threshold to move: the objects are those of the recorded one.
    assert 'id="threshold"' not in text and "move the threshold" not in text
    assert "each object in one of 8 colours" in legend and "floor" not in legend
    assert ("outline of an object" in legend) == (not with_truth)
    assert ("wrong class" in legend) == bool(classes and with_truth)
    assert ("missed: in the truth only" in legend) == (with_truth and not classes)


@pytest.mark.parametrize(("of_truth", "is_flagged"), [(None, True), (5, True), (0, False)])
def test_an_image_without_objects_is_flagged_unless_it_has_none(of_truth, is_flagged):
    nothing = np.zeros(SIZE, np.int32)
    true_objects = None if of_truth is None else np.full(SIZE, of_truth)
    image = ReportImage(
        "a",
        np.zeros((*SIZE, 3), np.uint8),
        np.full(SIZE, 0.9),
        objects=nothing,
        true_objects=true_objects,
    )
    (entry,) = Report("Objects", [image], positive="cell").images
    assert ("No object was found." in entry["flags"]) == is_flagged


# ---------------------------------------------------------------- what is said


def flags_of(tmp_path, images, **options):
    text = write_report(tmp_path / "report.html", images, **options)
    return text[text.index('class="verdict') : text.index("</header>")]


def test_a_good_result_has_no_flags(tmp_path):
    assert "In order." in flags_of(tmp_path, draw_images(1), threshold=0.49, sort_by="F1")


@pytest.mark.parametrize(("number", "which"), [(1, "the image"), (2, "the 2 images")])
def test_marked_images_are_counted(tmp_path, number, which):
    images = list(draw_images(3))
    images[:number] = [replace(image, flags=("Dark.",)) for image in images[:number]]
    said = flags_of(tmp_path, images, threshold=0.49, sort_by="F1")
    assert f"Look at {which} marked below." in said


def test_no_counting_pixel_and_equal_ids(tmp_path):
    nothing = np.zeros(SIZE, bool)
    images = [replace(image, id="same", inside=nothing) for image in draw_images(2)]
    said = flags_of(tmp_path, images)
    assert "One class only" in said and "Learnt nothing" not in said and "inf" not in said
    text = (tmp_path / "report.html").read_text()
    assert 'id="image-0"' in text and 'id="image-1"' in text


def test_findings_name_the_images_that_they_are_of(tmp_path):
    grey = np.full(SIZE, 0.5, np.float32)
    first, second = (replace(image, prediction=grey) for image in draw_images(2))
    among = "Judged by the images shown large alone (1): Learnt nothing"
    assert among in flags_of(tmp_path, [first, replace(second, prediction=None, truth=None)])
    assert "Judged by" not in flags_of(tmp_path, [first, second])


def test_one_grey_is_said(tmp_path):
    images = [replace(i, prediction=np.full(SIZE, 0.5, np.float32)) for i in draw_images()]
    said = flags_of(tmp_path, images)
    assert "Look closer." in said and "Learnt nothing" in said and "One class only: every" in said


def test_a_threshold_above_all_is_said(tmp_path):
    images = [replace(image, prediction=image.prediction / 2) for image in draw_images()]
    said = flags_of(tmp_path, images, threshold=0.9)
    assert "One class only: no pixel counts as vessel" in said


def test_a_result_that_is_worse_than_one_class_is_said(tmp_path):
    images = [replace(image, prediction=1 - image.prediction) for image in draw_images()]
    assert "Worse than one class: " in flags_of(tmp_path, images)
    labels = np.zeros(SIZE, np.uint8)
    labels[:2] = 1
    texts = []
    for predicted in (labels, 1 - labels):
        image = ReportImage("a", np.zeros((*SIZE, 3), np.uint8), predicted, labels)
        report = Report("Roots", [image], classes={"soil": (0, 0, 0), "root": (255, 0, 0)})
        report.write(tmp_path / "report.html", protocol="All pixels.")
        texts.append((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "In order." in texts[0] and "Worse than" not in texts[0]
    words = (
        "Worse than one class: 0.0% of the pixels are right, and 95.0% would be if all were soil."
    )
    assert words in texts[1] and "Look closer." in texts[1]


def test_a_threshold_that_is_far_from_the_best_is_said(tmp_path):
    said = flags_of(tmp_path, draw_images(1), threshold=0.78, sort_by="F1")
    assert "Far from the best threshold" in said
    assert "never on those of the test" in said


def test_images_that_are_dark_or_blurred_are_unlike_the_training():
    rng = np.random.default_rng(0)
    sharp = [rng.uniform(0.3, 0.9, (60, 50)).astype(np.float32) for _ in range(3)]
    ranges = range_of_looks([look_of(image) for image in sharp])
    assert unlike_training(look_of(sharp[0]), ranges) == ()
    assert unlike_training(look_of(sharp[0]), None) == ()
    (dark,) = unlike_training(look_of(sharp[0] / 4), ranges)
    assert "unlike the training in brightness" in dark
    smooth = np.linspace(0.4, 0.8, 60 * 50, dtype=np.float32).reshape(60, 50)
    (blurred,) = unlike_training(look_of(smooth), ranges)
    assert "unlike the training in sharpness" in blurred


def test_a_training_of_one_epoch_has_no_curve():
    assert loss_curve([{"epoch": 1, "loss": 1.0}]) == []
    (curve,) = loss_curve([{"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": 0.5, "val_loss": 1}])
    assert list(curve.lines) == ["training"] and curve.title == "Training"


def test_the_curve_of_the_best_weights_says_where_it_ends():
    history = [{"epoch": n, "loss": 1 / n} for n in (1, 2)]
    (curve,) = loss_curve(history, is_best=True)
    assert curve.title == "Training, up to the best epoch"
