from pybypass._mem cimport Umem
from pybypass._port cimport Queue
from pybypass.c.path cimport *
from pybypass.c.types cimport uint64_t

cdef enum:
    ANY_SOCK = -1        # in place of a socket, for wait_until(): whatever happens,
    SLOWPATH_ONLY = -2   # or exceptions alone


cdef class Core:
    cdef pb_path *path
    cdef pb_chan *chan
    cdef pb_app *app
    cdef pb_loop *loop
    cdef readonly Queue queue
    cdef readonly Umem umem
    cdef readonly object slowpath   # called when exceptions wait and this thread drives the path
    cdef public uint64_t spin_ns
    cdef pb_tap tap
    cdef pb_trace_want traced
    cdef pb_path_report report      # the loop writes it: it must outlive a caller that gives up
    cdef pb_net_routes routes       # the loop reads it: likewise
    cdef object asking              # one call that wants an answer at a time
    cdef int pid
    cdef int users                  # threads inside a call that may release the GIL
    cdef bint closing
    cdef long long holds
    cdef object __weakref__
    cdef int furnish(self, list locals_, gw4, gw6, int vlan, const pb_app_config *acfg) except -1
    cdef void destroy(self) noexcept
    cdef pb_app *alive(self) except NULL
    cdef int enter(self) except -1
    cdef void leave(self) noexcept
    cdef int check_loop(self) except -1
    cdef int kick(self) except -1
    cdef int wait_until(self, int s, unsigned mask, uint64_t until) except -1
    cdef int ask(self, pb_cmd_op op, void *ptr) except -1
