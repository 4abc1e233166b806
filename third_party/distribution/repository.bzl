"""Libraries as a distribution installs them, for //bench."""

_BUILD = """\
cc_library(
    name = "{target}",
    hdrs = glob({globs}, allow_empty = True),
    includes = {includes},
    linkopts = {linkopts},
    visibility = ["//visibility:public"],
)
"""

def _distribution_library_impl(ctx):
    directory = ctx.path(ctx.attr.include)
    if ctx.attr.required and not directory.get_child(ctx.attr.headers).exists:
        fail("no %s/%s (on Debian: apt-get install %s)" %
             (directory, ctx.attr.headers, ctx.attr.package))
    ctx.symlink(directory.get_child(ctx.attr.headers), "include/" + ctx.attr.headers)
    ctx.file("BUILD.bazel", _BUILD.format(
        target = ctx.attr.target,
        globs = ["include/**/*.h"],
        includes = ["include"],
        linkopts = ctx.attr.linkopts,
    ))

distribution_library = repository_rule(
    implementation = _distribution_library_impl,
    attrs = {
        "target": attr.string(mandatory = True),
        "include": attr.string(default = "/usr/include"),
        "headers": attr.string(mandatory = True, doc = "a folder of `include`"),
        "linkopts": attr.string_list(),
        "package": attr.string(mandatory = True, doc = "Debian's name for it"),
        "required": attr.bool(default = True, doc = "else it may be empty"),
    },
    local = True,
    doc = "One library that is installed on this machine.",
)

def peers():
    """What //bench compares pyhold with: headers only, and none of them must be there."""
    distribution_library(
        name = "pyhold_pybind11",
        target = "pybind11",
        headers = "pybind11",
        package = "pybind11-dev",
        required = False,
    )
    distribution_library(
        name = "pyhold_nanobind",
        target = "nanobind",
        headers = "nanobind",
        include = "/usr/share/nanobind/include",
        package = "nanobind-dev",
        required = False,
    )
