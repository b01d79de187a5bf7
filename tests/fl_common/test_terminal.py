"""What is printed where nobody reads, and how wide."""

import os
import subprocess
import sys

from rich.table import Table

from fl_common.terminal import console, unbroken_streams


def test_reader_that_has_gone_ends_nothing():
    program = (
        "import sys\n"
        "from fl_common.terminal import unbroken_streams\n"
        "with unbroken_streams():\n"
        "    for _ in range(2000): print('x' * 100)\n"
        "print('still buffered')\n"
        "sys.exit(7)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 7


def test_streams_are_as_before_and_what_was_said_is_there(capsys):
    before = sys.stdout
    with unbroken_streams():
        print("hello")
        assert sys.stdout is not before
        assert sys.stdout.encoding == before.encoding
    assert sys.stdout is before
    assert capsys.readouterr().out == "hello\n"


def test_table_in_a_file_is_not_cut(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    table = Table()
    table.add_column("long")
    table.add_row("x" * 300)
    console().print(table)
    assert "x" * 300 in capsys.readouterr().out
    monkeypatch.setitem(os.environ, "COLUMNS", "40")
    assert console().width == 40
