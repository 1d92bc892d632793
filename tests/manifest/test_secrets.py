"""Secrets are refused wherever they stand, and no message repeats one."""

from __future__ import annotations

import string
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradattr.errors import ManifestError, UsageError
from gradattr.manifest.loading import parse_manifest, resolved
from gradattr.manifest.secrets import looks_secret, resolve_secret

BASE = """\
kind: attribute
name: tiny
data: digits
model: {arch: 'python:m:f', weights: w.pt, kwargs: {KWARGS}}
methods: [saliency]
"""
AWS_ID = "AKIA" + "IOSFODNN7EXAMPLE"
AWS_SECRET = "wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY"
TOKENS = [
    AWS_ID,
    AWS_SECRET,
    "ASIA" + "Z" * 16,
    "ghp_" + "aB3" * 12,
    "github_pat_" + "aB3_" * 20,
    "glpat-" + "aB3" * 8,
    "hf_" + "aB3" * 11,
    "sk-" + "aB3" * 12,
    "sk-ant-api03-" + "aB3" * 12,
    "xoxb-" + "123456789012",
    "AIza" + "aB3-_" * 7,
    "eyJhbGciOiJIUzI1" + ".eyJzdWIiOiIxMjM0." + "abc",
    "-----BEGIN RSA " + "PRIVATE KEY-----",
    "s3://user:" + "pass@bucket/x",
    "https://h/x?X-Amz-Signature=" + "abcdef",
]


def text(kwargs: str = "", tail: str = "") -> str:
    return BASE.replace("KWARGS", kwargs) + tail


@pytest.mark.parametrize("token", TOKENS)
def test_known_tokens_are_refused_anywhere(faults: Callable[..., list[str]], token: str) -> None:
    places = [
        text(f"a: '{token}'"),
        text(f"'{token}': 1"),
        text(tail=f"target: '{token}'\n"),
        text(tail=f"zz: ['{token}']\n"),
        text().replace("w.pt", f"'{token}'"),
        text().replace("name: tiny", f"name: '{token}'"),
        text().replace("kind: attribute", f"kind: '{token}'"),
    ]
    for place in places:
        found = "\n".join(faults(place))
        assert token not in found
        assert "use the environment or a profile" in found or "key" in found


@pytest.mark.parametrize("token", [t for t in TOKENS if t != AWS_SECRET])
def test_tokens_in_comments_are_refused(fault: Callable[..., str], token: str) -> None:
    found = fault(text(tail=f"seed: 1\n# old: {token}\n"))
    assert found.startswith("m.yaml:7:")
    assert token not in found


@pytest.mark.parametrize("key", ["access_key", "secret_key"])
def test_store_keys_take_references_only(fault: Callable[..., str], key: str) -> None:
    found = fault(text(tail=f"store:\n  url: s3://b/x\n  {key}: hunter2hunter2\n"))
    assert found.startswith(
        f"m.yaml:8:{5 + len(key)}: store.{key}: a secret stands in the manifest"
    )
    assert "use the environment or a profile" in found
    assert "hunter2" not in found
    good = text(tail=f"store: {{url: 's3://b/x', {key}: '${{MY_KEY}}'}}\n")
    assert resolved(parse_manifest(good))["store"][key] == "${MY_KEY}"


@pytest.mark.parametrize(
    "key",
    [
        "password",
        "db_password",
        "PASSWD",
        "api_key",
        "apiKey",
        "apikey",
        "hf_token",
        "secret",
        "client-secret",
        "secret_key",
        "awsSecretAccessKey",
        "private_key",
        "authorization",
    ],
)
def test_keys_with_secret_names_are_refused(fault: Callable[..., str], key: str) -> None:
    found = fault(text(f"{key}: tralalala"))
    assert f"model.kwargs.{key}: a key of this name holds a secret" in found
    assert "tralalala" not in found
    assert looks_secret(key)


