from pybypass._burst cimport Burst, Lender
from pybypass.c.dev cimport pb_dev


cdef class Queue(Lender):
    cdef pb_dev *dev          # NULL once closed, or while an engine has it
    cdef readonly str kind
    cdef readonly int index
    cdef readonly int mtu
    cdef readonly bytes mac
    cdef readonly int member      # which of the sockets of this queue
    cdef readonly int chain_max   # frames of the longest packet
    cdef readonly int tx_flags    # what may be asked for by descriptor flags
    cdef readonly bint tx_chains  # an engine may send a frame that the device has, behind another header
    cdef public dict report       # what the device granted
    cdef public object port_ref   # weak reference to the Port
    cdef public long long max_held
    cdef object user          # the engine that has the device
    cdef int lock             # one flag: guards dev and its cache against release from another thread
    cdef int busy
    cdef unsigned int forks   # pb_forks of the process that opened it
    cdef bint closed
    cdef object __weakref__
    cdef pb_dev *device(self) except NULL
    cdef pb_dev *take(self, object user) except NULL
    cdef int abandon(self) except -1
    cdef int untake(self, pb_dev *dev) except -1
