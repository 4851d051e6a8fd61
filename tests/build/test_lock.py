"""Locks, made by uv from folders of small wheels and from an index on this machine that asks for a password."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import builders
import pytest

from servekit.errors import ConfigError
from servekit.images import lock

PASSWORD = "hunter2secret"  # noqa: S105 - nobody has it


def has_uv() -> bool:
    try:
        return bool(lock._uv())
    except ConfigError:
        return False


needs_uv = pytest.mark.skipif(not has_uv(), reason="needs uv: pip install 'servekit[build]'")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither this machine's indexes nor what uv has kept."""
    for name in (*lock.UV_SOURCES, "PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """Two packages, one of which needs the other; one with a wheel for each architecture; one that is only source."""
    folder = tmp_path / "house"
    folder.mkdir()
    builders.wheel(folder, "top-package", "1.0", requires=["below>=1", "fast; python_version >= '3.12'"])
    builders.wheel(folder, "below", "1.0")
    builders.wheel(folder, "below", "1.5")
    builders.wheel(folder, "below", "2.0rc1")
    for machine in ("x86_64", "aarch64"):
        for python in ("cp311", "cp312"):
            builders.wheel(folder, "fast", "3.0", tag=f"{python}-{python}-manylinux_2_28_{machine}")
    builders.wheel(folder, "future", "1.0", tag="cp311-cp311-manylinux_2_99_x86_64")
    builders.sdist(folder, "sources", "1.0")
    return folder


def made(requirements: list[str], house: Path | None, python: str = "3.11", arch: lock.Arch = "amd64") -> str:
    return lock.make(requirements, python=python, arch=arch, wheelhouse=house)


def pins(text: str) -> list[str]:
    return re.findall(r"^[^\s\\]+", text, re.MULTILINE)


# --- what it says ---


@needs_uv
def test_every_package_is_pinned_and_hashed(house: Path) -> None:
    text = made(["top-package", "fast>=2; python_version < '4'"], house)
    assert pins(text) == ["below==1.5", "fast==3.0", "top-package==1.0"]
    digest = hashlib.sha256((house / "below-1.5-py3-none-any.whl").read_bytes()).hexdigest()
    assert text.startswith(f"below==1.5 \\\n    --hash=sha256:{digest}\n")
    assert str(house) not in text
    assert "#" not in text


@needs_uv
def test_the_same_text_in_any_order_and_for_names_in_any_spelling(house: Path) -> None:
    text = made(["top-package", "below<2"], house)
    assert made(["below<2", "Top_Package"], house) == text
    assert made(["top-package", "below<2"], house) == text


@needs_uv
def test_it_is_for_the_images_python_and_not_for_this_one(house: Path) -> None:
    assert pins(made(["top-package"], house, python="3.11")) == ["below==1.5", "top-package==1.0"]
    assert pins(made(["top-package"], house, python="3.12")) == ["below==1.5", "fast==3.0", "top-package==1.0"]
    with pytest.raises(ConfigError, match=r"^requirement 'fast': no version fits for Python 3\.13 on linux/amd64"):
        made(["fast"], house, python="3.13")


@needs_uv
@pytest.mark.parametrize("arch", ["amd64", "arm64"])
def test_pip_installs_it_with_hashes_required(house: Path, tmp_path: Path, arch: lock.Arch) -> None:
    """What the image does, for the Python and the architecture of the image."""
    text = made(["top-package", "fast"], house, arch=arch)
    (tmp_path / "lock.txt").write_text(text)
    ended = subprocess.run(
        [
            *builders.pip(), "download", "-q", "--require-hashes", "--no-deps", "--no-index",
            "--find-links", house, "-r", tmp_path / "lock.txt", "-d", tmp_path / "got", "--python-version", "3.11",
            "--platform", f"manylinux_2_28_{lock.MACHINES[arch]}", "--only-binary", ":all:",
        ],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    got = sorted(path.name for path in (tmp_path / "got").iterdir())
    assert got == sorted(lock.wheels(text, house, python="3.11", arch=arch))
    assert f"fast-3.0-cp311-cp311-manylinux_2_28_{lock.MACHINES[arch]}.whl" in got


def test_nothing_required_needs_no_resolver() -> None:
    assert lock.make([], python="3.11", arch="amd64", wheelhouse=None) == ""


# --- what does not resolve ---


@needs_uv
@pytest.mark.parametrize(
    ("requirements", "blamed", "says"),
    [
        (["below", "nowhere>=1"], "requirement 'nowhere>=1'", "nowhere was not found"),
        (["below==1.0", "top-package", "below==1.5"], "requirements 'below==1.0', 'below==1.5'", "below==1.0"),
        (["below==9.9"], "requirement 'below==9.9'", "there is no version of below==9.9"),
        (["sources"], "requirement 'sources'", "no usable wheels and only sources==1.0 is available"),
        (["future"], "requirement 'future'", "no wheels with a matching platform tag"),
        (["top-package", "below<1"], "requirements 'top-package', 'below<1'", "below>=1"),
    ],
)
def test_one_line_with_the_cause(house: Path, requirements: list[str], blamed: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made(requirements, house)
    message = caught.value.message
    assert message.startswith(f"{blamed}: no version fits for Python 3.11 on linux/amd64 from house: ")
    assert says in message
    assert "\n" not in message
    assert len(message) < 700
    assert str(house) not in message


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("-r other.txt", "'-r other.txt': expected a name with versions"),
        ("--index-url https://user:hunter2secret@pypi.internal/simple", "options, paths"),
        ("./local", "expected a name with versions"),
        ("below @ https://user:hunter2secret@pypi.internal/below.whl", "got a URL: make a wheel of it"),
        ("below >== 1", "expected a name with versions"),
        ("below @ file:///etc/passwd", "got a URL"),
    ],
)
def test_lines_that_cannot_be_locked(line: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made([line], None)
    assert says in caught.value.message
    assert PASSWORD not in caught.value.message
    assert "user" not in caught.value.message


def test_without_uv_it_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['uv'] = None\n"
        "from pathlib import Path; from servekit.images import lock\n"
        "from servekit.errors import ConfigError\n"
        "try: lock.make(['a'], python='3.11', arch='amd64', wheelhouse=None)\n"
        "except ConfigError as error: print(error.message)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert ended.stdout == 'no uv found, which pins the dependencies: pip install "servekit[build]"\n', ended.stderr


@needs_uv
def test_a_wheelhouse_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--offline '.*none': expected a folder of wheels"):
        made(["below"], tmp_path / "none")


# --- indexes ---


@needs_uv
def test_the_index_that_pip_is_set_up_for(house: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with builders.index(house, PASSWORD) as url:
        config = tmp_path / "pip.conf"
        config.write_text(f"[global]\nindex-url = {url}\n")
        monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
        text = made(["top-package"], None)
        assert text == made(["top-package"], house)
        assert PASSWORD not in text
        assert "127.0.0.1" not in text
        with pytest.raises(ConfigError) as caught:
            made(["nowhere"], None)
        # A file of the build's own goes before all that is set up here.
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
        given = lock.make(["top-package"], python="3.11", arch="amd64", wheelhouse=None, pip_config=config)
        assert given == made(["top-package"], house)
    assert "requirement 'nowhere'" in caught.value.message
    assert PASSWORD not in caught.value.message
    assert "simple" not in caught.value.message


@needs_uv
def test_all_of_pips_indexes_and_folders_are_asked_and_the_best_version_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / name for name in ("first", "second", "third")]
    for number, folder in enumerate(folders):
        folder.mkdir()
        builders.wheel(folder, "shared", f"1.{number}")
    builders.wheel(folders[0], "private", "1.0", requires=["shared", "third"])
    builders.wheel(folders[2], "third", "1.0")
    with builders.index(folders[0], PASSWORD) as first, builders.index(folders[1]) as second:
        monkeypatch.setenv("PIP_INDEX_URL", second)
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", first)
        monkeypatch.setenv("PIP_FIND_LINKS", str(folders[2]))
        assert pins(made(["private"], None)) == ["private==1.0", "shared==1.2", "third==1.0"]
        monkeypatch.delenv("PIP_FIND_LINKS")
        assert pins(made(["shared"], None)) == ["shared==1.1"]


@needs_uv
def test_where_uv_is_set_up_pips_settings_are_left_alone(
    house: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    builders.wheel(tmp_path / "other", "below", "7.0")
    with builders.index(house) as uvs, builders.index(tmp_path / "other") as pips:
        monkeypatch.setenv("PIP_INDEX_URL", pips)
        assert pins(made(["below"], None)) == ["below==7.0"]
        monkeypatch.setenv("UV_DEFAULT_INDEX", uvs)
        assert pins(made(["below"], None)) == ["below==1.5"]


@needs_uv
def test_a_wheelhouse_is_all_that_is_asked(house: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    builders.wheel(tmp_path / "other", "below", "7.0")
    with builders.index(tmp_path / "other") as url:
        for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL"):
            monkeypatch.setenv(name, url)
        monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "other"))
        assert pins(made(["below"], house)) == ["below==1.5"]


@needs_uv
def test_an_index_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"http://user:{PASSWORD}@127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(ConfigError) as caught:
        made(["below"], None)
    message = caught.value.message
    assert message.startswith("requirements: an index cannot be read for Python 3.11 on linux/amd64: ")
    assert "127.0.0.1:9" in message  # which one it was
    assert PASSWORD not in message
    assert "simple" not in message
    assert "\n" not in message


def test_pips_settings_in_pips_order(tmp_path: Path) -> None:
    config = tmp_path / "pip.conf"
    config.write_text(
        "[global]\nindex-url = https://a.example/simple\ntrusted-host =\n    one.example\n    two.example\n"
        "cert = /global.pem\nproxy = http://proxy.example:3128\n"
        "[install]\nindex-url = https://b.example/simple\n[download]\nindex-url = https://c.example/simple\n"
    )
    environ = {"PATH": os.environ["PATH"], "PIP_CONFIG_FILE": str(config)}
    environ |= {"PIP_CERT": "/variable.pem", "https_proxy": "http://mine.example"}
    assert lock._sources_of_pip(environ) == {
        "UV_DEFAULT_INDEX": "https://b.example/simple",
        "UV_INSECURE_HOST": "one.example two.example",
        "SSL_CERT_FILE": "/variable.pem",
        "HTTP_PROXY": "http://proxy.example:3128",
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("fetch `https://user:pass@host.example:8443/simple/a/` now", "fetch `host.example:8443` now"),
        ("https://token@host.example", "host.example"),
        ("https://user:p@ss@host.example/simple?token=1, x", "host.example, x"),
        ("at file:///opt/index/simple", "at a local folder"),
        ("(http://[::1]:8080/simple)", "([::1]:8080)"),
        ("nothing here: a==1", "nothing here: a==1"),
    ],
)
def test_no_address_of_an_index_is_shown(text: str, shown: str) -> None:
    assert lock.without_urls(text) == shown


# --- the files of a wheelhouse ---


@needs_uv
def test_exactly_the_locked_files(house: Path) -> None:
    text = made(["top-package", "fast"], house)
    fast = "fast-3.0-cp311-cp311-manylinux_2_28_x86_64.whl"
    found = lock.wheels(text, house, python="3.11", arch="amd64")
    assert sorted(found) == ["below-1.5-py3-none-any.whl", fast, "top_package-1.0-py3-none-any.whl"]
    assert found[fast] == house / fast
    assert lock.wheels(text, house) == found  # the lock has hashes of no other


def test_the_best_file_for_the_image(tmp_path: Path) -> None:
    tags = ["py3-none-any", "cp311-cp311-manylinux2014_x86_64", "cp311-cp311-manylinux_2_28_x86_64"]
    tags += ["cp39-abi3-manylinux_2_5_x86_64", "cp312-cp312-manylinux_2_28_x86_64", "cp311-cp311-musllinux_1_2_x86_64"]
    text = "a==1.0"
    for tag in tags:
        path = builders.wheel(tmp_path, "a", "1.0", tag=tag)
        text += f" \\\n    --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    for expected in (tags[2], tags[1], tags[3], tags[0]):
        name = f"a-1.0-{expected}.whl"
        assert list(lock.wheels(text, tmp_path, python="3.11", arch="amd64")) == [name]
        (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match=r"no wheel with a locked hash of a==1\.0"):
        lock.wheels(text, tmp_path, python="3.11", arch="amd64")


@needs_uv
def test_a_file_that_was_changed_or_is_gone_is_named(house: Path) -> None:
    text = made(["top-package"], house)
    (house / "top_package-1.0-py3-none-any.whl").unlink()
    with (house / "below-1.5-py3-none-any.whl").open("ab") as file:
        file.write(b"more")
    with pytest.raises(
        ConfigError, match=r"--offline .*: no wheel with a locked hash of below==1\.5, top-package==1\.0"
    ):
        lock.wheels(text, house)


@pytest.mark.parametrize("text", ["a", "a==1", "a>=1 --hash=sha256:" + "0" * 64, "-e .", "a==1 --hash=md5:" + "0" * 32])
def test_a_text_that_is_no_lock(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"^lock: expected name==version with its hashes, got"):
        lock.wheels(text, tmp_path)
