"""Predicts images of one's own with the experiment of any task; see run_prediction.py."""

import argparse
import dataclasses
import glob
import importlib
import os
import time
from pathlib import Path
from types import SimpleNamespace

from lib.backends import quietly, require_backend
from lib.configuration import NETWORK
from lib.errors import UserError, raise_if_any, run_script
from lib.experiment import (
    PREDICTION,
    PRETRAINED,
    TESTING_FILES,
    Experiment,
    locate,
    one_at_a_time,
    writable_folder,
)
from lib.files import absolute_path
from lib.image_files import IMAGE_ENDINGS, image_stem, natural_key, shortened
from src.launch import at_angle, find_configuration

DEFAULT_EXPERIMENT = "pretrained/vessels"
# Only these settings besides the weights and how they compute decide what an image becomes; and of
# these not what a test shows of which images.
DECIDING = ("data_attributes", "testing_settings")
OF_TESTS = ("nohup", "images", "N_group_visual")
FAR_THRESHOLD = 0.1
# The page of a file that holds one image.
SINGLE = ""


def main():
    """Reads the command line and predicts; gives the exit status of lib.errors.run_script."""
    arguments = _read_command_line()
    return run_script(lambda: predict(arguments))


def predict(arguments):
    """Predicts as the command line says.

    Args:
        arguments: with images, experiment, output, threshold, angle and overwrite.
    Raises:
        UserError: for inputs, weights or settings that do not fit, before anything is written; at
            the end, with every file and page that could not be predicted.
    """
    # 1. The files, the experiment, the place for the results: all that needs no network.
    start = time.monotonic()
    require_backend()
    files = find_images(arguments.images)
    if not files and not arguments.export:
        raise UserError("Name images: files, folders or patterns. --help shows all there is.")
    folder = choose_folder(arguments.images, arguments.output)
    configuration, experiment = open_experiment(arguments)

    # 2. The network.
    with quietly():
        script = importlib.import_module(configuration.task.prediction)
    if arguments.export:  # in float32, as ONNX has no mixed precision
        configuration = configuration.with_values("training_settings", mixed_precision=False)
    weights, predictor = load_predictor(script, configuration, experiment, arguments.threshold)
    if arguments.export:
        export(configuration, predictor, arguments.export)
        return

    # 3. Image after image.
    from lib.predictions import PredictionFolder

    origin = origin_of(configuration, weights, predictor)
    with writable_folder(folder), one_at_a_time(folder, "prediction"):
        results = PredictionFolder(folder, origin, arguments.overwrite)
        problems = predict_files(files, predictor, results)
        rows = results.finish(files)

        # 4. The page that shows them all.
        if rows:
            seconds = time.monotonic() - start
            save_report(rows, predictor, results, configuration, weights, seconds, problems)
    raise_if_any(problems)


# ---------------------------------------------------------------- what is to be predicted


def find_images(words):
    """Lists the files that the command line names: files, folders, patterns.

    Args:
        words: list of texts. Of a folder, the files that are named like images are taken, those of
            its own folders are not.
    Returns:
        list of absolute Paths, each once; folders in natural order.
    Raises:
        UserError: with every word that names nothing.
    """
    files, problems = [], []
    for word in words:
        path = absolute_path(word)
        if any((path / name).exists() for name in (PREDICTION, TESTING_FILES)):
            problems.append(
                f"The folder {path} holds results, of a prediction or of a test. Give the folder "
                "of the images, or single files."
            )
            continue
        if path.is_dir():
            found = _images_of(path)
            expected = f"images ({', '.join(IMAGE_ENDINGS)})"
            problems += [f"The folder {path} must hold {expected}. Found: none."] * (not found)
        elif os.path.lexists(path):
            found = [path]
        else:
            # Not of the absolute path: the current folder may have a [ in its name.
            matching = glob.glob(os.path.expanduser(word))
            names = sorted(map(absolute_path, matching), key=_by_path)
            found = [name for name in names if name.is_file()]
            problem = f"{path} stands for folders alone. Give them without * and ?, or {path}/*."
            if not names:
                problem = f"{path} does not exist. Correct the name."
            problems += [problem] * (not found)
        files += found
    raise_if_any(problems)
    return list(dict.fromkeys(files))


