"""The names that users import. Taking one away, or adding one by accident, fails here."""

from __future__ import annotations

import subprocess
import sys

import gradattr
from gradattr import attribution, influence, patching


def test_the_package() -> None:
    assert sorted(gradattr.__all__) == [
        "Run",
        "RunResult",
        "__version__",
        "load_manifest",
        "make_plan",
        "open_run",
        "run",
    ]
    assert all(getattr(gradattr, name) for name in gradattr.__all__)


def test_the_mathematics() -> None:
    assert sorted(attribution.__all__) == [
        "Attribution",
        "Baseline",
        "Black",
        "Blur",
        "Choose",
        "Constant",
        "Evaluator",
        "Explained",
        "Mean",
        "MethodInfo",
        "MethodRequest",
        "Noise",
        "NoisyCopies",
        "Normalization",
        "Parameter",
        "PlainEvaluator",
        "Sample",
        "Uniform",
        "Unlearned",
        "agi",
        "attention",
        "attention_rollout",
        "attention_x_gradient",
        "attribute",
        "blur_ig",
        "concatenate",
        "deconvolution",
        "deep_lift",
        "deep_shap",
        "expected_gradients",
        "grad_cam",
        "grad_cam_plus_plus",
        "gradient",
        "gradient_shap",
        "guided_backprop",
        "guided_grad_cam",
        "guided_ig",
        "input_x_gradient",
        "integrated_gradients",
        "kernel_shap",
        "layer_activation",
        "layer_conductance",
        "layer_gradient_x_activation",
        "layer_integrated_gradients",
        "lime",
        "linear",
        "lrp",
        "method_info",
        "method_request",
        "occlusion",
        "random_attribution",
        "rise",
        "saliency",
        "smoothgrad",
        "smoothgrad_x_input",
        "squaregrad",
        "tune",
        "uni",
        "vargrad",
    ]
    assert all(getattr(attribution, name) for name in attribution.__all__)


def test_the_mathematics_of_training_data() -> None:
    assert influence.__all__ == [
        "CountSketch",
        "Curvature",
        "Directions",
        "Ekfac",
        "GradientProducts",
        "Maps",
        "Scores",
        "Sketches",
        "Solution",
        "agreement_maps",
        "candidates",
        "estimated_cosines",
        "estimated_dots",
        "grad_cos",
        "grad_dot",
        "influence",
        "layer_maps",
        "pixel_order",
        "random_order",
        "random_scores",
        "relatif",
        "step_tests",
        "tfa_maps",
        "tracin",
        "tracin_maps",
    ]
    assert all(getattr(influence, name) for name in influence.__all__)


def test_the_mathematics_of_patching() -> None:
    assert sorted(patching.__all__) == [
        "Corrupted",
        "Faithfulness",
        "LanguageModel",
        "MeanToken",
        "NoisyPrompt",
        "PatchingScore",
        "PromptBatch",
        "RandomPrompt",
        "SCORES",
        "ScoreName",
        "Start",
        "UnlearnedPrompt",
        "ZeroPrompt",
        "activation_patching",
        "attribution_patching",
        "faithfulness",
        "language_model",
        "patching_score",
    ]
    assert all(getattr(patching, name) for name in patching.__all__)


def test_importing_the_package_and_its_command_loads_nothing_heavy() -> None:
    """``gradattr --help`` must answer at once, so neither torch nor ray may be imported."""
    code = (
        "import sys, gradattr, gradattr.cli.main, gradattr.attribution.catalogue\n"
        "heavy = ('torch', 'ray', 'pyarrow', 'duckdb', 'pydantic', 'transformers')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
