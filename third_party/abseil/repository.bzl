"""@com_google_absl from a distribution's package (Debian: libabsl-dev).

Labels are those of Abseil's own BUILD files, but each is the whole of Abseil:
all headers, and all shared libraries, of which the linker takes what is used.
A label that is missing here is added to _LABELS.
"""

_LABELS = {
    "absl/base": ["base", "core_headers", "no_destructor"],
    "absl/cleanup": ["cleanup"],
    "absl/container": ["flat_hash_map", "flat_hash_set"],
    "absl/flags": ["flag", "parse", "usage"],
    "absl/functional": ["function_ref"],
    "absl/log": ["absl_check", "absl_log", "check", "initialize", "log"],
    "absl/random": ["random"],
    "absl/status": ["status", "statusor"],
    "absl/strings": ["cord", "str_format", "string_view", "strings"],
    "absl/synchronization": ["synchronization"],
    "absl/time": ["time"],
    "absl/types": ["optional", "span"],
}

_BUILD = """\
cc_library(
    name = "absl",
    hdrs = glob(["include/absl/**/*.h", "include/absl/**/*.inc"]),
    includes = ["include"],
    linkopts = {linkopts},
    visibility = ["//:__subpackages__"],
)
"""

_ALIAS = """\
alias(
    name = "{name}",
    actual = "//:absl",
    visibility = ["//visibility:public"],
)
"""

def _distribution_abseil_impl(ctx):
    listing = ctx.execute(["sh", "-c", "ls /usr/lib/*/libabsl_*.so /usr/lib/libabsl_*.so"])
    libraries = [line.split("/")[-1] for line in listing.stdout.splitlines()]
    if not libraries or not ctx.path("/usr/include/absl").exists:
        fail("Abseil is not installed (on Debian: apt-get install libabsl-dev)")
    ctx.symlink("/usr/include/absl", "include/absl")
    ctx.file("BUILD.bazel", _BUILD.format(
        linkopts = ["-Wl,--push-state,--as-needed"] +
                   ["-l:" + library for library in libraries] +
                   ["-Wl,--pop-state"],
    ))
    for package, names in _LABELS.items():
        # In Abseil's manner //absl/random is //absl/random:random.
        ctx.file(package + "/BUILD.bazel", "\n".join([_ALIAS.format(name = name) for name in names]))

distribution_abseil = repository_rule(
    implementation = _distribution_abseil_impl,
    local = True,
    doc = "Abseil's labels over the installed headers and shared libraries.",
)
