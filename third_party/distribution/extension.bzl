"""Bzlmod's way to the peers of repository.bzl."""

load(":repository.bzl", _peers = "peers")

def _peers_impl(_ctx):
    _peers()

peers = module_extension(
    implementation = _peers_impl,
    doc = "Makes @pyhold_pybind11 and @pyhold_nanobind from what is installed.",
)
