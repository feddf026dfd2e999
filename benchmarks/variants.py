"""Trains an experiment several times, each time with other settings, and compares the scores.

    python -m benchmarks.variants ablation      vessels_held_out, each ingredient off, briefly
    python -m benchmarks.variants seeds         the short recipe of the README with three seeds
    python -m benchmarks.variants options       the short recipe with each option of the original
    taskset -c 0 python -m benchmarks.variants records      what may make pretrained/vessels better

Start it in the project's folder with DRIVE prepared. Each variant is an experiment of its own,
<study>_<variant>/, trained by run_training.py and tested by run_testing.py, so that a study that
was stopped resumes where it was. The ablation is tested on simulated other cameras too. Expected
result: benchmarks/ablation.md, seeds.md or options.md; about 50, 20 and 45 minutes on two quiet
CPU cores. records.md: about 30 minutes a variant on one core, each with as many training pixels
(taskset keeps it on one, as sums, and so digits, depend on their number); all of them are tested on
the two training images that never train, none on a test image.
"""

import argparse
import configparser
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from benchmarks.run import REPOSITORY, describe_place
from benchmarks.tables import table
from lib.configuration import read_configuration
from lib.experiment import Experiment
from lib.weights import read_weights
from src.tasks import TASKS

SHORT = {"N_subimgs": 3000, "N_epochs": 2}
ABLATION = SimpleNamespace(
    base="pretrained/vessels_held_out/vessels_held_out_configuration.txt",
    images="validation",
    cameras=("30 degrees in place of 45", "noise of 8 grey levels"),
    common={**SHORT, "learning_rate": 0.001, "initial_weights": None, "threshold": 0.5},
    variants={
        "all": {},
        "another seed": {"seed": 1},
        "no quarter turns, no mirroring": {"quarter_turns": False, "flip": False},
        "no zoom": {"zoom": 1},
        "no brightness, no contrast": {"brightness": 0, "contrast": 0},
        "no noise": {"noise": 0},
        "patches of 48, as many pixels": {
            "patch_height": 48,
            "patch_width": 48,
            "N_subimgs": 21000,
            "batch_size": 56,
        },
        "relu before the softmax": {"output_activation": "relu"},
        "constant learning rate": {"learning_rate_decay": "none"},
        "dropout of 0.2": {"dropout": 0.2},
        "no mean over mirrorings": {"average_flips": False},
    },
)
SEEDS = SimpleNamespace(
    base="configuration.txt",
    images="test",
    cameras=(),
    common={
        "N_subimgs": 20000,
        "N_epochs": 2,
        "optimizer": "adam",
        "learning_rate": 0.001,
        "inference": "full_image",
    },
    variants={f"seed {seed}": {"seed": seed} for seed in range(3)},
)
OPTIONS = SimpleNamespace(
    base="configuration.txt",
    images="test",
    cameras=(),
    common=SEEDS.common,
    variants={
        "as it stands": {},
        "histogram": {"equalization": "histogram"},
        "inside the FOV": {"inside_FOV": True},
        "linear": {"output_activation": "linear"},
        "gnet": {"network": "gnet"},
    },
)
# 18 of 20 images train: 18 / 20 * 6000 * 128 * 128 pixels an epoch. Patches of other sizes come in
# numbers, multiples of the 20 images, and in batches of as many pixels or nearly so.
RECORDS = SimpleNamespace(
    base=ABLATION.base,
    images="validation",
    cameras=(),
    common={
        "N_subimgs": 6000,
        "N_epochs": 3,
        "learning_rate": 0.001,
        "initial_weights": None,
        "threshold": 0.5,
    },
    variants={
        "all": {},
        "another seed": {"seed": 1},
        "averaged weights": {"weight_averaging": 0.998},
        "patches of 96": {
            "patch_height": 96,
            "patch_width": 96,
            "N_subimgs": 10660,
            "batch_size": 14,
        },
        "patches of 192": {
            "patch_height": 192,
            "patch_width": 192,
            "N_subimgs": 2660,
            "batch_size": 4,
        },
        "spatial dropout": {"dropout_kind": "spatial"},
        "Dice added": {"loss": "dice_cross_entropy", "cross_entropy_weight": 1, "dice_weight": 0.5},
        "green": {"channels": "green"},
        "RGB": {"channels": "rgb"},
    },
)
STUDIES = {"ablation": ABLATION, "seeds": SEEDS, "options": OPTIONS, "records": RECORDS}
SCRIPTS = ("run_training.py", "run_testing.py")
FIGURES = {"auc_roc": "AUC ROC", "auc_pr": "AUC PR", "f1": "F1", "accuracy": "accuracy"}
# Where images validate, the highest F1 and accuracy compare networks whatever their thresholds.
FIGURES_OF_RECORDS = {
    "auc_roc": "AUC ROC",
    "auc_of_images": "AUC ROC, mean of images",
    "auc_pr": "AUC PR",
    "best_f1": "highest F1",
    "best_accuracy": "highest accuracy",
    "cldice": "clDice at 0.5",
    "minutes": "minutes of training",
}


