"""--mode=sample, encode and decode: a trained model on arrays of one's own.

    sample   draws from the prior: 'z', 'mean' E[x|z], 'x' a draw from p(x|z)
    encode   'x' in, 'mean' E_q[z|x] and the q_params of q(z|x) out
    decode   'z' in, 'mean' and 'x' out

Arrays come from and go to .npz files; a .png shows the means. Images are as the model was trained on them: in the range
that its data were stored in, for example 0 to 255, and are binarized as there; `decode` also takes what `encode` wrote,
where the z are its means. From Python the same functions are those of `load_run(workdir)`:
`model.prior(params)`, `model.encode(params, x)`, `model.decode(params, z[None])`.
"""

from pathlib import Path

import jax
import numpy as np

from vae_jax import console
from vae_jax.data import files
from vae_jax.errors import DataError, one_line
from vae_jax.evaluation.examples import prepared, with_means, with_q_params
from vae_jax.keys import Use, seed_key, split_keys
from vae_jax.models.model import sample_prior
from vae_jax.parallel import devices
from vae_jax.runs import load
from vae_jax.training import setup as setups


def sample(loaded, count, given):
    """`count` draws of the prior and of p(x|z); labels in turn where the model wants a label for its condition."""
    condition = conditions(loaded, count, given)
    key = seed_key(loaded.config.eval.seed, Use.SEED_SAMPLE_Z)
    z = jax.device_get(sample_prior(loaded.model, loaded.params, key, count, condition))
    named = z if isinstance(z, dict) else {"z": z}
    return {name: array[0] for name, array in named.items()} | decoded(loaded, z, condition)


def decode(loaded, given):
    """p(x|z) at each z of given['z']."""
    name = "z" if "z" in given or "mean" not in given else "mean"  # the latter is what encode writes
    z = wanted(given, name, (loaded.config.model.latent_dim,))
    return decoded(loaded, z[None], conditions(loaded, len(z), given))


def decoded(loaded, z, condition):
    """The mean of p(x|z) and a draw from it, at z `[1, N, ...]`."""
    key = seed_key(loaded.config.eval.seed, Use.SEED_SAMPLE_X)

    @jax.jit
    def both(params, z, condition):
        p = loaded.model.decode(params, z, condition)
        return p.mean[0], p.sample(key)[0]

    mean, x = both(loaded.params, z, condition)
    return {"mean": np.asarray(mean), "x": np.asarray(x)}


def encode(loaded, given):
    """q(z|x) of each image of given['x'], found as the run finds it: its mean, and the q_params that describe it."""
    image = wanted(given, "x", loaded.info.event_shape)
    require_range(image, loaded)
    keys = split_keys(loaded.config.eval.seed, "test", len(image))
    prepare = setups.preparation(loaded.config, loaded.info, fixed="dynamic")
    examples = {"image": prepared(prepare, image, keys), "key": keys}
    if loaded.info.condition_shape:
        examples["condition"] = conditions(loaded, len(image), given)
    examples = with_q_params(loaded.model, loaded.params, examples, loaded.config, devices.ONE_DEVICE)
    examples = with_means(loaded.model, loaded.params, examples, devices.ONE_DEVICE)
    mean, found = examples["mean"], {f"q_{name}": values for name, values in examples["q_params"].items()}
    return found | (mean if isinstance(mean, dict) else {"mean": mean})


def wanted(given, name, shape):
    """The array `name` `[N, *shape]` float32. Raises DataError where it is not there, or not such numbers."""
    if name not in given:
        raise DataError(
            f"--data: no array {name!r}, only {', '.join(given) or 'none'}; save it as np.savez(FILE, {name}=...)"
        )
    if given[name].shape[1:] != tuple(shape) or not given[name].size:
        raise DataError(
            f"--data: {name!r} has shape {list(given[name].shape)}, expected [N, {', '.join(map(str, shape))}]"
        )
    return files.as_floats("--data", name, given[name])


def require_range(image, loaded):
    """Raises DataError for images outside the range of the stored ones, if the likelihood is of values in a range."""
    (low, high), (least, most) = loaded.info.value_range, (image.min(), image.max())
    if loaded.model.bounded and (least < low or most > high):
        raise DataError(
            f"--data: 'x' has values in [{least:.4g}, {most:.4g}], the run was trained on images in [{low:g}, {high:g}]"
        )
    if high > 1 and most <= 1 and image.any():
        message = f"warning: 'x' is nearly black: its values end at {most:.4g}, those of the run's images at {high:g}"
        console.write(f"{message}; multiply by {high:g} if they are shares")


def conditions(loaded, count, given):
    """The condition of each of `count` examples: given, or the labels in turn; None where the model has none."""
    shape = loaded.info.condition_shape
    if not shape:
        return None
    if "condition" not in given and loaded.config.data.condition == "label":
        return np.eye(shape[0], dtype=np.float32)[np.arange(count) % shape[0]]
    condition = wanted(given, "condition", shape)
    if len(condition) != count:
        raise DataError(f"--data: {len(condition)} conditions for {count} examples; give one for each")
    return condition


def read(path):
    """{name: array} of an .npz file. Raises DataError."""
    try:
        with open(path, "rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # numpy raises half a dozen kinds for a broken file
        raise DataError(f"--data={path} is not a readable .npz: {one_line(error)}") from error


def write(path, arrays):
    """Arrays into an .npz file, or the image means among them as a .png. Raises DataError for another ending."""
    path = Path(path)
    if path.suffix == ".npz":
        with open(path, "wb") as stream:
            np.savez(stream, **arrays)
    elif path.suffix == ".png" and "x" in arrays:
        from vae_jax.plotting import images as image_plots

        figure = image_plots.samples(arrays["mean"], title="E[x|z]")
        figure.savefig(path, dpi=120)
    else:
        raise DataError(f"--out={path}: expected FILE.npz" + (", or FILE.png for images" if "x" in arrays else ""))


def write_samples(workdir, out, count, data=""):
    """`count` draws from the prior of a trained run and what they decode to, into a .npz or .png."""
    deliver(sample(load.load_run(workdir), count, read(data) if data else {}), out)


def write_codes(workdir, out, data):
    """q(z|x) of the images in `data`, into a .npz."""
    deliver(encode(load.load_run(workdir), read(data)), out)


def write_decoded(workdir, out, data):
    """p(x|z) at the codes in `data`, into a .npz or .png."""
    deliver(decode(load.load_run(workdir), read(data)), out)


def deliver(results, out):
    write(out, results)
    console.write(f"{out}: " + ", ".join(f"{name} {list(array.shape)}" for name, array in results.items()))
