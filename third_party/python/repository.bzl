"""@pyhold_python: the headers and the libpython of one interpreter.

The interpreter is the one named by the environment variable PYTHON_BIN_PATH,
else python3. It is asked through its own sysconfig. Targets:

    :headers  for extension modules and for the library: no libpython
    :embed    headers and the shared libpython, for programs that embed Python

What an interpreter lacks is an error only for the target that needs it.
"""

_ASK = """
import json, os, sys, sysconfig
get = sysconfig.get_config_var
libdirs = [get("LIBDIR") or "", os.path.join(sys.base_prefix, "lib")]  # the second if it was moved
print(json.dumps({
    "version": "%d.%d" % sys.version_info[:2],
    "abiflags": sys.abiflags,
    "includes": sorted({sysconfig.get_path("include"), sysconfig.get_path("platinclude")}),
    "shared": bool(get("Py_ENABLE_SHARED")),
    "libdirs": [d for d in libdirs if os.path.exists(os.path.join(d, get("LDLIBRARY") or ""))],
    "library": get("LDLIBRARY") or "",
}))
"""

_BUILD = """\
# {python}: CPython {version}{abiflags}
load("{this_file}", "missing")

package(default_visibility = ["//visibility:public"])

"""

_HEADERS = """\
cc_library(
    name = "headers",
    hdrs = glob({globs}),
    includes = {includes},
)

"""

_EMBED = """\
cc_library(
    name = "embed",
    linkopts = {linkopts},
    deps = [":headers"],
)
"""

_MISSING = """\
missing(
    name = "{name}",
    message = "{message}",
)

"""

def _missing_impl(ctx):
    fail(ctx.attr.message)

missing = rule(
    implementation = _missing_impl,
    attrs = {"message": attr.string(mandatory = True)},
    doc = "Stands for a target that cannot be made, and says why when it is used.",
)

def _python_repository_impl(ctx):
    name = ctx.os.environ.get("PYTHON_BIN_PATH") or "python3"
    python = name if name.startswith("/") else ctx.which(name)
    if not python:
        fail("no Python interpreter '%s' found; set PYTHON_BIN_PATH" % name)
    asked = ctx.execute([python, "-I", "-c", _ASK])
    if asked.return_code != 0:
        fail("'%s' (PYTHON_BIN_PATH) is no working Python 3: %s" % (python, asked.stderr))
    info = json.decode(asked.stdout)

    # Debian's names, as the most likely help.
    package = "libpython%s-%s" % (info["version"], "dbg" if "d" in info["abiflags"] else "dev")
    help = "(on Debian: apt-get install %s); PYTHON_BIN_PATH names another interpreter" % package
    build = _BUILD.format(
        python = python,
        version = info["version"],
        abiflags = info["abiflags"],
        this_file = Label("//third_party/python:repository.bzl"),
    )

    includes = []
    for i, directory in enumerate(info["includes"]):
        ctx.symlink(directory, "include%d" % i)
        includes.append("include%d" % i)
    if ctx.path("include0/Python.h").exists:
        build += _HEADERS.format(
            globs = [directory + "/**/*.h" for directory in includes],
            includes = includes,
        )
    else:
        build += _MISSING.format(
            name = "headers",
            message = "%s has no headers: no %s/Python.h %s" % (python, info["includes"][0], help),
        )

    if info["shared"] and info["libdirs"]:
        # rpath: the library may lie where the loader does not look.
        directory = info["libdirs"][0]
        build += _EMBED.format(linkopts = [
            "-L" + directory,
            "-Wl,-rpath," + directory,
            "-l:" + info["library"],
        ])
    else:
        build += _MISSING.format(
            name = "embed",
            message = "%s has no shared libpython to link with %s" % (python, help),
        )
    ctx.file("BUILD.bazel", build)

python_repository = repository_rule(
    implementation = _python_repository_impl,
    environ = ["PATH", "PYTHON_BIN_PATH"],
    configure = True,
    local = True,
    doc = "Makes :headers and :embed of the interpreter named by PYTHON_BIN_PATH.",
)
