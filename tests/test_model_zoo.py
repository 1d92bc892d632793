"""docs/model_zoo.md says what is so: each model is asked, and each method that fits is run."""

from __future__ import annotations

import pytest

from tests.model_zoo import MODELS, PAGE, answers, model, page


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, str | None]]:
    return {}


@pytest.mark.parametrize("name", MODELS)
def test_every_method_runs_or_says_why_not(
    name: str, found: dict[str, dict[str, str | None]]
) -> None:
    found[name] = dict(answers(model(name)))
    assert None in found[name].values()
    assert all(why is None or len(why) > 20 for why in found[name].values())


def test_the_page_is_the_table(found: dict[str, dict[str, str | None]]) -> None:
    if set(found) != set(MODELS):
        found.update({name: dict(answers(model(name))) for name in MODELS if name not in found})
    expected = page({name: found[name] for name in MODELS})
    assert PAGE.read_text(encoding="utf-8") == expected, "run: python -m tests.model_zoo"
