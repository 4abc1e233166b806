#!/usr/bin/env python3
"""tools/pyhold_migrate: what it lists, what it rewrites, and that it leaves all else alone."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).parent.absolute()
ROOT = HERE.parent.parent
TOOL = ROOT / "tools" / "pyhold_migrate"

# Plain pairs: what it is, the file's suffix, before, after. The view is `view`.
PLAIN = [
    ("a function in C", ".c",
     """\
#include <Python.h>

static void callback(void *arg) {
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject_CallNoArgs(arg);
    PyGILState_Release(gil);
}
""",
     """\
#include <Python.h>
#include <pyhold/pep788.h>

static void callback(void *arg) {
    PyThreadStateToken *gil = PyThreadState_EnsureFromView(view);
    if (gil == NULL) return;
    PyObject_CallNoArgs(arg);
    PyThreadState_Release(gil);
}
"""),
    ("a function in C++", ".cc",
     """\
#include <Python.h>

#include <string>  // for names

namespace spam {
void Foo::Bar(const std::string& arg) const {
  PyGILState_STATE gil = PyGILState_Ensure();
  PyObject *a = nullptr, *b = nullptr;
  const char* text = arg.c_str();
  Py_ssize_t size = 0;
  std::string copy = arg;
  int n{3}; unsigned long m = 4;
  Call(a, b, text, size, n * m);
  PyGILState_Release(gil);
}
}  // namespace spam
""",
     """\
#include <Python.h>
#include <pyhold/pyhold.h>

#include <string>  // for names

namespace spam {
void Foo::Bar(const std::string& arg) const {
  pyhold::ThreadStateGuard gil(view);
  if (!gil) return;
  PyObject *a = nullptr, *b = nullptr;
  const char* text = arg.c_str();
  Py_ssize_t size = 0;
  std::string copy = arg;
  int n{3}; unsigned long m = 4;
  Call(a, b, text, size, n * m);
}
}  // namespace spam
"""),
    ("declared, then assigned; the rest of the line is kept", ".cpp",
     """\
#include <Python.h>
// why
void f() noexcept
{
\tPyGILState_STATE s;
\ts = PyGILState_Ensure();  // attach
\twork();
\tPyGILState_Release(s);  // detach
}
""",
     """\
#include <Python.h>
#include <pyhold/pyhold.h>
// why
void f() noexcept
{
\tpyhold::ThreadStateGuard s(view);
\tif (!s) return;  // attach
\twork();
\t// detach
}
"""),
    ("lambdas, each on one line", ".cc",
     """\
#include <Python.h>
auto a = [] { PyGILState_STATE s = PyGILState_Ensure(); work(); PyGILState_Release(s); };
auto b = [&](int n) mutable -> void { if (n) return; PyGILState_STATE s = PyGILState_Ensure();
  work(); PyGILState_Release(s); return; };
""",
     """\
#include <Python.h>
#include <pyhold/pyhold.h>
auto a = [] { pyhold::ThreadStateGuard s(view); if (!s) return; work(); };
auto b = [&](int n) mutable -> void { if (n) return; pyhold::ThreadStateGuard s(view); if (!s) return;
  work(); return; };
"""),
    ("the guard before it stays", ".c",
     """\
#include <Python.h>
void f(void) {
  if (Py_IsFinalizing()) return;
  PyGILState_STATE s = PyGILState_Ensure();
  Py_BEGIN_ALLOW_THREADS
  work();
  Py_END_ALLOW_THREADS
  PyGILState_Release(s);
  return;
}
""",
     """\
#include <Python.h>
#include <pyhold/pep788.h>
void f(void) {
  if (Py_IsFinalizing()) return;
  PyThreadStateToken *s = PyThreadState_EnsureFromView(view);
  if (s == NULL) return;
  Py_BEGIN_ALLOW_THREADS
  work();
  Py_END_ALLOW_THREADS
  PyThreadState_Release(s);
  return;
}
"""),
    ("what stays before it in C", ".c",
     """\
#include <Python.h>
void f(void *arg, int n) {
  struct data *d = (struct data *)arg, *other = (struct data *)(arg);
  int sizes[2] = {sizeof(*d), n + d->n}, m;
  const char *code = "lock (1)";
  (void)m;
  assert(d != NULL);
  if (!Py_IsInitialized() || n == 0) { return; }
  PyGILState_STATE s = PyGILState_Ensure();
  work(d, other, code);
  PyGILState_Release(s);
}
""",
     """\
