"""The amortized VAEs whose gaps Cremer, Li and Duvenaud (2018) measure: MNIST and Fashion-MNIST, Gaussian and flow q.

    python -m vae_jax.main --config=experiments/reproduce/gaps.py:mnist-normal --workdir=runs/gaps
    python -m vae_jax.main --config=experiments/reproduce/gaps.py:mnist-normal --workdir=runs/gaps --mode=gaps

Variants: mnist or fashion, then normal or flow, and `-quick` behind. 784-200-200-50 and its mirror, images binarized
once (Fashion-MNIST at 0.5), a linear warm-up of the KL. Published: gaps of training images, 3,280 epochs of Adam, an
affine flow with auxiliary variables; here of test images, 200 epochs of Muon, and an affine coupling flow without them.
Quick: 12 epochs, gaps of 100 test images, AIS of 20 of them with 200 temperatures.
"""

from pathlib import Path

from vae_jax import config as configs

DATA = {
    "mnist": {"data.binarization": "fixed"},
    "fashion": {"data.name": "fashion_mnist", "data.binarization": "threshold"},
}
POSTERIORS = {"normal": {}, "flow": {"model.posterior": "coupling", "model.flow_layers": 2}}
COMMON = {
    "objective.name": "beta",
    "objective.schedule": "linear",
    "objective.schedule_epochs": 10,
    "gaps.num_examples": 1000,
    "gaps.ais.num_examples": 200,
}
QUICK = {
    "train.epochs": 12,
    "train.eval_every": 12,
    "objective.schedule_epochs": 2,
    "eval.num_samples": 100,
    "eval.max_examples": 1000,
    "eval.train_examples": 0,
    "gaps.num_examples": 100,
    "gaps.num_samples": 1000,
    "gaps.fit.max_steps": 300,
    "gaps.flow.num_examples": 0,
    "gaps.ais.num_examples": 20,
    "gaps.ais.num_simulated": 0,
    "gaps.ais.num_temperatures": 200,
    "gaps.ais.pilot_temperatures": 50,
    "gaps.ais.starts": ("q",),
}
SETTINGS = {"": {}} | {
    f"{data}-{posterior}{quick}": {**COMMON, **DATA[data], **POSTERIORS[posterior], **(QUICK if quick else {})}
    for data in DATA
    for posterior in POSTERIORS
    for quick in ("", "-quick")
}


def get_config(variant=""):
    changes = configs.by_variant(variant, SETTINGS)
    config = configs.from_experiment(Path(__file__).parents[1] / "mnist.py")
    config.update_from_flattened_dict(changes)
    return config
