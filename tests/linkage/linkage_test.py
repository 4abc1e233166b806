#!/usr/bin/env python3
"""Every way to have pyhold in one process, twice: each works, with the copies it should have.

{a module and a library that it links; a module after another that was loaded with
RTLD_GLOBAL; a program and a shared library; two modules; two libraries that share
libpyhold.so} x {-O0, -Og, -O2, -O2 -flto} x {gcc, clang} x {both of one ABI number, or
not}. bazel_test.py has Bazel's ways.
"""

import concurrent.futures
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import unittest

# The checkout: Bazel runs this through a link.
HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PYTHON = os.environ.get("PYTHON_BIN_PATH", sys.executable)

FLAGS = {"O0": ["-O0"], "Og": ["-Og"], "O2": ["-O2"], "lto": ["-O2", "-flto"]}
COMPILERS = [(c, cxx) for c, cxx in [("gcc", "g++"), ("clang", "clang++")]
             if shutil.which(c) and shutil.which(cxx)]
# What is built once for each compiler: its flags do not matter to those who use it.
ONCE = ["-O2"]

# name: how the process is made (see Build), and how many cores it then has.
WAYS = {
    "module and library it links": (["process", "local", "{module}"], 2),
    "module after RTLD_GLOBAL": (["process", "global", "{b}", "local", "{a}"], 2),
    "program and library": (["program"], 2),
    "two modules": (["process", "local", "{a}", "local", "{b}"], 2),
    "libpyhold.so twice": (["process", "local", "{shared_a}", "local", "{shared_b}"], 1),
}


def ask(expression):
    return subprocess.run([PYTHON, "-I", "-c", f"import sysconfig; print({expression})"],
                          check=True, capture_output=True, text=True).stdout.strip()


INCLUDE = ask("sysconfig.get_path('include')")
LIBDIR = ask("sysconfig.get_config_var('LIBDIR')")
EMBED = [f"-L{LIBDIR}", f"-Wl,-rpath,{LIBDIR}",
         "-l:" + ask("sysconfig.get_config_var('LDLIBRARY')")]


def run(*command, check=True, **more):
    done = subprocess.run([str(c) for c in command], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, **more)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}\n{done.stdout}")
    return done


def build_core(folder, compiler, flags, abi, *more, include=INCLUDE):
    """The core's object files, with the README's command."""
    folder.mkdir(parents=True)
    run(compiler, *flags, "-std=c11", "-fPIC", "-c", *sorted((ROOT / "core/src").glob("*.c")),
        f"-I{ROOT}/core/include", f"-I{include}", f"-DPYHOLD_ABI_NUMBER={abi}", *more, cwd=folder)
    return sorted(folder.glob("*.o"))


class Build:
    """All that one compiler makes."""

    def __init__(self, pool, compiler, folder):
        self.c, self.cxx = compiler
        self.folder = folder
        folder.mkdir()
        self.jobs = {}
        for abi in 1, 2:
            # The second number is another core: its flags may be any.
            self.jobs["core", "once", abi] = pool.submit(
                build_core, folder / f"core-{abi}", self.c, ONCE, abi)
            self.jobs["libpyhold", abi] = pool.submit(self.build_shared, abi)
        for name, flags in FLAGS.items():
            if flags != ONCE:
                self.jobs["core", name, 1] = pool.submit(
                    build_core, folder / f"core-{name}", self.c, flags, 1)
        self.jobs["process"] = pool.submit(self.compile, "process.cc", "process.o", ONCE)
        self.jobs["program"] = pool.submit(self.compile, "process.cc", "program.o", ONCE, "-DHAS_PART_A")
        for name, flags in FLAGS.items():
            for part, abi, shared in [("a", 1, 0), ("b", 1, 0), ("b", 2, 0),
                                      ("a", 1, 1), ("b", 1, 1), ("b", 2, 1)]:
                self.jobs["part", name, part, abi, shared] = pool.submit(
                    self.compile, "part.cc", f"part-{name}-{part}{abi}{shared}.o", flags,
                    f"-DPART=part_{part}", f"-DPYHOLD_ABI_NUMBER={abi}",
                    *["-DPYHOLD_SHARED"] * shared)

    def compile(self, source, to, flags, *more):
        to = self.folder / to
        run(self.cxx, *flags, "-std=c++17", "-fPIC", "-c", HERE / source, "-o", to,
            f"-I{ROOT}/core/include", f"-I{ROOT}/cpp/include", f"-I{INCLUDE}", *more)
        return to

    def build_shared(self, abi):
        objects = build_core(self.folder / f"shared-core-{abi}", self.c, ONCE, abi,
                             "-DPYHOLD_BUILDING_SHARED")
        to = self.folder / f"libpyhold.so.{abi}"
        run(self.c, "-shared", *objects, f"-Wl,-soname,{to.name}", "-o", to)
        return to

    def get(self, *what):
        return self.jobs[what if len(what) > 1 else what[0]].result()

    def core(self, name, abi):
        once = abi == 2 or FLAGS[name] == ONCE
        return self.get("core", "once" if once else name, abi)

    def link(self, to, flags, *what):
        to = self.folder / to
        run(self.cxx, *flags, "-o", to, *what, f"-Wl,-rpath,{self.folder}", "-ldl", "-lpthread")
        return to

    def link_all(self, name, abi):
        """The binaries for one set of flags, the second part having this ABI number."""
        flags = FLAGS[name]
        end = f"{name}-{abi}"
        a = [self.get("part", name, "a", 1, 0), *self.core(name, 1)]
        b = [self.get("part", name, "b", abi, 0), *self.core(name, abi)]
        made = {
            "process": self.link(f"process-{end}", flags, self.get("process"), *EMBED),
            "a": self.link(f"a-{end}.so", flags, "-shared", *a),
            "b": self.link(f"b-{end}.so", flags, "-shared", *b),
            "shared_a": self.link(f"shared_a-{end}.so", flags, "-shared",
                                  self.get("part", name, "a", 1, 1), self.get("libpyhold", 1)),
            "shared_b": self.link(f"shared_b-{end}.so", flags, "-shared",
                                  self.get("part", name, "b", abi, 1), self.get("libpyhold", abi)),
        }
        made["module"] = self.link(f"module-{end}.so", flags, "-shared", *a,
                                   "-Wl,--no-as-needed", made["b"])
        made["program"] = self.link(f"program-{end}", flags, self.get("program"), *a, made["b"], *EMBED)
        return made


