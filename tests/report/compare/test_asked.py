"""What two manifests ask differently, said by key."""

from __future__ import annotations

from typing import Any

from gradattr.report.compare.asked import Asked, asked_differently, digests_differ, in_words, shown

BASE: dict[str, Any] = {
    "kind": "evaluate",
    "name": "a",
    "data": {"format": "digits", "limit": None},
    "methods": [{"name": "uni", "id": None, "steps": 15}, {"name": "random", "id": None}],
    "levels": [0.1, 0.5],
}


def test_keys_that_differ() -> None:
    other = {
        **BASE,
        "name": "b",
        "checks": [1],
        "data": {"format": "digits", "limit": 5},
        "methods": [{"name": "uni", "id": None, "steps": 30}, {"name": "uni", "id": "mine"}],
        "levels": [0.1],
    }
    assert asked_differently(BASE, other) == [
        Asked("data.limit", None, 5),
        Asked("methods[uni].steps", 15, 30),
        Asked("methods[random]", "present", None),
        Asked("levels", [0.1, 0.5], [0.1]),
        Asked("methods[mine]", None, "present"),
    ]
    assert asked_differently(BASE, {**BASE, "name": "c"}) == []


def test_an_entry_whose_name_begins_like_anothers() -> None:
    first = {"methods": [{"name": "uni", "steps": 1}]}
    second = {"methods": [{"name": "uni", "steps": 2}, {"name": "uni2", "steps": 1}]}
    assert asked_differently(first, second) == [
        Asked("methods[uni].steps", 1, 2),
        Asked("methods[uni2]", None, "present"),
    ]


def test_lists_without_names_are_compared_whole() -> None:
    two = {"checkpoints": [{"weights": "a"}, {"weights": "b"}]}
    assert asked_differently(two, two) == []
    (one,) = asked_differently(two, {"checkpoints": [{"weights": "a"}]})
    assert one.key == "checkpoints"


def test_in_words() -> None:
    inputs = {"data": {"digest": "1", "rows": 5}, "models": {"model": "m"}}
    data = {**inputs, "data": {"digest": "2", "rows": 5}}
    model = {**inputs, "models": {"model": "n"}}
    both = {**data, **model, "data": data["data"]}
    one = [Asked("seed", 0, 1)]
    assert in_words(inputs, inputs, []).endswith("and were asked the same.")
    assert in_words(inputs, inputs, one) == (
        "Both runs are of the same model and the same data. 1 key of the manifests differs:"
    )
    assert in_words(inputs, data, []).startswith("THE DATA DIFFER: what both have")
    assert in_words(inputs, data, []).endswith("The models are the same.")
    assert in_words(inputs, model, one * 2) == (
        "THE MODELS DIFFER. The data are the same. 2 keys of the manifests differ:"
    )
    text = in_words(inputs, both, [])
    assert "THE MODELS DIFFER. THE DATA DIFFER" in text
    parts = {"data": {"train": {"digest": "1"}, "test": {"digest": "2"}}}
    assert not digests_differ(parts, parts, "data")
    assert digests_differ(parts, {"data": {"train": {"digest": "1"}}}, "data")


def test_values_are_shown_short() -> None:
    assert shown(None) == "-"
    assert shown(True) == "true"
    assert shown([0.1]) == "[0.1]"
    assert len(shown("x" * 500)) == 60
