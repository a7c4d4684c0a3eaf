cimport cython

from pybypass.c.path cimport pb_group, pb_path

@cython.final
cdef class Group:
    cdef pb_group *g
    cdef int join(self, pb_path *path, int member) except -1
