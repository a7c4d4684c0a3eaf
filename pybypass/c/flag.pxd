# csrc/base/flag.h
cdef extern from "base/flag.h" nogil:
    bint pb_flag_try(int *f)
    void pb_flag_take(int *f)
    void pb_flag_drop(int *f)
    int *pb_call_depth()
