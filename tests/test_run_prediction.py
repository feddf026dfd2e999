"""Tests of run_prediction.py on files of all kinds, good and bad."""

import csv
import importlib
import os
import re
import shutil
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import roifile
import tifffile
from PIL import Image

from lib import phantom
from lib.configuration import read_configuration
from lib.errors import UserError
from lib.experiment import PRETRAINED, Experiment
from lib.pre_processing import estimate_fov, without_rim
from lib.predictions import ImagePredictor, Prediction, PredictionFolder
from lib.weights import read_weights
from src import predict_folder, retinaNN_predict
from src.tasks import TASKS
from tests.small_data import hashes

SIZE = (146, 142)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """The shipped vessel network in a folder of its own, without averaging, for small images."""
    folder = tmp_path_factory.mktemp("experiments") / "quick"
    folder.mkdir()
    shutil.copy(
        PRETRAINED / "vessels" / "vessels_last.weights.h5", folder / "quick_last.weights.h5"
    )
    text = (PRETRAINED / "vessels" / "vessels_configuration.txt").read_text()
    text = text.replace("average_flips = 8", "average_flips = False")
    text = text.replace("fov_width = 540", "fov_width = 136").replace("pretrained/vessels", "quick")
    (folder / "quick_configuration.txt").write_text(text)
    return folder


@pytest.fixture(scope="module")
def eye():
    """A synthetic photograph (height, width, 3) uint8."""
    return phantom.fundus(1, *SIZE)[0]


@pytest.fixture
def call(in_tmp_path, experiment, monkeypatch, capfd):
    """A function that runs the script's main in the current folder: call(*arguments)."""

    def calling(*arguments):
        words = ["run_prediction.py", *map(str, arguments), "--experiment", str(experiment)]
        monkeypatch.setattr(sys, "argv", words)
        capfd.readouterr()
        status = predict_folder.main()
        return SimpleNamespace(returncode=status, output="".join(capfd.readouterr()))

    return calling


