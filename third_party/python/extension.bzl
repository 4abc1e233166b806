"""Bzlmod's way to the repository of repository.bzl."""

load(":repository.bzl", "python_repository")

def _python_impl(_ctx):
    python_repository(name = "pyhold_python")

python = module_extension(
    implementation = _python_impl,
    doc = "Makes @pyhold_python from the interpreter named by PYTHON_BIN_PATH.",
)