@pytest.mark.parametrize(
    "kwargs",
    [
        "tokens: 16",
        "num_tokens: 16",
        "class_token: true",
        "token: 8",
        "token_dim: 4",
        "keys: 2",
        "pool: token",
        "password: null",
        "secretary: anna",
        "key: c",
        "monkey: x",
        "author: bob",
    ],
)
def test_ordinary_keys_are_not(kwargs: str) -> None:
    assert parse_manifest(text(kwargs)).name == "tiny"


def test_a_numeric_password_is_still_one(fault: Callable[..., str]) -> None:
    found = fault(text("password: 12345678"))
    assert "12345678" not in found


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("w.pt", "'${HOME}/w.pt'", "model.weights"),
        ("digits", "{format: folder, url: '${DATA}'}", "data.url"),
        ("tiny", "'${USER}'", "name"),
        ("KWARGS", "a: '${X}'", "model.kwargs.a"),
    ],
)
def test_references_elsewhere_are_refused(
    fault: Callable[..., str], old: str, new: str, where: str
) -> None:
    found = fault(BASE.replace(old, new).replace("KWARGS", ""))
    assert f"{where}: '${{...}}' is not replaced here" in found
    assert "store.access_key and store.secret_key only" in found


@pytest.mark.parametrize("value", ["${}", "${A", "$A", "x${A}", "${A}${B}", "${1A}"])
def test_half_references_are_no_references(fault: Callable[..., str], value: str) -> None:
    assert value not in fault(text(tail=f"store: {{secret_key: '{value}'}}\n")).replace(
        "${NAME}", ""
    )


def test_options_hide_secrets_too(faults: Callable[..., list[str]]) -> None:
    options = [
        "store.secret_key=hunter2hunter2",
        f"name={AWS_ID}",
        "model.kwargs.token=tralala",
        f"{AWS_ID}=1",
        f"target={{password: swordfish, b: '{AWS_SECRET}'}}",
    ]
    found = "\n".join(faults(text(), options))
    for secret in ("hunter2", AWS_ID, AWS_SECRET, "tralala", "swordfish"):
        assert secret not in found
    assert "--set store.secret_key=***: store.secret_key: a secret stands" in found


def test_secrets_are_hidden_in_yaml_errors(faults: Callable[..., list[str]]) -> None:
    for bad in (
        f"a: &{AWS_ID} 1\n",
        f"{AWS_ID}: 1\n{AWS_ID}: 2\n",
        f"a: [{AWS_ID}\nb: 1\n",
        f"a: !{AWS_ID} x\n",
        f"a: *{AWS_ID}\n",
    ):
        assert AWS_ID not in "\n".join(faults(bad))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    secret=st.text(string.ascii_letters + string.digits + "/+ :'\\\"%é", min_size=6, max_size=90)
)
def test_no_message_repeats_a_planted_secret(secret: str) -> None:
    quoted = "'" + secret.replace("'", "''") + "'"
    for planted in (
        text(tail=f"store: {{url: 's3://b', secret_key: {quoted}}}\nzz: 1\n"),
        text(f"password: {quoted}", "seed: x\n"),
    ):
        with pytest.raises(ManifestError) as caught:
            parse_manifest(planted)
        message = str(caught.value)
        without_words = message.replace("secret_key", "").replace("password", "")
        assert secret not in without_words or not secret.strip()


def test_sha256_digests_and_long_paths_are_no_secrets() -> None:
    digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    path = "data/ImageNet2012/Validation/Set1/images"
    assert len(path) == 40
    plain = text().replace("weights: w.pt", f"weights: {path}, sha256: {digest}")
    assert parse_manifest(plain).model.sha256 == digest


def test_resolve_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "value")
    assert resolve_secret("${MY_KEY}") == "value"
    monkeypatch.setenv("MY_KEY", "")
    with pytest.raises(UsageError, match="MY_KEY, which the manifest names, is not set"):
        resolve_secret("${MY_KEY}")
    with pytest.raises(UsageError, match="as '\\$\\{NAME\\}'") as caught:
        resolve_secret("hunter2")
    assert "hunter2" not in str(caught.value)