def write(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def rows_of(folder):
    with open(folder / "measurements.csv", newline="") as file:
        return list(csv.DictReader(file))


def segmentation(folder, name):
    with Image.open(folder / f"{name}_segmentation.png") as image:
        return np.asarray(image)


# ---------------------------------------------------------------- what is written


def test_a_folder_of_all_kinds_is_segmented_and_bad_files_are_named(in_tmp_path, call, eye):
    folder = in_tmp_path / "eyes"
    image = Image.fromarray(eye)
    write(folder / "a.png", eye)
    for mode, name in (("RGBA", "b.png"), ("P", "c.png"), ("CMYK", "d.jpg"), ("L", "e.png")):
        image.convert(mode).save(folder / name)
    image.convert("CMYK").save(folder / "f.tif")
    tifffile.imwrite(folder / "g.tif", eye.astype(np.uint16) * 16, photometric="rgb")
    turned = Image.Exif()
    turned[0x0112] = 6
    image.rotate(90, expand=True).save(folder / "h.jpg", exif=turned, quality=95)
    image.resize((97, 64)).save(folder / "i.png")
    content = (folder / "a.png").read_bytes()
    (folder / "cut.png").write_bytes(content[: len(content) // 2])
    (folder / "text.jpg").write_text("dear all")
    (folder / "notes.txt").write_text("dear all")

    done = call("eyes")
    assert done.returncode == 1
    assert "Traceback" not in done.output
    assert "passed over notes.txt" in done.output
    problems = done.output.partition("ERROR: 2 problems")[2]
    assert "cut.png cannot be read whole" in problems
    assert "text.jpg is not an image" in problems
    results = in_tmp_path / "eyes_segmented"
    rows = {row["id"]: row for row in rows_of(results)}
    assert list(rows) == list("abcdefghi")
    assert "16 bits a channel, scaled" in rows["g"]["notes"]
    assert "Grey" in rows["e"]["notes"]
    for name in rows:
        with Image.open(results / f"{name}_probability.png") as shown:
            assert shown.mode.startswith("I;16")
    first = segmentation(results, "a")
    assert set(np.unique(first)) == {0, 255} and first.shape == SIZE
    assert segmentation(results, "i").shape == (64, 97)
    for name in ("b", "f"):  # the same colours in another form
        assert (segmentation(results, name) == first).mean() > 0.97
    assert segmentation(results, "h").shape == SIZE  # turned back
    assert (segmentation(results, "h") == first).mean() > 0.9
    report = (results / "report.html").read_text()
    assert "Not predicted:" in report and "text.jpg" in report


def test_the_segmentation_is_that_of_run_testing(in_tmp_path, call, eye, experiment):
    write(in_tmp_path / "eye.png", eye)
    assert call("eye.png").returncode == 0
    path = experiment / "quick_configuration.txt"
    configuration = read_configuration(path, TASKS)
    weights = read_weights(Experiment(experiment).find_weights("last"))
    photograph = eye.transpose(2, 0, 1)
    fov = estimate_fov(photograph)
    data = {"images": photograph[None], "fov_masks": fov[None, None].astype(np.uint8)}
    _, probabilities = retinaNN_predict.predict_images(configuration, weights, data)
    inside = without_rim(fov)
    expected = (probabilities[0, 0] >= configuration.testing_settings.threshold) & inside
    found = segmentation(in_tmp_path / "segmented", "eye") > 0
    assert np.mean(found == expected) >= 0.9999
    (row,) = rows_of(in_tmp_path / "segmented")
    share = 100 * expected[inside].mean()
    assert float(row["vessels in the field of view [%]"]) == pytest.approx(share, abs=0.01)
    width, length = row["mean width [pixels]"], row["length of the skeleton [pixels]"]
    area = np.count_nonzero(found)
    assert float(width) * float(length) == pytest.approx(area, rel=1e-4)


def test_length_of_vessels_counts_no_corner_twice():
    canvas = np.zeros((40, 40), bool)
    measured = retinaNN_predict.measure_vessels
    assert measured(canvas, ~canvas)["mean width [pixels]"] is None
    tee = canvas.copy()
    tee[10, 5:30] = tee[10:30, 17] = True
    assert measured(tee, ~tee)["length of the skeleton [pixels]"] == 24 + 19
    slanted = np.eye(40, dtype=bool)
    for either_way in (slanted, slanted[::-1]):
        length = measured(either_way, ~canvas)["length of the skeleton [pixels]"]
        assert length == pytest.approx(39 * 2**0.5)
    share = measured(tee, ~canvas)["vessels in the field of view [%]"]
    assert share == pytest.approx(100 * (25 + 19) / 1600)


def test_pages_equal_names_and_bad_names(in_tmp_path, call, eye):
    folder = in_tmp_path / "eyes"
    for name in ("eye.png", "eye.jpg", "<img src=x onerror=alert(1)>.png", ".hidden.png"):
        write(folder / name, eye)
    write(in_tmp_path / "..dots.png", eye)
    pages = [Image.fromarray(eye), Image.fromarray(eye[::-1].copy())]
    pages[0].save(in_tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    assert call("eyes", "pages.tif", "..dots.png").returncode == 0
    results = in_tmp_path / "eyes_segmented"
    names = {row["id"] for row in rows_of(results)}
    expected = {"eye_png", "eye_jpg", "img src=x onerror=alert(1)", "dots"}
    assert names == {*expected, "pages_page001", "pages_page002"}
    first, second = (segmentation(results, f"pages_page00{n}") for n in (1, 2))
    assert (first != second).any()
    there = {path.name for path in in_tmp_path.iterdir()}
    assert there == {"eyes", "eyes_segmented", "pages.tif", "..dots.png"}


def test_a_page_and_a_file_of_its_name_do_not_replace_each_other(in_tmp_path, call, eye):
    folder = in_tmp_path / "eyes"
    write(folder / "a_page001.png", eye)
    pages = [Image.fromarray(eye), Image.fromarray(eye[::-1].copy())]
    pages[0].save(folder / "a.tif", save_all=True, append_images=pages[1:])
    for _ in range(2):
        done = call("eyes")
        assert done.returncode == 1
        assert "its results would be called a_page001, as those of" in done.output
        names = [row["id"] for row in rows_of(in_tmp_path / "eyes_segmented")]
        assert sorted(names) == ["a_page001", "a_page002"]


# ---------------------------------------------------------------- bad pages


LEAST_HEIGHT = 8


def predict_all(*files):
    """Predicts grey files without a network; gives the results and the problems."""

    def predict(image):
        if image.shape[1] < LEAST_HEIGHT:
            raise ValueError(f"it must have {LEAST_HEIGHT} rows")
        return image / np.float32(255)

    results = PredictionFolder(files[0].parent / "results", {"weights": "a"})
    problems = predict_folder.predict_files(files, ImagePredictor(predict, 1, "cell"), results)
    return results, problems


def stack_with_a_bad_page(path, kind, rng):
    """Writes four pages, of which the third is bad."""
    pages = [rng.random((20, 30), np.float32) for _ in range(4)]
    if kind == "not finite":
        pages[2][5, 5] = np.nan
    if kind == "small":
        pages[2] = pages[2][: LEAST_HEIGHT - 1]
    options = {"photometric": "minisblack"}
    if kind in ("small", "five channels", "damaged page"):
        options["metadata"] = None
    if kind in ("small", "five channels"):
        with tifffile.TiffWriter(path) as file:
            for number, page in enumerate(pages):
                if number == 2 and kind == "five channels":
                    colours = np.stack([page] * 5, axis=-1)
                    file.write(colours, planarconfig="contig", **options)
                else:
                    file.write(page, **options)
        return
    tifffile.imwrite(path, np.stack(pages), compression="zlib", **options)
    if kind.startswith("damaged"):
        with tifffile.TiffFile(path) as file:
            offset = file.pages[2].dataoffsets[0]
        content = bytearray(path.read_bytes())
        content[offset : offset + 20] = bytes(20)
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("not finite", r" holds numbers that are not finite \(NaN, infinity\)\.$"),
        ("damaged page", " cannot be read whole; "),
        ("damaged slice", " cannot be read whole; "),
        ("five channels", " must be grey or RGB"),
        ("small", ": it must have 8 rows.$"),
    ],
)
def test_a_bad_page_is_named_and_the_others_are_done(tmp_path, rng, kind, words):
    stack_with_a_bad_page(tmp_path / "n.tif", kind, rng)
    for _ in range(2):
        results, problems = predict_all(tmp_path / "n.tif")
        assert [row["id"] for row in results.rows] == ["n_page001", "n_page002", "n_page004"]
        (problem,) = problems
        assert re.match(f"{re.escape(str(tmp_path))}/n.tif, page 3{words}", problem), problem
    shown = [results.report_image(row, ImagePredictor(None, 1, "cell")) for row in results.rows]
    assert len(shown) == 3


@pytest.mark.parametrize("bad", [0, 1, 3])
def test_bad_pages_at_the_ends_and_in_other_files(tmp_path, rng, bad):
    """The first page alone does not tell whether there are several."""
    pages = rng.random((4, 20, 30), np.float32)
    pages[bad] = np.inf
    tifffile.imwrite(tmp_path / "n.tif", pages, photometric="minisblack")
    tifffile.imwrite(tmp_path / "alone.tif", pages[bad])
    (tmp_path / "text.tif").write_text("dear all")
    files = [tmp_path / name for name in ("n.tif", "alone.tif", "text.tif")]
    results, problems = predict_all(*files)
    good = [f"n_page{page:03d}" for page in range(1, 5) if page != bad + 1]
    assert [row["id"] for row in results.rows] == good
    assert [problem.partition(" holds")[0] for problem in problems[:2]] == [
        f"{files[0]}, page {bad + 1}",
        str(files[1]),
    ]
    assert problems[2].startswith(f"{files[2]} is not an image") and len(problems) == 3


def test_what_follows_a_damaged_image_of_an_animation_is_not_made_up(tmp_path, rng):
    """An image of a GIF is drawn upon those before it."""
    path = tmp_path / "n.gif"
    frames = [Image.fromarray(rng.integers(0, 256, (20, 30), np.uint8)) for _ in range(4)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with Image.open(path) as image:
        image.seek(2)
        offset = image.tile[0][2]
    content = bytearray(path.read_bytes())
    content[offset : offset + 40] = b"\xff" * 40
    path.write_bytes(content)
    results, problems = predict_all(path)
    assert [row["id"] for row in results.rows] == ["n_page001", "n_page002"]
    (problem,) = problems
    assert problem.startswith(f"{path}, page 3 cannot be read whole"), problem


def test_a_bad_page_is_told_at_the_end(in_tmp_path, call, eye):
    pages = np.stack([eye] * 3).astype(np.float32)
    pages[1, 5, 5] = np.nan
    tifffile.imwrite(in_tmp_path / "eyes.tif", pages, photometric="rgb")
    done = call("eyes.tif")
    assert done.returncode == 1
    assert "2 images are done" in done.output
    assert f"ERROR: {in_tmp_path / 'eyes.tif'}, page 2 holds numbers that are" in done.output
    assert "eyes.tif, page 2 holds" in (in_tmp_path / "segmented" / "report.html").read_text()
    rows = rows_of(in_tmp_path / "segmented")
    assert [row["id"] for row in rows] == ["eyes_page001", "eyes_page003"]


# ---------------------------------------------------------------- going on


def test_a_prediction_that_was_killed_goes_on_to_the_same_end(in_tmp_path, call, eye):
    for number in range(4):
        write(in_tmp_path / "all" / f"{number}.png", np.roll(eye, number, axis=1))
    call("all", "--output", "whole")
    call("all/0.png", "all/1.png", "--output", "half")
    table = in_tmp_path / "half" / "measurements.csv"
    written = (in_tmp_path / "half" / "0_overlay.png").stat().st_mtime_ns
    with open(table, "a") as file:
        file.write("2,all/2.png,,14")  # half a row: killed in the middle
    (in_tmp_path / "half" / "2_segmentation.png").touch()
    assert call("all", "--output", "half").returncode == 0
    assert (in_tmp_path / "half" / "0_overlay.png").stat().st_mtime_ns == written
    found, expected = hashes(in_tmp_path / "half"), hashes(in_tmp_path / "whole")
    assert found.pop("report.html") and expected.pop("report.html")  # they tell other times
    assert found == expected


def test_a_photograph_that_was_changed_is_done_again(in_tmp_path, call, eye):
    write(in_tmp_path / "eye.png", eye)
    call("eye.png")
    before = segmentation(in_tmp_path / "segmented", "eye")
    write(in_tmp_path / "eye.png", eye[:, ::-1].copy())
    call("eye.png")
    assert (segmentation(in_tmp_path / "segmented", "eye") != before).any()
    assert len(rows_of(in_tmp_path / "segmented")) == 1


def predict_blank(results, *names):
    """Predicts that there is nothing, in files of a row each that were asked for before."""
    predictor = ImagePredictor(None, 3, "vessel")
    for name in names:
        row = {"id": name.stem, "file": name, "page": "", "width": 1, "height": 1}
        picture, nothing = np.zeros((*SIZE, 3), np.uint8), np.zeros((1, *SIZE), np.float32)
        results.save(row, picture, Prediction(nothing), predictor)


def test_changed_files_and_missing_pictures_leave_no_row_and_no_picture(tmp_path, eye):
    paths = [tmp_path / f"{name}.png" for name in "abc"]
    for path in paths:
        write(path, eye)
    results = PredictionFolder(tmp_path / "results", {})
    assert not any(results.done(path) for path in paths)
    predict_blank(results, *paths)
    results.finish(paths)
    everything = set(os.listdir(tmp_path / "results"))
    for path in paths:
        os.utime(path, (1, 1))
    # Two of three are done again, without an end.
    results = PredictionFolder(tmp_path / "results", {})
    assert not any(results.done(path) for path in paths)
    assert {path.name[:2] for path in (tmp_path / "results").glob("*.png")} == set()
    predict_blank(results, paths[0])
    assert results.done(paths[0]) and not results.done(paths[1])
    predict_blank(results, paths[1])
    assert [row["id"] for row in rows_of(tmp_path / "results")] == ["a", "b"]
    results = PredictionFolder(tmp_path / "results", {}, overwrite=True)
    assert [bool(results.done(path)) for path in paths] == [True, True, False]
    (tmp_path / "results" / "a_probability.png").unlink()
    assert not results.done(paths[0])
    predict_blank(results, paths[0], paths[2])
    results.finish(paths)
    assert [row["id"] for row in rows_of(tmp_path / "results")] == ["a", "b", "c"]
    assert set(os.listdir(tmp_path / "results")) == everything
    # A file that can no longer be read leaves nothing.
    for path in paths:
        os.utime(path, (2, 2))
        results.done(path)
    assert results.finish(paths) == []
    assert os.listdir(tmp_path / "results") == [".prediction.json"]


def test_other_settings_need_overwrite(in_tmp_path, call, eye, experiment):
    write(in_tmp_path / "eye.png", eye)
    call("eye.png")
    kept = hashes(in_tmp_path / "segmented")
    refused = call("eye.png", "--threshold", "0.9")
    assert refused.returncode == 1
    assert "made with other settings" in refused.output and "--overwrite" in refused.output
    assert hashes(in_tmp_path / "segmented") == kept
    replaced = call("eye.png", "--threshold", "0.9", "--overwrite")
    assert replaced.returncode == 0
    recorded = read_configuration(experiment / "quick_configuration.txt", TASKS)
    far = f"far from {recorded.testing_settings.threshold:g}"
    assert far in (in_tmp_path / "segmented" / "report.html").read_text()


def test_what_decides_the_results_is_remembered_and_no_more(experiment):
    configuration = read_configuration(experiment / "quick_configuration.txt", TASKS)
    weights = read_weights(Experiment(experiment).find_weights("last"))

    def origin(section, **changes):
        changed = configuration.with_values(section, **changes)
        return predict_folder.origin_of(changed, weights, SimpleNamespace(threshold=0.5))

    kept = origin("testing_settings")
    assert origin("testing_settings", N_group_visual=7, images="training", nohup=True) == kept
    settings, trained = configuration.testing_settings, configuration.training_settings
    for section, changes in (
        ("testing_settings", {"average_flips": 3 - settings.average_flips}),
        ("data_attributes", {"fov_width": 123}),
        ("training_settings", {"mixed_precision": not trained.mixed_precision}),
    ):
        assert origin(section, **changes) != kept


def beside(tmp_path, table, state='{"weights": 1}'):
    """Writes a folder of results as somebody may have left it, and opens it."""
    folder = tmp_path / "results"
    folder.mkdir(exist_ok=True)
    (folder / "measurements.csv").write_bytes(table)
    (folder / ".prediction.json").write_text(state)
    return PredictionFolder(folder, {"weights": 1})


@pytest.mark.parametrize(
    "row",
    [
        b"../../up,a.png,,3,",
        b"/absolute,a.png,,3,",
        b"a,a.png,x,3,",
        b"a,a.png,,many,",
        b"a,a.png",
        b"a,a.png,,3,,more",
        b"\xff\0/,a.png,,3,",
    ],
)
def test_rows_that_no_prediction_wrote_are_predicted_anew(tmp_path, row, capsys):
    head = b"id,file,page,area,notes\n"
    results = beside(tmp_path, head + b"good,b.png,,3,\n" + row + b"\n")
    assert [found["id"] for found in results.rows] == ["good"]
    assert "measurements.csv is not as it was written" in capsys.readouterr().out
    assert (results.folder / "measurements_found_1.csv").read_bytes().endswith(row + b"\n")


def test_every_table_that_somebody_changed_is_kept(tmp_path):
    head = b"id,file,page,area,notes\n"
    tables = [head + b"a,a.png,,many,\n", head.replace(b",", b";") + b"a;a.png;;3;\n"]
    for table in (*tables, tables[0]):
        assert beside(tmp_path, table).rows == []
    kept = sorted((tmp_path / "results").glob("measurements_found_*.csv"))
    assert [path.read_bytes() for path in kept] == tables


def read_table(results):
    with open(results.folder / "measurements.csv", newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize(
    ("head", "cells", "expected"),
    [
        ("id,file,page,notes,age", "b,b.png,,,61", ["", "", "", "61"]),
        ("notes,page,file,id", ",,b.png,b", ["", "", ""]),
    ],
)
def test_columns_of_a_table_that_somebody_changed_stay(
    tmp_path, eye, capsys, head, cells, expected
):
    results = beside(tmp_path, f"{head}\n{cells}\n".encode())
    for name in ("a", "c"):
        row = {"id": name, "file": tmp_path / f"{name}.png", "page": "", "width": 9, "height": 8}
        results.save(
            row,
            eye.copy(),
            Prediction(np.zeros((1, *SIZE), np.float32)),
            ImagePredictor(None, 3, "vessel"),
        )
    names, first, *others = read_table(results)
    assert sorted(names) == sorted({*head.split(","), "width [pixels]", "height [pixels]"})
    added = ("width [pixels]", "height [pixels]", "notes", "age")
    assert [first[names.index(name)] for name in added if name in names] == expected
    assert [row[names.index("id")] for row in others] == ["a", "c"]
    assert [row[names.index("width [pixels]")] for row in others] == ["9", "9"]
    assert "has no width [pixels], height [pixels]: empty in the" in capsys.readouterr().out
    assert len(PredictionFolder(results.folder, {"weights": 1}).rows) == 3


def test_a_kill_in_the_first_file_of_all_leaves_no_file_of_somebody_else(tmp_path):
    (tmp_path / ".123_.prediction.json").touch()
    PredictionFolder(tmp_path, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("state", ["[1]", "{", "[" * 100_000, "1"])
def test_a_record_of_a_prediction_that_is_damaged_needs_overwrite(tmp_path, state):
    with pytest.raises(UserError, match="--overwrite"):
        beside(tmp_path, b"", state)


def test_the_clock_decides_nothing(tmp_path, eye):
    """A photograph that is changed counts as changed, also with an earlier time than before."""
    path = tmp_path / "a.png"
    write(path, eye)
    predictor = ImagePredictor(None, 3, "vessel")
    results = PredictionFolder(tmp_path / "results", {})
    assert results.done(path) == {}
    row = {"id": "a", "file": path, "page": "", "width": 1, "height": 1}
    results.save(row, eye.copy(), Prediction(np.zeros((1, *SIZE), np.float32)), predictor)
    os.utime(tmp_path / "results" / "a_overlay.png", (0, 0))
    again = PredictionFolder(tmp_path / "results", {})
    assert list(again.done(path)) == [""]
    os.utime(path, (1, 1))
    assert again.done(path) == {}


EYE = "眼" * 49  # 147 bytes


@pytest.mark.parametrize(
    "stem", [EYE, "n" * 240, "n" * 149 + ".n"], ids=["bytes", "letters", "dot"]
)
def test_long_names_are_known_at_the_next_start(tmp_path, rng, stem, capsys):
    """An id is longer than the name of its file: the page, or a number, stands behind it."""
    places = [(tmp_path / folder / f"{stem}.tif") for folder in ("a", "b")]
    for path, shape in zip(places, [(2, 20, 30), (20, 30)]):
        path.parent.mkdir()
        tifffile.imwrite(path, rng.random(shape, np.float32), photometric="minisblack")
    results, problems = predict_all(*places)
    assert not problems and len(results.rows) == 3
    written = hashes(results.folder)
    assert max(len(name.encode()) for name in written) > 150
    again = PredictionFolder(results.folder, {"weights": "a"})
    assert again.rows == results.rows
    names = predict_folder.name_files(places, again.rows)
    assert len({name.lower() for name in names.values()}) == 2
    assert "is not as it was written" not in capsys.readouterr().out
    PredictionFolder(results.folder, {"weights": "b"}, overwrite=True)
    assert not list(results.folder.iterdir())


def test_a_name_that_is_taken_stays_with_its_file(tmp_path):
    """Of two files with one long name, only the second is done."""
    first, second, third = (tmp_path / folder / f"{'n' * 160}.png" for folder in "abc")
    rows = [{"id": "n" * 150 + "_2", "file": str(second), "page": ""}]
    names = predict_folder.name_files([first, second, third], rows)
    assert len({names[path].lower() for path in (first, second, third)}) == 3


def test_an_id_that_is_too_long_for_a_file_is_not_looked_for(tmp_path, capsys):
    table = b"id,file,page,area,notes\n" + b"n" * 250 + b",b.png,,3,\n"
    assert beside(tmp_path, table).rows == []
    assert "measurements.csv is not as it was written" in capsys.readouterr().out
    PredictionFolder(tmp_path / "results", {"weights": 2}, overwrite=True)


def test_a_result_that_is_missing_is_made_again(tmp_path, eye):
    path = tmp_path / "a.png"
    write(path, eye)
    results = PredictionFolder(tmp_path / "results", {})
    results.done(path)
    objects = np.zeros(SIZE, np.int32)
    objects[3:9, 3:9] = 1
    for missing in ("probability", "segmentation", "overlay", "objects", "rois"):
        row = {"id": "a", "file": path, "page": "", "width": 1, "height": 1}
        nothing = np.zeros((1, *SIZE), np.float32)
        predicted = Prediction(nothing, objects=objects)
        results.save(row, np.zeros((*SIZE, 3), np.uint8), predicted, ImagePredictor(None, 1, "c"))
        assert results.done(path), missing
        results.file("a", missing).unlink()
        assert not results.done(path), missing


def test_counts_in_the_report_are_whole_and_none_is_0(tmp_path, eye):
    path = tmp_path / "a.png"
    write(path, eye)
    results = PredictionFolder(tmp_path / "results", {})
    results.done(path)
    row = {"id": "a", "file": path, "page": "", "width": 1, "height": 1}
    nothing = Prediction(
        np.zeros((1, *SIZE), np.float32),
        objects=np.zeros(SIZE, np.int32),
        measurements={"number of objects": 0, "mean area [pixels]": None, "covered [%]": 2.5},
    )
    predictor = ImagePredictor(None, 3, "cell")
    results.save(row, np.zeros((*SIZE, 3), np.uint8), nothing, predictor)
    scores = {"number of objects": 0, "mean area [pixels]": None, "covered [%]": 2.5}
    again = PredictionFolder(tmp_path / "results", {})
    for rows in (results.rows, again.rows):
        found = results.report_image(rows[0], predictor, is_large=False).scores
        assert found == scores and isinstance(found["number of objects"], int)


def test_a_threshold_of_a_task_without_one_of_its_own_may_be_far_too():
    configuration = SimpleNamespace(testing_settings=SimpleNamespace())
    for threshold, is_far in ((0.5, False), (0.9, True)):
        predictor = SimpleNamespace(threshold=threshold)
        said = predict_folder.far_threshold(configuration, predictor)
        assert [sentence[:34] for sentence in said] == [
            "The threshold is 0.9, far from 0.5"
        ] * is_far


# ---------------------------------------------------------------- mistakes


def test_patterns_are_those_of_the_command_line_alone(in_tmp_path, monkeypatch, eye):
    folder = in_tmp_path / "day [1]"
    for name in ("2.png", "10.png", "inner/3.png"):
        write(folder / name, eye)
    monkeypatch.chdir(folder)
    assert predict_folder.find_images(["*.png"]) == [folder / "2.png", folder / "10.png"]
    assert predict_folder.find_images(["inner/?.png"]) == [folder / "inner" / "3.png"]


def test_folders_in_a_folder_are_named(in_tmp_path, capsys, eye):
    for name in ("eyes/1.png", "eyes/left/2.png", "eyes/right/3.png", "eyes/.hidden/4.png"):
        write(in_tmp_path / name, eye)
    assert predict_folder.find_images(["eyes"]) == [in_tmp_path / "eyes" / "1.png"]
    assert "eyes: passed over its folders left, right. Name them" in capsys.readouterr().out


def test_objects_have_a_threshold_of_their_own():
    arguments = SimpleNamespace(experiment="pretrained/nuclei", threshold=0.3, angle=None)
    configuration, experiment = predict_folder.open_experiment(arguments)
    script = importlib.import_module(configuration.task.prediction)
    with pytest.raises(UserError, match="own, .testing settings. object_threshold in .*nuclei_con"):
        predict_folder.load_predictor(script, configuration, experiment, 0.3)


def test_mistakes_are_said_before_anything_is_written(in_tmp_path, call, eye):
    write(in_tmp_path / "eye.png", eye)
    (in_tmp_path / "empty").mkdir()
    write(in_tmp_path / "tested" / "ROC.png", eye)
    (in_tmp_path / "tested" / ".testing_files.txt").write_text("ROC.png\n")
    for words, message in (
        (["nothing.png", "empty"], "2 problems"),
        (["nothing.png"], "nothing.png does not exist"),
        (["emp*"], "emp* stands for folders alone. Give them without * and ?, or"),
        (["eye.png", "tested"], "tested holds results, of a prediction or of a test. Give the fol"),
        (["empty"], "must hold images"),
        ([], "Name images"),
        (["eye.png", "--threshold", "2"], "--threshold must be from 0 to 1"),
        (["eye.png", "--angle", "0"], "--angle must be from above 0"),
        ([".", "--output", "."], "must be another folder"),
    ):
        done = call(*words)
        assert done.returncode == 1, words
        assert message in done.output, done.output
        assert "Traceback" not in done.output
    assert sorted(path.name for path in in_tmp_path.iterdir()) == ["empty", "eye.png", "tested"]


def test_an_experiment_that_does_not_exist_is_named_with_those_that_do(in_tmp_path):
    arguments = SimpleNamespace(experiment="eyes", threshold=None, angle=None)
    with pytest.raises(UserError, match="eyes does not exist. Name your own, or pretrained/cells"):
        predict_folder.open_experiment(arguments)


def test_a_folder_of_somebody_else_is_left_alone(in_tmp_path, call, eye):
    write(in_tmp_path / "eye.png", eye)
    write(in_tmp_path / "segmented" / "holiday.png", eye)
    for words in ([], ["--overwrite"]):
        done = call("eye.png", *words)
        assert done.returncode == 1
        assert "no .prediction.json" in done.output
    assert [path.name for path in (in_tmp_path / "segmented").iterdir()] == ["holiday.png"]


def test_a_prediction_does_not_depend_on_the_sizes_that_came_before(rng):
    arguments = SimpleNamespace(experiment="pretrained/vessels", threshold=None, angle=None)
    configuration, shipped = predict_folder.open_experiment(arguments)
    _, predictor = predict_folder.load_predictor(retinaNN_predict, configuration, shipped)
    images = [rng.integers(0, 256, (3, 48 + 16 * n, 64), np.uint8) for n in range(4)]
    first, second = (
        [predictor.predict_image(image).probabilities for image in order]
        for order in (images, images[::-1])
    )
    for one, other in zip(first, second[::-1]):
        np.testing.assert_array_equal(one, other)


def test_the_angle_of_the_camera_sets_the_size(experiment):
    def width(angle):
        arguments = SimpleNamespace(experiment=str(experiment), threshold=None, angle=angle)
        configuration, _ = predict_folder.open_experiment(arguments)
        return configuration.data_attributes.fov_width

    # 136 pixels for 45 degrees: two thirds for 30 degrees.
    assert [width(angle) for angle in (None, 45, 30)] == [136, 136, 91]


def test_an_angle_needs_a_field_of_view(in_tmp_path):
    arguments = SimpleNamespace(experiment="pretrained/membranes", threshold=None, angle=30.0)
    with pytest.raises(UserError, match="--angle needs an experiment"):
        predict_folder.open_experiment(arguments)


# ---------------------------------------------------------------- objects


CLASSES = {"background": (0, 0, 0), "object": (1, 2, 3), "border": (4, 5, 6)}


@pytest.mark.parametrize("classes", [None, CLASSES])
def test_every_object_has_its_outline_whatever_the_classes(classes, tmp_path):
    objects = np.zeros((30, 40), np.int32)
    for number in range(1, 5):  # more than there are classes
        objects[5:25, 8 * number : 8 * number + 6] = number
    inside = (objects > 0).astype(np.float32)
    probabilities = (
        inside[np.newaxis] if classes is None else np.stack([1 - inside, inside, 0 * inside])
    )
    predictor = ImagePredictor(lambda image: None, 1, "cell", classes=classes)
    results = PredictionFolder(tmp_path / "cells", {"weights": "a"})
    row = {"id": "x", "file": tmp_path / "x.png", "page": "", "width": 40, "height": 30}
    prediction = Prediction(probabilities, objects=objects, measurements={"cells": 4})
    results.save(row, np.zeros((30, 40, 3), np.uint8), prediction, predictor)
    with Image.open(tmp_path / "cells" / "x_overlay.png") as image:
        drawn = np.asarray(image).any(axis=2)
    assert [bool(drawn[objects == number].any()) for number in range(1, 5)] == [True] * 4


def test_objects_are_written_as_numbers_and_as_regions_of_imagej(tmp_path):
    objects = np.zeros((30, 40), np.int32)
    objects[5:10, 8:20] = 1
    objects[20:24, 30:36] = 2
    probabilities = (objects > 0).astype(np.float32)[np.newaxis]
    predictor = ImagePredictor(lambda image: None, 1, "cell")
    results = PredictionFolder(tmp_path / "cells", {"weights": "a"})
    row = {"id": "x", "file": tmp_path / "x.png", "page": "", "width": 40, "height": 30}
    prediction = Prediction(probabilities, objects=objects, measurements={"cells": 2})
    results.save(row, np.zeros((30, 40, 3), np.uint8), prediction, predictor)
    with Image.open(tmp_path / "cells" / "x_objects.png") as image:
        assert (np.asarray(image) == objects).all()
    with zipfile.ZipFile(tmp_path / "cells" / "x_rois.zip") as file:
        rois = [roifile.ImagejRoi.frombytes(file.read(name)) for name in file.namelist()]
    assert [roi.name for roi in rois] == ["00001", "00002"]
    # Pixels 8 ... 19 reach from 8 to 20, rows 5 ... 9 from 5 to 10.
    left, top = rois[0].coordinates().min(axis=0)
    right, bottom = rois[0].coordinates().max(axis=0)
    assert (left, top, right, bottom) == pytest.approx((8, 5, 20, 10))
