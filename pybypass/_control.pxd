from pybypass._core cimport Core


cdef class Control(Core):
    pass
