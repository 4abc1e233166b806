"""A test that is a script; Bazel's sh_test, which newer Bazels have elsewhere."""

def _script_test_impl(ctx):
    program = ctx.actions.declare_file(ctx.label.name)
    ctx.actions.symlink(output = program, target_file = ctx.file.src, is_executable = True)
    return [DefaultInfo(
        executable = program,
        runfiles = ctx.runfiles(files = [ctx.file.src] + ctx.files.data),
    )]

script_test = rule(
    implementation = _script_test_impl,
    attrs = {
        "data": attr.label_list(allow_files = True),
        "src": attr.label(allow_single_file = True, mandatory = True),
    },
    test = True,
)
