// For scripts of plain python3 that run code in subinterpreters.
#ifndef PYHOLD_TESTS_SUBINTERPRETER_SCRIPT_H_
#define PYHOLD_TESTS_SUBINTERPRETER_SCRIPT_H_

// Defines in_subinterpreter(code, config): runs `code` in a new interpreter that ends
// afterwards, and raises if `code` does. In `code` as in the script, here() is the
// interpreter's id. config is 'isolated', with a GIL of its own from 3.12 on, or
// 'legacy', which shares the main one's.
inline constexpr char kInSubinterpreter[] = R"(
here_code = '''
def here():
    try:
        import _interpreters
        return _interpreters.get_current()[0]
    except ImportError:
        import _xxsubinterpreters
        return int(_xxsubinterpreters.get_current())
'''
exec(here_code)
def in_subinterpreter(code, config='isolated'):
    try:
        import _interpreters
    except ImportError:
        import _xxsubinterpreters
        interpreter = _xxsubinterpreters.create(isolated=config == 'isolated')
        _xxsubinterpreters.run_string(interpreter, here_code + code)
        _xxsubinterpreters.destroy(interpreter)
        return
    interpreter = _interpreters.create(config)
    failure = _interpreters.exec(interpreter, here_code + code)
    _interpreters.destroy(interpreter)
    if failure is not None: raise RuntimeError(failure.errdisplay)
)";

#endif  // PYHOLD_TESTS_SUBINTERPRETER_SCRIPT_H_
