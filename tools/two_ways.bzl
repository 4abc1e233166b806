"""A library whose static form and whose dynamic form are compiled differently.

What Bazel links statically (binaries, extension modules, a cc_shared_library) gets
a copy with hidden symbols. Where Bazel gives each cc_library a shared library of
its own, as it does for an ordinary cc_test, all of them need one copy that exports
its symbols. A cc_library compiles both forms with the same flags.
"""

load("@rules_cc//cc:find_cc_toolchain.bzl", "find_cc_toolchain", "use_cc_toolchain")
load("@rules_cc//cc/common:cc_common.bzl", "cc_common")
load("@rules_cc//cc/common:cc_info.bzl", "CcInfo")

def _two_ways_impl(ctx):
    cc_toolchain = find_cc_toolchain(ctx)
    features = cc_common.configure_features(
        ctx = ctx,
        cc_toolchain = cc_toolchain,
        requested_features = ctx.features,
        unsupported_features = ctx.disabled_features,
    )
    libraries = []
    link_flags = []
    for linker_input in ctx.attr.static[CcInfo].linking_context.linker_inputs.to_list():
        link_flags.extend(linker_input.user_link_flags)
        for library in linker_input.libraries:
            libraries.append(cc_common.create_library_to_link(
                actions = ctx.actions,
                feature_configuration = features,
                cc_toolchain = cc_toolchain,
                static_library = library.static_library,
                pic_static_library = library.pic_static_library,
                dynamic_library = ctx.file.dynamic,
            ))
    if len(libraries) != 1:
        fail("'static' must be one library, without others that it needs")
    linking_context = cc_common.create_linking_context(linker_inputs = depset([
        cc_common.create_linker_input(
            owner = ctx.label,
            libraries = depset(libraries),
            user_link_flags = depset(link_flags),
        ),
    ]))
    return [
        DefaultInfo(files = ctx.attr.static[DefaultInfo].files),
        CcInfo(linking_context = linking_context),
    ]

two_ways = rule(
    implementation = _two_ways_impl,
    attrs = {
        "static": attr.label(mandatory = True, providers = [CcInfo]),
        "dynamic": attr.label(mandatory = True, allow_single_file = True),
    },
    fragments = ["cpp"],
    provides = [CcInfo],
    toolchains = use_cc_toolchain(),
)
