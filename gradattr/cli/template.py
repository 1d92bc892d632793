"""The manifest that ``gradattr init`` prints: complete, commented, and runnable as it is."""

from __future__ import annotations

_HEAD = """\
# {name}: attribution maps of a whole data set.
#   gradattr plan FILE     what would be done, how long, how large
#   gradattr run FILE      do it; running it again resumes
# For completion and checks in an editor:
#   gradattr schema > schema.json
# yaml-language-server: $schema=schema.json
version: 1
kind: attribute
name: {name}
seed: 0

"""

_DIGITS = """\
# 1 797 handwritten digits, 8x8 grey, inside the package: no download.
data: digits

model:
  arch: cnn                # linear, mlp, cnn, resnet18, torchvision:<name>, python:<module>:<fn>
  width: 16
  train:                   # or 'weights: <url of a .safetensors or state dict>'
    data: {format: digits, split: train}
    test: {format: digits, split: test}
    optimizer: adam
    lr: 0.002
    epochs: 15
"""

_FOLDER = """\
data:
  format: folder           # one sub-folder per class; idx, parquet, npz, webdataset, ... too
  url: {url}
  limit: 1000              # the first rows only; delete this line for all

model:
  arch: torchvision:resnet18
  weights: torchvision:IMAGENET1K_V1
preprocess: weights        # the transforms that come with those weights
"""

_TAIL = """
methods:                   # 'gradattr methods' lists them all
  - saliency
  - input_x_gradient
  - {name: smoothgrad, samples: 25, sigma: 0.1}
  - {name: integrated_gradients, steps: 50, baseline: black}
  - random                 # the control that the others must beat

target: logit_pred         # the scalar that is explained
store: results             # a folder, or s3://bucket/prefix
"""


_AUDIT = """\
# {name}: can an attribution be trusted on this data? (DiffROAR: keep the top or the bottom k of
# each image's coordinates, retrain from scratch, compare the accuracies.)
#   gradattr plan FILE     how many trainings, how long
#   gradattr run FILE      do it; running it again resumes
#   gradattr show FILE     the verdicts;  gradattr plot FILE  the curves
# For completion and checks in an editor:
#   gradattr schema > schema.json
# yaml-language-server: $schema=schema.json
version: 1
kind: diffroar
name: {name}
seed: 0

# 1 797 handwritten digits, 8x8 grey, inside the package: no download.
data: {format: digits, split: train}
test: {format: digits, split: test}

models:                    # they supply the attributions; each has its name
  standard:
    arch: mlp              # linear, mlp, cnn, resnet18, torchvision:<name>, python:<module>:<fn>
    hidden: [128, 128]
    train: {lr: 0.05, batch_size: 64, epochs: 30}
  robust:
    arch: mlp
    hidden: [128, 128]
    train:
      lr: 0.05
      batch_size: 64
      epochs: 30
      adversary: {norm: l2, eps: 0.5}

methods:                   # 'gradattr methods' lists them all
  - saliency
baselines: [random, linear]
levels: [0.1, 0.3, 0.5, 1.0]    # shares of the coordinates that are kept; 1.0 is the noise floor
seeds: 3                   # retrainings per scheme, level and arm
store: results             # a folder, or s3://bucket/prefix
"""


_TRAINING = """\
# {name}: a model is wrong; which training images pushed it there, and which of their pixels?
#   gradattr plan FILE     what would be done, how long, how large
#   gradattr run FILE      do it; running it again resumes
#   gradattr show FILE     the strongest pairs;  gradattr plot FILE  a figure per query
# For completion and checks in an editor:
#   gradattr schema > schema.json
# yaml-language-server: $schema=schema.json
version: 1
kind: tfa
name: {name}
seed: 0

# 1 797 handwritten digits, 8x8 grey, inside the package: no download.
data: {format: digits, split: train}
queries:                   # the predictions that are explained
  data: {format: digits, split: test}
  select: misclassified    # or all, correct; or 'ids: [...]'
  order: loss              # the worst first
  count: 12

model:
  arch: mlp                # linear, mlp, cnn, resnet18, torchvision:<name>, python:<module>:<fn>
  hidden: [64]
  train:                   # or 'weights: <url of a .safetensors or state dict>'
    optimizer: adam        # on 'data' above
    lr: 0.002
    epochs: 15

scores:                    # how much each training image helps or harms each query
  - grad_cos               # the cosine of the two gradients of the loss
  - {score: influence, damping: 0.01}
  - random                 # the control that the others must beat
keep: top:100              # scores that are kept, of each query and side; or full, above:<score>

top: 5                     # helpful and harmful training images of each query that are mapped
maps:
  - {map: tfa, samples: 25}                            # the gradient of the score in their pixels
  - {map: two_step, id: saliency, method: saliency}    # the baseline, whatever the query
insertion:                 # a step on a map's highest pixels against one on random pixels
  fill: 0                  # what the other pixels become
  lr: 0.1
store: results             # a folder, or s3://bucket/prefix
"""


