"""Bzlmod's way to the libraries of repository.bzl."""

load(":repository.bzl", _arrow = "arrow", _peers = "peers")

def _peers_impl(_ctx):
    _peers()

peers = module_extension(
    implementation = _peers_impl,
    doc = "Makes @pyhold_pybind11 and @pyhold_nanobind from what is installed.",
)

def _arrow_impl(_ctx):
    _arrow()

arrow = module_extension(
    implementation = _arrow_impl,
    doc = "Makes @pyhold_arrow from what is installed.",
)
