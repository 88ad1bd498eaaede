"""What the numbers of a summary are called on a page and in a table, the same in both."""

BITS = "_bits_per_dim"  # 'elbo_bits_per_dim' is 'elbo' in another unit

# The numbers that count come first, in this order.
LABELS = {
    "nll": "NLL",
    "cross_entropy": "cross-entropy",
    "log_px": "log p(x)",
    "elbo": "ELBO",
    "log_likelihood": "E[log p(x|z)]",
    "kl": "KL",
    "active_units": "active units",
    "squared_error": "squared error",
    "sigma": "sigma",
    "ess": "effective sample size",
    "pareto_k": "Pareto k",
    "pareto_k_high": "Pareto k > 0.7",
    "mutual_information": "I(x; z)",
    "kl_aggregate": "KL of the aggregate q(z)",
    "active_units_kl": "active units by KL",
    "linear_probe_accuracy": "accuracy of a linear probe",
    "knn_accuracy": "accuracy of nearest neighbours",
    "train_seconds": "training",
    "inference_gap": "inference gap",
    "approximation_gap": "approximation gap",
    "amortization_gap": "amortization gap",
    "elbo_q": "L[q]",
    "elbo_q_star": "L[q*]",
    "iwae_q": "IWAE from q",
    "iwae_q_star": "IWAE from q*",
    "elbo_q_star_flow": "L[q*], a flow",
    "ais_q": "AIS from q*",
    "ais_prior": "AIS from the prior",
    "q_star_from_start": "q* found from q",
    "fit_shortfall": "shortfall of fits, at least",
    "fit_stopped": "fits that stopped",
}
PARTS = {"pareto": "Pareto", "ess": "ESS", "bdmc": "BDMC", "ais": "AIS", "iwae": "IWAE", "elbo": "ELBO", "px": "p(x)"}
BEGINNINGS = sorted((name for name in LABELS if "_" in name), key=len, reverse=True)


def named(name: str) -> str:
    """'E[log p(x|z)] per dim' for 'log_likelihood_bits_per_dim'.

    Args:
        name: of a number in a split of a summary.

    Returns:
        Its label; of names that are not known, the name in words.
    """
    base = name.removesuffix(BITS)
    dim = " per dim" * (base != name)
    if base in LABELS:
        return LABELS[base] + dim
    known = next((begin for begin in BEGINNINGS if base.startswith(f"{begin}_")), "")
    rest = base.removeprefix(known).strip("_").split("_")
    return " ".join([*filter(None, [LABELS.get(known)]), *(PARTS.get(word, word) for word in rest)]) + dim


def ordered(names) -> list[str]:
    """Each name once: those of LABELS first and in that order, bits/dim right behind their nats.

    Args:
        names: of numbers.

    Returns:
        The names in the order of a page.
    """
    names = list(dict.fromkeys(names))
    bases = list(dict.fromkeys([*LABELS, *(name.removesuffix(BITS) for name in names)]))
    return sorted(names, key=lambda name: (bases.index(name.removesuffix(BITS)), name))
