"""torchvision's published weights, without a network."""

from __future__ import annotations

import hashlib
import io
from collections import OrderedDict
from urllib.error import URLError

import pytest
import torch
from torchvision import models
from torchvision.transforms.v2 import functional as F

from gradattr.errors import ModelError
from gradattr.models import (
    build_model,
    load_model,
    published,
    published_classes,
    weights_digest,
    weights_preprocess,
)


def test_preprocess_is_that_of_the_weights(make_spec):
    spec = make_spec("torchvision:vit_b_16", weights="torchvision:IMAGENET1K_SWAG_E2E_V1")
    found = weights_preprocess(spec)
    assert (found.resize, found.crop, found.interpolation, found.color) == (
        384,
        384,
        "bicubic",
        "rgb",
    )
    spec = make_spec("resnet18", weights="torchvision:DEFAULT")
    found = weights_preprocess(spec)
    assert (found.resize, found.crop, found.interpolation) == (256, 224, "bilinear")
    assert found.mean == [0.485, 0.456, 0.406]
    assert found.std == [0.229, 0.224, 0.225]


def test_every_published_classifier_has_a_preprocess_and_classes(make_spec):
    for name in models.list_models(module=models):
        for member in models.get_model_weights(name).__members__:
            spec = make_spec(f"torchvision:{name}", weights=f"torchvision:{member}")
            if member == "IMAGENET1K_FEATURES":
                with pytest.raises(ModelError, match="feature extractor without classes"):
                    published_classes(spec)
                continue
            assert weights_preprocess(spec).crop
            assert published_classes(spec) == 1000


def test_transforms_that_cannot_be_said_are_refused(make_spec, monkeypatch):
    fake = type("Fake", (), {"transforms": staticmethod(lambda: F.resize), "meta": {}})
    monkeypatch.setattr(published, "find_published", lambda spec: fake)
    with pytest.raises(ModelError, match="state resize, crop, mean and std yourself"):
        weights_preprocess(make_spec("resnet18", weights="torchvision:DEFAULT"))


def test_other_weights_have_no_preprocess(make_spec):
    spec = make_spec("resnet18", weights="r.pt")
    assert published_classes(spec) is None
    with pytest.raises(ModelError, match=r"needs weights 'torchvision:<name>', .* 'r\.pt'"):
        weights_preprocess(spec)


@pytest.mark.parametrize(
    ("arch", "fields", "message"),
    [
        ("mlp", {}, "publishes no weights for arch 'mlp'"),
        ("resnet18", {"stem": "cifar"}, "arch 'resnet18' with stem 'cifar'"),
    ],
)
def test_architectures_that_torchvision_has_no_weights_for(make_spec, arch, fields, message):
    with pytest.raises(ModelError, match=message):
        weights_digest(make_spec(arch, weights="torchvision:DEFAULT", **fields), None)


def test_unknown_name_lists_the_names(make_spec):
    spec = make_spec("resnet50", weights="torchvision:IMAGENET1K_V3")
    with pytest.raises(ModelError, match="there are: IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"):
        weights_digest(spec, None)


def test_digest_names_the_weights_however_they_are_spelt(make_spec):
    def digest(weights):
        return weights_digest(make_spec("resnet50", weights=f"torchvision:{weights}"), None)

    assert digest("DEFAULT") == digest("IMAGENET1K_V2") == digest("ResNet50_Weights.IMAGENET1K_V2")
    assert digest("IMAGENET1K_V1") != digest("DEFAULT")
    assert len(digest("DEFAULT")) == 64


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torch's cache in a temporary folder, and no network."""

    def offline(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def publish(hub, monkeypatch, state, name="tiny"):
    """Put a file into the cache as if torchvision had published it."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    file = hub / f"{name}-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    file.write_bytes(data)
    fake = models._api.Weights(
        url=f"https://download.example/models/{file.name}", transforms=None, meta={}
    )
    monkeypatch.setattr(published, "find_published", lambda spec: fake)
    return file


def test_no_network_says_where_to_put_the_file(make_spec, hub):
    spec = make_spec("resnet18", weights="torchvision:DEFAULT")
    with pytest.raises(ModelError, match=r"put the file at .*hub/checkpoints/resnet18-f37072fd"):
        load_model(spec, None, shape=(3, 64, 64), num_classes=1000)


def test_cached_file_with_another_digest_is_refused(make_spec, hub):
    (hub / "resnet18-f37072fd.pth").write_bytes(b"something else")
    spec = make_spec("resnet18", weights="torchvision:DEFAULT")
    with pytest.raises(ModelError, match="published file with f37072fd; delete it"):
        load_model(spec, None, shape=(3, 64, 64), num_classes=1000)


@pytest.mark.parametrize("name", ["squeezenet1_1", "mnasnet0_5", "googlenet", "densenet121"])
def test_published_file_is_loaded(make_spec, hub, monkeypatch, name):
    spec = make_spec(f"torchvision:{name}", weights="torchvision:DEFAULT")
    shape, classes = (3, 64, 64), 5
    original = build_model(spec, shape=shape, num_classes=classes, seed=3)
    state = original.state_dict()
    if name == "googlenet":
        state["aux1.conv.conv.weight"] = torch.zeros(1)
    if name == "densenet121":
        old = OrderedDict(
            (k.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."), v)
            for k, v in state.items()
        )
        assert old.keys() != state.keys()
        old._metadata = state._metadata
        state = old
    publish(hub, monkeypatch, state)
    model = load_model(
        spec, None, shape=shape, num_classes=classes, expected_digest=weights_digest(spec, None)
    )
    for key, value in original.state_dict().items():
        assert torch.equal(model.state_dict()[key], value)
    assert getattr(model, "transform_input", None) == (True if name == "googlenet" else None)


def test_sha256_of_the_manifest_is_checked(make_spec, hub, monkeypatch):
    plain = make_spec("resnet18", weights="torchvision:DEFAULT")
    model = build_model(plain, shape=(3, 64, 64), num_classes=5, seed=3)
    file = publish(hub, monkeypatch, model.state_dict())
    good = hashlib.sha256(file.read_bytes()).hexdigest()
    for sha256 in (good, "0" * 64):
        spec = plain.model_copy(update={"sha256": sha256})
        if sha256 == good:
            load_model(spec, None, shape=(3, 64, 64), num_classes=5)
        else:
            with pytest.raises(ModelError, match=f"sha256 is {good}, model.sha256 says 0000"):
                load_model(spec, None, shape=(3, 64, 64), num_classes=5)