def _images_of(folder):
    """Lists what is named like an image in a folder, and says what is passed over."""
    try:
        visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be read: {error.strerror}.") from None
    entries = sorted((path for path in visible if not path.is_dir()), key=_by_name)
    others = [path.name for path in entries if path.suffix.lower() not in IMAGE_ENDINGS]
    if others:
        print(f"{folder}: passed over {shortened(others)} (no image file by its name).")
    inner = [path.name for path in sorted(visible, key=_by_name) if path.is_dir()]
    if inner:
        print(f"{folder}: passed over its folders {shortened(inner)}. Name them to predict them.")
    return [path for path in entries if path.suffix.lower() in IMAGE_ENDINGS]


def _by_name(path):
    return natural_key(path.name)


def _by_path(path):
    return natural_key(str(path))


def choose_folder(words, output=None):
    """Chooses where the results go: beside the first folder, or ./segmented for single files.

    Args:
        words: as find_images takes them.
        output: what --output says, or None.
    Raises:
        UserError: if that is a folder of the images themselves.
    """
    folders = [path for path in map(absolute_path, words) if path.is_dir()]
    if not output:
        if not folders:
            return Path.cwd() / "segmented"
        return folders[0].with_name(f"{folders[0].name or 'images'}_segmented")
    place = locate(output)
    if any(place.resolve() == folder.resolve() for folder in folders):
        raise UserError(
            f"--output must be another folder than that of the images, {place}: the next "
            "prediction would take its results for images."
        )
    return place


# ---------------------------------------------------------------- with what it is predicted


def open_experiment(arguments):
    """Reads the configuration that lies in the experiment's folder.

    Returns:
        lib.configuration.Configuration, at the scale that --angle asks for, and Experiment.
    Raises:
        UserError: if it does not exist, has no configuration or no weights, or takes no angle.
    """
    place = locate(arguments.experiment)
    if not place.exists():
        shipped = sorted({f"pretrained/{path.parent.name}" for path in PRETRAINED.glob("*/*.h5")})
        raise UserError(
            f"--experiment: {place} does not exist. Name your own, or {', '.join(shipped)}."
        )
    named = SimpleNamespace(configuration=arguments.experiment, data=None)
    configuration, folder = find_configuration(named)
    experiment = Experiment(folder or configuration.experiment_name.name)
    experiment.find_weights(configuration.testing_settings.best_last)
    problems = []
    if arguments.threshold is not None and not 0 <= arguments.threshold <= 1:
        problems.append(f"--threshold must be from 0 to 1. Received: {arguments.threshold:g}.")
    configuration, found = at_angle(configuration, arguments.angle)
    raise_if_any(problems + found)
    return configuration, experiment


def load_predictor(script, configuration, experiment, threshold=None):
    """Starts the device, reads the weights and builds the network.

    Args:
        script: module with make_predictor.
        configuration: lib.configuration.Configuration.
        experiment: Experiment.
        threshold: in place of the one that the experiment has; None for that.
    Returns:
        lib.weights.TrainedWeights and lib.predictions.ImagePredictor.
    Raises:
        UserError: if the weights do not fit, or there is no threshold to choose.
    """
    from lib.weights import open_weights

    weights = open_weights(configuration.with_values("testing_settings", images="test"), experiment)
    predictor = script.make_predictor(configuration, weights, threshold)
    if threshold is not None and predictor.classes is not None:
        raise UserError(
            f"--threshold is for two classes; {configuration.path} has {len(predictor.classes)}, "
            f"of which the most probable is taken. {_instead_of_threshold(configuration, weights)}"
        )
    return weights, predictor


def _instead_of_threshold(configuration, weights):
    if not (weights.data or {}).get("has_instances"):
        return "Leave it out."
    key = "[testing settings] object_threshold"
    return f"Leave it out; objects have a threshold of their own, {key} in {configuration.path}."


