#!/usr/bin/env python3
"""A repository that uses pyhold through Bazel, with a WORKSPACE file: ../consumer.

{an ordinary, dynamic cc_test; a static one; one that links //:pyhold_shared; two
cc_shared_library; a module} x {unoptimized with gcc, -c opt with clang}.
"""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent  # the checkout: this is a link

CONFIGURATIONS = {
    "gcc": [],
    "clang": ["-c", "opt", "--repo_env=CC=clang"],
}
TESTS = {
    "dynamic_test": "1 cores, 2 layers",
    "static_test": "1 cores, 1 layers",
    "sharing_test": "1 cores, 1 layers",
}


@unittest.skipUnless(shutil.which("bazel"), "no bazel here")
class BazelTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()

    @classmethod
    def tearDownClass(cls):
        cls.bazel("shutdown", options=[])
        subprocess.run(["chmod", "-R", "u+w", cls.temporary.name], check=False)
        cls.temporary.cleanup()

    @classmethod
    def bazel(cls, command, *words, options=None):
        """Bazel with a server and files of its own, whatever runs this test."""
        if options is None:
            options = ["--color=no", "--curses=no", "--noshow_progress", "--symlink_prefix=/",
                       "--test_env=PYTHON_BIN_PATH"]
            if pathlib.Path("/usr/share/bazel/rules").exists():
                options.append("--config=offline")
        done = subprocess.run(
            ["bazel", "--nohome_rc", "--noworkspace_rc", f"--bazelrc={ROOT}/.bazelrc",
             f"--output_user_root={cls.temporary.name}", "--max_idle_secs=60", command, *options, *words],
            cwd=ROOT / "tests/consumer", text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={"HOME": cls.temporary.name, "USER": "nobody",
                 **{n: os.environ[n] for n in ("PATH", "PYTHON_BIN_PATH") if n in os.environ}})
        if done.returncode != 0:
            raise AssertionError(done.stdout)
        return done.stdout

    def test_every_way_works_and_has_the_copies_it_should(self):
        for name, options in CONFIGURATIONS.items():
            with self.subTest(name):
                self.bazel("test", "//...", *options)
                logs = pathlib.Path(self.info("bazel-testlogs", options))
                made = pathlib.Path(self.info("bazel-bin", options))
                for test, said in TESTS.items():
                    log = (logs / test / "test.log").read_text()
                    print(f"{name:6}{test:14}", log.splitlines()[-1])
                    self.assertIn(f"ABI 1 and 1, {said}\n", log)
                libraries = [made / f"libpart_{part}_library.so" for part in "ab"]
                done = subprocess.run(
                    [made / "process", *[w for path in libraries for w in ("local", path)]],
                    text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                print(f"{name:6}{'libraries':14}", done.stdout, end="")
                self.assertEqual((done.returncode, done.stdout), (0, "ABI 1 and 1, 2 cores, 2 layers\n"))
                for binary in *libraries, made / "module.so", made / "static_test":
                    names = subprocess.run(["nm", "-D", binary], text=True, capture_output=True, check=True).stdout
                    self.assertEqual(re.findall(r".*(?:6pyhold\d|\b(?:pyhold|ph)_).*", names), [], binary)

    def info(self, what, options):
        return self.bazel("info", what, *options).splitlines()[-1]


if __name__ == "__main__":
    unittest.main(verbosity=2)
