//! A virtual rack of QEMU machines.
