"""Batches from disk onto the device: this project's windows beside Grain's pipeline, without any training.

    python benchmarks/feeding.py                              # needs pip install -e '.[bench]'
    python benchmarks/feeding.py --name=mnist --data_dir=DIR  # and the records of a set that TFDS prepared there

`mapped` is a memory-mapped .npy of 60,000 images of 28 x 28 bytes, `records` a set that TFDS prepared, which Grain
takes from TFDS's own source, as its documentation has it. Both sides shuffle anew in every epoch and put batches on the
device; Grain with as many threads as its name says. A unit of work is a batch.
"""

import argparse
import itertools
import sys
import tempfile
from pathlib import Path

import numpy as np
from side_by_side import Contender, deliver, ratio, serve, take_turns

COUNT, BATCH, EPOCHS = 60_000, 128, 1000  # EPOCHS: more than a benchmark ever reads
AHEAD = 10  # batches read ahead, by either
THREADS = (1, 2, 16)  # of Grain; 16 is its default, and the slowest where cores are few


def ours(flags):
    """Windows of batches, one read ahead, as a run is fed."""
    import jax

    from vae_jax.data import feed, tfds
    from vae_jax.data import order as streams
    from vae_jax.parallel import devices

    if flags.images == "mapped":
        image = np.load(flags.file, mmap_mode="r")
    else:
        image = tfds.read_split(tfds.open_builder(flags.name, flags.data_dir, ()), "train", "host")[0]
    source = feed.Source({"image": image}, jax.random.key(0), len(image), 8, BATCH)
    steps = EPOCHS * streams.steps_per_epoch(len(image), 8, BATCH)
    pieces = feed.pieces(0, steps, AHEAD, steps)
    windows = feed.read_ahead(feed.make_load(source, devices.make_mesh(1)), pieces)
    left = 0

    def run(count):
        nonlocal left
        left -= count
        while left < 0:
            steps, data = next(windows)
            jax.block_until_ready(data)
            left += steps

    return run


def grain(threads):
    """Grain's: shuffled, repeated, batched, read ahead by threads."""

    def make(flags):
        import jax
        from grain.python import MapDataset, ReadOptions

        if flags.images == "mapped":
            examples = MapDataset.source(np.load(flags.file, mmap_mode="r"))
        else:
            import tensorflow_datasets as tfds

            source = tfds.builder(flags.name, data_dir=flags.data_dir).as_data_source(split="train")
            examples = MapDataset.source(source).map(lambda record: record["image"])
        batches = examples.seed(0).shuffle().repeat(EPOCHS).batch(BATCH)
        options = ReadOptions(num_threads=threads, prefetch_buffer_size=AHEAD)
        steps = iter(batches.to_iter_dataset(options))

        def run(count):
            for batch in itertools.islice(steps, count):
                jax.block_until_ready(jax.device_put(batch))

        return run

    return make


FEEDERS = {"ours": ours, **{f"grain_{threads}": grain(threads) for threads in THREADS}}


def compare(images, file, flags):
    """Seconds of a batch of each feeder in every round."""
    options = [f"--images={images}", f"--file={file}", f"--name={flags.name}", f"--data_dir={flags.data_dir}"]
    command = lambda name: [sys.executable, __file__, f"--contender={name}", *options]
    count = flags.batches if images == "mapped" else max(1, flags.batches // 10)
    return take_turns([Contender(name, command(name), count) for name in FEEDERS], flags.rounds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, default=1000, help="in a round; of records a tenth")
    parser.add_argument("--name", default="mnist", help="of the prepared set")
    parser.add_argument("--data_dir", default="", help="where TFDS prepared it")
    parser.add_argument("--out", help="FILE.json for all times")
    parser.add_argument("--images", default="mapped,records", help="what to read")
    parser.add_argument("--contender", choices=FEEDERS, help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.contender:
        serve(FEEDERS[flags.contender](flags))
        return
    chosen = flags.images.split(",") if flags.data_dir else ["mapped"]
    rows, results = [], {}
    with tempfile.TemporaryDirectory() as folder:
        image = np.random.default_rng(0).integers(0, 256, (COUNT, 28, 28, 1), np.uint8)
        np.save(Path(folder) / "x_train.npy", image)
        for images in chosen:
            times = results[images] = compare(images, Path(folder) / "x_train.npy", flags)
            for name in times:
                step, (middle, low, high) = np.median(times[name]), ratio(times, name, "ours")
                spread = f"{middle:.2f} ({low:.2f} to {high:.2f})"
                rows.append((f"{images}, {name}", f"{1e3 * step:.3f}", f"{BATCH / step:,.0f}", spread))
    deliver("feeding", ("", "ms/batch", "images/s", "time over ours"), rows, {"seconds": results}, flags.out)


if __name__ == "__main__":
    main()
