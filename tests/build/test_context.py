"""Which files of a project enter the context, and how it is written."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from projects import project, tree, write

from servekit.containers import BootFile, Product
from servekit.errors import ConfigError
from servekit.images import context
from servekit.images.context import Collected, Copied, collect
from servekit.images.ignore import Rules, Verdict
from servekit.images.project import Project
from servekit.signature import Signature, Text

SIGNATURE = Signature({"x": Text()}, {"y": Text()})
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n"
MARKED = {"Dockerfile": BootFile(b"# Made by `servekit build`\n")}


def collected(root: Path, exclude: Sequence[str] = (), *, apart: Sequence[Path] = ()) -> Collected:
    return collect(Project(root, "predictor.py", Product("m", "1.0.0", SIGNATURE), (), ()), exclude, apart=apart)


# --- what enters ---


def test_every_regular_file_enters(tmp_path: Path) -> None:
    names = {
        "a/b/c.bin",
        "predictor.py",
        "requirements.txt",
        ".hidden",
        "tests/test_it.py",
        "name with spaces",
        "ünï.txt",
        "empty",
    }
    root = project(tmp_path / "m", dict.fromkeys(names - {"predictor.py", "requirements.txt"}, ""))
    found = collected(root)
    assert set(found.files) == names
    assert list(found.files) == sorted(names)
    assert (found.left_out, found.secrets, found.secrets_within) == ((), (), ())


@pytest.mark.parametrize(
    "name",
    [
        ".git/config", ".git", ".hg/x", ".svn/x", "sub/.git/config", "__pycache__/a.pyc", "sub/__pycache__/a.pyc", "a.pyc",
        "node_modules/x.js", ".venv/x", ".idea/x", ".vscode/x", "a.py~", ".a.py.swp", "#a.py#", ".DS_Store", "build/x", "dist/x",
        "m.egg-info/x", "model.tar.gz", ".pytest_cache/x", ".mypy_cache/x", ".servekit/copy", "._model.onnx",
    ],
)  # fmt: skip
def test_what_is_no_part_of_the_product_is_left_out_and_told(tmp_path: Path, name: str) -> None:
    found = collected(project(tmp_path / "m", {name: "", "sub/build/kept": ""}))
    assert set(found.files) == {"predictor.py", "requirements.txt", "sub/build/kept"}
    [told] = found.left_out
    assert name == told or (told.endswith("/") and name.startswith(told))
    assert found.secrets == ()


@pytest.mark.parametrize(
    "name",
    [
        ".env", ".env.production", "sub/.env", "prod.env", ".ENV", "server.pem", "Server.PEM", "tls.key", "a.p12", "a.pfx",
        "id_rsa", "id_rsa.pub", "id_ed25519", "keys/id_ed25519_work", ".netrc", ".pypirc", ".npmrc", "pip.conf",
        ".aws/credentials", ".ssh/config", ".kube/config", ".docker/config.json", ".config/gcloud/x", "credentials.json",
        "credentials-prod.json", "a\nb/.env", "a\r/tls.key", "service-account.json", "service_account-1.json", "main.tfstate", ".git-credentials",
        "application_default_credentials.json", "conf/secrets.yaml", ".secrets.toml", ".dvc/config.local", "kaggle.json", ".condarc",
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_is_left_out_and_told_apart(tmp_path: Path, name: str) -> None:
    found = collected(project(tmp_path / "m", {name: "secret"}))
    assert set(found.files) == {"predictor.py", "requirements.txt"}
    assert found.left_out == ()
    [told] = found.secrets
    assert name == told or (told.endswith("/") and name.startswith(told))


@pytest.mark.parametrize(
    ("name", "content", "secret"),
    [
        ("deploy", KEY, True),
        ("deploy", "\n" + KEY.replace("OPENSSH ", ""), True),
        ("account.json", '{"private_key": "-----BEGIN PRIVATE KEY-----\\nabc"}', True),
        ("bundle.crt", f"-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n{KEY}", True),
        ("exported", f"Bag Attributes\n    friendlyName: me\n{KEY}", True),
        ("windows", "\ufeff" + KEY, True),
        ("age.txt", "# created: 2026\n# public key: age1\nAGE-SECRET-KEY-1ABC\n", True),
        ("ca.crt", "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n", False),
        ("pyproject.toml", '[[tool.uv.index]]\nurl = "https://u:hunter2@example.com/simple"\n', True),
        ("requirements-dev.txt", "--index-url https://:hunter2@example.com/simple\n", True),
        ("Pipfile", 'url = "https://${USER}:${PASSWORD}@example.com/simple"\n', False),
        ("urls.txt", "https://example.com:80/a@b git+ssh://git@example.com/a\n", False),
        ("test_tls.py", f'KEY = """{KEY}"""', False),
        ("notes.txt", "PRIVATE KEY", False),
        ("public", KEY.replace("PRIVATE", "PUBLIC"), False),
    ],
)
def test_keys_are_known_by_their_content(tmp_path: Path, name: str, content: str, secret: bool) -> None:
    found = collected(project(tmp_path / "m", {name: content}))
    assert (name in found.files, found.secrets) == ((False, (name,)) if secret else (True, ()))


def test_virtual_environments_are_known_whatever_they_are_called(tmp_path: Path) -> None:
    root = project(tmp_path / "m", {"my-env/pyvenv.cfg": "", "my-env/lib/x.py": "", "env/model.bin": ""})
    found = collected(root)
    assert set(found.files) == {"predictor.py", "requirements.txt", "env/model.bin"}
    assert found.left_out == ("my-env/",)


def test_contexts_of_earlier_builds_are_known_whatever_they_are_called(tmp_path: Path) -> None:
    ours = "# Made by `servekit build`, which writes this folder anew: change the project instead.\nFROM scratch\n"
    root = project(
        tmp_path / "m", {"out/Dockerfile": ours, "out/project/x.py": "", "mine/Dockerfile": "FROM scratch\n"}
    )
    found = collected(root)
    assert set(found.files) == {"predictor.py", "requirements.txt", "mine/Dockerfile"}
    assert found.left_out == ("out/",)


def test_patterns_of_the_user(tmp_path: Path) -> None:
    root = project(
        tmp_path / "m",
        {
            ".servekitignore": "# not for the image\n*.csv\n!keep.csv\n/notes/\n!ca.pem\n!dist/\n",
            "a.csv": "", "keep.csv": "", "notes/a": "", "sub/notes/b": "", "ca.pem": "", "dist/x": "", "big.bin": "", "sub/big.bin": "",
        },
    )  # fmt: skip
    found = collected(root, ["/big.bin", "!a.csv"])
    assert set(found.files) == {
        ".servekitignore", "predictor.py", "requirements.txt", "a.csv", "keep.csv", "sub/notes/b", "ca.pem", "dist/x", "sub/big.bin",
    }  # fmt: skip
    assert found.left_out == ("big.bin", "notes/")
    assert found.secrets_within == ("ca.pem",)


def test_a_key_enters_when_the_user_says_so(tmp_path: Path) -> None:
    found = collected(project(tmp_path / "m", {"deploy": KEY}), ["!deploy"])
    assert ("deploy" in found.files, found.secrets_within, found.secrets) == (True, ("deploy",), ())


@pytest.mark.parametrize("pattern", ["!", "a\\"])
def test_a_pattern_that_is_none_is_refused(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"^--exclude: expected a pattern as in \.gitignore, got"):
        collected(project(tmp_path / "m"), [pattern])


def test_the_last_pattern_counts(tmp_path: Path) -> None:
    rules = Rules(tmp_path / "none", ["*.bin", "!a.bin", "a.bin", "!.env"])
    assert [rules.judge(name) for name in ("a.bin", "b.bin", "c", ".env", "x/.git")] == [
        Verdict.LEFT_OUT, Verdict.LEFT_OUT, Verdict.ENTERS, Verdict.SECRET_ENTERS, Verdict.LEFT_OUT,
    ]  # fmt: skip


def test_what_the_command_writes_does_not_enter(tmp_path: Path) -> None:
    root = project(
        tmp_path / "m", {"out/Dockerfile": "", "weights.bin": "", "requirements.lock": "", "sub/requirements.lock": ""}
    )
    found = collected(root, apart=[root / "out", root / "image.tar"])
    assert set(found.files) == {"predictor.py", "requirements.txt", "weights.bin", "sub/requirements.lock"}


def test_a_link_does_not_bring_in_what_the_command_reads_or_writes(tmp_path: Path) -> None:
    root = project(tmp_path / "m", {"index.ini": "password", "out/Dockerfile": ""})
    (root / "notes.txt").symlink_to("index.ini")
    (root / "more").symlink_to("out")
    (root / "image.bin").symlink_to(tmp_path / "image.bin")
    found = collected(root, apart=[root / "index.ini", root / "out", root / "image.bin"])
    assert set(found.files) == {"predictor.py", "requirements.txt"}


def test_an_image_that_was_saved_before_stays_out(tmp_path: Path) -> None:
    found = collected(project(tmp_path / "m", {"image.tar": "", "data/shard.tar": ""}))
    assert set(found.files) == {"predictor.py", "requirements.txt", "data/shard.tar"}
    assert found.left_out == ("image.tar",)


def test_files_that_come_and_go_do_not_disturb(tmp_path: Path) -> None:
    """As those of another build of the project do."""
    root = project(tmp_path / "m")
    program = (
        "import os, sys\n"
        "print(flush=True)\n"
        "while os.getppid() != 1:\n"
        "    for number in range(50):\n"
        "        open(f'.servekit-build-{number}', 'w').close()\n"
        "        os.unlink(f'.servekit-build-{number}')\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=root, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None
            other.stdout.readline()
            for _ in range(1000):
                assert set(collected(root).files) == {"predictor.py", "requirements.txt"}
        finally:
            other.kill()


# --- links, and other things that are no files ---


def test_links_within_the_project_become_files(tmp_path: Path) -> None:
    root = project(tmp_path / "m", {"models/v2/m.onnx": "two", "models/v2/data": "d"})
    (root / "m.onnx").symlink_to("models/v2/m.onnx")
    (root / "latest").symlink_to(root / "models" / "v2")
    found = collected(root)
    context.write({f"project/{name}": file for name, file in found.files.items()} | MARKED, tmp_path / "out")
    written = tree(tmp_path / "out" / "project")
    assert not any(stat.S_ISLNK(mode) for mode, _, _ in written.values())
    assert written["m.onnx"][2] == written["latest/m.onnx"][2] == written["models/v2/m.onnx"][2] == b"two"


@pytest.mark.parametrize("target", ["../outside", "/etc/hostname", "../outside/file", "/proc/self/environ"])
def test_a_link_that_leads_out_is_refused_by_name(tmp_path: Path, target: str) -> None:
    write(tmp_path, {"outside/file": "secret"})
    root = project(tmp_path / "m", {"sub/a": ""})
    (root / "sub" / "evil").symlink_to(Path("..", target) if target.startswith("..") else target)
    with pytest.raises(ConfigError, match=r"^sub/evil: a link that leads out of the project"):
        collected(root)
    assert set(collected(root, ["evil"]).files) == {"predictor.py", "requirements.txt", "sub/a"}


def test_a_link_that_leads_nowhere_is_refused_by_name(tmp_path: Path) -> None:
    root = project(tmp_path / "m")
    (root / "gone").symlink_to("missing")
    with pytest.raises(ConfigError, match=r"^gone: a link that leads nowhere"):
        collected(root)
    (root / "gone").unlink()
    (root / "gone").symlink_to("gone")
    with pytest.raises(ConfigError, match=r"^gone: a link that leads nowhere"):
        collected(root)


def test_a_link_to_a_folder_above_is_refused(tmp_path: Path) -> None:
    root = project(tmp_path / "m", {"a/b/c": ""})
    (root / "a" / "b" / "loop").symlink_to(root / "a")
    with pytest.raises(ConfigError, match=r"^a/b/loop: a link to a folder that it lies in"):
        collected(root)


@pytest.mark.parametrize(
    ("name", "target"), [("settings", ".env"), ("data", ".git"), ("data", ".git/config"), ("key", ".ssh/id")]
)
def test_a_link_does_not_bring_in_what_stays_out(tmp_path: Path, name: str, target: str) -> None:
    root = project(tmp_path / "m", {".env": "SECRET", ".git/config": "", ".ssh/id": ""})
    (root / name).symlink_to(target)
    found = collected(root)
    assert set(found.files) == {"predictor.py", "requirements.txt"}
    assert any(told.rstrip("/") == name for told in (*found.left_out, *found.secrets))


def test_a_pattern_of_the_user_does_not_open_a_folder_to_a_link(tmp_path: Path) -> None:
    root = project(tmp_path / "m", {".git/config": ""})
    (root / "data").symlink_to(".git/config")
    found = collected(root, ["!config"])
    assert (set(found.files), found.left_out) == ({"predictor.py", "requirements.txt"}, (".git/", "data"))


def test_what_is_no_file_is_left_out_and_told(tmp_path: Path) -> None:
    root = project(tmp_path / "m")
    os.mkfifo(root / "pipe")
    assert collected(root).left_out == ("pipe",)


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    root = project(tmp_path / "m")
    Path(os.fsdecode(bytes(root) + b"/\xff.bin")).touch()
    with pytest.raises(ConfigError, match=r"'\\udcff\.bin': expected names in UTF-8"):
        collected(root)


# --- limits ---


def test_large_files_are_refused_by_name(tmp_path: Path) -> None:
    root = project(tmp_path / "m", {"weights.bin": ""})
    os.truncate(root / "weights.bin", 10 * 1024**3)
    assert collected(root).nbytes > 10 * 1024**3
    os.truncate(root / "weights.bin", 10 * 1024**3 + 1)
    with pytest.raises(
        ConfigError, match=r"^weights\.bin: expected files of at most 10737418240 bytes, got 10737418241"
    ):
        collected(root)


def test_many_large_files_are_refused(tmp_path: Path) -> None:
    root = project(tmp_path / "m", {f"{number}.bin": "" for number in range(6)})
    for path in root.glob("*.bin"):
        os.truncate(path, 9 * 1024**3)
    with pytest.raises(ConfigError, match=r"^the project: expected at most 53687091200 bytes of files, got 57982"):
        collected(root)


def test_deep_folders_are_refused(tmp_path: Path) -> None:
    root = project(tmp_path / "m", {"/".join(["d"] * 70) + "/f": ""})
    with pytest.raises(ConfigError, match="expected folders at most 64 deep"):
        collected(root)


# --- writing ---


def test_links_that_multiply_are_refused(tmp_path: Path) -> None:
    """15 folders with two links each, by which 2 ** 15 could be reached."""
    root = project(tmp_path / "m")
    for number in range(15):
        (root / f"d{number}").mkdir()
        for name in "ab":
            (root / f"d{number}" / name).symlink_to(f"../d{number + 1}")
    (root / "d15").mkdir()
    with pytest.raises(ConfigError, match=r"^the project: expected at most 20000 folders"):
        collected(root)


def test_modes_and_times_are_fixed(tmp_path: Path) -> None:
    root = project(tmp_path / "m", {"run.sh": "", "sub/a": ""})
    (root / "run.sh").chmod(0o700)
    (root / "sub" / "a").chmod(0o600)
    found = collected(root)
    before = os.umask(0o077)
    try:
        context.write(dict(found.files) | MARKED, tmp_path / "out")
    finally:
        os.umask(before)
    modes = {name: (stat.S_IMODE(mode), time) for name, (mode, time, _) in tree(tmp_path / "out").items()}
    assert modes["run.sh"] == (0o755, 315532800)
    assert modes["sub/a"] == modes["Dockerfile"] == (0o644, 315532800)
    assert modes["sub"] == (0o755, 315532800)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o755


def test_an_older_context_is_replaced_whole(tmp_path: Path) -> None:
    context.write(MARKED | {"project/old": BootFile(b"")}, tmp_path / "a" / "out")
    context.write(MARKED | {"project/new": BootFile(b"", executable=True)}, tmp_path / "a" / "out")
    assert set(tree(tmp_path / "a" / "out")) == {"Dockerfile", "project", "project/new"}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["out"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    context.write(MARKED, tmp_path / "out")
    assert set(tree(tmp_path / "out")) == {"Dockerfile"}


@pytest.mark.parametrize(
    ("there", "says"),
    [
        ({"notes.txt": ""}, "expected an empty folder or a context"),
        ({"Dockerfile": "FROM python\n"}, "expected an empty folder or a context"),
        (
            {"Dockerfile": "# Made by `servekit build`\n", "notes.txt": ""},
            "'notes.txt' is not of a context's files, and would be lost",
        ),
    ],
)
def test_what_is_no_context_of_ours_is_not_touched(tmp_path: Path, there: dict[str, str], says: str) -> None:
    write(tmp_path / "out", there)
    before = tree(tmp_path)
    with pytest.raises(ConfigError, match=says):
        context.write(MARKED, tmp_path / "out")
    assert tree(tmp_path) == before


def test_a_file_is_no_place_for_it(tmp_path: Path) -> None:
    write(tmp_path, {"out": "x"})
    with pytest.raises(ConfigError, match="expected a folder, got a file"):
        context.write(MARKED, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "x"


@pytest.mark.parametrize("output", ["m", ".", "m/.."])
def test_the_project_is_no_place_for_it(tmp_path: Path, output: str) -> None:
    project(tmp_path / "m")
    found = Project(tmp_path / "m", "predictor.py", Product("m", "1.0.0", SIGNATURE), (), ())
    with pytest.raises(ConfigError, match="expected a folder of its own, got one that the project lies in"):
        context.check_output(tmp_path / output, found)
    context.check_output(tmp_path / "m" / "out", found)


@pytest.mark.parametrize("change", ["grows", "shrinks", "goes", "becomes a link"])
def test_after_an_error_the_older_context_is_as_it_was(tmp_path: Path, change: str) -> None:
    root = project(tmp_path / "m", {"weights.bin": "abc"})
    context.write(MARKED | {"project/old": BootFile(b"")}, tmp_path / "out")
    before = tree(tmp_path / "out")
    files = collected(root).files
    weights = root / "weights.bin"
    if change in ("grows", "shrinks"):
        weights.write_text("abcd" if change == "grows" else "ab")
    else:
        weights.unlink()
    if change == "becomes a link":
        weights.symlink_to("/etc/hostname")
    with pytest.raises(ConfigError, match=r"weights\.bin"):
        context.write(dict(files) | MARKED, tmp_path / "out")
    assert tree(tmp_path / "out") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "out"]


def test_a_full_disk_leaves_the_older_context(tmp_path: Path) -> None:
    """A limit on the size of files does what a full disk does."""
    root = project(tmp_path / "m", {"weights.bin": "x" * 100_000})
    context.write(MARKED, tmp_path / "out")
    before = tree(tmp_path / "out")
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from servekit.images.context import Copied, write\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        f"write({{'project/w': Copied(Path({str(root / 'weights.bin')!r}), 100_000)}}, Path({str(tmp_path / 'out')!r}))\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert "ConfigError: the context in " in ended.stderr
    assert "File too large" in ended.stderr
    assert tree(tmp_path / "out") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "out"]


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "", "a\0b"])
def test_no_file_gets_out_of_the_context(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="expected a name that stays in the context"):
        context.write({name: BootFile(b"")}, tmp_path / "deep" / "out")
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_large_file_is_copied_in_pieces(tmp_path: Path) -> None:
    """Not held in memory: 400 MB of file with less memory than that."""
    big = tmp_path / "weights.bin"
    big.touch()
    os.truncate(big, 400_000_000)
    program = (
        "import resource\n"
        "from pathlib import Path\n"
        "from servekit.images.context import Copied, write\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (200_000_000, 200_000_000))\n"
        f"write({{'project/w': Copied(Path({str(big)!r}), 400_000_000)}}, Path({str(tmp_path / 'out')!r}))\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "out" / "project" / "w").stat().st_size == 400_000_000
    (tmp_path / "out" / "project" / "w").unlink()


def test_entries_say_what_they_are(tmp_path: Path) -> None:
    root = project(tmp_path / "m", {"weights.bin": "abc"})
    assert collected(root).files["weights.bin"] == Copied(root / "weights.bin", 3)
