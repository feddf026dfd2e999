"""The folder of an experiment: the names of its files, and whether they can be written."""

import contextlib
import glob
import os
import shutil
import stat
from pathlib import Path

from lib.errors import UserError
from lib.files import atomic_write


class Experiment:
    """Names the files in the folder `<name>/` of an experiment.

    Args:
        name: the experiment's name, also that of its folder in the current directory.
        is_first_host: whether this process writes; of several hosts that train together, one does.
        results: folder within the experiment's for what testing writes; "" for the same.
    """

    def __init__(self, name, is_first_host=True, results=""):
        self.name = name
        self.is_first_host = is_first_host
        self.folder = Path(name)
        self.results = self.folder / results

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
                "(python run_training.py), or mend [experiment name] name."
            )
        original = self.original_weights(best_last)
        for path in (self.weights(best_last), original):
            if path.is_file():
                return path
        endings = (f"{best_last}.weights.h5", f"{best_last}_weights.h5")
        renamed = [path for ending in endings for path in self.folder.glob(f"[!.]*_{ending}")]
        if len(renamed) == 1:
            return renamed[0]
        found = sorted(path.name for path in self.folder.glob("*.h5"))
        raise UserError(
            f"{self.weights(best_last)} does not exist (nor {original.name}, as "
            f"retina-unet named it). Found there: {', '.join(found) or 'no weights'}. Train first, "
            "or mend [experiment name] name or [testing settings] best_last."
        )

    @contextlib.contextmanager
    def writable_folder(self):
        """Makes the folder and checks that files can be written to it.

        A folder that is still empty at the end, because of an error, is taken away again.

        Raises:
            UserError: if the folder cannot be written to.
        """
        if not self.is_first_host:
            yield
            return
        self._require_writable()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                self.folder.rmdir()  # refuses a folder that holds anything

    def _require_no_file(self):
        if self.folder.is_file():
            raise UserError(
                f"{self.folder} is a file, where the folder of the experiment belongs. Move it, or "
                "choose another [experiment name] name."
            )

    def _require_writable(self):
        self._require_no_file()
        probe = self.folder / f".{os.getpid()}_probe"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # An administrator may write anywhere; a folder marked read-only stays untouched all the
            # same, because somebody marked it so.
            if not self.folder.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
                raise PermissionError(None, "the folder is marked read-only")
            probe.touch()
        except OSError as error:
            raise UserError(
                f"The experiment folder {self.folder} cannot be written to: "
                f"{error.strerror or error}. Change its permissions (chmod u+w {self.folder}) or "
                "choose another [experiment name] name."
            ) from error
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()

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
        path = self.folder / ".training.lock"
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
            for left in self.folder.glob(f".[0-9]*_{glob.escape(self.name)}_*.weights.h5*"):
                left.unlink()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def remove_training(self):
        """Takes away an earlier training of this name: weights, log, and their figures."""
        if self.weights("last").exists():  # else the figures are those of retina-unet's weights
            for results in ("", "validation", "training"):
                Experiment(self.name, results=results).remove_results()
        for ending in ("last.weights.h5", "best.weights.h5", "log.csv", "loss_curves.png"):
            self.file(ending).unlink(missing_ok=True)

    def remove_results(self):
        """Takes away what an earlier test left, and says so: no old figure beside new pictures."""
        grids = ("originals", "groundTruths", "predictions", "segmentations")
        results = ["predictions.hdf5", "ROC.png", "Precision_recall.png"]
        results += [f"all_{grid}.png" for grid in grids]
        results += ["performances.txt", "performances.json", "submission.tif"]
        results += ["*_Original_GroundTruth_Prediction*.png"]  # a copied folder has another name
        results += ["segmentations/*.png"]
        found = [path for pattern in results for path in self.results.glob(pattern)]
        for path in found:
            path.unlink()
        if found:
            print(f"The results of an earlier test in {self.results} make room.")

    def keep_configuration(self, path):
        """Copies the configuration beside the results, as <name>_configuration.txt."""
        kept = self.file("configuration.txt")
        if not kept.exists() or not kept.samefile(path):
            with atomic_write(kept) as beside:
                shutil.copyfile(path, beside)
