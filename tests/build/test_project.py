"""From a target to a project: its root, metadata and requirements, and what the predictor declares."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launched import until
from projects import PICTURES, PREDICTOR, project, write
from serving import clean_environ, script

from servekit.errors import ConfigError, LoadFailed
from servekit.images.project import find
from servekit.signature import File, Image, Json, Signature, Tensor, Text

# --- where ---


@pytest.mark.parametrize("marker", ["pyproject.toml", "requirements.txt", ".git/HEAD"])
def test_the_root_is_the_nearest_folder_with_a_marker(tmp_path: Path, marker: str) -> None:
    root = write(
        tmp_path / "outer", {"requirements.txt": "", f"inner/{marker}": "", "inner/a/b/predictor.py": PREDICTOR}
    )
    found = find("inner/a/b", root)
    assert (found.root, found.target, found.directory) == (root / "inner", "a/b/predictor.py", "a/b")


def test_without_a_marker_it_is_the_folder_of_the_target(tmp_path: Path) -> None:
    write(tmp_path / "work", {"model/predictor.py": PREDICTOR, "notes.txt": ""})
    found = find("model/predictor.py:Mean", tmp_path / "work")
    assert (found.root, found.target, found.directory) == (tmp_path / "work" / "model", "predictor.py:Mean", "")


def test_without_a_target_it_is_the_current_directory(tmp_path: Path) -> None:
    found = find(None, project(tmp_path / "model"))
    assert (found.root, found.target, found.predictor) == (tmp_path / "model", "predictor.py", "Mean")


def test_code_beside_the_model_keeps_its_folder(tmp_path: Path) -> None:
    root = write(tmp_path / "model", {"code/inference.py": PREDICTOR, "requirements.txt": "", "weights.bin": "w"})
    found = find(None, root)
    assert (found.root, found.target, found.directory) == (root, ".", "")


@pytest.mark.parametrize(
    "target", ["../other", "../other/predictor.py", "{tmp}/other/predictor.py:Mean", "link/predictor.py"]
)
def test_a_target_outside_of_the_project_is_refused(tmp_path: Path, target: str) -> None:
    project(tmp_path / "other")
    here = project(tmp_path / "here")
    (here / "link").symlink_to(tmp_path / "other")
    with pytest.raises(
        ConfigError, match=r"expected a target inside of the current project '.*/here', got one in '.*/other'"
    ):
        find(target.replace("{tmp}", str(tmp_path)), here)


def test_the_home_folder_is_no_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = write(
        tmp_path, {".git/HEAD": "", ".ssh/id_rsa": "", "predictor.py": PREDICTOR, "work/predictor.py": PREDICTOR}
    )
    monkeypatch.setenv("HOME", str(home))
    assert find(None, home / "work").root == home / "work"
    with pytest.raises(ConfigError, match="expected a folder of its own, since all of it enters the image"):
        find(None, home)


def test_a_marker_in_a_folder_that_anybody_may_write_to_does_not_count(tmp_path: Path) -> None:
    shared = write(tmp_path / "shared", {"pyproject.toml": "", "mine/predictor.py": PREDICTOR})
    shared.chmod(0o1777)
    assert find(None, shared / "mine").root == shared / "mine"


def test_a_name_that_servekit_run_would_not_understand_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "m", {"requirements.txt": "", "a:b/predictor.py": PREDICTOR})
    with pytest.raises(ConfigError, match="expected a path without colons"):
        find(None, root / "a:b")


def test_from_a_folder_below_it_is_the_project_around(tmp_path: Path) -> None:
    root = project(tmp_path / "m", {"notes/deep/x.txt": "", "two/a.onnx": "", "two/b.onnx": ""})
    found = find(None, root / "notes" / "deep")
    assert (found.root, found.target, found.directory) == (root, "predictor.py", "")
    (root / "predictor.py").unlink()
    with pytest.raises(ConfigError, match=r"^TARGET '\.': the directory holds no predictor\.py"):
        find(None, root / "notes" / "deep")


# --- modules ---


@pytest.mark.parametrize(
    ("files", "below", "target", "import_from", "directory"),
    [
        ({"pack/mod.py": PREDICTOR, "pack/__init__.py": ""}, "", "pack.mod:Mean", "", ""),
        ({"pack/__init__.py": PREDICTOR}, "", "pack:Mean", "", ""),
        ({"src/one.py": PREDICTOR}, "src", "one:Mean", "src", "src"),
    ],
)
def test_modules_of_the_project(
    tmp_path: Path, files: dict[str, str], below: str, target: str, import_from: str, directory: str
) -> None:
    root = write(tmp_path / "m", {"requirements.txt": "", **files})
    found = find(target, root / below)
    assert (found.root, found.target, found.import_from, found.directory) == (root, target, import_from, directory)


def test_a_module_in_src_that_is_installed_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path / "m", {"requirements.txt": "", "src/pack/mod.py": PREDICTOR})
    monkeypatch.setenv("PYTHONPATH", str(root / "src"))
    found = find("pack.mod:Mean", root)
    assert (found.import_from, found.directory) == ("src", "")


def test_a_module_that_is_a_link(tmp_path: Path) -> None:
    root = write(tmp_path / "m", {"requirements.txt": "", "real/impl.py": PREDICTOR})
    (root / "mod.py").symlink_to("real/impl.py")
    found = find("mod:Mean", root)
    assert (found.target, found.import_from) == ("mod:Mean", "")


@pytest.mark.parametrize("folder", ["a:b", "a\nb"])
def test_a_module_in_a_folder_that_no_variable_can_name_is_refused(tmp_path: Path, folder: str) -> None:
    root = write(tmp_path / "m", {"requirements.txt": "", f"{folder}/mod.py": PREDICTOR})
    with pytest.raises(ConfigError, match="expected a path without colons and control characters"):
        find("mod:Mean", root / folder)


def test_a_module_of_another_place_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "elsewhere", {"foreign.py": PREDICTOR})
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "elsewhere"))
    with pytest.raises(ConfigError, match="expected a module of the project"):
        find("foreign:Mean", project(tmp_path / "m"))


# --- what the predictor declares ---

EVERYTHING = """\
import sys
from servekit import File, Image, Json, Predictor, Tensor, Text
print("noise on standard output")
class All(Predictor):
    inputs = {"t": Tensor("int64", (None, 3)), "i": Image("RGBA", None, 7), "x": Text(), "f": File()}
    outputs = {"j": Json()}
    def predict(self, t, i, x, f):
        return [1] * len(x)
