from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_instance_trainers.data.text_files import read_json, read_table
from nnunet_instance_trainers.errors import UserError


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_the_mark_of_windows_makes_no_difference(tmp_path: Path, mark: bytes) -> None:
    (tmp_path / "a.json").write_bytes(mark + '{"name": "Löwe"}'.encode())
    assert read_json(tmp_path / "a.json", "write it again") == {"name": "Löwe"}
    (tmp_path / "a.csv").write_bytes(mark + 'case,n\n"Löwe, alt",2\n'.encode())
    assert read_table(tmp_path / "a.csv", "write it again") == [{"case": "Löwe, alt", "n": "2"}]


@pytest.mark.parametrize("content", [b'{"a": 1', b"", b"[]", b"null", b'{"a": "\xff"}', b"[" * 200_000])
def test_no_json_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=r"a.json is damaged, or no JSON \(.*\): write it again"):
        read_json(tmp_path / "a.json", "write it again")


@pytest.mark.parametrize("content", [b"", b"a,b\n1\n", b"a,b\n1,2,3\n", b"a,a\n1,2\n", b'a,b\n1,"2', b"a\n\xff\n"])
def test_no_table_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"a.csv is damaged, or no table \(.*\): write it again"):
        read_table(tmp_path / "a.csv", "write it again")


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    for read in (read_json, read_table):
        with pytest.raises(UserError, match=r"cannot read .*none \(No such file or directory\): write it again"):
            read(tmp_path / "none", "write it again")
