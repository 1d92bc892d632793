"""Methods that would mislead on a model are named before anything runs, all of them at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradattr.cli.main import main
from gradattr.errors import MethodError
from gradattr.manifest.attribute import AttributeManifest
from gradattr.report.results import open_run
from gradattr.runtime.driver import run
from gradattr.storage.commit import read_commit
from gradattr.work.planning.preflight import preflight
from gradattr.work.planning.prepare import prepare

MISFITS: dict[str, tuple[dict[str, Any], str]] = {
    "guided_backprop": ({"arch": "vit", "patch": 2}, "gelu"),
    "deep_lift": ({"arch": "vit", "patch": 2}, "LayerNorm|layer_norm"),
    "grad_cam": ({"arch": "mlp"}, "spatial"),
    "attention": ({"arch": "cnn"}, "attention"),
}


@pytest.fixture
def asked(tmp_path: Path) -> Callable[..., AttributeManifest]:
    def make(model: dict[str, Any], *methods: Any, **changes: Any) -> AttributeManifest:
        train = {"data": {"format": "digits", "split": "train"}, "epochs": 1}
        value = {
            "kind": "attribute",
            "name": "fits",
            "data": {"format": "digits", "limit": 4},
            "model": {**model, "train": train},
            "methods": list(methods),
            "store": {"url": str(tmp_path / "store")},
            "runtime": {"address": "inline"},
        }
        return AttributeManifest.model_validate(value | changes)

    return make


@pytest.mark.parametrize("name", MISFITS)
def test_a_method_that_does_not_fit_is_named(
    asked: Callable[..., AttributeManifest], tmp_path: Path, name: str
) -> None:
    model, reason = MISFITS[name]
    with pytest.raises(MethodError, match=f"method '{name}' does not fit the model: .*({reason})"):
        run(asked(model, "gradient", name))
    assert not (tmp_path / "store" / "runs").exists()


def test_all_of_them_at_once(asked: Callable[..., AttributeManifest]) -> None:
    manifest = asked({"arch": "mlp"}, "saliency", "grad_cam", {"name": "attention", "id": "a"})
    with pytest.raises(MethodError) as caught:
        preflight(prepare(manifest).context)
    text = str(caught.value)
    assert "method 'grad_cam'" in text
    assert "method 'a'" in text
    assert "saliency" not in text
    assert "mlp; leave out what does not fit it" in text


def test_methods_that_fit_are_left_alone(asked: Callable[..., AttributeManifest]) -> None:
    methods = ["guided_backprop", "deep_lift", "grad_cam", "occlusion", "uni"]
    notes = preflight(prepare(asked({"arch": "cnn"}, *methods)).context)
    assert any("cnn" in note for note in notes)
    # What a method chooses by itself is said; what is asked for is not.
    assert [note for note in notes if "looks" in note] == [
        "method 'grad_cam' looks at layer 'relu3'"
    ]
    named = {"name": "grad_cam", "layer": "relu2"}
    assert not [
        n for n in preflight(prepare(asked({"arch": "cnn"}, named)).context) if "looks" in n
    ]


def test_what_was_chosen_stands_in_the_record(asked: Callable[..., AttributeManifest]) -> None:
    result = run(asked({"arch": "cnn"}, "grad_cam", "saliency"))
    commit = read_commit(open_run(result.uri).store, result.run_id)
    assert commit.records[-1].extra["engine"]["chosen"] == {"grad_cam": "layer 'relu3'"}


@pytest.mark.parametrize("command", ["validate", "plan", "run"])
def test_the_command_line_says_so_without_a_traceback(
    asked: Callable[..., AttributeManifest],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    file = tmp_path / "m.yaml"
    file.write_text(asked({"arch": "mlp"}, "grad_cam").model_dump_json(exclude_none=True))
    monkeypatch.setattr("sys.argv", ["gradattr", command, str(file)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert "method 'grad_cam' does not fit the model" in told.err
    assert "Traceback" not in told.err


def test_the_models_of_an_audit_are_looked_at_too(audit: Any) -> None:
    manifest = audit(methods=["grad_cam"])
    with pytest.raises(MethodError, match=r"(?s)grad_cam.*\(model 'standard': mlp"):
        preflight(prepare(manifest).context)
