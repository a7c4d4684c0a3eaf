# <stdlib.h>, <unistd.h>: what Cython's own libc does not have
cdef extern from "<stdlib.h>" nogil:
    void *aligned_alloc(size_t alignment, size_t size)

cdef extern from "<unistd.h>" nogil:
    int usleep(unsigned useconds)