"""


def test_the_declaration_comes_back_whole_and_the_code_does_not(tmp_path: Path) -> None:
    found = find(None, project(tmp_path / "m", {"predictor.py": EVERYTHING}))
    assert found.product.signature == Signature(
        {"t": Tensor("int64", (None, 3)), "i": Image("RGBA", None, 7), "x": Text(), "f": File()}, {"j": Json()}
    )
    assert "predictor" not in sys.modules
    assert str(tmp_path / "m") not in sys.path
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["predictor.py", "requirements.txt"]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'; the predictor is imported"),
        ("class Broken(\n", "SyntaxError"),
        ("raise ValueError('a\\nb\\tc')\n", "predictor.py: ValueError: a b c"),
        ("import sys\nsys.exit('enough')\n", "SystemExit: enough"),
    ],
)
def test_an_import_that_fails_is_one_line_with_the_cause(tmp_path: Path, source: str, says: str) -> None:
    with pytest.raises(LoadFailed) as caught:
        find("predictor.py", project(tmp_path / "m", {"predictor.py": source}))
    assert says in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (
            "import os, sys\nprint('last words', file=sys.stderr, flush=True)\nos._exit(3)\n",
            "ended with exit code 3: last words",
        ),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", "ended with signal SIGSEGV: no output"),
    ],
)
def test_an_import_that_ends_the_process_is_told(tmp_path: Path, source: str, says: str) -> None:
    with pytest.raises(LoadFailed, match=says):
        find("predictor.py", project(tmp_path / "m", {"predictor.py": source}))


def test_a_declaration_that_is_none_is_refused(tmp_path: Path) -> None:
    source = "from servekit import Predictor\nclass A(Predictor):\n    inputs = {'x': 1}\n    outputs = {}\n"
    with pytest.raises(ConfigError, match="expected Tensor, Image, Text, Json or File, got 1"):
        find(None, project(tmp_path / "m", {"predictor.py": source}))


def test_an_import_that_does_not_end_is_ended_with_what_it_has_started(tmp_path: Path) -> None:
    source = (
        "import os, subprocess, time\n"
        "child = subprocess.Popen(['sleep', '300'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
        "time.sleep(300)\n"
    )
    with pytest.raises(ConfigError, match="expected it to be imported within 3 s: read the model in `load`"):
        find("predictor.py", project(tmp_path / "m", {"predictor.py": source}), import_timeout_s=3)
    process = Path("/proc", (tmp_path / "pid").read_text(), "stat")
    deadline = time.monotonic() + 10
    while process.exists() and process.read_text().split()[2] != "Z" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not process.exists() or process.read_text().split()[2] == "Z"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_ends_the_command_ends_the_import(tmp_path: Path, number: signal.Signals) -> None:
    """It has a session of its own, which Ctrl-C does not reach."""
    pid = tmp_path / "pid"
    source = f"import os, time\nopen({str(pid)!r}, 'w').write(f'{{os.getpid()}}\\n')\ntime.sleep(300)\n"
    root = project(tmp_path / "m", {"predictor.py": source})
    command = [script("servekit"), "build", "predictor.py", "--platform", "modzy", "--output", "../out"]
    with subprocess.Popen(command, cwd=root, env=clean_environ(), stderr=subprocess.PIPE) as process:
        until(lambda: pid.exists() and pid.read_text().endswith("\n"))
        process.send_signal(number)
        assert process.wait(20) != 0
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    assert not Path("/proc", pid.read_text().strip()).exists()


def test_a_thread_of_the_users_does_not_keep_it_waiting(tmp_path: Path) -> None:
    source = "import threading, time\nthreading.Thread(target=time.sleep, args=(300,)).start()\n" + PREDICTOR
    assert find(None, project(tmp_path / "m", {"predictor.py": source}), import_timeout_s=60).predictor == "Mean"


@pytest.mark.parametrize(
    ("predictor", "line", "extras"),
    [
        (PREDICTOR, "", ()),
        (PICTURES, "", ("image",)),
        (PICTURES, "servekit[fast]>=0.1", ("fast", "image")),
        (PREDICTOR, "ServeKit[fast]", ("fast",)),
    ],
)
def test_servekits_own_extras(tmp_path: Path, predictor: str, line: str, extras: tuple[str, ...]) -> None:
    found = find(None, project(tmp_path / "m", {"predictor.py": predictor, "requirements.txt": f"{line}\nnumpy\n"}))
    assert found.extras == extras
    assert found.requirements == ("numpy",)
    assert found.servekit == line


# --- metadata ---

PYPROJECT = """\
[project]
name = "my.Model"
version = "2.1"
description = "Says \\"what\\".\\nAnd more."
authors = [{name = "Ada"}, {email = "b@example.com"}]
dependencies = ["numpy>=2", "scipy; python_version<'4'"]
[project.optional-dependencies]
dev = ["pytest"]
[dependency-groups]
test = ["tox"]
"""
MANIFEST = """\
name: Handwritten digits
version: 1.0
author: The authors
description: {summary: Reads a digit., details: A network.}
"""


def test_metadata_comes_from_pyproject(tmp_path: Path) -> None:
    root = write(tmp_path / "m", {"predictor.py": PREDICTOR, "pyproject.toml": PYPROJECT, "model.yaml": MANIFEST})
    found = find(None, root)
    product = found.product
    assert (product.name, product.version, product.author) == ("my.Model", "2.1.0", "Ada, b@example.com")
    assert (product.summary, product.details) == ('Says "what". And more.', "A network.")
    assert found.requirements == ("numpy>=2", 'scipy; python_version < "4"')
    assert found.source == "pyproject.toml"


def test_else_from_model_yaml(tmp_path: Path) -> None:
    product = find(None, project(tmp_path / "m", {"model.yaml": MANIFEST})).product
    assert (product.name, product.version, product.author) == ("Handwritten-digits", "1.0.0", "The authors")
    assert (product.summary, product.details) == ("Reads a digit.", "A network.")


@pytest.mark.parametrize(
    ("folder", "name"),
    [("digits", "digits"), ("My model (2)", "My-model-2"), ("2nd try", "nd-try"), ("模型", "model"), ("_x_", "x")],
)
def test_else_from_the_folder(tmp_path: Path, folder: str, name: str) -> None:
    product = find(None, project(tmp_path / folder)).product
    assert (product.name, product.version) == (name, "1.0.0")


@pytest.mark.parametrize(
    ("version", "expected"), [("1", "1.0.0"), ("1.2", "1.2.0"), ("v1.2.3", "1.2.3"), ("2026.11", "2026.11.0")]
)
def test_versions_become_three_integers(tmp_path: Path, version: str, expected: str) -> None:
    root = project(tmp_path / "m", {"pyproject.toml": f'[project]\nname = "m"\nversion = "{version}"\n'})
    assert find(None, root).product.version == expected


@pytest.mark.parametrize(
    "version",
    ["1.2.3rc1", "1.2.3.dev4", "1.2.3+local", "1.2.3.4", "1!1.2.3", "latest", "1.2.3.post1", "1.2.99999999999"],
)
def test_versions_that_are_no_three_integers_are_refused(tmp_path: Path, version: str) -> None:
    root = project(tmp_path / "m", {"pyproject.toml": f'[project]\nname = "m"\nversion = "{version}"\n'})
    with pytest.raises(ConfigError, match=r"^pyproject\.toml: project.version: expected three integers .*, got"):
        find(None, root)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"pyproject.toml": "[project\n"}, "pyproject.toml: expected TOML, got an error"),
        ({"pyproject.toml": "project = 1\n"}, "pyproject.toml: project: expected a table"),
        (
            {"pyproject.toml": "[project]\nrequires-python = 'new'\n"},
            "project.requires-python: expected versions such as",
        ),
        (
            {"pyproject.toml": "[project]\nrequires-python = 3.11\n"},
            "project.requires-python: expected versions such as",
        ),
        ({"pyproject.toml": "tool = 1\n"}, "pyproject.toml: tool: expected a table"),
        ({"pyproject.toml": b"\xff"}, "pyproject.toml: expected TOML, got an error"),
        ({"pyproject.toml": "#" * 1_100_000}, "pyproject.toml: expected at most 1048576 bytes"),
        ({"model.yaml": "a: [\n"}, "model.yaml: expected YAML, got an error"),
    ],
)
def test_damaged_metadata_is_refused(tmp_path: Path, files: dict[str, str | bytes], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        find(None, project(tmp_path / "m", files))


@pytest.mark.parametrize(
    "pyproject",
    [
        f"[project]\nname = 1\ndynamic = 1\nversion = 0x{'f' * 9000}\n",
        "[tool]\npoetry = 1\n",
        "[project]\nauthors = [1]\n",
    ],
)
def test_odd_metadata_counts_as_none(tmp_path: Path, pyproject: str) -> None:
    found = find(None, write(tmp_path / "m", {"predictor.py": PREDICTOR, "pyproject.toml": pyproject}))
    assert (found.product.version, found.product.author, found.requirements) == ("1.0.0", "", ())


# --- requirements ---


def test_requirements_txt_goes_before_pyproject_and_an_option_before_both(tmp_path: Path) -> None:
    root = project(tmp_path / "m", {"pyproject.toml": PYPROJECT, "serving.txt": "scipy\n"})
    assert find(None, root).requirements == ("numpy>=2",)
    found = find(None, root, requirements=Path("serving.txt"))
    assert (found.requirements, found.source) == (("scipy",), "serving.txt")


REQUIREMENTS = """\
\ufeff# a comment
numpy>=2  # another
scipy == 1.15 \\
    --hash=sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa \\
    --hash=sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb

