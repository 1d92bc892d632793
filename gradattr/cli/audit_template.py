"""The manifest of kind audit that ``gradattr init --kind audit`` prints."""

from __future__ import annotations

_AUDIT = """\
# {name}: several questions about one model, and what the answers must be, under one name.
#   gradattr plan FILE     what every job would do, how long, and the sum
#   gradattr run FILE      do it, and make the checks (exit 1 if one fails); again: resume
#   gradattr show FILE     a line per job;  gradattr check FILE  the checks again
#   gradattr query FILE "SELECT * FROM quality.summary"    every job is a schema in SQL
# For completion and checks in an editor:
#   gradattr schema > schema.json
# yaml-language-server: $schema=schema.json
version: 1
kind: audit
name: {name}
seed: 0
store: results             # a folder, or s3://bucket/prefix; of all jobs

common:                    # keys of every job whose kind has them, unless it states them itself
  data: {format: digits, split: test}    # 8x8 grey digits, inside the package: no download
  model:                   # trained once, for all jobs; or 'weights: <url>'
    arch: mlp              # linear, mlp, cnn, resnet18, torchvision:<name>, python:<module>:<fn>
    hidden: [64]
    train:
      data: {format: digits, split: train}
      lr: 0.05
      batch_size: 64
      epochs: 20

jobs:                      # in this order; each a manifest of its kind, without a name
  quality:                 # its run is called {name}-quality-<fingerprint>
    kind: evaluate
    methods:               # 'gradattr methods' lists them all
      - saliency
      - {name: integrated_gradients, steps: 32, baseline: black}
      - random             # the control that the others must beat
    metrics: [deletion, insertion, completeness]
  trust:
    kind: diffroar
    data: {format: digits, split: train}
    test: {format: digits, split: test}
    models:
      standard:
        arch: mlp
        hidden: [64]
        train: {lr: 0.05, batch_size: 64, epochs: 20}
    retrain: false         # masked test images only; leave it out to retrain, as DiffROAR asks
    levels: [0.1, 0.3, 0.5, 1.0]

checks:                    # each of a job, by its name; 'check: sql' may ask all of them
  - {job: quality, check: predictions, measure: accuracy, at_least: 0.9}
  - {job: quality, check: predictions, measure: accuracy, not_worse_than: last, by: 0.01}
  - {job: trust, check: diffroar, scheme: standard/saliency, level: 0.3, statistic: low, above: 0}
"""


def audit_template(name: str) -> str:
    """The text of an audit of the embedded digits."""
    return _AUDIT.replace("{name}", name)
