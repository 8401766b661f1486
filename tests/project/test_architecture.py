"""The rules of the house, read from the source: which room may know which, who may import what, how large a piece may be."""

import ast
import importlib.util
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "outpace"

# Rooms from the bottom up; a room may import the rooms of lower levels only. A room is a file or a folder of the package.
LEVELS = [
    ["errors", "arrays", "byte_letters"],
    ["files", "machine", "progress", "reason", "config", "params"],
    ["tree"],
    ["request"],
    ["sampling"],
    ["targets"],
    ["heads"],
    ["drafters", "verifiers", "models"],
    ["controller"],
    ["engine"],
    ["outputs", "trace"],
    ["llm"],
    ["async_llm", "transformers"],
    ["bench", "server", "export", "vllm"],
    ["testing"],  # the proof for users needs prompts and the LLM
    ["tune", "training", "batch", "plan"],
    ["cli"],
    ["__main__"],
]
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
TYPE_ONLY = {
    ("request", "outpace.controller.strategy")
}  # for the type checker alone: a request carries its strategy and reads nothing of it
INTERFACE = {f"outpace.targets.{name}" for name in ("base", "identity", "low_rank")}  # all that these rooms may know of targets
KNOW_THE_INTERFACE = ("heads", "drafters", "verifiers", "controller", "engine")
TABLE = {"outpace.drafters.combined"}  # what `a+b` builds: only `drafters/spec.py` knows it
INSIDE = {  # in these rooms a module knows only these of its neighbours, and those of its own subfolder
    "drafters": {"outpace.drafters.base", "outpace.drafters.coupling", "outpace.drafters.ngram_index"},
    "targets": {f"outpace.targets.{name}" for name in ("base", "identity", "low_rank", "self_check", "text_length", "vectors")},
    "verifiers": {"outpace.verifiers.base"},
}
HEAVY = {  # who may import it, at all
    "transformers": ("targets/hf/", "models/", "training/", "transformers/", "bench/peers/"),
    "openvino": (
        "targets/openvino/",
        "heads/medusa/openvino.py",
        "heads/eagle/openvino.py",
        "heads/openvino_parts.py",
        "models/",
        "bench/peers/",
    ),
    "torch": ("targets/hf/", "heads/medusa/torch.py", "heads/eagle/torch.py", "models/", "training/", "transformers/", "bench/peers/"),
    "fastapi": ("server/",),
    "llguidance": ("-",),
    "ray": ("server/ray.py", "batch/ray_data.py"),
}
LAZY = {"torch": ("heads/medusa/imports.py",), "llguidance": ("sampling/grammar.py",)}  # who may import it inside a function only
MAX_FILE, MAX_FUNCTION, MAX_FOLDER = 350, 60, 14
SAME_NAME = {  # file names that several rooms have, and the one thing each means
    "__main__.py": "what `python -m` runs",
    "__init__.py": "the room's docstring, and its table if it has one",
    "base.py": "the room's interface",
    "numpy.py": "the numpy backend of heads",
    "torch.py": "the torch backend of heads",
    "openvino.py": "the OpenVINO backend of heads",
    "weights.py": "weights of heads, checked",
    "low_rank.py": "low-rank weights: what they are, and how each target applies them",
    "vectors.py": "vectors in place of tokens: the table, and how each target reads it",
    "target.py": "the target model of its folder",
    "kv_cache.py": "the K/V cache of the target of its folder",
    "drafter.py": "the drafter of its folder",
    "run.py": "a training run from data to a folder",
    "task.py": "what one training method optimises",
    "module.py": "trained weights as a torch module",
}

FILES = sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)
TREES = {path: ast.parse(path.read_text("utf-8")) for path in FILES}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room_of(module: str) -> str:
    """outpace.drafters.base -> drafters; the package itself -> ''."""
    return module.split(".")[1] if "." in module else ""


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    place = ROOT.joinpath(*name.split("."))
    return place.with_suffix(".py").exists() or (place / "__init__.py").exists()


def imports(path: Path, tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """(module, is it imported when the file is) of every import, however deep; `from a import b` is a.b where that is a module."""
    in_functions = {id(n) for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef)) for n in ast.walk(f)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module_of(path).split(".")[: None if path.name == "__init__.py" else -1]
                base = ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" if is_module(f"{base}.{alias.name}") else base for alias in node.names]
        else:
            continue
        for name in names:
            yield name, id(node) not in in_functions


def in_own_folder(path: Path, module: str) -> bool:
    """Is the module in the subfolder of its room that the file is in too?"""
    folder = module_of(path).split(".")[:-1]
    return len(folder) > 2 and module.split(".")[:3] == folder[:3]


def wrong_arrows(path: Path, tree: ast.Module) -> list[str]:
    room, found = room_of(module_of(path)), []
    for module, _ in imports(path, tree):
        if module.partition(".")[0] != "outpace" or module == "outpace":
            continue
        other = room_of(module)
        if other not in LEVEL:
            found.append(f"{name_of(path)} imports {module}, a room without a place in LEVELS")
        elif other == room:
            known = {*INSIDE.get(room, ()), f"outpace.{room}", module_of(path), *(TABLE if name_of(path) == "drafters/spec.py" else ())}
            if room in INSIDE and module not in known and not in_own_folder(path, module):
                found.append(f"{name_of(path)} imports its neighbour {module}")
            if room in INSIDE and module == f"outpace.{room}" and name_of(path) != f"{room}/spec.py":
                found.append(f"{name_of(path)} imports the table of its own room")
        elif LEVEL[other] >= LEVEL[room] and (room, module) not in TYPE_ONLY:
            found.append(f"{name_of(path)} imports {module}: up or sideways")
        elif other == "targets" and room in KNOW_THE_INTERFACE and module not in INTERFACE:
            found.append(f"{name_of(path)} imports {module}, which is not the interface of targets")
    return found