uvloop; sys_platform == "linux"
-r more/other.txt
"""


def test_comments_continued_lines_hashes_markers_and_other_files(tmp_path: Path) -> None:
    root = project(
        tmp_path / "m",
        {
            "requirements.txt": REQUIREMENTS,
            "more/other.txt": "pandas\n--requirement=third.txt",
            "more/third.txt": "torch",
        },
    )
    found = find(None, root)
    assert found.requirements == (
        "numpy>=2", "scipy==1.15", 'uvloop; sys_platform == "linux"', "pandas", "torch",
    )  # fmt: skip
    assert found.hashes == {"scipy": {f"sha256:{letter * 64}" for letter in "ab"}}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("-e .", r"line 2: '-e \.': expected a name that an index has.*own files are in the image anyway"),
        (".", "expected a name that an index has.*got a path or URL"),
        ("./wheels/x.whl", "got a path or URL"),
        ("/opt/x-1.0.tar.gz", "got a path or URL"),
        ("x @ file:///opt/x", "got a path or URL"),
        ("git+https://u:hunter2@example.com/x.git", r"'git\+https://\*\*\*@example.com/x.git': .*got a path or URL"),
        ("x @ https://u:hunter2@example.com/x.whl", "got a path or URL"),
        ("x @ https://u:hunter2@hunter2@example.com/x.whl", r"https://\*\*\*@example.com/x.whl"),
        ("x @ https://u:a/hunter2@example.com/x.whl", r"https://\*\*\*@example.com/x.whl"),
        ("x @ https://example.com:80/x.whl?sig=hunter2", r"https://example.com:80/x.whl\?\*\*\*'"),
        (
            "-r https://u:hunter2@example.com/x.txt",
            r"'-r https://\*\*\*@example.com/x.txt': expected a file of the project",
        ),
        ("--index-url https://u:hunter2@example.com/simple", "--index-url: pass an index by --pip-config FILE"),
        ("-i https://u:hunter2@example.com/simple", "-i: pass an index by --pip-config FILE"),
        ("--extra-index-url=https://u:hunter2@example.com", "--extra-index-url: pass an index by --pip-config FILE"),
        ("-c constraints.txt", "expected requirements alone"),
        ("--pre", "expected a requirement, not an option of pip"),
        ("-r ../outside.txt", r"-r \.\./outside.txt: expected a file inside of the project"),
        ("-r /etc/hostname", "expected a file inside of the project"),
        ("-r link.txt", "expected a file inside of the project"),
        ("-r missing.txt", "missing.txt: No such file or directory"),
        ("-r requirements.txt", "does it include itself"),
        ("scipy==1 --hash=md5:aa", "expected --hash=sha256: and 64 hexadecimal digits, got 'md5:aa'"),
        ("numpy >> 2", "'numpy >> 2': expected a name that an index has, such as numpy>=2"),
        ("import os", "expected a name that an index has"),
    ],
)
def test_lines_that_lead_elsewhere_are_refused(tmp_path: Path, line: str, says: str) -> None:
    write(tmp_path, {"outside.txt": "secret-package"})
    root = project(tmp_path / "m", {"requirements.txt": f"numpy\n{line}\n"})
    (root / "link.txt").symlink_to("../outside.txt")
    with pytest.raises(ConfigError, match=says) as caught:
        find(None, root)
    assert "hunter2" not in caught.value.message
    assert "secret-package" not in caught.value.message


def test_lines_for_servekit_are_taken_together(tmp_path: Path) -> None:
    found = find(None, project(tmp_path / "m", {"requirements.txt": "servekit[image]<9\nservekit>=0.1\n"}))
    assert (found.servekit, found.extras) == ("servekit[image]<9,>=0.1", ("image",))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a" * 1_100_000])
def test_a_file_that_is_no_list_of_requirements_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigError, match=r"^requirements\.txt: expected"):
        find(None, project(tmp_path / "m", {"requirements.txt": content}))


def test_requirements_of_another_place_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {"outside.txt": "numpy"})
    with pytest.raises(ConfigError, match=r"^--requirements: expected a file inside of the project"):
        find(None, project(tmp_path / "m"), requirements=Path("../outside.txt"))


@pytest.mark.parametrize(
    ("pyproject", "says"),
    [
        ('[project]\nname = "m"\ndynamic = ["dependencies"]\n', "they are dynamic: name them"),
        ('[tool.poetry.dependencies]\nnumpy = "*"\n', r"got those of \[tool.poetry\] only"),
        ('[project]\nname = "m"\ndependencies = [1]\n', "expected a list of texts"),
        ('[project]\nname = "m"\ndependencies = ["x @ file:///x"]\n', "got a path or URL"),
    ],
)
def test_dependencies_of_pyproject_that_cannot_be_used(tmp_path: Path, pyproject: str, says: str) -> None:
    root = write(tmp_path / "m", {"predictor.py": PREDICTOR, "pyproject.toml": pyproject})
    with pytest.raises(ConfigError, match=rf"^pyproject.toml: project.dependencies: .*{says}"):
        find(None, root)