#include <Python.h>
#include <pyhold/pep788.h>
void f(void *arg, int n) {
  struct data *d = (struct data *)arg, *other = (struct data *)(arg);
  int sizes[2] = {sizeof(*d), n + d->n}, m;
  const char *code = "lock (1)";
  (void)m;
  assert(d != NULL);
  if (!Py_IsInitialized() || n == 0) { return; }
  PyThreadStateToken *s = PyThreadState_EnsureFromView(view);
  if (s == NULL) return;
  work(d, other, code);
  PyThreadState_Release(s);
}
"""),
    ("what stays before it in C++, and known names between", ".cc",
     """\
#include <Python.h>
void f(void* arg, std::mutex& m) {
  std::lock_guard<std::mutex> lock(m);
  auto* data = static_cast<Data*>(arg);
  const std::string name{data->name};
  PyGILState_STATE s = PyGILState_Ensure();
  Py_buffer buffer; Py_ssize_t n = 0; PyObject_Holder* h = 0; PyConfig config;
  Work(name); work((data)); f(1); f(nullptr); f(SIGINT); Py_DECREF(global);
  PyGILState_Release(s);
}
""",
     """\
#include <Python.h>
#include <pyhold/pyhold.h>
void f(void* arg, std::mutex& m) {
  std::lock_guard<std::mutex> lock(m);
  auto* data = static_cast<Data*>(arg);
  const std::string name{data->name};
  pyhold::ThreadStateGuard s(view);
  if (!s) return;
  Py_buffer buffer; Py_ssize_t n = 0; PyObject_Holder* h = 0; PyConfig config;
  Work(name); work((data)); f(1); f(nullptr); f(SIGINT); Py_DECREF(global);
}
"""),
    ("a header for both languages, with a guard of its own", ".h",
     """\
#ifndef H_
#define H_
#include <Python.h>
#ifdef HAVE_X
#include <x.h>
#endif
#ifdef __cplusplus
extern "C" {
#endif
static inline void f(void) {
  PyGILState_STATE s = PyGILState_Ensure();
  PyGILState_Release(s);
}
#ifdef __cplusplus
}
#endif
#endif /* H_ */
""",
     """\
#ifndef H_
#define H_
#include <Python.h>
#include <pyhold/pep788.h>
#ifdef HAVE_X
#include <x.h>
#endif
#ifdef __cplusplus
extern "C" {
#endif
static inline void f(void) {
  PyThreadStateToken *s = PyThreadState_EnsureFromView(view);
  if (s == NULL) return;
  PyThreadState_Release(s);
}
#ifdef __cplusplus
}
#endif
#endif /* H_ */
"""),
    ("a header of C++, which includes pyhold already", ".h",
     """\
#pragma once
#include "pyhold/pyhold.h"
template <typename T> void f(T n) {
  const PyGILState_STATE s = PyGILState_Ensure();
  if (n) { Thing inner; } else { work<T>(n); }
  PyGILState_Release(s);
}
""",
     """\
