"""The plan of an audit: its stages, what they have in common, and what identifies it."""

from __future__ import annotations

from typing import Any

from gradattr.plan import Plan, Stage
from gradattr.work.planning.prepare import make_plan, prepare

ROBUST = {
    "standard": {"arch": "mlp", "hidden": [8], "train": {"epochs": 2}},
    "robust": {
        "arch": "mlp",
        "hidden": [8],
        "train": {"epochs": 2, "adversary": {"norm": "l2", "eps": 0.5}},
    },
}


def stage(plan: Plan, name: str) -> Stage:
    return next(stage for stage in plan.stages if stage.name == name)


def test_the_stages_follow_each_other(audit: Any) -> None:
    plan = make_plan(audit(models=ROBUST))
    assert [one.name for one in plan.stages] == ["train", "rank", "trial", "score"]
    assert [task.key for task in stage(plan, "train").tasks] == ["standard", "robust", "linear"]
    # 200 and 100 images in shards of 64, for two base models, the random and the linear order.
    assert len(stage(plan, "rank").tasks) == (4 + 2) * 4
    assert stage(plan, "rank").expected_rows == {"ranks": 300 * 4}
    trials = stage(plan, "trial")
    assert trials.expected_rows == {"trials": len(trials.tasks)} == {"trials": plan.rows}


def test_coordinates_are_ranked_once_whatever_the_levels_and_seeds(audit: Any) -> None:
    few = stage(make_plan(audit(levels=[0.5], seeds=1)), "rank")
    many = make_plan(audit(levels=[0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.0], seeds=9, roar=True))
    assert stage(many, "rank") == few
    assert len(stage(many, "trial").tasks) > 300


def test_without_retraining_only_the_test_set_is_ranked(audit: Any) -> None:
    plan = make_plan(audit(retrain=False))
    assert [one.name for one in plan.stages] == ["train", "rank", "evaluate", "score"]
    assert {task.payload["split"] for task in stage(plan, "rank").tasks} == {"test"}
    assert stage(plan, "evaluate").expected_rows == {"trials": 3 * 2 * 3}


def test_a_method_with_several_schemes_ranks_them_in_one_pass(audit: Any) -> None:
    plan = make_plan(audit(methods=["saliency", "input_x_gradient"], baselines=[]))
    tasks = stage(plan, "rank").tasks
    assert len(tasks) == 4 + 2
    assert tasks[0].rows == 2 * 64


def test_trials_ask_for_as_many_workers_as_their_recipe(audit: Any) -> None:
    plan = make_plan(audit(retrain={"epochs": 2, "workers": 2}))
    assert {task.payload["workers"] for task in stage(plan, "trial").tasks} == {2}
    # The base model's own recipe says one.
    assert stage(plan, "train").tasks[0].payload["workers"] == 1


def test_what_decides_a_result_decides_the_run_id(audit: Any) -> None:
    base = make_plan(audit()).run_id
    same = audit(runtime={"address": "local", "workers": 2}, store={"url": "elsewhere"})
    assert make_plan(same).run_id == base
    for change in (
        {"seed": 1},
        {"seeds": 3},
        {"levels": [0.1, 1.0]},
        {"paired": "none"},
        {"mask": {"value": 0.5}},
        {"mask": {"ties": "index"}},
        {"roar": True},
        {"test": {"format": "digits", "split": "test", "limit": 99}},
        {"models": ROBUST},
    ):
        assert make_plan(audit(**change)).run_id != base, change


def test_workers_learn_the_data_sets_from_the_context(audit: Any) -> None:
    context = prepare(audit()).context
    assert {name: index["rows"] for name, index in context.indexes.items()} == {
        "train": 200,
        "test": 100,
    }
