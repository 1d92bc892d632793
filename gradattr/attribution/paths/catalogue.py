"""Catalogue entries of the methods that add gradients up along a path."""

from __future__ import annotations

from gradattr.attribution.catalogue_entry import (
    DIFFERENTIABLE,
    LABELS,
    NEEDS,
    SATURATED,
    MethodInfo,
    Parameter,
)

_RULE = Parameter("rule", "right", "quadrature, as of integrated_gradients")

PATH_METHODS = (
    MethodInfo(
        "integrated_gradients",
        "(x − x') ⊙ Σ w_k g(x' + α_k (x − x'))",
        "Sundararajan, Taly, Yan 2017, Axiomatic attribution for deep networks",
        "steps",
        "steps, and a forward pass at the baseline (one in all if it is the same for every image)",
        NEEDS,
        True,
        "gap = Σ map − (f(x) − f(x')); the error of the quadrature",
        ("coordinates that equal the baseline's get 0: a black baseline is blind to black",),
        (
            Parameter("steps", 50, "points on the path"),
            Parameter(
                "rule", "gauss_legendre", "quadrature: also right, left, trapezoid, midpoint"
            ),
            Parameter("baseline", "black", "also mean, blur, noise, uniform, sample, uni"),
        ),
        contributions=True,
    ),
    MethodInfo(
        "expected_gradients",
        "E (x − x'_k) ⊙ g(x'_k + a_k (x − x'_k)), a_k ~ U(0, 1)",
        "Erion et al. 2021, Improving performance of deep learning models with axiomatic "
        "attribution priors",
        "samples",
        "samples, and a forward pass per image of the pool in all (per draw, for the baselines "
        "noise and uniform)",
        NEEDS,
        True,
        "in expectation: gap = Σ map − (f(x) − E f(x'))",
        ("few samples: mostly chance",),
        (
            Parameter("samples", 25, "draws per image"),
            Parameter("baseline", "sample", "what x'_k is drawn from"),
        ),
        contributions=True,
    ),
    MethodInfo(
        "gradient_shap",
        "E (x_k − x'_k) ⊙ g(x'_k + a_k (x_k − x'_k)), x_k = x + s n_k, a_k ~ U(0, 1)",
        "Lundberg, Lee 2017, A unified approach to interpreting model predictions (as in Captum)",
        "samples",
        "samples, and a forward pass per image of the pool in all (per draw, for the baselines "
        "noise and uniform)",
        NEEDS,
        True,
        "in expectation and without noise: gap = Σ map − (f(x) − E f(x'))",
        ("few samples: mostly chance", "stdev 0: the same as expected gradients"),
        (
            Parameter("samples", 25, "draws per image"),
            Parameter("stdev", 0.0, "s: noise on the image, units of the model's input"),
            Parameter("baseline", "sample", "what x'_k is drawn from"),
        ),
        contributions=True,
    ),
    MethodInfo(
        "uni",
        "(x − x') ⊙ Σ w_k g(x' + α_k (x − x')), x' near x, where p is as after unlearning x",
        "Unlearning-based neural interpretations (UNI), Algorithm 1",
        "steps + iterations + 2",
        "a gradient in the parameters, an answer of the unlearned model, iterations, steps; and a "
        "forward pass at the baseline",
        (DIFFERENTIABLE, "differentiable in its parameters", LABELS),
        True,
        "gap = Σ map − (f(x) − f(x')), f a probability; the error of the quadrature",
        (
            "a model whose loss has no gradient (p = 1 to the last digit): nothing is unlearned, "
            "x' = x, status 'degenerate'",
            "target 'logit_*': not the published method",
        ),
        (
            Parameter("steps", 15, "points on the path"),
            _RULE,
            Parameter("eta", 1.0, "length of the step of ascent on the loss, in parameters"),
            Parameter("iterations", 10, "steps from x to x'"),
            Parameter("eps", 0.25, "distance of x' from x, units of the model's input"),
            Parameter("mu", 0.1, "length of such a step, in gradients"),
        ),
        contributions=True,
    ),
    MethodInfo(
        "blur_ig",
        "Σ w_k g(L(x, σ_k)) ⊙ ∂L/∂α, L(x, σ) the image under a Gaussian, σ_k = σ_max (1 − α_k)",
        "Xu, Venugopalan, Sundararajan 2020, Attribution in scale and space",
        "steps",
        "steps, and a forward pass at the blurred image",
        (*NEEDS, "inputs that are images"),
        True,
        "gap = Σ map − (f(x) − f(L(x, σ_max))); the error of the quadrature, large where the path "
        "is walked in few steps: most of it lies at small σ",
        ("images of one colour: only their border is blurred", SATURATED),
        (
            Parameter("max_sigma", None, "σ_max in pixels; default 50 at 224, in proportion"),
            Parameter("steps", 100, "points on the path"),
            _RULE,
        ),
        contributions=True,
    ),
    MethodInfo(
        "guided_ig",
        "Σ g(x_k) ⊙ (x_{k+1} − x_k), the coordinates of least |g| first",
        "Kapishnikov et al. 2021, Guided integrated gradients",
        "steps",
        "steps, one after the other, and a forward pass at the baseline",
        NEEDS,
        True,
        "gap = Σ map − (f(x) − f(x')); the error of a left sum",
        (
            "coordinates that equal the baseline's get 0: a black baseline is blind to black",
            "max_dist 0: integrated gradients by the rule 'left'",
        ),
        (
            Parameter("steps", 200, "points on the path"),
            Parameter("fraction", 0.25, "share of the coordinates that move at a time"),
            Parameter("max_dist", 0.02, "how far a coordinate may be from the straight line"),
            Parameter("baseline", "black", "also mean, blur, noise, uniform, sample, uni"),
        ),
        contributions=True,
    ),
    MethodInfo(
        "agi",
        "−E_t Σ_j g(x_j) ⊙ (x_{j+1} − x_j), x_{j+1} = x_j + ε sign ∇p_t(x_j), t other classes",
        "Pan, Li, Zhu 2021, Explaining deep neural network models with adversarial gradient "
        "integration",
        "2 * iterations * classes",
        "at most 2 * iterations * classes (all other classes, if the model has fewer): a forward "
        "and two backward passes per step, none once the class is reached; and a forward pass at "
        "each end",
        (*NEEDS, "two classes"),
        True,
        "gap = Σ map − (f(x) − E_t f(x_t)); the error of steps of ε. Not claimed with step_from "
        "'original', which is the published code: its steps never get further than ε",
        ("classes that are reached at once contribute nothing", SATURATED),
        (
            Parameter("iterations", 20, "steps towards each class, at most"),
            Parameter("classes", 20, "other classes, evenly spaced; all if there are fewer"),
            Parameter("eps", 0.05, "ε: length of a step, in pixels of range 1"),
            Parameter("step_from", "current", "where a step starts: also original"),
        ),
        contributions=True,
    ),
)