def ours(binary):
    """The symbols of pyhold that a binary shows, but for those that it wants from others.

    (The standard library's functions over C types, as std::exchange<pyhold_view*>, call
    nothing of ours, and may be anybody's.)
    """
    lines = run("nm", "-D", binary).stdout.splitlines()
    return [line for line in lines if re.search(r"6pyhold\d|\b(pyhold|ph)_", line) and " U " not in line]


class LinkageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.temporary.name)
        cls.pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 2)
        cls.builds = {c: Build(cls.pool, (c, cxx), cls.folder / c) for c, cxx in COMPILERS}

    @classmethod
    def tearDownClass(cls):
        cls.pool.shutdown(cancel_futures=True)
        cls.temporary.cleanup()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f"{used.ru_utime + used.ru_stime:.0f} s of processor time")

    def test_every_way_works_and_has_the_copies_it_should(self):
        rows, wrong = [], []
        for compiler, build in self.builds.items():
            for name in FLAGS:
                for abi in 1, 2:
                    made = build.link_all(name, abi)
                    for way, (command, cores) in WAYS.items():
                        cores = 2 if abi == 2 else cores
                        words = [w.format(**made) for w in command]
                        done = run(made[words[0]], *words[1:], check=False, timeout=60)
                        said = done.stdout.strip()
                        rows.append(f"{compiler:6}{name:4}{way:28}  {said}")
                        if done.returncode != 0 or said != f"ABI 1 and {abi}, {cores} cores, 2 layers":
                            wrong.append(f"{rows[-1]} (status {done.returncode})")
                    for what in "a", "b", "module", "program", "shared_a", "shared_b":
                        if shown := ours(made[what]):
                            wrong.append(f"{compiler} {name}: {made[what].name} shows {shown}")
        print("\n".join(rows))
        self.assertEqual(wrong, [])

    def test_the_shared_library_shows_nothing_but_its_functions(self):
        for compiler, build in self.builds.items():
            for abi in 1, 2:
                names = [line.split()[-1] for line in run("nm", "-D", "--defined-only", build.get(
                    "libpyhold", abi)).stdout.splitlines()]
                self.assertGreater(len(names), 40)
                self.assertEqual([n for n in names if not n.startswith(f"pyhold_v{abi}_")], [])

    def test_header_and_core_of_different_numbers_do_not_link(self):
        for compiler, build in self.builds.items():
            with self.assertRaisesRegex(AssertionError, "pyhold_v1_"):
                build.link("mixed", [], build.get("program"), build.get("part", "O0", "a", 1, 0),
                           *build.core("O0", 2), *EMBED)

    def refused(self, said, done):
        self.assertNotEqual(done.returncode, 0)
        self.assertRegex(done.stdout, f"pyhold: compiled for {said}: every use is refused")
        self.assertIn("a: 105", done.stdout)  # 100 - PYHOLD_EMISUSE

    def test_a_core_for_another_build_of_python_refuses(self):
        build = next(iter(self.builds.values()))
        made = build.link_all("O0", 1)
        command = [made["process"], "local", made["a"], "local", made["b"]]
        for flags, said in ("d", "debug"), ("t", "free-threaded"), ("td", "free-threaded debug"):
            done = run(*command, check=False, timeout=60, env={**os.environ, "PROCESS_ABIFLAGS": flags})
            if INCLUDE.endswith(flags):
                continue
            self.refused(f"CPython .*, but this is CPython [0-9.a-z]+ {said}", done)

    def test_a_core_for_another_python_refuses(self):
        here = pathlib.Path(INCLUDE)
        others = [p for p in here.parent.glob("python3.*[0-9]") if (p / "Python.h").exists() and p != here]
        build = next(iter(self.builds.values()))
        for other in sorted(others, reverse=True):
            objects = build_core(self.folder / f"for-{other.name}", build.c, ONCE, 1, include=other)
            made = build.link_all("O0", 1)
            a = build.link(f"a-for-{other.name}.so", [], "-shared", build.get("part", "O0", "a", 1, 0), *objects)
            done = run(made["process"], "local", a, "local", made["b"], check=False, timeout=60)
            if "undefined symbol" in done.stdout:
                continue  # the dynamic linker was first
            version = re.escape(other.name[len("python"):].rstrip("dt"))
            self.refused(f"CPython {version}.*, but this is CPython.*", done)
            return
        self.skipTest("no other Python's headers here, or none that loads")


if __name__ == "__main__":
    unittest.main(verbosity=2)
