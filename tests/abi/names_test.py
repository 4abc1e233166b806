#!/usr/bin/env python3
"""libpyhold.so.1 exports what names.txt lists: no function was lost, added or renamed unnoticed."""

import pathlib
import subprocess
import unittest

HERE = pathlib.Path(__file__).absolute().parent


class NamesTest(unittest.TestCase):
    def test_the_exported_names_are_those_of_the_list(self):
        library = HERE.parent.parent / "core/libpyhold.so.1"
        shown = subprocess.run(["nm", "-D", "--defined-only", library], check=True,
                               capture_output=True, text=True).stdout.splitlines()
        names = {line.split()[-1] for line in shown if line.split()[-2] in "TDBRVW"}
        self.assertEqual(sorted(names), (HERE / "names.txt").read_text().split())


if __name__ == "__main__":
    unittest.main(verbosity=2)
