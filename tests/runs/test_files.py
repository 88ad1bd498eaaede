"""One writer at a time, and files that are on the disk before they take another's place."""

import os
import signal
import subprocess
import sys
import zlib

import pytest

from vae_jax.errors import RunError
from vae_jax.runs import files

HOLD = """
import sys, time
from vae_jax.runs import files
with files.locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_by_name_and_a_killed_one_holds_nothing(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder:
        try:
            assert holder.stdout.readline() == "held\n"
            for _ in range(2):  # a refusal does not free it
                with pytest.raises(RunError, match=f"in use by process {holder.pid} on"), files.locked(tmp_path):
                    pass
        finally:
            holder.send_signal(signal.SIGKILL)
    with files.locked(tmp_path):
        assert str(os.getpid()) in (tmp_path / files.HOLDER).read_text()
    assert not (tmp_path / files.HOLDER).exists()


def test_where_no_directory_can_be_there_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be used"), files.locked(tmp_path / "file" / "run"):
        pass


def test_content_is_synced_before_the_rename_and_the_folder_after_it(tmp_path, monkeypatch):
    calls, rename = [], os.replace
    monkeypatch.setattr(files, "sync", lambda path: calls.append(path.name))
    monkeypatch.setattr(os, "replace", lambda old, new: (calls.append("rename"), rename(old, new)))
    files.replace(tmp_path / "summary.json", b"{}")
    assert calls == [".summary.json.tmp", "rename", tmp_path.name]
    assert (tmp_path / "summary.json").read_bytes() == b"{}"


@pytest.mark.parametrize("chunk", [files.CHUNK, 999_983])  # reads need not divide a part
def test_every_part_of_a_file_has_its_sum(tmp_path, monkeypatch, chunk):
    """Of four megabytes each, the last of what is left; an empty file has one, too. A bit anywhere is seen."""
    monkeypatch.setattr(files, "CHUNK", chunk)
    content = os.urandom(2 * files.PART + 3)
    (tmp_path / "data").write_bytes(content)
    (tmp_path / "empty").write_bytes(b"")
    parts = [content[start : start + files.PART] for start in range(0, len(content), files.PART)]
    assert files.sums(tmp_path) == {"data": [zlib.crc32(part) for part in parts], "empty": [0]}
    files.seal(tmp_path)
    assert files.damage(tmp_path) is None
    for place in (0, files.PART - 1, files.PART, len(content) - 1):
        flipped = bytearray(content)
        flipped[place] ^= 8
        (tmp_path / "data").write_bytes(flipped)
        assert files.damage(tmp_path) == "data is not what was written"
    (tmp_path / "data").write_bytes(content[: 2 * files.PART])
    assert files.damage(tmp_path) == "data is not what was written"
