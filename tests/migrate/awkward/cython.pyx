# with gil: PyGILState_Ensure()
from cpython.pystate cimport PyGILState_Check
import sys

cdef void callback(void* arg) noexcept with gil:
    """Runs with gil."""
    if sys.is_finalizing():
        return
    (<object>arg)()

cdef void other() noexcept nogil:
    with  gil:
        print("with gil:", '# with gil')
    with nogil:
        pass
