"""For repositories with a WORKSPACE file; MODULE.bazel says the same for others.

    local_repository(name = "pyhold", path = "third_party/pyhold")
    load("@pyhold//:dependencies.bzl", "pyhold_dependencies")
    pyhold_dependencies()

@pyhold//:absl and @pyhold//:arrow need @com_google_absl and Arrow's headers, which
are yours to name. rules_cc must be 0.0.10 or newer.
"""

load("//third_party/distribution:repository.bzl", "arrow")
load("//third_party/python:repository.bzl", "python_repository")

def pyhold_dependencies():
    """The defaults of pyhold's flags, each unless you have a repository of that name."""
    if not native.existing_rule("pyhold_python"):
        python_repository(name = "pyhold_python")
    if not native.existing_rule("pyhold_arrow"):
        arrow()
