"""What a caller may name, and that nothing else is opened while finding out."""

from __future__ import annotations

import itertools
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import servekit
from servekit.engine.roots import SYSTEM, Root, job_roots, open_file, open_under
from servekit.errors import ConfigError, InvalidInput

INSIDE, SECRET = b"inside", b"secret"


class Watch:
    """What is opened, and a chance to act right before it is. Audit hooks cannot be removed, so one stays, idle."""

    def __init__(self) -> None:
        self.opened: list[tuple[str, int]] = []
        self.active = False
        self.before: Callable[[int], None] | None = None
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        # What is opened by number was opened by name before.
        if not self.active or event != "open" or isinstance(arguments[0], int):
            return
        self.active = False
        try:
            if self.before is not None:
                self.before(len(self.opened))
        finally:
            self.active = True
        self.opened.append((os.fsdecode(arguments[0]), arguments[2]))


_WATCH = Watch()


@pytest.fixture
def watch() -> Iterator[Watch]:
    _WATCH.opened, _WATCH.before, _WATCH.active = [], None, False
    yield _WATCH
    _WATCH.active = False


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """`root` with what a job may use, `outside` with what it may not, laid out alike."""
    for name, content in (("root", INSIDE), ("outside", SECRET)):
        (tmp_path / name / "a" / "b").mkdir(parents=True)
        for directory in ("", "a", "a/b"):
            (tmp_path / name / directory / "file").write_bytes(content)
    return tmp_path


def read(roots: tuple[Root, ...], path: str, name: str = "file") -> bytes:
    with open_under(roots, path, "input") as directory:
        descriptor, size = open_file(directory, name, f"{path}/{name}", "input")
    with os.fdopen(descriptor, "rb") as opened:
        body = opened.read()
    assert len(body) == size
    return body


def assert_nothing_else_was_opened(watch: Watch, *roots: Path) -> None:
    """Each open is of a root, or of one plain name relative to a descriptor, and follows no link: by induction, all
    that is opened lies below a root."""
    assert watch.opened
    for name, flags in watch.opened:
        assert name in [str(root) for root in roots] or ("/" not in name and name not in ("", ".", ".."))
        assert flags & os.O_NOFOLLOW


@pytest.mark.parametrize("path", ["", "/", "/a", "/a/", "//a//.//b", "/a/./b/."])
def test_paths_below_a_root(tree: Path, watch: Watch, path: str) -> None:
    root = tree / "root"
    roots = job_roots([str(root)])
    watch.active = True
    assert read(roots, str(root) + path) == INSIDE
    assert_nothing_else_was_opened(watch, root)


def plant(root: Path, outside: Path) -> None:
    """Every trap that a directory can hold."""
    (root / "up").symlink_to("..")
    (root / "link").symlink_to("../outside")
    (root / "absolute").symlink_to(outside)
    (root / "inner").symlink_to("a")
    (root / "loop").symlink_to("loop")
    (root / "dangling").symlink_to("nowhere")
    (root / "a" / "deep").symlink_to("../../outside/a")
    (root / "proc").symlink_to("/proc/self/root")
    os.mkfifo(root / "fifo")
    os.mknod(root / "socket", stat.S_IFSOCK | 0o600)


REFUSED: list[tuple[str, str]] = [
    ("", "absolute path"),
    (".", "absolute path"),
    ("{name}", "absolute path"),
    ("~", "absolute path"),
    ("file://{root}", "absolute path"),
    ("{root}/../outside", "without .."),
    ("{root}/a/../../outside", "without .."),
    ("{root}/a/..", "without .."),
    ("{outside}", "none of the directories"),
    ("{root}x", "none of the directories"),
    ("/", "none of the directories"),
    ("/proc/self/root{root}", "none of the directories"),
    ("/proc/self/cwd", "none of the directories"),
    ("/dev/fd/0", "none of the directories"),
    ("{root}\0", "without NUL"),
    ("{root}/a\0/../../outside", "without NUL"),
    ("{root}/\ud800", "UTF-8"),
    ("{root}/" + "x" * 300, "too long"),
    ("{root}" + "/x" * 2100, "at most 4096 bytes"),
    ("{root}/nothing", "No such file"),
    ("{root}/file", "'file' is no directory"),
    ("{root}/file/x", "'file' is no directory"),
    ("{root}/up", "'up' is a symbolic link"),
    ("{root}/up/outside", "'up' is a symbolic link"),
    ("{root}/link", "'link' is a symbolic link"),
    ("{root}/link/a", "'link' is a symbolic link"),
    ("{root}/absolute/a/b", "'absolute' is a symbolic link"),
    ("{root}/inner", "'inner' is a symbolic link"),
    ("{root}/loop", "'loop' is a symbolic link"),
    ("{root}/dangling", "'dangling' is a symbolic link"),
    ("{root}/a/deep/b", "'deep' is a symbolic link"),
    ("{root}/proc{root}", "'proc' is a symbolic link"),
    ("{root}/fifo", "'fifo' is a fifo"),
    ("{root}/socket", "'socket' is a socket"),
]