#pragma once
#include "pyhold/pyhold.h"
template <typename T> void f(T n) {
  pyhold::ThreadStateGuard s(view);
  if (!s) return;
  if (n) { Thing inner; } else { work<T>(n); }
}
"""),
]


def run(*args, cwd=None, tool=TOOL):
    return subprocess.run([sys.executable, str(tool), *map(str, args)], cwd=cwd,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)


class MigrateTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    def file(self, name, content):
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def fix(self, path, view="view"):
        result = run("--fix", "--view", view, path)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result

    def check_fix(self, before, after, suffix=".c", view="view"):
        path = self.file("source" + suffix, before)
        result = self.fix(path, view)
        self.assertEqual(path.read_bytes(), after if isinstance(after, bytes) else after.encode(),
                         result.stderr)
        return result

    def check_refusal(self, text, reason, suffix=".c", view="view"):
        self.assertIn(reason, self.check_fix(text, text, suffix, view).stderr.decode())

    # --- What it rewrites ---

    def test_plain_pairs_are_rewritten(self):
        for name, suffix, before, after in PLAIN:
            with self.subTest(name):
                listed = run(self.file("source" + suffix, before)).stdout.decode()
                self.assertIn("--fix rewrites it", listed)
                self.check_fix(before, after, suffix)

    def test_second_run_changes_nothing(self):
        for name, suffix, before, after in PLAIN:
            with self.subTest(name):
                result = self.check_fix(after, after, suffix)
                self.assertEqual(result.stdout, b"")
                self.assertIn(b"0 rewritten in 0 files", result.stderr)

    def test_all_of_the_programs_is_rewritten(self):
        for name, count in ("plain.c", 3), ("plain.cc", 6):
            path = self.folder / name
            shutil.copyfile(HERE / name, path)
            result = self.fix(path)
            self.assertIn(b"%d rewritten in 1 files, 0 left" % count, result.stderr)
            self.assertNotIn(b"PyGILState_", path.read_bytes())

    def test_several_pairs_get_one_include(self):
        pair = "void f%d(void) {\n  PyGILState_STATE s = PyGILState_Ensure();\n" \
               "  PyGILState_Release(s);\n}\n"
        path = self.file("a.cc", "#include <Python.h>\n" + pair % 1 + pair % 2)
        self.assertIn(b"2 rewritten in 1 files", self.fix(path).stderr)
        self.assertEqual(path.read_text().count("#include <pyhold/pyhold.h>"), 1)
        path.write_text(path.read_text() + pair % 3)
        self.assertIn(b"1 rewritten in 1 files", self.fix(path).stderr)
        self.assertEqual(path.read_text().count("#include <pyhold/pyhold.h>"), 1)

    def test_inner_pair_stays_rewritten_alone(self):
        # The outer pair must not become plain by what was done to the inner one.
        text = """\
