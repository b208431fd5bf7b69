"""Operations behind the models, one folder each: a reference, a fast CPU path, Triton kernels, their maths in a README.

The guard: when the repository root leads `sys.path` (`python -m pytest`, a notebook), `import kernels` finds this
folder instead of the Hugging Face package of that name, which transformers imports. Then this file steps aside for it.
"""

if __name__ == "kernels":
    import importlib.machinery as _machinery
    import importlib.util as _util
    import os as _os
    import sys as _sys

    _root = _os.path.realpath(_os.path.join(_os.path.dirname(__file__), ".."))  # noqa: PTH118, PTH120
    _elsewhere = [entry for entry in _sys.path if _os.path.realpath(entry or ".") != _root]
    _spec = _machinery.PathFinder.find_spec("kernels", _elsewhere)
    if _spec is not None and _spec.loader is not None:
        _module = _util.module_from_spec(_spec)
        _sys.modules["kernels"] = _module
        _spec.loader.exec_module(_module)