@pytest.mark.parametrize(
    ("path", "says", "make"),
    [(path, says, make) for path, says in REFUSED for make in (False, True) if not (make and "No such" in says)],
)
def test_directories_that_are_refused(tree: Path, watch: Watch, path: str, says: str, make: bool) -> None:
    root, outside = tree / "root", tree / "outside"
    plant(root, outside)
    roots = job_roots([str(root)])
    before = sorted(tree.rglob("*"))
    watch.active = True
    with (
        pytest.raises(InvalidInput, match=says) as caught,
        open_under(roots, path.format(root=root, outside=outside, name="root"), "input", make=make),
    ):
        pass
    watch.active = False
    assert caught.value.message.startswith("input: ")
    assert len(caught.value.message) < 600
    if watch.opened:
        assert_nothing_else_was_opened(watch, root)
    if "too long" not in says:
        assert sorted(tree.rglob("*")) == before


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path, tree: None, "No such file"),
        (lambda path, tree: path.mkdir(), "expected a regular file .* got a directory"),
        (lambda path, tree: os.mkfifo(path), "got a fifo"),
        (lambda path, tree: os.mknod(path, stat.S_IFSOCK | 0o600), "got a socket"),
        (lambda path, tree: path.symlink_to("../file"), "got a symbolic link"),
        (lambda path, tree: path.symlink_to(tree / "outside" / "file"), "got a symbolic link"),
        (lambda path, tree: path.symlink_to("/dev/zero"), "got a symbolic link"),
        (lambda path, tree: path.hardlink_to(tree / "outside" / "file"), r"got one with 2 \(hard links\)"),
    ],
    ids=["missing", "directory", "fifo", "socket", "link", "link outside", "link to a device", "hard link"],
)
def test_files_that_are_refused(tree: Path, watch: Watch, make: Callable[[Path, Path], Any], says: str) -> None:
    directory = tree / "root" / "jobs"
    directory.mkdir()
    make(directory / "x", tree)
    roots = job_roots([str(tree / "root")])
    watch.active = True
    with pytest.raises(InvalidInput, match=says) as caught:
        read(roots, str(directory), "x")
    watch.active = False
    assert caught.value.message.startswith("input: ")
    # What is no regular file is not even opened: the root and one directory are.
    assert [name for name, _ in watch.opened if name == "x"] in ([], ["x"])
    if "hard" not in says:
        assert "x" not in [name for name, _ in watch.opened]


def test_a_device_is_not_opened(watch: Watch) -> None:
    roots = job_roots(["/dev"])
    watch.active = True
    with pytest.raises(InvalidInput, match="got a device"):
        read(roots, "/dev", "zero")
    assert [name for name, _ in watch.opened] == ["/dev"]


# --- all that one could type -----------------------------------------------------------------------------------

SEGMENTS = ["..", ".", "", "a", "link", "absolute", "up", "a/deep", "inner", "..\\", "%2e%2e", "...", "\u2024\u2024"]
ENDS = ["", "outside", "outside/a", "proc/self/root", "etc"]
CORPUS = sorted(
    {"/".join((*parts, end)) for n in (1, 2) for parts in itertools.product(SEGMENTS, repeat=n) for end in ENDS}
)


