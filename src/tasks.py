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


RETINA = Task(
    name="retina",
    template="configuration.txt",
    keys=retina_task.KEYS,
    check=retina_task.check,
    training="src.retinaNN_training",
    testing="src.retinaNN_predict",
    prediction="src.retinaNN_predict",
)
MEMBRANE = Task(
    name="membrane",
    template="configuration_ISBI.txt",
    keys=membrane_task.KEYS,
    check=membrane_task.check,
    training="src.membraneNN_training",
    testing="src.membraneNN_predict",
    prediction="src.membraneNN_predict",
)
CELLS = Task(
    name="cells",
    template="configuration_CTC.txt",
    keys=cells_task.KEYS,
    check=cells_task.check,
    training="src.cellsNN_training",
    testing="src.cellsNN_predict",
    prediction="src.cellsNN_predict",
)
SEGMENTATION = Task(
    name="segmentation",
    template="configuration_folder.txt",
    keys=segmentation_task.KEYS,
    check=segmentation_task.check,
    training="src.segmentationNN_training",
    testing="src.segmentationNN_predict",
    prediction="src.segmentationNN_predict",
)
# The first is meant where a configuration names none, as those of retina-unet do.
TASKS = {task.name: task for task in (RETINA, MEMBRANE, CELLS, SEGMENTATION)}