_PATCHING = """\
# {name}: which tokens, at which layers, carry a language model's answer?
#   pip install 'gradattr[nlp]'   the library transformers
#   gradattr plan FILE     what would be done, how long
#   gradattr run FILE      do it; running it again resumes
#   gradattr show FILE     baselines, and how faithful the estimates are
# For completion and checks in an editor:
#   gradattr schema > schema.json
# yaml-language-server: $schema=schema.json
version: 1
kind: patching
name: {name}
seed: 0

data:
  file: prompts.jsonl      # {"prompt": "The Eiffel Tower is in", "answer": " Paris"}
  answer: answer           # the column of the next token, with its space; without: the predicted
  # foil: foil             # another next token, for score: logit_difference
  # corrupted: corrupted   # another prompt of as many tokens, for the baseline 'corrupted'

model:
  path: openai-community/gpt2   # a folder with safetensors, or a name on the Hugging Face hub
score: prob                # or log_prob, logit, logit_difference
sites: all                 # or [0, 6, 12]: 0 is the embedding, i the output of block i

baselines:                 # runs that the prompt's activations are patched into
  - {baseline: uni, eps: 0.25}   # nearby, where the answer is as if unlearned
  - zero
  - random                 # or {baseline: random, at: sphere}; noise; mean; corrupted
methods:
  - attribution_patching   # an estimate from one backward pass; integrated_patching: from a path
  - activation_patching    # exact: a forward pass for every site and position
store: results             # a folder, or s3://bucket/prefix
"""


_EVALUATION = """\
# {name}: which method's maps can be relied on, for this model and this data?
#   gradattr metrics       what they measure, and what they cost
#   gradattr plan FILE     what would be done, how long, how large
#   gradattr run FILE      do it, and make the checks; running it again resumes
#   gradattr show FILE     means, intervals, ranks;  gradattr plot FILE  curves and agreement
# For completion and checks in an editor:
#   gradattr schema > schema.json
# yaml-language-server: $schema=schema.json
version: 1
kind: evaluate
name: {name}
seed: 0

# 1 797 handwritten digits, 8x8 grey, inside the package: no download.
# In place of data, model and methods: attributions: run:<id> judges the maps of a run.
data: {format: digits, split: test}

model:
  arch: cnn                # linear, mlp, cnn, resnet18, torchvision:<name>, python:<module>:<fn>
  width: 16
  train:                   # or 'weights: <url of a .safetensors or state dict>'
    data: {format: digits, split: train}
    optimizer: adam
    lr: 0.002
    epochs: 15

target: prob_pred          # the scalar that is explained
methods:                   # 'gradattr methods' lists them all
  - saliency
  - input_x_gradient
  - {name: integrated_gradients, steps: 30, baseline: black}
  - uni
  - random                 # the control that the others must beat

metrics:                   # 'gradattr metrics' lists them all
  - deletion
  - insertion
  - {metric: mu_fidelity, subsets: 100, grid: 8}
  - path_monotonicity
  - completeness
  - {metric: attack, images: 20}       # makes every map 31 times: few images, drawn by the seed
  - {metric: randomisation, images: 50}
  - agreement
  - cost

checks:                    # exit code 1 if one fails; 'gradattr check' makes them again
  - {check: summary, metric: insertion_auc, method: uni, better_than: random}
store: results             # a folder, or s3://bucket/prefix
"""


def evaluation_template(name: str) -> str:
    """The text of a manifest of kind evaluate on the embedded digits."""
    return _EVALUATION.replace("{name}", name)


def patching_template(name: str) -> str:
    """The text of a manifest of kind patching."""
    return _PATCHING.replace("{name}", name)


def training_template(name: str) -> str:
    """The text of a manifest of kind tfa on the embedded digits."""
    return _TRAINING.replace("{name}", name)


def diffroar_template(name: str) -> str:
    """The text of a DiffROAR manifest on the embedded digits."""
    return _AUDIT.replace("{name}", name)


def manifest_template(data: str, name: str) -> str:
    """The manifest's text: ``data`` is 'digits' or the URL of a folder of images."""
    import json

    # Quoted as JSON, which is YAML too, so that no path can change the document.
    body = _DIGITS if data == "digits" else _FOLDER.replace("{url}", json.dumps(data))
    return _HEAD.replace("{name}", name) + body + _TAIL
