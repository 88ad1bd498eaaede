"""experiments/analysis/binarizations.py on a small run: eight numbers, the first of them the run's own kind."""

import binarizations
import numpy as np
import pytest


def test_the_elbo_moves_with_the_draws_by_what_it_moves_over_images(trained_run, capsys):
    run = trained_run({})
    found = binarizations.measure(run)
    values = np.array([entry["value"] for entry in found.values()])
    assert len(values) == 8 and 0.01 < values.std() < 3 * found[0]["stderr"]
    binarizations.show(found, run)
    assert f"standard deviation {values.std(ddof=1):.3f}" in capsys.readouterr().out


def test_images_without_draws_are_refused(untrained_run, capsys):
    with pytest.raises(SystemExit) as stopped:
        binarizations.main([str(untrained_run({"data.binarization": "threshold"}))])
    assert stopped.value.code == 2 and "data.binarization = threshold" in capsys.readouterr().err
