"""The parts that the scripts share; without the project's packages none can be imported."""

import importlib.util
import sys

_NEEDED = ("numpy", "h5py", "keras", "PIL")
_MISSING = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
if _MISSING:
    raise SystemExit(
        f"\nERROR: {sys.executable} lacks the packages {', '.join(_MISSING)}. Start the scripts "
        "with the Python that has them: `make demo` installs them into .venv, then "
        "`source .venv/bin/activate`."
    )
