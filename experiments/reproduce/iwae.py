"""Table 1 of Burda, Grosse and Salakhutdinov (2016), dynamically binarized MNIST: VAE and IWAE, k = 1, 5, 50, L = 1, 2.

    python -m vae_jax.main --config=experiments/reproduce/iwae.py:L1-iwae-k5

Variants: L1 or L2, then vae or iwae, then k1, k5 or k50, and dreg in place of iwae; `-quick` behind. One layer is
784-200-200-50, two layers 784-200-200-100-100-100-50, tanh; the VAE has the k-sample Monte-Carlo KL, as published.
Published: 3,280 epochs of Adam at batch 20; here 200 epochs of Muon at batch 256 on a cosine, as experiments/mnist.py.
Quick: the same steps for every method of one k, 7 epochs of batch 256 at k = 1, 3 of batch 128 at k = 5; NLL of the
first 1,000 test images from 1,000 samples. k = 50 has none: ten minutes of two cores do not train it.
"""

from pathlib import Path

from vae_jax import config as configs

LAYERS = {"L1": {}, "L2": {"model.latent_dim": 100, "model.posterior": "two_layer", "model.prior": "two_layer"}}
OBJECTIVES = {
    "vae": {"objective.name": "elbo", "objective.kl": "monte_carlo"},
    "iwae": {"objective.name": "iwae"},
    "dreg": {"objective.name": "dreg"},
}
SAMPLES = {"k1": 1, "k5": 5, "k50": 50}
QUICK = {
    "optimizer.learning_rate": 1e-2,
    "optimizer.warmup_steps": 100,
    "train.eval_every": 100,
    "eval.num_samples": 1000,
    "eval.max_examples": 1000,
    "eval.train_examples": 0,
}
QUICK_LENGTHS = {"k1": {"train.epochs": 7, "train.batch_size": 256}, "k5": {"train.epochs": 3, "train.batch_size": 128}}
SETTINGS = {"": {}} | {
    f"{layers}-{objective}-{k}{quick}": {
        **LAYERS[layers],
        **OBJECTIVES[objective],
        "objective.num_samples": SAMPLES[k],
        **({**QUICK, **QUICK_LENGTHS[k]} if quick else {}),
    }
    for layers in LAYERS
    for objective in OBJECTIVES
    for k in SAMPLES
    for quick in (("", "-quick") if k in QUICK_LENGTHS else ("",))
}


def get_config(variant=""):
    changes = configs.by_variant(variant, SETTINGS)
    config = configs.from_experiment(Path(__file__).parents[1] / "mnist.py")
    config.update_from_flattened_dict(changes)
    return config
