"""The public face: what can be imported, that it is documented, and what importing it does not cost."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import crossknn


def test_names_are_there() -> None:
    assert len(set(crossknn.__all__)) == len(crossknn.__all__)
    public = {n for n in dir(crossknn) if not n.startswith("_") and not inspect.ismodule(getattr(crossknn, n))}
    assert public - {"TYPE_CHECKING", "import_module"} == set(crossknn.__all__) - {"__version__"}
    with pytest.raises(AttributeError, match="'crossknn' has no attribute 'Indx'"):
        _ = crossknn.Indx  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", [name for name in crossknn.__all__ if name != "__version__"])
def test_every_name_and_method_is_documented(name: str) -> None:
    exported = getattr(crossknn, name)
    # a dataclass without a docstring gets its signature for one
    assert exported.__doc__
    assert not exported.__doc__.startswith(f"{name}(")
    for method, value in vars(exported).items():
        if not method.startswith("_") and (inspect.isfunction(value) or isinstance(value, classmethod | property)):
            assert inspect.getdoc(getattr(exported, method, None) or value), f"{name}.{method}"


def test_every_error_is_in_the_drawing_and_under_the_base() -> None:
    from crossknn import errors

    found = [value for value in vars(errors).values() if inspect.isclass(value) and value.__module__ == errors.__name__]
    assert len(found) > 5
    for error in found:
        assert error.__name__ in (errors.__doc__ or "")
        assert issubclass(error, errors.CrossKNNError | errors.CrossKNNWarning)
    assert issubclass(errors.InputError, ValueError)
    assert issubclass(errors.MissingExtraError, ImportError)


def test_importing_is_light() -> None:
    heavy = ["torch", "sentence_transformers", "transformers", "matplotlib", "sklearn", "pyarrow", "onnx", "bm25s"]
    for imported, absent in (("crossknn, crossknn.cli.entry", ["numpy", "typer", *heavy]), ("crossknn.cli.app", heavy)):
        code = f"import sys, {imported}; print(*[name for name in {absent} if name in sys.modules])"
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        assert ran.stdout.strip() == ""


def test_importing_leaves_global_state_alone() -> None:
    code = (
        "import logging, random, numpy as np\n"
        "def state():\n"
        "    return list(logging.getLogger().handlers), random.getstate(), np.random.get_state()[1].tolist()\n"
        "before = state()\n"
        "import crossknn\n"
        "assert state() == before\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
