"""How q(z|x) is found. Everything else in a model is the same whichever way is chosen.

    infer(params, rows, key, batch, bound) -> rows

The rows are the variational parameters of a batch, a dict of arrays `[B, ...]`: what an encoder emits, or what a table
stores for each example. `bound(key, x, q) -> [B]` is what refinement ascends; it is passed in: this file knows no ELBO.
"""


def amortized(encode, make_q):
    """One encoder serves every x: rows = encoder(x). Kingma and Welling (2014)."""

    def infer(params, rows, key, batch, bound):
        return encode(params, batch["image"], batch.get("condition"))

    return infer


INFERENCES = {"amortized": amortized}
