"""The list of tasks. It knows no Keras, so that the backend is chosen before Keras is loaded."""

from dataclasses import dataclass

from src import cells_task, membrane_task, retina_task, segmentation_task


@dataclass(frozen=True)
class Task:
    """What the shared code must know of a task.

    Args:
        name: the value of [experiment name] task.
        template: its commented configuration, at the top of the project.
        keys: lib.configuration.Key of all its keys.
        check: configuration -> list of problems across keys.
        training: module whose main(configuration, experiment, overwrite) trains.
        testing: module whose main(configuration, experiment) tests.
        prediction: module whose make_predictor(configuration, weights, threshold) gives the
            lib.predictions.ImagePredictor of run_prediction.py; threshold None: its own.
    """

    name: str
    template: str
    keys: tuple
    check: object
    training: str
    testing: str
    prediction: str


def _task(name, template, module):
    """Gives the task whose keys stand in a module and whose scripts are called after it."""
    return Task(
        name=name,
        template=template,
        keys=module.KEYS,
        check=module.check,
        training=f"src.{name}NN_training",
        testing=f"src.{name}NN_predict",
        prediction=f"src.{name}NN_predict",
    )


RETINA = _task("retina", "configuration.txt", retina_task)
MEMBRANE = _task("membrane", "configuration_ISBI.txt", membrane_task)
CELLS = _task("cells", "configuration_CTC.txt", cells_task)
SEGMENTATION = _task("segmentation", "configuration_folder.txt", segmentation_task)
# The first is meant where a configuration names none, as those of retina-unet do.
TASKS = {task.name: task for task in (RETINA, MEMBRANE, CELLS, SEGMENTATION)}
