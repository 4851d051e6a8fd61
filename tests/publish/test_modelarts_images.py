"""The vendor's page, field by field: what is sent, what comes back, and what is refused before it is sent."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelarts_example import EXAMPLE_PATH, EXAMPLE_REQUEST, EXAMPLE_RESPONSE

from servekit.errors import ConfigError
from servekit.publish.failures import NotUnderstood
from servekit.publish.modelarts import images
from servekit.publish.modelarts.images import Group, Image, Registration

PATH = "swr.cn-north-4.myhuaweicloud.com/team/digits:1.0.0"
DIGEST = f"sha256:{'a1' * 32}"


def test_the_pages_example_request_is_what_we_send() -> None:
    request = Registration(EXAMPLE_PATH, arch="X86_64", description="", resource_category=["CPU"])
    assert request.document() == EXAMPLE_REQUEST
    assert request.check().repository == "op_svc_modelarts_container2/pytorch_1_8"


def test_the_pages_example_response_is_what_we_read() -> None:
    image = Image.of(EXAMPLE_RESPONSE)
    assert (image.id, image.arch, image.state) == ("708ca95d-c601-4dc7-86b9-670adfd5e818", "x86_64", "ACTIVE")
    assert image.resource_categories == ("CPU",)
    assert image.dev_services == ("NOTEBOOK", "SSH")
    assert image.status_message is None
    assert image.document() == EXAMPLE_RESPONSE
    assert not image.going


def test_every_field_of_the_request_is_sent_under_its_name() -> None:
    values: dict[str, Any] = {
        "swr_path": PATH, "arch": "AARCH64", "description": "Digits", "origin": "IMAGE_SAVE",
        "resource_category": ["CPU", "GPU", "ASCEND"], "service_type": "INFERENCE", "services": ["SSH"],
        "visibility": "PUBLIC", "workspace_id": "0" * 32, "flavor_type": "ASCEND_SNT9B", "tags": ["a"],
        "swr_instance_id": "0-a", "read_me": "# Digits",
    }  # fmt: skip
    request = Registration(**values)
    request.check()
    assert request.document() == values


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("arch", "x86", "arch: expected one of X86_64, AARCH64, got 'x86'"),
        ("arch", "", "arch: expected"),
        ("description", "x" * 513, "description: expected at most 512 characters, got 513"),
        ("origin", "MINE", "origin: expected one of CUSTOMIZE, IMAGE_SAVE"),
        ("resource_category", ["CPU", "TPU"], "resource_category: expected one of CPU, GPU, ASCEND, got 'TPU'"),
        ("resource_category", ["CPU", "CPU"], "resource_category: expected each"),
        ("service_type", "inference", "service_type: expected one of"),
        ("services", ["HTTP"], "services: expected one of NOTEBOOK, SSH"),
        ("visibility", "SECRET", "visibility: expected one of PRIVATE, PUBLIC"),
        ("workspace_id", "1", "workspace_id: expected 0 for"),
        ("workspace_id", "A" * 32, "workspace_id: expected 0 for"),
        ("flavor_type", "SNT1", "flavor_type: expected one of"),
        ("tags", ["x"] * 21, "tags: expected at most 20, got 21"),
        ("read_me", "x" * 3001, "read_me: expected at most 3000"),
        ("swr_instance_id", "a/b", "swr_instance_id: expected"),
        ("swr_path", "a.b/c/d:1", "swr_path: expected"),
        ("swr_path", "x" * 2049, "of 16 to 2048 characters, got 2049"),
        ("swr_path", "swr.cn-north-4.myhuaweicloud.com/digits:1.0.0", "got no namespace"),
        ("swr_path", "swr.cn-north-4.myhuaweicloud.com/team/digits", "got no tag"),
        ("swr_path", "team/digits:1.0.0-long-enough", "got no registry"),
        ("swr_path", f"swr.cn-north-4.myhuaweicloud.com/team/digits:1@{DIGEST}", "takes no digest"),
        ("swr_path", "https://swr.cn-north-4.myhuaweicloud.com/team/digits:1", "without a scheme"),
        ("swr_path", "swr.cn-north-4.myhuaweicloud.com/Team/digits:1", "'Team' must be lower-case"),
        ("swr_path", "swr.cn-north-4.myhuaweicloud.com/team/../digits:1", "'..' must be"),
    ],
)
def test_a_bad_field_is_named(field: str, value: Any, said: str) -> None:
    request = Registration(**{"swr_path": PATH, field: value})
    with pytest.raises(ConfigError) as caught:
        request.check()
    assert said in caught.value.message
    assert caught.value.message.startswith(field)


def test_the_limits_themselves_are_good() -> None:
    Registration(PATH, description="x" * 512, tags=["x"] * 20, read_me="x" * 3000, workspace_id="0").check()
    path = f"swr.cn-north-4.myhuaweicloud.com/{'a' * 1000}/{'b' * 1000}:1"
    Registration(path + "2" * (2048 - len(path)) if len(path) > 2030 else path).check()


def test_a_cloud_without_ascend_refuses_it() -> None:
    request = Registration(PATH, resource_category=["ASCEND"])
    request.check(ascend=True)
    with pytest.raises(ConfigError, match="resource_category: expected CPU or GPU"):
        request.check(ascend=False)


@pytest.mark.parametrize(
    ("given", "sent"), [("amd64", "X86_64"), ("x86_64", "X86_64"), ("arm64", "AARCH64"), ("aarch64", "AARCH64")]
)
def test_processors_have_other_names_too(given: str, sent: str) -> None:
    assert images.arch_named(given) == sent


def test_an_unknown_state_and_unknown_fields_are_kept() -> None:
    image = Image.of(
        {"id": "a", "status": "UNPACKING", "dev_services": ["AI_FLOW"], "arch": "riscv64", "level": 7, "size": None}
    )
    assert image.going
    assert image.document() == {
        "id": "a", "status": "UNPACKING", "dev_services": ["AI_FLOW"], "arch": "riscv64", "level": 7,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "expected an image"),
        ({}, "expected an image"),
        ({"id": 7}, "expected an image"),
        ({"id": "../x"}, "id: expected letters"),
        ({"id": "a", "size": "large"}, "size: expected a number"),
        ({"id": "a", "create_at": True}, "create_at: expected a number"),
        ({"id": "a", "size": 1 << 70}, "size: expected a number of at most 63 bits"),
        ({"id": "a", "dev_services": "SSH"}, "dev_services: expected a list"),
        ({"id": "a", "status": {}}, "status: expected text"),
    ],
)
def test_an_answer_that_is_no_image_is_told(document: Any, said: str) -> None:
    with pytest.raises(NotUnderstood, match=said):
        Image.of(document)


@pytest.mark.parametrize(
    ("status", "going"),
    [("INIT", True), ("CREATING", True), ("ACTIVE", False), ("CREATE_FAILED", False), ("ERROR", False),
     ("DELETED", False), (None, True)],
)  # fmt: skip
def test_which_states_are_ends(status: str | None, going: bool) -> None:
    assert Image("a", status=status).going is going


@pytest.mark.parametrize("description", ["", "Digits of the third kind"])
def test_the_digest_is_kept_in_the_description(description: str) -> None:
    text = images.described(description, DIGEST)
    assert text.startswith(description)
    assert Image("a", description=text).digest == DIGEST
    assert images.described(description, "") == description


def test_a_description_without_room_for_the_digest_is_refused() -> None:
    with pytest.raises(ConfigError, match="description: expected at most 429 characters"):
        images.described("x" * 430, DIGEST)
    assert len(images.described("x" * 429, DIGEST)) == 512


@pytest.mark.parametrize("description", [None, "", "about sha256", f"[servekit {DIGEST}] and more"])
def test_only_a_digest_at_the_end_is_one(description: str | None) -> None:
    assert Image("a", description=description).digest == ""


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "unknown"),
        (3376133259, "3.1 GiB (3376133259, taken as bytes: as KB, which the vendor's page says, it is 3.1 TiB)"),
        (3297005, "3.1 GiB (3297005 KB)"),
    ],
)
def test_a_size_says_what_it_is_taken_for(size: int | None, text: str) -> None:
    assert images.size_text(size) == text


def test_a_group_is_read() -> None:
    document = {"name": "digits", "namespace": "team", "version_count": 3, "icon_name": "x"}
    assert Group.of(document).document() == document
    assert json.dumps(Group.of(document).more) == '{"icon_name": "x"}'


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = [each.name for each in fields(Image) if each.name != "more"]


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from([*FIELDS, "more"]), JSON, max_size=6), st.booleans())
def test_whatever_comes_is_shown_or_not_understood(document: dict[str, Any], known: bool) -> None:
    if known:
        document["id"] = "a"
    try:
        image = Image.of(document)
    except NotUnderstood:
        return
    assert image.document()["id"] == image.id
    assert images.size_text(image.size)
    assert isinstance(images.time_text(image.create_at), str)
    assert image.going in (True, False)
    assert image.digest == ""
