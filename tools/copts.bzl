"""Compiler options of pyhold's own targets; users' targets do not get them."""

# clang also checks the lock annotations.
PYHOLD_COPTS = [
    "-Wall",
    "-Wextra",
    "-Werror",
] + select({
    "@rules_cc//cc/compiler:clang": ["-Wthread-safety"],
    "//conditions:default": [],
})

# Tests are held to the same.
PYHOLD_TEST_COPTS = PYHOLD_COPTS