def main():
    """Reads the command line, trains and tests each variant, writes the table after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmarks")
    arguments = parser.parse_args()
    study, tested = STUDIES[arguments.study], {}
    for variant in study.variants:
        tested[variant] = run_variant(arguments.study, variant)
        text = report(arguments.study, tested)
        (arguments.output / f"{arguments.study}.md").write_text(text)
    print(text)


def run_variant(study_name, variant):
    """Trains and tests one variant, or resumes where it was.

    Returns:
        scores inside the FOV as performances.json has them, those of FIGURES_OF_RECORDS in that
        study, and the area under the ROC curve for each camera of the study.
    Raises:
        SystemExit: where the folder is that of an earlier study with other settings.
    """
    study = STUDIES[study_name]
    name = f"{study_name}_{'_'.join(variant.replace(',', '').replace('.', '').split())}"
    path = Path(f"{name}.txt")
    results = Path(name) if study.images == "test" else Path(name, study.images)
    performances, on_cameras = results / "performances.json", Path(name, "cameras.json")
    earlier = path.read_text() if path.exists() else None
    write_configuration(
        REPOSITORY / study.base,
        path,
        {**study.common, "images": study.images, **study.variants[variant], "name": name},
    )
    if earlier not in (None, path.read_text()):
        path.write_text(earlier)
        raise SystemExit(f"{path} is of an earlier study: remove it and {name}/.")
    if not performances.exists():
        for script in ["run_testing.py"] if _is_trained(path) else SCRIPTS:
            print(f"{script} {path}", flush=True)
            subprocess.run([sys.executable, REPOSITORY / script, path], check=True)
    scores = json.loads(performances.read_text())
    figures = scores["inside_FOV"]
    if study is RECORDS:
        figures = {**figures, **_figures_of_records(scores, path)}
    if not study.cameras:
        return figures
    if not on_cameras.exists():
        options = ["--configuration", path, "--output", on_cameras, "--cameras", *study.cameras]
        command = [sys.executable, "-m", "benchmarks.cameras", *options]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    areas = json.loads(on_cameras.read_text())
    return {**figures, **{camera: roc for camera, (roc, _) in areas.items()}}


def _figures_of_records(scores, path):
    """Gives what FIGURES_OF_RECORDS has besides the scores inside the FOV."""
    history = read_weights(_last_weights(read_configuration(path, TASKS, "retina"))).history
    return {
        "auc_of_images": scores["per_image"]["spread"]["auc_roc"]["mean"],
        "best_f1": scores["best_f1"]["f1"],
        "best_accuracy": scores["best_accuracy"]["accuracy"],
        "minutes": sum(epoch["seconds"] for epoch in history) / 60,
    }


def _last_weights(configuration):
    return Experiment(configuration.experiment_name.name).weights("last")


def _is_trained(path):
    configuration = read_configuration(path, TASKS, "retina")
    last = _last_weights(configuration)
    num_epochs = configuration.training_settings.N_epochs
    return last.exists() and len(read_weights(last).history) >= num_epochs


def write_configuration(base, path, changes):
    """Writes a configuration with changed values, in the sections where configuration.txt has them.

    Args:
        base: path of the configuration to start from.
        path: where the new one goes.
        changes: values by key.
    """
    parser, pattern = (_parser(base), _parser(REPOSITORY / "configuration.txt"))
    for key, value in changes.items():
        section = next(name for name in pattern.sections() if pattern.has_option(name, key))
        parser.set(section, key, _as_text(value))
    with path.open("w", encoding="utf-8") as file:
        parser.write(file)


def _as_text(value):
    """Writes a value as a configuration has it: None is none."""
    return "none" if value is None else str(value)


def _parser(path):
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str
    parser.read_string(path.read_text(encoding="utf-8"))
    return parser


def report(study_name, tested):
    """Writes what was changed and the scores of each variant so far: Markdown."""
    study = STUDIES[study_name]
    figures_of = FIGURES_OF_RECORDS if study is RECORDS else FIGURES
    columns = {**figures_of, **{name: f"AUC ROC, {name}" for name in study.cameras}}
    common = _as_lines(study.common)
    rows = [
        [
            variant,
            _as_lines(study.variants[variant]),
            *(_as_figure(name, figures[name]) for name in columns),
        ]
        for variant, figures in tested.items()
    ]
    return (
        f"# {study_name.capitalize()}\n\n"
        f"`python -m benchmarks.variants {study_name}` {describe_place()}.\n\n"
        f"`{study.base}` with {common}; figures inside the FOV of the {study.images} images.\n\n"
        f"{table(('variant', 'changed', *columns.values()), rows)}\n"
    )


def _as_figure(name, value):
    return f"{value:.0f}" if name == "minutes" else f"{value:.5f}"


def _as_lines(values):
    return ", ".join(f"`{key} = {_as_text(value)}`" for key, value in values.items())


if __name__ == "__main__":
    main()
