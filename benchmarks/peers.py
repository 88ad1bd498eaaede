"""The same model and the same steps in other libraries: `name(network, batch, images) -> run(steps)`.

PyTorch: images on the device already, batches by index, fused Adam; eager, and under torch.compile. pythae: its own
trainer, with its own data loader. flax: the step of Flax's VAE example (examples/vae), on batches as NumPy arrays, run
op by op as it is published, and jitted. All of them take Bernoulli logits, the closed-form KL and Adam at 1e-3.
"""

import itertools
import tempfile

import numpy as np
from networks import NETWORKS, PIXELS


def torch_network(network):
    """(encoder, decoder) as torch modules; the encoder's output is mean and log variance, side by side."""
    from torch import nn

    hidden, latent, name = NETWORKS[network]
    activation = {"relu": nn.ReLU, "tanh": nn.Tanh}[name]

    def mlp(sizes):
        layers = [(nn.Linear(i, o), activation()) for i, o in itertools.pairwise(sizes)]
        return nn.Sequential(*[module for pair in layers for module in pair][:-1])

    return mlp((PIXELS, *hidden, 2 * latent)), mlp((latent, *hidden[::-1], PIXELS))


def torch_eager(network, batch, images, compiled=False):
    import torch
    from torch.nn import functional as F

    encoder, decoder = torch_network(network)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3, fused=True)
    data, latent = torch.from_numpy(images).float(), NETWORKS[network][1]

    def loss(x):
        mean, log_var = encoder(x).split(latent, dim=1)
        z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum()
        return (F.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum") + kl) / len(x)

    loss = torch.compile(loss) if compiled else loss

    def run(steps):
        order = torch.randperm(len(data))
        for step in range(steps):
            start = step * batch % (len(data) - batch + 1)
            optimizer.zero_grad(set_to_none=True)
            loss(data[order[start : start + batch]]).backward()
            optimizer.step()

    return run


def torch_compiled(network, batch, images):
    return torch_eager(network, batch, images, compiled=True)


def pythae(network, batch, images):
    """pythae's VAE by pythae's BaseTrainer; its networks, widths apart, are the same modules."""
    _model, trainer = pythae_trainer(network, batch, images)
    epoch = 0

    def run(steps):
        nonlocal epoch
        epoch += 1
        trainer.train_loader = list_loader(trainer, steps)
        trainer.train_step(epoch)

    return run


def list_loader(trainer, steps):
    """A loader of its own kind over as many examples as `steps` batches hold."""
    dataset, batch = trainer.train_dataset, trainer.training_config.per_device_train_batch_size
    part = type(dataset)(dataset.data[: steps * batch], dataset.labels[: steps * batch])
    return trainer.get_train_dataloader(part)


def pythae_model(network):
    import torch
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    parts, latent = torch_network(network), NETWORKS[network][1]

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.layers = parts[0]

        def forward(self, x):
            mean, log_var = self.layers(x).split(latent, dim=1)
            return ModelOutput(embedding=mean, log_covariance=log_var)

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.layers = parts[1]

        def forward(self, z):
            return ModelOutput(reconstruction=torch.sigmoid(self.layers(z)))

    config = VAEConfig(input_dim=(PIXELS,), latent_dim=latent, reconstruction_loss="bce")
    return VAE(config, encoder=Encoder(), decoder=Decoder())


def pythae_trainer(network, batch, images):
    import torch
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    model = pythae_model(network)
    data = torch.from_numpy(images).float()
    config = BaseTrainerConfig(
        output_dir=tempfile.mkdtemp(),
        num_epochs=1,
        learning_rate=1e-3,
        per_device_train_batch_size=batch,
        train_dataloader_num_workers=0,
        optimizer_params={"fused": True},
        no_cuda=True,
    )
    trainer = BaseTrainer(model, BaseDataset(data, torch.zeros(len(data))), training_config=config)
    trainer.prepare_training()
    return model, trainer


def flax_step(network, batch, images, jitted=False):
    """The step of Flax's example: a Linen module, its log-sigmoid loss, a TrainState."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import linen as nn
    from flax.training import train_state

    hidden, latent, name = NETWORKS[network]
    activation = {"relu": nn.relu, "tanh": nn.tanh}[name]

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, key):
            for width in hidden:
                x = activation(nn.Dense(width)(x))
            mean, log_var = nn.Dense(latent)(x), nn.Dense(latent)(x)
            h = mean + jnp.exp(0.5 * log_var) * jax.random.normal(key, mean.shape)
            for width in hidden[::-1]:
                h = activation(nn.Dense(width)(h))
            return nn.Dense(PIXELS)(h), mean, log_var

    @jax.vmap
    def cross_entropy(logits, x):
        log_p = nn.log_sigmoid(logits)
        return -jnp.sum(x * log_p + (1.0 - x) * jnp.log(-jnp.expm1(log_p)))

    @jax.vmap
    def divergence(mean, log_var):
        return -0.5 * jnp.sum(1 + log_var - jnp.square(mean) - jnp.exp(log_var))

    def step(state, x, key):
        def loss(params):
            logits, mean, log_var = Model().apply({"params": params}, x, key)
            return cross_entropy(logits, x).mean() + divergence(mean, log_var).mean()

        return state.apply_gradients(grads=jax.grad(loss)(state.params))

    step = jax.jit(step, donate_argnums=0) if jitted else step
    key, floats = jax.random.key(0), images.astype(np.float32)
    params = Model().init(key, floats[:batch], key)["params"]
    state = train_state.TrainState.create(apply_fn=None, params=params, tx=optax.adam(1e-3))

    def run(steps):
        nonlocal state, key
        order = np.random.default_rng(0).permutation(len(floats))
        for number in range(steps):
            start = number * batch % (len(floats) - batch + 1)
            key, noise = jax.random.split(key)
            state = step(state, floats[order[start : start + batch]], noise)
        jax.block_until_ready(state.params)

    return run


TRAINING = {
    "torch": torch_eager,
    "torch_compile": torch_compiled,
    "pythae": pythae,
    "flax": flax_step,
    "flax_jit": lambda network, batch, images: flax_step(network, batch, images, jitted=True),
}