#include <Python.h>
void f() {
  PyGILState_STATE outer = PyGILState_Ensure();
  Run([] {
    PyGILState_STATE inner = PyGILState_Ensure();
    PyGILState_Release(inner);
  });
  PyGILState_Release(outer);
}
"""
        path = self.file("a.cc", text)
        self.assertIn(b"1 rewritten", self.fix(path).stderr)
        once = path.read_bytes()
        self.assertIn(b"PyGILState_STATE outer", once)
        self.fix(path)
        self.assertEqual(path.read_bytes(), once)

    def test_bytes_and_line_ends_are_kept(self):
        for end in b"\n", b"\r\n":
            before = end.join([b"#include <Python.h>", b"/* caf\xe9 \x85 \x0c */", b"void f(void) {",
                               b"  PyGILState_STATE s = PyGILState_Ensure();",
                               b'  puts("\xff\xfe");', b"  PyGILState_Release(s);", b"}"])
            after = end.join([b"#include <Python.h>", b"#include <pyhold/pyhold.h>",
                              b"/* caf\xe9 \x85 \x0c */", b"void f(void) {",
                              b"  pyhold::ThreadStateGuard s(view);", b"  if (!s) return;",
                              b'  puts("\xff\xfe");', b"}"])
            self.check_fix(before, after, ".cc")  # no newline at the end
            self.check_fix(before + end, after + end, ".cc")
            self.check_fix(b"\xef\xbb\xbf" + before, b"\xef\xbb\xbf" + after, ".cc")

    def test_permissions_are_kept(self):
        for mode in 0o640, 0o755:
            path = self.file("a.c", PLAIN[0][2])
            path.chmod(mode)
            self.fix(path)
            self.assertEqual(path.stat().st_mode & 0o7777, mode)
            self.assertEqual(os.listdir(self.folder), ["a.c"])

    def test_named_link_is_followed(self):
        path = self.file("a.c", PLAIN[0][2])
        link = self.folder / "link.c"
        link.symlink_to(path)
        self.fix(link)
        self.assertTrue(link.is_symlink())
        self.assertEqual(path.read_text(), PLAIN[0][3])

    @unittest.skipUnless(shutil.which("patch"), "no patch")
    def test_diff_is_one_that_patch_undoes(self):
        before = b"#include <Python.h>\r\nvoid f() {\n\tPyGILState_STATE s = PyGILState_Ensure();\n" \
                 b"\tPyGILState_Release(s); }\n// \xe9, no newline at the end"
        path = self.file("a.cc", before)
        result = run("--fix", "--view", "view", "a.cc", cwd=self.folder)
        self.assertNotEqual(path.read_bytes(), before)
        subprocess.run(["patch", "-R", "-p0", "--binary"], cwd=self.folder, input=result.stdout,
                       stdout=subprocess.DEVNULL, check=True)
        self.assertEqual(path.read_bytes(), before)

    def test_view_with_a_call_does_not_declare_a_function(self):
        path = self.file("a.cc", PLAIN[1][2])
        self.fix(path, "pyhold::InterpreterView(other)")
        self.assertIn("ThreadStateGuard gil{pyhold::InterpreterView(other)};", path.read_text())

    # --- What it leaves alone ---

    def test_awkward_tree_is_listed_with_reasons(self):
        shutil.copytree(HERE / "awkward", self.folder / "awkward")  # Bazel gives links
        result = run("awkward", cwd=self.folder)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stdout.decode(), (HERE / "awkward.txt").read_text())
        for line in result.stdout.decode().splitlines()[:-1]:
            if "PyGILState_Ensure" in line or "PyGILState_Release" in line:
                self.assertRegex(line, "; not rewritten: .")

    def test_awkward_tree_is_not_changed(self):
        shutil.copytree(HERE / "awkward", self.folder / "awkward")
        for view in "view", "*spam->view()":
            result = run("--fix", "--view", view, "awkward", cwd=self.folder)
            self.assertEqual(result.returncode, 0)
            self.assertEqual(result.stdout, b"")
            expected = (HERE / "awkward.txt").read_text().splitlines()[:-1]
            self.assertEqual(result.stderr.decode().splitlines()[:-1], expected)
        for path in (HERE / "awkward").iterdir():
            self.assertEqual((self.folder / "awkward" / path.name).read_bytes(), path.read_bytes())

    def test_awkward_functions_would_be_plain_without_what_is_awkward(self):
        # So it is the reason given that keeps them, and not something else about the files.
        plain = "\nvoid plain(void) {\n  PyGILState_STATE s = PyGILState_Ensure();\n" \
                "  PyGILState_Release(s);\n}\n"
        for name in "jumps.c", "shapes.c", "cplusplus.cc", "classes.cc", "hidden.c":
            path = self.file(name, (HERE / "awkward" / name).read_text() + plain)
            self.assertIn(b"1 rewritten", self.fix(path).stderr, name)

    def test_refusals_that_need_a_view_or_bytes(self):
        pair = "#include <Python.h>\nvoid f(void) {\n  PyGILState_STATE s = PyGILState_Ensure();\n" \
               "%s  PyGILState_Release(s);\n}\n"
        self.check_refusal(pair % "", "s of --view stands in its function", view="job(s)")
        self.check_refusal(pair % "  Thing t; // \xe9\n", "`Thing t` may declare", ".cc")
        self.check_refusal((pair % "  if (x) return;\n").replace("\n", "\r\n"), "return stands")
        self.check_refusal((pair % "").replace("#include", "#if 1\n#include") + "#endif\n",
                           "Python.h is not included before it, outside of #if")
        self.check_refusal((pair % "  char c = '\n';\n"), "has no end")
        self.check_refusal((pair % "/*"), "has no end")
        self.check_refusal((pair % "").replace("void f", "extern \"C\" {\nvoid f", 1), "balance", ".cc")
        self.check_refusal((pair % "").replace("#include <Python.h>", "extern \"C\" {\n"
                           "#include <Python.h>\n}"), "outside of #if and blocks", ".cc")
        self.check_refusal("#include <Python.h>\n#define PyGILState_Ensure mine\n"
                           + (pair % ""), "is a macro of this file")

    def test_names_of_the_view_that_the_function_has_are_not_taken_for_it(self):
        text = "#include <Python.h>\nvoid f(%s) {\n  %s\n  PyGILState_STATE s = " \
               "PyGILState_Ensure();\n  %s\n  PyGILState_Release(s);\n}\n"
        for parts in (("struct ctx *view", "", ""), ("int n", "int view = n;", ""),
                      ("int n", "", "int view = n;"), ("int view", "", "")):
            for view in "view", "*view", "other->a(view)", "view->a":
                self.check_refusal(text % parts, "view of --view stands in its function", view=view)
        self.check_refusal("#include <Python.h>\nvoid f(View* view) {\n  Run([=] { PyGILState_STATE s"
                           " = PyGILState_Ensure(); PyGILState_Release(s); });\n}\n",
                           "view of --view stands in its function", ".cc")
        path = self.file("a.cc", text % ("Job* job", "", "job->view = this->view + view::n;"))
        self.assertIn(b"1 rewritten", self.fix(path, "view").stderr)
        path = self.file("a.cc", text % ("Job* pyhold_view, int n", "", "this->f(n); spam::f(n);"))
        self.assertIn(b"1 rewritten", self.fix(path, "this->n(spam::view)").stderr)

    def test_include_goes_only_where_python_is_included(self):
        pair = "void f(void) {\n  PyGILState_STATE s = PyGILState_Ensure();\n" \
               "  PyGILState_Release(s);\n}\n"
        new = "#include <pyhold/pep788.h>\n"
        in_if = "Python.h is not included before it, outside of #if"
        for before, after in [
                ("#include <a.h>\n#define PY_SSIZE_T_CLEAN\n#include \"Python.h\"\n",
                 "#include <b.h>\n#if B\n#include <c.h>\n#endif\n"),
                ("#include <python3/Python.h>\n", "#if A\n#include <b.h>\n#endif\n"),
                ("#if A\n#include <Python.h>\n#endif\n#include <Python.h>\n", ""),
                ("#include <a.h>\n#include \"all.h\"\n", ""),
                ("#define PY_SSIZE_T_CLEAN\n#include \"all.h\"\n", "#define B\n")]:
            path = self.file("a.c", before + after + pair)
            self.fix(path)
            self.assertTrue(path.read_text().startswith(before + new + after), path.read_text())
        for text, reason in [
                ("#include <a.h>\n#ifdef PY\n#define PY_SSIZE_T_CLEAN\n#include <Python.h>\n"
                 + pair + "#endif\n", in_if),
                ("#include <a.h>\n#ifdef PY\n#include <Python.h>\n#endif\n" + pair, in_if),
                ("#include <a.h>\n" + pair + "#include <Python.h>\n", in_if),
                ("#include <a.h>\n#ifdef PY\n#include \"py.h\"\n#endif\n" + pair,
                 "no #include outside of #if"),
                ("#include <a.h>\n#ifdef PY\n" + pair + "#endif\n", "it stands in #if"),
                ("#include <a.h>\n#define PY_SSIZE_T_CLEAN\n" + pair, "PY_SSIZE_T_CLEAN is defined"),
                (pair, "no #include outside of #if")]:
            self.check_refusal(text, reason)

    def test_raw_strings_are_strings_in_cplusplus_only(self):
        text = '#include <Python.h>\nconst char *s = R"(\nvoid f(void) {\n' \
               'PyGILState_STATE s = PyGILState_Ensure(); " )";\n'
        self.check_fix(text, text, ".cc")
        self.assertEqual(run(self.file("a.cc", text)).stdout,
                         b"0 found in 0 files; --fix rewrites 0\n")
        self.assertIn(b"PyGILState_Ensure", run(self.file("a.c", text)).stdout)

    def test_classes_are_found_across_files(self):
        (self.folder / "sub").mkdir()
        self.file("gil.h", "class Gil { public: Gil(); ~Gil(); PyGILState_STATE s; };\n")
        self.file("gil.cc", "Gil::Gil() { s = PyGILState_Ensure(); }\n"
                            "Gil::~Gil() { PyGILState_Release(s); }\n")
        self.file("sub/use.cpp", "int use() { Gil gil; return 1; }\nvoid no(Other& o) { o.Gil(); }\n")
        self.file("sub/other.cc", "enum Gil { kOwn };\nvoid f(Gil gil);\n")
        listed = run(".", cwd=self.folder).stdout.decode().splitlines()
        self.assertEqual([re.match(r"\./[\w/.]+:\d+: .*?[,(]", line)[0] for line in listed[:-1]],
                         ["./gil.h:1: class Gil,", "./sub/use.cpp:1: Gil,"])

    def test_examples_are_listed_and_not_changed(self):
        root = pathlib.Path(__file__).resolve().parents[2]  # Bazel's copy of the tree has none
        if not (root / "examples").is_dir():
            self.skipTest("no examples here")
        before = {p: p.read_bytes() for p in root.glob("examples/**/*.*") if p.is_file()}
        result = run("examples", cwd=root)
        for path, content in before.items():
            self.assertEqual(path.read_bytes(), content)
        self.assertEqual(result.returncode, 0, result.stderr)
        text = result.stdout.decode()
        self.assertRegex(text, r"examples/from_gilstate.cc:\d+: .*--fix rewrites it")
        self.assertRegex(text, r"demo/demo.cc:\d+: .*it is released in more than one place")
        self.assertRegex(text, r"arrow/gilstate_file.h:\d+: class Gil,")

    # --- The command ---

    def test_wrong_arguments_are_said(self):
        path = self.file("a.c", PLAIN[0][2])
        for args, said in [
                (["--fix", path], "--fix needs --view EXPR: make a view"),
                (["--view", "view", path], "--view is for --fix"),
                (["--fix", "--view", "", path], "not an expression"),
                (["--fix", "--view", "a; b", path], "not an expression"),
                (["--fix", "--view", "a)(b", path], "not an expression"),
                (["--fix", "--view", "a, b", path], "not an expression"),
                (["--fix", "--view", "a /* b", path], "not an expression"),
                ([], "required: PATH")]:
            result = run(*args)
            self.assertEqual((result.returncode, result.stdout), (2, b""), args)
            self.assertIn(said, result.stderr.decode())
        self.assertEqual(path.read_text(), PLAIN[0][2])

    def test_help_is_there(self):
        result = run("--help")
        self.assertEqual(result.returncode, 0)
        self.assertIn(b"pyhold_migrate [--fix --view EXPR] PATH...", result.stdout)

    def test_problems_with_one_path_leave_the_others(self):
        good = self.file("good.c", PLAIN[0][2])
        binary = self.file("binary.c", b"\0\1PyGILState_Ensure()")
        text = self.file("notes.txt", "PyGILState_Ensure()")
        missing = self.folder / "missing.c"
        result = run("--fix", "--view", "view", missing, text, binary, good)
        self.assertEqual(result.returncode, 2)
        self.assertEqual(good.read_text(), PLAIN[0][3])
        for path, why in ((missing, "No such file"), (binary, "binary"), (text, "not a source")):
            self.assertRegex(result.stderr.decode(), "pyhold_migrate: %s: .*%s" % (path, why))
        self.assertNotIn(b"Traceback", result.stderr)

    def test_file_that_cannot_be_written_is_said(self):
        folder = self.folder / "locked"
        folder.mkdir()
        path = folder / "a.c"
        path.write_text(PLAIN[0][2])
        for lock, unlock in ((path, 0o644), (folder, 0o755)):
            lock.chmod(0o444 if lock == path else 0o555)
            if os.access(lock, os.W_OK):
                self.skipTest("root may write everything")
            result = run("--fix", "--view", "view", path)
            lock.chmod(unlock)
            self.assertEqual((result.returncode, result.stdout), (2, b""))
            self.assertIn(b"could not be written", result.stderr)
            self.assertEqual(path.read_text(), PLAIN[0][2])

    def test_folders_are_walked_without_git_and_links(self):
        for name in "src", ".git":
            (self.folder / name).mkdir()
            self.file(name + "/a.c", PLAIN[0][2])
        (self.folder / "linked").symlink_to(self.folder / "src")
        (self.folder / "link.c").symlink_to(self.folder / "src" / "a.c")
        result = run(".", "src/a.c", cwd=self.folder)
        self.assertEqual(result.stdout.decode().splitlines()[1:], [
            "1 found in 1 files; --fix rewrites 1"])
        self.assertTrue(result.stdout.startswith(b"./src/a.c:4: "))

    def test_pipe_that_closes_early_is_no_error(self):
        path = self.file("a.c", "void f(void) { PyGILState_Check(); }\n" * 100)
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing) as closed:
            result = subprocess.run([sys.executable, str(TOOL), str(path)], stdout=closed,
                                    stderr=subprocess.PIPE)
        self.assertEqual(result.stderr, b"")

    def test_long_files_take_no_ages(self):
        table = "{ 1, {2, 3} },\n" * 30000
        path = self.file("a.cc", "#include <Python.h>\nint table[][3] = {\n" + table + "};\n"
                         + "void f(int a, int b) { g(a < b, b > a); h((a)); }\n" * 5000
                         + PLAIN[0][2])
        result = subprocess.run([sys.executable, str(TOOL), str(path)], timeout=60,
                                stdout=subprocess.PIPE)
        self.assertIn(b"--fix rewrites 1", result.stdout)


if __name__ == "__main__":
    unittest.main()
