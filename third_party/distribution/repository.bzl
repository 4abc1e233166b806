"""Libraries as a distribution installs them, for //bench."""

_BUILD = """\
cc_library(
    name = "{target}",
    hdrs = glob({globs}, allow_empty = True),
    textual_hdrs = glob(["src/**"], allow_empty = True),
    includes = {includes},
    linkopts = {linkopts},
    visibility = ["//visibility:public"],
)
"""

_MISSING = """\
load("{this_file}", "missing")

missing(
    name = "{target}",
    message = "{message}",
    visibility = ["//visibility:public"],
)
"""

def _distribution_library_impl(ctx):
    directory = ctx.path(ctx.attr.include)
    if ctx.attr.required != "never" and not directory.get_child(ctx.attr.headers).exists:
        message = "no %s/%s (on Debian: apt-get install %s)" % (directory, ctx.attr.headers, ctx.attr.package)
        if ctx.attr.required == "always":
            fail(message)
        ctx.file("BUILD.bazel", _MISSING.format(
            this_file = Label("//third_party/python:repository.bzl"),
            target = ctx.attr.target,
            message = message,
        ))
        return
    for headers in [ctx.attr.headers] + ctx.attr.more_headers:
        ctx.symlink(directory.get_child(headers), "include/" + headers)
    if ctx.attr.sources:
        ctx.symlink(ctx.attr.sources, "src")
    ctx.file("BUILD.bazel", _BUILD.format(
        target = ctx.attr.target,
        globs = ["include/**/*.h"],
        includes = ["include"] + (["src"] if ctx.attr.sources else []),
        linkopts = ctx.attr.linkopts,
    ))

distribution_library = repository_rule(
    implementation = _distribution_library_impl,
    attrs = {
        "target": attr.string(mandatory = True),
        "include": attr.string(default = "/usr/include"),
        "headers": attr.string(mandatory = True, doc = "a folder of `include`"),
        "more_headers": attr.string_list(doc = "more folders of `include`"),
        "sources": attr.string(doc = "a folder of sources that users include"),
        "linkopts": attr.string_list(),
        "package": attr.string(mandatory = True, doc = "Debian's name for it"),
        "required": attr.string(
            default = "always",
            values = ["always", "when_used", "never"],
            doc = "when it is an error that it is missing; else it is empty",
        ),
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
        required = "never",
    )
    distribution_library(
        name = "pyhold_nanobind",
        target = "nanobind",
        headers = "nanobind",
        include = "/usr/share/nanobind/include",
        sources = "/usr/share/nanobind/src",
        package = "nanobind-dev",
        required = "never",
    )

def arrow():
    """Arrow, with Parquet: the default of //:arrow_headers. It need not be there until it is used."""
    distribution_library(
        name = "pyhold_arrow",
        target = "arrow",
        headers = "arrow",
        more_headers = ["parquet"],
        linkopts = [
            "-lparquet",
            "-larrow",
        ],
        package = "libarrow-dev libparquet-dev",
        required = "when_used",
    )
