"""Segments images of your own with a trained network: no HDF5 files, nothing to edit.

    python run_prediction.py images ... [--experiment pretrained/vessels] [--output folder]
                             [--threshold T] [--angle degrees] [--overwrite]
                             [--export file.onnx]

Images are files, folders, patterns such as "eyes/*.png", or TIFF files of several pages; sizes may
differ. Writes probabilities, segmentations, outlines on the photographs, measurements.csv and
report.html to <first folder>_segmented/, or ./segmented/ for single files. Stopped and started
again, it goes on with the images that are missing. About 8 seconds for the first photograph, most
of it to load TensorFlow, and 1 to 2 seconds for each further one on two processor cores.
"""

import sys

from lib.errors import tell_missing_packages

with tell_missing_packages():
    from src.predict_folder import main

if __name__ == "__main__":
    sys.exit(main())