def origin_of(configuration, weights, predictor):
    """Gives all that decides the results, as the folder of the results remembers it."""
    from lib.predictions import weights_sum

    settings = {name: dict(vars(configuration.sections[name])) for name in DECIDING}
    for name in OF_TESTS:
        settings["testing_settings"].pop(name, None)
    settings["training_settings"] = {
        key.name: configuration.value(key)
        for key in configuration.task.keys
        if key.role == NETWORK or key.name == "mixed_precision"
    }
    settings["threshold"] = predictor.threshold
    return {"weights": weights_sum(weights), "settings": settings}


def export(configuration, predictor, path):
    """Writes the network as an ONNX file; see lib.export.export_onnx.

    Args:
        configuration: lib.configuration.Configuration.
        predictor: lib.predictions.ImagePredictor.
        path: the file, as the command line has it.
    Raises:
        UserError: if the task offers no export, or tf2onnx is missing.
    """
    from lib.export import export_onnx

    if predictor.export is None:
        raise UserError(f"The task {configuration.task.name} offers no --export.")
    network, metadata = predictor.export()
    task, place = configuration.task.name, locate(path)
    threshold = {"threshold": predictor.threshold} if predictor.positive else {}
    metadata = {"task": task, **threshold, **metadata}
    export_onnx(network, place, metadata)
    size = " x ".join(map(str, network.input_shape[1:]))
    print(f"{place}: {network.name} for tiles of {size}, any number at a time.")


# ---------------------------------------------------------------- the prediction


def predict_files(files, predictor, results):
    """Predicts every file that is not done yet.

    Args:
        files: list of Paths.
        predictor: lib.predictions.ImagePredictor.
        results: lib.predictions.PredictionFolder.
    Returns:
        list of problems: the files, and pages of files, that could not be predicted.
    """
    from lib.progress import Progress

    names = name_files(files, results.rows)
    progress, problems = Progress(len(files)), []
    for path in files:
        problems += predict_file(path, names[path], predictor, results)
        progress.add(1)
    progress.finish()
    return problems


def predict_file(path, name, predictor, results):
    """Predicts the images of one file: all of its pages that are not done yet.

    Args:
        path: the file.
        name: what its results are called; those of several pages get a number behind it.
        predictor: lib.predictions.ImagePredictor.
        results: lib.predictions.PredictionFolder.
    Returns:
        list of problems: the pages that could not be predicted.
    """
    done, problems = results.done(path), []
    if SINGLE in done:
        return []
    images = predictor.images_of(path)
    image, number = _next_image(images), 1
    while image is not None:
        following = _next_image(images)  # only then is it known whether there are several
        is_single = number == 1 and following is None
        page = SINGLE if is_single else str(number)
        if page not in done:
            identity = name if is_single else f"{name}_page{number:03d}"
            try:
                predict_image(path, page, identity, image, predictor, results)
            except (ValueError, MemoryError) as error:
                problems.append(_worded(error, path, page))
        image, number = following, number + 1
    return problems


def _next_image(images):
    """Gives the next image of a file, the error in its place, or None behind the last one."""
    try:
        return next(images, None)
    except (ValueError, MemoryError) as error:  # after which nothing comes
        return error


def _worded(error, path, page):
    """Words what went wrong with a file or with one of its pages."""
    words = str(error) or "the memory that is free is too small"
    place = f"{path}, page {page}" if page else str(path)
    return words.replace(str(path), place, 1) if str(path) in words else f"{place}: {words}."


def predict_image(path, page, identity, image, predictor, results):
    """Predicts one image and saves what comes of it.

    Args:
        path: the file.
        page: of the file; SINGLE for one that holds one image.
        identity: what its results are called.
        image: pixels (channels, height, width) and notes, or the error in their place, as
            predictor.images_of gives them.
        predictor: lib.predictions.ImagePredictor.
        results: lib.predictions.PredictionFolder.
    Raises:
        ValueError: if it cannot be predicted, as MemoryError; UserError: if it cannot be saved.
    """
    from lib.pictures import as_picture

    if isinstance(image, Exception):
        raise image
    results.require_free(identity, path)
    pixels, notes = image
    prediction = predictor.predict_image(pixels)
    prediction = dataclasses.replace(prediction, notes=(*notes, *prediction.notes))
    height, width = pixels.shape[1:]
    row = {"id": identity, "file": path, "page": page, "width": width, "height": height}
    results.save(row, as_picture(pixels), prediction, predictor)


