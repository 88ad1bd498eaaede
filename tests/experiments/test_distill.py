"""experiments/analysis/distill.py on a small table: a run that loads, nearer to the table than where it began."""

import distill
import numpy as np
import pytest

from vae_jax.runs import directory, load

TABLE = {"inference.kind": "per_datapoint", "data.binarization": "fixed"}


@pytest.mark.slow
def test_the_encoder_finds_what_the_table_holds(trained_run, tmp_path, capsys):
    source, out = trained_run(TABLE), tmp_path / "new"
    distill.main([str(source), f"--out={out}", "--epochs=60"])
    records = [record["kl_to_table"] for record in directory.read_metrics(out) if record["split"] == "train"]
    assert len(records) == 60 and records[-1] < 0.3 * records[0]
    old, new = (directory.read_summary(path) or {} for path in (source, out))
    assert new["complete"] and "KL of the table to the encoder" in capsys.readouterr().out
    # the mean of the table's bound is ahead of the encoder's by less than the KL and some draws of noise
    behind = old["splits"]["train"]["elbo"]["value"] - new["splits"]["train"]["elbo"]["value"]
    assert behind < records[-1] + 3 * new["splits"]["train"]["elbo"]["stderr"]
    loaded, table = load.load_run(out), load.load_run(source)
    np.testing.assert_array_equal(
        loaded.params["decoder"]["MLP_0"]["Dense_0"]["kernel"], table.params["decoder"]["MLP_0"]["Dense_0"]["kernel"]
    )


@pytest.mark.parametrize("given, message", [({}, "has an encoder already"), (TABLE, "is there already")])
def test_refusals_are_one_line(given, message, trained_run, tmp_path, capsys):
    out = tmp_path if given else tmp_path / "new"
    with pytest.raises(SystemExit) as stopped:
        distill.main([str(trained_run(given)), f"--out={out}"])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and error.count("\n") == 1