def test_a_corpus_of_traversals(tree: Path, watch: Watch) -> None:
    root, outside = tree / "root", tree / "outside"
    plant(root, outside)
    roots = job_roots([str(root)])
    assert len(CORPUS) > 200
    answers = {"inside": 0, "refused": 0}
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    watch.active = True
    for path in CORPUS:
        try:
            assert read(roots, f"{root}/{path}") == INSIDE
            answers["inside"] += 1
        except InvalidInput:
            answers["refused"] += 1
    watch.active = False
    assert_nothing_else_was_opened(watch, root)
    assert min(answers.values()) > 10
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


@given(
    st.lists(
        st.one_of(st.sampled_from([*SEGMENTS, "file", "b", "fifo", "loop", "\0", "\ud800"]), st.text(max_size=8)),
        max_size=8,
    ),
    st.booleans(),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_opens_what_lies_outside(tmp_path_factory: Any, watch: Watch, parts: list[str], below: bool) -> None:
    base = tmp_path_factory.getbasetemp() / "typed"
    root, outside = base / "root", base / "outside"
    if not base.exists():
        for name, content in (("root", INSIDE), ("outside", SECRET)):
            (base / name / "a" / "b").mkdir(parents=True)
            for directory in ("", "a", "a/b"):
                (base / name / directory / "file").write_bytes(content)
        plant(root, outside)
    roots = job_roots([str(root)])
    watch.opened = []
    watch.active = True
    try:
        assert read(roots, (f"{root}/" if below else "") + "/".join(parts)) == INSIDE
    except InvalidInput as error:
        assert error.message.startswith("input: ")  # noqa: PT017 - either is right
    finally:
        watch.active = False
    if watch.opened:
        assert_nothing_else_was_opened(watch, root)


# --- what changes meanwhile ------------------------------------------------------------------------------------


def outcomes(tree: Path, watch: Watch, swapped: str) -> list[str]:
    """Read root/a/b/file, a link put in the place of `swapped` before the first open, before the second, ..."""
    root, moved = tree / "root", tree / "moved"
    found: list[str] = []
    for moment in range(10):

        def swap(number: int, moment: int = moment) -> None:
            if number == moment:
                (root / swapped).rename(moved)
                (root / swapped).symlink_to(tree / "outside" / swapped)

        watch.opened, watch.before, watch.active = [], swap, True
        try:
            body = read(job_roots([str(root)]), str(root / "a" / "b"))
        except InvalidInput:
            found.append("refused")
        else:
            assert body == INSIDE
            found.append("read")
        finally:
            watch.active = False
        assert_nothing_else_was_opened(watch, root)
        if not moved.exists():
            break  # there were no more than `moment` opens
        (root / swapped).unlink()
        moved.rename(root / swapped)
    return found[:-1]


@pytest.mark.parametrize(
    ("swapped", "expected"),
    [
        # Opened in turn: the root, a, b, file. Swapped before it is opened it is refused, later it is of no effect.
        ("a", ["refused", "refused", "read", "read"]),
        ("a/b", ["refused", "refused", "refused", "read"]),
        ("a/b/file", ["refused", "refused", "refused", "refused"]),
    ],
)
def test_a_link_that_takes_the_place_of_what_was_looked_at(
    tree: Path, watch: Watch, swapped: str, expected: list[str]
) -> None:
    assert outcomes(tree, watch, swapped) == expected


def test_a_link_that_takes_the_place_of_what_was_made(tree: Path, watch: Watch) -> None:
    """Between mkdir and open, which is the moment that `make` has and reading has not."""
    root = tree / "root"

    def swap(number: int) -> None:
        if (root / "new").is_dir() and not (root / "new").is_symlink():
            (root / "new").rmdir()
            (root / "new").symlink_to(tree / "outside")

    watch.before, watch.active = swap, True
    with (
        pytest.raises(InvalidInput, match="symbolic link"),
        open_under(job_roots([str(root)]), str(root / "new" / "er"), "output", make=True),
    ):
        pass
    assert not (tree / "outside" / "er").exists()


# --- roots -----------------------------------------------------------------------------------------------------


def test_directories_are_made_with_their_parents(tree: Path) -> None:
    root = tree / "root"
    with open_under(job_roots([str(root)]), f"{root}/new/er/est", "output", make=True) as directory:
        assert os.fstat(directory).st_ino == (root / "new" / "er" / "est").stat().st_ino


def test_links_to_a_root_are_its_owners_business(tree: Path) -> None:
    (tree / "data").symlink_to("root")
    roots = job_roots([str(tree / "data")])
    assert read(roots, f"{tree}/data/a") == INSIDE
    assert read(roots, f"{tree}/root/a") == INSIDE


def test_the_innermost_root_counts(tree: Path) -> None:
    """And of several each may be used."""
    (tree / "root" / "a" / "into").symlink_to(tree / "outside")
    roots = job_roots([str(tree / "root"), str(tree / "root" / "a" / "into"), str(tree / "root" / "a")])
    assert read(roots, f"{tree}/root/a/b") == INSIDE
    assert read(roots, f"{tree}/root/a/into/a") == SECRET


@pytest.mark.parametrize("path", ["relative", "{tree}/nothing", "{tree}/root/file"])
def test_what_is_no_root(tree: Path, path: str) -> None:
    with pytest.raises(ConfigError, match="files_roots"):
        job_roots([path.format(tree=tree)])


@pytest.mark.parametrize(
    "path",
    [
        *("/proc", "/proc/self/root", "/proc/self/root/tmp", "/proc/1/cwd", "/proc/self/fd", "/sys/kernel", "/dev"),
        *("/dev/shm", "/dev/null/below", "/etc", "/usr/lib", "/usr/local/new", "/run/secrets", "/boot"),
        *(sys.prefix, f"{sys.prefix}/lib", str(Path(servekit.__file__).parent), f"{sys.base_prefix}/share"),
    ],
)
@pytest.mark.parametrize("make", [False, True], ids=["read", "make"])
def test_without_roots_all_but_the_systems_and_the_servers_directories(path: str, make: bool) -> None:
    if not Path("/", path.split("/")[1]).exists():
        pytest.skip("this system has no such directory")
    kept = pytest.raises(InvalidInput, match=r"of the system|of the server's code")
    with kept, open_under(job_roots(), path, "output", make=make):
        pass


@pytest.mark.parametrize("path", ["/bin", "/lib64/x", "/var/run/secrets"])
def test_links_among_the_systems_directories_lead_nowhere_else(path: str) -> None:
    with pytest.raises(InvalidInput), open_under(job_roots(), path, "input"):
        pass


def test_without_roots_any_other_directory(tree: Path, watch: Watch) -> None:
    """As Modzy's own sample has it: a volume at any place, for inputs and outputs alike."""
    roots = job_roots()
    watch.active = True
    assert read(roots, str(tree / "root" / "a")) == INSIDE
    assert_nothing_else_was_opened(watch, Path("/"))


def test_the_models_directory_is_kept_under_any_name(tree: Path) -> None:
    model = tree / "outside" / "a"
    roots = job_roots([], [model])
    with pytest.raises(InvalidInput, match="of the model"):
        read(roots, str(model / "b"))
    # Another mount of it would have its inode, too.
    model.rename(tree / "elsewhere")
    with pytest.raises(InvalidInput, match="of the model"):
        read(roots, str(tree / "elsewhere"))
    assert read(roots, str(tree / "outside")) == SECRET


def test_a_root_inside_of_the_models_directory_is_meant(tree: Path) -> None:
    roots = job_roots([str(tree / "root" / "a")], [tree / "root"])
    assert read(roots, str(tree / "root" / "a" / "b")) == INSIDE
    with pytest.raises(InvalidInput, match="none of the directories"):
        read(roots, str(tree / "root"))


def test_a_model_at_the_top_keeps_nothing_back(tree: Path) -> None:
    assert read(job_roots([], [Path("/")]), str(tree / "root")) == INSIDE


def test_the_systems_directories_are_absolute() -> None:
    assert all(Path(path).is_absolute() for path in SYSTEM)


def test_a_directory_may_be_kept_without_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    roots = job_roots([str(tmp_path)], alone=[tmp_path])
    with open_under(roots, str(tmp_path / "job"), "input"):
        pass
    with pytest.raises(InvalidInput, match="of the model"), open_under(roots, str(tmp_path), "input"):
        pass