def test_every_room_has_a_place():
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES} - {"__init__"}
    assert rooms <= LEVEL.keys(), f"give {sorted(rooms - LEVEL.keys())} a place in LEVELS"


@pytest.mark.parametrize("path", [p for p in FILES if p != PACKAGE / "__init__.py"], ids=name_of)
def test_arrows_go_down(path):
    if room_of(module_of(path)) in LEVEL:
        assert wrong_arrows(path, TREES[path]) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("params.py", "from outpace.engine import Engine"),
        ("tree/draft.py", "def f():\n    import outpace.sampling.sampler"),
        ("tree/draft.py", "if TYPE_CHECKING:\n    from outpace.targets.base import TargetModel"),
        ("drafters/new.py", "from outpace.drafters.blind import BlindDrafter"),
        ("drafters/new.py", "from . import blind"),
        ("drafters/new.py", "from outpace.drafters.combined import CombinedDrafter"),
        ("drafters/__init__.py", "from outpace.drafters.blind import BlindDrafter"),
        ("drafters/new.py", "from .none import NoDrafter"),
        ("drafters/new.py", "from outpace import drafters"),
        ("drafters/new.py", "from outpace.targets.toy import ToyTarget"),
        ("drafters/new.py", "from outpace.verifiers.base import Verifier"),
        ("targets/new.py", "from outpace.targets import toy"),
        ("targets/new.py", "from outpace.drafters.base import Drafter"),
        ("llm.py", "from outpace.testing.proof import verify"),
        ("targets/base.py", "from outpace.heads.format import DraftHeads"),
        ("bench/new.py", "from outpace import cli as d"),
        ("engine/new.py", "import outpace.nowhere"),
    ],
)
def test_wrong_arrows_are_seen(file, line):
    assert wrong_arrows(PACKAGE / file, ast.parse(line))


@pytest.mark.parametrize(
    ("file", "line"),
    [
        (
            "drafters/new.py",
            "from outpace.targets.base import TargetModel\nfrom outpace.drafters.base import Drafter\nfrom .base import Drafter",
        ),
        ("targets/new.py", "from outpace.targets.vectors import VectorTable\nfrom outpace import __version__"),
        ("testing/new.py", "from outpace.testing.harness import run\nfrom outpace.targets.toy import ToyTarget"),
    ],
)
def test_right_arrows_pass(file, line):
    assert wrong_arrows(PACKAGE / file, ast.parse(line)) == []


@pytest.mark.parametrize("library", HEAVY)
def test_heavy_libraries_stay_in_their_rooms(library):
    for path in FILES:
        for module, is_eager in imports(path, TREES[path]):
            if module.partition(".")[0] == library and not name_of(path).startswith(HEAVY[library]):
                assert name_of(path).startswith(LAZY.get(library, ("-",))), f"{name_of(path)} imports {module}"
                assert not is_eager, f"{name_of(path)} imports {module} outside a function"


def test_the_package_itself_imports_nothing_when_imported():
    body = TREES[PACKAGE / "__init__.py"].body
    names = [node.module for node in body if isinstance(node, ast.ImportFrom)] + [n for n in body if isinstance(n, ast.Import)]
    assert names == ["__future__", "typing"]


# ---- sizes and words


def test_folders_are_small():
    for folder in (path for top in ("outpace", "tests", "dev") for path in (ROOT / top).rglob("*") if path.is_dir()):
        files = [path.name for path in folder.iterdir() if path.is_file()]
        assert "__pycache__" in folder.parts or len(files) <= MAX_FOLDER, f"{folder.relative_to(ROOT)} has {len(files)} files"


@pytest.mark.parametrize("folder", ["tests", "dev"])
def test_tests_and_scripts_are_small(folder):
    long = {path.name for path in (ROOT / folder).rglob("*.py") if len(path.read_text("utf-8").splitlines()) > MAX_FILE}
    assert not long, f"{sorted(long)}: split by idea"


def test_no_two_files_of_one_name_mean_two_things():
    names = Counter(path.name for path in FILES)
    twice = {name for name, count in names.items() if count > 1} - SAME_NAME.keys()
    assert not twice, f"{sorted(twice)}: give the files other names, or say in SAME_NAME what the name means everywhere"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_small(path):
    num_lines = len(path.read_text("utf-8").splitlines())
    assert num_lines <= MAX_FILE, f"{num_lines} lines: split it by idea"
    for node in ast.walk(TREES[path]):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = node.end_lineno - node.lineno + 1
            assert length <= MAX_FUNCTION, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_public_things_are_documented(path):
    tree = TREES[path]
    is_empty = path.name == "__init__.py" and not tree.body
    assert is_empty or ast.get_docstring(tree), "the module has no docstring"
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


# ---- what a start costs


@pytest.mark.parametrize("module", ["outpace", "outpace.cli"])
def test_start_imports_nothing_heavy(module):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not written yet")
    heavy = ("torch", "transformers", "openvino", "numpy", "fastapi", "tokenizers", "huggingface_hub")
    code = f"import sys, {module}; print(*[name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []


def test_the_engine_knows_nothing_of_trained_heads():
    code = "import sys, outpace.engine.engine; print(*[name for name in sys.modules if name.startswith(('outpace.heads', 'safetensors'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []
