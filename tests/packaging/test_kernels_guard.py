"""With the repository's root first on `sys.path`, `import kernels` must mean Hugging Face's package, not our folder.

`python -m pytest`, `python -m jrt` and a notebook put the root first; transformers then imports `kernels` by name.
"""

from __future__ import annotations

from pathlib import Path

import pytest

USES_TRANSFORMERS = (
    "import transformers; from transformers import LlamaForCausalLM; import jrt.kernels; import kernels; "
)


@pytest.fixture(scope="module")
def fake_kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a stand-in for Hugging Face's `kernels` 0.18.5, a version that transformers accepts."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "kernels" / "layer").mkdir(parents=True)
    (folder / "kernels" / "__init__.py").write_text(
        "FAKE = True\n"
        "_DECORATORS = ('use_kernel_forward_from_hub', 'use_kernelized_func', 'use_kernel_func_from_hub')\n"
        "def __getattr__(name):\n"
        "    if name.startswith('__'):\n"
        "        raise AttributeError(name)\n"
        "    if name in _DECORATORS:\n"
        "        return lambda *names, **options: lambda decorated: decorated\n"
        "    return type(name, (), {'fake': True, 'INFERENCE': 1, 'TRAINING': 2})\n"
    )
    (folder / "kernels" / "layer" / "__init__.py").touch()
    (folder / "kernels" / "layer" / "mode.py").write_text("class Mode:\n    INFERENCE, TRAINING = 1, 2\n")
    (folder / "kernels-0.18.5.dist-info").mkdir()
    (folder / "kernels-0.18.5.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: kernels\nVersion: 0.18.5\n"
    )
    return folder


def test_transformers_gets_the_other_package(run_python, root: Path, fake_kernels: Path) -> None:
    code = (
        "import sys; assert sys.path[0] == ''; " + USES_TRANSFORMERS + "from transformers.utils import import_utils; "
        "from transformers.integrations import hub_kernels; import kernels.layer.mode; "
        "assert import_utils.is_kernels_available(); "
        "assert kernels.FAKE and hub_kernels.CUDAProperties.fake; "
        "assert not hasattr(jrt.kernels, 'FAKE')"
    )
    run_python("-c", code, cwd=root, path=fake_kernels)


def test_transformers_works_without_the_other_package(run_python, root: Path) -> None:
    code = (
        USES_TRANSFORMERS + "from transformers.utils import import_utils; "
        "assert not import_utils.is_kernels_available(); "
        f"assert kernels.__file__ == {str(root / 'kernels' / '__init__.py')!r}; "
        "assert jrt.kernels is not kernels"
    )
    run_python("-c", code, cwd=root)


@pytest.mark.parametrize("ours_first", [True, False])
def test_the_root_may_stand_on_the_path_under_any_name(
    run_python, root: Path, fake_kernels: Path, tmp_path: Path, ours_first: bool
) -> None:
    """An absolute entry (`python -m`), the same folder through a link, or the root after the other package."""
    link = tmp_path / "link"
    link.symlink_to(root)
    entries = [str(link), str(root), str(fake_kernels)]
    code = (
        f"import sys; sys.path[:0] = {entries if ours_first else entries[::-1]!r}; import kernels; assert kernels.FAKE"
    )
    run_python("-P", "-c", code)
