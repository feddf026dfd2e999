"""The folder of an experiment: the names of its files, and whether they can be written."""

import contextlib
import glob
import os
import shutil
from pathlib import Path

from lib.errors import UserError
from lib.files import atomic_write, folder_for_output, remove_left_overs

PROJECT = Path(__file__).resolve().parents[1]
PRETRAINED = PROJECT / "pretrained"
LOCK = ".training.lock"
# What a test (lib.results) and a prediction (lib.predictions) leave beside their results.
TESTING_FILES, PREDICTION = ".testing_files.txt", ".prediction.json"
# What a training that starts from a shipped one takes over; the last file says that all is there.
TRAINING_FILES = (
    "configuration.txt",
    "best.weights.h5",
    "log.csv",
    "loss_curves.png",
    "architecture.json",
    "last.weights.h5",
)


def locate(path):
    """Makes a path absolute: relative to the current folder.

    One of pretrained/ that is not there is taken from the project's folder.

    Args:
        path: as a configuration or the command line names it.
    Returns:
        absolute Path, whether it exists or not.
    """
    path = Path(path).expanduser()
    here = Path(os.path.abspath(path))
    if path.parts[:1] == ("pretrained",) and not here.exists():
        return PROJECT / path
    return here


def data_path(configuration, key):
    """Gives the absolute path of a file of [data paths], by its key."""
    paths = configuration.data_paths
    return locate(paths.path_local) / getattr(paths, key)


