"""The tables of a run's page, from a summary as the modes write it."""

import re

import pytest

from vae_jax.reports import page
from vae_jax.reports.names import named, ordered

NATS = {"value": -86.4, "stderr": 0.3, "unit": "nats"}


@pytest.mark.parametrize(
    "name, label",
    [
        ("nll", "NLL"),
        ("nll_bits_per_dim", "NLL per dim"),
        ("log_likelihood", "E[log p(x|z)]"),
        ("iwae_q_pareto_k", "IWAE from q Pareto k"),
        ("iwae_q_star", "IWAE from q*"),
        ("bdmc_q_lower", "BDMC q lower"),
        ("log_px_from_prior", "log p(x) from prior"),
        ("drawn stroke", "drawn stroke"),
    ],
)
def test_a_number_has_one_name(name, label):
    assert named(name) == label


def test_what_counts_comes_first_and_bits_behind_their_nats():
    names = ["kl", "mine", "elbo_bits_per_dim", "nll", "elbo", "kl"]
    assert ordered(names) == ["nll", "elbo", "elbo_bits_per_dim", "kl", "mine"]


def cells(table):
    """The texts of a table's cells, a list for each row."""
    rows = re.findall(r"<tr>(.*?)</tr>", table)
    return [[re.sub("<.*?>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def test_splits_stand_side_by_side():
    splits = {"train": {"elbo": NATS}, "test": {"elbo": NATS, "mine": {"value": 3, "stderr": None, "unit": "of 5"}}}
    shown = cells(page.numbers_table(splits))
    assert shown[0] == ["", "train", "test", ""]
    assert shown[1:] == [["ELBO", "−86.40 ± 0.30", "−86.40 ± 0.30", "nats"], ["mine", "", "3", "of 5"]]


def test_gaps_say_by_what_and_of_how_many():
    gaps = {"iwae_q": NATS | {"num_examples": 1000}, "log_px": NATS | {"num_examples": 10, "method": "ais_prior"}}
    shown = cells(page.of_a_kind("gaps", gaps))
    assert shown[1] == ["log p(x)", "−86.40 ± 0.30", "10", "nats, by AIS from the prior"]
    assert shown[2] == ["IWAE from q", "−86.40 ± 0.30", "1,000", "nats"]


def test_estimators_have_a_row_for_each_part():
    number = lambda value, unit="at K = 64": {"value": value, "stderr": None, "unit": unit}
    numbers = {"elbo_encoder_snr": number(2.0), "elbo_encoder_snr_slope": number(0.5), "stl_encoder_snr": number(3.0)}
    numbers |= {"stl_q_params_snr": number(4.0), "stl_bias_t": number(1.5, "paired t against elbo")}
    assert cells(page.of_a_kind("estimators", numbers))[1:] == [
        ["ELBO, encoder", "2", "0.5", "", "at K = 64"],
        ["STL, encoder", "3", "", "1.5", "at K = 64"],
        ["STL, q params", "4", "", "1.5", "at K = 64"],
    ]
