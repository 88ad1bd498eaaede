"""Reproductions: their scripts print commands that would run, and the table sets published numbers beside a run's."""

import os
import shlex
import subprocess
from pathlib import Path

import published
import pytest
from absl import flags
from ml_collections import config_flags

from vae_jax import config as configs
from vae_jax.commands import configuration
from vae_jax.errors import ConfigError
from vae_jax.runs import directory

ROOT = Path(__file__).parents[2]
SCRIPTS = {path.stem: path for path in sorted((ROOT / "experiments/reproduce").glob("*.sh"))}


def commands(script, *arguments, **variables):
    """What a script would run, as lists of words."""
    kept = {name: value for name, value in os.environ.items() if name not in ("QUICK", "RUNS", "SEED")}
    environment = kept | {"DRY_RUN": "1"} | variables
    done = subprocess.run([script, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    return [shlex.split(line) for line in done.stdout.splitlines() if line.startswith("python ")]


def parsed(words):
    """The flags of a `python -m vae_jax.main` command, the config validated."""
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", None, flag_values=values, sys_argv=words[2:])
    for name in ("workdir", "mode"):
        flags.DEFINE_string(name, None, "", flag_values=values)
    assert words[:3] == ["python", "-m", "vae_jax.main"] and values(words[2:]) == [words[2]]
    if config.value is not None:
        configuration.validate(config.value)
    return config.value, values["workdir"].value, values["mode"].value


@pytest.mark.parametrize("quick", ["", "1"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_dry_run_prints_commands_that_are_valid(name, quick):
    *runs, last = commands(SCRIPTS[name], "--config.train.epochs=7", QUICK=quick, SEED="3", RUNS="somewhere")
    assert last == shlex.split(f"python experiments/reproduce/published.py --table={name} --runs=somewhere")
    trained = {}
    for words in runs:
        config, workdir, mode = parsed(words)
        if mode is None:
            assert config.train.epochs == 7 and config.seed == 3 and workdir not in trained
            if config.data.name != "digits":
                assert config.eval.max_examples == (1000 if quick else 0)  # what the table calls all
            trained[workdir] = config
        else:
            assert config is None and workdir in trained  # a mode of a run that an earlier command trains
    wanted = {f"somewhere/{row[1]}" for row in published.PUBLISHED[name]["rows"]}
    assert set(trained) == wanted if not quick else set(trained) <= wanted


def test_table_1_has_the_published_networks_and_bounds():
    """L = 2: 784-200-200-100-100-100-50; k draws; the VAE's KL from its draws."""
    by_run = {
        workdir.rpartition("/")[2]: config for config, workdir, _ in map(parsed, commands(SCRIPTS["iwae_table1"])[:-1])
    }
    two = by_run["L2-iwae-k50"]
    model = two.model
    widths = (*model.hidden, model.latent_dim, *model.upper_hidden, model.upper_dim)
    assert widths == (200, 200, 100, 100, 100, 50) and {model.posterior, model.prior} == {"two_layer"}
    assert (two.objective.name, two.objective.num_samples, two.eval.num_samples) == ("iwae", 50, 5000)
    one = by_run["L1-vae-k5"]
    assert (one.objective.name, one.objective.num_samples, one.objective.kl) == ("elbo", 5, "monte_carlo")
    assert (*one.model.hidden, one.model.latent_dim, one.model.posterior) == (200, 200, 50, "normal")


@pytest.mark.parametrize("name", ["iwae", "gaps"])
def test_its_variants_are_valid_and_its_docstring_says_the_command(name):
    path = ROOT / "experiments" / "reproduce" / f"{name}.py"
    with pytest.raises(ConfigError, match="expected one of") as refused:
        configs.from_experiment(path, "no such variant")
    variants = str(refused.value).partition("expected one of ")[2].split(", ")
    assert len(variants) == {"iwae": 30, "gaps": 8}[name]
    for variant in ("", *variants):
        configuration.validate(configs.from_experiment(path, variant))
    assert f"python -m vae_jax.main --config=experiments/reproduce/{name}.py:" in path.read_text()


def finished(workdir, entry, max_examples=0):
    config = configuration.default()
    config.eval.max_examples = max_examples
    directory.open_run(workdir, config.to_dict(), {}, {})
    directory.write_summary(
        workdir, {"complete": True, "step": 1234, "epochs": 2.5, "splits": {"test": {"nll": entry}}}
    )


def test_the_table_says_what_was_measured_and_what_was_not(tmp_path, capsys):
    finished(tmp_path / "one", {"value": 87.5, "stderr": 0.25, "unit": "nats", "num_samples": 5000}, max_examples=1000)
    finished(tmp_path / "all", {"value": 86.0, "stderr": None, "unit": "nats"})
    table = {
        "source": "A (2000)",
        "columns": ["row", "run", "split", "number", "published"],
        "rows": [
            ["first", "one", "test", "nll", 86.76],
            ["second", "all", "test", "nll", 86],
            ["third", "no", "test", "nll", 1],
        ],
    }
    lines = published.text(table, tmp_path).splitlines()
    assert lines[0] == "published: A (2000)"
    assert lines[2].split() == ["first", "86.76", "87.50", "±", "0.25", "+0.74", "2.5", "1,234", "1,000", "5,000"]
    assert lines[3].split() == ["second", "86", "86", "+0.00", "2.5", "1,234", "all"]
    assert lines[4].split() == ["third", "1", "not", "run"]

    published.main(["--table=iwae_table1", f"--runs={tmp_path}"])
    assert "IWAE, k = 50, L = 2: NLL" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        published.main(["--table=table_9", f"--runs={tmp_path}"])
    assert "table_9" in capsys.readouterr().err