class Experiment:
    """Names the files in the folder of an experiment; they carry the folder's last name.

    Args:
        name: the folder, as locate takes it.
        is_first_host: whether this process writes; of several hosts that train together, one does.
        output: folder for what testing writes; None for the experiment's own, or for
            results/<name> in the current folder where the experiment is a shipped one.
    """

    def __init__(self, name, is_first_host=True, output=None):
        self.folder = locate(name)
        self.name = self.folder.name
        self.is_first_host = is_first_host
        self.is_shipped = self.folder.resolve().parent == PRETRAINED
        own = Path.cwd() / "results" / self.name if self.is_shipped else self.folder
        self.results = locate(output) if output else own

    def file(self, ending):
        """Gives the path <name>/<name>_<ending>."""
        return self.folder / f"{self.name}_{ending}"

    def weights(self, best_last):
        """Gives the path of the weights that are written here, best_last = "best" or "last"."""
        return self.file(f"{best_last}.weights.h5")

    def original_weights(self, best_last):
        """Gives the path of the weights that retina-unet wrote in 2016."""
        return self.file(f"{best_last}_weights.h5")

    def find_weights(self, best_last):
        """Finds the weights to test: those written here, or those of retina-unet 2016.

        A folder that was renamed or copied is understood as long as only one file fits.

        Args:
            best_last: "best" or "last".
        Returns:
            path of an existing file.
        Raises:
            UserError: if there is none, with what the folder holds.
        """
        self._require_no_file()
        if not self.folder.is_dir():
            raise UserError(
                f"The experiment folder {self.folder} does not exist. Train first "
                "(python run_training.py), or correct [experiment name] name."
            )
        original = self.original_weights(best_last)
        for path in (self.weights(best_last), original):
            if path.is_file():
                return path
        endings = (f"{best_last}.weights.h5", f"{best_last}_weights.h5")
        renamed = [path for ending in endings for path in self.folder.glob(f"[!.]*_{ending}")]
        if len(renamed) == 1:
            return renamed[0]
        if self.is_shipped:
            raise UserError(
                f"{self.folder} holds no weights. They are trained by python run_training.py "
                f"pretrained/{self.name}, and tested by python run_testing.py results/{self.name}."
            )
        found = sorted(path.name for path in self.folder.glob("*.h5"))
        raise UserError(
            f"{self.weights(best_last)} does not exist (nor {original.name}, as "
            f"retina-unet named it). Found there: {', '.join(found) or 'no weights'}. Train first, "
            "or correct [experiment name] name or [testing settings] best_last."
        )

    def _require_no_file(self):
        if self.folder.is_file():
            raise UserError(
                f"{self.folder} is a file, where the folder of the experiment belongs. Move it, or "
                "choose another [experiment name] name."
            )

    @contextlib.contextmanager
    def locked_for_training(self):
        """Keeps a second training out of the folder while one runs.

        The lock goes with the process that holds it, however that ends. What a process that was
        killed left half-written is taken away.

        Raises:
            UserError: if another process trains this experiment.
        """
        if not self.is_first_host:
            yield
            return
        try:
            import fcntl
        except ImportError:  # Windows: no such lock; two trainings at once are the user's care.
            yield
            return
        path = self.folder / LOCK
        try:
            lock = open(path, "a+b", buffering=0)
        except OSError as error:  # of another user, on a shared server
            raise UserError(
                f"{path} cannot be written to: {error.strerror or error}. If no training runs in "
                f"{self.folder}, remove it; else choose another [experiment name] name."
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise UserError(
                    f"The experiment {self.name} is being trained by process "
                    f"{lock.read().decode() or '?'}. Wait for it or stop it first."
                ) from None
            except OSError:  # a network drive without locks
                print(f"{self.folder} cannot be locked: take care that one training runs in it.")
            with contextlib.suppress(OSError):  # a full disk; the lock holds all the same
                lock.truncate(0)
                lock.write(str(os.getpid()).encode())
            files = (
                f"{glob.escape(self.name)}_{ending}*" for ending in (*TRAINING_FILES, "model.")
            )
            remove_left_overs(self.folder, *files, "sample_input_*.png", "probe")
            # The file stays: who has it open already would lock a file without a name.
            yield

    def remove_training(self):
        """Removes an earlier training of this name: weights, log and curves."""
        for ending in ("last.weights.h5", "best.weights.h5", "log.csv", "loss_curves.png"):
            self.file(ending).unlink(missing_ok=True)

    def copied_to_results(self):
        """Copies a shipped experiment to results/<name>, unless it was before.

        Of one that is shipped without weights nothing is copied: its training starts there.

        Returns:
            Experiment of the copy, in which its training may resume.
        """
        copy = Experiment(self.results, self.is_first_host)
        has_weights = self.weights("last").exists()
        if has_weights and self.is_first_host and not copy.weights("last").exists():
            for ending in TRAINING_FILES:
                if self.file(ending).exists():
                    with atomic_write(copy.file(ending)) as beside:
                        shutil.copyfile(self.file(ending), beside)
            print(f"{self.folder} stays as it is: the training is in {copy.folder}.")
        return copy

    def keep_configuration(self, path):
        """Copies the configuration beside the results, as <name>_configuration.txt."""
        kept = self.file("configuration.txt")
        if not kept.exists() or not kept.samefile(path):
            with atomic_write(kept) as beside:
                shutil.copyfile(path, beside)


@contextlib.contextmanager
def one_at_a_time(folder, step, instead="write elsewhere with --output FOLDER"):
    """Keeps a second testing or prediction out of a folder while one writes to it.

    The folder itself is locked, so that no file of a lock stays in it. A training, which has a lock
    of its own, may run in it at the same time.

    Args:
        folder: where the results go; one that does not exist needs no lock.
        step: "testing" or "prediction", for the message.
        instead: what to do if one does not want to wait.
    Raises:
        UserError: if another process writes to it.
    """
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):  # Windows; or a folder that is not there
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(
            f"Another {step} writes to {folder}. Wait until it has ended, or {instead}."
        ) from None
    except OSError:  # a network drive without locks
        print(f"{folder} cannot be locked: take care that one {step} runs in it.")
    try:
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def writable_folder(folder):
    """Makes a folder and checks that files can be written to it.

    A folder that was made here and is still empty at the end, because of an error, is removed
    again. One that was there stays with the lock in it: another process may hold that.

    Args:
        folder: where an experiment or its results belong.
    Raises:
        UserError: if the folder cannot be written to.
    """
    is_new = not folder.exists()
    with folder_for_output(folder, "[experiment name] name, or --output"):
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                if is_new and os.listdir(folder) == [LOCK]:
                    (folder / LOCK).unlink()