def name_files(files, rows):
    """Gives each file the name of its results: its own without the ending.

    Files that are called the same but for the ending or the folder get the ending, then a number.
    What is done keeps its name.

    Args:
        files: list of Paths.
        rows: of the table: what is done.
    Returns:
        {Path: name without slashes, control signs and dots in front}.
    """
    from lib.predictions import name_of, text_of
    from lib.results import file_names

    kept = {row["file"]: name_of(row) for row in rows}
    new = [path for path in files if text_of(path) not in kept]
    stems = [image_stem(path).lower() for path in files]
    wanted = [
        f"{image_stem(path)}{path.suffix.replace('.', '_')}"
        if stems.count(image_stem(path).lower()) > 1
        else image_stem(path)
        for path in new
    ]
    names = dict(zip(new, file_names(wanted, taken=kept.values())))
    return {path: names.get(path) or kept[text_of(path)] for path in files}


# ---------------------------------------------------------------- the report


def save_report(rows, predictor, results, configuration, weights, seconds, problems):
    """Saves report.html from what lies in the folder, so that it holds earlier starts too.

    Args:
        rows: of the table.
        predictor: lib.predictions.ImagePredictor.
        results: lib.predictions.PredictionFolder.
        configuration: lib.configuration.Configuration.
        weights: lib.weights.TrainedWeights.
        seconds: that the prediction took so far.
        problems: files and pages that could not be predicted.
    """
    from lib.predictions import REPORT, TABLE
    from lib.report import Report, facts_of

    title = f"{len(rows)} image{'s' * (len(rows) != 1)} segmented by {weights.path.parent.name}"
    options = {"positive": predictor.positive, "classes": predictor.classes}
    report = Report(title, threshold=predictor.threshold, **options)
    for number, row in enumerate(rows):
        report.add(results.report_image(row, predictor, is_large=number < report.MOST_LARGE))
    flags = [f"Not predicted: {problem}" for problem in problems]
    flags += far_threshold(configuration, predictor)
    path = results.folder / REPORT
    report.write(
        path,
        protocol=predictor.protocol,
        flags=flags,
        facts=facts_of(weights, seconds),
        settings=configuration.as_dict(),
    )
    print(f"{len(rows)} images are done: {results.folder}. Look at {path}, in any browser.")
    others = len(results.rows) - len(rows)
    if others:
        print(f"{TABLE} has {others} rows more, of files that this command does not name.")


def far_threshold(configuration, predictor):
    """Says when the threshold is far from the one that the experiment has."""
    from lib.predictions import ImagePredictor

    recorded = getattr(configuration.testing_settings, "threshold", ImagePredictor.threshold)
    if abs(recorded - predictor.threshold) <= FAR_THRESHOLD:
        return []
    return [
        f"The threshold is {predictor.threshold:g}, far from {recorded:g}, with which the "
        "experiment was made to be used."
    ]


def _read_command_line():
    parser = argparse.ArgumentParser(
        description="Segments images of your own with a trained network."
    )
    parser.add_argument("images", nargs="*", help="files, folders, patterns, TIFF files with pages")
    parser.add_argument(
        "--experiment",
        default=DEFAULT_EXPERIMENT,
        metavar="FOLDER",
        help=f"a trained one, your own or a shipped one; default: {DEFAULT_EXPERIMENT}",
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="default: <first folder>_segmented beside it, ./segmented for single files",
    )
    parser.add_argument(
        "--threshold", type=float, metavar="T", help="probability; default: the experiment's"
    )
    parser.add_argument(
        "--angle",
        type=float,
        metavar="DEGREES",
        help="field of view of your camera, if it is "
        "not that of the training's (45 degrees for pretrained/vessels)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace results of other weights or settings"
    )
    parser.add_argument(
        "--export", metavar="FILE.onnx", help="write the network as ONNX, predict nothing"
    )
    return parser.parse_args()
