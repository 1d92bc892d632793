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


def manifest_template(data: str, name: str) -> str:
    """The manifest's text: ``data`` is 'digits' or the URL of a folder of images."""
    import json

    # Quoted as JSON, which is YAML too, so that no path can change the document.
    body = _DIGITS if data == "digits" else _FOLDER.replace("{url}", json.dumps(data))
    return _HEAD.replace("{name}", name) + body + _TAIL
